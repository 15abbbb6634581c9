"""How many jobs go into one bundle. Pure: numbers in, numbers out.

A bundle costs a few milliseconds to hand over, however many targets are in it; a slot is idle for that long. So ready
jobs of one shape are packed until their expected time reaches a goal. What must hold:

  - Nothing is assumed of a class that has not been measured: it starts alone, at most one bundle a slot, and bundles
    grow at most tenfold from one step to the next, so that a wrong guess costs one short bundle and not an hour.
  - The expectation for a target is the larger of what it said (``time``) and the mean measured of its class.
  - No bundle holds more than half of what remains for its slot, so that all slots end at about the same time; but where
    that would take less than ``shortest``, all of it: a row of ever smaller bundles costs more than it evens out.
  - Where much remains, bundles take up to ``longest`` instead of the goal, but no more than an eighth of what remains
    for the slot: a bundle's own cost (a fork and its page faults, files, a share of a commit: some 5 ms of CPU) is 5 %
    of 0.1 s, and nobody waits for the single bundle of a long line.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Optional

GROWTH = 10
MOST = 10_000
"""However short targets are, a bundle of more gains nothing and is slow to take back."""

_SHARE = 8
"""A bundle that takes longer than the goal is at most this part of what remains for its slot."""

_AROUND = 50e-6
"""Seconds that a worker spends on a target beside running it; counted only for the shortest bundles."""

_REMEMBERED = 0.9
"""What is left of earlier measurements after one more bundle: the mean follows the last ten or so, each by the number
of targets that it held, so that the slow first bundles of one target do not weigh on it."""


class _Class:
    __slots__ = ("in_flight", "largest", "seconds", "targets")

    def __init__(self) -> None:
        self.seconds = 0.0
        self.targets = 0.0
        self.largest = 0
        self.in_flight = 0

    @property
    def mean(self) -> float:
        """Seconds a target takes; 0 if none was measured."""
        return self.seconds / self.targets if self.targets else 0.0


class Bundler:
    """Measures classes of targets and says how large their next bundle may be.

    goal: seconds that a bundle should take; longest: seconds that it may take where much remains (None: the same);
    shortest: seconds below which it is not made smaller, however little remains. isolate: every bundle holds one job.
    """

    def __init__(
        self, goal: float, isolate: bool = False, longest: Optional[float] = None, shortest: float = 0.0
    ) -> None:
        self._goal = goal
        self._longest = goal if longest is None else longest
        self._shortest = shortest
        self._isolate = isolate
        self._classes: dict[str, _Class] = {}

    def expected(self, name: str, time: float) -> float:
        """Seconds that a target of this class is expected to take; time: what it said itself, or 0."""
        known = self._classes.get(name)
        return max(time, known.mean if known is not None else 0.0)

    def size(self, name: str, waiting: int, slots: int) -> int:
        """How many jobs the next bundle may hold at most; 0: none now.

        waiting: READY jobs of the shape; slots: how many bundles can run at once.
        """
        known = self._classes.get(name)
        if known is None or not known.targets:
            return 1 if known is None or known.in_flight < slots else 0
        if self._isolate:
            return 1
        mean = known.mean
        share = mean * waiting / (slots * _SHARE)
        by_time = min(max(self._goal, min(share, self._longest)) / mean, MOST) if mean > 0 else MOST
        fair = -(-waiting // (2 * slots))
        least = int(self._shortest / (mean + _AROUND))
        # All slots get some of what remains; but the last of them does not halve its part again and again.
        fair = max(fair, min(least, waiting, -(-max(waiting, least) // slots)))
        return max(1, min(int(by_time), known.largest * GROWTH, fair, MOST))

    def cut(self, name: str, times: Iterable[float], most: int) -> int:
        """How many of the next jobs, which said these times, make a bundle: at least one. most: as ``size`` said."""
        # A little more than so many of the mean, so that the sum's rounding does not cost one of them.
        limit = max(self._goal, min(self._longest, (most + 0.5) * self.expected(name, 0.0)))
        total, count = 0.0, 0
        for time in times:
            total += self.expected(name, time)
            if count and total > limit:
                break
            count += 1
            if count >= most:
                break
        return count

    def issued(self, name: str) -> None:
        """A bundle of this class has been issued."""
        self._classes.setdefault(name, _Class()).in_flight += 1

    def over(self, name: str, targets: int, seconds: float) -> None:
        """A bundle is over in which so many targets ended after so many seconds of running in all."""
        known = self._classes.setdefault(name, _Class())
        known.in_flight = max(0, known.in_flight - 1)
        if targets <= 0:
            return
        known.seconds = known.seconds * _REMEMBERED + seconds
        known.targets = known.targets * _REMEMBERED + targets
        known.largest = max(known.largest, targets)

    def learn(self, name: str, targets: int, mean: float) -> None:
        """What an earlier run has measured of a class."""
        if targets > 0:
            known = self._classes.setdefault(name, _Class())
            known.seconds, known.targets, known.largest = mean, 1.0, min(targets, MOST)
