"""Why a job is not running, as only the master knows it: in words, for ``jobTreeStatus --why``.

Everything here looks and changes nothing, and looks at one job. What the database says of it (whose children it waits
for, how it failed) is not repeated; this is about retries that wait, room that is taken, limits that are reached, and
batch systems that refuse or queue.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Callable, Optional

from jobtree import clock
from jobtree.adoption import Adopter
from jobtree.backends import Backends
from jobtree.bundles import RunningBundle
from jobtree.cluster import Cluster
from jobtree.contents import RunningJob
from jobtree.events import Job, State
from jobtree.lanes import Lanes
from jobtree.packing import Packer
from jobtree.paths import job_name
from jobtree.quantities import format_duration
from jobtree.room import Room
from jobtree.shown import one_line
from jobtree.silence import last_heard
from jobtree.store import Store
from jobtree.tree import Tree


class Explainer:
    """Looks at what a master has in memory; bundles: those that are not over, by name. paused: by whom, if it is."""

    def __init__(
        self,
        store: Store,
        tree: Tree,
        lanes: Lanes,
        cluster: Cluster,
        backends: Backends,
        adopter: Adopter,
        bundles: Mapping[str, RunningBundle],
        room: Room,
        paused: Callable[[], Optional[str]],
    ) -> None:
        self._store = store
        self._tree = tree
        self._lanes = lanes
        self._cluster = cluster
        self._backends = backends
        self._adopter = adopter
        self._bundles = bundles
        self._on_disk = room
        self._paused = paused

    def running_jobs(self) -> list[RunningJob]:
        """What is running at this moment, as far as workers have told."""
        now = clock.elapsed()
        found = []
        for bundle in self._bundles.values():
            if bundle.current is not None:
                said = bundle.said
                fraction, words = (said.report if said is not None else None) or (None, "")
                found.append(
                    RunningJob(
                        *bundle.current,
                        self._store.shapes[bundle.shape].name,
                        bundle.name,
                        bundle.host,
                        now - bundle.current_since,
                        bundle.backend,
                        bundle.log_start,
                        fraction,
                        words,
                        now - last_heard(bundle),
                        said is not None and said.hung,
                    )
                )
        return found

    def why(self, id: int) -> list[str]:
        """Why the job of this number is not running, or that it is, in sentences; none if there is nothing to add.

        Outside of a transaction, or in one.
        """
        job = self._tree.jobs.get(id) or self._store.job(id)
        if job is None:
            return []
        if job.state is State.ISSUED:
            return self._why_issued(job)
        return self._why_ready(job) if job.state is State.READY else []

    def _why_issued(self, job: Job) -> list[str]:
        bundle = next((b for b in self._bundles.values() if b.id == job.bundle), None)
        if bundle is None:
            return []
        now = clock.elapsed()
        since = format_duration(now - bundle.current_since)
        where = f"on {one_line(bundle.host)}" if bundle.host else f"in {bundle.backend}"
        if not bundle.supervised:
            where = "on the machine of the master"
        if bundle.current is not None and bundle.current[0] == job.id:
            return [f"It has been running {where} for {since}, in bundle {bundle.name}.", *_said(bundle, now)]
        if bundle.current is not None:
            return [
                f"It is in bundle {bundle.name}, which runs {where}, and waits there for job "
                f"{job_name(bundle.current[0])}, which has been running for {since}."
            ]
        if bundle.started_any or bundle.end is not None:
            return [f"It is in bundle {bundle.name}, which runs {where} and is between two jobs."]
        lines = [
            f"It has waited in the queue of {bundle.backend} for {format_duration(now - bundle.issued_at)}, in bundle "
            f"{bundle.name}."
        ]
        batch = self._backends.of(bundle.backend)
        said = batch.why_waiting(bundle.name) if batch is not None else ""
        return [*lines, f"{bundle.backend} says: {one_line(said)}"] if said else lines

    def _why_ready(self, job: Job) -> list[str]:
        lines = []
        now = clock.elapsed()
        moment = self._lanes.not_before.get(job.id)
        if moment is not None and moment > now:
            lines.append(f"It has failed before, and is tried again in {format_duration(moment - now)}.")
        by = self._paused()
        if by is not None:
            lines.append(f"Nothing is issued: the run was paused by {by}. Go on with: jobTreeRun --goOn")
        if self._adopter.import_error is not None:
            lines.append(f"Nothing is issued any more: {one_line(self._adopter.import_error)}")
        if self._on_disk.lacking:
            lines.append(f"Nothing is issued until there is room: {self._on_disk.lacking}")
        lines += [f"It needs service {name}, which is not up." for name in self._lanes.missing(job.shape)]
        lane = self._lanes.of_shape(job.shape)
        pause = self._cluster.pause(lane.backend)
        if pause > 0:
            lines.append(
                f"{lane.backend} has refused what it was given; it is asked again in {format_duration(pause)}."
            )
        lines += self._lacking(lane, job)
        ahead = self._tree.counts.get(job.shape, [0])[State.READY] - 1
        room = self._room(lane)
        if room:
            lines.append(room)
        if ahead > 0:
            lines.append(
                f"{ahead} other jobs of its class and size are ready as well; the oldest of them go first."
            )
        return lines or ["It is about to be issued."]

    def _lacking(self, lane: Packer, job: Job) -> list[str]:
        return [
            f"It waits for {name}: {asked:g} asked for, {promised:g} of {most:g} in use."
            for name, asked, promised, most in lane.lacking(job.shape)
        ]

    def _room(self, lane: Packer) -> Optional[str]:
        if lane.batch.queue_room() > 0:
            return None
        there = sum(bundle.backend == lane.backend for bundle in self._bundles.values())
        return f"All places of {lane.backend} are taken by {there} bundles that are running or queued."


def _said(bundle: RunningBundle, now: float) -> list[str]:
    """How far a running target is by its own word, and whether it is silent."""
    said = bundle.said
    if said is None:
        return []
    lines = [f"It has told how far it is: {one_line(said.report.in_words())}."] if said.report else []
    if said.hung:
        silent = format_duration(now - last_heard(bundle))
        lines.append(
            f"Nothing was heard of it for {silent}, longer than --hungAfter: it may hang. To end it: jobTreeRun "
            "--killJob."
        )
    return lines
