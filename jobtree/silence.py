"""Targets that have gone silent: for longer than --hungAfter nothing was heard of them.

Heard of is a target that reports its progress (``reportProgress``), sends a line (``logToMaster``) or prints. One that
is silent for too long is marked as hung where running targets are shown, and that is said once. Nothing else is done to
it: only its author knows whether it computes. It can be ended (jobTreeRun --killJob), and for what is to be ended by
itself there is --maxJobDuration.

Time is the master's: from when it read of it. A master that starts anew, and finds targets that run on a cluster,
begins to count then.
"""

from __future__ import annotations

import logging
import os
from typing import Optional

from jobtree.bundles import RunningBundle, Said
from jobtree.paths import TreePaths, job_name
from jobtree.quantities import format_duration
from jobtree.shown import one_line
from jobtree.store import Store

log: logging.Logger = logging.getLogger("jobtree")


class Silence:
    """Looks at bundles. hung_after: seconds; None: nothing is looked for. It may be replaced while a run is on."""

    def __init__(self, paths: TreePaths, store: Store, hung_after: Optional[float]) -> None:
        self.hung_after = hung_after
        self._paths = paths
        self._store = store

    def look(self, bundle: RunningBundle, now: float) -> None:
        """Mark the target that runs in a bundle as hung, or as heard of again."""
        if bundle.current is None:
            return
        limit = self.hung_after
        if limit is None:
            if bundle.said is not None:
                bundle.said.hung = False
            return
        if now - bundle.current_since <= limit:
            return  # so it has not been silent for that long either
        said = bundle.said = bundle.said or Said(bundle.log_start)
        self._listen(bundle, said, now)
        hung = now - last_heard(bundle) > limit
        if hung != said.hung:
            said.hung = hung
            self._tell(bundle, hung, limit)

    def _listen(self, bundle: RunningBundle, said: Said, now: float) -> None:
        try:
            printed = os.stat(self._paths.log(bundle.id)).st_size
        except OSError:
            return
        if printed != said.printed:
            said.printed, said.moment = printed, now

    def _tell(self, bundle: RunningBundle, hung: bool, limit: float) -> None:
        assert bundle.current is not None
        name = job_name(bundle.current[0])
        what = f"job {name} ({one_line(self._store.shapes[bundle.shape].name)})"
        if hung:
            log.warning(
                "nothing was heard of %s for %s (--hungAfter): it may hang. To end it: jobTreeRun --killJob %s",
                what, format_duration(limit), name,
            )  # fmt: skip
        else:
            log.info("%s is heard of again", what)


def last_heard(bundle: RunningBundle) -> float:
    """When something was heard of the target that runs in a bundle, on ``clock.elapsed``."""
    return max(bundle.current_since, bundle.said.moment if bundle.said is not None else 0.0)
