"""The process of a DRMAA session (`drmaa_session`), seen from the other side: asked, and never waited for.

What must hold
  - A session that does not answer in time is killed, and everything that it was asked is answered with "nobody knows".
  - It ends with this process: its standard input does.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from time import monotonic
from typing import Any, Optional

from batchsystems.commands import Answer, Pause

_ANSWER_SECONDS = 60.0
_CLOSE_SECONDS = 2.0
_LONGEST_PAUSE = 60.0

_START = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[1]); "
    "from batchsystems.drmaa_session import main; main(sys.argv[2])"
)


class Question:
    """What a session was asked; a `Lane`. The answer's `out` is JSON, its `err` of a refusal "KIND: WORDS"."""

    def __init__(self, link: Link, number: int) -> None:
        self.began = monotonic()
        self.found: Optional[Answer] = None
        self.sent: Optional[float] = None
        self.number = number
        self._link = link

    @property
    def deadline(self) -> float:
        """When there is something to do about it: now, if it is answered already."""
        return self.began + (0 if self.found is not None else _ANSWER_SECONDS)

    def fileno(self) -> int:
        """Of the session."""
        return self._link.fileno()

    def answer(self) -> Optional[Answer]:
        """The answer, if there is one."""
        self._link.hear()
        return self.found

    def close(self) -> None:
        """Nobody wants to know any more."""


class Link:
    """A session that is opened when it is needed, and again when it has ended; not more often than makes sense.

    env: of its process; contact: of the session to be opened. `contact`, `system`: what the library says; `refused`:
    why it cannot be used at all, a kind and words.
    """

    def __init__(self, env: Mapping[str, str], contact: str) -> None:
        self.contact = contact
        self.system = ""
        self.opened = False
        self.refused: Optional[tuple[str, str]] = None
        self.ended: list[dict[str, Any]] = []
        """Ends that were told and that nobody has looked at yet."""
        self.pause = Pause(1.0, _LONGEST_PAUSE)
        self._env = dict(env)
        self._process: Optional[subprocess.Popen[bytes]] = None
        self._errors: Optional[Any] = None
        self._began = 0.0
        self._rest = b""
        self._count = 0
        self._questions: dict[int, Question] = {}
        self._unsent: list[tuple[Question, bytes]] = []

    def fileno(self) -> int:
        """Readable when the session has something to tell."""
        if self._process is None:
            return -1
        assert self._process.stdout is not None
        return self._process.stdout.fileno()

    def is_there(self) -> bool:
        """Whether there is a process, which may be opening its session."""
        return self._process is not None

    def due(self) -> float:
        """When something is to be done for it in any case."""
        if self._process is None:
            return self.pause.until if self._questions else float("inf")
        waits = [question.sent for question in self._questions.values() if question.sent is not None]
        waits += [] if self.opened else [self._began]
        return min(waits, default=float("inf")) + _ANSWER_SECONDS

    def ask(self, what: str, **about: Any) -> Question:
        """Ask. It is answered when the session is open, or has failed to."""
        self._count += 1
        question = self._questions[self._count] = Question(self, self._count)
        text = json.dumps({"id": self._count, "do": what, **about})
        self._unsent.append((question, text.encode() + b"\n"))
        self.turn()
        return question

    def turn(self) -> None:
        """Start it if it is needed, hear it, give it up."""
        if self._process is None:
            if self._unsent and monotonic() < self.pause.until:
                self._give_up(1, "DrmCommunicationException: " + (self.pause.trouble or "no session"))
            elif self._unsent:
                self.start()
        self.hear()

    def start(self) -> None:
        """Open the session, which takes its time."""
        if self._process is not None:
            return
        self._began, self.opened = monotonic(), False
        paths = json.dumps([os.path.abspath(path) for path in sys.path])
        with contextlib.ExitStack() as stack:
            errors = stack.enter_context(tempfile.TemporaryFile())
            try:
                self._process = subprocess.Popen(
                    [sys.executable, "-I", "-c", _START, paths, self.contact], env=self._env, cwd="/",
                    stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, start_new_session=True, bufsize=0,
                )  # fmt: skip
            except OSError as error:
                self._failed(f"it cannot be started: {error}")
                return
            stack.pop_all()
            self._errors = errors
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        os.set_blocking(self._process.stdin.fileno(), False)
        os.set_blocking(self._process.stdout.fileno(), False)

    def hear(self) -> None:
        """Hear what there is."""
        if self._process is None:
            return
        while True:
            try:
                read = os.read(self.fileno(), 1 << 20)
            except BlockingIOError:
                break
            if not read:
                self._failed("the session has ended by itself")
                return
            *lines, self._rest = (self._rest + read).split(b"\n")
            for line in lines:
                self._heard(json.loads(line))
            if not self.is_there():
                return
        self._send()
        if self.due() <= monotonic():
            self._failed("the library does not answer")

    def _heard(self, told: dict[str, Any]) -> None:
        if "ended" in told:
            self.ended.append(told["ended"])
        elif "open" in told:
            self.opened, self.refused = True, None
            self.contact, self.system = told["open"], told["system"]
            self.pause.worked()
        elif "failed" in told:
            self.refused = told["failed"], told["words"]
            self._failed(f"{told['failed']}: {told['words']}")
        else:
            question = self._questions.pop(told["id"], None)
            if question is not None and "error" in told:
                question.found = Answer(1, "", f"{told['error']}: {told['words']}")
            elif question is not None:
                question.found = Answer(0, json.dumps(told), "")

    def _send(self) -> None:
        if not self.opened or self._process is None:
            return
        assert self._process.stdin is not None
        while self._unsent:
            question, text = self._unsent[0]
            try:
                sent = os.write(self._process.stdin.fileno(), text)
            except (BlockingIOError, BrokenPipeError):
                return  # it is busy, or its end will be heard of
            question.sent = monotonic()
            self._unsent[0] = question, text[sent:]
            if sent < len(text):
                return
            del self._unsent[0]

    def _failed(self, why: str) -> None:
        opened = self.opened
        words = " ".join(f"{why} {self._last_words()}".split())
        self._kill()
        self.pause.failed(words)
        if opened:  # what it was asked it may have done
            self._give_up(None, words)
        else:
            self._give_up(1, f"DrmCommunicationException: {words}")

    def _give_up(self, status: Optional[int], words: str) -> None:
        for question in self._questions.values():
            question.found = Answer(status, "", words)
        self._questions.clear()
        self._unsent.clear()

    def _last_words(self) -> str:
        if self._errors is None:
            return ""
        self._errors.seek(0)
        words: str = self._errors.read().decode("utf-8", "replace")[-500:]
        return words

    def _kill(self) -> None:
        process, self._process = self._process, None
        self._rest, self.opened = b"", False
        if process is not None:
            process.kill()
            process.wait()
            for pipe in (process.stdin, process.stdout):
                assert pipe is not None
                pipe.close()
        if self._errors is not None:
            self._errors.close()
            self._errors = None

    def close(self) -> None:
        """Have it leave its session, if that is quickly done."""
        if self._process is not None and self.opened:
            assert self._process.stdin is not None
            self._process.stdin.close()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(_CLOSE_SECONDS)
        self._kill()
        self._give_up(None, "closed")
