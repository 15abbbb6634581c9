"""What a master tells of its tree: above all on a network file system, where nobody but it can open the database.

    status.json     counts by class and state, running jobs, the first failures; at most every two seconds; anywhere if
                    the tree is shared with a group (jobtree.sharing), which reads nothing else but
    report.json     what targets have used, by class and machine; then only, every half a minute and at the end
    a request       more than that: all failures, whole (jobtree.requests, kind "status"); single jobs ("look", with a
                    question of jobtree.queries)

On any file system the master alone knows what runs at this moment ("running") and why it does not issue a job ("why").

What must hold
  - Both are bounded, however large the tree is, and neither delays the master for longer than that takes.
  - A reader sees a whole file: it is renamed into place. It need not survive a power cut, and the master goes on when
    it cannot be written: a full disk stops a run in its own place.
  - It is believed only while the master that wrote it holds the tree's lock. Without one the reader opens the database.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from typing import Any, Callable, Optional

from jobtree import clock, contents, files, lock, queries, requests
from jobtree.contents import Contents, RunningJob
from jobtree.errors import StorageError
from jobtree.paths import TreePaths
from jobtree.requests import Answer, Request
from jobtree.sharing import Sharing
from jobtree.store import Store
from jobtree.version import VERSION

log: logging.Logger = logging.getLogger("jobtree")

QUESTION = "status"
"""The kind of a request for the whole of it."""

LOOK = "look"
RUNNING = "running"
WHY = "why"
"""The kinds of requests for single jobs, for what is running, and for why a job does not run."""

STATISTICS = "statistics"
"""The question of jobtree.queries whose answer is in a report."""

EVERY_SECONDS = 2.0
_REPORT_SECONDS = 30.0

_MOST_CLASSES = 200
_MOST_FAILURES = 50
_MOST_RUNNING = 200
_MOST_TEXT = 2000
_MOST_RUNNING_ASKED = 10_000
_MOST_FAILURES_ASKED = 2000
_MOST_TEXT_ASKED = 100_000

_FORMAT = 1

Running = Callable[[], Sequence[RunningJob]]


class Publisher:
    """The master's side; where whoever may look can read the database it does nothing.

    running: tells what is running. sharing: with those who cannot.
    """

    def __init__(
        self, paths: TreePaths, store: Store, running: Running, sharing: Optional[Sharing] = None
    ) -> None:
        self._paths = paths
        self._store = store
        self._running = running
        self._sharing = sharing
        self._next = 0.0
        self._next_report = 0.0
        self._failing = False

    def turn(self, at_once: bool = False) -> None:
        """After a commit: publish, if it is time to. at_once: because it is the last time."""
        if self._store.only_connection is None and self._sharing is None:
            return
        now = clock.elapsed()
        if now < self._next and not at_once:
            return
        self._next = now + EVERY_SECONDS
        found = contents.shortened(self._contents(_MOST_FAILURES), _MOST_CLASSES, _MOST_TEXT)
        body = {
            "format": _FORMAT, "master": lock.owner(self._paths), "written": clock.wall(), **contents.to_json(found)
        }  # fmt: skip
        try:
            data = json.dumps(body, indent=1).encode()
            if self._sharing is None:
                files.replace(self._paths.status, data)
            else:
                self._sharing.share_logs(found)
                self._sharing.publish(data)
                self._report(self._sharing, now, at_once)
            self._failing = False
        except StorageError as error:
            if not self._failing:
                log.warning("how far the run is cannot be told to other machines: %s", error)
            self._failing = True

    def _report(self, sharing: Sharing, now: float, at_once: bool) -> None:
        if now >= self._next_report or at_once:
            self._next_report = now + _REPORT_SECONDS
            used = queries.answer_as_json(self._store.reader, STATISTICS, {})
            used["detailed"] = False  # single targets are not told of
            body = {"format": _FORMAT, "settings": sharing.settings, STATISTICS: used}
            sharing.report(json.dumps(body).encode())

    def answer(self) -> Answer:
        """The answer to a request of the kind QUESTION; outside of a transaction."""
        if self._store.only_connection is None:
            return Answer(False, "the database can be read by everybody here")
        found = self._contents(_MOST_FAILURES_ASKED)
        return Answer(
            True, contents.to_json(contents.shortened(found, _MOST_FAILURES_ASKED, _MOST_TEXT_ASKED))
        )

    def look(self, arguments: Mapping[str, Any]) -> Answer:
        """The answer to a request of the kind LOOK; outside of a transaction."""
        if self._store.only_connection is None:
            return Answer(False, "the database can be read by everybody here")
        try:
            asked = dict(arguments["arguments"])
            body = queries.answer_as_json(self._store.only_connection, arguments["question"], asked)
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            return Answer(False, f"that is no question that jobtree {VERSION} knows ({error!r})")
        return Answer(True, body)

    def running(self) -> Answer:
        """The answer to a request of the kind RUNNING."""
        return Answer(True, [job._asdict() for job in self._running()[:_MOST_RUNNING_ASKED]])

    def _contents(self, failures: int) -> Contents:
        found = contents.query(self._store.reader, failures)
        return found._replace(running=tuple(self._running()[:_MOST_RUNNING]))


def read(paths: TreePaths) -> Optional[Contents]:
    """What the master that holds the lock has published; None if that is nothing yet."""
    try:
        stored = json.loads(files.read(paths.status) or b"{}")
        if stored["format"] == _FORMAT and stored["master"] == lock.owner(paths):
            return contents.from_json(stored)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        pass  # replaced at this moment, or another version's
    return None


def read_shared(paths: TreePaths) -> Optional[tuple[Contents, dict[str, Any], float]]:
    """What the master of a tree that is shared with us has told last, who it is or was, and when (seconds since 1970).

    None if that cannot be read.
    """
    try:
        stored = json.loads(files.read(paths.status) or b"{}")
        if stored["format"] == _FORMAT:
            return contents.from_json(stored), dict(stored["master"]), float(stored["written"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        pass
    return None


def read_report(paths: TreePaths) -> Optional[tuple[Any, dict[str, Any]]]:
    """What the master of a tree that is shared with us has told of what targets have used, and those options that it
    names; None if that cannot be read."""
    try:
        stored = json.loads(files.read(paths.report) or b"{}")
        if stored["format"] == _FORMAT:
            return queries.answer_from_json(STATISTICS, stored[STATISTICS]), dict(stored["settings"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        pass
    return None


def ask(paths: TreePaths, by: str, seconds: float) -> Optional[Contents]:
    """All of it, from the master that runs the tree; None if it does not answer in that time."""
    try:
        answer = requests.ask(paths, Request(QUESTION, by), seconds, lambda: lock.is_held(paths))
        return contents.from_json(answer.body) if answer is not None and answer.done else None
    except (StorageError, KeyError, TypeError, AttributeError):
        return None


def look(paths: TreePaths, by: str, seconds: float, question: str, asked: Mapping[str, int]) -> Answer:
    """A question about single jobs, from the master that runs the tree; not done if it does not answer in time."""
    arguments = {"question": question, "arguments": dict(asked)}
    answer = _ask(paths, Request(LOOK, by, arguments), seconds)
    if not answer.done:
        return answer
    try:
        return Answer(True, queries.answer_from_json(question, answer.body))
    except (KeyError, TypeError, AttributeError):
        return Answer(False, "its answer is not understood; it is of another version")


def running(paths: TreePaths, by: str, seconds: float) -> Optional[tuple[RunningJob, ...]]:
    """What is running, from the master that runs the tree; None if it does not answer in that time."""
    answer = _ask(paths, Request(RUNNING, by), seconds)
    try:
        return tuple(RunningJob(**job) for job in answer.body) if answer.done else None
    except TypeError:
        return None


def why(paths: TreePaths, by: str, seconds: float, job: int) -> Optional[list[str]]:
    """Why a job does not run, in sentences, from the master that runs the tree; None as for ``running``."""
    answer = _ask(paths, Request(WHY, by, {"job": job}), seconds)
    return [str(line) for line in answer.body] if answer.done and isinstance(answer.body, list) else None


def _ask(paths: TreePaths, request: Request, seconds: float) -> Answer:
    try:
        answer = requests.ask(paths, request, seconds, lambda: lock.is_held(paths))
    except StorageError as error:
        return Answer(False, str(error))
    return answer if answer is not None else Answer(False, "it does not answer")
