"""The master: one loop of collect, decide, commit, act.

One turn of the loop
  collect   what workers have written down, what the batch system says has ended, what commands have requested
  decide    the tree turns that into changes; ready jobs are packed into bundles
  commit    all of it in one transaction, durable when it returns - and before it, what targets have left in global
            temporary directories
  act       submit the bundles, tell the news, remove what is superfluous

What must hold
  - Nothing is issued, removed or told before the commit that it follows from. The files of a new bundle are written
    before the commit (nobody looks at them), its submission comes after it, under the name that was committed.
  - Crashing is allowed anywhere: ``recover`` at the start is the only clean-up there is.
  - The loop never looks at all jobs. A turn costs what has happened since the last one.

How it fails: StorageError ends the loop at once, without another word to the disk. Everything else that goes wrong is
news about a job.
"""

from __future__ import annotations

import logging
import os
import signal
import threading
from collections.abc import Iterator, Sequence
from types import FrameType
from typing import Any, Optional

from batchsystems.abstract import AbstractBatchSystem, End, EndKind, NeverFits, Resources, Submission
from jobtree import bundles, clock, files, frames, launcher, tempdirs
from jobtree.adoption import Adopter, Collected, News, judgement_of_limit, tell
from jobtree.blame import Judgement
from jobtree.bundles import RunningBundle
from jobtree.bundling import Bundler
from jobtree.environment import Environment
from jobtree.events import Job, State
from jobtree.frames import BundleHeader, BundleJob, Failure
from jobtree.options import Settings
from jobtree.paths import TreePaths
from jobtree.removals import Remover
from jobtree.report import describe_failure
from jobtree.requests import Requests
from jobtree.schema import BundleRow, FailureRow
from jobtree.store import Store
from jobtree.tree import Tree

log = logging.getLogger("jobtree")

GOAL_SECONDS = 0.1
"""What a bundle on this machine should take: long against the few ms that it costs, short for who waits for it."""

_TICK = 0.25
_TICK_IDLE = 0.05
"""Seconds between looks at what tells nothing by itself: outcome files, requests, limits. Shorter while slots idle."""

_MOST_SLOTS = 256
"""However little a job asks for, no more run at once on one machine (each costs descriptors and a process)."""

_LATE = 0.3
"""Seconds without news from a bundle, beyond what was expected, before idle slots take over what it has not begun."""

_BACKOFF = (0.0, 0.0, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0)
"""Seconds before a job that failed for the n-th time is tried again; the first retry is immediate."""


class Master:
    """Runs one tree to its end, or until it is told to stop.

    After ``run`` returns, ``stopped_by`` says why it ended early: the number of a signal, a sentence, or None.
    """

    def __init__(
        self,
        paths: TreePaths,
        store: Store,
        tree: Tree,
        batch: AbstractBatchSystem,
        settings: Settings,
        recorded: Environment,
        run: str,
    ) -> None:
        self.tree = tree
        self.stopped_by: int | str | None = None
        self._paths = paths
        self._store = store
        self._batch = batch
        self._settings = settings
        self._recorded = recorded
        self._run = run
        self._adopter = Adopter(tree, store, paths, settings.max_log_file_size)
        self._bundler = Bundler(GOAL_SECONDS, settings.isolate)
        self._bundles: dict[str, RunningBundle] = {}
        self._not_before: dict[int, float] = {}
        self._remover = Remover(paths, batch.wake)
        self._requests = Requests(paths)
        self._next_tick = 0.0
        self._synced: dict[str, tuple[int, ...]] = {}
        self._last_shape = 0

    # -- the loop ----------------------------------------------------------------------------------------------

    def recover(self) -> None:
        """Make of what an earlier master left a state from which the loop can go on. Starting is recovering.

        Whatever that master started on this machine is dead, or about to die with it.
        """
        self._requests.discard()
        for shape, stats in self._store.stats.items():
            name = self._store.shapes[shape].name
            self._bundler.learn(name, stats.succeeded, stats.wall / max(1, stats.succeeded))
        over = []
        self._store.begin()
        for row in self._store.bundles():
            # Nobody else may start these bundles from now on.
            bundles.claim(self._paths, row.id)
            bundles.wait_for_worker(self._paths, row.id)
            bundle = self._running(row.id, row.name, row.shape, row.size, row.offset)
            self._adopter.settle(bundle, End(row.name, EndKind.LOST, detail="the master ended"), charge=False)
            over.append((row.id, self._log_may_go(bundle)))
        collected = self._write_collected()
        self._find_untold(collected)
        self._finish(collected, over, [])
        self._adopter.trust()
        self._remover.add(self._store.removals())
        bundles.sweep(self._paths, set())
        tempdirs.sweep_local(self._run)

    def _find_untold(self, collected: Collected) -> None:
        """After a power cut, files can be there that were made just after a frame which was not kept: large values
        that no outcome names are removed, global temporary directories are noted with their jobs again."""
        kept = self._store.value_files()
        for path in self._paths.existing_values():
            if path not in kept:
                collected.removals.append(path)
        for id in self._paths.existing_global_dirs():
            if not self._store.note_global_dir(id):
                collected.removals.append(os.path.relpath(self._paths.global_dir(id), self._paths.root))

    def run(self) -> None:
        """Turn the loop until the tree is complete, nothing can progress, or the run is stopped."""
        with _Signals(self.stop):
            timeout = 0.0
            while not self._is_over():
                self._turn(self._batch.poll(timeout))
                timeout = self._timeout()
            self._end()

    def stop(self, why: int | str) -> None:
        """End the run soon; callable from a signal handler."""
        if self.stopped_by is None:
            self.stopped_by = why
        self._batch.wake()

    def _is_over(self) -> bool:
        if self.stopped_by is not None:
            return True
        if self._settings.fail_fast and self.tree.totals[State.FAILED]:
            return True
        if self._adopter.import_error is not None and not self._bundles:
            self.stopped_by = (
                f"{self._adopter.import_error}\nNothing more was issued after this happened in several workers; no "
                "target has lost a try by it."
            )
            return True
        return self.tree.stuck

    def _turn(self, ends: Sequence[End]) -> None:
        self._store.begin()
        over = self._collect(ends)
        collected = self._write_collected()
        submissions = self._decide(collected)
        self._finish(collected, over, submissions)

    def _timeout(self) -> float:
        """Seconds to wait for the batch system: every turn issues all that can be, so only news make another useful."""
        moments = [self._next_tick]
        if self._may_issue():
            moments.extend(self._not_before.values())
        return max(0.0, min(moments) - clock.elapsed())

    def _may_issue(self) -> bool:
        if self._adopter.import_error is not None or self.stopped_by is not None:
            return False
        return not (self._settings.fail_fast and self.tree.totals[State.FAILED])

    # -- collect -----------------------------------------------------------------------------------------------

    def _collect(self, ends: Sequence[End]) -> list[tuple[int, bool]]:
        """Read what there is to read. Returns the bundles that are over, and whether their logs may go."""
        over = []
        for end in ends:
            bundle = self._bundles.pop(end.name, None)
            if bundle is None:
                continue
            self._adopter.settle(bundle, end)
            self._bundler.over(self._store.shapes[bundle.shape].name, bundle.finished, bundle.seconds)
            over.append((bundle.id, self._log_may_go(bundle)))
        now = clock.elapsed()
        if now >= self._next_tick:
            self._look_around(now)
            idle = self._bundles and not self.tree.totals[State.READY]
            self._next_tick = now + (_TICK_IDLE if idle else _TICK)
        struck = self._remover.take_done()
        if struck:
            self._store.strike_removals(struck)
        return over

    def _log_may_go(self, bundle: RunningBundle) -> bool:
        if bundle.failed or self._settings.keep_logs:
            return False
        # An earlier master may have told of failures in it.
        return not self._store.has_failures(bundle.name)

    def _look_around(self, now: float) -> None:
        """What nobody tells us of: progress inside bundles, limits crossed, bundles that are late, requests."""
        offsets = []
        for bundle in self._bundles.values():
            if self._adopter.read(bundle):
                offsets.append((bundle.safe_offset, bundle.id))
            self._enforce_limits(bundle, now)
        nothing_to_issue = self.tree.totals[State.READY] <= len(self._not_before)
        if self._bundles and nothing_to_issue and self._batch.queue_room() > 0:
            offsets.extend(self._recall_late(now))
        self._store.adopted(offsets)
        for request in self._requests.take():
            if request.kind == "kill":
                self.stop(f"stopped by jobTreeKill ({request.by})")

    def _enforce_limits(self, bundle: RunningBundle, now: float) -> None:
        """End a worker whose target has run too long or printed too much."""
        if bundle.enforced is not None or bundle.current is None:
            return
        judgement = self._crossed(bundle, now - bundle.current_since)
        if judgement is not None:
            bundle.enforced = (bundle.current, judgement)
            self._batch.cancel([bundle.name], self._settings.grace)

    def _crossed(self, bundle: RunningBundle, seconds: float) -> Optional[Judgement]:
        """The limit that the bundle's running target has crossed, as what it is judged for; None if none."""
        limit = self._settings.max_job_duration
        if limit is not None and seconds > limit:
            return judgement_of_limit("time", f"the target ran longer than --maxJobDuration ({limit:g} s)")
        try:
            printed = os.stat(self._paths.log(bundle.id)).st_size - bundle.log_start
        except OSError:
            return None
        if printed > self._settings.max_output:
            text = f"the target printed more than --maxOutput ({self._settings.max_output} bytes)"
            return judgement_of_limit("output", text)
        return None

    def _recall_late(self, now: float) -> list[tuple[int, int]]:
        """Slots are idle and nothing is ready: take back what late bundles have not begun.

        Returns how far outcome files were read by it: (offset, bundle).
        """
        offsets = []
        for bundle in self._bundles.values():
            waiting = len(self.tree.bundles.get(bundle.id, ())) - (bundle.current is not None)
            late = now - bundle.heard > bundle.expected + _LATE and now - bundle.current_since > _LATE
            if waiting > 0 and late and not bundle.recalled and bundle.started_any:
                bundle.recalled = True
                bundles.recall(self._paths, bundle.id)
                # The worker says "started" before it looks for the recall; what it has not said it will not run.
                self._adopter.read(bundle)
                offsets.append((bundle.safe_offset, bundle.id))
                number = self._adopter.give_back(bundle)
                log.debug("bundle %s is late: %d jobs taken back", bundle.name, number)
        return offsets

    # -- decide ------------------------------------------------------------------------------------------------

    def _candidates(self) -> Iterator[tuple[int, int]]:
        """Shapes with READY jobs of which a bundle may be made now, and how large; in turn, so that none starves."""
        shapes = sorted(s for s, numbers in self.tree.counts.items() if numbers[State.READY])
        first = next((i for i, s in enumerate(shapes) if s > self._last_shape), 0)
        for shape in shapes[first:] + shapes[:first]:
            name, waiting = self._store.shapes[shape].name, self.tree.counts[shape][State.READY]
            most = self._bundler.size(name, waiting, self._slots(shape))
            if most:
                yield shape, most

    def _slots(self, shape: int) -> int:
        """How many jobs of a shape can run at once."""
        capacity = self._batch.capacity()
        if capacity is None:
            return 100
        cpu, memory = self._request(shape)
        fits = [_MOST_SLOTS]
        if cpu > 0:
            fits.append(int(capacity.cpu / cpu + 1e-6))
        if memory > 0:
            fits.append(capacity.memory // memory)
        return max(1, min(fits))

    def _request(self, shape: int) -> tuple[float, int]:
        """Cores and bytes that the jobs of a shape ask for, with the defaults where they do not say."""
        known = self._store.shapes[shape]
        return known.cpu or self._settings.default_cpu, known.memory or self._settings.default_memory

    def _decide(self, collected: Collected) -> list[Submission]:
        """Make bundles of what is ready, as far as there is room. Returns what to submit after the commit."""
        submissions: list[Submission] = []
        if not self._may_issue():
            return submissions
        now = clock.elapsed()
        if self._not_before:
            self._not_before = {id: moment for id, moment in self._not_before.items() if moment > now}
        room = self._batch.queue_room()
        made = True
        while made and len(submissions) < room and self.tree.totals[State.READY]:
            made = False
            for shape, most in list(self._candidates()):
                submission = self._make_bundle(shape, most, collected)
                if submission is not None:
                    submissions.append(submission)
                    self._last_shape = shape
                    made = True
                if len(submissions) >= room:
                    break
        return submissions

    def _make_bundle(self, shape: int, most: int, collected: Collected) -> Optional[Submission]:
        """Pack ready jobs of a shape into a new bundle: its file is written, its row and its jobs' are in the
        transaction. None if there is none to issue now."""
        rows = self._choose(shape, most, collected)
        if not rows:
            return None
        known = self._store.shapes[shape]
        cpu, _ = self._request(shape)
        memory = max(job.memory for job, _ in rows) or self._settings.default_memory
        number = self._store.take_bundle_number()
        name = f"{self._run}.{number}"
        bundle = self._running(number, name, shape, len(rows), 0)
        bundle.expected = sum(self._bundler.expected(known.name, job.time) for job, _ in rows)
        self.tree.issued(number, [job for job, _ in rows])
        header = self._header(number, len(rows), memory, cpu)
        values = self._store.values_of_jobs([job.id for job, _ in rows])
        default = self._settings.default_memory
        jobs = [
            BundleJob(
                job.id,
                job.attempt,
                job.step,
                job.memory or default,
                cpu,
                job.time,
                payload,
                values.get(job.id, {}),
            )
            for job, payload in rows
        ]
        bundles.write_bundle(self._paths, header, jobs)
        self._store.write(self.tree.take_changes(), self.tree.counts)
        self._store.new_bundle(
            BundleRow(number, name, self._settings.batch_system, shape, len(rows), 0, clock.wall(), None)
        )
        self._bundles[name] = bundle
        self._bundler.issued(known.name)
        return Submission(
            name, tuple(launcher.command("worker", self._paths.root, str(number))), Resources(cpu, memory)
        )

    def _choose(self, shape: int, most: int, collected: Collected) -> list[tuple[Job, bytes]]:
        """The oldest READY jobs of a shape that go into one bundle."""
        after = 0
        while True:
            limit = most + len(self._not_before)
            page = self._store.ready(shape, after, limit)
            rows = [
                row
                for row in page
                if row[0].id not in self._not_before and not self._never_fits(row[0], collected)
            ]
            if rows or len(page) < limit:
                break
            after = page[-1][0].id
        for index, (job, _) in enumerate(rows):
            if job.alone:
                # It is suspected of killing its worker: nobody shares one with it.
                rows = rows[:1] if index == 0 else rows[:index]
                break
        count = self._bundler.cut(self._store.shapes[shape].name, (job.time for job, _ in rows), most)
        return rows[:count]

    def _never_fits(self, job: Job, collected: Collected) -> bool:
        """Give a READY job up if it asks for more than there will ever be."""
        capacity = self._batch.capacity()
        if capacity is None:
            return False
        shape = self._store.shapes[job.shape]
        cpu, _ = self._request(job.shape)
        memory = job.memory or self._settings.default_memory
        if cpu <= capacity.cpu and memory <= capacity.memory:
            return False
        if memory > capacity.memory:
            error = NeverFits(shape.name, "memory", memory, capacity.memory)
        else:
            error = NeverFits(shape.name, "cores", cpu, capacity.cpu)
        self.tree.never_fits(job)
        failure = Failure("resources", str(error), "", "", 0, 0)
        row = FailureRow(job.id, job.attempt, shape.name, failure, None, None, None, clock.wall())
        self._store.note_failure(row)
        collected.news.append(News(logging.CRITICAL, describe_failure(row, True)))
        self._store.write(self.tree.take_changes(), self.tree.counts)
        return True

    def _header(self, number: int, count: int, memory: int, cpu: float) -> BundleHeader:
        s = self._settings
        return BundleHeader(
            frames.VERSION, self._run, number, count, memory, cpu, s.job_time, s.max_log_file_size, s.keep_logs,
            s.durable == "full", s.isolate, self.tree.with_global_dir > 0, s.effective_log_level, s.default_memory,
            s.default_cpu,
        )  # fmt: skip

    def _running(self, number: int, name: str, shape: int, size: int, offset: int) -> RunningBundle:
        return RunningBundle(number, name, shape, size, self._paths.outcome(number), offset, clock.elapsed())

    # -- commit and act ----------------------------------------------------------------------------------------

    def _write_collected(self) -> Collected:
        """Put what was collected into the transaction."""
        changes, collected = self._adopter.take()
        if changes or collected.returned:
            self._store.write(changes, self.tree.counts, collected.returned)
        if collected.shapes:
            self._store.write_stats(collected.shapes)
        collected.removals.extend(self._store.take_dropped())
        for id in changes.global_dirs:
            collected.removals.append(os.path.relpath(self._paths.global_dir(id), self._paths.root))
        now = clock.elapsed()
        for id, times in collected.retry:
            delay = _BACKOFF[min(times, len(_BACKOFF) - 1)]
            if delay:
                self._not_before[id] = now + delay
        return collected

    def _finish(
        self, collected: Collected, over: Sequence[tuple[int, bool]], submissions: Sequence[Submission]
    ) -> None:
        """Commit, then act."""
        removals = self._store.note_removals(collected.removals) if collected.removals else []
        if collected.sync and self._settings.durable == "full":
            files.make_durable((self._paths.global_dir(id) for id in sorted(collected.sync)), self._synced)
        self._store.commit()
        if submissions:
            self._batch.issue(submissions)
        tell(collected.news)
        self._remover.add(removals)
        for number, log_too in over:
            bundles.remove_bundle(self._paths, number, log_too)

    def _end(self) -> None:
        """End what still runs, adopt what it has written, and note that the end was in order."""
        self._batch.close()
        self._store.begin()
        over = []
        for bundle in self._bundles.values():
            self._adopter.settle(
                bundle, End(bundle.name, EndKind.LOST, detail="the run was stopped"), charge=False
            )
            over.append((bundle.id, self._log_may_go(bundle)))
        self._bundles.clear()
        collected = self._write_collected()
        self._store.set("ended", "complete" if self.tree.complete else "in order")
        self._finish(collected, over, [])
        self._remover.close()
        self._store.begin()
        self._store.strike_removals(self._remover.take_done())
        self._store.commit()
        bundles.sweep(self._paths, set())
        self._requests.discard()
        self.tree.check_invariants()


class _Signals:
    """While a run is going on, SIGINT, SIGTERM and SIGHUP stop it in order; afterwards everything is as before."""

    def __init__(self, stop: Any) -> None:
        self._stop = stop
        self._previous: list[tuple[int, Any]] = []

    def __enter__(self) -> None:
        if threading.current_thread() is not threading.main_thread():
            return  # only the main thread may set handlers; a run in another one is stopped by jobTreeKill
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            if signal.getsignal(number) is not signal.SIG_IGN:  # nohup means what it says
                self._previous.append((number, signal.signal(number, self._handle)))

    def _handle(self, number: int, _: Optional[FrameType]) -> None:
        self._stop(number)

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous:
            signal.signal(number, handler)
