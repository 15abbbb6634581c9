"""The heartbeat of a bundle: one block of a file that its supervisor overwrites, and that the master reads.

What must hold
  - The block exists, written and synced, before the bundle is submitted. Overwriting it needs no space, so a full disk
    stops no heartbeat; and no cached "no such file" is ever waited for.
  - A beat counts only when the server has it: it is synced, and what the lease runs from is the moment *before* it was
    written. The master counts from the moment at which it sees another block than before. So whatever clocks and
    caches do, the master's count starts later than the supervisor's, and it waits twice as long.
  - The last thing written there is the end, also when the outcome file can take no more.

The block holds one frame (jobtree.frames) and zeros. A reader that meets it half written finds a wrong checksum, and
looks again later. Copy-on-write file systems (btrfs, ZFS) need space even to overwrite: there a full disk does stop it,
and the lease runs out, which costs the work and never the order.
"""

from __future__ import annotations

import os
from typing import Any, NamedTuple, Optional

from batchsystems.abstract import End, EndKind, Reason
from jobtree import files, frames

BLOCK = 2048
"""Bytes. Some space is there for words about the end."""

_MOST_WORDS = 600

BEAT = "b"
"""(BEAT, number, host, pid, lease in seconds)"""


class Beat(NamedTuple):
    """What a block says. number counts up; end is set in the last one."""

    number: int
    host: str
    pid: int
    lease: float
    end: Optional[End] = None


def end_frame(end: End) -> tuple[Any, ...]:
    """The body of the frame that says how a bundle ended; the same in the block and at the end of the outcome file."""
    reason = end.reason.value if end.reason is not None else None
    number = int(end.signal) if end.signal is not None else None
    return (
        frames.END, end.kind.value, end.status, number, reason, end.peak_memory, end.cpu_seconds,
        _short(end.detail), end.host,
    )  # fmt: skip


def end_of(name: str, body: tuple[Any, ...]) -> End:
    """The end that a frame tells of. Raises ValueError for one that makes no sense."""
    _, kind, status, signal, reason, peak, seconds, detail, host = body
    why = Reason(reason) if reason is not None else None
    return End(name, EndKind(kind), status, signal, why, peak, seconds, detail, host)


def _short(text: str) -> str:
    data = text.encode("utf-8", "backslashreplace")
    return text if len(data) <= _MOST_WORDS else data[:_MOST_WORDS].decode("utf-8", "ignore") + " ..."


def read(path: str, name: str) -> tuple[bytes, Optional[Beat]]:
    """The block as it is, and what it says; None if that is nothing (yet). Raises StorageError."""
    data = files.read_from(path, 0, BLOCK)
    try:
        found = frames.decode(data)
        if found and found[0].body[0] == BEAT:
            _, number, host, pid, lease = found[0].body
            end = end_of(name, found[1].body) if len(found) == 2 else None
            return data, Beat(number, host, pid, lease, end)
    except (frames.Damaged, ValueError, TypeError):
        pass  # half written, by whatever; the next one is whole
    return data, None


class Writer:
    """The supervisor's side. Its methods raise OSError or StorageError, and may hang as long as a server does."""

    def __init__(self, path: str, host: str, lease: float) -> None:
        self._path = path
        self._host = host
        self._lease = lease
        self._number = 0

    def beat(self) -> None:
        """Overwrite the block; it is on the server when this returns."""
        self._number += 1
        self._write(frames.encode((BEAT, self._number, self._host, os.getpid(), self._lease)))

    def sign_off(self, end: End) -> None:
        """The last beat, with the end."""
        self._number += 1
        beat = frames.encode((BEAT, self._number, self._host, os.getpid(), self._lease))
        self._write(beat + frames.encode(end_frame(end)))

    def _write(self, data: bytes) -> None:
        # Opened each time: after a server's failover an old descriptor may be good for nothing for ever. Never
        # created: without it the bundle is over.
        fd = os.open(self._path, os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.pwrite(fd, data.ljust(BLOCK, b"\0"), 0)
            files.fdatasync(fd, self._path)
        finally:
            os.close(fd)
