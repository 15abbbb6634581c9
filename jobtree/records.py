"""What a run has used, as the store keeps it: of classes of targets always, of single ones if asked for.

    usage      a row for each shape: what its successful targets used, and for how long others ran in vain
    hosts      a row for each machine and batch system: what its workers used
    workers    a row for each worker: when, where, how many targets, what it used; a sample of them once there are
               ``MOST_WORKERS``
    targets    with --stats, a row for each attempt of a target

What must hold
  - Everything is written in the transaction that adopts what it follows from, so each target counts exactly once,
    whatever is killed. A number of an attempt that is no current one is not recorded.
  - Without --stats the tables are bounded: by the number of shapes and hosts, and MOST_WORKERS.
  - It must not be noticed: a target costs an entry in a list, and all of a turn's are taken in at once
    (``jobtree.distributions``).

A sample of the workers: those whose number is a multiple of ``every``, which doubles whenever the table is full, so it
is even over the whole run. In a tree with records of targets, which refer to workers, all are kept.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple, Optional

from jobtree.measured import Measured
from jobtree.shown import storable

SCHEMA = """
CREATE TABLE usage (shape INTEGER PRIMARY KEY, in_vain REAL NOT NULL, measured TEXT NOT NULL);
CREATE TABLE hosts (
    name TEXT NOT NULL, backend TEXT NOT NULL, targets INTEGER NOT NULL, failures INTEGER NOT NULL,
    busy REAL NOT NULL, queued REAL NOT NULL, queued_max REAL NOT NULL, first REAL NOT NULL, last REAL NOT NULL,
    measured TEXT NOT NULL, PRIMARY KEY (name, backend)
) WITHOUT ROWID;
CREATE TABLE workers (
    bundle INTEGER PRIMARY KEY, host TEXT NOT NULL, backend TEXT NOT NULL, shape INTEGER NOT NULL,
    created REAL NOT NULL, first REAL NOT NULL, last REAL NOT NULL, targets INTEGER NOT NULL,
    failures INTEGER NOT NULL, busy REAL NOT NULL, cpu REAL NOT NULL, memory INTEGER NOT NULL
);
CREATE TABLE targets (
    job INTEGER NOT NULL, attempt INTEGER NOT NULL, step INTEGER NOT NULL, parent INTEGER NOT NULL,
    parent_step INTEGER NOT NULL, shape INTEGER NOT NULL, bundle INTEGER NOT NULL, began REAL NOT NULL,
    wall REAL NOT NULL, cpu REAL NOT NULL, memory INTEGER NOT NULL, failed TEXT, PRIMARY KEY (job, attempt)
) WITHOUT ROWID;
"""

MOST_WORKERS = 10_000

_HOST = "targets, failures, busy, queued, queued_max, first, last, measured"


class WorkerRow(NamedTuple):
    """One worker that is over. created: when it was to be submitted; first, last: when its first target began and the
    last one ended (seconds since 1970); busy: seconds in which a target ran; targets, failures: attempts that ended
    well and not."""

    bundle: int
    host: str
    backend: str
    shape: int
    created: float
    first: float
    last: float
    targets: int
    failures: int
    busy: float


class TargetRow(NamedTuple):
    """One attempt of a target that is over. step: how many targets of its chain were before it; parent_step: that of
    the target that added it, in the chain ``parent``; failed: the kind of its failure, None if it ended well."""

    job: int
    attempt: int
    step: int
    parent: int
    parent_step: int
    shape: int
    bundle: int
    began: float
    wall: float
    cpu: float
    memory: int
    failed: Optional[str]


class ShapeStats:
    """What the targets of one shape have used: as of the last ``fold``, so other threads may look at it.

    in_vain: seconds of attempts that failed.
    """

    __slots__ = ("failures", "in_vain", "measured", "_new")

    def __init__(self, failures: int = 0, in_vain: float = 0.0, measured: Optional[Measured] = None) -> None:
        self.failures: int = failures
        self.in_vain: float = in_vain
        self.measured: Measured = Measured() if measured is None else measured
        self._new: list[Any] = []

    def add(self, measures: Sequence[Any]) -> None:
        """One more target has succeeded; ``measures`` as ``frames.Measures`` has them. Counted by ``fold``."""
        self._new.append(measures)

    def fold(self) -> None:
        """Take in what was added."""
        new, self._new = self._new, []
        self.measured.add(new)

    @property
    def succeeded(self) -> int:
        """How many targets ended well."""
        return self.measured.count

    @property
    def wall(self) -> float:
        """Seconds that those took together."""
        return self.measured.time.total

    @property
    def memory_max(self) -> int:
        """Bytes that any of them used at most."""
        return int(self.measured.memory.most)


class HostUsage:
    """What the workers on one machine, from one batch system, have used."""

    def __init__(self, *row: Any) -> None:
        self.targets: int = row[0]
        self.failures: int = row[1]
        self.busy: float = row[2]
        self.queued: float = row[3]
        self.queued_max: float = row[4]
        self.first: float = row[5]
        self.last: float = row[6]
        self.measured: Measured = row[7]

    def add(self, worker: WorkerRow, cpu: float, memory: int) -> None:
        """One more worker is over."""
        # Two clocks: of the master's machine, and of the worker's.
        queued = max(0.0, worker.first - worker.created)
        self.targets += worker.targets
        self.failures += worker.failures
        self.busy += worker.busy
        self.queued += queued
        self.queued_max = max(self.queued_max, queued)
        self.first = min(self.first, worker.first)
        self.last = max(self.last, worker.last)
        self.measured.add([(worker.last - worker.first, cpu, memory, True)])

    def row(self) -> tuple[Any, ...]:
        """As it is stored."""
        return (
            self.targets, self.failures, self.busy, self.queued, self.queued_max, self.first, self.last,
            json.dumps(self.measured.to_json()),
        )  # fmt: skip


class Records:
    """The four tables, seen through the master's connection and inside its transactions.

    stats: by shape, in memory, of which ``write_shapes`` writes those that have changed. Raises sqlite3.Error.
    """

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        execute = connection.execute
        failures = dict(execute("SELECT id, failures FROM shapes"))
        found = {row[0]: row[1:] for row in execute("SELECT shape, in_vain, measured FROM usage")}
        self.stats: dict[int, ShapeStats] = {
            shape: ShapeStats(number, *_usage_of(*found.get(shape, (0.0, None))))
            for shape, number in failures.items()
        }
        self._hosts: dict[tuple[str, str], HostUsage] = {
            (row[0], row[1]): HostUsage(*row[2:9], measured_of(row[9]))
            for row in execute(f"SELECT name, backend, {_HOST} FROM hosts")
        }
        self._workers: int = execute("SELECT count(*) FROM workers").fetchone()[0]
        self._detailed = execute("SELECT 1 FROM targets LIMIT 1").fetchone() is not None
        every = execute("SELECT value FROM meta WHERE key = 'every_worker'").fetchone()
        self._every: int = every[0] if every else 1

    def write_shapes(self, shapes: Iterable[int]) -> None:
        """What the targets of these shapes used."""
        totals, usages = [], []
        for shape in shapes:
            stats = self.stats[shape]
            stats.fold()
            m = stats.measured
            totals.append(
                (m.count, stats.failures, m.time.total, m.clock.total, m.time.least, m.time.most, stats.memory_max,
                 shape)
            )  # fmt: skip
            usages.append((shape, stats.in_vain, json.dumps(m.to_json())))
        # The totals beside the counts by state, where a look at how far a run is finds them.
        self._connection.executemany(
            "UPDATE shapes SET succeeded = ?, failures = ?, wall = ?, cpu_time = ?, wall_min = ?, wall_max = ?, "
            "memory_max = ? WHERE id = ?",
            totals,
        )
        self._connection.executemany("INSERT OR REPLACE INTO usage VALUES (?, ?, ?)", usages)

    def write_targets(self, rows: Sequence[TargetRow]) -> None:
        """Attempts that are over, for --stats."""
        if rows:
            self._detailed = True
            self._connection.executemany(
                "INSERT OR REPLACE INTO targets VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", rows
            )

    def write_workers(self, workers: Sequence[tuple[WorkerRow, float, int]]) -> None:
        """Workers that are over, each with the CPU seconds and the memory that it used."""
        changed = {}
        kept = []
        for worker, cpu, memory in workers:
            worker = worker._replace(host=storable(worker.host), backend=storable(worker.backend))
            key = (worker.host, worker.backend)
            host = self._hosts.get(key)
            if host is None:
                host = self._hosts[key] = HostUsage(
                    0, 0, 0.0, 0.0, 0.0, worker.first, worker.last, Measured()
                )
            host.add(worker, cpu, memory)
            changed[key] = host
            if self._detailed or worker.bundle % self._every == 0:
                kept.append((*worker, cpu, memory))
        self._connection.executemany(
            "INSERT OR REPLACE INTO hosts VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            [(*key, *host.row()) for key, host in changed.items()],
        )
        self._connection.executemany(
            "INSERT OR REPLACE INTO workers VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", kept
        )
        self._workers += len(kept)
        if self._workers > MOST_WORKERS and not self._detailed:
            self._thin_out()

    def _thin_out(self) -> None:
        while self._workers > MOST_WORKERS:
            self._every *= 2
            cursor = self._connection.execute("DELETE FROM workers WHERE bundle % ?", (self._every,))
            self._workers -= cursor.rowcount
        self._connection.execute("INSERT OR REPLACE INTO meta VALUES ('every_worker', ?)", (self._every,))


def _usage_of(in_vain: float, stored: Optional[str]) -> tuple[float, Measured]:
    return in_vain, Measured() if stored is None else measured_of(stored)


def measured_of(stored: str) -> Measured:
    """What was stored as text. Raises sqlite3.DatabaseError, as for other damage, for what is none."""
    try:
        return Measured.from_json(json.loads(stored))
    except (KeyError, ValueError, TypeError, AttributeError) as error:
        raise sqlite3.DatabaseError(f"a record of what was used makes no sense ({error!r})") from error
