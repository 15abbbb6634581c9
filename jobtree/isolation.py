"""Between two targets of one worker: put back what the first may have changed.

A worker runs thousands of targets in one process, and each must find what it would find in a fresh one. After every
target the worker restores working directory, environment, umask, signal handlers and mask, timers, resource limits,
the cores it may use, standard streams, the root logger, profiler and tracer, the recursion limit and ``sys.path``, and
looks for processes and threads that were left behind; and once more after it has stored what the target left, if that
can have run methods of the user's classes. Processes are killed. Threads cannot be; nor can a lowered hard limit be
raised again: then ``restore`` says why, and the worker ends so that a fresh one takes the rest. Globals of the user's
modules are shared, as documented.

All of this happens thousands of times a second and costs 10 to 20 us when nothing was changed, nearly all of it system
calls, so everything is compared before it is set.
"""

from __future__ import annotations

import ctypes
import gc
import logging
import os
import resource
import signal
import sys
import threading
from typing import Any, Callable, Optional

from jobtree import processtree

# The ordinary ones; nobody's library uses real-time signals, and asking for each costs.
_SIGNALS = tuple(
    n for n in range(1, 32) if n in signal.valid_signals() and n not in (signal.SIGKILL, signal.SIGSTOP)
)
_LIMITS = tuple(
    getattr(resource, name)
    for name in (
        "RLIMIT_AS",
        "RLIMIT_CORE",
        "RLIMIT_CPU",
        "RLIMIT_DATA",
        "RLIMIT_FSIZE",
        "RLIMIT_NOFILE",
        "RLIMIT_STACK",
    )
    if hasattr(resource, name)
)


# signal.getsignal turns its result into an enum, which costs ten times the call; for comparing, the plain one does.
_getsignal: Callable[[int], Any] = getattr(sys.modules.get("_signal"), "getsignal", signal.getsignal)
_sigmask: Callable[[int, Any], set[int]] = getattr(
    sys.modules.get("_signal"), "pthread_sigmask", signal.pthread_sigmask
)
_setitimer: Callable[[int, float], Any] = getattr(sys.modules.get("_signal"), "setitimer", signal.setitimer)
_TIMERS = (int(signal.ITIMER_REAL), int(signal.ITIMER_VIRTUAL), int(signal.ITIMER_PROF))
_BLOCK, _SETMASK = int(signal.SIG_BLOCK), int(signal.SIG_SETMASK)
# Whoever sends these means the worker, so they are delivered late; other signals that a target blocked die with it.
_TO_THE_WORKER = frozenset([signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT])


class Baseline:
    """What a fresh worker looks like. Made once, before the first target.

    directory: the working directory of targets. log: the file that standard output and error go to.
    """

    def __init__(self, directory: str, log: str) -> None:
        self._directory = directory
        self._files = (os.devnull, log, log)
        self._environ = os.environ
        # The bytes behind os.environ: comparing them takes 1 us, decoding fifty variables fifteen.
        self._environment = dict(os.environ._data)  # type: ignore[attr-defined]
        self._umask = os.umask(0o077)
        os.umask(self._umask)
        self._mask = _sigmask(_BLOCK, ())
        self._cores = _cores()
        self._recursion = sys.getrecursionlimit()
        self._handlers = [(number, _getsignal(number)) for number in _SIGNALS]
        self._limits = [(which, resource.getrlimit(which)) for which in _LIMITS]
        self._streams = (sys.stdin, sys.stdout, sys.stderr)
        self._descriptors = [_identity(fd) for fd in (0, 1, 2)]
        self._path = list(sys.path)
        root = logging.getLogger()
        self._logging = (root.level, list(root.handlers), list(root.filters), logging.root.manager.disable)
        self._excepthook = sys.excepthook
        self._profiler, self._tracer = sys.getprofile(), sys.gettrace()
        self._threads = threading.active_count()

    def restore(self) -> tuple[Optional[str], list[str]]:
        """Put everything back. Returns why this worker must end (None: it need not), and warnings for the user."""
        warnings: list[str] = []
        if sys.getprofile() is not self._profiler:
            sys.setprofile(self._profiler)  # first: until then it is called in the midst of ours
        if sys.gettrace() is not self._tracer:
            sys.settrace(self._tracer)
        if processtree.reap():
            names = processtree.kill_descendants()
            if names:
                warnings.append(f"left {', '.join(names[:5])} running when it ended; killed")
        self._restore_streams()
        self._restore_process()
        self._restore_interpreter()
        why = self._restore_limits()
        if threading.active_count() > self._threads:
            names = [t.name for t in threading.enumerate() if t is not threading.main_thread()]
            why = f"left the thread {', '.join(names[:5])} running"
        return why, warnings

    def _restore_process(self) -> None:
        try:
            if os.getcwd() != self._directory:
                os.chdir(self._directory)
        except OSError:
            os.chdir(self._directory)  # it was in a directory that has been removed
        if os.environ is not self._environ:
            os.environ = self._environ  # noqa: B003  # the object is put back, and below what is in it
        if os.environ._data != self._environment:  # type: ignore[attr-defined]
            for name in list(os.environ._data):  # type: ignore[attr-defined]
                if name not in self._environment:
                    del os.environb[name]
            for name, value in self._environment.items():
                if os.environ._data.get(name) != value:  # type: ignore[attr-defined]
                    os.environb[name] = value
        if os.umask(self._umask) != self._umask:
            os.umask(self._umask)
        for timer in _TIMERS:
            _setitimer(timer, 0)
        for number, handler in self._handlers:
            if _getsignal(number) is not handler and handler is not None:
                signal.signal(number, handler)
        if _sigmask(_BLOCK, ()) != self._mask:
            self._restore_mask()
        if self._cores is not None and _cores() != self._cores:
            _set_cores(self._cores)

    def _restore_mask(self) -> None:
        for number in signal.sigpending():
            if number not in _TO_THE_WORKER:
                handler = signal.getsignal(number)
                signal.signal(number, signal.SIG_IGN)  # which makes the system forget that it is pending
                signal.signal(number, signal.SIG_DFL if handler is None else handler)
        _sigmask(_SETMASK, self._mask)

    def _restore_interpreter(self) -> None:
        if sys.path != self._path:
            sys.path[:] = self._path
        if sys.excepthook is not self._excepthook:
            sys.excepthook = self._excepthook
        if sys.getrecursionlimit() != self._recursion:
            sys.setrecursionlimit(self._recursion)
        if not gc.isenabled():
            gc.enable()
        root = logging.getLogger()
        level, handlers, filters, disable = self._logging
        if root.level != level:
            root.setLevel(level)
        if root.handlers != handlers:
            root.handlers[:] = handlers
        if root.filters != filters:
            root.filters[:] = filters
        if logging.root.manager.disable != disable:
            logging.disable(disable)

    def _restore_streams(self) -> None:
        for number, (name, stream) in enumerate(zip(("stdin", "stdout", "stderr"), self._streams)):
            if getattr(sys, name) is not stream:
                setattr(sys, name, stream)
            if _identity(number) != self._descriptors[number]:
                # By name, because a target that closes descriptors closes all of them, spare copies included.
                fd = os.open(self._files[number], os.O_RDWR | os.O_APPEND)
                if fd != number:
                    os.dup2(fd, number)
                    os.close(fd)
                os.set_inheritable(number, True)
            if stream is not None and _is_lost(stream):
                mode = "r" if number == 0 else "w"
                fresh: Any = open(number, mode, 1, errors="backslashreplace", closefd=False)  # noqa: SIM115
                setattr(sys, name, fresh)
                self._streams = tuple(fresh if i == number else s for i, s in enumerate(self._streams))  # type: ignore[assignment]

    def _restore_limits(self) -> Optional[str]:
        for which, limits in self._limits:
            if resource.getrlimit(which) != limits:
                try:
                    resource.setrlimit(which, limits)
                except (ValueError, OSError):
                    return "lowered a hard resource limit"
        return None


def _is_lost(stream: Any) -> bool:
    try:
        return bool(stream.closed)
    except ValueError:
        return True  # its buffer was detached


def _find_affinity() -> Optional[tuple[Callable[..., int], Callable[..., int]]]:
    """The two calls of the C library: os.sched_getaffinity makes an object for each core, which large machines feel."""
    try:
        library = ctypes.CDLL(None)
        return library.sched_getaffinity, library.sched_setaffinity
    except (OSError, AttributeError):
        return None


_affinity = _find_affinity()
_core_bits = ctypes.create_string_buffer(1024)


def _cores() -> Optional[bytes]:
    """The cores that this process may use, as the kernel's bits; None where that cannot be told."""
    if _affinity is None or _affinity[0](0, 1024, _core_bits) != 0:
        return None
    return _core_bits.raw


def _set_cores(cores: bytes) -> None:
    if _affinity is not None:
        _affinity[1](0, 1024, cores)


def _identity(fd: int) -> Optional[tuple[int, ...]]:
    try:
        return os.fstat(fd)[1:3]  # inode and device; by name they take twice as long
    except OSError:
        return None
