"""What a job tree and its temporary directories take of the disk, and how that is known without looking at all of it.

Whoever asks looks at a bounded number of files, for a bounded time: of most trees that is all, and the answer is exact.
Of a large one the last measurement of its master is told, with its age. The master measures beside its loop, in a
thread, with pauses, and takes no more than a hundredth of the time of the run for it: a global temporary directory may
hold a million files. Where there is no measurement either, what was seen is said to be the least.

Sizes are what is taken on the disk, so that a sparse file counts for what it is, and a file with two names twice.
"""

from __future__ import annotations

import json
import os
import socket
import stat
import threading
from collections import deque
from collections.abc import Iterator
from typing import Any, Callable, NamedTuple, Optional

from jobtree import clock, files, tempdirs
from jobtree.errors import DamagedFile, StorageError
from jobtree.paths import TreePaths

_MOST_ENTRIES = 2000
_MOST_SECONDS = 0.1
"""So much whoever asks looks at."""

_FIRST_SECONDS = 60.0
_EVERY_SECONDS = 300.0
_COST = 100
"""The master measures not before so many times the seconds have passed that it took the last time."""

_PIECE = 200
_PAUSE = 0.01
"""After so many entries it pauses for so many seconds, in which the loop has the interpreter for itself."""


_BLOCK = 512
"""Bytes of a block, as stat counts them everywhere."""


class Usage(NamedTuple):
    """What is taken: bytes and files of the tree; of that, what is in global temporary directories; what local ones on
    host hold, in bytes. moment: seconds since 1970; whole: whether everything was seen."""

    bytes: int
    files: int
    global_dirs: int
    local_dirs: int
    host: str
    moment: float
    whole: bool = True


def look(paths: TreePaths, run: str) -> Usage:
    """What is known now, in bounded time. run: the tree's run token."""
    deadline = clock.elapsed() + _MOST_SECONDS
    left = _MOST_ENTRIES

    def go_on() -> bool:
        nonlocal left
        left -= 1
        return left >= 0 and clock.elapsed() < deadline

    now = _measure(paths, run, go_on)
    return now if now.whole else _measured(paths) or now


def measure(paths: TreePaths, run: str) -> Usage:
    """The whole of it, however long that takes."""
    return _measure(paths, run, lambda: True)


def of(path: str) -> tuple[int, int]:
    """Bytes and files of one directory, or file, with all that is in it."""
    found = [(size, is_file) for size, is_file in _walk(path, lambda: True) if size is not None]
    return sum(size for size, _ in found), sum(is_file for _, is_file in found)


def _measure(paths: TreePaths, run: str, go_on: Callable[[], bool]) -> Usage:
    sums = {"tree": 0, "files": 0, "global": 0, "local": 0}
    whole = True

    def add(path: str, *names: str) -> None:
        nonlocal whole
        for size, is_file in _walk(path, go_on):
            if size is None:
                whole = False
                return
            for name in names:
                sums[name] += size if is_file or name != "global" else 0
            sums["files"] += is_file and "tree" in names

    for path in tempdirs.local_dirs(run):
        add(path, "local")
    globals_ = paths.global_dirs
    for path in sorted(
        _entries(paths.root), key=lambda path: path == globals_
    ):  # that one last: it may be large
        add(path, "tree", *(["global"] if path == globals_ else []))
    return Usage(
        sums["tree"], sums["files"], sums["global"], sums["local"], socket.gethostname(), clock.wall(), whole
    )


def _entries(path: str) -> list[str]:
    try:
        return [os.path.join(path, name) for name in os.listdir(path)]
    except OSError:
        return []


def _walk(top: str, go_on: Callable[[], bool]) -> Iterator[tuple[Optional[int], bool]]:
    """What is taken by everything at and below a path, and whether it is a file; (None, False) when it must end.

    No link is followed, and what goes away meanwhile is not there.
    """
    try:
        status = os.lstat(top)
    except OSError:
        return
    yield status.st_blocks * _BLOCK, not stat.S_ISDIR(status.st_mode)
    ahead = deque([top] if stat.S_ISDIR(status.st_mode) else [])
    while ahead:
        try:
            with os.scandir(ahead.popleft()) as entries:
                for entry in entries:
                    if not go_on():
                        yield None, False
                        return
                    found = entry.stat(follow_symlinks=False)
                    if stat.S_ISDIR(found.st_mode):
                        ahead.append(entry.path)
                    yield found.st_blocks * _BLOCK, not stat.S_ISDIR(found.st_mode)
        except OSError:
            continue  # gone meanwhile, or a target has taken the permission away


# -- the master's measurements ---------------------------------------------------------------------------------


class Measurer:
    """Measures from time to time while it is entered."""

    def __init__(self, paths: TreePaths, run: str) -> None:
        self._paths = paths
        self._run = run
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._work, name="jobtree-measurer", daemon=True)

    def __enter__(self) -> Measurer:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ending.set()
        self._thread.join()

    def _work(self) -> None:
        wait = _FIRST_SECONDS
        while not self._ending.wait(wait):
            started = clock.elapsed()
            found = _measure(self._paths, self._run, self._go_on())
            if found.whole:
                note(self._paths, found)
            wait = max(_EVERY_SECONDS, _COST * (clock.elapsed() - started))

    def _go_on(self) -> Callable[[], bool]:
        seen = 0

        def go_on() -> bool:
            nonlocal seen
            seen += 1
            return not (self._ending.wait(_PAUSE) if seen % _PIECE == 0 else self._ending.is_set())

        return go_on


def note(paths: TreePaths, usage: Usage) -> None:
    """Write a measurement down, for whoever asks."""
    try:
        files.replace(paths.usage, json.dumps(usage._asdict()).encode())
    except StorageError:
        pass  # a full disk stops the run in its own place; that nothing new is known of it is no loss


def _measured(paths: TreePaths) -> Optional[Usage]:
    """The last measurement of a master; None if there is none that makes sense."""
    try:
        stored: Any = files.read_json(paths.usage)
        found = Usage(**stored)
        if any(
            type(getattr(found, name)) is not int for name in ("bytes", "files", "global_dirs", "local_dirs")
        ):
            return None
        return found._replace(host=str(found.host), moment=float(found.moment), whole=True)
    except (DamagedFile, StorageError, TypeError, ValueError):
        return None
