"""What single targets have used, in a tree that was run with --stats: true medians, the critical path, a line each;
and of every tree, what single workers have.

The critical path is the row of targets, each of which could not begin before the one before it had ended, that ends
with the last one of the run. Walking backwards from there, the one before a target is

    its chain's target before, if that had no children; else the one that ended last below that one, counting everything
    that was below; and before the first target of a chain, the one that added it.

Making anything else shorter does not end the run sooner. What is missing between the end of one and the begin of the
next was spent waiting: for a place, for the batch system, for attempts that failed.

Every job has a larger number than the one above it, so reading jobs from the largest number down meets all that is
below a job before it. One pass is enough, and only jobs with children are remembered. Moments are on the clocks of the
machines where targets ran; who is below whom never depends on them.
"""

from __future__ import annotations

import sqlite3
import statistics
from array import array
from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import NamedTuple, Optional

from jobtree.events import ROOT_PARENT
from jobtree.measured import Measured

_ALL = (
    "SELECT t.job, t.attempt, t.step, shapes.name, coalesce(workers.host, ''), t.began, t.wall, t.cpu, "
    "t.memory, t.failed FROM targets AS t CROSS JOIN shapes ON shapes.id = t.shape "
    "LEFT JOIN workers ON workers.bundle = t.bundle "
)
_LINES = f"{_ALL} ORDER BY t.job, t.attempt"
_ONE = f"{_ALL} WHERE t.job = ? AND t.step = ? AND t.failed IS NULL ORDER BY t.attempt DESC LIMIT 1"
_UPWARDS = (
    "SELECT job, step, parent, parent_step, began + wall FROM targets WHERE failed IS NULL "
    "ORDER BY job DESC, attempt DESC"
)
_WORKERS = (
    "SELECT workers.bundle, host, backend, shapes.name, created, first, last, workers.targets, workers.failures, busy, "
    "last - first, workers.cpu, workers.memory FROM workers CROSS JOIN shapes ON shapes.id = workers.shape "
    "ORDER BY workers.bundle"
)
_ABOVE = "SELECT parent, parent_step FROM targets WHERE job = ? LIMIT 1"
_USED = (
    "SELECT shapes.name, t.wall, t.cpu, t.memory FROM targets AS t CROSS JOIN shapes ON shapes.id = t.shape "
    "WHERE t.failed IS NULL"
)


class TargetSeen(NamedTuple):
    """An attempt that is over. began: seconds since 1970; failed: the kind of its failure, None if it ended well."""

    job: int
    attempt: int
    step: int
    name: str
    host: str
    began: float
    wall: float
    cpu: float
    memory: int
    failed: Optional[str]

    @property
    def ended(self) -> float:
        """Seconds since 1970."""
        return self.began + self.wall


class WorkerSeen(NamedTuple):
    """A worker that is over. name: the class of its first target; otherwise as ``records.WorkerRow``; wall and cpu in
    seconds, from its first target to its last one, memory in bytes."""

    worker: int
    host: str
    backend: str
    name: str
    created: float
    first: float
    last: float
    targets: int
    failures: int
    busy: float
    wall: float
    cpu: float
    memory: int


class Path(NamedTuple):
    """The critical path, from its first target on. Seconds: of its targets together, and between them."""

    targets: tuple[TargetSeen, ...]
    working: float
    waiting: float


def lines(connection: sqlite3.Connection) -> Iterator[TargetSeen]:
    """Every attempt that was recorded. Raises sqlite3.Error, as everything here does."""
    return (TargetSeen(*row) for row in connection.execute(_LINES))


def workers(connection: sqlite3.Connection) -> Iterator[WorkerSeen]:
    """Every worker of which there is a record."""
    return (WorkerSeen(*row) for row in connection.execute(_WORKERS))


def set_medians(connection: sqlite3.Connection, by_class: dict[str, Measured], all: Measured) -> bool:
    """Give the true medians to those of which every target was recorded. Returns whether those are all."""
    used: dict[str, tuple[array[float], array[float], array[float]]] = {}
    for name, *numbers in connection.execute(_USED):
        if name not in used:
            used[name] = (array("d"), array("d"), array("d"))
        for one, number in zip(used[name], numbers):
            one.append(number)
    complete = True
    for name, measured in by_class.items():
        times = used.get(name)
        if times is not None and len(times[0]) == measured.count:
            _set_medians(measured, *times)
        elif measured.count:
            complete = False
    if complete and used:
        _set_medians(all, *(array("d", (n for one in used.values() for n in one[k])) for k in range(3)))
    return complete


def _set_medians(
    measured: Measured, times: Sequence[float], clocks: Sequence[float], memories: Sequence[float]
) -> None:
    waits = [max(0.0, time - clock) for time, clock in zip(times, clocks)]
    for category, numbers in zip(("time", "clock", "wait", "memory"), (times, clocks, waits, memories)):
        measured.of(category).true_median = statistics.median_low(numbers)


def critical_path(connection: sqlite3.Connection) -> Optional[Path]:
    """None if nothing was recorded."""
    tree = _Below(connection)
    if tree.last is None:
        return None
    found: list[TargetSeen] = []
    at: Optional[tuple[int, int]] = tree.last
    while at is not None:
        row = connection.execute(_ONE, at).fetchone()
        if row is None:
            break  # it ran before --stats was given
        found.append(TargetSeen(*row))
        at = tree.before(*at)
    found.reverse()
    gaps = (max(0.0, after.began - before.ended) for before, after in zip(found, found[1:]))
    return Path(tuple(found), sum(target.wall for target in found), sum(gaps))


class _Below:
    """Of each target with children, the one below it that was done last; and the last target of all."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self._latest: dict[tuple[int, int], tuple[float, int]] = {}
        self.last: Optional[tuple[int, int]] = None
        last_end = 0.0
        for job, rows in groupby(connection.execute(_UPWARDS), lambda row: row[0]):
            done, above = 0.0, (0, 0)
            for _, step, parent, parent_step, ended in rows:
                above = (parent, parent_step)
                done = max(done, ended, self._latest.get((job, step), (0.0, 0))[0])
                if self.last is None or ended > last_end:
                    self.last, last_end = (job, step), ended
            if above[0] != ROOT_PARENT:
                self._latest[above] = max(self._latest.get(above, (0.0, 0)), (done, job))

    def before(self, job: int, step: int) -> Optional[tuple[int, int]]:
        """The target for which this one waited last; None for the first of the run."""
        if step == 0:
            above = self._connection.execute(_ABOVE, (job,)).fetchone()
            return None if above is None or above[0] == ROOT_PARENT else (above[0], above[1])
        latest = self._latest.get((job, step - 1))
        return (job, step - 1) if latest is None else self._last_in(latest[1])

    def _last_in(self, job: int) -> tuple[int, int]:
        """The last target of a job and of all below it."""
        while True:
            row = self._connection.execute(
                "SELECT step FROM targets WHERE job = ? AND failed IS NULL ORDER BY attempt DESC LIMIT 1",
                (job,),
            ).fetchone()
            latest = self._latest.get((job, row[0]))
            if latest is None:
                return job, row[0]
            job = latest[1]
