"""Making bundles of what is ready: which jobs go together, what is asked for them, and what carries them there.

What must hold
  - Everything that is decided here goes into the turn's transaction; the files that it writes are looked at by nobody
    before the commit, and what it returns is submitted after it.
  - Shapes take turns, so that none starves. A job that is suspected of killing its worker shares none.
  - Where workers outlive the master, one bundle alone goes to a batch system that has run nothing for this start yet:
    it shows whether jobtree, Python, the user's code and the directory are there before thousands follow.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator, Mapping, Sequence, Set
from typing import Callable, Optional

from batchsystems.abstract import AbstractBatchSystem, Capacity, NeverFits, Resources, Submission
from jobtree import bundles, clock, countable, frames, launcher, limits, supervisor
from jobtree.bundles import RunningBundle
from jobtree.bundling import Bundler, within_bytes
from jobtree.collected import Collected, News
from jobtree.environment import Environment
from jobtree.events import Job, State
from jobtree.frames import BundleHeader, BundleJob, Failure, Supervision
from jobtree.limits import Limits
from jobtree.options import Settings
from jobtree.paths import TreePaths
from jobtree.report import describe_failure
from jobtree.schema import BundleRow, FailureRow, Shape
from jobtree.services import Services
from jobtree.store import Store
from jobtree.tree import Tree
from jobtree.version import VERSION

GOAL_SECONDS = 0.1
"""What a bundle on this machine should take: long against the few ms that it costs, short for who waits for it."""

LONGEST_SECONDS = 0.5
"""What it may take where much work waits."""

SHORTEST_SECONDS = 0.04
"""What it takes at least, as long as there is enough for all slots: many times what it costs."""

SHORTEST_SHARE = 0.85
SHORTEST_ON_A_CLUSTER = 30.0
"""The same on a cluster, where a job costs a second or two: this part of --jobTime, so many seconds at most."""

_MOST_SLOTS = 256
"""However little a job asks for, no more run at once on one machine (each costs descriptors and a process)."""

_SLOTS_UNKNOWN = 100
"""Slots of a batch system that does not say how many it has."""

_TIME_MARGIN = 1.25
_TIME_EXTRA = 60.0
"""A time limit is this many times what was asked for, and so many seconds more: start-up, slower machines, clean-up."""


def booked_cores(cores: float) -> float:
    """What one machine books for a request: whole thousandths."""
    return int(cores * 1000 + 1e-6) / 1000


def cores_of(backend: str) -> str:
    """The name under which the cores of one batch system are limited."""
    return f"cores of {backend}"


def memory_of(backend: str) -> str:
    """The same of its memory."""
    return f"memory of {backend}"


def _sizes(rows: Sequence[tuple[Job, bytes]], values: Mapping[int, Mapping[bytes, object]]) -> Iterator[int]:
    """Bytes that each job adds; a value that several are given counts once."""
    seen: set[bytes] = set()
    for job, payload in rows:
        given = {token: value for token, value in values.get(job.id, {}).items() if token not in seen}
        seen.update(given)
        yield len(payload) + sum(len(value) for value in given.values() if isinstance(value, bytes))


class Packer:
    """Packs READY jobs into bundles for one batch system, of the name ``backend``.

    running: the bundles that are not over, by name, in any batch system. New ones are added to it.
    limits: on what all these bundles have together. not_before: jobs that wait, and until when. takes: whether the jobs
    of a shape go to this batch system; None: all do. services: what jobs wait for. ``settings`` may be replaced while
    it runs.
    """

    def __init__(
        self,
        paths: TreePaths,
        store: Store,
        tree: Tree,
        backend: str,
        batch: AbstractBatchSystem,
        settings: Settings,
        recorded: Environment,
        run: str,
        running: dict[str, RunningBundle],
        limits: Limits,
        not_before: dict[int, float],
        takes: Optional[Callable[[int], bool]],
        services: Services,
    ) -> None:
        self.backend = backend
        self.batch = batch
        self._paths = paths
        self._store = store
        self._tree = tree
        self.settings = settings
        self._recorded = recorded
        self._run = run
        self._running = running
        self._limits = limits
        self._takes = takes
        self._services = services
        self._not_before = not_before
        self._last_shape = 0
        self.supervised: bool = batch.outlives_master
        if self.supervised:
            shortest = min(settings.job_time * SHORTEST_SHARE, SHORTEST_ON_A_CLUSTER)
            self.bundler: Bundler = Bundler(
                settings.job_time, settings.isolate, shortest=shortest, bounded=True
            )
        else:
            self.bundler = Bundler(GOAL_SECONDS, settings.isolate, LONGEST_SECONDS, SHORTEST_SECONDS)
        self.proved: bool = not self.supervised

    def pack(self, collected: Collected, most_bundles: Optional[int] = None) -> list[Submission]:
        """Make bundles of what is ready, as far as there is room. Returns what to submit after the commit."""
        submissions: list[Submission] = []
        room = self._room()
        if most_bundles is not None:
            room = min(room, most_bundles)
        promised: Optional[dict[str, float]] = None
        if self.supervised:
            self._learn()
        made = True
        while made and len(submissions) < room and self._tree.totals[State.READY]:
            made = False
            if promised is None:
                promised = self._promised()
            for shape, most in list(self._candidates()):
                asked = self._asked(shape)
                # What is hopeless is given up where it is chosen.
                if not self._limits.lacks(asked) and not self._limits.allows(shape, asked, promised):
                    continue
                submission = self._make_bundle(shape, most, collected)
                if submission is not None:
                    submissions.append(submission)
                    self._last_shape = shape
                    made = True
                    limits.add(promised, asked)
                    self._limits.made(asked)
                if len(submissions) >= room:
                    break
        return submissions

    def ready(self) -> int:
        """How many READY jobs go to this batch system, and wait for nothing but room."""
        if self._takes is None and not self._services and not self.supervised:
            return self._tree.totals[State.READY]
        return sum(numbers[State.READY] for s, numbers in self._tree.counts.items() if self._may_pack(s))

    def _may_pack(self, shape: int) -> bool:
        """Whether a shape's jobs go here and could be packed, were there room."""
        if not self._tree.counts[shape][State.READY] or not self._may_take(shape):
            return False
        name = self._store.shapes[shape].name
        # Of a class of which nothing is known one bundle a slot is made, until they show something.
        return (
            not self.supervised
            or self.bundler.is_known(name)
            or self.bundler.in_flight(name) < self._slots(shape)
        )

    def waiting(self) -> list[int]:
        """The shapes of which there is a READY job that waits for nothing but room."""
        held: Set[int] = self._services.held() if self._services else frozenset()
        shapes = [s for s, numbers in self._tree.counts.items() if numbers[State.READY] and self._may_take(s)]
        return [
            s for s in shapes if any(job.id not in held for job, _ in self._store.ready(s, 0, 1 + len(held)))
        ]

    def _may_take(self, shape: int) -> bool:
        return (self._takes is None or self._takes(shape)) and (
            not self._services or self._services.is_open(shape)
        )

    def running_bundle(self, number: int, name: str, shape: int, size: int, offset: int) -> RunningBundle:
        """The record of a bundle that is, or is about to be, submitted."""
        return RunningBundle(number, name, shape, size, self._paths.outcome(number), offset, clock.elapsed())

    def over(self, bundle: RunningBundle) -> None:
        """Measure a bundle that is over."""
        early = (
            bundle.finished < bundle.size
            and bundle.work.busy < self.settings.job_time
            and not bundle.recalled
        )
        self.bundler.over(self._store.shapes[bundle.shape].name, bundle.finished, bundle.work.busy, early)

    # -- how much ----------------------------------------------------------------------------------------------

    def _room(self) -> int:
        room = self.batch.queue_room()
        if not self.proved:
            there = sum(b.backend == self.backend for b in self._running.values())
            return max(0, min(room, 1 - there))
        return room

    def _candidates(self) -> Iterator[tuple[int, int]]:
        """Shapes with READY jobs of which a bundle may be made now, and how large; in turn, so that none starves."""
        shapes = sorted(
            s for s, numbers in self._tree.counts.items() if numbers[State.READY] and self._may_take(s)
        )
        first = next((i for i, s in enumerate(shapes) if s > self._last_shape), 0)
        for shape in shapes[first:] + shapes[:first]:
            name, waiting = self._store.shapes[shape].name, self._tree.counts[shape][State.READY]
            most = self.bundler.size(name, waiting, self._slots(shape))
            if most:
                yield shape, most

    def _learn(self) -> None:
        """What the bundles of classes have shown so far of which none is over yet: that may take minutes."""
        ready = {
            self._store.shapes[s].name for s, numbers in self._tree.counts.items() if numbers[State.READY]
        }
        unknown = {name for name in ready if not self.bundler.is_known(name)}
        shown: dict[str, tuple[int, float]] = {}
        for bundle in self._running.values() if unknown else ():
            name = self._store.shapes[bundle.shape].name
            if bundle.finished and bundle.backend == self.backend and name in unknown:
                targets, seconds = shown.get(name, (0, 0.0))
                shown[name] = targets + bundle.finished, seconds + bundle.work.busy
        for name, (targets, seconds) in shown.items():
            self.bundler.learn(name, targets, seconds / targets)

    def _promised(self) -> dict[str, float]:
        """What running bundles have, if anything is limited: cores and memory here, countable things anywhere."""
        found: dict[str, float] = {}
        for bundle in self._running.values() if self._limits.most else ():
            if bundle.backend == self.backend:
                limits.add(found, self._asked(bundle.shape))
            else:
                limits.add(found, countable.counts(self._store.shapes[bundle.shape].countable))
        return found

    def _asked(self, shape: int) -> dict[str, float]:
        cpu, memory = self.request(shape)
        found: dict[str, float] = {cores_of(self.backend): cpu, memory_of(self.backend): memory}
        found.update(countable.counts(self._store.shapes[shape].countable))
        return found

    def lacking(self, shape: int) -> list[tuple[str, float, float, float]]:
        """What the next bundle of a shape would have to wait for: name, asked for, in use, and how much there is."""
        asked, promised, most = self._asked(shape), self._promised(), self._limits.most
        return [
            (name, number, promised.get(name, 0), most[name])
            for name, number in asked.items()
            if number and name in most and promised.get(name, 0) + number > most[name] + 1e-9
        ]

    def _slots(self, shape: int) -> int:
        """How many jobs of a shape can run at once."""
        cpu, memory = self.request(shape)
        asked = countable.counts(self._store.shapes[shape].countable)
        slots = self.batch.slots(Resources(cpu, memory, countable=asked))
        if slots is not None:
            return max(1, slots)
        capacity = self.batch.capacity()
        if capacity is None or self.supervised:
            return _SLOTS_UNKNOWN
        fits = [_MOST_SLOTS]
        if cpu > 0:
            fits.append(int(capacity.cpu / cpu + 1e-6))
        if memory > 0:
            fits.append(capacity.memory // memory)
        for name, number in asked.items():
            most = capacity.countable.get(name, self.settings.limits.get(name))
            if most is not None:
                fits.append(most // number)
        return max(1, min(fits))

    def request(self, shape: int) -> tuple[float, int]:
        """Cores and bytes that the jobs of a shape ask for, with the defaults where they do not say."""
        known = self._store.shapes[shape]
        return known.cpu or self.settings.default_cpu, known.memory or self.settings.default_memory

    # -- which -------------------------------------------------------------------------------------------------

    def _choose(self, shape: int, most: int, collected: Collected) -> list[tuple[Job, bytes]]:
        """The oldest READY jobs of a shape that go into one bundle."""
        after = 0
        held: Set[int] = self._services.held() if self._services else frozenset()
        while True:
            limit = most + len(self._not_before) + len(held)
            page = self._store.ready(shape, after, limit)
            rows = [
                row
                for row in page
                if row[0].id not in self._not_before
                and row[0].id not in held
                and not self._never_fits(row[0], collected)
            ]
            if rows or len(page) < limit:
                break
            after = page[-1][0].id
        for index, (job, _) in enumerate(rows):
            if job.alone:
                # It is suspected of killing its worker: nobody shares one with it.
                rows = rows[:1] if index == 0 else rows[:index]
                break
        count = self.bundler.cut(self._store.shapes[shape].name, (job.time for job, _ in rows), most)
        return rows[: within_bytes(len(payload) for _, payload in rows[:count])]

    def _never_fits(self, job: Job, collected: Collected) -> bool:
        """Give a READY job up if it asks for more than there will ever be."""
        shape = self._store.shapes[job.shape]
        capacity = self.batch.capacity()
        why = self._larger_than(capacity, shape, job) or self._more_than_there_are(capacity, shape)
        if not why:
            return False
        self._give_up(job, why, collected)
        return True

    def give_up(self, number: int, collected: Collected) -> None:
        """The oldest READY job of a shape can never run, because what it needs beside itself takes up the room."""
        shape = self._store.shapes[number]
        lacking = [
            f"{name} ({asked:g} asked for, {used:g} of {most:g} in use)"
            for name, asked, used, most in self.lacking(number)
        ]
        why = (
            f"{shape.name} cannot run beside the services that it needs: nothing else is running, and there is no room "
            f"for it in {self.backend}: {', '.join(lacking) or 'it takes no more jobs at once'}."
        )
        held = self._services.held()
        for job in [job for job, _ in self._store.ready(number, 0, 1 + len(held)) if job.id not in held][:1]:
            self._give_up(job, why, collected)

    def _give_up(self, job: Job, why: str, collected: Collected) -> None:
        shape = self._store.shapes[job.shape]
        self._tree.never_fits(job)
        self._services.failed(job.id)
        failure = Failure("resources", why, "", "", 0, 0)
        row = FailureRow(job.id, job.attempt, shape.name, failure, None, None, None, clock.wall())
        self._store.note_failure(row)
        collected.news.append(News(logging.CRITICAL, describe_failure(row, True, self._paths.root), row))
        self._store.write(self._tree.take_changes(), self._tree.counts)

    def _larger_than(self, capacity: Optional[Capacity], shape: Shape, job: Job) -> str:
        """Why a job will never fit, in words: its cores or memory; "" if they do."""
        cpu = shape.cpu or self.settings.default_cpu
        memory = job.memory or self.settings.default_memory
        if capacity is None:
            return ""
        if memory > capacity.memory:
            return str(NeverFits(shape.name, "memory", memory, capacity.memory))
        if cpu > capacity.cpu:
            return str(NeverFits(shape.name, "cores", cpu, capacity.cpu))
        if not self._services or self.supervised:
            return ""  # elsewhere the services that it needs may be on other machines
        return self._too_large_beside(capacity, self._services.beside(job), shape.name, cpu, memory)

    def _too_large_beside(
        self, capacity: Capacity, services: Sequence[int], name: str, cpu: float, memory: int
    ) -> str:
        """The same beside services of these shapes, as far as they are on this machine as well."""
        here = [self.request(s) for s in services if self._takes is None or self._takes(s)]
        left = Capacity(
            capacity.cpu - sum(booked_cores(cores) for cores, _ in here),
            capacity.memory - sum(m for _, m in here),
        )
        if memory > left.memory:
            found = NeverFits(name, "memory", memory, left.memory)
        elif cpu > left.cpu + 1e-6:
            found = NeverFits(name, "cores", cpu, round(left.cpu, 3))
        else:
            return ""
        return f"{found} That is what is left beside the services that it needs."

    def _more_than_there_are(self, capacity: Optional[Capacity], shape: Shape) -> str:
        """The same for countable things."""
        for thing, asked in countable.counts(shape.countable).items():
            limit = self.settings.limits.get(thing)
            asks = f"{shape.name} asks for {asked} {thing}"
            if limit is not None and asked > limit:
                return (
                    f"{asks}, and --limit {thing}={limit} says that there are fewer: it would wait for ever."
                )
            if not self.batch.counts(thing):
                if limit is None:
                    return f"{asks}, and nobody has said how many there are. Say so: --limit {thing}=N"
                continue
            there = None if capacity is None else capacity.countable.get(thing)
            if there is not None and asked > there:
                return (
                    f"{asks}, and {self.backend} has {there} at most: it would wait for ever. If there are more, say "
                    f"so: --limit {thing}=N"
                )
        return ""

    # -- the bundle --------------------------------------------------------------------------------------------

    def _make_bundle(self, shape: int, most: int, collected: Collected) -> Optional[Submission]:
        """Pack ready jobs of a shape into a new bundle: its file is written, its row and its jobs' are in the
        transaction. None if there is none to issue now."""
        rows = self._choose(shape, most, collected)
        if not rows:
            return None
        if rows[0][0].id in self._services:
            rows = rows[:1]  # what comes after it in its bundle would wait for its end
        values = self._store.values_of_jobs([job.id for job, _ in rows])
        if values:
            rows = rows[: within_bytes(_sizes(rows, values))]
        known = self._store.shapes[shape]
        cpu, _ = self.request(shape)
        memory = max(job.memory for job, _ in rows) or self.settings.default_memory
        number = self._store.take_bundle_number()
        name = f"{self._run}.{number}"
        bundle = self.running_bundle(number, name, shape, len(rows), 0)
        bundle.expected = sum(self.bundler.expected(known.name, job.time) for job, _ in rows)
        bundle.backend, bundle.supervised = self.backend, self.supervised
        limit = self._time_limit(known.name, [job for job, _ in rows]) if self.supervised else None
        self._tree.issued(number, [job for job, _ in rows])
        header = self._header(number, len(rows), memory, cpu, limit, known.countable)
        bundles.write_bundle(self._paths, header, self._bundle_jobs(rows, cpu, values))
        self._store.write(self._tree.take_changes(), self._tree.counts)
        self._store.new_bundle(
            BundleRow(number, name, self.backend, shape, len(rows), 0, bundle.created, None)
        )
        self._running[name] = bundle
        self.bundler.issued(known.name, len(rows))
        return self._submission(
            name, number, Resources(cpu, memory, limit, countable.counts(known.countable))
        )

    def _bundle_jobs(
        self, rows: list[tuple[Job, bytes]], cpu: float, values: Mapping[int, Mapping[bytes, object]]
    ) -> list[BundleJob]:
        default = self.settings.default_memory
        return [
            BundleJob(
                job.id, job.attempt, job.step, job.memory or default, cpu, job.time, payload, values.get(job.id, {})
            )
            for job, payload in rows
        ]  # fmt: skip

    def _submission(self, name: str, number: int, resources: Resources) -> Submission:
        root = self._paths.root
        if not self.supervised:
            return Submission(name, tuple(launcher.command("worker", root, str(number))), resources)
        # "/" is there on every machine; the supervisor says so clearly if the run's own directory is not.
        return Submission(
            name,
            supervisor.command(root, name),
            resources,
            log=self._paths.log(number),
            cwd="/",
            env=self._recorded.variables,
        )

    def _time_limit(self, name: str, jobs: list[Job]) -> Optional[float]:
        """Seconds after which the batch system may end a bundle of these jobs; None if any of them says nothing."""
        default = self.settings.default_time
        total = longest = 0.0
        for job in jobs:
            asked = job.time or default
            if not asked:
                return None
            longest = max(longest, asked)
            total += max(asked, self.bundler.expected(name, asked) if len(jobs) > 1 else asked)
        # What its worker has not begun after that time it gives back.
        total = min(total, frames.OVERTIME * self.settings.job_time + longest)
        return total * _TIME_MARGIN + _TIME_EXTRA

    def _header(
        self, number: int, count: int, memory: int, cpu: float, limit: Optional[float], reserved: str
    ) -> BundleHeader:
        s = self.settings
        told = None
        if self.supervised:
            told = tuple(Supervision(s.lease, s.grace, VERSION, sys.version.split()[0], limit or 0.0))
        return BundleHeader(
            frames.VERSION, self._run, number, count, memory, cpu, s.job_time, s.max_log_file_size, s.keep_logs,
            s.durable == "full", s.isolate, self._tree.with_global_dir > 0, s.effective_log_level, s.default_memory,
            s.default_cpu, told, reserved,
        )  # fmt: skip
