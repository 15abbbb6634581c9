"""Whether there is room for more where a run writes, so that it pauses *before* the disk or the inodes run out.

Two file systems are looked at, once a second: that of the job tree, and, once targets on this machine have been seen
to use them, that of the local temporary directories (a full /tmp stops nobody who does not need it). While one has
less room than --minFree says, the master issues nothing; what runs goes on. It is said once, and again when there is
room: a tenth more than is asked for, so that a disk on the edge does not make the run start and stop.

How it fails. What no file system tells (a quota of a user or a group, a disk elsewhere) is not seen here; there
a target or the master finds out when it is refused. What only the run itself would remove (files in global temporary
directories) stays while it is paused: then somebody has to make room, or start it again with another --minFree.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from typing import NamedTuple, Optional

from jobtree import tempdirs
from jobtree.bundles import RunningBundle
from jobtree.quantities import format_memory
from jobtree.shown import one_line

log: logging.Logger = logging.getLogger("jobtree")

_EVERY_SECONDS = 1.0

_BYTES = 1 << 30
_FILES = 10_000
_PART = 20
"""What is kept free unless --minFree says otherwise: so much, but no more than this part of a small file system."""

_MARGIN = 1.1
"""There is room again when there is so many times what is asked for."""


class Free(NamedTuple):
    """What a file system has left, and what is to be kept. files: inodes; None where they cannot run out."""

    bytes: int
    bytes_kept: int
    files: Optional[int]
    files_kept: int


def free(path: str, least: Optional[int]) -> Optional[Free]:
    """What is left where a path is; None if that cannot be told. least: bytes, None: what is sensible; 0: nothing."""
    try:
        there = os.statvfs(path)
    except OSError:
        return None
    kept = least if least is not None else min(_BYTES, there.f_blocks * there.f_frsize // _PART)
    if not there.f_files:
        return Free(there.f_bavail * there.f_frsize, kept, None, 0)
    files_kept = min(_FILES, there.f_files // _PART) if kept else 0
    return Free(there.f_bavail * there.f_frsize, kept, there.f_favail, files_kept)


class Room:
    """Looks whether there is room. bundles: those that are not over, by name.

    ``lacking`` says what there is too little of, in a sentence; empty: there is room.
    """

    def __init__(
        self, root: str, run: str, least: Optional[int], bundles: Mapping[str, RunningBundle]
    ) -> None:
        self.lacking: str = ""
        self._root = root
        self._run = run
        self._least = least
        self._bundles = bundles
        self._temporary_used = False
        self._next = 0.0

    def look(self, now: float) -> None:
        """Look, if it is time to, and say what has changed."""
        if now < self._next or self._least == 0:
            return
        self._next = now + _EVERY_SECONDS
        before, self.lacking = self.lacking, self._lacking(_MARGIN if self.lacking else 1.0)
        if self.lacking and not before:
            log.critical(
                "Paused, nothing more is started: %s What runs goes on. Make room there, and the run goes on by "
                "itself.", self.lacking,
            )  # fmt: skip
        elif before and not self.lacking:
            log.critical("There is room again: the run goes on.")

    def _lacking(self, margin: float) -> str:
        places = [self._root]
        if self._uses_temporary():
            places.append(tempdirs.local_root())
        found = (_lacking(place, free(place, self._least), margin) for place in places)
        return next(filter(None, found), "")

    def _uses_temporary(self) -> bool:
        if not self._temporary_used:
            self._temporary_used = any(
                os.path.lexists(tempdirs.local_base(self._run, bundle.id))
                for bundle in self._bundles.values()
                if not bundle.supervised
            )
        return self._temporary_used


def _lacking(path: str, there: Optional[Free], margin: float) -> str:
    if there is None:
        return ""
    if there.bytes < there.bytes_kept * margin:
        has, asked = format_memory(there.bytes), format_memory(there.bytes_kept)
        return f"{one_line(path)} has {has} free, and {asked} are to be kept free (--minFree)."
    if there.files is not None and there.files < there.files_kept * margin:
        return (
            f"{one_line(path)} has room for {there.files} files (inodes), and {there.files_kept} are to be kept free "
            "(--minFree 0 turns that off)."
        )
    return ""
