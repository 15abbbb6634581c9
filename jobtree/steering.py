"""What commands ask of the running master, and what it does about it. How it travels is in ``jobtree.requests``.

What must hold
  - Requests are obeyed inside the turn's transaction and answered after its commit; questions are answered after it.
  - An answer tells of what is on the disk. A master that dies in between has done what was asked, or not; whoever
    asked sees that it is gone, and looks.
"""

from __future__ import annotations

from typing import Callable

from jobtree import published
from jobtree.contents import RunningJob
from jobtree.explaining import Explainer
from jobtree.paths import TreePaths
from jobtree.published import Publisher
from jobtree.requests import Answer, Request, Requests
from jobtree.store import Store
from jobtree.version import VERSION

KILL = "kill"
"""The kind of a request to stop the run."""

_QUESTIONS = (published.QUESTION, published.LOOK, published.RUNNING, published.WHY)


class Steering:
    """The master's side. stop: ends the run soon, and says why."""

    def __init__(
        self, paths: TreePaths, store: Store, explainer: Explainer, stop: Callable[[str], None]
    ) -> None:
        self._requests = Requests(paths)
        self._explainer = explainer
        self._stop = stop
        self._publisher = Publisher(paths, store, self._running)
        self._answers: list[tuple[Request, Answer]] = []

    def discard(self) -> None:
        """At the start: what was meant for an earlier master."""
        self._requests.discard()

    def obey(self) -> None:
        """Do what has been asked for since the last call, inside the transaction."""
        self._answers += [(request, self._obey(request)) for request in self._requests.take()]

    def answer(self) -> None:
        """After the commit: answer, and publish how far the tree is."""
        answers, self._answers = self._answers, []
        for request, answer in answers:
            self._requests.answer(request, self._told(request) if request.kind in _QUESTIONS else answer)
        self._publisher.turn()

    def close(self) -> None:
        """At the end."""
        self._publisher.turn(at_once=True)
        self._requests.close()

    def _obey(self, request: Request) -> Answer:
        if request.kind == KILL:
            self._stop(f"stopped by jobTreeKill ({request.by})")
            return Answer(True)
        if request.kind in _QUESTIONS:
            return Answer(True)  # its body is put together after the commit
        return Answer(False, f"the master (jobtree {VERSION}) does not know how to {request.kind}")

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
            return Answer(True, self._explainer.why(int(request.arguments["job"])))
        except (KeyError, TypeError, ValueError, OverflowError):
            return Answer(False, "no job was named")

    def _running(self) -> list[RunningJob]:
        return self._explainer.running_jobs()
