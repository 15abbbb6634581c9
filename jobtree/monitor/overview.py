"""What is told of a tree at every look: as JSON, and no longer than a page can show."""

from __future__ import annotations

from typing import Any, Optional

from jobtree.contents import Contents, RunningJob, shortened
from jobtree.monitor.history import Point, seconds_left
from jobtree.monitor.trees import Seen, WatchedTree
from jobtree.paths import job_name
from jobtree.queries import JobSeen

MOST_CLASSES = 100
_MOST_RUNNING = 100
_MOST_TEXT = 500
"""Characters of a name or a message; whoever opens a job sees all of it."""


def summary(tree: WatchedTree) -> dict[str, Any]:
    """How far a tree is, in a few numbers."""
    seen = tree.seen
    found: dict[str, Any] = {
        "tree": tree.number,
        "name": tree.name,
        "directory": tree.paths.root,
        "time": None,
        "state": None,
        "counts": None,
        "rate": None,
        "time_left": None,
    }
    if seen is None:
        return found
    rate = tree.history.rate()
    return {
        **found,
        "time": seen.time,
        "state": seen.snapshot.state,
        "counts": seen.snapshot.counts._asdict(),
        "rate": rate,
        "time_left": _time_left(tree, seen),
    }


def overview(tree: WatchedTree) -> dict[str, Any]:
    """All that a page shows without being asked for more."""
    seen = tree.seen
    found: dict[str, Any] = {
        **summary(tree),
        "master": None,
        "paused": None,
        "slots": {"busy": None, "most": None},
        "classes": [],
        "running": None,
        "running_more": 0,
        "failed": [],
        "failed_more": 0,
        "point": None,
    }
    if seen is None:
        return found
    taken = seen.snapshot
    kinds = shortened(Contents(None, taken.classes), MOST_CLASSES, _MOST_TEXT).classes
    found["master"] = taken.master._asdict() if taken.master is not None else None
    found["paused"] = taken.paused
    found["classes"] = [
        {**kind._asdict(), "name": _short(kind.name), "counts": kind.counts._asdict()} for kind in kinds
    ]
    if seen.running is not None:
        jobs = sorted(seen.running, key=lambda job: (-job.seconds, job.job))
        found["running"] = [_running(job) for job in jobs[:_MOST_RUNNING]]
        found["running_more"] = max(0, len(jobs) - _MOST_RUNNING)
    found["slots"] = {"busy": len(seen.running) if seen.running is not None else None, "most": seen.slots}
    found["failed"] = [_failed(job) for job in seen.failed]
    found["failed_more"] = max(0, taken.counts.failed - len(seen.failed))
    points = tree.history.points
    found["point"] = point(points[-1]) if points else None
    return found


def point(of: Point) -> dict[str, Any]:
    """One point of the history."""
    return {**of._asdict(), "hosts": dict(of.hosts)}


def _time_left(tree: WatchedTree, seen: Seen) -> Optional[float]:
    if not seen.snapshot.counts.left or seen.snapshot.master is None:
        return None
    busy = len(seen.running) if seen.running else None
    # What runs is what counts; where nobody can tell, as much as may.
    slots = seen.slots if busy is None else busy
    return seconds_left(seen.snapshot.classes, slots)


def _running(job: RunningJob) -> dict[str, Any]:
    return {**job._asdict(), "job": job_name(job.job), "name": _short(job.name)}


def _failed(job: JobSeen) -> dict[str, Any]:
    failure = job.failure
    return {
        "job": job_name(job.id),
        "class": _short(job.name),
        "attempt": job.attempt,
        "reason": failure.failure.kind if failure is not None else None,
        "message": _short(failure.failure.message) if failure is not None else "",
        "host": failure.host if failure is not None else None,
        "time": failure.moment if failure is not None else None,
    }


def _short(text: str) -> str:
    return text if len(text) <= _MOST_TEXT else text[:_MOST_TEXT] + " ..."
