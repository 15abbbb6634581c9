"""What commands ask of the running master, and what it does about it. How it travels is in ``jobtree.requests``.

What must hold
  - Requests are obeyed inside the turn's transaction and answered after its commit; questions are answered after it.
  - An answer tells of what is on the disk. A master that dies in between has done what was asked, or not; whoever
    asked sees that it is gone, and looks.
  - Requests that change the course of the run (jobtree.steering_requests) outlive a master: what it has not obeyed the
    next one does, before it issues anything.
"""

from __future__ import annotations

import logging
import shlex
from collections.abc import Mapping
from typing import Callable, Optional

from jobtree import clock, published, steering_requests
from jobtree.adoption import judgement_of_limit
from jobtree.bundles import RunningBundle
from jobtree.collected import Collected
from jobtree.contents import RunningJob
from jobtree.enforcing import Enforcer
from jobtree.explaining import Explainer
from jobtree.obeying import Obeyer
from jobtree.paths import TreePaths, job_name
from jobtree.published import Publisher
from jobtree.quantities import format_duration
from jobtree.requests import Answer, Request, Requests
from jobtree.sharing import Sharing
from jobtree.shown import one_line
from jobtree.store import Store
from jobtree.version import VERSION

log: logging.Logger = logging.getLogger("jobtree")

KILL = "kill"
"""The kind of a request to stop the run."""

_QUESTIONS = (published.QUESTION, published.LOOK, published.RUNNING, published.WHY)


class Steering:
    """The master's side. bundles: those that are not over, by name. stop: ends the run soon, and says why."""

    def __init__(
        self,
        paths: TreePaths,
        store: Store,
        explainer: Explainer,
        obeyer: Obeyer,
        enforcer: Enforcer,
        bundles: Mapping[str, RunningBundle],
        stop: Callable[[str], None],
        sharing: Optional[Sharing] = None,
    ) -> None:
        self._paths = paths
        self._requests = Requests(paths, steering_requests.KINDS)
        self._explainer = explainer
        self._obeyer = obeyer
        self._enforcer = enforcer
        self._bundles = bundles
        self._stop = stop
        self._publisher = Publisher(paths, store, self._running, sharing)
        self._taken: list[Request] = []
        self._answers: list[tuple[Request, Answer]] = []
        self._holds_back = False

    @property
    def paused(self) -> Optional[str]:
        """Who wants nothing to be issued any more; None: nobody."""
        return self._obeyer.paused

    def begin(self) -> None:
        """At the start: discard what was meant for an earlier master alone, and take the rest."""
        self._requests.discard()
        self._taken += self._requests.take_all()
        if self.paused is not None:
            log.warning(
                "the run is paused, by %s: nothing is issued until somebody says jobTreeRun --goOn %s", self.paused,
                one_line(shlex.quote(self._paths.root)),
            )  # fmt: skip

    def look(self) -> None:
        """Take what has been asked for since the last call."""
        self._taken += self._requests.take()

    def obey(self, collected: Collected) -> bool:
        """Do what has been asked for, inside the transaction, when all that came before is written. False: nothing."""
        taken, self._taken = self._taken, []
        for request in taken:
            self._answers.append((request, self._obey(request, collected)))
        if (self.paused is not None) != self._holds_back:
            self._holds_back = not self._holds_back
            self._enforcer.hold_back(self._bundles.values() if self._holds_back else ())
        dropped, self._obeyer.dropped = self._obeyer.dropped, set()
        if dropped:
            self._enforcer.dropped(bundle for bundle in self._bundles.values() if bundle.id in dropped)
        return bool(taken)

    def answer(self) -> None:
        """After the commit: answer, and publish how far the tree is."""
        answers, self._answers = self._answers, []
        for request, answer in answers:
            told = self._told(request) if request.kind in _QUESTIONS else answer
            if self._requests.answer(request, told):
                self._obeyer.answered(request)
        self._publisher.turn()

    def close(self) -> None:
        """At the end."""
        self._publisher.turn(at_once=True)
        self._requests.close()

    def _obey(self, request: Request, collected: Collected) -> Answer:
        if request.kind == KILL:
            self._stop(f"stopped by jobTreeKill ({request.by})")
            return Answer(True)
        if request.kind in _QUESTIONS:
            return Answer(True)  # its body is put together after the commit
        if self._obeyer.knows(request):
            return self._obeyer.obey(request, collected)
        if request.kind == steering_requests.KILL_JOB:
            return self._kill_job(request)
        return Answer(
            False, f"the master (jobtree {VERSION}) does not know how to {one_line(request.kind[:100])}"
        )

    def _kill_job(self, request: Request) -> Answer:
        """Done after the commit, so it is not noted in the store; asked for once more, its attempt tells."""
        try:
            id, attempt = request.number("job"), None
            if request.arguments.get("attempt") is not None:
                attempt = request.number("attempt")
        except ValueError as error:
            return Answer(False, f"The request makes no sense: {error}.")
        name = job_name(id)
        bundle = next(
            (b for b in self._bundles.values() if b.current is not None and b.current[0] == id), None
        )
        if bundle is None or bundle.current is None:
            return Answer(False, f"Job {name} is not running. See: jobTreeStatus --why {name}")
        if attempt is not None and bundle.current[1] != attempt:
            return Answer(
                False, f"Attempt {attempt} of job {name} is over; {bundle.current[1]} is running now."
            )
        if bundle.enforced is not None:
            return Answer(True, f"Its worker is being ended already: {bundle.enforced[1].message}.")
        since = format_duration(clock.elapsed() - bundle.current_since)
        text = f"killed by {one_line(request.by)} (jobTreeRun --killJob) after {since}"
        self._enforcer.end(bundle, judgement_of_limit("killed", f"the target was {text}"))
        return Answer(
            True, f"Job {name} is being killed; attempt {bundle.current[1]} counts as a failed try."
        )

    def _told(self, request: Request) -> Answer:
        if request.kind == published.RUNNING:
            return self._publisher.running()
        if request.kind == published.LOOK:
            return self._publisher.look(request.arguments)
        if request.kind == published.WHY:
            return self._why(request)
        return self._publisher.answer()

    def _why(self, request: Request) -> Answer:
        try:
            return Answer(True, self._explainer.why(request.number("job")))
        except ValueError as error:
            return Answer(False, f"The request makes no sense: {error}.")

    def _running(self) -> list[RunningJob]:
        return self._explainer.running_jobs()
