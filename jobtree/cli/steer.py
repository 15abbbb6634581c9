"""jobTreeRun --retry, --forget, --markDone, --killJob, --pause, --goOn, --change: changing the course of a run.

A running master is asked, from whatever host, and what it has done is printed. Where none runs it is done here, under
the tree's lock; --retry and --goOn go on with the run then, whose master does it first.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import Any, Optional

from jobtree import job_views, lock, options, requests, snapshot, steering_requests
from jobtree.errors import AnotherMaster, UsageError
from jobtree.options import OPTIONS
from jobtree.paths import TreePaths
from jobtree.requests import Answer, Request
from jobtree.shown import shown

_ALL = "all"
_WITH_JOB = {
    "retry": steering_requests.RETRY, "forget": steering_requests.FORGET, "markDone": steering_requests.MARK_DONE,
    "killJob": steering_requests.KILL_JOB,
}  # fmt: skip
_ALONE = {
    "pause": steering_requests.PAUSE, "goOn": steering_requests.GO_ON, "change": steering_requests.CHANGE
}  # fmt: skip
_GOES_ON = (steering_requests.RETRY, steering_requests.GO_ON)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options to those of jobTreeRun."""
    group = parser.add_argument_group(
        "Steering a run",
        "Ask the master that runs the tree; where none does it is done at once, and --retry and --goOn carry on.",
    )
    group.add_argument("--retry", metavar="JOB|all", help="give a job that has failed its tries back")
    group.add_argument("--forget", metavar="JOB", help="take a job out, with everything below it")
    group.add_argument("--markDone", metavar="JOB", help="take a job as done that has not run")
    group.add_argument(
        "--killJob", metavar="JOB", help="kill the worker that runs a job; that is a failed try"
    )
    group.add_argument("--pause", action="store_true", help="issue nothing any more, until --goOn")
    group.add_argument("--goOn", action="store_true", help="end a pause")
    group.add_argument(
        "--change",
        action="store_true",
        help=f"change {', '.join(_flags(steering_requests.CHANGEABLE))} of the run that is on",
    )


def request(arguments: argparse.Namespace, given: Mapping[str, Any]) -> Optional[Request]:
    """What was asked for; None: to run. given: the other options, by attribute. Raises UsageError."""
    names = [*_WITH_JOB, *_ALONE]
    asked = [name for name in names if getattr(arguments, name) not in (None, False)]
    if not asked:
        return None
    if len(asked) > 1:
        raise UsageError(f"{' and '.join(f'--{name}' for name in asked)} were given; one is done at a time.")
    (name,) = asked
    by = steering_requests.whoami()
    if name == "change":
        return Request(steering_requests.CHANGE, by, {"options": _changed(given)})
    kind = {**_WITH_JOB, **_ALONE}[name]
    if kind not in _GOES_ON:
        _refuse_others(name, given)
    if name in _ALONE or (name == "retry" and arguments.retry == _ALL):
        return Request(kind, by)
    job = job_views.number_of(getattr(arguments, name))
    needs_attempt = kind in (steering_requests.RETRY, steering_requests.KILL_JOB)
    return Request(kind, by, {"job": job, "attempt": None} if needs_attempt else {"job": job})


def _changed(given: Mapping[str, Any]) -> dict[str, Any]:
    others = _others(given)
    wrong = [name for name in others if name not in steering_requests.CHANGEABLE]
    if wrong or not others:
        what = ", ".join(_flags(steering_requests.CHANGEABLE))
        but = f"not {', '.join(_flags(wrong))}" if wrong else "and nothing was given"
        raise UsageError(f"--change: what can be changed while a run is on is {what}, {but}.")
    return {name: given[name] for name in others}


def _refuse_others(name: str, given: Mapping[str, Any]) -> None:
    others = _flags(_others(given))
    if others:
        raise UsageError(
            f"--{name} does one thing, and {', '.join(others)} was given too. What a run may use: --change."
        )


def _others(given: Mapping[str, Any]) -> list[str]:
    harmless = {option.attribute for option in OPTIONS if option.group == options.LOGGING} | {"job_tree"}
    return [*(name for name in given if name not in harmless and name != "backend"), *given["backend"]]


def _flags(attributes: Any) -> list[str]:
    flags = {option.attribute: option.flag for option in (*OPTIONS, *options.backend_options())}
    return [flags[name] for name in attributes]


def steer(root: str, asked: Request) -> Optional[int]:
    """Have it done; returns the exit status. None: no master runs, and the run that is to go on does it first."""
    paths, _ = snapshot.find(root)
    id = steering_requests.send(paths, asked)
    while True:
        answer = steering_requests.wait(paths, id, steering_requests.ANSWER_SECONDS)
        if answer is None and not lock.is_held(paths):
            if asked.kind in _GOES_ON:
                requests.want_no_answer(paths, id)
                return None
            if asked.kind != steering_requests.KILL_JOB:
                try:
                    answer = _alone(paths, id)
                except AnotherMaster:
                    continue  # it has just come, and does it
        answer = answer or steering_requests.not_yet(paths, steering_requests.ANSWER_SECONDS)
        print(shown(str(answer.body)), flush=True)
        return 0 if answer.done else 1


def _alone(paths: TreePaths, id: str) -> Optional[Answer]:
    from jobtree import unattended  # only where no master runs

    unattended.obey(paths)
    return steering_requests.wait(paths, id, 0.0)
