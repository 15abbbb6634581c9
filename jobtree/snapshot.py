"""A look at a tree that does not disturb it: what commands show is read here.

What must hold
  - It never writes to the tree, and never makes the master wait: the database is opened read-only, everything that is
    wanted is read in one short transaction, the connection is closed, and only then does anybody format anything.
  - It costs the same for ten jobs and for ten million, because the master keeps counts by shape and nobody counts
    rows. The failures are as long as their list is, and are read only if they are asked for.

What it must cope with
  - A dead master leaves a write-ahead log that holds commits; reading takes it into account. SQLite wants to
    write its index of that log next to it; where it may not (a tree mounted read-only), a private copy is read instead.
  - On a network file system a running master has the database for itself (see ``jobtree.store``), so there is nothing
    to be read until it ends, and that is what is said.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import urllib.parse
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple, Optional

from jobtree import database, lock, treedir
from jobtree.errors import AnotherMaster, DamagedTree, JobTreeError, NotAJobTree, StorageError, UsageError
from jobtree.events import State
from jobtree.frames import Failure
from jobtree.paths import TreePaths
from jobtree.schema import FailureRow
from jobtree.treedir import Config

RUNNING = "running"
"""A master is at work on the tree."""
COMPLETE = "complete"
"""Every job is done; nothing will change any more."""
FAILED = "failed"
"""The run ended in order, and some jobs had been given up."""
STOPPED = "stopped"
"""The run ended in order before the tree did."""
INTERRUPTED = "interrupted"
"""The last master died, or its machine did."""

_PATIENCE_SECONDS = 2.0
"""How long another process may keep the database locked before we give up. Locally nobody ever does, but for the
moment in which the first one to come after a crash reads the log."""

_WHAT_NOW = (
    "Start the same command again: it changes nothing, and says what can be gone back to. See also: "
    "jobTreeStatus --check"
)

_COUNTS = "sum(ready), sum(issued), sum(blocked), sum(failed), sum(done)"
_CLASSES = (
    f"SELECT name, {_COUNTS}, sum(succeeded), sum(failures), sum(wall), sum(cpu_time), min(wall_min), max(wall_max), "
    "max(memory_max) FROM shapes GROUP BY name ORDER BY name"
)
# CROSS JOIN keeps SQLite from starting with the jobs, which may be millions.
_FAILURES = (
    "SELECT state, job, failures.attempt, name, kind, message, traceback, output, log_start, log_end, log, host, "
    "failures.bundle, moment FROM failures CROSS JOIN jobs ON jobs.id = failures.job ORDER BY moment, job"
)


class Counts(NamedTuple):
    """How many jobs are in each state."""

    ready: int = 0
    issued: int = 0
    blocked: int = 0
    failed: int = 0
    done: int = 0

    @property
    def left(self) -> int:
        """Jobs that are not done."""
        return self.ready + self.issued + self.blocked + self.failed


class TargetClass(NamedTuple):
    """The targets of one class: counts of their jobs by state, and what those that succeeded have used.

    Seconds and bytes; the smallest wall time is None while none has succeeded.
    """

    name: str
    counts: Counts
    succeeded: int
    failures: int
    wall: float
    cpu_time: float
    wall_min: Optional[float]
    wall_max: float
    memory_max: int


class MasterProcess(NamedTuple):
    """The process that runs a tree. started: seconds since 1970."""

    host: str
    pid: int
    started: float


class Snapshot(NamedTuple):
    """A tree at one moment.

    state is one of the words at the top of this module; master is set only while one runs. failed are the failures
    of jobs that were given up, retried those of jobs that are to be tried again or are just being (only if asked for).
    """

    root: str
    state: str
    master: Optional[MasterProcess]
    counts: Counts
    classes: tuple[TargetClass, ...]
    failed: tuple[FailureRow, ...] = ()
    retried: tuple[FailureRow, ...] = ()


def find(root: str) -> tuple[TreePaths, Config]:
    """The tree in a directory. Raises UsageError if there is none, and NotAJobTree if something else is there."""
    paths = TreePaths(os.path.abspath(root))
    config = treedir.read_config(paths)
    if config is not None:
        return paths, config
    if not os.path.lexists(paths.root):
        raise UsageError(
            f"{paths.root} does not exist. Give the directory that the run got as its --jobTree."
        )
    if lock.is_held(paths):
        raise UsageError(f"{paths.root} is just being made by a master. Try again in a moment.")
    raise NotAJobTree(
        f"{paths.root} holds no job tree: it is empty, or its making was interrupted before anything ran. Start the "
        "script that makes it."
    )


def take(paths: TreePaths, failures: bool = False) -> Snapshot:
    """Read a tree that ``find`` has found; failures: read the failed jobs as well.

    Raises StorageError, and AnotherMaster where a running master has the database for itself.
    """
    held = lock.is_held(paths)
    ended, classes, failed, retried = _read(paths, held, failures)
    counts = _total(kind.counts for kind in classes)
    # The lock and the database are not read in the same instant. Where they disagree (a lock and an end that was
    # written down, neither lock nor end), a master has come or gone meanwhile, and the lock as it is now tells which.
    if held == bool(ended):
        held = lock.is_held(paths)
    state = _state(held, ended, counts)
    master = _master(paths) if held else None
    return Snapshot(paths.root, state, master, counts, classes, failed, retried)


def _state(held: bool, ended: Optional[str], counts: Counts) -> str:
    if ended == "complete":
        # Even while a master is still tidying up: nothing about the jobs can change any more.
        return COMPLETE
    if held:
        return RUNNING
    if not ended:
        return INTERRUPTED
    return FAILED if counts.failed else STOPPED


def _master(paths: TreePaths) -> Optional[MasterProcess]:
    who = lock.owner(paths)
    if who is None:
        return None  # it has the lock and has not yet said who it is
    return MasterProcess(str(who["host"]), int(who["pid"]), float(who.get("started", 0.0)))


def _total(counts: Iterable[Counts]) -> Counts:
    rows = [(c.ready, c.issued, c.blocked, c.failed, c.done) for c in counts]
    return Counts(*map(sum, zip(*rows))) if rows else Counts()


# -- the database ----------------------------------------------------------------------------------------------

_Content = tuple[Optional[str], tuple[TargetClass, ...], tuple[FailureRow, ...], tuple[FailureRow, ...]]


def _read(paths: TreePaths, held: bool, failures: bool) -> _Content:
    if not os.path.exists(paths.database):
        raise DamagedTree(f"{paths.database} is gone. {_WHAT_NOW}")
    try:
        return _query(paths, failures)
    except UnicodeDecodeError as error:
        raise DamagedTree(f"{paths.database} is damaged: {error}. {_WHAT_NOW}") from error
    except sqlite3.Error as error:
        raise explained(paths, held, error) from error


@contextlib.contextmanager
def opened(paths: TreePaths) -> Iterator[sqlite3.Connection]:
    """A connection that reads the database, or a private copy of it where nothing can be written beside it.

    Raises sqlite3.Error, StorageError.
    """
    if os.access(paths.root, os.W_OK):
        connection = _connect(paths.database)
    else:
        try:
            connection = _connect(paths.database)
        except sqlite3.OperationalError:
            # There is no index of the log, and none can be made.
            with _private_copy(paths) as copy, contextlib.closing(_connect(copy)) as connection:
                yield connection
            return
    with contextlib.closing(connection):
        yield connection


@contextlib.contextmanager
def _private_copy(paths: TreePaths) -> Iterator[str]:
    import shutil  # these two are seldom needed, and importing them takes a tenth of the time of a look
    import tempfile

    directory = None
    try:
        before = _marks(paths)
        try:
            directory = tempfile.mkdtemp(prefix="jobtree-")
            copy = os.path.join(directory, os.path.basename(paths.database))
            for suffix in before:
                shutil.copyfile(paths.database + suffix, copy + suffix)
        except OSError as error:
            raise StorageError(
                f"Nothing can be written beside {paths.database}, so a copy of it must be read, and that could not be "
                f"made: {error}. Have the variable TMPDIR name a directory with room for it."
            ) from error
        if _marks(paths) != before:
            raise StorageError(
                f"{paths.root} is read-only here, and another machine is writing to it. Ask for its state there."
            )
        yield copy
    finally:
        if directory is not None:
            shutil.rmtree(directory, ignore_errors=True)


def _marks(paths: TreePaths) -> dict[str, tuple[int, int]]:
    """What changes when the database or its log is written to."""
    found = {}
    for suffix in ("", "-wal"):
        try:
            status = os.stat(paths.database + suffix)
        except FileNotFoundError:
            continue
        found[suffix] = (status.st_size, status.st_mtime_ns)
    return found


def _connect(path: str) -> sqlite3.Connection:
    uri = f"file:{urllib.parse.quote(os.fsencode(path))}?mode=ro"
    connection = sqlite3.connect(uri, uri=True, isolation_level=None, timeout=_PATIENCE_SECONDS)
    try:
        connection.execute("SELECT 1 FROM sqlite_master LIMIT 1")  # only the first query opens the file
    except BaseException:
        connection.close()
        raise
    return connection


def _query(paths: TreePaths, failures: bool) -> _Content:
    with opened(paths) as connection:
        execute = connection.execute
        execute("BEGIN")
        ended = execute("SELECT value FROM meta WHERE key = 'ended'").fetchone()
        classes = execute(_CLASSES).fetchall()
        rows = execute(_FAILURES).fetchall() if failures else []
        execute("COMMIT")
    return (
        ended[0] if ended else None,
        tuple(TargetClass(row[0], Counts(*row[1:6]), *row[6:]) for row in classes),
        tuple(_failure(paths, row[1:]) for row in rows if row[0] == State.FAILED),
        tuple(_failure(paths, row[1:]) for row in rows if row[0] in (State.READY, State.ISSUED)),
    )


def _failure(paths: TreePaths, row: Sequence[Any]) -> FailureRow:
    job, attempt, name, kind, message, traceback, output, start, end, log, host, bundle, moment = row
    failure = Failure(kind, message, traceback, output, start or 0, end or 0)
    whole_log = paths.absolute(log) if log is not None else None
    return FailureRow(job, attempt, name, failure, whole_log, host, bundle, moment)


def explained(paths: TreePaths, held: bool, error: sqlite3.Error) -> JobTreeError:
    """What to tell where the database cannot be read. held: whether a master runs the tree."""
    if "locked" in str(error) or "busy" in str(error):
        if held or lock.is_held(paths):
            who = _master(paths)
            described = (
                f"on host {who.host} with pid {who.pid}" if who is not None else "which has just started"
            )
            return AnotherMaster(
                f"{paths.root} is being run by a master, {described}, and is on a network file system, where nobody "
                "else can read the tree while it runs. The master's own output tells how far it is; to stop it: "
                f"jobTreeKill {paths.root}"
            )
        return StorageError(
            f"{paths.database} is kept locked by a process that is not its master. Look for what has it open (lsof, "
            "fuser) and end that."
        )
    if database.is_damage(error):
        return DamagedTree(f"{paths.database} is damaged: {error}. {_WHAT_NOW}")
    return StorageError(
        f"{paths.database}: {error}. It cannot be read as it is; look at the disk and at the system's log. The tree is "
        "as it was at its last commit once the disk is well."
    )
