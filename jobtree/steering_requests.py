"""What can be asked of a run to change its course, as plain functions: for jobTreeRun and for the monitor.

    answer = steering_requests.retry(paths, "ada@host", job_number("17-3"))
    print(answer.body)          # a sentence: what was done or, if ``answer.done`` is false, why it was not

Each writes a request (jobtree.requests) and waits until a master has obeyed it and what follows is on the disk. Where
no master runs, or it does not answer in time, the request stays: the next master obeys it before anything else. So
whoever asks may die, and the master too.

Obeying twice what was asked for once would do harm only where somebody else has acted in between. So a request to try a
job again, or to kill it, names the attempt that it is about, and the store keeps which requests were obeyed last.
"""

from __future__ import annotations

import getpass
import os
import socket
from collections.abc import Mapping
from typing import Any, Optional

from jobtree import lock, requests, snapshot
from jobtree.errors import JobTreeError
from jobtree.paths import TreePaths
from jobtree.requests import Answer, Request

RETRY = "retry"
FORGET = "forget"
MARK_DONE = "markDone"
KILL_JOB = "killJob"
PAUSE = "pause"
GO_ON = "goOn"
CHANGE = "change"

KINDS = frozenset((RETRY, FORGET, MARK_DONE, KILL_JOB, PAUSE, GO_ON, CHANGE))

CHANGEABLE = (
    "max_cpus", "max_memory", "big_max_cpus", "big_max_memory", "max_threads", "limits", "retry_count", "max_lost",
    "max_job_duration", "hung_after", "max_output",
)  # fmt: skip
"""The attributes of ``Settings`` that can be changed while a master runs."""

ANSWER_SECONDS = 30.0


def whoami() -> str:
    """Who asks, as it is shown to others."""
    try:
        name = getpass.getuser()
    except (KeyError, OSError):  # a number without a name, as in some containers
        name = str(os.getuid())
    return f"{name}@{socket.gethostname()}"


def retry(
    paths: TreePaths,
    by: str,
    job: Optional[int] = None,
    attempt: Optional[int] = None,
    seconds: float = ANSWER_SECONDS,
) -> Answer:
    """Give a job that has failed its tries back, so that it is ready again; None: all of them.

    attempt: the one that was seen to have failed; None: the one that it is at now.
    """
    return _ask(paths, Request(RETRY, by, {"job": job, "attempt": attempt} if job else {}), seconds)


def kill_job(
    paths: TreePaths, by: str, job: int, attempt: Optional[int] = None, seconds: float = ANSWER_SECONDS
) -> Answer:
    """End the worker in which this job is running; the attempt counts as a try that has failed.

    attempt: the one that was seen running; None: the one that it is at now.
    """
    return _ask(paths, Request(KILL_JOB, by, {"job": job, "attempt": attempt}), seconds)


def forget(paths: TreePaths, by: str, job: int, seconds: float = ANSWER_SECONDS) -> Answer:
    """Take a job out of the tree with everything below it, as if it had never been added."""
    return _ask(paths, Request(FORGET, by, {"job": job}), seconds)


def mark_done(paths: TreePaths, by: str, job: int, seconds: float = ANSWER_SECONDS) -> Answer:
    """Take a job as done although its target has not run. Refused where its value was promised to others."""
    return _ask(paths, Request(MARK_DONE, by, {"job": job}), seconds)


def pause(paths: TreePaths, by: str, seconds: float = ANSWER_SECONDS) -> Answer:
    """Issue nothing any more, over restarts too, until ``go_on``; what runs goes on to its end."""
    return _ask(paths, Request(PAUSE, by), seconds)


def go_on(paths: TreePaths, by: str, seconds: float = ANSWER_SECONDS) -> Answer:
    """End a pause."""
    return _ask(paths, Request(GO_ON, by), seconds)


def change_limits(
    paths: TreePaths, by: str, options: Mapping[str, Any], seconds: float = ANSWER_SECONDS
) -> Answer:
    """Change options of the run that is on, and of later starts: attributes of ``Settings`` that are CHANGEABLE.

    Of ``limits`` those that are named change, the others stay.
    """
    return _ask(paths, Request(CHANGE, by, {"options": dict(options)}), seconds)


def _ask(paths: TreePaths, request: Request, seconds: float) -> Answer:
    try:
        return wait(paths, send(paths, request), seconds) or not_yet(paths, seconds)
    except JobTreeError as error:
        return Answer(False, str(error))


def send(paths: TreePaths, request: Request) -> str:
    """Send a request and return its number; the attempt that it is about is filled in. Raises JobTreeError."""
    arguments = dict(request.arguments)
    if "attempt" in arguments and arguments["attempt"] is None:
        found = snapshot.look(paths, "details", id=arguments["job"])
        arguments["attempt"] = found.job.attempt if found is not None else None
    return requests.send(paths, request._replace(arguments=arguments), wants_answer=True)


def wait(paths: TreePaths, id: str, seconds: float) -> Optional[Answer]:
    """The answer to a request that was sent; None: nobody has answered in that time, or nobody is there. The request
    is left then."""
    return requests.wait(paths, id, seconds, lambda: lock.is_held(paths), withdraws=False)


def not_yet(paths: TreePaths, seconds: float) -> Answer:
    """What to tell whoever asked and was not answered."""
    if lock.is_held(paths):
        why = f"the master has not answered within {seconds:g} s. It does this as soon as it looks"
    else:
        why = "no master runs the tree now. The next one does this first"
    return Answer(False, f"It is noted and not done yet: {why}.")
