"""What can be done about a run from the monitor: each writes a request for the tree's master and waits for its answer.

    POST /api/v1/trees/1/retry, pause, goOn
    POST /api/v1/trees/1/jobs/17-3/retry, forget, kill

They are the requests of jobTreeRun (``jobtree.steering_requests``), so they outlive this process, and where no master
runs the next one obeys them first. The monitor itself changes nothing in a tree.

Whoever wants a job to be tried again, or its worker to be killed, says which attempt was seen. So what is ordered on a
page that was a moment late does not meet another attempt than the one that was meant.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Callable, Optional

from jobtree import steering_requests
from jobtree.paths import TreePaths
from jobtree.requests import Answer

SECONDS = 10.0
"""So long the master may take to answer; what was asked is not taken back then."""

OF_RUN: Mapping[str, Callable[[TreePaths, str], Answer]] = {
    "retry": lambda paths, by: steering_requests.retry(paths, by, seconds=SECONDS),
    "pause": lambda paths, by: steering_requests.pause(paths, by, SECONDS),
    "goOn": lambda paths, by: steering_requests.go_on(paths, by, SECONDS),
}
"""What can be done about a whole run, by its name in the address."""

OF_JOB: Mapping[str, Callable[[TreePaths, str, int, Optional[int]], Answer]] = {
    "retry": lambda paths, by, job, attempt: steering_requests.retry(paths, by, job, attempt, SECONDS),
    "kill": lambda paths, by, job, attempt: steering_requests.kill_job(paths, by, job, attempt, SECONDS),
    "forget": lambda paths, by, job, attempt: steering_requests.forget(paths, by, job, SECONDS),
}
"""What can be done about one job. attempt: the one that was seen; None: the one that it is at."""

WITH_ATTEMPT = ("retry", "kill")
"""Those about a job that look at the attempt."""

_MOST_ATTEMPT = 1 << 31


def attempt_in(body: bytes, allowed: bool) -> Optional[int]:
    """The attempt that an order names; none in an empty one. Raises ValueError for what is no order."""
    if not body:
        return None
    try:
        found: Any = json.loads(body)
    except (ValueError, RecursionError):
        raise ValueError("The order is no JSON.") from None
    known = ("attempt",) if allowed else ()
    if not isinstance(found, dict) or any(name not in known for name in found):
        what = 'an object that may have "attempt"' if allowed else "an empty object"
        raise ValueError(f"The order is something else than was expected: {what}, or nothing.")
    attempt = found.get("attempt")
    if attempt is None:
        return None
    if type(attempt) is not int or not 0 <= attempt < _MOST_ATTEMPT:
        raise ValueError("attempt is not the number of an attempt.")
    return attempt
