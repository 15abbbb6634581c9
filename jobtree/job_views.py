"""What is shown of single jobs, for people, and as JSON: jobTreeStatus --failed, --running, --why, --tree, --log, and
what jobTreeMonitor tells.

Each view is read first, in one or a few short questions, and formatted afterwards. Nothing here is longer than it was
asked to be, however large the tree is.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any, NamedTuple, Optional

from jobtree import clock, report, snapshot
from jobtree.contents import RunningJob
from jobtree.errors import UsageError
from jobtree.events import ROOT_PARENT, State
from jobtree.paths import TreePaths, job_name, job_number
from jobtree.progress_reports import Report
from jobtree.quantities import format_duration, format_memory
from jobtree.queries import MOST_ROWS, Details, JobSeen
from jobtree.schema import FailureRow
from jobtree.shown import one_line, shown


class View(NamedTuple):
    """What there is to show: lines for people, and a value for programs."""

    lines: list[str]
    value: Any


def number_of(name: str) -> int:
    """The job of this name. Raises UsageError for what is no name."""
    try:
        return job_number(name)
    except ValueError as error:
        raise UsageError(f"{error}.") from None


# -- failed and running ----------------------------------------------------------------------------------------


def failed(paths: TreePaths, most: int) -> View:
    """The first jobs that were given up, each with its reason."""
    found: list[JobSeen] = []
    while len(found) <= most:
        after, limit = found[-1].id if found else 0, min(most + 1 - len(found), MOST_ROWS)
        page = snapshot.look(paths, "in_state", state=int(State.FAILED), after=after, limit=limit)
        found += page
        if len(page) < limit:
            break
    lines = []
    for job in found[:most]:
        lines += [_failure(paths, job), ""]
    if len(found) > most:
        lines.append(f"There are more: --most N shows N of them, and not {most}.")
    elif not found:
        lines.append("No job has been given up.")
    return View(lines, [as_json(paths, job) for job in found[:most]])


def _failure(paths: TreePaths, job: JobSeen) -> str:
    if job.failure is None:
        return f"Job {job_name(job.id)} ({one_line(job.name)}) was given up; why is not stored."
    return report.describe_failure(_found(paths, job.failure), job.state == "failed", paths.root)


def _found(paths: TreePaths, row: FailureRow) -> FailureRow:
    return row._replace(log=paths.absolute(row.log) if row.log is not None else None)


def running(paths: TreePaths, most: int) -> View:
    """What runs at this moment, the longest first."""
    found = snapshot.running(paths)
    if found is None:
        return View(["Nothing can be told: no master runs the tree now, or it does not answer."], None)
    jobs = sorted(found, key=lambda job: (-job.seconds, job.job))
    lines = [_running_line(paths, job) for job in jobs[:most]]
    if len(jobs) > most:
        lines.append(f"and {len(jobs) - most} more (--most N)")
    return View(
        lines or ["No target is running at this moment."], [_running_json(paths, job) for job in jobs]
    )


def _running_line(paths: TreePaths, job: RunningJob) -> str:
    where = one_line(job.host) or "the machine of the master"
    return (
        f"{job_name(job.job)} ({one_line(job.name)}) runs on {where} for {format_duration(job.seconds)}, "
        f"attempt {job.attempt}, bundle {job.bundle} of {job.backend or '?'}; "
        f"log: {one_line(_log_of(paths, job.bundle))}{progress(job)}"
    )


def progress(job: RunningJob) -> str:
    """How far a running target is by its own word, and whether it is silent: to be added to a line about it."""
    told = one_line(Report(job.fraction, job.words).in_words())
    text = f"; {told}" if told else ""
    return f"{text}; hung: silent for {format_duration(job.silent)}" if job.hung else text


def _running_json(paths: TreePaths, job: RunningJob) -> dict[str, Any]:
    return {**job._asdict(), "job": job_name(job.job), "log": _log_of(paths, job.bundle)}


def _log_of(paths: TreePaths, bundle: str) -> str:
    return paths.log(int(bundle.rpartition(".")[2]))


# -- why -------------------------------------------------------------------------------------------------------


def why(paths: TreePaths, name: str) -> View:
    """Why a job is where it is, in words."""
    number = number_of(name)
    found: Optional[Details] = snapshot.look(paths, "details", id=number)
    if found is None:
        text = f"Job {job_name(number)} is not in the tree: it is done, or was forgotten, or never was."
        return View([text], {"job": job_name(number), "state": None, "why": [text]})
    job = found.job
    what = f"Job {job_name(job.id)} ({one_line(job.name)})"
    sentences = {"ready": _why_ready, "issued": _why_issued, "blocked": _why_blocked}.get(
        job.state, _why_failed
    )(paths, found)
    lines = [f"{what} is {job.state}; it asks for {_asked(job)}.", *(f"  {text}" for text in sentences)]
    if job.failure is not None:
        lines += ["", _failure(paths, job)]
    for below in found.failed_below:
        lines += ["", _failure(paths, below)]
    value = {
        **as_json(paths, job),
        "why": sentences,
        "children": [as_json(paths, child) for child in found.children],
        "failed_below": [as_json(paths, below) for below in found.failed_below],
    }
    return View(lines, value)


def _asked(job: JobSeen) -> str:
    parts = [f"{job.cpu:g} cores" if job.cpu else "", format_memory(job.memory) if job.memory else ""]
    return " and ".join(part for part in parts if part) or "the defaults"


def _why_ready(paths: TreePaths, found: Details) -> list[str]:
    told = snapshot.why(paths, found.job.id)
    if told is not None:
        return told or ["It was about to change when it was looked at; ask again."]
    return [f"No master runs the tree. {report.how_to_continue(paths.root)}"]


def _why_issued(paths: TreePaths, found: Details) -> list[str]:
    told = snapshot.why(paths, found.job.id)
    if told:
        return told
    bundle = found.bundle
    if bundle is None:
        return ["It was about to change when it was looked at; ask again."]
    where = f" on {one_line(bundle.host)}" if bundle.host else ""
    return [
        f"It was issued at {clock.text(bundle.created)} in bundle {bundle.name} to {bundle.backend}{where}; no master "
        f"runs the tree now, or it does not answer."
    ]


def _why_blocked(paths: TreePaths, found: Details) -> list[str]:
    job = found.job
    then = "its follow-on is to run" if job.has_next else "nothing more is to be run of it"
    states = ", ".join(f"{job_name(child.id)} ({child.state})" for child in found.children)
    rest = job.pending - len(found.children)
    more = f" and {rest} more" if rest > 0 else ""
    noun = "child" if job.pending == 1 else "children"
    lines = [f"It waits for {job.pending} {noun}: {states}{more}. When they are done, {then}."]
    if found.failed_below:
        names = ", ".join(job_name(below.id) for below in found.failed_below)
        lines.append(f"These below it have failed, and it cannot go on before they are done: {names}.")
        if found.more:
            lines.append("There may be more such.")
    return lines


def _why_failed(paths: TreePaths, found: Details) -> list[str]:
    job = found.job
    tries = f"{_times(job.tries, 'failure')} of its own" if job.tries else "no failure of its own"
    lost = f" and {_times(job.losses, 'loss')} in a row" if job.losses else ""
    return [f"It was given up after {tries}{lost}. The next start after an orderly end tries it again."]


def _times(number: int, noun: str) -> str:
    plural = "es" if noun.endswith("s") else "s"
    return f"{number} {noun}{'' if number == 1 else plural}"


# -- the tree --------------------------------------------------------------------------------------------------


class _Node(NamedTuple):
    job: JobSeen
    below: list[_Node]
    more: int


def tree(paths: TreePaths, top: Optional[str], depth: int, most: int) -> View:
    """The jobs that are not done, each below its parent, cut at depth and width."""
    if top is None:
        nodes = _nodes(paths, ROOT_PARENT, depth, most)
    else:
        found: Optional[Details] = snapshot.look(paths, "details", id=number_of(top))
        job = found.job if found is not None else None
        nodes = [_node(paths, job, depth, most)] if job is not None else []
    lines = [line for node in nodes for line in _tree_lines(node, 0)]
    none = "Every job is done." if top is None else f"{top} is not in the tree: it is done, or never was."
    return View(lines or [none], [_tree_json(paths, node) for node in nodes])


def _nodes(paths: TreePaths, parent: int, depth: int, most: int) -> list[_Node]:
    return [
        _node(paths, job, depth, most) for job in snapshot.look(paths, "children", parent=parent, limit=most)
    ]


def _node(paths: TreePaths, job: JobSeen, depth: int, most: int) -> _Node:
    below = _nodes(paths, job.id, depth - 1, most) if depth > 1 and job.pending else []
    return _Node(job, below, max(0, job.pending - len(below)))


def _tree_lines(node: _Node, indent: int) -> Iterator[str]:
    job = node.job
    failures = f", {_times(job.tries, 'failure')}" if job.tries else ""
    waits = f", waits for {job.pending}" if job.pending else ""
    yield f"{'  ' * indent}{job_name(job.id)} {one_line(job.name)}: {job.state}{waits}{failures}"
    for child in node.below:
        yield from _tree_lines(child, indent + 1)
    if node.more and node.below:
        yield f"{'  ' * (indent + 1)}... and {node.more} more"


def _tree_json(paths: TreePaths, node: _Node) -> dict[str, Any]:
    return {
        **as_json(paths, node.job),
        "children": [_tree_json(paths, child) for child in node.below],
        "more": node.more,
    }


# -- the log ---------------------------------------------------------------------------------------------------


class _Place(NamedTuple):
    """Where a job's output is: a file and the bytes of it; end None: to its end. text: what is kept of it."""

    path: Optional[str]
    start: int
    end: Optional[int]
    text: str


def log(paths: TreePaths, name: str, most: Optional[int] = None) -> View:
    """What a job has printed: the running attempt, or the last one that failed. most: only so many bytes of its end."""
    number = number_of(name)
    place = _place(paths, number)
    text = _read(place, most)
    if text is None:
        text = place.text
    return View(
        shown(text).splitlines(),
        {"job": job_name(number), "log": place.path, "start": place.start, "end": place.end, "output": text},
    )


def _place(paths: TreePaths, number: int) -> _Place:
    found: Optional[Details] = snapshot.look(paths, "details", id=number)
    if found is None:
        raise UsageError(
            f"job {job_name(number)} is not in the tree: it is done, or never was. What targets print that have "
            "succeeded is kept only with --keepLogs, in the files of logs/ in the job tree."
        )
    for job in (snapshot.running(paths) or ()) if found.job.state == "issued" else ():
        if job.job == number:
            return _Place(_log_of(paths, job.bundle), job.log_start, None, "")
    row = found.job.failure
    if row is None:
        raise UsageError(
            f"job {job_name(number)} has printed nothing yet: it is {found.job.state}, and has not failed before. "
            f"See: jobTreeStatus --why {job_name(number)}"
        )
    path = paths.absolute(row.log) if row.log is not None else None
    return _Place(path, row.failure.log_start, row.failure.log_end, row.failure.output)


def _read(place: _Place, most: Optional[int]) -> Optional[str]:
    """What is in the file; None if it is gone or too short: then what was kept of it is all there is."""
    if place.path is None:
        return None
    try:
        with open(place.path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            end = size if place.end is None else place.end
            start = place.start if most is None else max(place.start, end - most)
            file.seek(start)
            data = file.read(-1 if place.end is None and most is None else max(0, end - start))
    except OSError:
        return None
    if size < end:
        return None
    return data.decode("utf-8", "backslashreplace")


# -- for programs ----------------------------------------------------------------------------------------------


def as_json(paths: TreePaths, job: JobSeen) -> dict[str, Any]:
    """A job, for programs."""
    fields = {
        **job._asdict(),
        "job": job_name(job.id),
        "parent": job_name(job.parent) if job.parent != ROOT_PARENT else None,
        "class": job.name,
        "bundle": job.bundle or None,
        "failure": failure_as_json(_found(paths, job.failure)) if job.failure is not None else None,
    }
    del fields["id"], fields["name"]
    return fields


def failure_as_json(row: FailureRow) -> dict[str, Any]:
    """A failure, for programs."""
    failure = row.failure
    return {
        "job": job_name(row.job),
        "class": row.name,
        "attempt": row.attempt,
        "reason": failure.kind,
        "message": failure.message,
        "traceback": failure.traceback,
        "output": failure.output,
        "log": row.log,
        "log_start": failure.log_start,
        "log_end": failure.log_end,
        "host": row.host,
        "bundle": row.bundle,
        "time": row.moment,
    }
