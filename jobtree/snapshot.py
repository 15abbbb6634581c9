"""A look at a tree that does not disturb it: what commands show is read here.

What must hold
  - It never writes to the tree, and never makes the master wait: the database is opened read-only, everything that is
    wanted is read in one short transaction, the connection is closed, and only then does anybody format anything.
  - On a network file system a running master has the database for itself (see ``jobtree.store``); what it has
    published is shown, and for more it is asked (``jobtree.published``). Without one, masters are kept away by a
    shared lock while the database is read, and readers come one after the other.

What it must cope with
  - A dead master leaves a write-ahead log that holds commits; reading takes it into account. SQLite wants to
    write its index of that log next to it; where it may not (a tree mounted read-only), a private copy is read instead.
  - A master that has just started has published nothing yet; it is waited for, for a moment.
  - A tree of somebody else that is shared with us (``jobtree.sharing``): we can read what its master has told last, and
    not even whether there still is one. One that has not told that it ends, and nothing for long, counts as dead.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import time
import urllib.parse
from collections.abc import Iterator
from typing import Any, Callable, NamedTuple, Optional, TypeVar

from jobtree import clock, contents, database, files, lock, published, queries, soundness, treedir
from jobtree.contents import Contents, Counts, RunningJob, TargetClass, total
from jobtree.errors import AnotherMaster, DamagedTree, JobTreeError, NotAJobTree, StorageError, UsageError
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

_FIRST_NEWS_SECONDS = 5.0
_ANSWER_SECONDS = 15.0
_LOOK_SECONDS = 0.1
"""How long the first news of a master, and its answer, are waited for, and how often we look."""

_SILENCE_SECONDS = 120.0
"""After so long without news, by clocks that may not quite agree, the master of a shared tree is taken for dead."""

_NAME = "jobTreeStatus"

_Read = TypeVar("_Read")

_WHAT_NOW = (
    "Start the same command again: it changes nothing, and says what can be gone back to. See also: "
    "jobTreeStatus --check"
)


class MasterProcess(NamedTuple):
    """The process that runs a tree. started: seconds since 1970."""

    host: str
    pid: int
    started: float


class Snapshot(NamedTuple):
    """A tree at one moment.

    state is one of the words at the top of this module; master is set only while one runs. failed are the failures
    of jobs that were given up, retried those of jobs that are to be tried again or are just being (only if asked for).
    running is known only where it was the master that told all this. paused: by whom nothing is to be issued any more.
    """

    root: str
    state: str
    master: Optional[MasterProcess]
    counts: Counts
    classes: tuple[TargetClass, ...]
    failed: tuple[FailureRow, ...] = ()
    retried: tuple[FailureRow, ...] = ()
    running: Optional[tuple[RunningJob, ...]] = None
    paused: Optional[str] = None


def find(root: str, shared: bool = False) -> tuple[TreePaths, Config]:
    """The tree in a directory. Raises UsageError if there is none, and NotAJobTree if something else is there.

    shared: a tree of another user will do, if its owner lets us look; of it only ``take`` can tell.
    """
    paths = TreePaths(os.path.abspath(root))
    try:
        config = treedir.read_config(paths, only_shown=shared)
    except StorageError as error:
        if shared and treedir.is_anothers(paths):
            raise _not_shared(paths) from error
        raise
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

    Raises StorageError, and AnotherMaster where a running master has the database for itself and has told nothing yet.
    """
    if treedir.is_anothers(paths):
        return _shared(paths)
    held = lock.is_held(paths)
    if files.is_network(paths.root):
        held, found = _from_afar(paths, failures)
    else:
        found = _read(paths, held, failures)
    counts = total(kind.counts for kind in found.classes)
    # The lock and the database are not read in the same instant. Where they disagree (a lock and an end that was
    # written down, neither lock nor end), a master has come or gone meanwhile, and the lock as it is now tells which.
    if held == bool(found.ended):
        held = lock.is_held(paths)
    state = _state(held, found.ended, counts)
    master = _master(paths) if held else None
    failed, retried = (tuple(_with_log(paths, row) for row in rows) for rows in (found.failed, found.retried))
    return Snapshot(
        paths.root, state, master, counts, found.classes, failed, retried, found.running, found.paused
    )


def look(paths: TreePaths, question: str, **asked: int) -> Any:
    """Ask one of the questions of ``jobtree.queries`` about single jobs; logs of failures are relative to the tree.

    Raises StorageError, and AnotherMaster where a running master has the database for itself and does not answer.
    """
    if treedir.is_anothers(paths):
        if question == published.STATISTICS:
            return _report(paths)[0]
        raise _the_owners(paths)
    if files.is_network(paths.root) and lock.is_held(paths):
        answer = published.look(paths, _NAME, _ANSWER_SECONDS, question, asked)
        if answer.done:
            return answer.body
        if lock.is_held(paths):
            raise AnotherMaster(
                f"{paths.root} is being run by a master, {_described(paths)}, that alone can read the tree, and was "
                f"asked in vain: {answer.body}. Try again in a moment."
            )
    return _reading(
        paths, lock.is_held(paths), lambda connection: queries.answer(connection, question, asked)
    )


def query(paths: TreePaths, ask: Callable[[sqlite3.Connection], _Read]) -> _Read:
    """What somebody reads of the database in one transaction, however long that takes.

    Raises StorageError, and AnotherMaster where a running master has the database for itself.
    """

    if treedir.is_anothers(paths):
        raise _the_owners(paths)

    def at_one_moment(connection: sqlite3.Connection) -> _Read:
        connection.execute("BEGIN")
        try:
            return ask(connection)
        finally:
            connection.execute("COMMIT")

    return _reading(paths, lock.is_held(paths), at_one_moment)


def settings(paths: TreePaths) -> dict[str, Any]:
    """The options of the latest start; of a tree that is shared with us those that its master tells.

    Raises StorageError.
    """
    return _report(paths)[1] if treedir.is_anothers(paths) else files.read_json(paths.settings) or {}


def running(paths: TreePaths) -> Optional[tuple[RunningJob, ...]]:
    """What is running, asked of the master; None if none runs the tree, or it does not answer."""
    return published.running(paths, _NAME, _ANSWER_SECONDS) if lock.is_held(paths) else None


def why(paths: TreePaths, job: int) -> Optional[list[str]]:
    """Why a job does not run, asked of the master; None as for ``running``."""
    return published.why(paths, _NAME, _ANSWER_SECONDS, job) if lock.is_held(paths) else None


def _shared(paths: TreePaths) -> Snapshot:
    """What the master of somebody else's tree has told last. Raises NotAJobTree if we may not read it."""
    told = published.read_shared(paths)
    if told is None:
        raise _not_shared(paths)
    found, who, written = told
    counts = total(kind.counts for kind in found.classes)
    held = not found.ended and clock.wall() - written < _SILENCE_SECONDS
    master = (
        MasterProcess(str(who["host"]), int(who["pid"]), float(who.get("started", 0.0))) if held else None
    )
    failed, retried = (tuple(_with_log(paths, row) for row in rows) for rows in (found.failed, found.retried))
    running = found.running if held else None
    return Snapshot(
        paths.root, _state(held, found.ended, counts), master, counts, found.classes, failed, retried, running
    )


def _report(paths: TreePaths) -> tuple[Any, dict[str, Any]]:
    told = published.read_report(paths)
    if told is None:
        raise _not_shared(paths)
    return told


def _the_owners(paths: TreePaths) -> NotAJobTree:
    return NotAJobTree(
        f"{paths.root} is another user's. What its owner shares is how far it is, what runs and what has failed, and "
        f"what targets have used: jobTreeStatus --verbose {paths.root}; jobTreeStats {paths.root}"
    )


def _not_shared(paths: TreePaths) -> NotAJobTree:
    return NotAJobTree(
        f"{paths.root} is another user's, and not shared with you, or nothing has been told yet. Its owner can let a "
        "group look at it with: jobTreeRun --shareWith GROUP"
    )


def _with_log(paths: TreePaths, row: FailureRow) -> FailureRow:
    return row._replace(log=paths.absolute(row.log) if row.log is not None else None)


def _from_afar(paths: TreePaths, failures: bool) -> tuple[bool, Contents]:
    """Whether a master runs a tree on a network file system, and what is in it: told by the master, or read."""
    deadline = clock.elapsed() + _FIRST_NEWS_SECONDS
    while True:
        if not lock.is_held(paths):
            try:
                return False, _read(paths, False, failures)
            except AnotherMaster:
                pass  # it has come meanwhile
        found = published.read(paths)
        if found is not None:
            more = published.ask(paths, _NAME, _ANSWER_SECONDS) if failures else None
            found = more or found
            return True, found if failures else found._replace(failed=(), retried=())
        if clock.elapsed() >= deadline:
            raise AnotherMaster(
                f"{paths.root} is being run by a master, {_described(paths)}, that has just started and has not told "
                "anything yet; nobody else can read the tree while it runs. Try again in a moment."
            )
        time.sleep(_LOOK_SECONDS)


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


# -- the database ----------------------------------------------------------------------------------------------


def _read(paths: TreePaths, held: bool, failures: bool) -> Contents:
    return _reading(paths, held, lambda open: contents.query(open, contents.ALL if failures else 0))


def _reading(paths: TreePaths, held: bool, ask: Callable[[sqlite3.Connection], _Read]) -> _Read:
    if not os.path.exists(paths.database):
        raise DamagedTree(f"{paths.database} is gone. {_WHAT_NOW}")
    try:
        with opened(paths) as connection:
            return ask(connection)
    except UnicodeDecodeError as error:
        raise DamagedTree(f"{paths.database} is damaged: {error}. {_WHAT_NOW}") from error
    except sqlite3.Error as error:
        raise explained(paths, held, error) from error


@contextlib.contextmanager
def opened(paths: TreePaths) -> Iterator[sqlite3.Connection]:
    """A connection that reads the database, or a private copy of it where nothing can be written beside it.

    Raises sqlite3.Error, StorageError; AnotherMaster where a running master has it for itself.
    """
    if files.is_network(paths.root):
        with lock.kept_free(paths) as free:
            if not free:
                raise _has_it_for_itself(paths)
            with _opened_alone(paths) as connection:
                yield connection
        return
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
def _opened_alone(paths: TreePaths) -> Iterator[sqlite3.Connection]:
    """The same as the master has it there. Closing it carries the log over, as the next start would; where that must
    not be (a sync has failed) or cannot be, a copy is read."""
    if os.access(paths.root, os.W_OK) and soundness.is_trusted(paths):
        with contextlib.closing(database.connect(paths.database, exclusive=True)) as connection:
            yield connection
    else:
        with _private_copy(paths) as copy, contextlib.closing(_connect(copy)) as connection:
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


def _has_it_for_itself(paths: TreePaths) -> AnotherMaster:
    return AnotherMaster(
        f"{paths.root} is being run by a master, {_described(paths)}, and is on a network file system, where nobody "
        f"else can read the database while it runs. How far it is: jobTreeStatus {paths.root}   To stop it: "
        f"jobTreeKill {paths.root}"
    )


def _described(paths: TreePaths) -> str:
    who = _master(paths)
    return f"on host {who.host} with pid {who.pid}" if who is not None else "which has just started"


def explained(paths: TreePaths, held: bool, error: sqlite3.Error) -> JobTreeError:
    """What to tell where the database cannot be read. held: whether a master runs the tree."""
    if "locked" in str(error) or "busy" in str(error):
        if held or lock.is_held(paths):
            return _has_it_for_itself(paths)
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
