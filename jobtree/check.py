"""Is a tree as it should be? What ``jobTreeStatus --check`` tells.

It only looks: nothing in the tree is changed, and a master that runs it is not disturbed (then files come and go, so
only what cannot be otherwise is said of them). A finding is *wrong*, something that should not be, whatever has died
when; or a *note*: what an interrupted run leaves, which the next start puts right by itself.

Every finding says what was found, where, and what to do.
"""

from __future__ import annotations

import os
import sqlite3
import stat
from collections.abc import Iterator
from dataclasses import dataclass

from jobtree import clock, copies, database, files, frames, lock, snapshot, soundness, treedir
from jobtree.database import Unsound
from jobtree.errors import JobTreeError, StorageError, UsageError
from jobtree.paths import TreePaths, job_name
from jobtree.schema import SCHEMA

_NEXT_START = "Nothing to do: the next start puts it right."
_DISK = "Look at the disk and at the system's log (dmesg)."
_MOST = 20
"""Findings of one kind that are listed one by one."""


@dataclass(frozen=True)
class Finding:
    """One thing that was found. wrong: it should not be so; otherwise it is just to be known."""

    wrong: bool
    path: str
    found: str
    advice: str


class _Seen:
    """What the database says of files."""

    def __init__(self) -> None:
        self.in_order = False
        self.bundles: dict[int, int] = {}
        self.values: set[str] = set()
        self.jobs_with_dirs: dict[int, bool] = {}
        self.removals: set[str] = set()
        self.logs: set[str] = set()


def check(paths: TreePaths) -> list[Finding]:
    """Look at everything in a job tree. Raises AnotherMaster where a running master has the database for itself."""
    if not os.path.isdir(paths.root):
        raise UsageError(
            f"{paths.root} does not exist. Give the directory that the run got as its --jobTree."
        )
    running = lock.is_held(paths)
    found = list(_check_directory(paths))
    found += _check_json(paths)
    seen = _Seen()
    sound = list(_check_database(paths, seen))
    found += sound
    if not any(finding.wrong for finding in sound) and not running:
        found += _few(_check_bundles(paths, seen))
        found += _few(_check_values(paths, seen))
        found += _few(_check_global_dirs(paths, seen))
    found += _check_copy(paths)
    if not running and not soundness.is_trusted(paths):
        found.append(
            Finding(
                False, paths.synced, "a sync has failed: what targets left last may not be on the disk",
                "The next start runs those targets once more. " + _DISK,
            )
        )  # fmt: skip
    return found


def _few(findings: Iterator[Finding]) -> Iterator[Finding]:
    """The first findings of each kind, and how many more there are."""
    numbers: dict[tuple[bool, str], int] = {}
    for finding in findings:
        kind = (finding.wrong, finding.advice)
        numbers[kind] = numbers.get(kind, 0) + 1
        if numbers[kind] <= _MOST:
            yield finding
    for (wrong, advice), number in numbers.items():
        if number > _MOST:
            yield Finding(wrong, "", f"{number - _MOST} more of the kind before that", advice)


# -- directory and small files ---------------------------------------------------------------------------------


def _check_directory(paths: TreePaths) -> Iterator[Finding]:
    """Owner and mode of everything that is ours; what targets left is their affair."""
    if os.path.islink(paths.root):
        yield Finding(
            True, paths.root, "is a symbolic link", "Give the directory itself: whoever owns the link can turn it."
        )  # fmt: skip
    for folder, names, others in os.walk(paths.root):
        for name in [".", *others]:
            path = folder if name == "." else os.path.join(folder, name)
            yield from _few(_check_mode(path))
        if folder == paths.global_dirs:
            names[:] = []
    for path in paths.directories():
        if not os.path.isdir(path):
            yield Finding(True, path, "the directory is not there", f"Make it: mkdir -m 700 {path}")


def _check_mode(path: str) -> Iterator[Finding]:
    try:
        status = os.lstat(path)
    except FileNotFoundError:
        return  # removed while we look
    if stat.S_ISLNK(status.st_mode):
        yield Finding(
            True, path, "is a symbolic link", "Jobtree makes none here. Find out who did, and remove it."
        )
        return
    if status.st_uid != os.geteuid():
        yield Finding(
            True, path, f"belongs to the user with number {status.st_uid}, not to you",
            "What lies here is run as code. Find out how it came here, and remove it unless you trust it.",
        )  # fmt: skip
    elif status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        yield Finding(
            True, path, f"can be written by others (mode {stat.S_IMODE(status.st_mode):o})",
            "What lies here is run as code. If you trust what is there: chmod go-w on it.",
        )  # fmt: skip
    elif stat.S_ISDIR(status.st_mode) and status.st_mode & stat.S_IRWXU != stat.S_IRWXU:
        yield Finding(
            True, path, f"is closed to its owner (mode {stat.S_IMODE(status.st_mode):o})", "chmod u+rwx on it."
        )  # fmt: skip


def _check_json(paths: TreePaths) -> Iterator[Finding]:
    advice = {
        paths.config: "The next start writes it again from the database.",
        paths.environment: "Start the script itself with the same --jobTree: that writes it again.",
        paths.settings: "Remove it; then jobTreeRun goes on with the options that you give, and defaults.",
    }
    for path, what in advice.items():
        try:
            if files.read_json(path) is None:
                yield Finding(path != paths.settings, path, "is not there", what)
        except StorageError as error:
            yield Finding(True, path, str(error), what)
    try:
        treedir.read_config(paths)
    except StorageError:
        pass  # told above
    except JobTreeError as error:
        yield Finding(True, paths.config, str(error), "Nothing in it is run until that is mended.")


# -- the database ----------------------------------------------------------------------------------------------


def _check_database(paths: TreePaths, seen: _Seen) -> Iterator[Finding]:
    what_now = f"Start the same command again: it says what can be gone back to, and changes nothing. {_DISK}"
    if not os.path.exists(paths.database):
        yield Finding(True, paths.database, "is not there", what_now)
        return
    try:
        database.check_size(paths.database)
        with snapshot.opened(paths) as connection:
            connection.execute("BEGIN")
            database.check(connection, rows_too=True)
            yield from _check_schema(paths, connection)
            _see(connection, seen)
            connection.execute("COMMIT")
    except (Unsound, ValueError) as error:
        yield Finding(True, paths.database, f"is damaged: {error}", what_now)
    except sqlite3.Error as error:
        if database.is_damage(error):
            yield Finding(True, paths.database, f"is damaged: {error}", what_now)
        else:
            raise snapshot.explained(paths, lock.is_held(paths), error) from error
    except OSError as error:
        advice = f"Check who owns it and its mode. {_DISK}"
        yield Finding(True, paths.database, f"cannot be read: {error.strerror}", advice)


def _check_schema(paths: TreePaths, connection: sqlite3.Connection) -> Iterator[Finding]:
    expected = {" ".join(statement.split()) for statement in SCHEMA.split(";") if statement.strip()}
    found = {
        " ".join(sql.split())
        for (sql,) in connection.execute("SELECT sql FROM sqlite_master WHERE sql NOT NULL")
    }
    for statement in sorted(expected - found):
        yield Finding(
            True, paths.database, f"lacks: {statement.split('(')[0].strip()}",
            "Another version of jobtree made it, or somebody changed it: continue it with the version that made it.",
        )  # fmt: skip


def _see(connection: sqlite3.Connection, seen: _Seen) -> None:
    execute = connection.execute
    seen.in_order = database.read_meta(connection).get("ended") in soundness.ORDERLY
    seen.bundles = dict(execute("SELECT id, offset FROM bundles"))
    seen.values = {file for (file,) in execute("SELECT file FROM promised WHERE file IS NOT NULL")}
    seen.jobs_with_dirs = {
        id: bool(needed)
        for id, needed in execute("SELECT id, state = 2 OR step > 0 FROM jobs WHERE has_global")
    }
    seen.removals = {path for (path,) in execute("SELECT path FROM removals")}
    seen.logs = {log for (log,) in execute("SELECT log FROM failures WHERE log IS NOT NULL")}


def _check_copy(paths: TreePaths) -> Iterator[Finding]:
    try:
        copy = copies.look(paths)
    except (Unsound, sqlite3.Error, ValueError, OSError) as error:
        advice = f"Remove it: the master makes another one. {_DISK}"
        yield Finding(True, paths.copy, f"is damaged: {error}", advice)
        return
    if copy is not None:
        yield Finding(
            False, paths.copy,
            f"is the database as it was at {clock.text(copy.moment)}: {copy.done} jobs done, {copy.left} not",
            "Should the database be damaged, the next start says how to go back to it.",
        )  # fmt: skip


# -- files that the database knows -----------------------------------------------------------------------------


def _check_bundles(paths: TreePaths, seen: _Seen) -> Iterator[Finding]:
    for number, offset in seen.bundles.items():
        for path in (paths.bundle(number), paths.outcome(number)):
            if not os.path.exists(path):
                yield Finding(False, path, "is not there", "The next start runs its jobs once more.")
        yield from _check_outcome(paths.outcome(number), offset)
    for kind in ("bundles", "claims", "outcomes", "heartbeats"):
        for path, number in _numbered(os.path.join(paths.root, kind)):
            if number not in seen.bundles:
                yield Finding(seen.in_order, path, "belongs to no bundle that is known", _NEXT_START)
    for relative in sorted(seen.logs):
        path = paths.absolute(relative)
        if not os.path.exists(path):
            yield Finding(True, path, "the log of a failed job is not there", "Nothing but this log is lost.")


def _check_outcome(path: str, offset: int) -> Iterator[Finding]:
    try:
        size = os.path.getsize(path)
    except FileNotFoundError:
        return
    advice = "The next start runs the jobs once more of which it does not tell."
    if size < offset:
        yield Finding(
            True, path, f"holds {size} bytes, and {offset} were read from it before", f"{advice} {_DISK}"
        )
        return
    with open(path, "rb") as file:
        file.seek(offset)
        try:
            for _ in frames.frames_of(file, offset, size):
                pass
        except frames.Damaged as error:
            yield Finding(False, path, f"is torn: {error}", advice)


def _check_values(paths: TreePaths, seen: _Seen) -> Iterator[Finding]:
    there = set(paths.existing_values())
    for relative in sorted(seen.values - there):
        yield Finding(
            True, paths.absolute(relative), "the file of a returned value is not there",
            f"The targets to which it was promised will fail. {_DISK}",
        )  # fmt: skip
    for relative in sorted(there - seen.values - seen.removals):
        yield Finding(
            seen.in_order, paths.absolute(relative), "is a value that nobody was promised", _NEXT_START
        )


def _check_global_dirs(paths: TreePaths, seen: _Seen) -> Iterator[Finding]:
    there = set(paths.existing_global_dirs())
    for id, needed in sorted(seen.jobs_with_dirs.items()):
        if needed and id not in there:
            yield Finding(
                True, paths.global_dir(id), f"the global temporary directory of job {job_name(id)} is not there",
                "What its first targets left is lost, and its next ones will find an empty directory. Stop, and start "
                "the script anew with another --jobTree.",
            )  # fmt: skip
    for id in sorted(there - set(seen.jobs_with_dirs)):
        path = paths.global_dir(id)
        if os.path.relpath(path, paths.root) not in seen.removals:
            yield Finding(seen.in_order, path, "belongs to no job that is known", _NEXT_START)


def _numbered(top: str) -> Iterator[tuple[str, int]]:
    """The files of bundles in a directory; -1 for one whose name is no number."""
    for folder, _, names in os.walk(top):
        for name in names:
            yield os.path.join(folder, name), int(name) if name.isdigit() else -1
