"""The master's dealings with batch systems that outlive it: adopting what runs there, hearing, cancelling, avoiding.

What must hold
  - A start adopts: what the store says was submitted is looked for in the batch system that it was given to. What is
    there is waited for, queued or running; what is not there and was never claimed goes back at once. The crash between
    the commit and the submission needs nothing else.
  - What a batch system has and the store does not (an earlier master took it back) is cancelled; should it start all
    the same, it loses the claim.
  - A batch system that takes nothing now is asked again later, and for less; no job is charged for that.
  - Nothing is cancelled, and no machine is avoided, before the commit that it follows from.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Sequence
from typing import Optional

from batchsystems.abstract import BatchSystemError, End, EndKind, NeverFits, Reason, Submission
from jobtree import bundles, clock, supervisor
from jobtree.adoption import Adopter
from jobtree.backends import Backends
from jobtree.bundles import RunningBundle
from jobtree.leases import Leases, Over
from jobtree.nodes import Nodes
from jobtree.options import Settings
from jobtree.paths import TreePaths
from jobtree.quantities import format_duration
from jobtree.schema import BundleRow
from jobtree.shown import one_line

log: logging.Logger = logging.getLogger("jobtree")

REFUSALS = 3
"""After so many bundles that could not be run where they were started, and none that could, the run stops."""

_SEARCH_SECONDS = 300.0
_COMPARE_SECONDS = 20.0
"""Between tries to learn what a batch system has that could not be asked at the start."""

_PROVED_SECONDS = 1.0
_PAUSES = (1.0, 2.0, 5.0, 10.0, 30.0, 60.0)
"""Seconds between tries to submit to a batch system that refuses."""


class Cluster:
    """All supervised bundles, whatever batch systems they are in.

    ``refusal`` is what to stop the run with, if nothing can be run at all. ``proved``: where something has been run.
    """

    def __init__(
        self, paths: TreePaths, adopter: Adopter, backends: Backends, settings: Settings, run: str
    ) -> None:
        self.refusal: Optional[str] = None
        self.proved: set[str] = set()
        self._paths = paths
        self._backends = backends
        self._settings = settings
        self._run = run
        self._leases = Leases(paths, adopter, settings.grace)
        self._bundles: dict[str, RunningBundle] = {}
        self._nodes: dict[str, Nodes] = {}
        self._avoided: dict[str, frozenset[str]] = {}
        self._to_cancel: dict[str, list[str]] = {}
        self._to_forget: dict[str, list[str]] = {}
        self._refusals = 0
        self._pauses: dict[str, int] = {}
        self._paused_until: dict[str, float] = {}
        self._to_compare: dict[str, set[str]] = {}
        self._next_search = clock.elapsed() + self._search_seconds()
        self._next_compare = clock.elapsed() + _COMPARE_SECONDS

    def __len__(self) -> int:
        return len(self._bundles)

    # -- adopting and submitting -------------------------------------------------------------------------------

    def lease_of(self, row: BundleRow) -> Optional[float]:
        """The lease of a stored bundle, if it has a supervisor; None if its worker died with the master."""
        told = bundles.supervision(self._paths, row.id)
        if told is not None:
            return told.lease
        return self._settings.lease if os.path.exists(self._paths.heartbeat(row.id)) else None

    def add(self, bundle: RunningBundle, lease: Optional[float] = None) -> None:
        """A bundle that is submitted now, or was by an earlier master."""
        self._bundles[bundle.name] = bundle
        self._leases.add(bundle, lease or self._settings.lease)

    def compare(self) -> None:
        """Compare what the store knows with what the batch systems have; at the start."""
        for bundle in self._bundles.values():
            self._to_compare.setdefault(bundle.backend, set()).add(bundle.name)
        self._compare()

    def _compare(self) -> None:
        for backend, recorded in list(self._to_compare.items()):
            listed = self._backends.listed(backend, self._run)
            if listed is None:
                continue  # asked again later
            del self._to_compare[backend]
            # It may have been away for long: what has been submitted, or is over, meanwhile is none of its business.
            ours = {name for name in recorded if name in self._bundles}
            listed -= {name for name in self._bundles if name not in recorded}
            for name in sorted(ours - listed):
                self._leases.tell(End(name, EndKind.LOST, detail=f"{backend} does not know it"), charge=False)
            if listed - ours:
                self._to_cancel.setdefault(backend, []).extend(sorted(listed - ours))
            log.info(
                "%s: %d bundles of the earlier run are still queued or running there, and are waited for",
                backend, len(ours & listed),
            )  # fmt: skip

    def may_submit(self, backend: str) -> bool:
        """Whether it makes sense to hand over anything to this batch system now."""
        return clock.elapsed() >= self._paused_until.get(backend, 0.0)

    def pause(self, backend: str) -> float:
        """For how many seconds nothing is handed over to this batch system."""
        return max(0.0, self._paused_until.get(backend, 0.0) - clock.elapsed())

    def submitted(self, backend: str) -> None:
        """A batch system took what it was given."""
        self._pauses.pop(backend, None)

    def refused(self, backend: str, submissions: Sequence[Submission], error: BatchSystemError) -> None:
        """A batch system did not take these. None of them is sure not to run: the claims decide."""
        for submission in submissions:
            if isinstance(error, NeverFits) and submission.name == error.name:
                end = End(submission.name, EndKind.KILLED, reason=Reason.NEVER_FITS, detail=str(error))
                self._leases.tell(end)
            else:
                self._leases.tell(End(submission.name, EndKind.LOST, detail=str(error)), charge=False)
        if isinstance(error, NeverFits):
            return
        before = self._pauses.get(backend, 0)
        pause = _PAUSES[min(before, len(_PAUSES) - 1)]
        self._pauses[backend] = before + 1
        self._paused_until[backend] = clock.elapsed() + pause
        log.warning(
            "%s refused %d bundles: %s. They go back, and are submitted again in %s.",
            backend, len(submissions), one_line(str(error)), format_duration(pause),
        )  # fmt: skip

    def most_at_once(self, backend: str) -> Optional[int]:
        """How many submissions to make in one turn after a refusal; None: any number."""
        pauses = self._pauses.get(backend, 0)
        return max(1, 64 >> pauses) if pauses else None

    # -- hearing -----------------------------------------------------------------------------------------------

    def hear(self, end: End) -> None:
        """What a batch system says of the end of one of our bundles."""
        bundle = self._bundles.get(end.name)
        if bundle is not None and end.host and not bundle.host:
            bundle.host = end.host
        self._leases.tell(end)

    def look(self, now: float) -> tuple[list[tuple[int, int]], list[Over]]:
        """See ``Leases.look``. What is over is forgotten here."""
        if self._to_compare and now >= self._next_compare:
            self._next_compare = now + _COMPARE_SECONDS
            self._compare()
        if now >= self._next_search:
            self._next_search = now + self._search_seconds()
            self._search()
        offsets, over = self._leases.look(now)
        for ended in over:
            bundle = ended.bundle
            del self._bundles[bundle.name]
            superfluous = self._to_cancel if ended.forgotten else self._to_forget
            superfluous.setdefault(bundle.backend, []).append(bundle.name)
        for name in self._leases.overdue(now):
            self._to_cancel.setdefault(self._bundles[name].backend, []).append(name)
        for bundle in self._bundles.values():
            if bundle.backend not in self.proved and self._proves(bundle, now):
                self.proved.add(bundle.backend)
        return offsets, over

    @staticmethod
    def _proves(bundle: RunningBundle, now: float) -> bool:
        # That it cannot import the user's code would follow at once after the first line.
        running = bundle.current is not None and now - bundle.current_since > _PROVED_SECONDS
        return bundle.finished > 0 or running

    def settled(self, ended: Over, now: float) -> None:
        """A bundle that is over has been adopted to its end: learn from it about the machine that it ran on."""
        bundle, end = ended.bundle, ended.end
        nodes = self._nodes.setdefault(bundle.backend, Nodes())
        if bundle.finished:
            self.proved.add(bundle.backend)
            nodes.worked(bundle.host)
            return
        early = (
            not bundle.started_any
            and ended.charge
            and end.reason not in (Reason.CANCELLED, Reason.NEVER_FITS)
        )
        if not early or end.kind is EndKind.LOST:
            return
        refused = end.status in (supervisor.EX_UNAVAILABLE, supervisor.EX_NOINPUT)
        rest = nodes.died_early(bundle.host or end.host, now, refused)
        if rest is not None:
            log.warning(
                "bundles die on %s before they have begun: it is avoided for %s. The last one: %s",
                bundle.host or end.host, format_duration(rest), one_line(end.detail or f"exit status {end.status}"),
            )  # fmt: skip
        if refused and bundle.backend not in self.proved:
            self._refusals += 1
            if self._refusals >= REFUSALS:
                self.refusal = (
                    f"Nothing can be run by {bundle.backend}: {end.detail or f'exit status {end.status}'}\nThe same "
                    f"happened to {self._refusals} bundles, and no job has been started. What they printed is in "
                    f"{self._paths.log(bundle.id)}"
                )

    def _search_seconds(self) -> float:
        return self._settings.rescue_jobs_frequency or _SEARCH_SECONDS

    def _search(self) -> None:
        """Ask for bundles that may have been lost without a word; an absence counts when it is seen here."""
        quiet: dict[str, list[str]] = {}
        for bundle in self._leases.quiet():
            if clock.elapsed() - bundle.issued_at > self._search_seconds():
                quiet.setdefault(bundle.backend, []).append(bundle.name)
        for backend, names in quiet.items():
            listed = self._backends.listed(backend, self._run)
            for name in names if listed is not None else ():
                if listed is not None and name not in listed:
                    self._leases.tell(End(name, EndKind.LOST, detail=f"{backend} has lost it"), charge=False)

    # -- ending ------------------------------------------------------------------------------------------------

    def cancel(self, names: Iterable[str]) -> None:
        """Have these bundles ended; those that never began are removed from the queues by ``act``."""
        for name in names:
            bundle = self._bundles.get(name)
            if bundle is not None and self._leases.cancel(name):
                self._to_cancel.setdefault(bundle.backend, []).append(name)

    def withdraw(self, name: str) -> bool:
        """Take a bundle back that nobody has begun; False if it was."""
        bundle = self._bundles.get(name)
        if bundle is None or not self._leases.withdraw(name):
            return False
        self._to_cancel.setdefault(bundle.backend, []).append(name)
        return True

    def cancel_all(self) -> None:
        """Have all of them ended."""
        self.cancel(list(self._bundles))

    def act(self) -> None:
        """After the commit: cancel, say what is over, and which machines to avoid."""
        if self._to_cancel:
            to_cancel, self._to_cancel = self._to_cancel, {}
            self._backends.cancel(to_cancel, self._settings.grace)
        if self._to_forget:
            to_forget, self._to_forget = self._to_forget, {}
            self._backends.forget(to_forget)
        now = clock.elapsed()
        for backend, nodes in self._nodes.items():
            avoided = nodes.avoided(now)
            if avoided != self._avoided.get(backend, frozenset()):
                self._avoided[backend] = avoided
                batch = self._backends.of(backend)
                if batch is not None:
                    batch.avoid(avoided)
