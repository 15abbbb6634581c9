"""What ran when and where: the spans of targets or of workers, and on which line of its machine each is drawn.

Targets where they were recorded (--stats), else workers, of which a large run keeps a sample (``jobtree.records``).
"""

from __future__ import annotations

import heapq
import sqlite3
from collections.abc import Iterable
from typing import NamedTuple

MOST = 5000
"""The longest so many are drawn; a line of a drawing has fewer points than that."""

_TARGETS = (
    "SELECT coalesce(workers.host, ''), shapes.name, t.began, t.began + t.wall, t.failed IS NOT NULL FROM targets AS t "
    "CROSS JOIN shapes ON shapes.id = t.shape LEFT JOIN workers ON workers.bundle = t.bundle "
    "ORDER BY t.wall DESC LIMIT ?"
)
_WORKERS = (
    "SELECT host, shapes.name, first, last, workers.targets = 0 FROM workers "
    "CROSS JOIN shapes ON shapes.id = workers.shape ORDER BY last - first DESC LIMIT ?"
)
_DETAILED = "SELECT 1 FROM targets LIMIT 1"
_SAMPLE = "SELECT value FROM meta WHERE key = 'every_worker'"

_SAME = 0.002
"""Seconds by which spans on one line may overlap: clocks are read one after the other."""


class Span(NamedTuple):
    """From begin to end, in seconds since 1970; failed: it was in vain. slot: the line on its host, from 0 on."""

    host: str
    name: str
    begin: float
    end: float
    failed: bool
    slot: int = 0


class Timeline(NamedTuple):
    """of: "targets" or "workers"; every: one in so many was kept; longest: whether shorter ones were left out."""

    spans: tuple[Span, ...]
    of: str
    every: int
    longest: bool


def read(connection: sqlite3.Connection, most: int = MOST) -> Timeline:
    """What there is. Raises sqlite3.Error."""
    detailed = connection.execute(_DETAILED).fetchone() is not None
    rows = connection.execute(_TARGETS if detailed else _WORKERS, (most + 1,)).fetchall()
    sample = connection.execute(_SAMPLE).fetchone()
    spans = place(
        Span(host, name, begin, end, bool(failed)) for host, name, begin, end, failed in rows[:most]
    )
    every = sample[0] if sample is not None and not detailed else 1
    return Timeline(tuple(spans), "targets" if detailed else "workers", every, len(rows) > most)


def place(spans: Iterable[Span]) -> list[Span]:
    """Give each the lowest line of its host that is free when it begins; in the order of their beginnings."""
    placed = []
    busy: dict[str, list[tuple[float, int]]] = {}
    free: dict[str, list[int]] = {}
    for span in sorted(spans, key=lambda span: (span.begin, span.end)):
        running, idle = busy.setdefault(span.host, []), free.setdefault(span.host, [])
        while running and running[0][0] <= span.begin + _SAME:
            heapq.heappush(idle, heapq.heappop(running)[1])
        slot = heapq.heappop(idle) if idle else len(running)
        heapq.heappush(running, (span.end, slot))
        placed.append(span._replace(slot=slot))
    return placed
