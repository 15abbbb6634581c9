"""What a target uses: wall clock, CPU seconds and peak memory, of its worker and the programs that it runs.

The memory is that of the largest process: the worker or one that it has waited for. Of those the system tells only the
largest of all so far. If a target has not raised that, what its own programs used is between nothing and that, so where
it matters the memory is said to be inexact: at most so much.
"""

from __future__ import annotations

import os
import resource
import sys
import time
from typing import Optional

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
    _last_children: Optional[tuple[float, int]] = None

    def __init__(self) -> None:
        # Forgetting the high-water mark costs as much as running an empty target; not needed if the target before
        # has hardly raised it.
        if Usage._last_peak > Usage._floor + _NEARLY:
            self._exact = _reset_peak()
            Usage._floor = _used(resource.RUSAGE_SELF)[1]
        else:
            self._exact = True
        # Nobody waits for a child between the end of one target's measures and the begin of the next one's.
        self._children = Usage._last_children or _used(resource.RUSAGE_CHILDREN)
        self._cpu = _used(resource.RUSAGE_SELF)[0]
        self._wall = time.perf_counter()

    def measures(self) -> Measures:
        """What was used since the start."""
        wall = time.perf_counter() - self._wall
        seconds, largest = Usage._last_children = _used(resource.RUSAGE_CHILDREN)
        seconds_before, largest_before = self._children
        cpu, peak = _used(resource.RUSAGE_SELF)
        Usage._last_peak = peak
        cpu += seconds - seconds_before - self._cpu
        if seconds > seconds_before and largest > peak:
            return Measures(wall, cpu, largest, self._exact and largest > largest_before)
        return Measures(wall, cpu, peak, self._exact)


def _used(whose: int) -> tuple[float, int]:
    """CPU seconds and peak memory in bytes of this process, or of its children that were waited for: all of them, and
    the largest. One call that tells both takes half of what time.process_time alone does, and Linux makes user and
    system time add up to what it has measured."""
    used = resource.getrusage(whose)
    return used.ru_utime + used.ru_stime, used.ru_maxrss * _MAXRSS_UNIT


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
