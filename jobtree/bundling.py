"""How many jobs go into one bundle. Pure: numbers in, numbers out.

A bundle costs a few milliseconds to hand over, however many targets are in it; a slot is idle for that long. So ready
jobs of one shape are packed until their expected time reaches a goal. What must hold:

  - Nothing is assumed of a class that has not been measured: it starts alone, at most one bundle a slot, and bundles
    grow at most tenfold from one step to the next, so that a wrong guess costs one short bundle and not an hour. Only
    up to ``shortest`` they may grow at once: what takes less is mostly the bundle's own cost.
  - Where bundles are *bounded* a wrong guess costs little: a worker gives back what it has not begun after some time
    (frames.OVERTIME), and what idle slots could take over is recalled. There, a class that has not been measured is
    guessed to be so short that half of what waits can be divided among the slots at once, and nothing grows in steps:
    each step takes a scheduler some seconds in which all slots are idle. (Only what workers end too early to run does.)
  - The expectation for a target is the larger of what it said (``time``) and the mean measured of its class.
  - No bundle holds more than half of what remains for its slot, so that all slots end at about the same time; but where
    that would take less than ``shortest``, all slots get an equal part of it: a row of ever smaller bundles costs more
    than it evens out.
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

MOST_BYTES = 4 << 20
"""What the jobs of a bundle may be pickled, together with the values that they are given: its worker reads all of it
into the memory that one of them asks for. A single job may be larger."""

_SHARE = 8
"""A bundle that takes longer than the goal is at most this part of what remains for its slot."""

AROUND = 50e-6
"""Seconds that a worker spends on a target beside running it; counted only where it is most of a bundle."""

_REMEMBERED = 0.9
"""What is left of earlier measurements after one more bundle: the mean follows the last ten or so, each by the number
of targets that it held, so that the slow first bundles of one target do not weigh on it."""


def within_bytes(sizes: Iterable[int]) -> int:
    """How many of the first jobs, of these sizes, fit into a bundle together: at least one, if there is one."""
    total = count = 0
    for size in sizes:
        total += size
        if count and total > MOST_BYTES:
            break
        count += 1
    return count


class _Class:
    __slots__ = ("early", "frozen", "in_flight", "largest", "part", "seconds", "slots", "targets", "waiting")

    def __init__(self) -> None:
        self.seconds = 0.0
        self.targets = 0.0
        self.largest = 0
        self.in_flight = 0
        self.waiting = 0
        self.part = 0
        self.slots = 0
        self.frozen = False
        self.early: Optional[int] = None

    @property
    def mean(self) -> float:
        """Seconds a target takes; 0 if none was measured."""
        return self.seconds / self.targets if self.targets else 0.0

    def half_of(self, waiting: int, slots: int) -> int:
        """How many each slot gets if each gets half of its part, and all the same."""
        if self._is_to_be_divided(waiting, slots):
            self.frozen = True
            self.part = -(-waiting // (2 * slots))
        return self.part

    def part_of(self, waiting: int, slots: int, least: int) -> int:
        """How many each slot gets if all get the same, in as many rounds of about ``least`` as make it come out even.

        The last two rounds keep to that number while slot after slot gets its part.
        """
        if self._is_to_be_divided(waiting, slots):
            each = -(-waiting // slots)
            rounds = int(each / least + 0.5) if least else each
            self.frozen = rounds <= 2
            self.part = -(-each // max(1, rounds))
        return self.part

    def _is_to_be_divided(self, waiting: int, slots: int) -> bool:
        """Whether the part is to be found anew: it is not frozen, or there are more jobs, or other slots, than then."""
        anew = not self.frozen or waiting > self.waiting or slots != self.slots
        self.waiting, self.slots = waiting, slots
        return anew


class Bundler:
    """Measures classes of targets and says how large their next bundle may be.

    goal: seconds that a bundle should take; longest: seconds that it may take where much remains (None: the same);
    shortest: seconds below which it is not made smaller, however little remains; so that rounds come out even it may
    take half as much again. isolate: every bundle holds one job. bounded: see the top of this file.
    """

    def __init__(
        self,
        goal: float,
        isolate: bool = False,
        longest: Optional[float] = None,
        shortest: float = 0.0,
        bounded: bool = False,
    ) -> None:
        self._goal = goal
        self._bounded = bounded
        self._longest = max(goal if longest is None else longest, 1.5 * shortest)
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
        known = self._classes.setdefault(name, _Class())
        if not known.targets:
            if known.in_flight >= slots:
                return 0
            guesses = self._bounded and self._goal > 0 and not self._isolate
            return min(known.half_of(waiting, slots), self._growth(known, 0), MOST) if guesses else 1
        if self._isolate:
            return 1
        mean = known.mean
        share = mean * waiting / (slots * _SHARE)
        by_time = min(max(self._goal, min(share, self._longest)) / mean, MOST) if mean > 0 else MOST
        least = int(self._shortest / (mean + AROUND))
        part = known.part_of(waiting, slots, least)
        fair = max(-(-waiting // (2 * slots)), part)
        return max(1, min(max(int(by_time), part), self._growth(known, least), fair, MOST))

    def _growth(self, known: _Class, least: int) -> int:
        if not self._bounded:
            return max(known.largest * GROWTH, least)
        return MOST if known.early is None else GROWTH * max(1, known.early)

    def in_flight(self, name: str) -> int:
        """How many bundles of a class have been issued and are not over."""
        known = self._classes.get(name)
        return known.in_flight if known is not None else 0

    def is_known(self, name: str) -> bool:
        """Whether anything has been measured of a class."""
        known = self._classes.get(name)
        return known is not None and known.targets > 0

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

    def issued(self, name: str, targets: int = 1) -> None:
        """A bundle of so many targets of this class has been issued."""
        known = self._classes.setdefault(name, _Class())
        known.in_flight += 1
        known.waiting -= targets  # so that others that come are told from what was there

    def over(self, name: str, targets: int, seconds: float, early: bool = False) -> None:
        """A bundle is over in which so many targets ended after so many seconds of running in all.

        early: its worker ended, of itself or killed, long before it had run what was in it. Where that is the rule, as
        with targets that leave a thread behind, the next ones hold at most ten times what this one got done.
        """
        known = self._classes.setdefault(name, _Class())
        known.in_flight = max(0, known.in_flight - 1)
        known.early = targets if early else None
        if targets <= 0:
            return
        if not known.targets:
            known.frozen = False  # what waits is divided anew, by what is known now
        known.seconds = known.seconds * _REMEMBERED + seconds
        known.targets = known.targets * _REMEMBERED + targets
        known.largest = max(known.largest, targets)

    def learn(self, name: str, targets: int, mean: float) -> None:
        """What an earlier start has measured of a class, or bundles that are not over yet have shown of it."""
        if targets > 0:
            known = self._classes.setdefault(name, _Class())
            known.seconds, known.targets, known.largest = mean, 1.0, min(targets, MOST)
            known.frozen = False
