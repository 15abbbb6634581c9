"""The two clocks. Nothing else in the package reads one to decide something.

``elapsed`` only ever goes forward, counts the time that a suspended machine slept where the system can tell, and is
the one to measure with; ``wall`` is for people, can jump either way, and nothing is decided by it.
"""

from __future__ import annotations

import time

_BOOTTIME = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


def elapsed() -> float:
    """Seconds since some fixed moment; the same for all processes of this machine."""
    return time.clock_gettime(_BOOTTIME)


def wall() -> float:
    """Seconds since 1970, as the machine believes."""
    return time.time()


def text(moment: float) -> str:
    """A moment of ``wall`` for people, in local time."""
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(moment))
