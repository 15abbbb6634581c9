"""A batch system whose jobs outlive the master, for tests: a client of the farm (tests/fakes/farm.py).

The farm's directory is the value of the variable ``JOBTREE_FARM``. What a test wants to go wrong it says with a file in
``tricks/`` there.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from typing import Optional

import psutil

from batchsystems.abstract import (
    AbstractBatchSystem,
    BatchSystemError,
    Capacity,
    End,
    EndKind,
    NeverFits,
    Resources,
    Setup,
    Submission,
)
from tests.fakes import farm

VARIABLE = "JOBTREE_FARM"

_LOST_SECONDS = 1.0
"""An acknowledged submission that is not to be seen for so long is lost."""
_TICK_SECONDS = 0.02
_numbers = itertools.count()


def on_a_farm(lease: int) -> tuple[str, ...]:
    """The options for a run on a farm; lease: seconds after which what is silent there is given up."""
    return (
        "--batchSystem", "tests.fakes.detached:Detached", "--lease", str(lease), "--grace", "1", "--jobTime", "0"
    )  # fmt: skip


class RunningFarm:
    """A farm in a directory; use it with ``with``. Jobs that still run are killed in the end.

    before: words before its command, for a machine that sees other things than this one (unshare).
    """

    def __init__(
        self, directory: Path, cpu: float = 2, memory: int = 1 << 34, before: Sequence[str] = ()
    ) -> None:
        self.directory = directory
        for name in farm.DIRECTORIES:
            (directory / name).mkdir(parents=True, exist_ok=True)
        farm.write(directory / "capacity", [cpu, memory])
        self._command = [*before, sys.executable, farm.__file__, str(directory), str(cpu), str(memory)]
        self._process: Optional[subprocess.Popen[bytes]] = None

    def __enter__(self) -> RunningFarm:
        # In a session of its own, like a scheduler that somebody else has started long ago.
        with open(self.directory / "log", "ab") as log:
            self._process = subprocess.Popen(
                self._command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process is not None
        self._process.kill()
        self._process.wait()

    def trick(self, name: str, value: str = "") -> None:
        """Have it misbehave from now on."""
        assert name in farm.TRICKS
        new = self.directory / f"new.{name}"
        new.write_text(value)
        new.rename(self.directory / "tricks" / name)

    def behave(self, name: str) -> None:
        """No more of that."""
        (self.directory / "tricks" / name).unlink()

    def names(self, kind: str) -> list[str]:
        """What is in one of its directories."""
        return farm.names(self.directory / kind)

    def jobs(self) -> list[psutil.Process]:
        """The processes that it has started and that live at this moment: supervisors."""
        assert self._process is not None
        return children(psutil.Process(self._process.pid))


def children(process: psutil.Process) -> list[psutil.Process]:
    """What a process has started and still lives; nothing if it has ended."""
    try:
        return [child for child in process.children() if child.status() != psutil.STATUS_ZOMBIE]
    except psutil.NoSuchProcess:
        return []


class Detached(AbstractBatchSystem):
    """Reports the ends of jobs that it has issued, and of those of earlier instances that it was asked to list."""

    outlives_master = True

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._mine: set[str] = set()
        self._reported: set[str] = set()
        self._capacity = Capacity(*json.loads((directory / "capacity").read_text()))
        self._held: list[Submission] = []
        self._cancels: list[tuple[str, float]] = []
        self._given: dict[str, Optional[float]] = {}  # name -> since when it is not to be seen
        self._closed = False
        self._wake_read, self._wake_write = socket.socketpair()
        self._wake_read.setblocking(False)
        self._wake_write.setblocking(False)

    @classmethod
    def create(cls, setup: Setup) -> AbstractBatchSystem:
        """Make one for a run."""
        if VARIABLE not in os.environ:
            raise BatchSystemError(f"the variable {VARIABLE} does not say where the farm is")
        return cls(Path(os.environ[VARIABLE]))

    def issue(self, submissions: Sequence[Submission]) -> None:
        """Put them into the directory."""
        self._require_open()
        if self._trick("refuse"):
            raise BatchSystemError("the farm takes no more jobs")
        seen = {*self._there(), *(held.name for held in self._held)}
        for submission in submissions:
            if submission.name in seen:
                raise BatchSystemError(f"{submission.name} is already queued or running")
            seen.add(submission.name)
            for resource, asked, most in (
                ("cores", submission.resources.cpu, self._capacity.cpu),
                ("memory", submission.resources.memory, self._capacity.memory),
            ):
                if asked > most:
                    raise NeverFits(submission.name, resource, asked, most)
        self._die("before")
        self._held += submissions
        self._mine.update(submission.name for submission in submissions)
        self._hand_over()
        self._die("after")

    def cancel(self, names: Iterable[str], grace: float = 0.0) -> None:
        """Ask for it."""
        self._require_open()
        self._cancels += [(name, grace) for name in names if name in self._there()]
        self._hand_over()

    def poll(self, timeout: float) -> list[End]:
        """Look into the directory again and again."""
        self._require_open()
        deadline = time.monotonic() + timeout
        while True:
            self._hand_over()
            ends = self._take_ends()
            left = deadline - time.monotonic()
            if ends or self._woken(min(max(left, 0.0), _TICK_SECONDS)) or left <= 0:
                return ends

    def wake(self) -> None:
        """Make the current or else the next `poll` return."""
        with contextlib.suppress(OSError):
            self._wake_write.send(b".")

    def list_issued(self, run: str) -> list[str]:
        """What is in the directory, and what waits here."""
        self._require_open()
        if self._trick("down"):
            raise BatchSystemError("the farm does not answer")
        everything = {*self._there(), *(held.name for held in self._held)}
        found = sorted(name for name in everything if name.startswith(run + "."))
        self._mine.update(found)
        return found

    def running(self) -> list[str]:
        """What the farm says has been started."""
        self._require_open()
        return [name for name in farm.names(self._directory / "running") if name not in self._reported]

    def capacity(self) -> Capacity:
        """As large as the farm."""
        return self._capacity

    def slots(self, resources: Resources) -> Optional[int]:
        """By cores; or as the test's file says."""
        room = self._directory / "room"
        if room.exists():
            return int(room.read_text())
        return int(self._capacity.cpu / resources.cpu) if resources.cpu else None

    def queue_room(self) -> int:
        """So that as many wait as can run, or so many as the test's file says."""
        self._require_open()
        if self._held:
            return 0
        room = self._directory / "room"
        most = int(room.read_text()) if room.exists() else 2 * int(self._capacity.cpu)
        return max(0, most - len(farm.names(self._directory / "jobs")))

    def avoid(self, hosts: Collection[str]) -> None:
        """Tell the farm."""
        farm.write(self._directory / "avoid", sorted(hosts))

    def close(self) -> None:
        """What runs goes on."""
        if not self._closed:
            self._closed = True
            self._wake_read.close()
            self._wake_write.close()

    def _there(self) -> set[str]:
        # In this order: the farm writes down an end before it takes the job away.
        jobs = farm.names(self._directory / "jobs")
        # What has been reported may still be there for a moment.
        return {*jobs, *farm.names(self._directory / "ended")} - self._reported

    def _die(self, when: str) -> None:
        file = self._directory / "tricks" / "die"
        if file.exists() and file.read_text() == when:
            file.unlink()
            os.kill(os.getpid(), signal.SIGKILL)

    def _trick(self, name: str) -> bool:
        return (self._directory / "tricks" / name).exists()

    def _hand_over(self) -> None:
        if self._trick("down"):
            return
        held, self._held = self._held, []
        for job in held:
            stored = {
                "command": job.command,
                "resources": [job.resources.cpu, job.resources.memory, job.resources.time],
                "log": job.log and os.path.abspath(job.log),
                "cwd": job.cwd or os.getcwd(),
                "env": dict(os.environ if job.env is None else job.env),
            }
            farm.write(self._directory / "jobs" / job.name, stored)
            self._given[job.name] = None
        cancels, self._cancels = self._cancels, []
        for name, grace in cancels:
            farm.write(self._directory / "cancel" / f"{name}.{os.getpid()}-{next(_numbers)}", grace)

    def _take_ends(self) -> list[End]:
        if self._trick("down"):
            return []
        ends = []
        there = self._there()
        for name in farm.names(self._directory / "ended"):
            if name not in self._mine:
                continue
            path = self._directory / "ended" / name
            ends.append(farm.end_from_json(json.loads(path.read_text())))
            path.unlink()
            self._mine.discard(name)
            self._reported.add(name)
            self._given.pop(name, None)
        now = time.monotonic()
        for name, since in list(self._given.items()):
            if name in there:
                self._given[name] = None
            elif since is None:
                self._given[name] = now
            elif now - since > _LOST_SECONDS and not self._trick("silent"):
                del self._given[name]
                ends.append(End(name, EndKind.LOST, detail="the farm has lost it"))
        return ends

    def _woken(self, seconds: float) -> bool:
        ready, _, _ = select.select([self._wake_read], [], [], seconds)
        if ready:
            with contextlib.suppress(BlockingIOError):
                while self._wake_read.recv(4096):
                    pass
        return bool(ready)

    def _require_open(self) -> None:
        if self._closed:
            raise BatchSystemError("this batch system has been closed; make a new one")
