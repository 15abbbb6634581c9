"""What a database says of its tree: queried here by those who may open it, and sent to those who may not.

On a network file system only the master opens the database (jobtree.store), and tells others what is in it
(jobtree.published). So everything here goes through JSON and comes back as it was.

It costs the same for ten jobs and for ten million, because the master keeps counts by shape and nobody counts rows. The
failures are as long as their list is, and are read only if they are asked for, or the first of them.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple, Optional

from jobtree.events import State
from jobtree.frames import Failure
from jobtree.schema import FailureRow

_COUNTS = "sum(ready), sum(issued), sum(blocked), sum(failed), sum(done)"
_CLASSES = (
    f"SELECT name, {_COUNTS}, sum(succeeded), sum(failures), sum(wall), sum(cpu_time), min(wall_min), max(wall_max), "
    "max(memory_max) FROM shapes GROUP BY name ORDER BY name"
)
# CROSS JOIN keeps SQLite from starting with the jobs, which may be millions. The first ones in the order of the jobs,
# because the table is in that order.
_FAILURES = (
    "SELECT state, job, failures.attempt, name, kind, message, traceback, output, log_start, log_end, log, host, "
    "failures.bundle, moment FROM failures CROSS JOIN jobs ON jobs.id = failures.job ORDER BY job LIMIT ?"
)

ALL = -1
"""As many failures as there are."""


class Counts(NamedTuple):
    """How many jobs are in each state."""

    ready: int = 0
    issued: int = 0
    blocked: int = 0
    failed: int = 0
    done: int = 0

    @property
    def left(self) -> int:
        """Jobs that are not done."""
        return self.ready + self.issued + self.blocked + self.failed


class TargetClass(NamedTuple):
    """The targets of one class: counts of their jobs by state, and what those that succeeded have used.

    Seconds and bytes; the smallest wall time is None while none has succeeded.
    """

    name: str
    counts: Counts
    succeeded: int
    failures: int
    wall: float
    cpu_time: float
    wall_min: Optional[float]
    wall_max: float
    memory_max: int


class RunningJob(NamedTuple):
    """A job whose target is running: as far as the master has heard, for so many seconds.

    backend: the batch system that the bundle is in; log_start: where in the bundle's log its output begins.
    fraction and words: its progress, as far as it has told; silent: the seconds since it was last heard of, by what it
    told, sent or (with --hungAfter) printed; hung: whether that is longer than --hungAfter.
    """

    job: int
    attempt: int
    name: str
    bundle: str
    host: str
    seconds: float
    backend: str = ""
    log_start: int = 0
    fraction: Optional[float] = None
    words: str = ""
    silent: float = 0.0
    hung: bool = False


class Contents(NamedTuple):
    """What is in a database. ended: as the store has it; failed and retried: the last failures of jobs that were given
    up, and of jobs that are to be tried again or are just being, the log of each relative to the tree.

    running is known to the master only; None: it is not known. paused: by whom, None if nobody has.
    """

    ended: Optional[str]
    classes: tuple[TargetClass, ...]
    failed: tuple[FailureRow, ...] = ()
    retried: tuple[FailureRow, ...] = ()
    running: Optional[tuple[RunningJob, ...]] = None
    paused: Optional[str] = None


def total(counts: Iterable[Counts]) -> Counts:
    """All of them together."""
    rows = list(counts)
    return Counts(*map(sum, zip(*rows))) if rows else Counts()


def query(connection: sqlite3.Connection, failures: int = 0) -> Contents:
    """Read everything in one short transaction; failures: how many of them, or ALL. Raises sqlite3.Error."""
    execute = connection.execute
    execute("BEGIN")
    meta = dict(execute("SELECT key, value FROM meta WHERE key IN ('ended', 'paused')").fetchall())
    classes = execute(_CLASSES).fetchall()
    rows = execute(_FAILURES, (failures,)).fetchall() if failures else []
    execute("COMMIT")
    rows.sort(key=lambda row: (row[-1], row[1]))
    return Contents(
        meta.get("ended"),
        tuple(TargetClass(row[0], Counts(*row[1:6]), *row[6:]) for row in classes),
        tuple(failure_of(row[1:]) for row in rows if row[0] == State.FAILED),
        tuple(failure_of(row[1:]) for row in rows if row[0] in (State.READY, State.ISSUED)),
        paused=meta.get("paused") or None,
    )


def failure_of(row: Sequence[Any]) -> FailureRow:
    """A row of the table: job, attempt, name, kind, message, traceback, output, log_start, log_end, log, host, bundle,
    moment."""
    job, attempt, name, kind, message, traceback, output, start, end, log, host, bundle, moment = row
    failure = Failure(kind, message, traceback, output, start or 0, end or 0)
    return FailureRow(job, attempt, name, failure, log, host, bundle, moment)


def shortened(found: Contents, classes: int, text: int) -> Contents:
    """The same in bounded space: the largest classes, the others as one, and the ends of the texts of failures."""
    kinds = sorted(found.classes, key=lambda kind: (-sum(kind.counts), kind.name))
    kept, others = kinds[:classes], kinds[classes:]
    if others:
        least = [kind.wall_min for kind in others if kind.wall_min is not None]
        kept.append(
            TargetClass(
                f"({len(others)} other classes)",
                total(kind.counts for kind in others),
                sum(kind.succeeded for kind in others),
                sum(kind.failures for kind in others),
                sum(kind.wall for kind in others),
                sum(kind.cpu_time for kind in others),
                min(least) if least else None,
                max(kind.wall_max for kind in others),
                max(kind.memory_max for kind in others),
            )
        )
    return found._replace(
        classes=tuple(kept),
        failed=tuple(_short(row, text) for row in found.failed),
        retried=tuple(_short(row, text) for row in found.retried),
    )


def _short(row: FailureRow, text: int) -> FailureRow:
    failure = row.failure
    failure = failure._replace(
        message=_end_of(failure.message, text),
        traceback=_end_of(failure.traceback, text),
        output=_end_of(failure.output, text),
    )
    return row._replace(name=_end_of(row.name, text), failure=failure)


def _end_of(text: str, length: int) -> str:
    return text if len(text) <= length else "... " + text[-length:]


def to_json(found: Contents) -> dict[str, Any]:
    """As JSON has it."""
    return {
        "ended": found.ended,
        "classes": [{**kind._asdict(), "counts": kind.counts._asdict()} for kind in found.classes],
        "failed": [failure_to_json(row) for row in found.failed],
        "retried": [failure_to_json(row) for row in found.retried],
        "running": None if found.running is None else [job._asdict() for job in found.running],
        "paused": found.paused,
    }


def failure_to_json(row: FailureRow) -> dict[str, Any]:
    """A failure, as JSON has it."""
    return {**row._asdict(), "failure": row.failure._asdict()}


def from_json(stored: dict[str, Any]) -> Contents:
    """The other way. Raises KeyError, TypeError or AttributeError for what ``to_json`` has not made."""
    running = stored["running"]
    return Contents(
        stored["ended"],
        tuple(TargetClass(**{**kind, "counts": Counts(**kind["counts"])}) for kind in stored["classes"]),
        tuple(failure_from_json(row) for row in stored["failed"]),
        tuple(failure_from_json(row) for row in stored["retried"]),
        None if running is None else tuple(RunningJob(**job) for job in running),
        stored["paused"],
    )


def failure_from_json(stored: dict[str, Any]) -> FailureRow:
    """The other way."""
    return FailureRow(**{**stored, "failure": Failure(**stored["failure"])})
