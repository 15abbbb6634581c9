"""Ending workers: of targets that cross a limit, of those that somebody wants killed, and of those that nobody wants
any more because their job was forgotten or marked as done.

What must hold
  - What is ended is a worker, and what is meant is the attempt that runs in it. Both are noted, because the next target
    may have begun before the signal arrives: that one is then given back, and nobody is charged for it.
  - Nothing is ended before the commit that it follows from.
  - That an attempt is not wanted follows from the tree alone (its job is no more, or is at another attempt), so it is
    found again by a master that starts between the commit and the end.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Optional

from jobtree.adoption import judgement_of_limit
from jobtree.backends import Backends
from jobtree.blame import Judgement, Verdict
from jobtree.bundles import RunningBundle
from jobtree.cluster import Cluster
from jobtree.events import State
from jobtree.options import Settings
from jobtree.paths import TreePaths
from jobtree.tree import Tree

_GIVES_BACK_SECONDS = 10.0


class Enforcer:
    """Looks at bundles, and ends their workers after the commit. ``settings`` may be replaced while it runs.

    ``to_recall``: numbers of bundles that hold jobs which are not wanted and have not begun.
    """

    def __init__(
        self, paths: TreePaths, tree: Tree, backends: Backends, cluster: Cluster, settings: Settings
    ) -> None:
        self.settings = settings
        self.to_recall: set[int] = set()
        self._paths = paths
        self._tree = tree
        self._backends = backends
        self._cluster = cluster
        self._to_end: list[RunningBundle] = []
        self._to_hold_back: list[RunningBundle] = []

    def look(self, bundle: RunningBundle, now: float) -> None:
        """Have the worker ended if its target is not wanted, has run too long or printed too much."""
        if bundle.enforced is not None or bundle.current is None:
            return
        seconds = now - bundle.current_since
        # A worker that is recalled says of one more that it has begun, before it sees that, gives it back, and ends.
        gives_back = bundle.recalled and seconds < _GIVES_BACK_SECONDS
        judgement = (None if gives_back else self._unwanted(bundle)) or self._crossed(bundle, seconds)
        if judgement is not None:
            self.end(bundle, judgement)

    def end(self, bundle: RunningBundle, judgement: Judgement) -> None:
        """Have a worker ended because of the target that it runs now, which is judged so."""
        assert bundle.current is not None
        bundle.enforced = (bundle.current, judgement)
        self._to_end.append(bundle)

    def dropped(self, bundles: Iterable[RunningBundle]) -> None:
        """Jobs of these bundles are not wanted any more: end those that run them, take back what was not begun."""
        for bundle in bundles:
            judgement = self._unwanted(bundle) if bundle.current is not None else None
            if judgement is not None and bundle.enforced is None:
                self.end(bundle, judgement)
            elif bundle.current is None and not self._tree.bundles.get(bundle.id) and not bundle.started_any:
                self._to_end.append(bundle)
            elif not bundle.recalled:
                self.to_recall.add(bundle.id)

    def orphaned(self, bundles: Iterable[RunningBundle]) -> None:
        """A service that the jobs of these bundles need is gone: end the workers, at nobody's charge."""
        for bundle in bundles:
            bundle.orphaned = True
            self._to_end.append(bundle)

    def hold_back(self, bundles: Iterable[RunningBundle]) -> None:
        """Nothing more is to begin: take back what these bundles have not begun, after the commit. Services go on."""
        self._to_hold_back = [
            bundle
            for bundle in bundles
            if not bundle.recalled and bundle.enforced is None and bundle.serves is None
        ]

    def act(self) -> None:
        """After the commit."""
        to_hold_back, self._to_hold_back = self._to_hold_back, []
        self.to_recall.update(bundle.id for bundle in to_hold_back if not self._withdrawn(bundle))
        to_end, self._to_end = self._to_end, []
        self._cluster.cancel(bundle.name for bundle in to_end if bundle.supervised)
        for bundle in to_end:
            if not bundle.supervised:
                self._backends.cancel({bundle.backend: [bundle.name]}, self.settings.grace)

    def _withdrawn(self, bundle: RunningBundle) -> bool:
        """Take a bundle out of the queue that it waits in. False if it may have begun."""
        if bundle.started_any:
            return False
        if bundle.supervised:
            return self._cluster.withdraw(bundle.name)
        batch = self._backends.of(bundle.backend)
        if batch is None or bundle.name in batch.running():
            return False
        batch.cancel([bundle.name])
        return True

    def _unwanted(self, bundle: RunningBundle) -> Optional[Judgement]:
        assert bundle.current is not None
        id, attempt = bundle.current
        job = self._tree.jobs.get(id)
        if job is not None and job.state is State.ISSUED and job.attempt == attempt:
            return None
        return Judgement(Verdict.LOSS, "forgotten", "its job is not wanted any more")

    def _crossed(self, bundle: RunningBundle, seconds: float) -> Optional[Judgement]:
        """The limit that the bundle's running target has crossed, as what it is judged for; None if none."""
        limit = self.settings.max_job_duration
        if limit is not None and seconds > limit and bundle.serves is None:
            return judgement_of_limit("time", f"the target ran longer than --maxJobDuration ({limit:g} s)")
        try:
            printed = os.stat(self._paths.log(bundle.id)).st_size - bundle.log_start
        except OSError:
            return None
        if printed > self.settings.max_output:
            text = f"the target printed more than --maxOutput ({self.settings.max_output} bytes)"
            return judgement_of_limit("output", text)
        return None
