"""May what is on the disk be believed? Asked at every start, before anything is.

After an end that was not in order
  - The database is looked through. If it is damaged the start ends there (exit status 5): nothing is adopted, issued
    or removed on the word of a damaged tree, and going back to the copy is a decision of the user's
    (``jobtree.restoring``).
  - If the machine has not been started anew since, the database is first copied to a new file, which is synced and
    takes its place. After a failed fsync Linux calls the pages clean: they can be read, and are not on the disk, and
    no later fsync tells. The master that met this may have been killed before it could say so; only a file that was
    never synced before is known to be on the disk afterwards. A machine that was started anew reads what the disk has.
  - If a sync of what targets left in global temporary directories has failed, outcomes that were not yet adopted are
    not believed either where they rest on such a directory: those targets run once more. That cannot be found out
    afterwards. So there is a file, ``synced``, which goes away when a sync fails: that needs no space on a full disk,
    and it must outlive only the process, not the machine.

After an orderly end the database is looked through only if that takes no more than a moment.
"""

from __future__ import annotations

import contextlib
import os
import socket
import sqlite3
from collections.abc import Iterator, Mapping
from typing import Any

from jobtree import database, files
from jobtree.database import Unsound
from jobtree.errors import BrokenInvariant, DamagedTree, StorageError
from jobtree.paths import TreePaths

ORDERLY = frozenset(["in order", "complete"])
"""What ``ended`` in the table ``meta`` says after an orderly end."""

_A_MOMENT = 128 << 20
"""Bytes of a database that are looked through in half a second."""

_FEW_ROWS = 16 << 20
"""Bytes of a database in which the rows are looked at in half a second, too."""


def ensure(paths: TreePaths) -> None:
    """Make sure that the database can be believed, or raise DamagedTree. The caller holds the tree's lock."""
    path = paths.database
    size = database.size(path)
    if size is None:
        raise DamagedTree(f"{path} is gone, and with it what the tree knew.")
    new = path + ".new"
    try:
        replaced = _examine(paths, size, new)
        if replaced:
            database.put_in_place(new, path)
        else:
            files.remove(new)  # of a start that was killed here
    except Unsound as error:
        files.remove(new)
        raise DamagedTree(f"{path} is damaged: {error}.") from error
    except (sqlite3.Error, OSError) as error:
        files.remove(new)
        raise StorageError(
            f"{path} cannot be read and copied: {error}. A start after an interruption needs room for a second "
            f"database there ({size} bytes) for a moment. Look at the space left (df, quota) and at the system's log; "
            "then start the same command again."
        ) from error


def _examine(paths: TreePaths, size: int, new: str) -> bool:
    """Look through the database; True: it must be replaced by the copy that was made."""
    database.check_size(paths.database)
    had_log = database.has_log(paths.database)
    connection = database.connect(paths.database, exclusive=files.is_network(paths.root))
    try:
        meta = database.read_meta(connection)
        if not isinstance(meta.get("generation"), int) or not isinstance(meta.get("next_bundle"), int):
            raise Unsound("it has lost the numbers of its starts and of its bundles")
        # A master that could not close the database may have met the failed sync in its very last commit.
        in_order = meta.get("ended") in ORDERLY and not had_log
        if not in_order and meta.get("kernel") == this_kernel():
            database.copy(connection, new, rows_too=size <= _FEW_ROWS)
            return True
        if not in_order or size <= _A_MOMENT or not is_trusted(paths):
            database.check(connection, rows_too=size <= _FEW_ROWS)
        return False
    finally:
        connection.close()


def has_run(meta: Mapping[str, Any]) -> bool:
    """Whether a master has ever started on the database with this table ``meta``, and not just made it."""
    generation = meta.get("generation")
    return isinstance(generation, int) and generation > 1


@contextlib.contextmanager
def reading(paths: TreePaths) -> Iterator[None]:
    """While the master works from its rows: what they make impossible is damage if the rows are to blame for it.

    SQLite finds what is wrong with the structure; a number that has changed inside of a row shows only here.
    """
    try:
        yield
    except (BrokenInvariant, ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        wrong = _wrong_rows(paths)
        if not wrong:
            raise  # our own mistake
        raise DamagedTree(f"{paths.database} is damaged: {wrong}.") from error


def _wrong_rows(paths: TreePaths) -> str:
    """What is wrong with the rows, in words; "" if nothing is."""
    try:
        connection = database.connect(paths.database, exclusive=files.is_network(paths.root))
        try:
            database.check(connection, rows_too=True)
        finally:
            connection.close()
    except (Unsound, sqlite3.Error) as error:
        return str(error)
    return ""


def this_kernel() -> str:
    """What changes whenever a machine starts, and from machine to machine."""
    try:
        with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
            return file.read().strip()
    except OSError:
        return socket.gethostname()


# -- the mark --------------------------------------------------------------------------------------------------


def is_trusted(paths: TreePaths) -> bool:
    """Whether no sync has failed as far as is known."""
    return os.path.exists(paths.synced)


def trust(paths: TreePaths) -> None:
    """What could not be relied on was made again."""
    files.write_new(paths.synced)


def distrust(paths: TreePaths) -> None:
    """A sync has failed. Never raises: the disk that refused that may refuse this."""
    try:
        os.unlink(paths.synced)
    except OSError:
        pass  # gone already; or else the next start believes what can be read, as if nobody had noticed
