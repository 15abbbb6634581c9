"""The guard of a node: a small process that kills the node's jobs when the node can no longer answer for them.

A node may run its jobs only while the hub hears it. It kills them itself when that has not been so for a lease; but it
may have been stopped, or hang in a file system whose server is down, and then nothing in it runs. So it tells this
process, by lines on a pipe, *when* it began the last beat that the hub has answered, and which process groups it has
started; if that beat is longer ago than the lease, or the pipe ends because the node is dead, all of them are killed.
A group that is told of after the lease has run out is killed at once.

    begun SECONDS    on the clock of batchsystems.pool_hub.elapsed
    + GROUP
    - GROUP          it has ended

It is a fresh interpreter, started by exec, that imports nothing but the standard library and does no file I/O:

    python -I -S .../pool_guard.py LEASE

What remains. If node and guard are stopped both (a frozen machine), jobs go on until one of them runs again. A process
that left its group is known to nobody here; the supervisor of a job tree finds those.
"""

from __future__ import annotations

import os
import select
import signal
import sys
import time

_TICK_SECONDS = 0.25
"""`poll` does not count the time that a suspended machine slept, so it never waits for long."""


def _elapsed() -> float:
    return time.clock_gettime(time.CLOCK_BOOTTIME) if sys.platform.startswith("linux") else time.monotonic()


class Groups:
    """The process groups of a node, and until when they may live."""

    def __init__(self, lease: float) -> None:
        self._lease = lease
        self._begun = _elapsed()
        self._groups: set[int] = set()

    def obey(self, line: str) -> None:
        """One line from the node."""
        word, _, value = line.partition(" ")
        if word == "begun":
            self._begun = float(value)
        elif word == "+":
            self._groups.add(int(value))
        elif word == "-":
            self._groups.discard(int(value))

    def kill_if_over(self) -> None:
        """Kill all of them if the lease has run out; again and again, as long as it has."""
        if _elapsed() - self._begun > self._lease:
            self.kill()

    def kill(self) -> None:
        """Kill all of them."""
        for group in self._groups:
            try:
                os.killpg(group, signal.SIGKILL)
            except (ProcessLookupError, PermissionError):
                pass


def main() -> None:
    """Read lines from standard input until it ends."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, signal.SIG_IGN)
    groups = Groups(float(sys.argv[1]))
    poll = select.poll()
    poll.register(0, select.POLLIN | select.POLLHUP)
    rest = b""
    while True:
        if poll.poll(1000 * _TICK_SECONDS):
            data = os.read(0, 65536)
            if not data:
                groups.kill()  # the node is dead
                return
            *lines, rest = (rest + data).split(b"\n")
            for line in lines:
                groups.obey(line.decode("ascii"))
        groups.kill_if_over()


if __name__ == "__main__":
    main()
