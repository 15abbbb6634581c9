"""The database as one whole: is it sound, and a copy of it. What is in it is the affair of ``jobtree.store``.

What must hold
  - A copy holds one committed state, whatever is written meanwhile, and never disturbs who writes.
  - A copy is used only after SQLite has looked through it: structure, indexes' order, constraints (``quick_check``, 1 s
    for a million jobs). A byte changed inside of a value passes that; of what can be checked beyond it, see
    ``jobtree.rows``.

How it fails: ``Unsound`` for what is damaged, ``sqlite3.Error`` for all else (no space, no permission, locked); for the
store ``Translated`` makes errors of jobtree of them.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import sqlite3
import time
import urllib.parse
from typing import Any, Callable, Optional

from jobtree import files, rows
from jobtree.errors import BrokenInvariant, DamagedTree, StorageError

PAGES = 256
"""How many pages (1 MiB) are copied at one go: 1 to 2 ms, in which another user of the same connection waits."""

_PATIENCE_SECONDS = 10.0
"""How long a process that only looks may keep the database locked."""


_STEPS = 100_000
"""Instructions of SQLite's machine between two questions whether to go on: some milliseconds."""

_BESIDE = ("-wal", "-shm", "-journal")
"""What SQLite keeps beside a database."""


class Unsound(Exception):
    """A database is damaged; the text says what was found."""


def is_damage(error: Exception) -> bool:
    """Whether an error while reading tells of a damaged file, and not of a disk that is full, locked or broken."""
    if not isinstance(error, sqlite3.Error):
        return isinstance(error, ValueError)  # UnicodeDecodeError: a text that is none, a schema that is none
    # Damage is a plain DatabaseError ("malformed", "not a database"); what the schema lacks was torn out of it.
    lost = ("no such table", "no such column", "no such index", "malformed", "decode to UTF-8")
    return type(error) is sqlite3.DatabaseError or any(words in str(error) for words in lost)


def connect(path: str, immutable: bool = False, exclusive: bool = False) -> sqlite3.Connection:
    """A connection of one's own. immutable: nobody writes; nothing is made beside it. Raises sqlite3.Error.

    exclusive: as the store opens it on file systems without shared memory.
    """
    more = "mode=ro&immutable=1" if immutable else "mode=rw"
    uri = f"file:{urllib.parse.quote(os.fsencode(path))}?{more}"
    connection = sqlite3.connect(
        uri, uri=True, isolation_level=None, timeout=_PATIENCE_SECONDS, check_same_thread=False
    )
    if exclusive:
        connection.execute("PRAGMA locking_mode = EXCLUSIVE")
    return connection


def to_log_mode(connection: sqlite3.Connection) -> str:
    """Have SQLite keep a write-ahead log; returns the mode that it is in then. Raises sqlite3.Error.

    On the way there from a copy SQLite removes a journal. On a network file system the answer to that can be lost, and
    it takes it for an error that the journal was gone when it asked again. (Before Python 3.11 nothing tells that from
    other errors: there the master stops, and the next start goes on.)
    """
    order = "PRAGMA journal_mode = WAL"
    try:
        return str(connection.execute(order).fetchone()[0])
    except sqlite3.OperationalError as error:
        if getattr(error, "sqlite_errorname", "") != "SQLITE_IOERR_DELETE_NOENT":
            raise
    return str(connection.execute(order).fetchone()[0])


def read_meta(connection: sqlite3.Connection) -> dict[str, Any]:
    """The table ``meta``. Raises Unsound, sqlite3.Error."""
    try:
        return dict(connection.execute("SELECT key, value FROM meta"))
    except (sqlite3.Error, ValueError) as error:
        raise _judged(error) from error


def check(connection: sqlite3.Connection, rows_too: bool = False) -> None:
    """Look through the database; Unsound if anything is wrong, sqlite3.Error if it cannot be read.

    rows_too: also at what the rows say, which takes some seconds for a million jobs.
    """
    try:
        found = [str(row[0]) for row in connection.execute("PRAGMA quick_check(5)")]
        if found == ["ok"] and rows_too:
            found = rows.find_wrong(connection) or found
    except (sqlite3.Error, ValueError) as error:
        raise _judged(error) from error
    if found != ["ok"]:
        raise Unsound("; ".join(line.replace("\n", " ") for line in found))


def check_size(path: str) -> None:
    """Raise Unsound for a database whose file is cut off inside its last page: SQLite reads zeros there."""
    log = path + "-wal"
    if os.path.exists(log) and os.path.getsize(log):
        return  # what was cut off may be in there
    with open(path, "rb") as file:
        head = file.read(32)
        size = file.seek(0, os.SEEK_END)
    page, pages = int.from_bytes(head[16:18], "big"), int.from_bytes(head[28:32], "big")
    page = 65536 if page == 1 else page
    if len(head) < 32 or size < page * pages:
        raise Unsound(f"it is cut off: {size} bytes are left of {page * pages}")


def copy(
    source: sqlite3.Connection,
    destination: str,
    pages: int = -1,
    pause: float = 0.0,
    go_on: Callable[[], bool] = lambda: True,
    rows_too: bool = False,
    copied: Callable[[], object] = lambda: None,
) -> None:
    """Copy the committed state of a database to a new file, and look through it. Not durable yet.

    pages, pause: how many at one go (-1: all), and seconds between; go_on is asked between, and ends it with Cancelled;
    copied is called when the source is needed no more.
    Raises Unsound, sqlite3.Error, OSError.
    """
    for suffix in ("", "-journal", "-wal"):
        files.remove(destination + suffix)
    # Made here for its mode: SQLite would let others read it.
    os.close(os.open(destination, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    to = connect(destination)

    def progress(_: int, __: int, ___: int) -> None:
        # sqlite3 itself pauses only where it finds the database locked.
        time.sleep(pause)
        if not go_on():
            raise Cancelled

    try:
        to.set_progress_handler(
            lambda: not go_on(), _STEPS
        )  # ends the looking through, which can take seconds
        # No journal and no syncs: it counts for nothing before it is whole, and then it is synced once.
        to.execute("PRAGMA journal_mode = OFF")
        to.execute("PRAGMA synchronous = OFF")
        source.backup(to, pages=pages, progress=progress, sleep=pause)
        copied()
        # The source's log mode came along; so that nothing is made beside the copy, it gets the plain one.
        to.execute("PRAGMA locking_mode = EXCLUSIVE")
        to.execute("PRAGMA journal_mode = DELETE")
        check(to, rows_too)
    except (sqlite3.Error, ValueError) as error:
        if not go_on():
            raise Cancelled from None
        raise _judged(error) from error
    finally:
        to.close()


class Cancelled(Exception):
    """A copy was given up half-way, because somebody asked for that."""


def note(path: str, values: dict[str, Any]) -> None:
    """Write into ``meta`` of a database that nobody else has open. Not durable. Raises sqlite3.Error."""
    connection = connect(path, exclusive=True)
    try:
        connection.execute("PRAGMA synchronous = OFF")
        connection.executemany("INSERT OR REPLACE INTO meta VALUES (?, ?)", list(values.items()))
    finally:
        connection.close()


def put_in_place(new: str, path: str) -> None:
    """Let a copy of a database take the database's own place, durably. No process may have the old one open.

    The old one's log goes last: applied to a copy it changes nothing, while the old one without it would be older.
    """
    files.install(new, path)
    for suffix in _BESIDE:
        files.remove(path + suffix)
    files.fsync_directory(os.path.dirname(path))


def move_away(path: str, to: str) -> None:
    """Keep a damaged database under another name, durably, in place of what had that name."""
    for suffix in ("", *_BESIDE):
        files.remove(to + suffix)
    # The log last: without a database it is nothing, while a database without its log would be an older one.
    for suffix in ("", *_BESIDE):
        files.rename(path + suffix, to + suffix)


def _judged(error: Exception) -> Exception:
    return Unsound(str(error)) if is_damage(error) else error


def has_log(path: str) -> bool:
    """Whether something is in the log beside a database, so that the last who wrote did not close it."""
    try:
        return os.stat(path + "-wal").st_size > 0
    except FileNotFoundError:
        return False


def size(path: str) -> Optional[int]:
    """Bytes of a database with its log; None if it is not there."""
    try:
        found = os.stat(path).st_size
    except FileNotFoundError:
        return None
    try:
        return found + os.stat(path + "-wal").st_size
    except FileNotFoundError:
        return found


def let_go(connection: sqlite3.Connection) -> None:
    """Let go of a connection without another word to the disk; its transaction is gone, its log stays as it is.

    Closing would write and sync the log and the database once more.
    """
    with contextlib.suppress(sqlite3.Error):
        if connection.in_transaction:
            connection.execute("ROLLBACK")  # writes nothing: the log only forgets where it was
    if _NO_CHECKPOINT is not None:
        connection.setconfig(_NO_CHECKPOINT, True)  # type: ignore[attr-defined,unused-ignore]
        connection.close()
    else:
        # Before Python 3.12 it can only be kept open until the process ends: one more reference that nobody drops.
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(connection))


_NO_CHECKPOINT: Optional[int] = getattr(sqlite3, "SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE", None)


class Translated:
    """Turns SQLite's errors into StorageError; a class because a generator would cost 1 us at every use."""

    def __init__(self, path: str) -> None:
        self._path = path
        self.refused: bool = False

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: Optional[BaseException], trace: object) -> None:
        if isinstance(error, sqlite3.IntegrityError):
            raise BrokenInvariant(f"{self._path}: {error}") from error
        if isinstance(error, sqlite3.Error):
            self.refused = True
        if isinstance(error, (sqlite3.Error, UnicodeDecodeError)) and is_damage(error):
            raise DamagedTree(f"{self._path} is damaged: {error}.") from error
        if isinstance(error, sqlite3.Error):
            raise StorageError(
                f"{self._path}: {error}. The master stops here and the tree stays as it was at the last commit. Look "
                "at the space left on that file system (df, quota) and at the system's log; then start the same "
                "command again."
            ) from error
