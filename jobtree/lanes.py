"""The one or two batch systems that a start issues to, and which of them gets a job.

With --bigBatchSystem there are two: a job goes to the second one if it asks for more memory than --bigMemoryThreshold
or more cores than --bigCpuThreshold, or if it cannot fit into the first one at all. Each has bundles, measurements and
limits of its own; --limit holds for both together.

Memory is compared as shapes have it, in steps of at most 12 % upwards: which of the two a job goes to is a matter of
its shape, so that a bundle never holds jobs for both.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Callable, Optional

from batchsystems.abstract import AbstractBatchSystem, Submission
from jobtree import clock, countable
from jobtree.bundles import RunningBundle
from jobtree.collected import Collected
from jobtree.environment import Environment
from jobtree.events import State
from jobtree.limits import Limits
from jobtree.options import Settings
from jobtree.packing import Packer, cores_of, memory_of
from jobtree.paths import TreePaths
from jobtree.quantities import format_memory
from jobtree.services import Services
from jobtree.store import Store
from jobtree.tree import Tree

_LATE = 0.3
"""Seconds without a beginning or an end in a bundle, beyond what was expected, before idle slots take over what it has
not begun."""

_LATE_ON_A_CLUSTER = 5.0


class Lanes:
    """The packers of a start, one for each batch system; ``batches`` has these by name, the first one first.

    running: the bundles that are not over, by name. ``not_before``: jobs that wait a while before they are tried again.
    """

    def __init__(
        self,
        paths: TreePaths,
        store: Store,
        tree: Tree,
        batches: Mapping[str, AbstractBatchSystem],
        settings: Settings,
        recorded: Environment,
        run: str,
        running: dict[str, RunningBundle],
        services: Services,
    ) -> None:
        self._services = services
        self._running = running
        self.not_before: dict[int, float] = {}
        self._batches = batches
        self._settings = settings
        self._store = store
        self._tree = tree
        self._paths = paths
        self._limits = Limits(*_limits(settings, batches))
        self.packers: list[Packer] = [
            Packer(
                paths, store, tree, name, batch, settings, recorded, run, running,
                self._limits, self.not_before, self._taker(number, len(batches)), services,
            )
            for number, (name, batch) in enumerate(batches.items())
        ]  # fmt: skip

    def of(self, backend: str) -> Optional[Packer]:
        """The packer for the batch system of this name, if this start issues to it."""
        return next((packer for packer in self.packers if packer.backend == backend), None)

    def of_shape(self, shape: int) -> Packer:
        """The packer that gets the jobs of a shape."""
        return self.packers[1] if len(self.packers) > 1 and self._is_big(shape) else self.packers[0]

    def pack(
        self, collected: Collected, may_submit: Callable[[str], bool], most: Callable[[str], Optional[int]]
    ) -> list[Submission]:
        """Make bundles of what is ready, as far as there is room. Returns what to submit after the commit.

        may_submit: whether a batch system takes anything now; most: how many bundles at once, None: any number.
        """
        now = clock.elapsed()
        for id in [id for id, moment in self.not_before.items() if moment <= now]:
            del self.not_before[id]
        self._limits.keep({s for s, numbers in self._tree.counts.items() if numbers[State.READY]})
        submissions = []
        for packer in self.packers:
            if not packer.supervised:
                submissions += packer.pack(collected)
            elif may_submit(packer.backend):
                submissions += packer.pack(collected, most(packer.backend))
        if self._services and not submissions and not self.not_before:
            self._make_room(collected, may_submit)
        return submissions

    def _make_room(self, collected: Collected, may_submit: Callable[[str], bool]) -> None:
        """If nothing runs but services, and what waits does not fit beside them, stop one."""
        up = {bundle.name for bundle in self._services.bundles_up() if not bundle.recalled}
        queued = [bundle for name, bundle in self._running.items() if name not in up]
        if any(bundle.supervised or self._services.in_doubt(bundle) for bundle in queued):
            return  # a scheduler decides when it runs; or it failed, and it is not known yet whose fault that was
        for packer in self.packers:
            if not packer.supervised and not up.issuperset(packer.batch.running()):
                return
            if packer.supervised and not (packer.proved and may_submit(packer.backend)):
                return
        if queued:
            self._services.make_room({bundle.shape for bundle in queued})
            return
        waiting = {shape for packer in self.packers for shape in packer.waiting()}
        stuck = self._services.make_room(waiting) if waiting else None
        if stuck is not None:
            self.of_shape(stuck).give_up(stuck, collected)
        elif not waiting:
            self._services.start_again()

    def missing(self, shape: int) -> list[str]:
        """The services that jobs of a shape need and that are not up."""
        return [self._services.describe(job) for job in self._services.missing(shape)]

    def running_bundle(self, number: int, name: str, shape: int, size: int, offset: int) -> RunningBundle:
        """The record of a bundle that is, or is about to be, submitted."""
        return self.packers[0].running_bundle(number, name, shape, size, offset)

    def idle(self) -> list[Packer]:
        """Those with room and nothing to fill it with; what no bundle may be made of now does not count."""
        return [
            packer
            for packer in self.packers
            if packer.ready() <= len(self.not_before) and packer.batch.queue_room() > 0
        ]

    def is_late(self, bundle: RunningBundle, now: float, idle: Sequence[Packer]) -> bool:
        """Whether idle slots are to take over what a bundle has not begun."""
        waiting = len(self._tree.bundles.get(bundle.id, ())) - (bundle.current is not None)
        if waiting <= 0 or not bundle.started_any or self.of_shape(bundle.shape) not in idle:
            return False
        patience = _LATE_ON_A_CLUSTER if bundle.supervised else _LATE
        silent = now - bundle.heard > bundle.expected + patience and now - bundle.current_since > patience
        return silent or (bundle.supervised and self._drags_on(bundle, now, waiting))

    def _drags_on(self, bundle: RunningBundle, now: float, waiting: int) -> bool:
        """Whether one whose targets end one after the other takes longer than was thought, and will for a while."""
        taken = now - bundle.begun
        each = taken / max(1, bundle.finished)
        return taken > bundle.expected + _LATE_ON_A_CLUSTER and waiting * each > _LATE_ON_A_CLUSTER

    def largest_memory(self) -> Optional[int]:
        """The largest memory in bytes that a job can have anywhere; None if that is not known."""
        capacities = [packer.batch.capacity() for packer in self.packers]
        known = [capacity.memory for capacity in capacities if capacity is not None]
        return max(known) if len(known) == len(capacities) else None

    def learn(self) -> None:
        """Take over what earlier starts have measured."""
        for shape, stats in self._store.stats.items():
            name = self._store.shapes[shape].name
            for packer in self.packers:
                times = stats.measured.time
                packer.bundler.learn(name, times.count, times.mean or 0.0)

    def change(self, settings: Settings) -> str:
        """Other limits from now on. Returns why not, if jobs that are there could never run then; "" if it was done."""
        for number, packer in enumerate(self.packers):
            why = self._too_low(packer, settings, number == 1)
            if why:
                return why
        before, self._settings = self._settings, settings
        for number, packer in enumerate(self.packers):
            packer.settings = settings
            limits = most if packer.supervised else most_here
            if limits(settings, number == 1) != limits(before, number == 1):
                packer.batch.set_limits(*limits(settings, number == 1))
        self._limits.change(*_limits(settings, self._batches))
        return ""

    def _too_low(self, packer: Packer, settings: Settings, big: bool) -> str:
        for thing in settings.limits:
            if settings.limits[thing] != self._settings.limits.get(thing) and packer.batch.counts(thing):
                return f"{packer.backend} counts {thing} by itself, and has been told at the start how many there are"
        cpu, memory = (None, None) if packer.supervised else most_here(settings, big)
        for shape, numbers in self._tree.counts.items():
            known, (cores, size) = self._store.shapes[shape], packer.request(shape)
            lacks = [
                *([f"{cores:g} cores"] if cpu is not None and cores > cpu else []),
                *([format_memory(size)] if memory is not None and size > memory else []),
                *(
                    f"{number} {thing}"
                    for thing, number in countable.counts(known.countable).items()
                    if number > settings.limits.get(thing, number)
                ),
            ]
            if lacks and self.of_shape(shape) is packer and self._will_run(shape, numbers):
                return f"jobs of {known.name} that are to run ask for {' and '.join(lacks)}"
        return ""

    def _will_run(self, shape: int, numbers: Sequence[int]) -> bool:
        if numbers[State.READY] or numbers[State.ISSUED]:
            return True
        # What waits for its children may have nothing more to run after them.
        return any(job.shape == shape and job.has_next for job in self._tree.jobs.values())

    def _taker(self, number: int, lanes: int) -> Optional[Callable[[int], bool]]:
        return None if lanes == 1 else lambda shape: self._is_big(shape) == (number == 1)

    def _is_big(self, shape: int) -> bool:
        s = self._settings
        cpu, memory = self.packers[0].request(shape)
        if s.big_memory_threshold is not None and memory > s.big_memory_threshold:
            return True
        if s.big_cpu_threshold is not None and cpu > s.big_cpu_threshold:
            return True
        capacity = self.packers[0].batch.capacity()
        return capacity is not None and (cpu > capacity.cpu or memory > capacity.memory)


def most(settings: Settings, big: bool) -> tuple[Optional[float], Optional[int]]:
    """Cores and bytes that all jobs in one of the two batch systems may have together; None: no limit."""
    if big:
        return settings.big_max_cpus, settings.big_max_memory
    return settings.max_cpus, settings.max_memory


def most_here(settings: Settings, big: bool) -> tuple[Optional[float], Optional[int]]:
    """The same where it is this machine, which has --maxThreads too."""
    cpu, memory = most(settings, big)
    limits: list[float] = [number for number in (settings.max_threads, cpu) if number is not None]
    return min(limits, default=None), memory


def _limits(
    settings: Settings, batches: Mapping[str, AbstractBatchSystem]
) -> tuple[dict[str, float], dict[str, Optional[float]]]:
    """Of countable things anywhere, and of cores and memory in each batch system; the latter are soft."""
    soft: dict[str, Optional[float]] = {}
    for number, (name, batch) in enumerate(batches.items()):
        if batch.outlives_master:  # one that does not sees to them by itself
            cpu, memory = most(settings, number == 1)
            soft.update({cores_of(name): cpu, memory_of(name): memory})
    given = {name: number for name, number in soft.items() if number is not None}
    return {**settings.limits, **given}, soft
