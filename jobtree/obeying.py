"""What a request to change the course of a run does to the tree and the store; with a master, and without one.

Called inside a transaction, when all that was decided before is written. What must hold
  - Each request is whole in one transaction, with the note that it was obeyed: who meets it once more answers what was
    answered before.
  - A job that is taken away while it is issued is no concern of its bundle any more: ``dropped`` names these bundles,
    and reports of the attempt are stale.

Forgetting and marking as done. What is forgotten was never there: nothing of it is counted, and a promise of its value
stays a promise, which fails when it is used. What is marked as done has no value either, so that is refused as long as
anybody has been promised one: a made-up value would go unnoticed into results.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from typing import Any, Callable, Optional

from jobtree import files, serialization, steering_requests
from jobtree.collected import Collected, News
from jobtree.errors import TargetError
from jobtree.events import ROOT_PARENT, Job, State
from jobtree.options import OPTIONS, Settings
from jobtree.paths import TreePaths, job_name
from jobtree.requests import Answer, Request
from jobtree.shown import one_line
from jobtree.store import Store
from jobtree.tree import Tree

_PAUSED = "paused"
_OBEYED = "obeyed"

_MOST_REMEMBERED = 1000
"""Of requests whose files may still be there; far more than a master takes in one turn."""


class Obeyer:
    """Obeys. change: puts other settings into force and returns "", or why that cannot be. not_before: jobs that wait
    before they are tried again.

    ``settings`` are those in force; ``paused``: by whom, None if nobody; ``dropped``: numbers of bundles in which there
    were jobs that are not wanted any more, for whoever ends them.
    """

    def __init__(
        self,
        paths: TreePaths,
        store: Store,
        tree: Tree,
        settings: Settings,
        change: Callable[[Settings], str],
        not_before: dict[int, float],
    ) -> None:
        self.settings: Settings = settings
        self.paused: Optional[str] = store.get(_PAUSED) or None
        self.dropped: set[int] = set()
        self._paths = paths
        self._store = store
        self._tree = tree
        self._change_settings = change
        self._not_before = not_before
        self._obeyed: dict[str, Any] = json.loads(store.get(_OBEYED) or "{}")
        self._kinds: Mapping[str, Callable[[Request, Collected], Answer]] = {
            steering_requests.RETRY: self._retry,
            steering_requests.FORGET: self._forget,
            steering_requests.MARK_DONE: self._mark_done,
            steering_requests.PAUSE: self._pause,
            steering_requests.GO_ON: self._go_on,
            steering_requests.CHANGE: self._change,
        }

    def knows(self, request: Request) -> bool:
        """Whether this is a request for us."""
        return request.kind in self._kinds

    def obey(self, request: Request, collected: Collected) -> Answer:
        """Do it, and note that. What is to be told and removed after the commit goes into collected."""
        before = self._obeyed.get(request.id)
        if before is not None:
            return Answer(*before)
        try:
            answer = self._kinds[request.kind](request, collected)
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            answer = Answer(False, f"The request makes no sense: {one_line(str(error)[:500])}.")
        if answer.done:
            collected.news.append(News(logging.INFO, f"{one_line(request.by)}: {answer.body}"))
        while len(self._obeyed) >= _MOST_REMEMBERED:
            del self._obeyed[next(iter(self._obeyed))]
        self._obeyed[request.id] = [answer.done, answer.body]
        self._store.set(_OBEYED, json.dumps(self._obeyed))
        return answer

    def answered(self, request: Request) -> None:
        """Its file is gone, so nobody will meet it again; the store hears of that with the next one."""
        self._obeyed.pop(request.id, None)

    # -- jobs --------------------------------------------------------------------------------------------------

    def _retry(self, request: Request, collected: Collected) -> Answer:
        if "job" not in request.arguments:
            number = self._tree.renewed()
            self._store.renew_failed()
            self._write(collected)
            self._not_before.clear()
            if not number:
                return Answer(True, "No job has failed that is not to be tried again anyway.")
            return Answer(True, f"{_jobs(number)} that had failed {_are(number)} tried again.")
        job = self._find(request)
        if job is None:
            return _missing(request)
        self._not_before.pop(job.id, None)
        if job.state is State.READY:
            return Answer(True, f"{self._named(job)} is ready, and is tried as it is.")
        if job.state is not State.FAILED:
            return Answer(False, f"{self._named(job)} has not failed: it is {job.state.name.lower()}.")
        attempt = None if request.arguments.get("attempt") is None else request.number("attempt")
        if attempt is not None and job.attempt != attempt:
            again = f"it has been tried again since, and attempt {job.attempt} has failed too"
            return Answer(False, f"{self._named(job)} failed in attempt {attempt}; {again}. Ask for that.")
        self._tree.renew(job)
        self._write(collected)
        return Answer(True, f"{self._named(job)} is tried again.")

    def _forget(self, request: Request, collected: Collected) -> Answer:
        job = self._find(request)
        if job is None:
            return _missing(request)
        if job.parent == ROOT_PARENT:
            text = "is the first of the tree: to forget it is to remove the directory of the job tree"
            return Answer(False, f"{self._named(job)} {text}.")
        below = self._store.below(job.id)
        held = [job, *(self._tree.jobs[id] for id in below.going_on)]
        self.dropped.update(one.bundle for one in held if one.state is State.ISSUED)
        named = self._named(job)
        self._tree.forget(job, below)
        self._write(collected)
        more = f", and with it {_jobs(below.total)} below it" if below.total else ""
        return Answer(True, f"{named} is forgotten{more}.")

    def _mark_done(self, request: Request, collected: Collected) -> Answer:
        job = self._find(request)
        if job is None:
            return _missing(request)
        named = self._named(job)
        if job.state is State.BLOCKED:
            text = f"has run, and waits for {job.pending} of its children. Mark those as done, or forget them"
            return Answer(False, f"{named} {text}.")
        holder = self._who_was_promised(job)
        if holder is not None:
            why = f"its value was promised to {holder}, and what is marked as done has none"
            return Answer(False, f"{named} is not marked as done: {why}. Retry it, or forget it.")
        if job.state is State.ISSUED:
            self.dropped.add(job.bundle)
        self._tree.mark_done(job)
        self._write(collected)
        return Answer(True, f"{named} is taken as done.")

    def _who_was_promised(self, job: Job) -> Optional[str]:
        """Somebody who mentions the value that the job's target is to return; None if nobody does."""
        payload = self._store.payload(job.id)
        try:
            tokens = serialization.tokens(payload) if payload is not None else set()
        except TargetError:
            return None  # damaged: it could not run, nor return anything
        for holder in self._store.who_waits(job.id, tokens):
            return f"job {job_name(holder)}" if holder else "whoever asks for the result of the run"
        return None

    def _find(self, request: Request) -> Optional[Job]:
        id = request.number("job")
        return self._tree.jobs.get(id) or self._store.job(id)

    def _named(self, job: Job) -> str:
        return f"Job {job_name(job.id)} ({one_line(self._store.shapes[job.shape].name)})"

    def _write(self, collected: Collected) -> None:
        changes = self._tree.take_changes()
        self._store.write(changes, self._tree.counts)
        collected.removals.extend(self._store.take_dropped())
        collected.removals.extend(self._paths.relative_global_dir(id) for id in changes.global_dirs)

    # -- the run -----------------------------------------------------------------------------------------------

    def _pause(self, request: Request, collected: Collected) -> Answer:
        if self.paused is not None:
            return Answer(True, f"It was paused already, by {self.paused}.")
        self.paused = one_line(request.by)
        self._store.set(_PAUSED, self.paused)
        return Answer(True, "The run is paused: nothing is begun any more; what runs goes on to its end.")

    def _go_on(self, request: Request, collected: Collected) -> Answer:
        if self.paused is None:
            return Answer(True, "It was not paused.")
        self.paused = None
        self._store.set(_PAUSED, "")
        return Answer(True, "The run goes on.")

    def _change(self, request: Request, collected: Collected) -> Answer:
        options = dict(request.arguments["options"])
        unknown = sorted(set(options) - set(steering_requests.CHANGEABLE))
        if unknown or not options:
            return Answer(
                False, f"what can be changed is {', '.join(steering_requests.CHANGEABLE)}, not {unknown}"
            )
        if "limits" in options:
            options["limits"] = {**self.settings.limits, **options["limits"]}
        try:
            settings = Settings.from_dict({**self.settings.to_dict(), **options})
        except ValueError as error:
            return Answer(False, f"{one_line(str(error)[:500])}.")
        why = self._change_settings(settings)
        if why:
            return Answer(False, f"Nothing is changed: {why}.")
        self.settings = settings
        files.write_json(self._paths.settings, settings.to_dict())
        told = [
            f"{o.flag} {_value(getattr(settings, o.attribute))}" for o in OPTIONS if o.attribute in options
        ]
        return Answer(True, f"From now on: {', '.join(told)}.")


def _missing(request: Request) -> Answer:
    name = job_name(request.number("job"))
    return Answer(False, f"Job {name} is not in the tree: it is done, or was forgotten, or never was.")


def _jobs(number: int) -> str:
    return f"{number} job" if number == 1 else f"{number} jobs"


def _are(number: int) -> str:
    return "is" if number == 1 else "are"


def _value(value: Any) -> str:
    if isinstance(value, Mapping):
        return ",".join(f"{name}={number}" for name, number in value.items())
    return "(as many as there are)" if value is None else str(value)
