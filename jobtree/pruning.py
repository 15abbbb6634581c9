"""``jobTreeRun --prune``: what a finished tree needs no more is removed.

What stays is what tells that it is done, and its result: the database, made as small as it can be, with its statistics;
the files of large values that belong to the result; what says what the directory is and how it was started. All else
goes: logs that were kept, bundles and outcomes that an interruption left, what batch systems keep, the copy of the
database (there is one of the small database afterwards), and local temporary directories on this machine. What is not
jobtree's stays.

What must hold
  - An unfinished tree is refused and not touched. A finished one remains one: the database says so before the first
    file goes and after the last, so being killed at any moment costs nothing but doing the rest again.
  - The tree's lock is held, so that no start comes in between.
"""

from __future__ import annotations

import os
import sqlite3
from typing import NamedTuple, Optional

from jobtree import (
    copies,
    database,
    disk_usage,
    files,
    lock,
    removing,
    restoring,
    snapshot,
    soundness,
    tempdirs,
)
from jobtree.database import Translated, Unsound
from jobtree.errors import DamagedTree, StorageError, UsageError
from jobtree.paths import TreePaths
from jobtree.report import how_to_continue, jobs
from jobtree.store import Store
from jobtree.treedir import Config


class Pruned(NamedTuple):
    """What a pruning has come to: bytes and files that went, bytes that are left. trouble: what was not possible, in
    words."""

    bytes: int
    files: int
    left: int
    trouble: Optional[str]


def prune(paths: TreePaths, config: Config) -> Pruned:
    """Prune the tree. Raises UsageError if it is not finished, AnotherMaster, StorageError."""
    seen = snapshot.take(paths)
    if seen.state not in (snapshot.COMPLETE, snapshot.RUNNING):  # one that is running is refused by its lock
        raise _unfinished(paths, seen.counts.left)
    holder = lock.TreeLock(paths)
    holder.acquire()
    try:
        return _prune_locked(paths, config)
    except DamagedTree as error:
        raise DamagedTree(copies.explain(paths, str(error))) from error
    finally:
        holder.release()


def _prune_locked(paths: TreePaths, config: Config) -> Pruned:
    soundness.ensure(paths)
    restoring.agree(paths, config)
    kept = _kept_values(paths)
    before = disk_usage.measure(paths, config.run)
    trouble = [_remove_all_but(path, kept) for path in paths.directories()]
    tempdirs.sweep_local(config.run)
    for path in (paths.status, paths.usage, paths.copy, *paths.damaged()):
        files.remove(path)
    _compact(paths)
    trouble.append(_copy(paths))
    after = disk_usage.measure(paths, config.run)
    left = "; ".join(filter(None, trouble))
    freed = before.bytes + before.local_dirs - after.bytes - after.local_dirs
    return Pruned(max(0, freed), max(0, before.files - after.files), after.bytes, left or None)


def _kept_values(paths: TreePaths) -> set[str]:
    """The files of the result. Raises UsageError if the tree is not finished."""
    store = Store(paths.database, exclusive=files.is_network(paths.root))
    try:
        counts = [sum(numbers) for numbers in zip(*store.counts().values())]
        left = sum(counts[:-1])
        if left or store.get("ended") != "complete":
            raise _unfinished(paths, left)
        if store.bundles():
            raise UsageError(
                f"{paths.root} is finished, and something of it may still be running: its master was killed before it "
                f"had cleaned up. A start does that, and takes a moment. {how_to_continue(paths.root)}"
            )
        return {paths.absolute(file) for file in store.value_files()}
    finally:
        store.close()


def _unfinished(paths: TreePaths, left: int) -> UsageError:
    return UsageError(
        f"{paths.root} is not finished: {jobs(left)} of it left. Only a finished tree is pruned, because what is "
        f"removed is what the others need. {how_to_continue(paths.root)}"
    )


def _remove_all_but(top: str, kept: set[str]) -> Optional[str]:
    """Empty a directory, but for files that are kept and the directories that those are in."""
    above = {os.path.dirname(path) for path in kept}
    trouble = []
    try:
        names = sorted(os.listdir(top))
    except FileNotFoundError:
        return None
    except OSError as error:
        raise files.refused(error, top) from error
    for path in (os.path.join(top, name) for name in names):
        if path in kept:
            continue
        trouble.append(_remove_all_but(path, kept) if path in above else removing.remove_tree(path))
    return "; ".join(filter(None, trouble)) or None


def _copy(paths: TreePaths) -> Optional[str]:
    """Make a copy of the small database in place of that of the large one; says in words why there is none."""
    try:
        copies.make(paths)
    except (Unsound, sqlite3.Error, OSError, StorageError) as error:
        return f"there is no copy of the database now: {error}"
    return None


def _compact(paths: TreePaths) -> None:
    """Give back what the rows of jobs that are done have taken. SQLite does it in one transaction."""
    with Translated(paths.database):
        connection = database.connect(paths.database, exclusive=files.is_network(paths.root))
        try:
            connection.execute("VACUUM")
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        finally:
            connection.close()
