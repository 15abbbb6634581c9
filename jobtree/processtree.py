"""Who dies with whom: keeping hold of processes and of everything that they start.

On Linux a process can ask to be killed when its parent dies (PR_SET_PDEATHSIG) and to become the parent of orphans
below it (PR_SET_CHILD_SUBREAPER), so that a target's daemon, which has left its process group and its parent, still
ends up below the worker and then below the launcher, and is found there. Elsewhere a thread waits for the end of a
pipe that only the parent holds.

A process that has slipped away all the same still carries ``JOBTREE_RUN`` in its environment; ``strays`` finds it.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import threading
import time
from collections.abc import Collection
from typing import TYPE_CHECKING, Callable, Optional

if TYPE_CHECKING:
    import psutil

BUNDLE_MARK = "JOBTREE_BUNDLE"
"""The variable that names the bundle of a process, where workers outlive the master."""

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36


def _find_prctl() -> Optional[Callable[..., int]]:
    if not sys.platform.startswith("linux"):
        return None
    try:
        function = ctypes.CDLL(None).prctl
    except (OSError, AttributeError):
        return None
    function.argtypes = [ctypes.c_int] + [ctypes.c_ulong] * 4
    result: Callable[..., int] = function
    return result


_prctl = _find_prctl()


def die_with_parent(parent: int, pipe: Optional[int] = None) -> None:
    """Be killed when the process with the pid ``parent`` dies; it must be our parent.

    pipe: a descriptor whose other end only the parent holds, for systems that cannot do this by themselves.
    """
    if _prctl is not None:
        _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != parent:
            os._exit(128 + signal.SIGKILL)  # it died before we asked
    elif pipe is not None:
        threading.Thread(target=_wait_for_end, args=(pipe,), name="jobtree-parent-watch", daemon=True).start()


def _wait_for_end(pipe: int) -> None:
    while os.read(pipe, 1024):
        pass
    os.killpg(0, signal.SIGKILL)


def adopt_orphans() -> None:
    """Become the parent of processes below us whose own parent dies (Linux; elsewhere nothing happens)."""
    if _prctl is not None:
        _prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def reap() -> bool:
    """Collect children that have ended, without waiting. True if there are others that still run."""
    while True:
        try:
            pid, _ = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return False
        if pid == 0:
            return True


def kill_descendants() -> list[str]:
    """Kill every process below this one and collect those that end as our children. Returns their names."""
    import psutil  # needed only by targets that leave something behind; importing it takes 15 ms

    names: list[str] = []
    seen = set()
    while reap():
        running = [p for p in psutil.Process().children(recursive=True) if _is_running(p)]
        for process in running:
            if process.pid not in seen:
                seen.add(process.pid)
                names.append(_name(process))
            _kill(process)
        # Waiting for one of ours; orphans come to us as their parents die, and are found in the next round.
        try:
            os.waitpid(-1, 0)
        except ChildProcessError:
            break
    return names


def strays(run: str) -> list[psutil.Process]:
    """The processes of this user, on this machine, that carry the mark of a run and are not dead; not our own."""
    import psutil

    found = []
    me = os.getpid()
    for process in psutil.process_iter():
        try:
            if (
                process.pid != me
                and process.uids().real == os.getuid()
                and (variables := process.environ()).get("JOBTREE_RUN") == run
                and BUNDLE_MARK not in variables  # those have a supervisor, and do not die with the master
                and process.status() != psutil.STATUS_ZOMBIE  # dead, and only its parent has not noticed
            ):
                found.append(process)
        except (psutil.Error, OSError):
            continue  # gone meanwhile, or a zombie, or not ours to look into
    return found


def kill_strays(run: str) -> list[int]:
    """Kill what ``strays`` finds, until it finds nothing; returns the pids."""

    killed: set[int] = set()
    while True:
        processes = strays(run)
        if not processes:
            return sorted(killed)
        for process in processes:
            _kill(process)
            killed.add(process.pid)
        time.sleep(0.005)  # until the kernel has carried it out; then the next look finds none


def kill_below(spare: Collection[int]) -> bool:
    """Kill every process below this one but for some of its children. Whether one was still running."""
    import psutil

    found = [p for p in psutil.Process().children(recursive=True) if p.pid not in spare and _is_running(p)]
    for process in found:
        _kill(process)
    return bool(found)


def kill_marked(bundle: str, session: int) -> bool:
    """Kill the processes of a session, and those that carry the mark of a bundle. Whether one was still running."""
    import psutil

    running = False
    for process in psutil.process_iter():
        try:
            if process.pid == os.getpid() or process.uids().real != os.getuid():
                continue
            ours = os.getsid(process.pid) == session or process.environ().get(BUNDLE_MARK) == bundle
            if ours and process.status() != psutil.STATUS_ZOMBIE:
                running = True
                os.kill(process.pid, signal.SIGKILL)
        except (psutil.Error, OSError):
            continue  # gone meanwhile, or a zombie, or not ours to look into
    return running


def _is_running(process: psutil.Process) -> bool:
    import psutil

    try:
        return bool(process.status() != psutil.STATUS_ZOMBIE)
    except psutil.Error:
        return False


def _name(process: psutil.Process) -> str:
    import psutil

    try:
        return str(process.name())
    except psutil.Error:
        return "a process"


def _kill(process: psutil.Process) -> None:
    import psutil

    try:
        process.kill()
    except psutil.Error:
        pass
