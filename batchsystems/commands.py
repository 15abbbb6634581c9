"""Commands of a scheduler: each a process with a deadline, for which nobody waits.

A scheduler's client can take many seconds to say that its server is down, or hang. So it is started, looked at from
time to time, and killed when its time is over. What must hold

  - A killed command may have done its work: `Answer.status` is None then, and whoever asked must find out.
  - What a command reads is complete before it starts: it reads a file without a name, and not a pipe that ends early
    when this process is killed. (A batch script that is cut off would be submitted all the same.)
  - What it prints goes to files too, so that it never waits for us.

Used by one thread; `Command.fileno` is there to be waited for together with other things.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple, Optional

_LONGEST_WAIT_SECONDS = 3600.0


class Answer(NamedTuple):
    """What a command said. status: None if it did not end in time, or was killed by somebody."""

    status: Optional[int]
    out: str
    err: str

    @property
    def words(self) -> str:
        """What it said of its failure, on one line."""
        lines = [line.strip() for line in (self.err or self.out).splitlines() if line.strip()]
        return "; ".join(dict.fromkeys(lines)) or (
            "no answer in time" if self.status is None else f"exit status {self.status}"
        )


class Command:
    """A running command. Started by the constructor, which raises OSError if that cannot be done."""

    def __init__(
        self, arguments: Sequence[str], env: Mapping[str, str], seconds: float, read: str = "", cwd: str = "/"
    ) -> None:
        self.began = time.monotonic()
        self._deadline = self.began + seconds
        with contextlib.ExitStack() as stack:
            given = stack.enter_context(tempfile.TemporaryFile())
            given.write(read.encode("utf-8", "surrogateescape"))
            given.seek(0)
            self._files = [stack.enter_context(tempfile.TemporaryFile()) for _ in ("out", "err")]
            # Its end is seen by the end of this pipe, which it and nobody else keeps open.
            self._alive, theirs = os.pipe()
            stack.callback(os.close, self._alive)
            try:
                self._process = subprocess.Popen(
                    arguments, env=env, cwd=cwd, stdin=given, stdout=self._files[0], stderr=self._files[1],
                    pass_fds=[theirs], start_new_session=True,
                )  # fmt: skip
            finally:
                os.close(theirs)
            given.close()
            self._open = stack.pop_all()

    def fileno(self) -> int:
        """Readable when it has ended."""
        return self._alive

    @property
    def deadline(self) -> float:
        """When it is killed, on the monotonic clock."""
        return self._deadline

    def answer(self) -> Optional[Answer]:
        """What it said, if it has ended or its time is over; None while it runs. To be called until there is one."""
        if self._process.poll() is None:
            if time.monotonic() < self._deadline:
                return None
            self._kill()
            return self._finish(None)
        code = self._process.returncode
        return self._finish(code if code >= 0 else None)

    def wait(self) -> Answer:
        """Wait for its end or its deadline."""
        try:
            self._process.wait(max(0.0, self._deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            self._kill()
            return self._finish(None)
        found = self.answer()
        assert found is not None
        return found

    def close(self) -> None:
        """Kill it if it runs; forget what it says."""
        if self._process.poll() is None:
            self._kill()
        self._open.close()

    def _kill(self) -> None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.kill()
        self._process.wait()

    def _finish(self, status: Optional[int]) -> Answer:
        texts = []
        for file in self._files:
            file.seek(0)
            texts.append(file.read().decode("utf-8", "replace"))
        self._open.close()
        return Answer(status, *texts)


def run(arguments: Sequence[str], env: Mapping[str, str], seconds: float) -> Answer:
    """Run a command to its end. Raises OSError if it cannot be started."""
    return Command(arguments, env, seconds).wait()


class Waiter:
    """Waits for commands, for moments, and for `wake`, which any thread and any signal handler may call."""

    def __init__(self) -> None:
        self._read, self._write = socket.socketpair()
        self._read.setblocking(False)
        self._write.setblocking(False)

    def wake(self) -> None:
        """Make the current or else the next `wait` return at once. Never blocks, never raises."""
        try:
            self._write.send(b".")
        except OSError:
            pass  # full, so `wait` returns anyway; or closed

    def wait(self, until: float, things: Collection[Any] = ()) -> bool:
        """Wait until a moment (on the monotonic clock), or one of the things is readable; whether `wake` was called."""
        poll = select.poll()
        for thing in things:
            poll.register(thing, select.POLLIN | select.POLLHUP)
        return self.wait_with(poll, until)

    def wait_with(self, poll: select.poll, until: float) -> bool:
        """The same for things that the caller has registered."""
        poll.register(self._read, select.POLLIN)
        seconds = min(max(0.0, until - time.monotonic()), _LONGEST_WAIT_SECONDS)
        woken = False
        for descriptor, _ in poll.poll(-(-seconds * 1000 // 1)):
            if descriptor == self._read.fileno():
                woken = True
                with contextlib.suppress(BlockingIOError):
                    while self._read.recv(4096):
                        pass
        return woken

    def close(self) -> None:
        """Free the descriptors; `wake` does nothing from now on."""
        self._read.close()
        self._write.close()


class Pause:
    """When to try again what has failed: after a pause that grows each time, up to a limit."""

    def __init__(self, first: float, longest: float) -> None:
        self._first, self._longest = first, longest
        self._next = first
        self.until = 0.0
        self.trouble = ""

    def failed(self, why: str) -> bool:
        """It has failed once more. Whether this is another reason than the last time."""
        self.until = time.monotonic() + self._next
        self._next = min(2 * self._next, self._longest)
        changed, self.trouble = why != self.trouble, why
        return changed

    def worked(self) -> bool:
        """It has worked. Whether it had failed before."""
        had, self.trouble = bool(self.trouble), ""
        self._next, self.until = self._first, 0.0
        return had
