"""How numbers are distributed, in bounded space: how many, their sum, the least, the most, and a sketch of the rest.

What must hold
  - Count, total, least and most are exact. A quantile (the median) is off by at most 1/32 of itself.
  - It is cheap: numbers come in by the thousand and go through built-in functions only, some 0.1 us each.
  - It is small: there is a bucket for each sixteenth of an octave in which a number lies, so as many as there are
    different numbers, and never more than some hundreds. Two sketches are added by adding their buckets.

The bucket of a number is the first 16 bits of its double: sign, exponent, and four bits of the mantissa, which order
numbers as their values do. So it takes no arithmetic to find. Numbers below zero do not occur.
"""

from __future__ import annotations

import struct
import sys
from array import array
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar, Optional

PRECISION = 1 / 32
"""By so much of itself a quantile may be off."""

_FIRST_BITS = 3 if sys.byteorder == "little" else 0
"""Which of the four 16-bit pieces of a double comes first."""


class Distribution:
    """The distribution of numbers that are not below zero. least is None while there are none.

    true_median: where somebody who has all the numbers has told it; it is not stored.
    """

    __slots__ = ("buckets", "count", "least", "most", "total", "true_median")

    def __init__(
        self,
        count: int = 0,
        total: float = 0.0,
        least: Optional[float] = None,
        most: float = 0.0,
        buckets: Optional[Mapping[int, int]] = None,
    ) -> None:
        self.count: int = count
        self.total: float = total
        self.least = least
        self.most: float = most
        self.buckets: Counter[int] = Counter(buckets)
        self.true_median: Optional[float] = None

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Distribution) and self.to_json() == other.to_json()

    __hash__: ClassVar[None] = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"Distribution({self.count} numbers, {self.least!r} to {self.most!r}, {self.total!r} in all)"

    def add(self, numbers: Sequence[float]) -> None:
        """Take in more of them."""
        if not numbers:
            return
        self._add(len(numbers), sum(numbers), min(numbers), max(numbers))
        self.buckets.update(memoryview(array("d", numbers)).cast("B").cast("H")[_FIRST_BITS::4])

    def merge(self, other: Distribution) -> None:
        """Take in those of another one."""
        if other.least is not None:
            self._add(other.count, other.total, other.least, other.most)
            self.buckets.update(other.buckets)

    def _add(self, count: int, total: float, least: float, most: float) -> None:
        self.count += count
        self.total += total
        self.least = least if self.least is None else min(self.least, least)
        self.most = max(self.most, most)

    @property
    def mean(self) -> Optional[float]:
        """None if there is nothing."""
        return self.total / self.count if self.count else None

    @property
    def median(self) -> Optional[float]:
        """Within ``PRECISION``, if the true one is not known; None if there is nothing."""
        return self.quantile(0.5) if self.true_median is None else self.true_median

    def quantile(self, share: float) -> Optional[float]:
        """The number that so large a share of all numbers does not pass, within ``PRECISION``; None for none."""
        if self.least is None:
            return None
        rank, below = share * self.count, 0
        for bucket in sorted(self.buckets):
            below += self.buckets[bucket]
            if below >= rank:
                low, high = edges(bucket)
                # The lowest bucket holds what is nothing at all.
                return min(max((low + high) / 2 if low else 0.0, self.least), self.most)
        return self.most

    def to_json(self) -> list[Any]:
        """As JSON has it, which knows texts only as keys."""
        buckets = {str(bucket): count for bucket, count in sorted(self.buckets.items())}
        return [self.count, self.total, self.least, self.most, buckets]

    @classmethod
    def from_json(cls, stored: Iterable[Any]) -> Distribution:
        """The other way. Raises ValueError, TypeError or AttributeError for what ``to_json`` has not made."""
        count, total, least, most, buckets = stored
        return cls(count, total, least, most, {int(bucket): number for bucket, number in buckets.items()})


def edges(bucket: int) -> tuple[float, float]:
    """Between which two numbers those of a bucket are."""
    low, high = struct.unpack(">2d", struct.pack(">2Q", bucket << 48, bucket + 1 << 48))
    return low, high


def total(distributions: Iterable[Distribution]) -> Distribution:
    """All of them together."""
    found = Distribution()
    for one in distributions:
        found.merge(one)
    return found
