"""Notes what targets and workers have used, as their outcomes are adopted; ``jobtree.records`` says where it goes.

Everything comes together in memory and is written by ``write`` into the transaction that adopts the outcomes. Only what
the state machine takes for current is noted here, so nothing counts twice.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Optional

from batchsystems.abstract import End
from jobtree import clock
from jobtree.bundles import RunningBundle
from jobtree.events import Job
from jobtree.records import TargetRow, WorkerRow
from jobtree.store import Store
from jobtree.tree import Tree


class Recorder:
    """The master's notes of one turn. host: where workers without a supervisor run; detailed: --stats."""

    def __init__(self, tree: Tree, store: Store, host: str, detailed: bool) -> None:
        self._tree = tree
        self._store = store
        self._host = host
        self._detailed = detailed
        self._shapes: set[int] = set()
        self._targets: list[TargetRow] = []
        self._workers: list[tuple[WorkerRow, float, int]] = []

    def succeeded(self, bundle: RunningBundle, job: Job, measures: Sequence[Any]) -> None:
        """A target ended well; before the tree hears of it. measures: as ``frames.Measures`` has them."""
        self._store.stats[job.shape].add(measures)
        self._shapes.add(job.shape)
        if self._detailed:
            self._note(bundle, job, measures, None)

    def failed(self, bundle: RunningBundle, job: Job, kind: str, measures: Optional[Sequence[Any]]) -> None:
        """A target failed, or took its worker along; the same. measures None: it had not begun."""
        stats = self._store.stats[job.shape]
        stats.failures += 1
        self._shapes.add(job.shape)
        if measures is not None:
            stats.in_vain += measures[0]
            if self._detailed:
                self._note(bundle, job, measures, kind)

    def died(self, bundle: RunningBundle, end: End) -> tuple[float, float, int, bool]:
        """The measures of the target that was running when its worker died: its time as the master has seen it."""
        measures = (max(0.0, clock.elapsed() - bundle.current_since), 0.0, end.peak_memory or 0, False)
        bundle.work.ended(measures, failed=True)
        return measures

    def over(self, bundle: RunningBundle, end: End) -> None:
        """A worker is over; nothing if it has not run anything."""
        work = bundle.work
        if work.first is None:
            return
        host = bundle.host if bundle.supervised else self._host
        row = WorkerRow(
            bundle.id, host, bundle.backend, bundle.shape, bundle.created, work.first, max(work.first, work.last),
            work.targets, work.failures, work.busy,
        )  # fmt: skip
        cpu = work.cpu if end.cpu_seconds is None else end.cpu_seconds
        self._workers.append((row, cpu, max(work.memory, end.peak_memory or 0)))

    def write(self) -> None:
        """Put what has come together into the transaction."""
        if self._shapes or self._workers:
            self._store.write_stats(self._shapes, self._targets, self._workers)
            self._shapes, self._targets, self._workers = set(), [], []

    def _note(self, bundle: RunningBundle, job: Job, measures: Sequence[Any], failed: Optional[str]) -> None:
        parent = self._tree.jobs.get(job.parent)
        wall, cpu, memory, _ = measures
        self._targets.append(
            TargetRow(
                job.id,
                job.attempt,
                job.step,
                job.parent,
                0 if parent is None else parent.step,
                job.shape,
                bundle.id,
                bundle.work.began,
                wall,
                cpu,
                memory,
                failed,
            )  # fmt: skip
        )
