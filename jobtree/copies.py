"""The copy of the database that the master makes itself, and what can be said of it.

Beside the master's loop, in a thread: SQLite's backup, a megabyte at a time with pauses, through a connection of its
own that holds one read transaction, so that it neither waits for the master nor starts over when that commits. (On a
file system without shared memory nobody else can read: there the master's own connection is used, between its
transactions, and the loop may wait.) Then SQLite and ``jobtree.rows`` look through the copy, it is synced, and takes
the place of the one before: there is always a whole one.

When: every ``--copyEvery`` seconds if something was committed since, but never sooner than a hundred times what the
last copy took; so it costs 1 % of a run at most. Seen with a million jobs (200 MB) on two cores that were kept busy by
other work: the slowest transaction of the loop took 0.36 s instead of 0.07 (0.24 s with the one connection).

How it fails. A copy that cannot be made is no reason to stop: it is said once, and tried again later. A copy that is
not sound is, because then the database is not: the run stops, and the next start looks for itself.
"""

from __future__ import annotations

import logging
import os
import shlex
import sqlite3
import threading
from typing import Callable, NamedTuple, Optional

from jobtree import clock, database, files, soundness
from jobtree.database import Cancelled, Unsound
from jobtree.errors import StorageError
from jobtree.paths import TreePaths, job_name
from jobtree.quantities import format_duration, format_memory
from jobtree.store import Store

log: logging.Logger = logging.getLogger("jobtree")

_COST = 100
"""A copy is made not before so many times the seconds have passed that the last one took."""

_PAUSE = 0.004
"""Seconds between two megabytes: most of the time is left to the master."""

_ROOM = 64 << 20
"""Bytes that a copy leaves free: the run needs them more."""

_SMALL = 64 << 20
"""Bytes of a database of whose copy the rows are looked at, too (a second or two). Going back looks at them always."""

_SHOWN = 10


class Copier:
    """Copies the database from time to time while it is entered. every: seconds; 0: never.

    stop: is called, in the copying thread, with the reason why the run must end.
    """

    def __init__(self, paths: TreePaths, store: Store, every: float, stop: Callable[[str], None]) -> None:
        self._paths = paths
        self._store = store
        self._every = every
        self._stop = stop
        self._ending = threading.Event()
        self._thread: Optional[threading.Thread] = None
        self._said = ""

    def __enter__(self) -> Copier:
        if self._every > 0:
            self._thread = threading.Thread(target=self._work, name="jobtree-copier", daemon=True)
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ending.set()
        if self._thread is not None:
            self._thread.join()

    def _work(self) -> None:
        wait, copied = self._every, self._store.commits
        while not self._ending.wait(wait):
            commits = self._store.commits
            if commits == copied:
                continue
            started = clock.elapsed()
            try:
                make(self._paths, self._store.only_connection, lambda: not self._ending.is_set())
                copied = commits
            except Cancelled:
                return
            except Unsound as error:
                soundness.distrust(self._paths)
                self._stop(
                    f"{self._paths.database} is damaged: {error}. The next start says what can be done"
                )
                return
            except (sqlite3.Error, OSError, StorageError) as error:
                self._say(str(error))
            wait = max(self._every, _COST * (clock.elapsed() - started))

    def _say(self, text: str) -> None:
        if text != self._said:
            self._said = text
            log.warning("The database could not be copied, the run goes on without: %s", text)


def make(
    paths: TreePaths, only: Optional[sqlite3.Connection] = None, go_on: Callable[[], bool] = lambda: True
) -> None:
    """Copy the database as it is committed now. only: the one connection that can read it, where that is so.

    Raises Cancelled, Unsound, sqlite3.Error, OSError, StorageError.
    """
    new = paths.copy + ".new"
    _check_room(paths)
    source = only if only is not None else database.connect(paths.database)
    try:
        if only is None:
            source.execute("BEGIN")
            source.execute("SELECT count(*) FROM meta").fetchone()
        moment = clock.wall()
        small = (database.size(paths.database) or 0) <= _SMALL
        # A transaction that is read from keeps the log from being used again: it is over before the copy is checked.
        copied = source.close if only is None else lambda: None
        database.copy(source, new, database.PAGES, _PAUSE, go_on, small, copied)
        database.note(new, {"copied": moment})
        files.install(new, paths.copy)
    except BaseException:
        # Not a second refusal in place of the first: what is left is removed by the next copy.
        try:
            os.unlink(new)
        except OSError:
            pass
        raise
    finally:
        if only is None:
            source.close()


def _check_room(paths: TreePaths) -> None:
    size = database.size(paths.database) or 0
    there = os.statvfs(paths.root)
    free = there.f_bavail * there.f_frsize
    if free < size + _ROOM:
        raise StorageError(
            f"{paths.root} has {format_memory(free)} free, and {format_memory(size)} would be needed and "
            f"{format_memory(_ROOM)} left."
        )


# -- what there is ---------------------------------------------------------------------------------------------


class Copy(NamedTuple):
    """The copy of a tree's database: when it was made (seconds since 1970), jobs done and not done then, and the chains
    that cannot go on from it: (job, class of its target, why)."""

    moment: float
    done: int
    left: int
    lost: list[tuple[int, str, str]]


def look(paths: TreePaths) -> Optional[Copy]:
    """What the copy says; None if there is none. Raises Unsound, sqlite3.Error."""
    if not os.path.exists(paths.copy):
        return None
    database.check_size(paths.copy)
    connection = database.connect(paths.copy, immutable=True)
    try:
        database.check(connection, rows_too=True)
        moment = database.read_meta(connection).get("copied")
        if not isinstance(moment, float):
            raise Unsound("it does not say when it was made")
        done, left = connection.execute(
            "SELECT sum(done), sum(ready + issued + blocked + failed) FROM shapes"
        ).fetchone()
        return Copy(moment, done, left, lost_chains(connection, paths))
    finally:
        connection.close()


def lost_chains(connection: sqlite3.Connection, paths: TreePaths) -> list[tuple[int, str, str]]:
    """The chains that cannot go on from a copy: (job, class of its target, why).

    What their earlier targets left, or a value that they were promised, has been removed since, because by then
    nobody could ask for it any more. A chain that is still at its first target makes all of it again.
    """
    found: dict[int, tuple[int, str, str]] = {}
    query = (
        "SELECT jobs.id, name FROM jobs JOIN shapes ON shapes.id = shape "
        "WHERE has_global AND (state = 2 OR step > 0) ORDER BY jobs.id"
    )
    for id, name in connection.execute(query):
        if not os.path.isdir(paths.global_dir(id)):
            found[id] = (id, name, f"its global temporary directory {paths.global_dir(id)} is gone")
    for id, name, file in _without_values(connection, paths):
        found.setdefault(id, (id, name, f"a value that it was promised is gone with the file {file}"))
    return list(found.values())


def _without_values(connection: sqlite3.Connection, paths: TreePaths) -> list[tuple[int, str, str]]:
    files_of = connection.execute("SELECT token, file FROM promised WHERE file IS NOT NULL").fetchall()
    found = []
    for token, file in files_of:
        if os.path.exists(paths.absolute(file)):
            continue
        # A job may mention a value that mentions it, and so on.
        query = (
            "WITH RECURSIVE above(holder) AS (SELECT holder FROM mentions WHERE token = ? UNION "
            "SELECT mentions.holder FROM mentions JOIN above ON mentions.token = above.holder) "
            "SELECT jobs.id, name FROM above JOIN jobs ON jobs.id = holder JOIN shapes ON shapes.id = shape"
        )
        found += [(id, name, paths.absolute(file)) for id, name in connection.execute(query, (token,))]
    return found


def explain(paths: TreePaths, what: str) -> str:
    """What is to be said when the database is damaged: what can be gone back to, and what that would cost."""
    root = shlex.quote(paths.root)
    try:
        copy = look(paths)
    except (Unsound, sqlite3.Error, StorageError) as error:
        return f"{what} The copy of it, {paths.copy}, is damaged too: {error}. {_nothing_left(paths)}"
    if copy is None:
        return f"{what} There is no copy of it yet. {_nothing_left(paths)}"
    lines = [
        f"{what} Nothing that it says is believed, and nothing was changed.",
        f"There is a copy of it as it was at {clock.text(copy.moment)}, {_age(copy.moment)} ago, with {copy.done} jobs "
        f"done and {copy.left} not. To go back to that: jobTreeRun --restoreCopy --jobTree {root}",
        "What has been done since then will be done again, also what it did outside of the job tree.",
    ]
    if copy.lost:
        lines.append(f"{len(copy.lost)} chains cannot go on from there and will fail:")
        lines += [f"  {job_name(id)} ({name}): {why}" for id, name, why in copy.lost[:_SHOWN]]
        if len(copy.lost) > _SHOWN:
            lines.append(f"  and {len(copy.lost) - _SHOWN} more")
    return "\n".join(lines)


def _age(moment: float) -> str:
    return format_duration(max(0.0, clock.wall() - moment))


def _nothing_left(paths: TreePaths) -> str:
    return (
        f"So what the run had done cannot be known. What its targets left is in {paths.global_dirs}; look at the disk "
        "and at the system's log, remove the directory, and start the script anew."
    )
