"""What the monitor reads of one tree: every answer is bounded, and none disturbs the run.

Single jobs are told as jobTreeStatus tells them to programs (jobtree.job_views).
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, Callable, NamedTuple, Optional

from jobtree import clock, files, job_views, lock, published, snapshot
from jobtree.contents import RunningJob
from jobtree.errors import StorageError, UsageError
from jobtree.events import ROOT_PARENT, State
from jobtree.monitor.history import History, Point
from jobtree.paths import TreePaths
from jobtree.quantities import is_unspecified
from jobtree.queries import JobSeen
from jobtree.requests import Answer
from jobtree.snapshot import Snapshot

MOST_FAILED = 20
"""So many failures are told at every look; the rest is there for whoever asks."""

_MOST_HOSTS = 1000

_NAME = "jobTreeMonitor"
_ANSWER_SECONDS = 5.0
"""So long the master may take to say what is running; if it does not, the next look asks again."""


class Seen(NamedTuple):
    """A tree at one moment: as ``jobtree.snapshot`` has it, the running jobs if they are known, the first failures.

    slots: how many targets may run at once, if that is known. hosts: targets that have succeeded on each machine, by
    workers that are over; None: not asked.
    """

    time: float
    snapshot: Snapshot
    running: Optional[Sequence[RunningJob]]
    failed: Sequence[JobSeen]
    slots: Optional[float]
    hosts: Optional[Mapping[str, int]]


def watched(directories: Sequence[str]) -> list[WatchedTree]:
    """The trees in these directories, with numbers from 1 on. Raises UsageError.

    Those whose directories end alike are called by as much of the path as tells them apart.
    """
    trees = [WatchedTree(number, directory) for number, directory in enumerate(directories, 1)]
    parts = 1
    while alike := _called_alike(trees):
        parts += 1
        for tree in alike:
            tree.name = os.sep.join(tree.paths.root.split(os.sep)[-parts:])
        if all(tree.name == tree.paths.root for tree in alike):
            break  # one directory, named twice
    return trees


def _called_alike(trees: Sequence[WatchedTree]) -> list[WatchedTree]:
    known = Counter(tree.name for tree in trees)
    return [tree for tree in trees if known[tree.name] > 1]


class WatchedTree:
    """One tree, its number among those that are watched, and its history. Raises UsageError for what is none.

    name: what to call it for short.
    """

    def __init__(self, number: int, directory: str) -> None:
        self.number = number
        self.paths: TreePaths = snapshot.find(directory)[0]
        self.name: str = os.path.basename(self.paths.root) or self.paths.root
        self.history: History = History()
        self._hosts: Mapping[str, int] = {}
        self.seen: Optional[Seen] = None

    def look(self, jobs_too: bool) -> Seen:
        """The tree as it is now; jobs_too: what is running and what has failed as well. Raises JobTreeError."""
        taken = snapshot.take(self.paths)
        running = taken.running
        if jobs_too and running is None and taken.state == snapshot.RUNNING:
            running = published.running(self.paths, _NAME, _ANSWER_SECONDS)
        failed: Sequence[JobSeen] = ()
        if jobs_too and taken.counts.failed:
            failed = snapshot.look(self.paths, "in_state", state=int(State.FAILED), limit=MOST_FAILED)
        # Where the master would have to be asked, only for somebody who sees it.
        hosts = None
        if jobs_too or not files.is_network(self.paths.root):
            hosts = dict(snapshot.look(self.paths, "hosts", limit=_MOST_HOSTS))
        return Seen(clock.wall(), taken, running, failed, self._slots(), hosts)

    def note(self, seen: Seen) -> None:
        """What was seen is the newest now."""
        kinds = seen.snapshot.classes
        busy = len(seen.running) if seen.running is not None else None
        hosts = seen.hosts if seen.hosts is not None else self._hosts
        succeeded, failures = sum(kind.succeeded for kind in kinds), sum(kind.failures for kind in kinds)
        self.history.add(Point(seen.time, succeeded, failures, busy, hosts))
        self.seen, self._hosts = seen, hosts

    def _slots(self) -> Optional[float]:
        """By the options of the latest start; what those do not say is known of the master's machine only."""
        try:
            settings = files.read_json(self.paths.settings)
        except StorageError:
            return None
        if not isinstance(settings, Mapping):
            return None
        limits = [settings.get("max_cpus")]
        if settings.get("batch_system") == "singleMachine":
            master = lock.owner(self.paths)
            here = master is not None and lock.is_here(master)
            limits.append(settings.get("max_threads") or (os.cpu_count() if here else None))
        known = [
            float(limit) for limit in limits if isinstance(limit, (int, float)) and not is_unspecified(limit)
        ]
        return min(known, default=None)

    # -- single jobs ---------------------------------------------------------------------------------------

    def jobs_below(self, parent: Optional[str], after: Optional[str], limit: int) -> list[dict[str, Any]]:
        """The jobs just below one (None: the first of all) that are not done, from one on. Raises JobTreeError."""
        above = job_views.number_of(parent) if parent is not None else ROOT_PARENT
        found = snapshot.look(self.paths, "children", parent=above, after=_start(after), limit=limit)
        return [self._row(job) for job in found]

    def failed(self, after: Optional[str], limit: int) -> list[dict[str, Any]]:
        """Jobs that were given up, each with its failure, from one on."""
        found = snapshot.look(
            self.paths, "in_state", state=int(State.FAILED), after=_start(after), limit=limit
        )
        return [self._row(job) for job in found]

    def running(self, limit: int) -> Optional[list[dict[str, Any]]]:
        """What runs at this moment, the longest first; None if no master can tell."""
        found: Optional[list[dict[str, Any]]] = job_views.running(self.paths, limit).value
        return found[:limit] if found is not None else None

    def job(self, name: str) -> dict[str, Any]:
        """Everything about one job, and why it is where it is, in words."""
        self._known(name)
        found: dict[str, Any] = job_views.why(self.paths, name).value
        return found

    def log(self, name: str, most: int) -> dict[str, Any]:
        """The end of what a job has printed, in so many bytes: the running attempt, or the last one that failed."""
        self._known(name)
        found: dict[str, Any] = job_views.log(self.paths, name, most).value
        return found

    def order(self, ask: Callable[[TreePaths], Answer]) -> Answer:
        """Have its master asked for something. Raises JobTreeError if it is gone: a request would begin it anew."""
        snapshot.find(self.paths.root)
        return ask(self.paths)

    def _known(self, name: str) -> None:
        if snapshot.look(self.paths, "details", id=job_views.number_of(name), limit=1) is None:
            raise UsageError(f"Job {name} is not in the tree: it is done, or was forgotten, or never was.")

    def _row(self, job: JobSeen) -> dict[str, Any]:
        return job_views.as_json(self.paths, job)


def _start(after: Optional[str]) -> int:
    return job_views.number_of(after) if after is not None else 0
