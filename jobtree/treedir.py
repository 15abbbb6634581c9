"""The job tree directory: making one, and refusing what is not one.

``config.json`` is written last when a tree is made. A directory without it that holds only names of ours is a tree
whose making was interrupted: nothing has run from it, and it is made again. Anything else in the way is refused before
anything is read from it, because what lies in a job tree is code: it must be ours, and nobody else may write there.
"""

from __future__ import annotations

import errno
import json
import os
import stat
from typing import NamedTuple

from jobtree import clock, files
from jobtree.errors import NotAJobTree
from jobtree.paths import FORMAT, TreePaths
from jobtree.version import VERSION

_OURS = frozenset(
    ["lock", "lock.json", "lock.trial", "config.json", "environment.json", "settings.json", "status.json", "synced",
     "report.json", "usage.json", "definitions.pickle",
     "tree.sqlite", "tree.sqlite-wal", "tree.sqlite-shm", "tree.sqlite-journal", "tree.sqlite.new",
     "tree.sqlite.damaged", "tree.sqlite.damaged-wal", "tree.sqlite.damaged-shm", "copy.sqlite", "copy.sqlite.new"]
)  # fmt: skip

_MOST_LINKS = 40
"""So many symbolic links Linux follows on one way."""


class Config(NamedTuple):
    """What ``config.json`` says. run: the token that names this run in batch systems and temporary directories;
    root, root_digest: the class of the first target, and a digest of its pickle."""

    format: int
    version: str
    run: str
    created: float
    root: str
    root_digest: str

    def to_json(self) -> str:
        """As it is kept in the database, in case the file is lost."""
        return json.dumps(self._asdict())


def check(paths: TreePaths, only_shown: bool = False) -> None:
    """Raise NotAJobTree unless the directory is ours alone. (It need not exist.)

    only_shown: it may be somebody else's, because what it says is shown, and nothing in it is believed or loaded.
    """
    root = paths.root
    check_way(root)
    try:
        status = os.stat(root)
    except FileNotFoundError:
        return
    except OSError as error:
        if error.errno in (errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG):
            raise NotAJobTree(
                f"{root} cannot be a directory: {error.strerror}. Give another --jobTree."
            ) from error
        raise files.refused(error, root) from error
    if not stat.S_ISDIR(status.st_mode):
        raise NotAJobTree(f"{root} is a file; a job tree is a directory. Give another --jobTree.")
    if status.st_uid != os.geteuid() and not only_shown:
        raise NotAJobTree(
            f"{root} belongs to the user with number {status.st_uid} and you are {os.geteuid()}. A job tree holds code "
            "that runs as whoever continues it; only its owner may. Give a --jobTree of your own."
        )
    # Only a job tree: for any other directory this would be dangerous advice, and it is refused for what it is.
    if os.path.lexists(paths.config):
        check_private(paths)


def check_way(root: str) -> None:
    """Raise NotAJobTree if somebody else decides where the way to the directory leads.

    That is so where a directory on the way lets everybody rename what others have in it (which the sticky bit of /tmp
    forbids), and where a symbolic link in one like /tmp is neither ours nor the system's. Groups are believed: a
    directory of a project that its group can write is what many people have.
    """
    ahead = [name for name in root.split("/") if name][::-1]
    here, links = "/", 0
    while ahead:
        name = ahead.pop()
        if name == "..":
            here = os.path.dirname(here)
            continue
        path = os.path.join(here, name)
        try:
            above, status = os.stat(here), os.lstat(path)
        except OSError:
            return  # not there: whoever makes or opens it will say so
        _check_step(root, here, above, path, status)
        if not stat.S_ISLNK(status.st_mode):
            here = path
            continue
        links += 1
        if links > _MOST_LINKS:
            return  # a circle: opening it will say so
        target = os.readlink(path)
        here = "/" if target.startswith("/") else here
        ahead += [part for part in target.split("/") if part not in ("", ".")][::-1]


def _check_step(root: str, here: str, above: os.stat_result, path: str, status: os.stat_result) -> None:
    """Raise NotAJobTree if others than us, root and the owner of ``here`` can turn ``path``, which lies there."""
    if not above.st_mode & stat.S_IWOTH:
        return
    if not above.st_mode & stat.S_ISVTX:
        raise NotAJobTree(
            f"{here}, on the way to {root}, can be written by everybody, without the sticky bit (mode "
            f"{stat.S_IMODE(above.st_mode):o}): anybody can put another directory in the place of the job tree, and "
            f"what is in it is run as code. Give a --jobTree elsewhere, or have its owner say: chmod +t {here}"
        )
    if stat.S_ISLNK(status.st_mode) and status.st_uid not in (os.geteuid(), 0, above.st_uid):
        raise NotAJobTree(
            f"{path}, on the way to {root}, is a symbolic link that the user with number {status.st_uid} has put where "
            "everybody can write; whoever owns it decides what is run. Give a --jobTree that does not go through it."
        )


def check_private(paths: TreePaths) -> None:
    """Raise NotAJobTree if others may write in the directory, in those below it, or in its database."""
    for path in (paths.root, *paths.directories(), paths.database):
        try:
            mode = os.stat(path).st_mode
        except FileNotFoundError:
            continue
        if mode & (stat.S_IWGRP | stat.S_IWOTH):
            raise NotAJobTree(
                f"{path} can be written by others (mode {stat.S_IMODE(mode):o}), who may have put code there. "
                f"If you trust what is there: chmod go-w {path}"
            )


def is_anothers(paths: TreePaths) -> bool:
    """Whether the directory belongs to another user."""
    try:
        return os.stat(paths.root).st_uid != os.geteuid()
    except OSError:
        return False


def read_config(paths: TreePaths, only_shown: bool = False) -> Config | None:
    """The configuration of a tree; None if there is none (or its making was interrupted). only_shown: see ``check``.

    Raises NotAJobTree for a directory that holds something else, or another version's tree.
    """
    check(paths, only_shown)
    stored = files.read_json(paths.config)
    if stored is None:
        _check_empty(paths)
        return None
    if not isinstance(stored, dict) or not isinstance(stored.get("format"), int):
        raise NotAJobTree(f"{paths.config} is not of a job tree. Give another --jobTree.")
    if stored["format"] != FORMAT:
        raise NotAJobTree(
            f"{paths.root} was made by jobtree {stored.get('version')} in format {stored['format']}; this is jobtree "
            f"{VERSION}, which reads format {FORMAT}. Continue it with that version, or start anew elsewhere."
        )
    missing = [name for name in Config._fields if name not in stored]
    if missing:
        raise NotAJobTree(
            f"{paths.config} lacks {', '.join(missing)}, so it is not of a job tree. Give another --jobTree."
        )
    return Config(**{name: stored[name] for name in Config._fields})


def _check_empty(paths: TreePaths) -> None:
    try:
        names = set(os.listdir(paths.root))
    except FileNotFoundError:
        return
    ours = _OURS | {os.path.basename(path) for path in paths.directories()}
    # What was being replaced when a making was interrupted is still there under its temporary name.
    others = sorted(name for name in names if files.final_name(name) not in ours)
    if others:
        raise NotAJobTree(
            f"{paths.root} exists and is not a job tree: it holds {others[0]!r}"
            f"{f' and {len(others) - 1} more' if len(others) > 1 else ''}. Give that of a job tree, or, to "
            "start a run, one that does not exist yet."
        )


def make_root(paths: TreePaths) -> None:
    """Make the directory itself, so that its lock can be taken. Raises StorageError."""
    try:
        os.makedirs(paths.root, 0o700, exist_ok=True)
        os.chmod(paths.root, 0o700)
    except OSError as error:
        raise files.refused(error, paths.root) from error


def make_directories(paths: TreePaths) -> None:
    """Make the directories of a tree that is to be made; what an interrupted making left is used or removed."""
    try:
        for path in paths.directories():
            os.makedirs(path, 0o700, exist_ok=True)
        for suffix in ("", "-wal", "-shm", "-journal"):
            files.remove(paths.database + suffix)
    except OSError as error:
        raise files.refused(error, paths.root) from error


def remove_interrupted(paths: TreePaths) -> None:
    """Remove what is left of files that an earlier master was about to replace when it died; under the tree's lock."""
    for name in os.listdir(paths.root):
        if files.final_name(name) != name:
            files.remove(os.path.join(paths.root, name))


def write_config(paths: TreePaths, root: str, root_digest: str, run: str) -> Config:
    """Make the tree one: everything else is there. Durable when it returns."""
    config = Config(FORMAT, VERSION, run, clock.wall(), root, root_digest)
    put_config(paths, config)
    return config


def put_config(paths: TreePaths, config: Config) -> None:
    """Write the configuration of a tree. Durable when it returns."""
    files.fsync_directory(paths.root)
    files.write_json(paths.config, config._asdict())
    files.fsync_way_to(paths.root)


def new_token() -> str:
    """A token for a new run: letters and digits, good for names of jobs and of directories."""
    return os.urandom(6).hex()
