"""What a run has used, read from its database and put together for people: by class of target, and by machine.

The rows are read by those who may open the database, or sent by the master where nobody else may; so they go through
JSON. ``jobtree.records`` says what they hold. There are as many as there are shapes and machines, however many targets.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping
from typing import Any, NamedTuple, Optional

from jobtree.measured import Measured, together
from jobtree.records import measured_of

_SHAPES = (
    "SELECT name, memory, cpu, countable, failures, coalesce(in_vain, 0.0), measured FROM shapes "
    "LEFT JOIN usage ON usage.shape = shapes.id WHERE succeeded OR failures ORDER BY name, memory, cpu, countable"
)
_HOSTS = (
    "SELECT name, backend, targets, failures, busy, queued, queued_max, first, last, measured FROM hosts "
    "ORDER BY backend, name"
)


class RequestUsage(NamedTuple):
    """What the targets of one class that asked for the same have used. memory (bytes) and cpu are 0 where they did not
    say; countable as in its own module; in_vain: seconds of attempts that failed."""

    memory: int
    cpu: float
    countable: str
    failures: int
    in_vain: float
    measured: Measured


class ClassUsage(NamedTuple):
    """What the targets of one class have used, by what they asked for and together."""

    name: str
    requests: tuple[RequestUsage, ...]
    measured: Measured

    @property
    def failures(self) -> int:
        """Attempts that failed."""
        return sum(request.failures for request in self.requests)

    @property
    def in_vain(self) -> float:
        """Seconds that they took."""
        return sum(request.in_vain for request in self.requests)


class HostUsage(NamedTuple):
    """What the workers of one machine, started by one batch system, have used.

    measured: of whole workers, each from the start of its first target to the end of its last; targets and failures:
    attempts that ended well and not; busy: seconds in which a target ran; queued: seconds from the decision to submit
    to the start of the first target, of all and the longest; first, last: the earliest start and the latest end,
    seconds since 1970.
    """

    name: str
    backend: str
    targets: int
    failures: int
    busy: float
    queued: float
    queued_max: float
    first: float
    last: float
    measured: Measured


class Statistics(NamedTuple):
    """All of it. detailed: whether there are records of single targets (``jobtree.details``)."""

    classes: tuple[ClassUsage, ...]
    hosts: tuple[HostUsage, ...]
    detailed: bool = False

    @property
    def targets(self) -> Measured:
        """What all targets have used."""
        return together(kind.measured for kind in self.classes)

    @property
    def workers(self) -> Measured:
        """What all workers have used."""
        return together(host.measured for host in self.hosts)


def rows(connection: sqlite3.Connection) -> dict[str, Any]:
    """Everything, as JSON takes it. Raises sqlite3.Error."""
    return {
        "detailed": connection.execute("SELECT 1 FROM targets LIMIT 1").fetchone() is not None,
        "shapes": [list(row) for row in connection.execute(_SHAPES)],
        "hosts": [list(row) for row in connection.execute(_HOSTS)],
    }


def made_of(stored: Mapping[str, Any]) -> Statistics:
    """What the rows say. Raises sqlite3.DatabaseError for what makes no sense."""
    classes: dict[str, list[RequestUsage]] = {}
    for name, *asked, measured in stored["shapes"]:
        classes.setdefault(name, []).append(RequestUsage(*[*asked, _measured(measured)]))
    return Statistics(
        tuple(
            ClassUsage(name, tuple(requests), together(request.measured for request in requests))
            for name, requests in classes.items()
        ),
        tuple(HostUsage(*[*host, measured_of(measured)]) for *host, measured in stored["hosts"]),
        bool(stored["detailed"]),
    )


def _measured(stored: Optional[str]) -> Measured:
    return Measured() if stored is None else measured_of(stored)
