"""A disk that loses power: what a file system may have kept, and what it may have lost, when the current goes.

Pure: no FUSE here (that is ``power_cut_fs.py``), so that the model itself can be tested. What is written, made, renamed
and removed is pending until a sync of the file or directory that it is in; ``cut`` decides what of it survives.

The model is the weakest that a program may meet on the file systems that people use:

  Data      A sync of a file makes its content and its length durable, and nothing else. Of what was written since,
            each sector of 512 bytes survives by itself, in any of the states that it has had; so writes are torn
            and reordered. The length is any that the file has had since. What was never written reads as zeros. A
            write does not harm what is beside it.
  Names     A sync of a directory makes the names in it durable, and neither the files behind them nor the directory's
            own name. (ext4, XFS and btrfs keep a new file's name when the file is synced; POSIX does not ask for
            it, and ext2 does not do it.) Without a sync each change of a name survives or not, in any order among
            different names; for one and the same name, in the order in which they were made. A rename is one
            change: the old name is gone and the new one there, or neither.
  Inodes    Mode, owner and times come with the name.

So a name may be there without the content behind it, or the reverse; ``write, rename`` without a sync may leave an
empty file; an unlink may be undone. Nothing that was synced is ever lost, unless the disk lies: then a sync answers
and does nothing, as some disks' caches do.
"""

from __future__ import annotations

import errno
import os
import random
import stat
from collections.abc import Iterator
from typing import NamedTuple, Optional

SECTOR = 512
ROOT = 1


def error(number: int) -> OSError:
    """An error of the file system."""
    return OSError(number, os.strerror(number))


class Inode:
    """A file, directory or link. data: the content now; synced: the content at the last sync; links: its names now."""

    def __init__(self, number: int, mode: int, moment: float) -> None:
        self.number = number
        self.mode = mode
        self.uid = 0
        self.gid = 0
        self.times = [moment, moment, moment]  # access, content, inode
        self.data = bytearray()
        self.synced = b""
        self.writes: list[tuple[int, bytes, int]] = []  # offset, data, length of the file afterwards
        self.links = 0
        self.entries: dict[str, int] = {}
        self.synced_entries: dict[str, int] = {}
        self.target = ""

    @property
    def is_directory(self) -> bool:
        """Whether it holds names."""
        return stat.S_ISDIR(self.mode)


class Change(NamedTuple):
    """One change of names: (directory, name, inode or None) for each name that it touches."""

    names: tuple[tuple[int, str, Optional[int]], ...]

    def touches(self) -> set[tuple[int, str]]:
        """The names."""
        return {(directory, name) for directory, name, _ in self.names}


class Disk:
    """All inodes, and the changes of names that no sync has covered. lies: a sync answers and does nothing."""

    def __init__(self, lies: bool = False) -> None:
        self.lies = lies
        self.inodes: dict[int, Inode] = {ROOT: Inode(ROOT, stat.S_IFDIR | 0o755, 0.0)}
        self.changes: list[Change] = []
        self._next = ROOT + 1

    # -- names -------------------------------------------------------------------------------------------------

    def find(self, path: str) -> Inode:
        """The inode at an absolute path; no link is followed."""
        inode = self.inodes[ROOT]
        for part in path.split("/"):
            if part:
                if not inode.is_directory:
                    raise error(errno.ENOTDIR)
                if part not in inode.entries:
                    raise error(errno.ENOENT)
                inode = self.inodes[inode.entries[part]]
        return inode

    def _place(self, path: str) -> tuple[Inode, str]:
        above, _, name = path.rpartition("/")
        directory = self.find(above)
        if not directory.is_directory:
            raise error(errno.ENOTDIR)
        return directory, name

    def make(self, path: str, mode: int, moment: float) -> Inode:
        """A new file, directory or link, with its type in the mode."""
        directory, name = self._place(path)
        if name in directory.entries:
            raise error(errno.EEXIST)
        inode = self.inodes[self._next] = Inode(self._next, mode, moment)
        self._next += 1
        self._change(moment, (directory, name, inode.number))
        return inode

    def link(self, old: str, new: str, moment: float) -> None:
        """A second name for a file."""
        inode = self.find(old)
        directory, name = self._place(new)
        if name in directory.entries:
            raise error(errno.EEXIST)
        self._change(moment, (directory, name, inode.number))

    def remove(self, path: str, moment: float) -> None:
        """Take a name away; a directory must be empty. The inode stays for those who have it open."""
        directory, name = self._place(path)
        inode = self.find(path)
        if inode.is_directory and inode.entries:
            raise error(errno.ENOTEMPTY)
        self._change(moment, (directory, name, None))

    def rename(self, old: str, new: str, moment: float) -> None:
        """Give an inode another name, in place of what has that name now."""
        source, name = self._place(old)
        inode = self.find(old)
        target, new_name = self._place(new)
        there = target.entries.get(new_name)
        if there == inode.number:
            return
        if there is not None:
            if self.inodes[there].entries:
                raise error(errno.ENOTEMPTY)
            if self.inodes[there].is_directory != inode.is_directory:
                raise error(errno.ENOTDIR if inode.is_directory else errno.EISDIR)
        self._change(moment, (source, name, None), (target, new_name, inode.number))

    def _change(self, moment: float, *names: tuple[Inode, str, Optional[int]]) -> None:
        for directory, name, number in names:
            directory.times[1] = directory.times[2] = moment
            before = directory.entries.pop(name, None)
            if before is not None:
                self.inodes[before].links -= 1
            if number is not None:
                directory.entries[name] = number
                self.inodes[number].links += 1
        self.changes.append(Change(tuple((directory.number, name, n) for directory, name, n in names)))

    # -- content -----------------------------------------------------------------------------------------------

    def write(self, inode: Inode, offset: int, data: bytes) -> None:
        """Write into a file."""
        end = offset + len(data)
        if len(inode.data) < end:
            inode.data.extend(bytes(end - len(inode.data)))
        inode.data[offset:end] = data
        inode.writes.append((offset, bytes(data), len(inode.data)))

    def truncate(self, inode: Inode, length: int) -> None:
        """Cut a file, or lengthen it with zeros."""
        before = len(inode.data)
        if length < before:
            del inode.data[length:]
            inode.writes.append((length, bytes(before - length), length))
        else:
            inode.data.extend(bytes(length - before))
            inode.writes.append((length, b"", length))

    # -- syncs -------------------------------------------------------------------------------------------------

    def sync_file(self, inode: Inode) -> None:
        """Make the content durable."""
        if not self.lies:
            inode.synced = bytes(inode.data)
            inode.writes.clear()

    def sync_directory(self, inode: Inode) -> None:
        """Make the names in a directory durable, and with them the other half of each rename."""
        if self.lies:
            return
        # From the youngest back: what a change rests on (an older one of the same name) is durable with it.
        needed: set[tuple[int, str]] = set()
        durable, pending = [], []
        for change in reversed(self.changes):
            names = change.touches()
            if any(directory == inode.number for directory, _ in names) or names & needed:
                needed |= names
                durable.append(change)
            else:
                pending.append(change)
        self.changes = pending[::-1]
        for change in reversed(durable):
            self._keep(change)

    def _keep(self, change: Change) -> None:
        for directory, name, number in change.names:
            entries = self.inodes[directory].synced_entries
            if number is None:
                entries.pop(name, None)
            else:
                entries[name] = number

    # -- the end -----------------------------------------------------------------------------------------------

    def cut(self, chance: Optional[random.Random]) -> None:
        """The power is gone: what is left is what the disk holds from now on. chance: None, all that is pending is
        lost; else a subset of it, drawn from there."""
        share = chance.choice((0.0, 0.5, 0.9, 1.0)) if chance is not None else 0.0
        lost: set[tuple[int, str]] = set()
        for change in self.changes:
            names = change.touches()
            # What rests on a lost change of the same name is lost too.
            if chance is not None and not names & lost and chance.random() < share:
                self._keep(change)
            else:
                lost |= names
        self.changes = []
        for number in set(self.inodes) - set(self._reachable()):
            del self.inodes[number]
        for inode in self.inodes.values():
            inode.entries = dict(inode.synced_entries)
            inode.synced = inode.synced if chance is None else _torn(inode, chance)
            inode.data = bytearray(inode.synced)
            inode.writes = []
            inode.links = 0
        for inode in list(self.inodes.values()):
            for number in inode.entries.values():
                self.inodes[number].links += 1

    def _reachable(self) -> Iterator[int]:
        open_ends = [ROOT]
        while open_ends:
            number = open_ends.pop()
            yield number
            open_ends.extend(self.inodes[number].synced_entries.values())


def _torn(inode: Inode, chance: random.Random) -> bytes:
    """A content that a file may have after a cut."""
    if not inode.writes:
        return inode.synced
    how = chance.choice(("lost", "kept", "torn", "torn"))
    if how == "lost":
        return inode.synced
    if how == "kept":
        return bytes(inode.data)
    content = bytearray(inode.synced)
    states: dict[int, list[bytes]] = {}
    lengths = [len(content)]
    for offset, data, length in inode.writes:
        first, last = offset // SECTOR, (offset + max(1, len(data)) - 1) // SECTOR
        missing = (last + 1) * SECTOR - len(content)
        content.extend(bytes(max(0, missing)))
        for sector in range(first, last + 1):
            old = bytes(content[sector * SECTOR : (sector + 1) * SECTOR])
            states.setdefault(sector, [old])
        content[offset : offset + len(data)] = data
        for sector in range(first, last + 1):
            states[sector].append(bytes(content[sector * SECTOR : (sector + 1) * SECTOR]))
        lengths.append(length)
    length = chance.choice(lengths)
    result = bytearray(inode.synced.ljust(len(content), b"\0"))
    for sector, found in states.items():
        result[sector * SECTOR : (sector + 1) * SECTOR] = chance.choice(found)
    return bytes(result[:length].ljust(length, b"\0"))
