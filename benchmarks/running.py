"""How a pipeline is run to be measured, and how its result is checked.

Each run is what a user would start: ``python SCRIPT --jobTree DIR ...`` in a process of its own, in a fresh directory
on a real disk, with all syncs on, on two cores. The clock runs from just before the process is started until it has
ended. Before that, what earlier runs left to be written to disk is written; afterwards, the clock stopped, the witness
and the tree's own counts are compared with what must be there, and the directory is removed. A wrong result ends the
benchmark: there is no figure for a run that did not do its work.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Callable, NamedTuple, Optional, TypeVar

from benchmarks import machine, witness
from benchmarks.witness import Seen

HERE = Path(__file__).resolve().parent
CHECKOUT = HERE.parent
STATUS = CHECKOUT / "bin" / "jobTreeStatus"
LONGEST = 1800.0
"""Seconds after which a run is given up."""

_LOOK = 0.1
"""Seconds between looks at the memory of a run's processes: what is read is a high-water mark, so the last look before
a process ends counts, and the processes in question live for seconds."""

T = TypeVar("T")


class WrongResult(Exception):
    """A pipeline did not do what it should have done."""


class Figure(NamedTuple):
    """One line of the table: what was measured, the figure reached, and the one asked for."""

    what: str
    value: float
    unit: str
    asked: float
    at_least: bool
    note: str

    @property
    def passed(self) -> bool:
        """Whether the figure asked for was reached."""
        return self.value >= self.asked if self.at_least else self.value <= self.asked


class Ran(NamedTuple):
    """A run that has ended as it should. Peaks in bytes, 0 where they were not watched."""

    seconds: float
    seen: Seen
    status: dict[str, Any]
    master_peak: int
    worker_peak: int


class Running:
    """A run on its way; with ``with``, so that nothing is left behind however it ends."""

    def __init__(self, directory: Path, command: Sequence[str], watch: bool = False) -> None:
        self.directory = directory
        self.tree = directory / "tree"
        self._command = [*command, "--jobTree", str(self.tree)]
        self._watch = _Watch() if watch else None
        self.begin()

    def begin(self) -> None:
        """Start the command; again, if it has been killed."""
        environment = machine.environment()
        with open(self.directory / "log", "ab") as log:
            self.began = time.monotonic()
            self.process = subprocess.Popen(
                self._command,
                cwd=self.directory,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        if self._watch is not None:
            self._watch.start(self.process.pid)

    def __enter__(self) -> Running:
        return self

    def __exit__(
        self,
        kind: Optional[type[BaseException]],
        error: Optional[BaseException],
        trace: Optional[TracebackType],
    ) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        if self._watch is not None:
            self._watch.stop()
        shutil.rmtree(self.directory, ignore_errors=True)

    def processes_below(self) -> list[int]:
        """The launcher and the workers, as far as the system tells (Linux)."""
        launchers = _children(self.process.pid)
        return launchers + [worker for launcher in launchers for worker in _children(launcher)]

    def kill(self) -> None:
        """kill -9 of the master."""
        self.process.kill()
        self.process.wait()

    def ended(self, expected: int = 0) -> float:
        """Wait for the end; how many seconds it took since it was started. WrongResult for another exit status."""
        # A plain wait returns at once; one with a timeout looks every 50 ms, which would be measured too.
        watchdog = threading.Timer(LONGEST, self.process.kill)
        watchdog.daemon = True
        watchdog.start()
        status = self.process.wait()
        seconds = time.monotonic() - self.began
        watchdog.cancel()
        if self._watch is not None:
            self._watch.stop()
        if status != expected:
            self.wrong(f"exit status {status}, where {expected} was expected")
        return seconds

    def checked(self, done: int) -> Ran:
        """Wait for the end and check the result: so many jobs done, and every target marked exactly once."""
        seconds = self.ended()
        status = self.status()
        expected = {"ready": 0, "issued": 0, "blocked": 0, "failed": 0, "done": done}
        if status["state"] != "complete" or status["counts"] != expected:
            self.wrong(
                f"jobTreeStatus says {status['state']}, {status['counts']}, and {done} jobs should be done"
            )
        seen = self.seen()
        complaint = seen.complaint()
        if complaint is not None:
            self.wrong(complaint)
        master, worker = (self._watch.master, self._watch.worker) if self._watch is not None else (0, 0)
        return Ran(seconds, seen, status, master, worker)

    def seen(self) -> Seen:
        """The witness as it is now."""
        return witness.read(str(self.directory))

    def status(self) -> dict[str, Any]:
        """What jobTreeStatus says."""
        command = [sys.executable, str(STATUS), "--json", "--verbose", str(self.tree)]
        answer = subprocess.run(command, capture_output=True, text=True)
        if answer.returncode:
            self.wrong(f"jobTreeStatus: {answer.stderr}")
        found: dict[str, Any] = json.loads(answer.stdout)
        return found

    def wrong(self, what: str) -> None:
        """Raise WrongResult, with the end of the run's log."""
        log = (self.directory / "log").read_text(errors="replace")
        raise WrongResult(f"{' '.join(self._command)}: {what}\n{log[-3000:]}")


class Bench:
    """Where runs take place, and how large they are. scale: 1 is the size that figures are asked for."""

    def __init__(self, directory: str, scale: float, slots: int) -> None:
        self.directory = directory
        self.scale = scale
        self.slots = slots
        self._number = 0
        self._known: dict[str, Any] = {}

    def start(self, script: str, *arguments: str, cells: int, width: int = 0, watch: bool = False) -> Running:
        """Start a pipeline in a fresh directory, with a witness for so many targets."""
        self._number += 1
        directory = Path(self.directory) / str(self._number)
        directory.mkdir()
        witness.make(str(directory), cells, width)
        if self.scale >= 1:
            os.sync()
        command = [sys.executable, str(HERE / script), *arguments, "--maxThreads", str(self.slots)]
        return Running(directory, command, watch)

    def scaled(self, number: int) -> int:
        """A number of targets in the size that was asked for; never so few that nothing can be seen."""
        return max(10, round(number * self.scale))

    def once(self, name: str, run: Callable[[], T]) -> T:
        """What run() returns; lines that measure different things of one run share it."""
        if name not in self._known:
            self._known[name] = run()
        found: T = self._known[name]
        return found

    def forget(self) -> None:
        """From here on runs are made again."""
        self._known.clear()

    @staticmethod
    def at_least(what: str, value: float, unit: str, asked: float, note: str = "") -> Figure:
        """A figure of which more is better."""
        return Figure(what, value, unit, asked, True, note)

    @staticmethod
    def at_most(what: str, value: float, unit: str, asked: float, note: str = "") -> Figure:
        """A figure of which less is better."""
        return Figure(what, value, unit, asked, False, note)


class _Watch:
    """Looks at the memory high-water marks (VmHWM) of a run's master and of its workers while it runs. Linux only."""

    def __init__(self) -> None:
        self.master = 0
        self.worker = 0
        self._stopped = threading.Event()
        self._thread: Optional[threading.Thread] = None

    def start(self, master: int) -> None:
        self._thread = threading.Thread(target=self._look, args=(master,), daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._stopped.set()
        if self._thread is not None:
            self._thread.join()

    def _look(self, master: int) -> None:
        while not self._stopped.wait(_LOOK):
            self.master = max(self.master, _peak(master))
            for launcher in _children(master):
                for worker in _children(launcher):
                    self.worker = max(self.worker, _peak(worker))


def _children(pid: int) -> list[int]:
    try:
        with open(f"/proc/{pid}/task/{pid}/children", encoding="ascii") as file:
            return [int(word) for word in file.read().split()]
    except OSError:
        return []


def _peak(pid: int) -> int:
    try:
        with open(f"/proc/{pid}/status", encoding="ascii", errors="replace") as file:
            for line in file:
                if line.startswith("VmHWM:"):
                    return int(line.split()[1]) * 1024
    except OSError:
        pass
    return 0


def raise_interrupt(*_: object) -> None:
    """A handler for SIGTERM, so that runs are ended and directories removed."""
    raise KeyboardInterrupt


def on_terminate() -> None:
    """Have SIGTERM end this process as Ctrl-C does."""
    signal.signal(signal.SIGTERM, raise_interrupt)
