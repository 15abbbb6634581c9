"""What a target uses: wall clock, CPU seconds and peak memory of its worker, from its start to its end."""

from __future__ import annotations

import os
import resource
import sys
import time

from jobtree.frames import Measures

_NEARLY = 1 << 20
"""Bytes by which a peak may be overstated for the sake of speed."""


_MAXRSS_UNIT = 1024 if sys.platform.startswith("linux") else 1
"""Bytes in what getrusage(2) says: Linux tells kibibytes, macOS bytes."""


class Usage:
    """Wall clock, CPU and peak memory from now on, of this process and the children it has waited for."""

    __slots__ = ("_children", "_cpu", "_exact", "_wall")

    _floor = 0
    _last_peak = 1 << 62
    _last_children = -1.0

    def __init__(self) -> None:
        # Forgetting the high-water mark costs as much as running an empty target; not needed if the target before
        # has hardly raised it.
        if Usage._last_peak > Usage._floor + _NEARLY:
            self._exact = _reset_peak()
            Usage._floor = _used()[1]
        else:
            self._exact = True
        # Nobody waits for a child between the end of one target's measures and the begin of the next one's.
        self._children = Usage._last_children if Usage._last_children >= 0 else _children_seconds()
        self._cpu = _used()[0]
        self._wall = time.perf_counter()

    def measures(self) -> Measures:
        """What was used since the start."""
        wall = time.perf_counter() - self._wall
        children = Usage._last_children = _children_seconds()
        cpu, Usage._last_peak = _used()
        return Measures(wall, cpu - self._cpu + children - self._children, Usage._last_peak, self._exact)


def _used() -> tuple[float, int]:
    """CPU seconds and peak memory in bytes of this process. One call that tells both takes half of what
    time.process_time alone does, and Linux makes user and system time add up to what it has measured."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime, used.ru_maxrss * _MAXRSS_UNIT


def _children_seconds() -> float:
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return children.ru_utime + children.ru_stime


def _reset_peak() -> bool:
    """Forget the memory high-water mark, where Linux allows it; True if it did."""
    try:
        fd = os.open("/proc/self/clear_refs", os.O_WRONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        os.write(fd, b"5")
        return True
    except OSError:
        return False
    finally:
        os.close(fd)
