"""Getting back what a damaged tree has lost: its configuration, and, at the user's word, its state of a while ago.

``config.json`` is also in the database, so it is written again from there, with a warning.

Going back to the copy of the database (``jobTreeRun --restoreCopy``) is never done by itself, because it forgets:
targets that have ended since run again. What must hold, so that nothing wrong comes of it:

  - Everything that was started is ended first, and the tree gets a new run token: what still turns up under the old
    one is not of this run.
  - No outcome is believed, no bundle is kept. What was issued is ready again.
  - New bundles get numbers far above all that can have been used, so nothing that was made after the copy (directories,
    logs, values) is ever met under a number of today.
  - A chain whose directory or promised value has been removed since fails, with that as its reason, also when it is
    tried again: its next target is replaced by one that says so. What was below such a chain is dropped: it worked
    for a follow-on that can never run.

The changes are made in a new file, which takes the database's place when it is whole and synced; killed anywhere
before, the tree is as damaged as it was, and the same command starts again from the copy.
"""

from __future__ import annotations

import json
import logging
import os
import sqlite3
from typing import Callable, Optional

from jobtree import clock, copies, database, files, serialization, soundness, treedir
from jobtree.copies import Copy
from jobtree.database import Unsound
from jobtree.errors import (
    DamagedFile,
    DamagedTree,
    JobTreeError,
    NotAJobTree,
    StorageError,
    TargetError,
    UsageError,
)
from jobtree.paths import FORMAT, TreePaths, job_name
from jobtree.target import Target
from jobtree.treedir import Config

log: logging.Logger = logging.getLogger("jobtree")

_FAR = 1_000_000
"""How many bundles may have been made since a copy and have left nothing by which that can be known."""


# -- the configuration -----------------------------------------------------------------------------------------


def is_there(paths: TreePaths) -> bool:
    """Whether there is a tree, whatever state its configuration is in. Raises NotAJobTree."""
    try:
        return treedir.read_config(paths) is not None or _stored_config(paths.database) is not None
    except DamagedFile:
        return True
    except NotAJobTree:
        if _is_mistaken(paths):
            return True
        raise


def config_of(paths: TreePaths) -> Optional[Config]:
    """The configuration of a tree, written again if it is damaged or gone; None if there is no tree yet.

    The caller holds the lock. Raises NotAJobTree, DamagedFile.
    """
    damage: Optional[JobTreeError] = None
    try:
        config = treedir.read_config(paths)
    except (DamagedFile, NotAJobTree) as error:
        if isinstance(error, NotAJobTree) and not _is_mistaken(paths):
            raise
        config, damage = None, error
    if config is not None:
        return config
    stored = _stored_config(paths.database) or _stored_config(paths.copy)
    if stored is None:
        if damage is None:
            return None
        raise DamagedFile(
            f"{damage} Neither the database nor its copy has it any more, so what is in {paths.root} cannot be known. "
            "Look at the disk and at the system's log, and start the script anew with another --jobTree."
        )
    treedir.check_private(paths)
    log.warning("%s is written again from the database: %s", paths.config, damage or "it was gone")
    treedir.put_config(paths, stored)
    return stored


def _is_mistaken(paths: TreePaths) -> bool:
    """Whether ``config.json`` only seems to be of something else: the directory is ours, and its database a tree of
    this version."""
    treedir.check(paths)
    stored = _stored_config(paths.database)
    return stored is not None and stored.format == FORMAT


def agree(paths: TreePaths, config: Config) -> Config:
    """The configuration as the database, which was looked through, has it; the file is made to agree."""
    stored = _stored_config(paths.database)
    if stored is None or stored == config:
        return config
    log.warning("%s does not say what the database says: it is written again from there", paths.config)
    treedir.put_config(paths, stored)
    return stored


def _stored_config(path: str) -> Optional[Config]:
    """What a database says of its tree; None if it has never been run, or cannot be read."""
    try:
        connection = database.connect(path, exclusive=files.is_network(path))
    except sqlite3.Error:
        return None
    try:
        meta = database.read_meta(connection)
        if not soundness.has_run(meta):
            return None
        return Config(**json.loads(meta["config"]))
    except (Unsound, sqlite3.Error, KeyError, TypeError, ValueError):
        return None
    finally:
        connection.close()


# -- going back to the copy ------------------------------------------------------------------------------------


class LostChain(Target):
    """Takes the place of a target that cannot run any more. why: in words."""

    def __init__(self, why: str) -> None:
        super().__init__()
        self.why = why

    def run(self) -> None:
        """Fail, with the reason."""
        raise TargetError(self.why)


def go_back(paths: TreePaths, config: Config, end_all: Callable[[str], None]) -> Config:
    """Go back to the copy of the database. The caller holds the lock. Returns the new configuration.

    end_all: ends everything that was started under a run token, and returns when it is over.
    Raises UsageError if the database is sound, DamagedTree if there is nothing to go back to.
    """
    try:
        soundness.ensure(paths)
    except DamagedTree as error:
        log.warning("%s", error)
    else:
        raise UsageError(
            f"{paths.database} is sound, so there is no reason to go back to the copy: what was done since would be "
            "forgotten. Continue without --restoreCopy."
        )
    try:
        copy = copies.look(paths)
    except (Unsound, sqlite3.Error) as error:
        raise DamagedTree(f"{paths.copy} is damaged: {error}. There is nothing to go back to.") from error
    if copy is None:
        raise DamagedTree(f"There is no {paths.copy}, so there is nothing to go back to.")
    end_all(config.run)
    config = config._replace(run=treedir.new_token())
    new = paths.database + ".new"
    try:
        _write(paths, copy, config, new)
    except sqlite3.Error as error:
        files.remove(new)
        raise StorageError(
            f"{new} cannot be written: {error}. Look at the space left there (df, quota), and start the same command "
            "again."
        ) from error
    treedir.put_config(paths, config)
    database.move_away(paths.database, paths.database + ".damaged")
    database.put_in_place(new, paths.database)
    soundness.trust(paths)
    _tell(paths, copy)
    return config


def _write(paths: TreePaths, copy: Copy, config: Config, new: str) -> None:
    """Write the database from which the run goes on."""
    source = database.connect(paths.copy, immutable=True)
    try:
        database.copy(source, new)
    finally:
        source.close()
    connection = database.connect(new, exclusive=True)
    try:
        connection.execute("BEGIN IMMEDIATE")
        _renumber(connection, paths, config)
        _take_back(connection, paths)
        _fail(connection, copy)
        _count(connection)
        connection.execute("COMMIT")
        database.check(connection, rows_too=True)
    except Unsound as error:
        raise DamagedTree(f"{paths.copy} cannot be gone back to: {error}.") from error
    finally:
        connection.close()


def _renumber(connection: sqlite3.Connection, paths: TreePaths, config: Config) -> None:
    meta = database.read_meta(connection)
    values = {
        "config": config.to_json(),
        "ended": "",
        "kernel": "",
        "generation": int(meta["generation"]) + _FAR,
        "next_bundle": max([int(meta["next_bundle"]), *paths.numbers_used()]) + _FAR,
    }
    connection.executemany("INSERT OR REPLACE INTO meta VALUES (?, ?)", list(values.items()))


def _take_back(connection: sqlite3.Connection, paths: TreePaths) -> None:
    """What was issued is ready; a chain at its first target whose directory is gone makes a new one."""
    connection.execute("UPDATE jobs SET state = 0, bundle = 0 WHERE state > 0 AND state = 1")
    connection.execute("DELETE FROM bundles")
    ids = connection.execute("SELECT id FROM jobs WHERE has_global AND state != 2 AND step = 0").fetchall()
    gone = [(id,) for (id,) in ids if not os.path.isdir(paths.global_dir(id))]
    connection.executemany("UPDATE jobs SET has_global = 0 WHERE id = ?", gone)


def _fail(connection: sqlite3.Connection, copy: Copy) -> None:
    """Give up the chains that cannot go on, and drop what is below them."""
    connection.execute("CREATE TEMP TABLE dropped (id INTEGER PRIMARY KEY)")
    for id, _, _ in copy.lost:
        connection.execute(
            "WITH RECURSIVE below(id) AS (SELECT id FROM jobs WHERE parent = ? UNION "
            "SELECT jobs.id FROM jobs JOIN below ON jobs.parent = below.id) "
            "INSERT OR IGNORE INTO temp.dropped SELECT id FROM below",
            (id,),
        )
    for table, column in (("jobs", "id"), ("failures", "job"), ("mentions", "holder")):
        connection.execute(f"DELETE FROM {table} WHERE {column} IN (SELECT id FROM temp.dropped)")
    for id, name, why in copy.lost:
        text = (
            f"the tree was taken back to a copy of {clock.text(copy.moment)}, and {why}. To run this, start the script "
            "anew with another --jobTree."
        )
        payload = serialization.pack(LostChain(text)).payload
        changed = connection.execute(
            "UPDATE jobs SET state = 3, pending = 0, has_next = 1, alone = 0, has_global = 0, payload = ? WHERE id = ?",
            (payload, id),
        )
        if changed.rowcount:
            connection.execute("DELETE FROM mentions WHERE holder = ?", (id,))
            connection.execute(
                "INSERT OR REPLACE INTO failures "
                "SELECT id, attempt, ?, 'restored', ?, '', '', NULL, 0, 0, NULL, NULL, ? FROM jobs WHERE id = ?",
                (name, text, clock.wall(), id),
            )
    unwanted = "token NOT IN (SELECT token FROM mentions)"
    while connection.execute(f"DELETE FROM promised WHERE {unwanted}").rowcount:
        connection.execute(
            "DELETE FROM mentions WHERE typeof(holder) = 'blob' AND holder NOT IN (SELECT token FROM promised)"
        )


def _count(connection: sqlite3.Connection) -> None:
    for state, name in enumerate(("ready", "issued", "blocked", "failed")):
        connection.execute(
            f"UPDATE shapes SET {name} = (SELECT count(*) FROM jobs WHERE shape = shapes.id AND state = {state})"
        )


def _tell(paths: TreePaths, copy: Copy) -> None:
    log.warning(
        "%s is back at its state of %s: %d jobs done, %d not. The damaged database is kept as "
        "%s.damaged", paths.root, clock.text(copy.moment), copy.done, copy.left, paths.database,
    )  # fmt: skip
    for id, name, why in copy.lost:
        log.warning("job %s (%s) cannot go on: %s", job_name(id), name, why)
