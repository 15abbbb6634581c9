"""Throughput over time, as far as it was looked at: kept by the monitor in memory, in bounded space.

What is kept are not rates but how many targets had succeeded by then, so that no length of the steps, and no look that
came late, changes what is told. When there are too many points, every second one goes: a run of weeks is kept from its
beginning, in longer steps.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple, Optional

from jobtree.contents import TargetClass

MOST_POINTS = 1000
_MOST_HOSTS = 40
OTHERS = "others"
"""What hosts are called together that are too many to be told apart."""

_RATE_SECONDS = 60.0
"""The rate of now is that of so long."""


class Point(NamedTuple):
    """time: seconds since 1970; succeeded: targets so far; busy: slots; hosts: targets that have succeeded on each."""

    time: float
    succeeded: int
    failures: int
    busy: Optional[int]
    hosts: Mapping[str, int]


class History:
    """Points of one tree, the oldest first."""

    def __init__(self, most: int = MOST_POINTS) -> None:
        self._most = most
        self._step = 0.0
        self._points: list[Point] = []
        self._recent: list[Point] = []

    @property
    def points(self) -> Sequence[Point]:
        """All of them. The last one is the newest look, whatever the step."""
        return self._points

    def add(self, point: Point) -> None:
        """One more look. A tree that was made anew, or a clock that was set back, begins a new history."""
        point = point._replace(hosts=_bounded(point.hosts))
        if self._points:
            last = self._points[-1]
            if point.succeeded < last.succeeded or point.time < last.time:
                self._points, self._recent, self._step = [], [], 0.0
        # The last point only stands for now, until it is a step away from the one before it.
        if len(self._points) > 1 and point.time - self._points[-2].time < self._step:
            self._points[-1] = point
        else:
            self._points.append(point)
        if len(self._points) > self._most:
            self._thin()
        self._recent = [p for p in self._recent if point.time - p.time <= _RATE_SECONDS] + [point]

    def _thin(self) -> None:
        kept = self._points[:-1:2] + self._points[-1:]
        span = kept[-1].time - kept[0].time
        self._points, self._step = kept, 2 * span / self._most

    def rate(self) -> Optional[float]:
        """Targets that succeed in a second, over the last minute; None if nothing can be said yet."""
        first, last = (self._recent[0], self._recent[-1]) if self._recent else (None, None)
        if first is None or last is None or last.time <= first.time:
            return None
        return (last.succeeded - first.succeeded) / (last.time - first.time)


def _bounded(hosts: Mapping[str, int]) -> Mapping[str, int]:
    if len(hosts) <= _MOST_HOSTS:
        return dict(hosts)
    rows = sorted(hosts.items(), key=lambda row: (-row[1], row[0]))
    rest = sum(number for _, number in rows[_MOST_HOSTS:])
    return {**dict(rows[:_MOST_HOSTS]), OTHERS: rest}


def seconds_left(classes: Sequence[TargetClass], slots: Optional[float]) -> Optional[float]:
    """How long the jobs that are there will take, by the measured means of their classes, on so many slots.

    Of a class of which nothing has succeeded, the mean of all others is taken; None while there is none.
    """
    succeeded = sum(kind.succeeded for kind in classes)
    if not succeeded or not slots:
        return None
    mean = sum(kind.wall for kind in classes) / succeeded
    work = sum(
        kind.counts.left * (kind.wall / kind.succeeded if kind.succeeded else mean) for kind in classes
    )
    return work / slots
