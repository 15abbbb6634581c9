"""A terminal: a pseudo one of the kernel, and what a person would see on it."""

from __future__ import annotations

import fcntl
import os
import select
import struct
import termios
import time
from collections.abc import Sequence
from typing import Callable

import pyte

DEADLINE_SECONDS = 60.0


class Terminal:
    """A terminal of this size. ``slave``: the descriptor for programs; ``close_slave`` when they have it.

    ``text`` is all that was written to it, and ``lines`` what is to be seen now, with what has scrolled out above.
    """

    def __init__(self, columns: int = 80, rows: int = 24) -> None:
        self.master, self.slave = os.openpty()
        fcntl.ioctl(self.slave, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
        self.text = ""
        self._screen = pyte.HistoryScreen(columns, rows, history=10_000)
        self._stream = pyte.ByteStream(self._screen)

    def read(self) -> bool:
        """Take in what was written. False when every program has closed it."""
        while select.select([self.master], [], [], 0)[0]:
            try:
                data = os.read(self.master, 65536)
            except OSError:  # what Linux says of a pseudo terminal that nobody has open
                return False
            if not data:
                return False
            self.text += data.decode(errors="replace")
            self._stream.feed(data)
        return True

    @property
    def lines(self) -> Sequence[str]:
        """What is to be seen, without what is empty at the end."""
        columns = range(self._screen.columns)
        above = ["".join(row[x].data for x in columns) for row in self._screen.history.top]
        found = [line.rstrip() for line in (*above, *self._screen.display)]
        while found and not found[-1]:
            found.pop()
        return found

    def wait_for(self, condition: Callable[[], object], what: str) -> None:
        """Read until it holds, or until every program has closed the terminal."""
        deadline = time.monotonic() + DEADLINE_SECONDS
        while not condition():
            self._wait(deadline, what)
            if not self.read():
                break
        assert condition(), f"{what}: {self.lines}"

    def wait_for_end(self) -> None:
        """Read until every program has closed it."""
        deadline = time.monotonic() + DEADLINE_SECONDS
        while self.read():
            self._wait(deadline, "it does not end")

    def _wait(self, deadline: float, what: str) -> None:
        ready, _, _ = select.select([self.master], [], [], max(0.0, deadline - time.monotonic()))
        assert ready, f"{what}: {self.lines}"

    def close_slave(self) -> None:
        """Only the programs that have it now keep it open."""
        os.close(self.slave)

    def close(self) -> None:
        """Hang up."""
        os.close(self.master)
