"""The tables of the store and the rows that go in and out of it; ``jobtree.store`` says what they mean."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Optional

from jobtree.frames import Failure
from jobtree.records import SCHEMA as RECORDS_SCHEMA
from jobtree.values import SCHEMA as VALUES_SCHEMA

SCHEMA = (
    """
CREATE TABLE meta (key TEXT PRIMARY KEY, value) WITHOUT ROWID;
CREATE TABLE shapes (
    id INTEGER PRIMARY KEY, name TEXT NOT NULL, memory INTEGER NOT NULL, cpu REAL NOT NULL,
    countable TEXT NOT NULL, gate INTEGER NOT NULL DEFAULT 0,
    ready INTEGER NOT NULL DEFAULT 0, issued INTEGER NOT NULL DEFAULT 0, blocked INTEGER NOT NULL DEFAULT 0,
    failed INTEGER NOT NULL DEFAULT 0, done INTEGER NOT NULL DEFAULT 0,
    succeeded INTEGER NOT NULL DEFAULT 0, failures INTEGER NOT NULL DEFAULT 0,
    wall REAL NOT NULL DEFAULT 0, cpu_time REAL NOT NULL DEFAULT 0,
    wall_min REAL, wall_max REAL NOT NULL DEFAULT 0, memory_max INTEGER NOT NULL DEFAULT 0,
    UNIQUE (name, memory, cpu, countable, gate)
);
CREATE TABLE jobs (
    id INTEGER PRIMARY KEY, parent INTEGER NOT NULL, state INTEGER NOT NULL, shape INTEGER NOT NULL,
    step INTEGER NOT NULL, attempt INTEGER NOT NULL, tries INTEGER NOT NULL, losses INTEGER NOT NULL,
    pending INTEGER NOT NULL, has_next INTEGER NOT NULL, bundle INTEGER NOT NULL, alone INTEGER NOT NULL,
    has_global INTEGER NOT NULL, memory INTEGER NOT NULL, time REAL NOT NULL, payload BLOB
);
CREATE INDEX ready ON jobs (shape, id) WHERE state = 0;
CREATE INDEX held ON jobs (state, id) WHERE state > 0;
CREATE INDEX below ON jobs (parent);
CREATE TABLE services (job INTEGER PRIMARY KEY, gate INTEGER NOT NULL, shape INTEGER NOT NULL);
CREATE TABLE bundles (
    id INTEGER PRIMARY KEY, name TEXT NOT NULL, backend TEXT NOT NULL, shape INTEGER NOT NULL,
    size INTEGER NOT NULL, offset INTEGER NOT NULL DEFAULT 0, created REAL NOT NULL, host TEXT
);
CREATE TABLE failures (
    job INTEGER PRIMARY KEY, attempt INTEGER NOT NULL, name TEXT NOT NULL, kind TEXT NOT NULL, message TEXT NOT NULL,
    traceback TEXT NOT NULL, output TEXT NOT NULL, log TEXT, log_start INTEGER, log_end INTEGER,
    host TEXT, bundle TEXT, moment REAL NOT NULL
);
CREATE INDEX failed_in ON failures (bundle);
CREATE TABLE removals (id INTEGER PRIMARY KEY, path TEXT NOT NULL);
"""
    + VALUES_SCHEMA
    + RECORDS_SCHEMA
)


class ChildRow(NamedTuple):
    """A new READY job: its number, shape, request in bytes, time in seconds, pickle, promises in the pickle."""

    id: int
    shape: int
    memory: int
    time: float
    payload: bytes
    mentions: Sequence[bytes]


class BundleRow(NamedTuple):
    """A bundle that is not over: its number, its name in the batch system, how far its outcome file was adopted."""

    id: int
    name: str
    backend: str
    shape: int
    size: int
    offset: int
    created: float
    host: Optional[str]


class FailureRow(NamedTuple):
    """The last failure of a job, with what a person needs to find out why."""

    job: int
    attempt: int
    name: str
    failure: Failure
    log: Optional[str]
    host: Optional[str]
    bundle: Optional[str]
    moment: float


class Shape(NamedTuple):
    """What may share a worker. memory and cpu are 0 where the target did not say; countable as in its own module; gate:
    the nearest job above whose target has added services, 0 if there is none (``jobtree.services``)."""

    id: int
    name: str
    memory: int
    cpu: float
    countable: str = ""
    gate: int = 0


def memory_step(memory: int) -> int:
    """A request rounded up to four significant bits: the memory of its shape."""
    if memory <= 0:
        return 0
    shift = max(0, memory.bit_length() - 4)
    return -(-memory >> shift) << shift if shift else memory
