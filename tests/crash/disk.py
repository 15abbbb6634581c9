"""What a disk may hold after a crash: a record of everything that was done to a directory, and what of it was synced.

``Disk`` is told of every effect before it happens. From that it can give the *image* of the directory, every file with
its content, that a crash just before effect n leaves behind:

  - After the death of a process the system still knows everything: all effects up to n, and of a write at n a part.
  - After a power cut there is what was synced, and of the rest whatever the file system had got round to: nothing, all,
    or any part in any order. Nothing is assumed that POSIX does not promise, though some file systems do:
      - fsync of a file keeps its content, not its name. A name, new, changed or removed, is kept by fsync of the
        directory that it is in, and the directory's own name by fsync of the one above.
      - Of writes that were not synced any may be kept, in any order, whole, cut short, or as zeros of their length.
      - A rename is kept or lost as one. It may be kept although the content of the file that was renamed is not.
      - syncfs keeps everything.

SQLite's two files are changed by SQLite alone, in steps that are not seen here. An effect of kind ``sqlite`` has their
content before and after; ``between`` gives what a crash within may leave, which follows from how SQLite writes
(https://www.sqlite.org/wal.html): a commit appends to the log and syncs it; a checkpoint, which begins only then,
overwrites pages of the database, syncs it, and only after that the log is reset or removed. When SQLite makes a log
it syncs the directory too.
"""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from typing import Callable, NamedTuple, Optional

NEVER = 1 << 60

SECTOR = 512
"""What a disk writes whole or not at all, in bytes."""

Image = dict[str, Optional[bytes]]
"""Every path below the directory, with its content; None for a directory."""


class Effect(NamedTuple):
    """One thing done. kind: create, mkdir, unlink, rmdir, rename, write, truncate, fsync, syncfs, sqlite, or act (what
    is no change of the disk: a submission, a line told). path and to are relative to the directory; of sqlite, path is
    the database's, and before and after are (database, log), None for one that is not there. who: master or worker."""

    kind: str
    path: str = ""
    to: str = ""
    offset: int = 0
    data: bytes = b""
    before: tuple[Optional[bytes], Optional[bytes]] = (None, None)
    after: tuple[Optional[bytes], Optional[bytes]] = (None, None)
    who: str = "master"

    def __str__(self) -> str:
        if self.kind == "rename":
            return f"{self.who}: rename {self.path} to {os.path.basename(self.to)}"
        size = f" {len(self.data)} bytes" if self.kind == "write" else ""
        return f"{self.who}: {self.kind}{size} {self.path}"


_NAMES = frozenset(["create", "mkdir", "unlink", "rmdir", "rename"])
_CONTENT = frozenset(["write", "truncate"])

Choose = Callable[[int, Effect], Optional[Effect]]
"""What a power cut makes of an effect that was not synced: the effect, a part of it, or None."""


class Disk:
    """The record. initial: what the directory holds, durably, when it begins."""

    def __init__(self, initial: Image) -> None:
        self.effects: list[Effect] = []
        self.initial = initial
        self._inodes: list[int] = []
        self._durable_from: list[int] = []
        self._names: dict[str, int] = {}
        self._next_inode = 1
        for path, content in initial.items():
            if content is not None:
                self._names[path] = self._new_inode()
        self._initial_names = dict(self._names)
        self._waiting_content: dict[int, list[int]] = {}
        self._waiting_names: dict[str, list[int]] = {}

    def _new_inode(self) -> int:
        self._next_inode += 1
        return self._next_inode

    # -- recording ---------------------------------------------------------------------------------------------

    def record(self, effect: Effect) -> None:
        """This is done next."""
        number = len(self.effects)
        kind, path = effect.kind, effect.path
        inode = self._names.get(path, 0)
        durable = NEVER
        if kind == "create":
            inode = self._names[path] = self._new_inode()
        elif kind == "unlink":
            self._names.pop(path, None)
        elif kind == "rename":
            inode = self._names.pop(path, 0)
            self._names[effect.to] = inode
        if kind in _NAMES:
            self._waiting_names.setdefault(os.path.dirname(path), []).append(number)
        elif kind in _CONTENT:
            self._waiting_content.setdefault(inode, []).append(number)
        elif kind == "fsync":
            waiting = self._waiting_content.pop(inode, []) if inode else self._waiting_names.pop(path, [])
            self._keep(waiting, number + 1)
        elif kind == "syncfs":
            for waiting in (*self._waiting_content.values(), *self._waiting_names.values()):
                self._keep(waiting, number + 1)
            self._waiting_content.clear()
            self._waiting_names.clear()
        elif kind == "sqlite":
            durable = number + 1
            self._put(path, effect.after[0])
            self._put(path + "-wal", effect.after[1])
            if not effect.before[1] and effect.after[1]:
                self._keep(self._waiting_names.pop(os.path.dirname(path), []), number + 1)
        self.effects.append(effect)
        self._inodes.append(inode)
        self._durable_from.append(durable)

    def _put(self, path: str, content: Optional[bytes]) -> None:
        if content is None:
            self._names.pop(path, None)
        elif path not in self._names:
            self._names[path] = self._new_inode()

    def _keep(self, numbers: list[int], since: int) -> None:
        for number in numbers:
            self._durable_from[number] = since

    # -- images ------------------------------------------------------------------------------------------------

    def image(self, n: int, choose: Optional[Choose] = None, last: Optional[Effect] = None) -> Image:
        """What is there if the world stops before effect n. choose: what becomes of what was not synced (all of it is
        kept); last: what has come of effect n itself."""
        state = _State(self.initial, self._initial_names)
        for number in range(n):
            effect: Optional[Effect] = self.effects[number]
            if choose is not None and self._durable_from[number] > n:
                effect = choose(number, self.effects[number])
            if effect is not None:
                state.apply(effect, self._inodes[number])
        if last is not None:
            state.apply(last, self._names_inode(n))
        return state.image()

    def _names_inode(self, n: int) -> int:
        return self._inodes[n]

    def unsynced(self, n: int) -> list[int]:
        """The effects on the disk before n that a power cut just before n may lose."""
        return [
            number
            for number in range(n)
            if self._durable_from[number] > n and self.effects[number].kind in _NAMES | _CONTENT
        ]


class _State:
    """A file system of names, directories and contents, to which effects can be applied one by one."""

    def __init__(self, initial: Image, names: dict[str, int]) -> None:
        self._folders = {path for path, content in initial.items() if content is None} | {""}
        self._names = dict(names)
        self._contents: dict[int, bytes] = {inode: initial[path] or b"" for path, inode in names.items()}
        self._loose = -1

    def apply(self, effect: Effect, inode: int) -> None:
        kind, path = effect.kind, effect.path
        if kind in ("write", "truncate"):
            content = self._contents.get(inode, b"")
            if kind == "truncate":
                self._contents[inode] = content[: effect.offset].ljust(effect.offset, b"\0")
            else:
                end = effect.offset + len(effect.data)
                head = content[: effect.offset].ljust(effect.offset, b"\0")
                self._contents[inode] = head + effect.data + content[end:]
        elif kind == "sqlite":
            for name, data in zip((path, path + "-wal"), effect.after):
                self._put(name, data)
        elif kind == "create":
            if self._parent_is_there(path):
                self._names[path] = inode
        elif kind == "mkdir":
            if self._parent_is_there(path):
                self._folders.add(path)
        elif kind == "unlink":
            self._names.pop(path, None)
        elif kind == "rmdir":
            below = path + os.sep
            # A directory goes only when it is empty, in whatever order its file system works.
            if not any(name.startswith(below) for name in (*self._names, *self._folders)):
                self._folders.discard(path)
        elif kind == "rename":
            self._names.pop(path, None)
            if self._parent_is_there(effect.to):
                self._names[effect.to] = inode

    def _parent_is_there(self, path: str) -> bool:
        return os.path.dirname(path) in self._folders

    def _put(self, path: str, data: Optional[bytes]) -> None:
        if data is None:
            self._names.pop(path, None)
        elif self._parent_is_there(path):
            self._loose -= 1
            self._names[path] = self._loose
            self._contents[self._loose] = data

    def image(self) -> Image:
        found: Image = dict.fromkeys(self._folders - {""})
        for path, inode in self._names.items():
            found[path] = self._contents.get(inode, b"")
        return found


# -- what a crash makes of an effect ---------------------------------------------------------------------------


def cuts(effect: Effect) -> Iterator[tuple[str, Effect]]:
    """The effect that was interrupted, as the death of a process may leave it: a write at several lengths."""
    if effect.kind == "write":
        size = len(effect.data)
        for length in sorted({1, size // 2, size - 1} - {0, size}):
            yield f"cut at {length} of {size} bytes", effect._replace(data=effect.data[:length])
    elif effect.kind == "sqlite":
        yield from between(effect)


def between(effect: Effect) -> Iterator[tuple[str, Effect]]:
    """What SQLite may have done of a change when it is interrupted: its two files, in several steps."""
    (database, log), (database_after, log_after) = effect.before, effect.after
    if log_after is not None and log_after != log:
        old = log or b""
        first, end = _changed(old, log_after)
        for length in sorted({first + 1, (first + end) // 2, end - 1} - {first, end}):
            torn = log_after[:length] + old[length:]
            yield f"log written up to byte {length}", effect._replace(after=(database, torn))
        yield "log whole, no checkpoint", effect._replace(after=(database, log_after))
    if database_after is None or database_after == database:
        return
    # The log covers every page that a checkpoint writes, so any part of them may be there.
    whole = log if log_after is None else log_after
    if database is None:
        for length in (0, 1, len(database_after) // 2):
            yield f"database of {length} bytes", effect._replace(after=(database_after[:length], log))
        return
    half = len(database_after) // 2 // SECTOR * SECTOR
    one = database_after[:half] + database[half:]
    other = database[:half].ljust(half, b"\0") + database_after[half:]
    yield "first half of a checkpoint", effect._replace(after=(one, whole))
    yield "second half of a checkpoint", effect._replace(after=(other, whole))
    yield "checkpoint without its end", effect._replace(after=(database_after, whole))


def _changed(before: bytes, after: bytes) -> tuple[int, int]:
    """Where a log was written: appended to, or, after a checkpoint, written over from its beginning."""
    if after.startswith(before):
        return len(before), len(after)
    same = len(after) - len(os.path.commonprefix([before[::-1], after[::-1]]))
    return 0, same if len(before) == len(after) else len(after)


def scattered(effect: Effect, chance: random.Random) -> Optional[Effect]:
    """A commit that the power cut interrupted: some sectors of what was written to the log are there, in no order."""
    before, after = effect.before[1] or b"", effect.after[1]
    if effect.kind != "sqlite" or after is None or after == before:
        return None
    first, end = _changed(before, after)
    data = bytearray(before.ljust(len(after), b"\0"))
    for place in range(first // SECTOR * SECTOR, end, SECTOR):
        if chance.random() < 0.5:
            data[place : place + SECTOR] = after[place : place + SECTOR]
    size = len(after) if chance.random() < 0.5 else chance.randint(len(before), len(after))
    return effect._replace(after=(effect.before[0], bytes(data[:size])))


def nothing(_: int, __: Effect) -> Optional[Effect]:
    """Choose: everything that was not synced is lost."""
    return None


def only(numbers: frozenset[int]) -> Choose:
    """Choose: of what was not synced these are kept, and nothing before or after them."""
    return lambda number, effect: effect if number in numbers else None


def any_part(chance: random.Random) -> Choose:
    """Choose: every second effect is kept, of writes now and then a part, or zeros in their place."""

    def choose(_: int, effect: Effect) -> Optional[Effect]:
        if chance.random() < 0.5:
            return None
        if effect.kind == "write" and chance.random() < 0.4:
            size = len(effect.data)
            if chance.random() < 0.5:
                return effect._replace(data=b"\0" * size)
            return effect._replace(data=effect.data[: chance.randint(0, size)])
        return effect

    return choose
