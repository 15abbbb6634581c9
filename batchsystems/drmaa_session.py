"""The process that loads a DRMAA library and speaks with it, so that a library that hangs or crashes does no harm.

It is told things by lines of JSON on its standard input, and answers by such lines on its standard output:

    {"id": 1, "do": "submit", "name", "command", "native", "output", "count"}   -> {"id": 1, "ids": [...]}
    {"id": 2, "do": "end", "ids": [...]}                                        -> {"id": 2, "ids": []}
    {"id": 3, "do": "states", "ids": [...]}                                     -> {"id": 3, "states": {...}}

or {"id": 1, "error": KIND, "words": ...}. First of all it says {"open": CONTACT, "system": ...} or {"failed": KIND,
"words": ...}, and between answers, for every job of the session that has ended, {"ended": {...}}. It ends when
its standard input does. `count` null: a single job, else an array with the indices 1 to count.
"""

from __future__ import annotations

import json
import os
import select
import signal
from typing import Any

_WAIT_SECONDS = 0.2
_MOST_ENDS = 500
_NO_USAGE = 24


class Unusable(RuntimeError):
    """There is a library, and no session can be opened with it; the library's word for that, and more of its words."""


class _NoUsage(Exception):
    """Code 24: a job has ended, and no usage information was returned."""


def main(contact: str) -> None:
    """Open the session of that contact ("": a new one), and serve until nobody listens."""
    # What the library prints must not come between the answers.
    out = os.fdopen(os.dup(1), "w", encoding="utf-8", buffering=1)
    os.dup2(2, 1)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # who has started it closes its input
    try:
        session = Session(contact)
    except (
        ImportError,
        OSError,
        RuntimeError,
        AttributeError,
    ) as error:  # loading it; AttributeError: it is none
        kind, words = error.args if isinstance(error, Unusable) else (type(error).__name__, _words(error))
        print(json.dumps({"failed": kind, "words": words}), file=out)
        return
    try:
        print(json.dumps({"open": session.contact, "system": session.system}), file=out)
        _serve(session, out)
    except BrokenPipeError:
        pass  # nobody listens any more
    finally:
        session.close()


def _serve(session: Session, out: Any) -> None:
    rest = b""
    while True:
        for ended in session.ended():
            print(json.dumps({"ended": ended}), file=out)
        if not select.select([0], [], [], _WAIT_SECONDS)[0]:
            continue
        read = os.read(0, 1 << 20)
        if not read:
            return
        *lines, rest = (rest + read).split(b"\n")
        for line in lines:
            told = json.loads(line)
            print(json.dumps({"id": told["id"], **session.do(told)}), file=out)


class Session:
    """A session of the library. Raises OSError, ImportError, RuntimeError or AttributeError if there can be none."""

    def __init__(self, contact: str) -> None:
        import drmaa  # it loads the library

        self._drmaa = drmaa
        # It has a bare Exception for "no usage information was returned", which would hide all others.
        drmaa.errors._ERRORS[_NO_USAGE - 1] = _NoUsage
        self._session = drmaa.Session()
        try:
            try:
                self._session.initialize(contact or None)
            except drmaa.errors.DrmaaException:
                if not contact:
                    raise
                self._session.initialize()  # that session is not known any more
        except drmaa.errors.DrmaaException as error:
            raise Unusable(type(error).__name__, _words(error)) from error
        self.contact = str(self._session.contact or "")
        self.system = str(self._session.drmsInfo)

    def close(self) -> None:
        """Leave the session; its jobs go on."""
        try:
            self._session.exit()
        except self._drmaa.errors.DrmaaException:
            pass

    def do(self, told: dict[str, Any]) -> dict[str, Any]:
        """Do what was told; the answer."""
        try:
            if told["do"] == "submit":
                return {"ids": self._submit(told)}
            if told["do"] == "end":
                return {"ids": self._end(told["ids"])}
            return {"states": {number: self._state(number) for number in told["ids"]}}
        except self._drmaa.errors.DrmaaException as error:
            return {"error": type(error).__name__, "words": _words(error)}

    def _submit(self, told: dict[str, Any]) -> list[str]:
        template = self._session.createJobTemplate()
        try:
            template.jobName = told["name"]
            template.remoteCommand, template.args = told["command"][0], told["command"][1:]
            template.nativeSpecification = told["native"]
            template.workingDirectory = "/"
            template.outputPath = ":" + told["output"]
            template.joinFiles = True
            if told["count"] is None:
                return [str(self._session.runJob(template))]
            return [str(number) for number in self._session.runBulkJobs(template, 1, told["count"], 1)]
        finally:
            self._session.deleteJobTemplate(template)

    def _end(self, numbers: list[str]) -> list[str]:
        for number in numbers:
            try:
                self._session.control(number, self._drmaa.JobControlAction.TERMINATE)
            except self._drmaa.errors.InvalidJobException:
                pass  # it has ended
        return []

    def _state(self, number: str) -> str:
        try:
            return str(self._session.jobStatus(number))
        except self._drmaa.errors.InvalidJobException:
            return "unknown"

    def ended(self) -> list[dict[str, Any]]:
        """Jobs that have ended since; each is told of once."""
        found: list[dict[str, Any]] = []
        while len(found) < _MOST_ENDS:
            try:
                info = self._session.wait(self._session.JOB_IDS_SESSION_ANY, 0)
            except _NoUsage:
                continue  # it was removed before it began; which one was, nobody says
            except self._drmaa.errors.DrmaaException:
                break  # there is none, or nobody is there to be asked
            found.append(
                {
                    "id": str(info.jobId),
                    "status": int(info.exitStatus) if info.hasExited else None,
                    "signal": str(info.terminatedSignal) if info.hasSignal else "",
                    "aborted": bool(info.wasAborted),
                    "usage": dict(info.resourceUsage or {}),
                }
            )
        return found


def _words(error: Exception) -> str:
    return " ".join(str(error).split())
