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
from collections.abc import Sequence
from typing import Callable, NamedTuple, Optional

from batchsystems.abstract import AbstractBatchSystem, BatchSystemError, End, EndKind, Submission
from jobtree import bundles, clock, files, tempdirs
from jobtree.adoption import Adopter
from jobtree.backends import Backends, Make
from jobtree.bundles import RunningBundle
from jobtree.cluster import Cluster
from jobtree.collected import Collected
from jobtree.enforcing import Enforcer
from jobtree.enlarging import Enlarging
from jobtree.environment import Environment
from jobtree.events import State
from jobtree.explaining import Explainer
from jobtree.lanes import Lanes
from jobtree.obeying import Obeyer
from jobtree.options import Settings
from jobtree.outlook import Outlook
from jobtree.packing import Packer
from jobtree.paths import TreePaths, bundle_of_job, bundle_of_value
from jobtree.removals import Remover
from jobtree.room import Room
from jobtree.services import Services
from jobtree.sharing import Sharing
from jobtree.silence import Silence
from jobtree.steering import Steering
from jobtree.stop_signals import StopSignals
from jobtree.store import Store
from jobtree.telling import Teller
from jobtree.tree import Tree

log: logging.Logger = logging.getLogger("jobtree")

_TICK = 0.25
_TICK_IDLE = 0.05
"""Seconds between looks at what tells nothing by itself: outcome files, requests, limits. Shorter while slots idle."""

_LIMITS_SECONDS = 1.0
"""Between looks at the limits of bundles on a cluster: each asks a server for the size of a log."""

_SIGN_OFF_SECONDS = 15.0
"""So long the end of a run waits for supervisors that have nothing left to do but to sign off."""

_BACKOFF = (0.0, 0.0, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0)
"""Seconds before a job that failed for the n-th time is tried again; the first retry is immediate."""


class _Closed(NamedTuple):
    """A bundle that is over: what there is to remove of it."""

    id: int
    log_may_go: bool
    supervised: bool


class Master:
    """Runs one tree to its end, or until it is told to stop.

    batch and big are the batch systems of --batchSystem and --bigBatchSystem.
    make_backend: makes the batch systems of earlier starts, by name, if any bundle is still in them.
    sharing: with a group that may look at the tree.
    After ``run`` returns, ``stopped_by`` says why it ended early: the number of a signal, a sentence, or None; ``left``
    how many bundles go on without us, by batch system.
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
        make_backend: Optional[Make] = None,
        big: Optional[AbstractBatchSystem] = None,
        sharing: Optional[Sharing] = None,
    ) -> None:
        self.tree = tree
        self.stopped_by: int | str | None = None
        self.left: dict[str, int] = {}
        self.teller: Teller = Teller(paths.root)
        self._paths = paths
        self._store = store
        self._settings = settings
        self._run = run
        self._bundles: dict[str, RunningBundle] = {}
        batches = {settings.batch_system: batch}
        if big is not None and settings.big_batch_system is not None:
            batches[settings.big_batch_system] = big
        self._services = Services(paths, store, tree, self._bundles)
        self._lanes = Lanes(
            paths, store, tree, batches, settings, recorded, run, self._bundles, self._services
        )
        enlarging = Enlarging(
            settings.double_mem,
            settings.double_time,
            settings.default_memory,
            settings.default_time,
            self._lanes.largest_memory,
        )
        self._adopter = Adopter(
            tree, store, paths, settings.max_log_file_size, enlarging, settings.stats, self._services
        )
        self._backends = Backends(batches, make_backend)
        self._cluster = Cluster(paths, self._adopter, self._backends, settings, run)
        self._remover = Remover(paths, self._backends.wake)
        self._room = Room(paths.root, run, settings.min_free, self._bundles)
        self._enforcer = Enforcer(paths, tree, self._backends, self._cluster, settings)
        self._silence = Silence(paths, store, settings.hung_after)
        obeyer = Obeyer(paths, store, tree, settings, self._change, self._lanes.not_before)
        explainer = Explainer(
            store, tree, self._lanes, self._cluster, self._backends, self._adopter, self._bundles, self._room,
            lambda: obeyer.paused,
        )  # fmt: skip
        self.outlook: Outlook = Outlook(store, tree, self._bundles, self._room, lambda: obeyer.paused)
        self._steering = Steering(
            paths, store, explainer, obeyer, self._enforcer, self._bundles, self.stop, sharing
        )
        self._next_tick = 0.0
        self._next_limits = 0.0
        self._synced: dict[str, tuple[int, ...]] = {}
        self._ending = False
        self._undecided: list[End] = []  # of bundles that tell of a failure; not known yet whose fault

    # -- the loop ----------------------------------------------------------------------------------------------

    def recover(self) -> None:
        """Make of what an earlier master left a state from which the loop can go on. Starting is recovering.

        Whatever that master started on this machine is dead, or about to die with it.
        """
        self._steering.begin()
        self._lanes.learn()
        self._services.load()
        over = []
        self._store.begin()
        self._adopter.look_for_reboot(self._settings.durable == "full")
        for row in self._store.bundles():
            bundle = self._lanes.running_bundle(row.id, row.name, row.shape, row.size, row.offset)
            bundle.backend, bundle.created = row.backend, row.created
            lease = self._cluster.lease_of(row)
            if lease is not None:
                bundle.supervised = True
                bundle.expected = self._settings.job_time
                bundle.replay()
                self._bundles[row.name] = bundle
                lane = self._lanes.of(row.backend)
                if lane is not None:
                    lane.bundler.issued(self._store.shapes[row.shape].name)
                self._cluster.add(bundle, lease)
                continue
            # Nobody else may start these bundles from now on.
            bundles.claim(self._paths, row.id)
            bundles.wait_for_worker(self._paths, row.id)
            bundle.recount()
            self._adopter.settle(bundle, End(row.name, EndKind.LOST, detail="the master ended"), charge=False)
            over.append(_Closed(row.id, self._log_may_go(bundle), supervised=False))
        self._services.find_up()
        self._cluster.compare()
        collected = self._write_collected()
        if self._steering.obey(collected):
            self._services.load()
        self._find_untold(collected)
        self._finish(collected, over, [])
        self._adopter.trust()
        self._remover.add(self._store.removals())
        going_on = self._going_on()
        bundles.sweep(self._paths, going_on)
        tempdirs.remove_empty_groups(self._paths.global_dirs)
        tempdirs.sweep_local(self._run, going_on)

    def _going_on(self) -> set[int]:
        return {bundle.id for bundle in self._bundles.values()}

    def _find_untold(self, collected: Collected) -> None:
        """After a power cut, files can be there that were made just after a frame which was not kept: large values
        that no outcome names are removed, global temporary directories are noted with their jobs again."""
        kept = self._store.value_files()
        going_on = self._going_on()  # there is more of those than they have told yet
        for path in self._paths.existing_values():
            if path not in kept and bundle_of_value(path) not in going_on:
                collected.removals.append(path)
        for id in self._paths.existing_global_dirs():
            if not self._store.note_global_dir(id) and bundle_of_job(id) not in going_on:
                collected.removals.append(self._paths.relative_global_dir(id))

    def run(self) -> None:
        """Turn the loop until the tree is complete, nothing can progress, or the run is stopped."""
        with StopSignals(self.stop):
            timeout = 0.0
            while not self._is_over():
                self._turn(self._backends.poll(timeout))
                timeout = self._timeout()
            self._end()

    def stop(self, why: int | str) -> None:
        """End the run soon; callable from a signal handler."""
        if self.stopped_by is None:
            self.stopped_by = why
        self._backends.wake()

    def _is_over(self) -> bool:
        if self.stopped_by is not None:
            return True
        if self._settings.fail_fast and self.tree.totals[State.FAILED]:
            return True
        if self._cluster.refusal is not None:
            self.stopped_by = self._cluster.refusal
            return True
        if self._adopter.import_error is not None and not self._bundles:
            self.stopped_by = (
                f"{self._adopter.import_error}\nNothing more was issued after this happened in several workers; no "
                "target has lost a try by it."
            )
            return True
        return self.tree.stuck or self._services.nothing_left()

    def _turn(self, ends: Sequence[End]) -> None:
        self._store.begin()
        over = self._collect(ends)
        collected = self._write_collected()
        if self._steering.obey(collected):
            self._services.load()
        submissions = self._decide(collected)
        self._finish(collected, over, submissions)

    def _timeout(self) -> float:
        """Seconds to wait for the batch system: every turn issues all that can be, so only news make another useful."""
        moments = [self._next_tick]
        if self._may_issue():
            moments.extend(self._lanes.not_before.values())
        return max(0.0, min(moments) - clock.elapsed())

    def _may_issue(self) -> bool:
        if self._adopter.import_error is not None or self.stopped_by is not None:
            return False
        if self._ending or self._steering.paused or self._room.lacking:
            return False
        return not (self._settings.fail_fast and self.tree.totals[State.FAILED])

    # -- collect -----------------------------------------------------------------------------------------------

    def _decide(self, collected: Collected) -> list[Submission]:
        if not self._may_issue():
            return []
        return self._lanes.pack(collected, self._cluster.may_submit, self._cluster.most_at_once)

    def _collect(self, ends: Sequence[End]) -> list[_Closed]:
        """Read what there is to read. Returns the bundles that are over."""
        over = []
        undecided, self._undecided = self._undecided, []
        for end in [*undecided, *ends]:
            bundle = self._bundles.get(end.name)
            if bundle is None:
                continue
            if bundle.supervised:
                self._cluster.hear(end)
            elif self._adopter.is_undecided(bundle):
                self._undecided.append(end)
            else:
                over.append(self._settle(bundle, end, charge=True))
        now = clock.elapsed()
        if now >= self._next_tick:
            over += self._look_around(now)
            idle = len(self._bundles) > len(self._cluster) and not self.tree.totals[State.READY]
            self._next_tick = now + (_TICK_IDLE if idle else _TICK)
        self._enforcer.orphaned(self._services.turn())
        for text in self._services.take_news():
            self._adopter.warn(text)
        struck = self._remover.take_done()
        if struck:
            self._store.strike_removals(struck)
        return over

    def _settle(self, bundle: RunningBundle, end: End, charge: bool) -> _Closed:
        """A bundle is over: adopt what it has written."""
        del self._bundles[bundle.name]
        self._adopter.settle(bundle, end, charge)
        lane = self._lanes.of(bundle.backend) or self._lanes.of_shape(bundle.shape)
        lane.over(bundle)
        return _Closed(bundle.id, self._log_may_go(bundle), bundle.supervised)

    def _log_may_go(self, bundle: RunningBundle) -> bool:
        if bundle.failed or self._settings.keep_logs:
            return False
        # An earlier master may have told of failures in it.
        return not self._store.has_failures(bundle.name)

    def _look_around(self, now: float) -> list[_Closed]:
        """What nobody tells us of: progress inside bundles, limits crossed, bundles that are late, requests.

        Returns the supervised bundles that are over.
        """
        offsets = []
        for bundle in self._bundles.values():
            if bundle.supervised:
                continue
            if self._adopter.read(bundle):
                offsets.append((bundle.safe_offset, bundle.id))
            if not self._services.in_doubt(bundle):
                self._enforcer.look(bundle, now)
            self._silence.look(bundle, now)
        closed = self._look_at_cluster(now, offsets) if len(self._cluster) else []
        idle = self._lanes.idle() if self._bundles and not self._steering.paused else []
        if idle or self._enforcer.to_recall:
            offsets.extend(self._recall(now, idle))
        self._store.adopted(offsets)
        self._room.look(now)
        self._steering.look()
        return closed

    def _look_at_cluster(self, now: float, offsets: list[tuple[int, int]]) -> list[_Closed]:
        """Adopt what supervised bundles have written, settle those that are over."""
        read, over = self._cluster.look(now)
        offsets.extend(read)
        closed = []
        for ended in over:
            closed.append(self._settle(ended.bundle, ended.end, ended.charge))
            self._cluster.settled(ended, now)
        if now >= self._next_limits:
            self._next_limits = now + _LIMITS_SECONDS
            for bundle in self._bundles.values():
                if bundle.supervised:
                    if not self._services.in_doubt(bundle):
                        self._enforcer.look(bundle, now)
                    self._silence.look(bundle, now)
        for lane in self._lanes.packers:
            lane.proved = lane.proved or lane.backend in self._cluster.proved
        return closed

    def _recall(self, now: float, idle: Sequence[Packer]) -> list[tuple[int, int]]:
        """Take back what bundles have not begun: of those that hold jobs nobody wants any more and, where slots are
        idle and nothing is ready for them, of those that are late.

        Returns how far outcome files were read by it: (offset, bundle).
        """
        offsets = []
        unwanted, self._enforcer.to_recall = self._enforcer.to_recall, set()
        for bundle in self._bundles.values():
            late = not self._services.in_doubt(bundle) and self._lanes.is_late(bundle, now, idle)
            if not bundle.recalled and (bundle.id in unwanted or late):
                bundle.recalled = True
                bundles.recall(self._paths, bundle.id)
                if bundle.supervised:
                    continue  # its supervisor acknowledges it with a frame, and only then nothing more is started there
                # The worker says "started" before it looks for the recall; what it has not said it will not run.
                self._adopter.read(bundle)
                offsets.append((bundle.safe_offset, bundle.id))
                if self._services.in_doubt(bundle):
                    continue  # what it has said since is not read yet; what it has not begun, its end gives back
                number = self._adopter.give_back(bundle)
                log.debug("bundle %s is recalled: %d jobs taken back", bundle.name, number)
        return offsets

    def _change(self, settings: Settings) -> str:
        """Other settings from now on; or why that cannot be."""
        why = self._lanes.change(settings)
        if not why:
            self._settings = self._enforcer.settings = settings
            self._silence.hung_after = settings.hung_after
            self.tree.retry_count, self.tree.max_lost = settings.retry_count, settings.max_lost
        return why

    # -- commit and act ----------------------------------------------------------------------------------------

    def _write_collected(self) -> Collected:
        """Put what was collected into the transaction."""
        changes, collected = self._adopter.take()
        if changes or collected.returned:
            self._store.write(changes, self.tree.counts, collected.returned)
        self._adopter.recorder.write()
        collected.removals.extend(self._store.take_dropped())
        for id in changes.global_dirs:
            collected.removals.append(self._paths.relative_global_dir(id))
        now = clock.elapsed()
        for id, times in collected.retry:
            delay = _BACKOFF[min(times, len(_BACKOFF) - 1)]
            if delay:
                self._lanes.not_before[id] = now + delay
        return collected

    def _finish(
        self, collected: Collected, over: Sequence[_Closed], submissions: Sequence[Submission]
    ) -> None:
        """Commit, then act."""
        removals = self._store.note_removals(collected.removals) if collected.removals else []
        if collected.sync and self._settings.durable == "full":
            directories = (self._paths.global_dir(id) for id in sorted(collected.sync))
            files.make_durable(directories, self._synced, self._paths.global_dirs)
        supervised = [b.id for b in (self._bundles[s.name] for s in submissions) if b.supervised]
        if supervised:
            bundles.sync_names(self._paths, supervised)
        self._store.commit()
        if submissions:
            self._issue(submissions)
        self.teller.tell(collected.news)
        self._steering.answer()
        self._enforcer.act()
        self._cluster.act()
        self._remover.add(removals)
        for closed in over:
            bundles.remove_bundle(self._paths, closed.id, closed.log_may_go, closed.supervised)

    def _issue(self, submissions: Sequence[Submission]) -> None:
        for lane in self._lanes.packers:
            its_own = [s for s in submissions if self._bundles[s.name].backend == lane.backend]
            if its_own:
                self._issue_to(lane, its_own)

    def _issue_to(self, lane: Packer, submissions: Sequence[Submission]) -> None:
        if not lane.supervised:
            lane.batch.issue(submissions)
            return
        for submission in submissions:
            self._cluster.add(self._bundles[submission.name])
        try:
            lane.batch.issue(submissions)
            self._cluster.submitted(lane.backend)
        except BatchSystemError as error:
            self._cluster.refused(lane.backend, submissions, error)

    # -- the end -----------------------------------------------------------------------------------------------

    def _end(self) -> None:
        """End what still runs, unless it outlives us; adopt what was written, and note that the end was in order."""
        self._ending = True
        self._stop_services()
        if len(self._cluster) and not isinstance(self.stopped_by, int):
            self._end_cluster()
        self._backends.close()
        self._store.begin()
        over = []
        for bundle in list(self._bundles.values()):
            if not bundle.supervised or not self.tree.bundles.get(bundle.id):
                end = End(bundle.name, EndKind.LOST, detail="the run was stopped")
                over.append(self._settle(bundle, end, charge=False))
        for bundle in self._bundles.values():
            self.left[bundle.backend] = self.left.get(bundle.backend, 0) + 1
        collected = self._write_collected()
        self._store.set("ended", "complete" if self.tree.complete else "in order")
        self._finish(collected, over, [])
        self._remover.close()
        self._store.begin()
        self._store.strike_removals(self._remover.take_done())
        self._store.commit()
        bundles.sweep(self._paths, self._going_on())
        self._steering.close()
        self.tree.check_invariants()

    def _end_cluster(self) -> None:
        """End what nobody will wait for, and adopt what comes of it; what takes too long is left to the next start."""
        seconds = min(_SIGN_OFF_SECONDS, self._settings.lease)
        if self.tree.totals[State.ISSUED]:
            self._store.begin()
            self._cluster.cancel_all()
            self._store.commit()
            seconds += self._settings.grace
        self._wait_for(lambda: len(self._cluster) > 0, seconds)

    def _stop_services(self) -> None:
        """Have services stop in order that would end now, after those that use them."""
        everywhere = not isinstance(self.stopped_by, int)
        services = {bundle.name for bundle in self._services.bundles_up(everywhere)}
        others = {b.name for b in self._bundles.values() if everywhere or not b.supervised} - services
        if not services:
            return
        self._enforcer.orphaned(self._bundles[name] for name in others)
        self._wait_for(lambda: not others.isdisjoint(self._bundles), self._settings.grace)
        self._services.stop(self._bundles[name] for name in services & self._bundles.keys())
        self._wait_for(lambda: not services.isdisjoint(self._bundles), self._settings.grace)

    def _wait_for(self, going_on: Callable[[], bool], seconds: float) -> None:
        """Turn on, so long at most, while this is going on; nothing is issued any more."""
        deadline = clock.elapsed() + seconds
        while going_on() and clock.elapsed() < deadline:
            self._turn(self._backends.poll(self._timeout()))
