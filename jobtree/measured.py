"""What many targets, or many workers, were measured to use: time, CPU, waiting and memory, each as a distribution.

time     seconds of wall clock
clock    seconds of CPU, of the process and of the children that it has waited for (the original's word)
wait     the difference, where it is above zero: seconds in which nothing was computed
memory   the largest resident set, in bytes
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar

from jobtree.distributions import Distribution

CATEGORIES = ("time", "clock", "wait", "memory")

_LONG_ENOUGH = 0.01
"""Seconds that a target must take to be counted for ``cores_most``: of shorter ones the clocks say little."""


class Measured:
    """Four distributions, and two facts beside them.

    cores_most: the most CPU seconds per second that any of them used over its time; inexact: of how many the memory is
    that of the whole bundle so far, because the system could not tell more.
    """

    __slots__ = (*CATEGORIES, "cores_most", "inexact")

    def __init__(self) -> None:
        self.time: Distribution = Distribution()
        self.clock: Distribution = Distribution()
        self.wait: Distribution = Distribution()
        self.memory: Distribution = Distribution()
        self.cores_most: float = 0.0
        self.inexact: int = 0

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Measured) and self.to_json() == other.to_json()

    __hash__: ClassVar[None] = None  # type: ignore[assignment]

    @property
    def count(self) -> int:
        """How many were measured."""
        return self.time.count

    def add(self, measures: Sequence[tuple[float, float, int, bool]]) -> None:
        """Take in more of them, each as ``frames.Measures`` has it."""
        if not measures:
            return
        times, clocks, memories, exact = zip(*measures)
        self.time.add(times)
        self.clock.add(clocks)
        self.wait.add([wall - cpu if wall > cpu else 0.0 for wall, cpu in zip(times, clocks)])
        self.memory.add(memories)
        self.inexact += exact.count(False)
        if self.time.most > _LONG_ENOUGH:
            cores = max((cpu / wall for wall, cpu in zip(times, clocks) if wall > _LONG_ENOUGH), default=0.0)
            self.cores_most = max(self.cores_most, cores)

    def merge(self, other: Measured) -> None:
        """Take in those of another one."""
        for category in CATEGORIES:
            self.of(category).merge(other.of(category))
        self.cores_most = max(self.cores_most, other.cores_most)
        self.inexact += other.inexact

    def of(self, category: str) -> Distribution:
        """One of the four."""
        found: Distribution = getattr(self, category)
        return found

    def to_json(self) -> dict[str, Any]:
        """As JSON has it."""
        found: dict[str, Any] = {category: self.of(category).to_json() for category in CATEGORIES}
        return {**found, "cores_most": self.cores_most, "inexact": self.inexact}

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> Measured:
        """The other way. Raises KeyError, ValueError, TypeError or AttributeError for what ``to_json`` has not made."""
        found = cls()
        for category in CATEGORIES:
            setattr(found, category, Distribution.from_json(stored[category]))
        found.cores_most, found.inexact = float(stored["cores_most"]), int(stored["inexact"])
        return found


def together(parts: Iterable[Measured]) -> Measured:
    """All of them."""
    found = Measured()
    for part in parts:
        found.merge(part)
    return found
