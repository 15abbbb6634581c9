"""What is asked of a database about single jobs: what one is, what is below it, what has failed there.

What must hold
  - Every question is bounded and answered by an index, so that a tree of a million jobs answers as fast as one of ten:
    never more than ``limit`` rows are read, or so many steps up the tree are gone. Of what classes of targets have used
    (``statistics``) there are as many rows as there are shapes, however many jobs.
  - Questions and answers go through JSON and come back as they were: on a network file system it is the running master
    that is asked (jobtree.published).

Jobs that are done have no row any more. So a tree is seen without them, and a job that is not found is done, or was
forgotten, or never was.
"""

from __future__ import annotations

import base64
import sqlite3
from collections.abc import Mapping, Sequence
from typing import Any, Callable, NamedTuple, Optional, Union

from jobtree import statistics
from jobtree.contents import failure_from_json, failure_of, failure_to_json
from jobtree.events import ROOT_PARENT, State
from jobtree.schema import FailureRow
from jobtree.values import WITHIN_REACH

MOST_ROWS = 1000
"""More are given to nobody at once; whoever wants them asks again, after the last one."""

_MOST_FAILED = 1000
_MOST_STEPS = 100_000
"""So many FAILED jobs, and so many steps up from them, are looked at to find those below one job."""

_COLUMNS = (
    "jobs.id, jobs.parent, shapes.name, jobs.state, jobs.step, jobs.attempt, jobs.tries, jobs.losses, jobs.pending, "
    "jobs.has_next, jobs.bundle, jobs.memory, shapes.cpu, jobs.time"
)
_JOB = f"SELECT {_COLUMNS} FROM jobs CROSS JOIN shapes ON shapes.id = jobs.shape"
_ONE = f"{_JOB} WHERE jobs.id = ?"
# CROSS JOIN has SQLite keep to this order, and the index named decides how the first table is read.
_BELOW = _JOB.replace("FROM jobs", "FROM jobs INDEXED BY below") + (
    " WHERE jobs.parent = ? AND jobs.id > ? ORDER BY jobs.id LIMIT ?"
)
_IN_STATE = _JOB.replace("FROM jobs", "FROM jobs INDEXED BY held") + (
    " WHERE jobs.state > 0 AND jobs.state = ? AND jobs.id > ? ORDER BY jobs.id LIMIT ?"
)
_FAILURE = (
    "SELECT job, attempt, name, kind, message, traceback, output, log_start, log_end, log, host, bundle, moment "
    "FROM failures WHERE job = ?"
)
_FAILED = "SELECT id, parent FROM jobs INDEXED BY held WHERE state > 0 AND state = 3 ORDER BY id LIMIT ?"
_PARENT = "SELECT parent FROM jobs WHERE id = ?"
_BUNDLE = "SELECT name, backend, host, created FROM bundles WHERE id = ?"

_TARGET = "SELECT payload FROM jobs WHERE id = ?"

STATEMENTS: Mapping[str, str] = {
    "one job": _ONE, "jobs below": _BELOW, "jobs in a state": _IN_STATE, "its failure": _FAILURE, "failed": _FAILED,
    "parent": _PARENT, "bundle": _BUNDLE, "target": _TARGET,
}  # fmt: skip
"""All of them but that for kept promises, which is in jobtree.values; none may look at a whole table."""


class JobSeen(NamedTuple):
    """A job that is not done. state: READY, ISSUED, BLOCKED or FAILED, in lower case; name: of the class of its target.

    has_next: whether there is a target to be run when its children are done. memory, cpu, time: what it asks for, 0
    where it does not say. failure: its last one, if it has failed since it last succeeded.
    """

    id: int
    parent: int
    name: str
    state: str
    step: int
    attempt: int
    tries: int
    losses: int
    pending: int
    has_next: bool
    bundle: int
    memory: int
    cpu: float
    time: float
    failure: Optional[FailureRow] = None


class BundleSeen(NamedTuple):
    """The bundle that an issued job is in. host: where it runs, if that is stored."""

    name: str
    backend: str
    host: Optional[str]
    created: float


class StoredTarget(NamedTuple):
    """What a job is to run next, as it is stored: the request as in ``JobSeen``, the pickle, and the kept promises that
    it can ask for, as bytes or the name of a file. As much as a bundle with this job alone holds."""

    state: str
    name: str
    step: int
    attempt: int
    memory: int
    cpu: float
    time: float
    payload: bytes
    values: Mapping[bytes, Union[bytes, str]]


class Details(NamedTuple):
    """One job and what it has to do with others: those below that are not done (the first ones), and those further
    down that have failed and keep it waiting (the first ones; more: whether not all failed jobs were looked at)."""

    job: JobSeen
    bundle: Optional[BundleSeen]
    children: tuple[JobSeen, ...]
    failed_below: tuple[JobSeen, ...]
    more: bool


def job(connection: sqlite3.Connection, id: int) -> Optional[JobSeen]:
    """The job of this number, with its last failure. Raises sqlite3.Error, as everything here does."""
    row = connection.execute(_ONE, (id,)).fetchone()
    return _with_failure(connection, _job(row)) if row is not None else None


def children(connection: sqlite3.Connection, parent: int, after: int = 0, limit: int = 20) -> list[JobSeen]:
    """The jobs just below one that are not done, in the order in which they were added, from one number on.

    The root is below ROOT_PARENT.
    """
    rows = connection.execute(_BELOW, (parent, after, _bounded(limit))).fetchall()
    return [_job(row) for row in rows]


def in_state(connection: sqlite3.Connection, state: State, after: int = 0, limit: int = 20) -> list[JobSeen]:
    """Jobs that are ISSUED, BLOCKED or FAILED, with their last failures, from one number on."""
    rows = connection.execute(_IN_STATE, (int(state), after, _bounded(limit))).fetchall()
    return [_with_failure(connection, _job(row)) for row in rows]


def details(connection: sqlite3.Connection, id: int, limit: int = 5) -> Optional[Details]:
    """Everything that says why a job is where it is; None if there is no such job."""
    found = job(connection, id)
    if found is None:
        return None
    row = connection.execute(_BUNDLE, (found.bundle,)).fetchone() if found.bundle else None
    below: Sequence[JobSeen] = ()
    failed: Sequence[int] = ()
    more = False
    if found.state == "blocked":
        below = children(connection, id, limit=limit)
        failed, more = _failed_below(connection, id, limit)
    seen = (job(connection, number) for number in failed)
    return Details(
        found,
        BundleSeen(*row) if row is not None else None,
        tuple(below),
        tuple(one for one in seen if one is not None),
        more,
    )


def target(connection: sqlite3.Connection, id: int) -> Optional[StoredTarget]:
    """The target of the job of this number; None if there is no such job, or nothing more to be run of it."""
    found = job(connection, id)
    row = connection.execute(_TARGET, (id,)).fetchone()
    if found is None or row is None:
        return None
    kept = connection.execute(WITHIN_REACH, (id,)).fetchall()
    values = {token: value if file is None else file for token, value, file in kept}
    asked = (found.memory, found.cpu, found.time)
    return StoredTarget(
        found.state,
        found.name,
        found.step,
        found.attempt,
        *asked,
        row[0] if row[0] is not None else b"",
        values,
    )


def _failed_below(connection: sqlite3.Connection, id: int, limit: int) -> tuple[list[int], bool]:
    """The FAILED jobs below one: found from them upwards, since there are few of them and many others.

    Also whether there may be more.
    """
    rows = connection.execute(_FAILED, (_MOST_FAILED + 1,)).fetchall()
    known: dict[int, bool] = {id: True, ROOT_PARENT: False}
    found = []
    steps = 0
    for number, parent in rows[:_MOST_FAILED]:
        way = []
        while parent not in known and steps < _MOST_STEPS:
            way.append(parent)
            above = connection.execute(_PARENT, (parent,)).fetchone()
            parent = above[0] if above is not None else ROOT_PARENT
            steps += 1
        is_below = known.get(parent, False)
        known.update(dict.fromkeys(way, is_below))
        if is_below:
            found.append(number)
            if len(found) == limit:
                return found, True
    return found, len(rows) > _MOST_FAILED or steps >= _MOST_STEPS


def _bounded(limit: int) -> int:
    return max(0, min(limit, MOST_ROWS))


def _job(row: Sequence[Any]) -> JobSeen:
    values = [*row]
    values[3], values[9] = State(row[3]).name.lower(), bool(row[9])
    return JobSeen(*values)


def _with_failure(connection: sqlite3.Connection, found: JobSeen) -> JobSeen:
    row = connection.execute(_FAILURE, (found.id,)).fetchone()
    return found._replace(failure=failure_of(row)) if row is not None else found


# -- through JSON ----------------------------------------------------------------------------------------------


def _jobs_to_json(found: Sequence[JobSeen]) -> list[dict[str, Any]]:
    return [job_to_json(one) for one in found]


def job_to_json(found: JobSeen) -> dict[str, Any]:
    """As JSON has it."""
    failure = failure_to_json(found.failure) if found.failure is not None else None
    return {**found._asdict(), "failure": failure}


def job_from_json(stored: Mapping[str, Any]) -> JobSeen:
    """The other way. Raises KeyError or TypeError for what is none."""
    failure = stored["failure"]
    return JobSeen(**{**stored, "failure": failure_from_json(failure) if failure is not None else None})


def _jobs_from_json(stored: Any) -> list[JobSeen]:
    return [job_from_json(one) for one in stored]


def _details_to_json(found: Optional[Details]) -> Any:
    if found is None:
        return None
    return {
        "job": job_to_json(found.job),
        "bundle": found.bundle._asdict() if found.bundle is not None else None,
        "children": _jobs_to_json(found.children),
        "failed_below": _jobs_to_json(found.failed_below),
        "more": found.more,
    }


def _details_from_json(stored: Any) -> Optional[Details]:
    if stored is None:
        return None
    return Details(
        job_from_json(stored["job"]),
        BundleSeen(**stored["bundle"]) if stored["bundle"] is not None else None,
        tuple(_jobs_from_json(stored["children"])),
        tuple(_jobs_from_json(stored["failed_below"])),
        bool(stored["more"]),
    )


def _target_to_json(found: Optional[StoredTarget]) -> Any:
    if found is None:
        return None
    values = {
        _text(token): [isinstance(v, str), v if isinstance(v, str) else _text(v)]
        for token, v in found.values.items()
    }
    return {**found._asdict(), "payload": _text(found.payload), "values": values}


def _target_from_json(stored: Any) -> Optional[StoredTarget]:
    if stored is None:
        return None
    values = {
        base64.b64decode(token): value if is_file else base64.b64decode(value)
        for token, (is_file, value) in stored["values"].items()
    }
    return StoredTarget(**{**stored, "payload": base64.b64decode(stored["payload"]), "values": values})


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode()


class _Question(NamedTuple):
    ask: Callable[..., Any]
    to_json: Callable[[Any], Any]
    from_json: Callable[[Any], Any]


def _as_it_is(rows: Any) -> Any:
    return rows


def _asked_state(connection: sqlite3.Connection, state: int, after: int = 0, limit: int = 20) -> Any:
    return in_state(connection, State(state), after, limit)


def hosts(connection: sqlite3.Connection, limit: int) -> Any:
    """How many targets have succeeded on which machine, by workers that are over; those that did most come first."""
    rows = connection.execute(
        "SELECT name, sum(targets) AS number FROM hosts GROUP BY name ORDER BY number DESC, name LIMIT ?",
        (limit,),
    )
    return [list(row) for row in rows]


_QUESTIONS: Mapping[str, _Question] = {
    "details": _Question(details, _details_to_json, _details_from_json),
    "children": _Question(children, _jobs_to_json, _jobs_from_json),
    "in_state": _Question(_asked_state, _jobs_to_json, _jobs_from_json),
    "statistics": _Question(statistics.rows, _as_it_is, _as_it_is),
    "hosts": _Question(hosts, _as_it_is, _as_it_is),
    "target": _Question(target, _target_to_json, _target_from_json),
}


def answer(connection: sqlite3.Connection, question: str, arguments: Mapping[str, int]) -> Any:
    """The answer to a question by its name, all in one transaction. KeyError, TypeError: for what is none."""
    ask = _QUESTIONS[question].ask
    connection.execute("BEGIN")
    try:
        return ask(connection, **{name: int(value) for name, value in arguments.items()})
    finally:
        connection.execute("COMMIT")


def answer_as_json(connection: sqlite3.Connection, question: str, arguments: Mapping[str, int]) -> Any:
    """The same, to be sent."""
    return _QUESTIONS[question].to_json(answer(connection, question, arguments))


def answer_from_json(question: str, stored: Any) -> Any:
    """What was sent, as it was."""
    return _QUESTIONS[question].from_json(stored)
