"""Starting processes on this machine, and learning how they ended.

Each command is the leader of a session, and so of a process group, of its own: one signal reaches everything that
it started and that did not leave the group on purpose. When the leader has ended, what is left of its group is
killed while the leader is still a zombie, because until it is reaped its process id cannot be given to a stranger.

What is still ugly: the kernel sends the "parent died" signal only to the leader, and when the *thread* that
started it ends; there is no such signal on macOS at all. A command whose descendants must die with the master has
to watch for that itself.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import math
import os
import select
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Callable, Optional, Protocol

from batchsystems.abstract import Submission
from batchsystems.child_watch import ChildWatch, PidfdWatch, TickWatch, has_pidfd
from batchsystems.machine import VISIBLE_GPUS

# How long `close` waits for killed processes. Only one that hangs inside the kernel (a dead NFS server) needs more,
# and no wait would help there: it dies as soon as the kernel lets it.
_CLOSE_SECONDS = 10.0

# ru_maxrss is in bytes on macOS and in KiB everywhere else.
_MAXRSS_UNIT = 1 if sys.platform == "darwin" else 1024

_PR_SET_PDEATHSIG = 1

# Errors of starting that are the fault of the command, and the status that a shell gives them.
_COMMAND_ERRORS = {
    errno.ENOENT: 127,
    errno.EACCES: 126,
    errno.EPERM: 126,
    errno.ENOEXEC: 126,
    errno.ENOTDIR: 126,
    errno.EISDIR: 126,
    errno.ELOOP: 126,
    errno.ENAMETOOLONG: 126,
    errno.E2BIG: 126,
}


@dataclass(frozen=True)
class ProcessEnd:
    """How one process ended.

    `wait_status` is encoded as `os.waitpid` gives it; None: it is over (or never began) and nobody knows how.
    `peak_memory` in bytes and `cpu_seconds` are those of the process and the descendants it waited for. On Linux
    the peak of a process that forks and then execs begins with what the forking process had, here the starter's.
    `detail` is words for a person.
    """

    name: str
    wait_status: Optional[int]
    peak_memory: Optional[int] = None
    cpu_seconds: Optional[float] = None
    detail: str = ""


class Starter(Protocol):
    """Starts processes, each in a session of its own, and says how they ended.

    All methods are called from one thread, which lives as long as the starter.
    """

    def start(self, name: str, submission: Submission, gpus: Optional[Sequence[str]] = None) -> None:
        """Start the command. If that cannot be done, `ended` says so later; only a broken starter raises
        (`BatchSystemError`). The name is used again only after its end has been told.

        gpus: the graphics cards that it may see; None: whatever its environment says."""

    def signal(self, name: str, signum: int) -> None:
        """Send a signal to the whole process group; ignored if the process is gone or the name unknown."""

    def fileno(self) -> int:
        """A descriptor, the same for life, that is readable whenever `ended` has something to tell."""

    def ended(self) -> list[ProcessEnd]:
        """The ends not told before; does not wait. What is left of their process groups has been killed."""

    def close(self) -> None:
        """Kill what still runs (whole groups), wait for it, free every descriptor; twice is fine."""


class PopenStarter:
    """A `Starter` that needs nothing but `subprocess`; `use_pidfd` None means: where the system has them.

    A command that cannot be run because of what it is ends with exit status 127 (not found) or 126; one that this
    machine could not start (no memory, no descriptors, log file not writable) has no status. Both with `detail`.
    """

    def __init__(self, use_pidfd: Optional[bool] = None) -> None:
        if use_pidfd is None:
            use_pidfd = has_pidfd()
        self._watch: ChildWatch = PidfdWatch() if use_pidfd else TickWatch()
        self._die_with_parent = _make_die_with_parent()
        self._children: dict[str, subprocess.Popen[bytes]] = {}
        self._names: dict[int, str] = {}  # process id -> name
        self._failed: list[ProcessEnd] = []

    def start(self, name: str, submission: Submission, gpus: Optional[Sequence[str]] = None) -> None:
        """Start the command; see `Starter.start`."""
        try:
            child = self._popen(submission, gpus)
        except OSError as error:
            status = _COMMAND_ERRORS.get(error.errno or 0)
            self._fail(name, status, f"cannot start {submission.command[0]!r}: {error}")
        except ValueError as error:  # NUL or a lone surrogate in an argument, "=" in the name of a variable
            self._fail(name, 126, f"cannot start {submission.command[0]!r}: {error}")
        except _LogError as error:
            self._fail(name, None, str(error))
        else:
            self._children[name] = child
            self._names[child.pid] = name
            try:
                self._watch.add(child.pid)
            except OSError as error:  # out of descriptors: a child that nobody can watch must not go on
                _kill_group(child.pid, signal.SIGKILL)
                child.wait()
                self._forget(child.pid, 0)
                self._fail(name, None, f"no descriptor left to watch {submission.command[0]!r} with: {error}")

    def signal(self, name: str, signum: int) -> None:
        """Signal the whole process group; see `Starter.signal`."""
        child = self._children.get(name)
        if child is not None:
            # Not reaped before `ended` has told its end, hence the process id is still its own.
            _kill_group(child.pid, signum)

    def fileno(self) -> int:
        """A descriptor that is readable when there are ends."""
        return self._watch.fileno()

    def ended(self) -> list[ProcessEnd]:
        """The ends not told before; does not wait."""
        ends, self._failed = self._failed, []
        if ends:
            self._watch.calm()
        for pid in self._watch.ready():
            ends.append(self._reap(pid))
        return ends

    def close(self) -> None:
        """Kill everything, wait up to ten seconds for it, free every descriptor."""
        for pid in self._names:
            _kill_group(pid, signal.SIGKILL)
        deadline = time.monotonic() + _CLOSE_SECONDS
        while self._names and time.monotonic() < deadline:
            _wait_readable(self.fileno(), deadline - time.monotonic())
            self.ended()
        for pid in list(self._names):
            self._forget(pid, -signal.SIGKILL)
        self._watch.close()

    def _popen(self, submission: Submission, gpus: Optional[Sequence[str]]) -> subprocess.Popen[bytes]:
        env = submission.env
        if gpus is not None:
            env = {**(os.environ if env is None else env), VISIBLE_GPUS: ",".join(gpus)}
        log = _open_log(submission.log)
        try:
            with _no_fork_warning():
                return subprocess.Popen(
                    submission.command,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    cwd=submission.cwd,
                    env=env,
                    start_new_session=True,
                    preexec_fn=self._die_with_parent,
                )
        except subprocess.SubprocessError as error:  # the function that runs before exec failed
            raise OSError(errno.EAGAIN, str(error)) from error
        finally:
            if log >= 0:
                os.close(log)

    def _fail(self, name: str, status: Optional[int], detail: str) -> None:
        self._failed.append(ProcessEnd(name, None if status is None else status << 8, detail=detail))
        self._watch.stir()

    def _reap(self, pid: int) -> ProcessEnd:
        _kill_group(pid, signal.SIGKILL)
        try:
            _, wait_status, usage = os.wait4(pid, 0)
        except ChildProcessError:
            name = self._forget(pid, 0)
            detail = "its exit status was taken by other code of this process (or SIGCHLD is ignored)"
            return ProcessEnd(name, None, detail=detail)
        name = self._forget(pid, wait_status)
        cpu_seconds = usage.ru_utime + usage.ru_stime
        return ProcessEnd(name, wait_status, usage.ru_maxrss * _MAXRSS_UNIT, cpu_seconds)

    def _forget(self, pid: int, wait_status: int) -> str:
        name = self._names.pop(pid)
        # Popen would otherwise wait for this process id by itself later, when it may belong to somebody else.
        self._children.pop(name).returncode = wait_status
        return name


class _LogError(Exception):
    """The log file cannot be opened."""


def _make_die_with_parent() -> Optional[Callable[[], None]]:
    """What a child calls before exec so that the kernel kills it when its parent dies; None where it does not.

    Everything is looked up now: after a fork in a process with threads, imports and memory may be locked for ever.
    """
    if sys.platform != "linux":
        return None
    # PyDLL keeps the interpreter's lock during the call, so the child has no lock to take back.
    prctl = ctypes.PyDLL(None).prctl
    getppid, leave, parent, kill = os.getppid, os._exit, os.getpid(), int(signal.SIGKILL)

    def die_with_parent() -> None:
        prctl(_PR_SET_PDEATHSIG, kill, 0, 0, 0)
        if getppid() != parent:  # it died before the call above
            leave(1)

    return die_with_parent


@contextlib.contextmanager
def _no_fork_warning() -> Iterator[None]:
    """From Python 3.12 a fork in a process with threads warns of deadlocks; ours calls only what cannot lock."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*fork", DeprecationWarning)
        yield


def _open_log(path: Optional[str]) -> int:
    if path is None:
        return subprocess.DEVNULL
    try:
        return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    except (OSError, ValueError) as error:
        raise _LogError(f"cannot open the log file {path!r}: {error}") from error


def _kill_group(pid: int, signum: int) -> None:
    try:
        os.killpg(pid, signum)
    except (ProcessLookupError, PermissionError):
        # Gone; or, on macOS, only zombies are left in the group. A group of strangers is impossible: see above.
        pass


def _wait_readable(descriptor: int, seconds: float) -> None:
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    poll.poll(max(0, math.ceil(seconds * 1000)))
