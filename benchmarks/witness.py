"""How a benchmark knows that every target has run, exactly once, with the argument that it was given.

A *witness* is a file of fixed size that all workers map into memory: one byte for each target, which the target of
that number raises by one, and, where a benchmark asks for it, a few numbers beside each byte (when it ran, what it
used). Marking costs a target some 0.2 us, no system call and no fsync, so what is measured stays the cost of the
library. Afterwards every byte must be 1: a target that was skipped, run twice, or given another one's argument shows.

The file is in the working directory of the run. It is on no account part of what the library keeps; a mark outlives
the process that made it, but not the machine.
"""

from __future__ import annotations

import mmap
import os
import struct
import time
from typing import NamedTuple, Optional

NAME = "witness"

_HEAD = struct.Struct("<QQd")
_HEAD_BYTES = 4096
_FIRST = struct.Struct("<d")
_FIRST_AT = 16


class Witness:
    """The mapped file, in a worker. Opened at the first mark, so that importing a pipeline opens nothing."""

    def __init__(self) -> None:
        self._map: Optional[mmap.mmap] = None
        self._numbers = struct.Struct("")
        self._numbers_at = 0

    def mark(self, number: int, *numbers: float) -> None:
        """Target ``number`` runs now, or has run; numbers: what it has measured."""
        content = self._map if self._map is not None else self._open()
        content[_HEAD_BYTES + number] += 1
        if numbers:
            self._numbers.pack_into(content, self._numbers_at + number * self._numbers.size, *numbers)

    def seen(self, number: int) -> int:
        """How often target ``number`` has been marked."""
        content = self._map if self._map is not None else self._open()
        return content[_HEAD_BYTES + number]

    def _open(self) -> mmap.mmap:
        with open(NAME, "r+b") as file:
            content = self._map = mmap.mmap(file.fileno(), 0)
        cells, width, first = _HEAD.unpack_from(content)
        self._numbers = struct.Struct(f"<{width}d")
        self._numbers_at = _HEAD_BYTES + cells
        if not first:
            # Once in each worker, by its first target; two that come in the same instant differ by nothing.
            _FIRST.pack_into(content, _FIRST_AT, time.monotonic())
        return content


class Seen(NamedTuple):
    """A witness's content. counts: a byte a target; numbers: a tuple a target; first: when the first was marked."""

    counts: bytes
    numbers: list[tuple[float, ...]]
    first: float

    @property
    def marked(self) -> int:
        """How many targets have been marked at least once."""
        return len(self.counts) - self.counts.count(0)

    def complaint(self) -> Optional[str]:
        """What is wrong unless every target was marked exactly once."""
        missing = self.counts.count(0)
        repeated = len(self.counts) - missing - self.counts.count(1)
        if missing or repeated:
            return f"of {len(self.counts)} targets {missing} never ran and {repeated} ran more than once"
        return None


def make(directory: str, cells: int, width: int = 0) -> None:
    """A new witness for so many targets, with so many numbers each."""
    with open(os.path.join(directory, NAME), "wb") as file:
        file.write(_HEAD.pack(cells, width, 0.0))
        file.truncate(_HEAD_BYTES + cells + cells * width * 8)


def read(directory: str) -> Seen:
    """What a witness says; may be asked while targets are running."""
    with open(os.path.join(directory, NAME), "rb") as file:
        content = file.read()
    cells, width, first = _HEAD.unpack_from(content)
    counts = content[_HEAD_BYTES : _HEAD_BYTES + cells]
    numbers = list(struct.iter_unpack(f"<{width}d", content[_HEAD_BYTES + cells :])) if width else []
    return Seen(counts, numbers, first)


def forget_first(directory: str) -> None:
    """Have the next worker's first mark noted as the first."""
    with open(os.path.join(directory, NAME), "r+b") as file:
        file.seek(_FIRST_AT)
        file.write(_FIRST.pack(0.0))
