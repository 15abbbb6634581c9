"""Learning which children of this process have ended, without reaping them.

There is no thread for each child, and no `waitpid(-1)`, which would take ends away from whoever else starts
processes in this program. On Linux a pidfd for each child goes into one epoll set, and the set itself is the
descriptor that the caller waits for. Elsewhere, and where a sandbox forbids pidfds, one thread looks at all
children every few milliseconds. (macOS has kqueue for this; but what was never run there is not written here.)
"""

from __future__ import annotations

import os
import select
import threading
from typing import Optional, Protocol

# How often the thread looks where there are no pidfds. Short beside the 1 to 2 ms that starting a process takes,
# long beside the few microseconds of one look.
_TICK_SECONDS = 0.005


class ChildWatch(Protocol):
    """Learns which children have become zombies; reaps none."""

    def add(self, pid: int) -> None:
        """Watch this child; raises OSError when out of descriptors."""

    def ready(self) -> list[int]:
        """Children that have ended and were not told before."""

    def fileno(self) -> int:
        """Readable while `ready` has something to tell, or after `stir` until `calm`."""

    def stir(self) -> None:
        """Make `fileno` readable."""

    def calm(self) -> None:
        """Take back `stir`."""

    def close(self) -> None:
        """Free everything."""


class PidfdWatch:
    """A pidfd for each child in one epoll set (Linux 5.3 and newer)."""

    def __init__(self) -> None:
        self._pids: dict[int, int] = {}  # pidfd -> process id
        self._epoll = select.epoll()
        self._stir_read, self._stir_write = _make_pipe()
        self._epoll.register(self._stir_read, select.EPOLLIN)

    def add(self, pid: int) -> None:
        pidfd = os.pidfd_open(pid)
        try:
            self._epoll.register(pidfd, select.EPOLLIN)
        except OSError:
            os.close(pidfd)
            raise
        self._pids[pidfd] = pid

    def ready(self) -> list[int]:
        pids = []
        for descriptor, _ in self._epoll.poll(0):
            if descriptor in self._pids:
                pids.append(self._pids.pop(descriptor))
                self._epoll.unregister(descriptor)
                os.close(descriptor)
        return pids

    def fileno(self) -> int:
        return self._epoll.fileno()

    def stir(self) -> None:
        _write_byte(self._stir_write)

    def calm(self) -> None:
        _drain(self._stir_read)

    def close(self) -> None:
        if self._epoll.closed:
            return
        self._epoll.close()
        for descriptor in (self._stir_read, self._stir_write, *self._pids):
            os.close(descriptor)
        self._pids.clear()


class TickWatch:
    """One thread that looks at every child each few milliseconds, while there is any."""

    def __init__(self) -> None:
        self._stir_read, self._stir_write = _make_pipe()
        self._changed = threading.Condition()
        self._watched: list[int] = []
        self._ready: list[int] = []
        self._closed = False
        self._thread: Optional[threading.Thread] = None

    def add(self, pid: int) -> None:
        with self._changed:
            self._watched.append(pid)
            self._changed.notify()
        if self._thread is None:
            self._thread = threading.Thread(target=self._tick, name="batchsystems-children", daemon=True)
            self._thread.start()

    def ready(self) -> list[int]:
        with self._changed:
            self._look()  # the thread may be a tick behind
            self.calm()
            pids, self._ready = self._ready, []
        return pids

    def fileno(self) -> int:
        return self._stir_read

    def stir(self) -> None:
        _write_byte(self._stir_write)

    def calm(self) -> None:
        _drain(self._stir_read)

    def close(self) -> None:
        with self._changed:
            if self._closed:
                return
            self._closed = True
            self._changed.notify()
        if self._thread is not None:
            self._thread.join()
        os.close(self._stir_read)
        os.close(self._stir_write)

    def _look(self) -> None:
        over = [pid for pid in self._watched if _is_over(pid)]
        if over:
            self._watched = [pid for pid in self._watched if pid not in over]
            self._ready += over
            self.stir()

    def _tick(self) -> None:
        with self._changed:
            while not self._closed:
                self._look()
                self._changed.wait(_TICK_SECONDS if self._watched else None)


def has_pidfd() -> bool:
    """Whether pidfds work here; sandboxes and old kernels know the call and refuse it."""
    if not (hasattr(os, "pidfd_open") and hasattr(select, "epoll")):
        return False
    try:
        os.close(os.pidfd_open(os.getpid()))
    except OSError:
        return False
    return True


def _is_over(pid: int) -> bool:
    """Whether this child is a zombie (or was reaped by other code of this process)."""
    if hasattr(os, "waitid"):
        try:
            return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None
        except ChildProcessError:
            return True
    import psutil  # only there; importing it takes 10 ms

    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.Error:
        return True


def _make_pipe() -> tuple[int, int]:
    read, write = os.pipe()
    os.set_blocking(read, False)
    os.set_blocking(write, False)
    return read, write


def _write_byte(descriptor: int) -> None:
    try:
        os.write(descriptor, b".")
    except BlockingIOError:
        pass  # full, hence readable already


def _drain(descriptor: int) -> None:
    try:
        while os.read(descriptor, 4096):
            pass
    except BlockingIOError:
        pass
