"""The guard: a tiny process that kills a worker when the lease of its bundle has run out.

The supervisor writes to the job tree, and on a network file system every such call can hang for as long as a server is
down; nothing in a process that hangs there runs, no signal handler and no timer. So the timer is here, in a process
that does no file I/O while there is a worker. The supervisor tells it through a pipe *when* it began to write each
heartbeat that has got through; if the last of these is longer ago than the lease, everything that belongs to the
worker is killed. The clock goes on while the machine sleeps (jobtree.clock).

It also takes over when the supervisor dies: the end of the pipe says so at once. Then it kills the worker, waits until
nothing of it is left, and only then touches files: it removes the local temporary directories and signs off in the
supervisor's place, so that the master need not wait for the lease.

How it fails. If the guard dies the supervisor starts another. If both are killed at once, the kernel kills the worker
with the supervisor (PR_SET_PDEATHSIG), what the worker has started is left to the batch system, and the master waits
for the lease. If the whole machine is frozen for longer than the lease and goes on afterwards, the worker may run for
a moment before the guard does; what it then writes counts for nothing in the tree.
"""

from __future__ import annotations

import os
import select
import signal
import struct
import time
from typing import Callable

from jobtree import clock, processtree

_MOMENT = struct.Struct("<d")
_TICK_SECONDS = 0.5
"""`poll` does not count the time that a suspended machine slept, so it never waits for long."""


class Guard:
    """The supervisor's side: starts the guard, and feeds it.

    worker: the worker's pid, which leads a session of its own. mark: of the bundle (processtree.strays).
    lease: seconds. begun: when the last heartbeat that got through was begun, on ``clock.elapsed``.
    orphaned: what is to be done, in the guard, when the supervisor has died and nothing is left of the worker.
    """

    def __init__(
        self, worker: int, mark: str, lease: float, begun: float, orphaned: Callable[[], None]
    ) -> None:
        read, self._pipe = os.pipe()
        self.pid: int = os.fork()
        if self.pid:
            os.close(read)
            return
        try:
            os.close(self._pipe)
            _be_guard(read, worker, mark, lease, begun, orphaned)
        finally:
            os._exit(0)

    def feed(self, begun: float) -> None:
        """A heartbeat that was begun at this moment is on the server."""
        try:
            os.write(self._pipe, _MOMENT.pack(begun))
        except BrokenPipeError:
            pass  # it has died, which its parent hears otherwise

    def quit(self) -> None:
        """The worker is dead, and not reaped yet: end the guard, and wait for that."""
        try:
            os.kill(self.pid, signal.SIGKILL)  # it holds nothing, and somebody may have stopped it
            os.waitpid(self.pid, 0)
        except (ProcessLookupError, ChildProcessError):
            pass
        os.close(self._pipe)

    def abandon(self) -> None:
        """It has died and was reaped: free the pipe."""
        os.close(self._pipe)


def _be_guard(
    pipe: int, worker: int, mark: str, lease: float, begun: float, orphaned: Callable[[], None]
) -> None:
    """Watch until we are killed, or the supervisor has died."""
    os.setsid()  # out of reach of whoever signals the supervisor's group
    for number in (
        signal.SIGTERM,
        signal.SIGINT,
        signal.SIGHUP,
        signal.SIGUSR1,
        signal.SIGUSR2,
        signal.SIGXCPU,
    ):
        signal.signal(number, signal.SIG_IGN)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    poll = select.poll()
    poll.register(pipe, select.POLLIN | select.POLLHUP)
    killed = False
    while True:
        left = begun + lease - clock.elapsed()
        if left <= 0 and not killed:
            kill_all(worker, mark)
            killed = True
        ready = poll.poll(1000 * (_TICK_SECONDS if killed else max(0.001, min(left, _TICK_SECONDS))))
        if not ready:
            continue
        data = os.read(pipe, 512 * _MOMENT.size)
        if not data:
            break  # the supervisor is dead
        begun = _MOMENT.unpack_from(data, len(data) - _MOMENT.size)[0]
    while kill_all(worker, mark):
        time.sleep(0.02)  # until the kernel has carried it out
    orphaned()


def kill_all(worker: int, mark: str) -> bool:
    """Kill a worker's session, and whatever else carries the mark of its bundle; whether something still ran."""
    try:
        os.killpg(worker, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        pass
    return processtree.kill_marked(mark, worker)
