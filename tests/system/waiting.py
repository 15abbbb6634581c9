"""Processes of a test, and points in them at which they wait for the test: nothing here hopes, and nothing sleeps."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import Optional

import psutil

from tests.system.legacy_script import CHECKOUT, Ran

# For what takes a moment here and perhaps a minute on a machine that is busy; nothing waits for it to pass.
DEADLINE_SECONDS = 60.0

# The same where real schedulers take part, whose clients hold back for a minute when a daemon has died.
SERVER_SECONDS = 400.0

#: What a script needs to wait at a gate.
PAUSE = '''
import os

def pause():
    """Tell the test that we are here, with our pid, and wait until it lets us go on."""
    with open("arrived", "w") as arrived:
        arrived.write("%d\\n" % os.getpid())
    go = os.open("go", os.O_RDONLY)
    os.read(go, 1)
    os.close(go)
'''


class Gate:
    """Where the targets of scripts in one directory wait, in ``pause()``, until the test lets them through."""

    def __init__(self, directory: Path, seconds: float = DEADLINE_SECONDS) -> None:
        self._seconds = seconds
        for name in ("arrived", "go"):
            os.mkfifo(directory / name)
        # Open in both directions: so nobody ever waits for the other side to open its end, and nothing is lost.
        self._arrived = os.open(directory / "arrived", os.O_RDWR | os.O_NONBLOCK)
        self._go = os.open(directory / "go", os.O_RDWR | os.O_NONBLOCK)
        self._rest = b""

    def arrival(self) -> int:
        """Wait until one more target has come; the pid of its process."""
        while b"\n" not in self._rest:
            ready, _, _ = select.select([self._arrived], [], [], self._seconds)
            assert ready, "waited in vain for a target to come to the gate"
            self._rest += os.read(self._arrived, 4096)
        line, _, self._rest = self._rest.partition(b"\n")
        return int(line)

    def let_through(self, number: int) -> None:
        """Let that many targets go on, those that come later included."""
        os.write(self._go, b"." * number)

    def close(self) -> None:
        """Nobody waits here any more."""
        os.close(self._arrived)
        os.close(self._go)


class Running:
    """A process that was started; its output goes to files, because a pipe would stay open with what it starts."""

    def __init__(
        self, directory: Path, command: Iterable[str], number: int, seconds: float = DEADLINE_SECONDS
    ) -> None:
        self._seconds = seconds
        self._out = directory / f"out.{number}"
        self._err = directory / f"err.{number}"
        environment = {**os.environ, "PYTHONPATH": str(CHECKOUT), "PYTHONUNBUFFERED": "1"}
        with open(self._out, "wb") as out, open(self._err, "wb") as err:
            self.process = subprocess.Popen(
                list(command),
                cwd=directory,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
            )

    @property
    def pid(self) -> int:
        """Its pid."""
        return self.process.pid

    def send(self, number: signal.Signals) -> None:
        """Send it a signal."""
        self.process.send_signal(number)

    def said(self) -> str:
        """What it has told on standard error until now."""
        return self._err.read_text()

    def ended(self) -> Ran:
        """Wait for its end; how that was."""
        status = self.process.wait(self._seconds)
        return Ran(status, self._out.read_text(), self._err.read_text())


class Bench:
    """A directory with scripts, a gate, and all processes that were started there; use it with ``with``.

    seconds: after which something that should come is not waited for any more.
    """

    def __init__(self, directory: Path, seconds: float = DEADLINE_SECONDS) -> None:
        self.directory = directory
        self.gate = Gate(directory, seconds)
        self._seconds = seconds
        self._started: list[Running] = []
        self._on_sigint = signal.getsignal(signal.SIGINT)

    def __enter__(self) -> Bench:
        # A shell lets what it starts in the background ignore SIGINT, and what we start would inherit that.
        signal.signal(signal.SIGINT, signal.default_int_handler)
        return self

    def __exit__(
        self,
        kind: Optional[type[BaseException]],
        error: Optional[BaseException],
        trace: Optional[TracebackType],
    ) -> None:
        signal.signal(signal.SIGINT, self._on_sigint)
        for running in self._started:
            running.process.kill()  # does nothing to one that has been waited for
            running.process.wait()
        self.gate.close()

    def write(self, name: str, *sources: str) -> None:
        """Write a file made of these parts; the indentation that a part's lines share is taken away."""
        (self.directory / name).write_text("\n".join(map(textwrap.dedent, sources)))

    def start(self, *command: str) -> Running:
        """Start a script of this directory, or one of the checkout's commands."""
        program = self.directory / command[0]
        if not program.exists():
            program = CHECKOUT / "bin" / command[0]
        words = [sys.executable, str(program), *command[1:]]
        running = Running(self.directory, words, len(self._started), self._seconds)
        self._started.append(running)
        return running

    def run(self, *command: str) -> Ran:
        """The same, to its end."""
        return self.start(*command).ended()

    def lines(self, name: str) -> list[str]:
        """The lines of a file, sorted; none if there is no such file."""
        path = self.directory / name
        return sorted(path.read_text().splitlines()) if path.exists() else []


def gone(pids: Iterable[int]) -> bool:
    """Wait for the end of processes that need not be ours; whether all have ended."""
    return all(_has_ended(pid) for pid in pids)


def _has_ended(pid: int) -> bool:
    if sys.platform != "linux":
        try:
            psutil.Process(pid).wait(DEADLINE_SECONDS)
        except psutil.NoSuchProcess:
            pass
        except psutil.TimeoutExpired:
            return False
        return True
    # Tells of the end itself: in a container it can take long until somebody collects what is left of a process.
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    ready, _, _ = select.select([descriptor], [], [], DEADLINE_SECONDS)
    os.close(descriptor)
    return bool(ready)
