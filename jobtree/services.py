"""Services: what waits for them, what comes of it when one dies, and when they are no longer needed.

A service is a job like any other: a child of the target that added it. Its attempt writes that it is up, with its
address, in a frame that is synced, and goes on; its outcome comes when it was told to stop. So it is issued, limited,
found again after a crash and tried again as every job is, and the tree (jobtree.tree) knows nothing of services.

The target that has added services is a *gate* for all that is below it, its services excepted. The number of the
nearest gate above a job is a part of the job's shape: so jobs in one bundle need the same services, whether a shape may
be issued is a question for each shape and not for each job, and a tree without services has nothing to ask.

What must hold
  - No job is issued while a service of a gate above it is not up: not before it is, and not after it has died.
  - A bundle gets the addresses of the time at which it is made. When a service dies, the bundles below its gate are
    ended, at nobody's charge, and their jobs are made into new bundles when it is up again. Jobs that are done stay
    done: what a service is to remember it keeps in its global temporary directory.
  - A job that fails may have failed because its service died a moment ago. Such a failure counts only when every
    service that it needs was found well by a check that began after it; until then (``is_in_doubt``) the frames of its
    bundle are not read on, and so nothing is taken back from it: what it has begun since is not known.
  - A service is told to stop when its target has no other children left. The target's follow-on waits for it as for any
    child, so stop() has returned once before that starts.
  - Services never keep one another, or those that need them, from running for ever. When nothing runs but services,
    and what waits does not fit beside them, one that nothing running needs is stopped (``make_room``), and not started
    again before another gate is done with, or nothing else is left to do. Whoever is to run first is found by the
    order of the tree, so each of these steps comes closer to the end of somebody.

How it fails. A service that cannot be started has failed as any target does, with its tries. One that dies later is
lost, however it died, up to --maxLost times in a row. When a service has failed for good, what is below its gate is not
issued; everything else is.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Set
from typing import Optional

from jobtree import bundles
from jobtree.bundles import RunningBundle
from jobtree.events import Job, State
from jobtree.frames import Frame
from jobtree.paths import TreePaths, job_name
from jobtree.service_rows import ServiceRow
from jobtree.shown import one_line
from jobtree.store import Store
from jobtree.tree import Tree


class _Up:
    """A service that is up. wells: where in its outcome file the last two frames begin that say that it is well."""

    __slots__ = ("attempt", "bundle", "wells")

    def __init__(self, attempt: int, bundle: RunningBundle) -> None:
        self.attempt = attempt
        self.bundle = bundle
        self.wells: tuple[int, int] = (-1, -1)


class _Doubt:
    """A bundle tells of a failure. until: how long its file was when that was seen. seen: of the services that its jobs
    need, the attempt in which each was up then, and how much that had written; None: it was not up."""

    __slots__ = ("is_over", "seen", "until")

    def __init__(self, until: int, seen: dict[int, Optional[tuple[int, int]]]) -> None:
        self.until = until
        self.seen = seen
        self.is_over = False


class Services:
    """The services of a tree; false while there are none. running: the bundles that are not over, by name."""

    def __init__(
        self, paths: TreePaths, store: Store, tree: Tree, running: Mapping[str, RunningBundle]
    ) -> None:
        self._paths = paths
        self._store = store
        self._tree = tree
        self._running = running
        self._rows: dict[int, ServiceRow] = {}
        self._of: dict[int, set[int]] = {}  # by gate
        self._up: dict[int, _Up] = {}
        self._failed: set[int] = set()
        self._gone: set[int] = set()
        self._stopped: set[int] = set()  # the gates whose services were stopped to make room
        self._doubts: dict[int, _Doubt] = {}
        self._news: list[str] = []

    def __bool__(self) -> bool:
        return bool(self._rows)

    def __contains__(self, job: int) -> bool:
        return job in self._rows

    # -- which there are ---------------------------------------------------------------------------------------

    def load(self) -> None:
        """Take in what the store knows: at the start, and after anything but the run itself has changed the tree."""
        self._rows.clear()
        self._of.clear()
        self._failed.clear()
        for row, failed in self._store.services.all():
            self._know(row)
            if failed:
                self._failed.add(row.job)
        self._gone.intersection_update(self._rows)
        for job in [job for job in self._up if job not in self._rows]:
            del self._up[job]

    def find_up(self) -> None:
        """Find those that are up in bundles that go on. The rest died while there was no master."""
        for bundle in self._running.values():
            if bundle.serves is not None:
                self.serves(bundle, *bundle.serves)
        self._gone = {job for job in self._rows if job not in self._up}

    def added(self, rows: Iterable[ServiceRow]) -> None:
        """A target has succeeded and added these, among its children."""
        for row in rows:
            self._store.services.note(row)
            self._know(row)

    def _know(self, row: ServiceRow) -> None:
        self._rows[row.job] = row
        self._of.setdefault(row.gate, set()).add(row.job)

    def reshaped(self, job: int, shape: int) -> None:
        """A job asks for more than before."""
        if job in self._rows:
            row = self._rows[job] = self._rows[job]._replace(shape=shape)
            self._store.services.note(row)

    # -- what frames say ---------------------------------------------------------------------------------------

    def serves(self, bundle: RunningBundle, job: int, attempt: int) -> None:
        """The attempt says that the service is up."""
        bundle.serves = (job, attempt)
        if job in self._rows and self._tree.current(job, attempt) is not None:
            self._up[job] = _Up(attempt, bundle)

    def well(self, frame: Frame) -> None:
        """The service says that it is well."""
        up = self._up.get(frame.body[1])
        if up is not None and up.attempt == frame.body[2]:
            up.wells = (up.wells[1], frame.start)

    def finished(self, job: int) -> bool:
        """The service has stopped because nobody needs it any more. False: it was stopped although it is needed."""
        gate = self._rows[job].gate
        if not self._is_done_with(gate):
            return False
        del self._rows[job]
        self._up.pop(job, None)
        self._of[gate].discard(job)
        if not self._of[gate]:
            del self._of[gate]
            self._stopped.clear()
        self._store.services.forget(job)
        return True

    def was_up(self, job: int, attempt: int) -> bool:
        """Whether this attempt had got so far."""
        up = self._up.get(job)
        return up is not None and up.attempt == attempt

    def failed(self, job: int) -> None:
        """A job has failed for good."""
        if job in self._rows:
            self._failed.add(job)

    # -- one turn ----------------------------------------------------------------------------------------------

    def turn(self) -> list[RunningBundle]:
        """Tell those to stop that nobody needs, and forget those that have died.

        Returns the bundles that depend on one of these: they are to be ended.
        """
        for job, up in list(self._up.items()):
            if self._tree.jobs.get(job) is None or not self._is_going_on(job, up):
                del self._up[job]
                self._gone.add(job)
            elif self._is_done_with(self._rows[job].gate):
                self._recall(up.bundle)
        ended: dict[int, RunningBundle] = {}
        for job in self._gone:
            depend = [b for b in self._running.values() if self._depends_on(b, self._rows[job].gate)]
            ended.update((bundle.id, bundle) for bundle in depend)
            if depend:
                self._news.append(
                    f"service {self.describe(job)} is not up any more: jobs that need it and are running end, and run "
                    "again when it is"
                )
        self._gone.clear()
        return list(ended.values())

    def describe(self, job: int) -> str:
        """A service by number and class, for people."""
        return f"{job_name(job)} ({one_line(self._store.shapes[self._rows[job].shape].name)})"

    def _is_going_on(self, job: int, up: _Up) -> bool:
        record = self._tree.jobs[job]
        return record.state is State.ISSUED and record.attempt == up.attempt

    def _depends_on(self, bundle: RunningBundle, gate: int) -> bool:
        return bool(self._tree.bundles.get(bundle.id)) and gate in self._gates(bundle.shape)

    def take_news(self) -> list[str]:
        """What the user is to be told."""
        news, self._news = self._news, []
        return news

    def bundles_up(self, elsewhere: bool = True) -> list[RunningBundle]:
        """Those in which services are up. elsewhere: also where they outlive the master."""
        return [up.bundle for up in self._up.values() if elsewhere or not up.bundle.supervised]

    def stop(self, services: Iterable[RunningBundle]) -> None:
        """Tell the services in these bundles to stop."""
        for bundle in services:
            self._recall(bundle)

    def _recall(self, bundle: RunningBundle) -> None:
        if not bundle.recalled:
            bundle.recalled = True
            bundles.recall(self._paths, bundle.id)

    def _is_done_with(self, gate: int) -> bool:
        """Whether a target waits for nothing but its services."""
        job = self._tree.jobs.get(gate)
        return job is None or job.pending <= len(self._of[gate])

    def _gates(self, shape: int) -> Iterator[int]:
        """The gates above the jobs of a shape, nearest first."""
        gate = self._store.shapes[shape].gate
        while gate:
            yield gate
            job = self._tree.jobs.get(gate)
            gate = self._store.shapes[job.shape].gate if job is not None else 0

    def _needed_by(self, shape: int) -> Iterator[int]:
        """The services that the jobs of a shape need."""
        for gate in self._gates(shape):
            yield from self._of.get(gate, ())

    # -- what may be issued ------------------------------------------------------------------------------------

    def is_open(self, shape: int) -> bool:
        """Whether all services that jobs of a shape need are up."""
        return not self.missing(shape)

    def missing(self, shape: int) -> list[int]:
        """The services that jobs of a shape need and that are not up."""
        return [job for job in self._needed_by(shape) if job not in self._up or self._up[job].bundle.recalled]

    def held(self) -> Set[int]:
        """The services that are not to be started now: nobody needs them, or they were stopped to make room."""
        down = [row for row in self._rows.values() if row.job not in self._tree.jobs]
        if not down:
            return frozenset()
        needed = self._needed_gates()
        return {row.job for row in down if row.gate not in needed or row.gate in self._stopped}

    def _needed_gates(self) -> set[int]:
        """The gates below which there is something to issue; and those that wait only for a service to have stopped."""
        needed: set[int] = set()
        for shape in self._ready():
            if not self._is_hopeless(shape):
                needed.update(self._gates(shape))
        for gate in self._of:
            job = self._tree.jobs.get(gate)
            if job is not None and self._is_done_with(gate) and not self._of[gate] <= self._failed:
                needed.add(gate)
                needed.update(self._gates(job.shape))
        return needed

    def _ready(self) -> Iterator[int]:
        """The shapes of which a job is READY that is no service."""
        services: dict[int, int] = {}
        for row in self._rows.values():
            if row.job not in self._tree.jobs and row.job not in self._failed:
                services[row.shape] = services.get(row.shape, 0) + 1
        for shape, numbers in self._tree.counts.items():
            if numbers[State.READY] > services.get(shape, 0):
                yield shape

    def _is_hopeless(self, shape: int) -> bool:
        return not self._failed.isdisjoint(self._needed_by(shape))

    def nothing_left(self) -> bool:
        """Whether nothing is going on, nor can be issued, but services for which nothing is left to do in this run."""
        if not self._rows:
            return False
        up = sum(not bundle.recalled for bundle in self.bundles_up())
        if self._tree.totals[State.ISSUED] != up or self._needed_gates():
            return False
        return all(self._is_hopeless(shape) for shape in self._ready())

    # -- making room -------------------------------------------------------------------------------------------

    def make_room(self, waiting: Iterable[int]) -> Optional[int]:
        """Nothing runs but services that are up, and the jobs of these shapes do not fit beside them: stop one.

        Returns None; or the shape whose jobs can never run, because it is those that they need that take up the room.
        """
        first = min(waiting, key=self._place)
        needed = set(self._gates(first))
        others = {row.gate for row in self._rows.values() if row.job in self._up} - needed
        if not others:
            return first
        last = max(others, key=self._place_of_gate)
        self._stopped.add(last)
        self.stop(self._up[job].bundle for job in self._of[last] if job in self._up)
        return None

    def start_again(self) -> None:
        """Nothing else is left to do: those that were stopped to make room may be started."""
        self._stopped.clear()

    def _place(self, shape: int) -> tuple[int, ...]:
        """Where the jobs of a shape are in the order of the tree: those below a gate follow what is beside it."""
        return tuple(reversed(list(self._gates(shape))))

    def _place_of_gate(self, gate: int) -> tuple[int, ...]:
        return (*self._place(self._tree.jobs[gate].shape), gate)

    def beside(self, job: Job) -> list[int]:
        """The shapes of the services that are up while a job runs."""
        needed = list(self._needed_by(job.shape))
        if job.id in self._rows:  # the others of its target
            needed += self._of[self._rows[job.id].gate] - {job.id}
        return [self._rows[service].shape for service in needed]

    # -- whose fault it was ------------------------------------------------------------------------------------

    def is_in_doubt(self, bundle: RunningBundle, position: int) -> bool:
        """This bundle tells, at this position of its file, that a job has failed: whether it is not known yet that the
        services that it needs were well after that."""
        if not self._rows or bundle.orphaned:
            return False
        doubt = self._doubts.get(bundle.id)
        if doubt is None or (doubt.is_over and position >= doubt.until):
            seen = {service: self._seen(service) for service in self._needed_by(bundle.shape)}
            doubt = self._doubts[bundle.id] = _Doubt(os.path.getsize(bundle.path), seen)
        doubt.is_over = doubt.is_over or all(map(self._is_well_since, doubt.seen.items()))
        return not doubt.is_over

    def _is_well_since(self, seen: tuple[int, Optional[tuple[int, int]]]) -> bool:
        service, then = seen
        up = self._up.get(service)
        if service not in self._rows:
            return True
        # The check of which the first of the last two frames tells may have begun before; that of the second has not.
        return then is not None and up is not None and up.attempt == then[0] and up.wells[0] >= then[1]

    def _seen(self, service: int) -> Optional[tuple[int, int]]:
        """The attempt in which a service is up, and how much that has written; None: it is not up."""
        up = self._up.get(service)
        return None if up is None else (up.attempt, os.path.getsize(up.bundle.path))

    def in_doubt(self, bundle: RunningBundle) -> bool:
        """Whether frames of the bundle were left because of that."""
        doubt = self._doubts.get(bundle.id)
        return doubt is not None and not doubt.is_over and not bundle.orphaned

    def settled(self, bundle: RunningBundle) -> bool:
        """The bundle is over. If that is still in doubt, it is taken to be nobody's fault, and True returned."""
        doubt = self._doubts.pop(bundle.id, None)
        if doubt is not None and not doubt.is_over:
            bundle.orphaned = True
            return True
        return False
