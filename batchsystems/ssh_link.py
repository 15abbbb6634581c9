"""The connection to one host: a long-lived ssh that runs an agent there (batchsystems.ssh_agent), spoken to in lines.

Why one ssh with an agent, and not a command for each question through a shared connection (ControlMaster): a round trip
takes a tenth of a millisecond instead of five to ten; a host counts one session, whatever its MaxSessions and
MaxStartups are; and what a job's exit status was is said in words, where ssh says 255 for nearly everything. There is
no socket that could be left behind. `localhost` needs no ssh at all.

What must hold
  - Nobody waits: connecting, sending and hearing go on beside everything else. A host that cannot be reached is tried
    again after pauses that grow to a minute.
  - What was sent and not acknowledged when a connection ends is neither done nor not done: the next agent tells.
  - Nobody is asked anything: no password, no host key. A key that is not known, or another one, is an error.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import select
import shlex
import signal
import subprocess
import time
from collections.abc import Sequence
from typing import Any, Optional

from batchsystems.commands import Pause
from batchsystems.ssh_file import HostLine
from batchsystems.ssh_placement import Place

_FIRST_PAUSE, _LONGEST_PAUSE = 1.0, 60.0
_CONNECT_SECONDS = 40.0
"""After so long without a word a connection that is being made has failed."""
_WORDS = 2000
_BOOT = "import os;exec(b''.join(iter(lambda:os.read(0,1)or b'\\0',b'\\0')))".replace("'", '"')
"""Reads a program up to a NUL, and not one byte more."""

LOCALHOST = "localhost"

_ALWAYS = (
    "BatchMode=yes", "StrictHostKeyChecking=yes", "ControlMaster=no", "ControlPath=none", "ClearAllForwardings=yes",
    "ForwardAgent=no", "ForwardX11=no", "PermitLocalCommand=no", "LogLevel=ERROR",
)  # fmt: skip
"""Before anything that a user says."""
_USUALLY = ("ConnectTimeout=10", "ServerAliveInterval=5", "ServerAliveCountMax=3")
"""Before what a user's configuration says, after --sshArgs. A connection that is cut is noticed within 20 seconds."""


@functools.lru_cache(maxsize=1)
def _agent() -> bytes:
    import importlib.resources  # takes 4 ms, and only who connects needs it

    return importlib.resources.files("batchsystems").joinpath("ssh_agent.py").read_bytes() + b"\0"


class Link:
    """A host and the connection to it.

    `about` is what the agent said of the host; None while there is no connection. `trouble`: why there is none.
    """

    def __init__(self, line: HostLine, key: str, master: str, ssh: Sequence[str]) -> None:
        self.place = Place(line)
        self.about: Optional[dict[str, Any]] = None
        self.hostname = ""  # remembered when there is no connection
        self.pause = Pause(_FIRST_PAUSE, _LONGEST_PAUSE)
        self.away_since: Optional[float] = time.monotonic()
        self.asked = 0
        self.answered = 0
        self.synced = False  # it has said what it has, since it was connected
        self.tried = False
        self.failures = 0  # to connect
        self._key = key
        self._master = master
        self._ssh = list(ssh)
        self._number = 0
        self._process: Optional[subprocess.Popen[bytes]] = None
        self._connecting_until = 0.0
        self._out = bytearray()
        self._in = b""
        self._words = b""

    @property
    def name(self) -> str:
        """As in the hosts file."""
        return self.place.line.name

    @property
    def trouble(self) -> str:
        """Why there is no connection; "" if there is one, or none was tried yet."""
        return self.pause.trouble

    def try_now(self) -> None:
        """Do not wait for the end of the pause; `failures` tells when that has failed."""
        if self._process is None:
            self.pause.until = 0.0

    def is_given_up(self, patience: float) -> bool:
        """Whether it has been out of reach for so many seconds."""
        return self.away_since is not None and time.monotonic() - self.away_since >= patience

    def register(self, poll: select.poll) -> float:
        """Add what is to be waited for; when something is to be done without that, on the monotonic clock."""
        process = self._process
        if process is None:
            return self.pause.until
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        poll.register(process.stdout, select.POLLIN)
        if not process.stderr.closed:
            poll.register(process.stderr, select.POLLIN)
        if self._out:
            poll.register(process.stdin, select.POLLOUT)
        return self._connecting_until if self.about is None else time.monotonic() + 3600.0

    def send(self, message: dict[str, Any]) -> None:
        """Send a line, as soon as the connection takes it. There must be one."""
        self._out += json.dumps(message).encode() + b"\n"
        self._push()

    def ask(self) -> int:
        """Ask for all jobs; the number of the question."""
        self.asked += 1
        self.send({"list": self.asked})
        return self.asked

    def turn(self) -> list[dict[str, Any]]:
        """Connect if it is time to, send what waits, and return what has come; {"lost": words} ends a connection."""
        if self._process is None:
            if time.monotonic() >= self.pause.until:
                self._connect()
            return []
        self._push()
        messages, ended = self._read()
        if not ended and self.about is None and time.monotonic() > self._connecting_until:
            ended, self._words = True, self._words + b"no answer of Python there"
        for message in messages:
            if "refused" in message:
                ended, self._words = True, message["refused"].encode()
            elif "hello" in message:
                self.about = message["hello"]
                self.hostname = message["hello"]["host"]
                self.synced = False
                self.away_since = None
                self.tried = True
                self.pause.worked()
        if ended:
            messages.append({"lost": self._fail()})
        return messages

    def close(self, seconds: float) -> None:
        """Let the agent do what it was told, and end the connection."""
        process = self._process
        if process is None:
            return
        assert process.stdin is not None
        assert process.stdout is not None
        deadline = time.monotonic() + (seconds if self.about is not None else 0.0)
        if self.about is not None:
            self.send({"bye": True})
        with contextlib.suppress(OSError):
            while self._out and time.monotonic() < deadline:
                select.select([], [process.stdin], [], 0.1)
                self._push()
        with contextlib.suppress(OSError):
            process.stdin.close()
        while time.monotonic() < deadline and self._process is not None and not self._read()[1]:
            select.select([process.stdout], [], [], 0.1)
        self._end()

    # -- inside ------------------------------------------------------------------------------------------------

    def _command(self) -> list[str]:
        python = self.place.line.python
        if self.name == LOCALHOST:
            return [python, "-I", "-S", "-c", _BOOT]
        always, usually = ([word for o in options for word in ("-o", o)] for options in (_ALWAYS, _USUALLY))
        # The user's login shell reads this, and it may be any.
        remote = f"exec {shlex.quote(python)} -I -S -c '{_BOOT}'"
        program, *arguments = self._ssh
        return [program, *always, *arguments, *usually, "-T", "-e", "none", "--", self.name, remote]

    def _connect(self) -> None:
        self._number += 1
        self._words, self._in, self._out = b"", b"", bytearray()
        try:
            self._process = subprocess.Popen(
                self._command(), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, bufsize=0,
                cwd="/", start_new_session=True,
            )  # fmt: skip
        except OSError as error:
            self.tried = True
            self.failures += 1
            self.pause.failed(str(error))
            return
        for pipe in (self._process.stdin, self._process.stdout, self._process.stderr):
            assert pipe is not None
            os.set_blocking(pipe.fileno(), False)
        self._connecting_until = time.monotonic() + _CONNECT_SECONDS
        told = {
            "tmp": self.place.line.tmp,
            "key": self._key,
            "master": self._master,
            "number": self._number,
        }
        self._out += _agent() + json.dumps(told).encode() + b"\n"
        self._push()

    def _push(self) -> None:
        if self._process is None or not self._out:
            return
        assert self._process.stdin is not None
        try:
            while self._out:
                del self._out[: os.write(self._process.stdin.fileno(), self._out[: 1 << 16])]
        except BlockingIOError:
            pass
        except OSError:
            self._out.clear()  # it has ended, which reading tells

    def _read(self) -> tuple[list[dict[str, Any]], bool]:
        """What has come, and whether that was all."""
        process, ended = self._process, False
        assert process is not None
        assert process.stdout is not None
        assert process.stderr is not None
        if not process.stderr.closed:
            try:
                while data := os.read(process.stderr.fileno(), 65536):
                    self._words = (self._words + data)[-_WORDS:]
                process.stderr.close()
            except BlockingIOError:
                pass
        try:
            while data := os.read(process.stdout.fileno(), 1 << 20):
                self._in += data
            ended = True
        except BlockingIOError:
            pass
        *lines, self._in = self._in.split(b"\n")
        messages = []
        for line in lines:
            try:
                message = json.loads(line)
            except ValueError:
                message = None
            if isinstance(message, dict):
                messages.append(message)
            else:
                # A login shell that prints something whatever it is asked to run.
                self._words = (self._words + b"it says " + line)[-_WORDS:]
        return messages, ended

    def _fail(self) -> str:
        """The connection has ended: when to try again, and why it was, in words."""
        status = self._end()
        if self.away_since is None:
            self.away_since = time.monotonic()
        self.tried = True
        self.failures += self.about is None
        lines = self._words.decode("utf-8", "replace").splitlines()
        words = "; ".join(line.strip() for line in lines if line.strip())
        self.pause.failed(
            words or f"the connection ended (status {status} of {'ssh' if self._ssh else 'it'})"
        )
        self.about, self.synced = None, False
        return self.pause.trouble

    def _end(self) -> int:
        process, self._process = self._process, None
        assert process is not None
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)  # with a proxy command that it may have started
        for pipe in (process.stdin, process.stdout, process.stderr):
            assert pipe is not None
            with contextlib.suppress(OSError):
                pipe.close()
        return process.wait()
