"""More for a target that ran out of memory or time: --doubleMem and --doubleTime. Pure.

It costs the target no try, since what failed was the request. But it is counted as a loss, and --maxLost in a row end
it: after the default of five it has had sixteen times of what it asked for. What is known to be more than there is
anywhere is not asked for.
"""

from __future__ import annotations

from typing import Callable, NamedTuple, Optional


class Enlarging(NamedTuple):
    """What to do about it. default_memory (bytes), default_time (seconds): of targets that ask for nothing.

    largest: the largest memory of a machine in bytes, None if that is not known.
    """

    double_memory: bool
    double_time: bool
    default_memory: int
    default_time: Optional[float]
    largest: Callable[[], Optional[int]]

    def larger(self, kind: str, memory: int, time: float) -> Optional[tuple[int, float]]:
        """The next memory and time for a target that had these (0: it did not say) and failed so; None: the same."""
        if kind == "memory" and self.double_memory:
            asked = memory or self.default_memory
            most = self.largest()
            more = 2 * asked if most is None else min(2 * asked, most)
            return (more, time) if more > asked else None
        if kind == "time" and self.double_time:
            limit = time or self.default_time
            return (memory, 2 * limit) if limit else None
        return None
