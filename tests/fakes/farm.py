"""A scheduler of its own: a daemon that runs jobs on this machine, and whose only interface is a directory.

    python tests/fakes/farm.py DIRECTORY CORES BYTES

It lives on when its clients die, and they when it is killed (then its jobs die with it: a whole cluster losing power).
Jobs are run by `SingleMachine`, so queueing, process groups and signals are the real thing. In the directory:

    jobs/NAME       a submission, put there by a client; goes when its end is known
    running/NAME    it has been started
    ended/NAME      its end; a client takes it away
    cancel/NAME.N   a client wants it ended
    avoid           machines on which to start nothing
    tricks/         how to misbehave, a file each (see `TRICKS`)
    submitted       the names of all submissions that there ever were
"""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Optional

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[2])

from batchsystems.abstract import End, EndKind, Reason, Resources, Submission
from batchsystems.processes import PopenStarter
from batchsystems.single_machine import SingleMachine

TRICKS = {
    "hold": "start nothing",
    "lose": "forget submissions instead of taking them",
    "twice": "run each submission twice at once; the second one's end is told to nobody",
    "again": "run each submission again when it has ended, before that is told",
    "early": "say that a job has ended well as soon as it is started",
    "silent": "never say that a job has ended",
    "never": "say of each submission that it can never run",
    "verdict": "say of each end that it was for the reason that the file holds",
    "bad": "jobs die at once on the machine that the file names",
    "deaf": "cancel nothing",
    "down": "clients cannot ask, submit or cancel",
    "refuse": "clients are told that nothing more is taken",
    "die": "the client dies when it submits for the next time: before it, or after it, as the file says",
}

DIRECTORIES = ("jobs", "running", "ended", "cancel", "tricks")
HOSTS = ("node1", "node2")
_TICK_SECONDS = 0.02


def write(path: Path, value: Any) -> None:
    """Put a file there, whole."""
    new = path.with_name(f".{path.name}.{os.getpid()}")
    new.write_text(json.dumps(value))
    new.rename(path)


def names(directory: Path) -> list[str]:
    """The files there that are whole, oldest name first."""
    return sorted(name for name in os.listdir(directory) if not name.startswith("."))


def end_as_json(end: End) -> dict[str, Any]:
    """An end as a file holds it."""
    return {**dataclasses.asdict(end), "kind": end.kind.value, "reason": end.reason and end.reason.value}


def end_from_json(stored: dict[str, Any]) -> End:
    """The end that a file holds."""
    reason = stored["reason"] and Reason(stored["reason"])
    return End(**{**stored, "kind": EndKind(stored["kind"]), "reason": reason})


class _Starter(PopenStarter):
    """Says that a job is running before the job can say so itself."""

    def __init__(self, directory: Path) -> None:
        super().__init__()
        self._directory = directory

    def start(self, name: str, submission: Submission, gpus: Optional[Sequence[str]] = None) -> None:
        (self._directory / name).touch()
        super().start(name, submission, gpus)


class Farm:
    """The daemon."""

    def __init__(self, directory: Path, cpu: float, memory: int) -> None:
        self._directory = directory
        self._machine = SingleMachine(cpu, memory, _Starter(directory / "running"))
        self._known: set[str] = set()
        self._told: set[str] = set()
        self._hosts: dict[str, str] = {}
        self._next_host = 0
        self._again: dict[str, Submission] = {}

    def serve(self) -> None:
        """Until it is killed."""
        while True:
            self._take()
            self._cancel()
            self._tell_early()
            for end in self._machine.poll(_TICK_SECONDS):
                self._ended(end)

    def _trick(self, name: str) -> Optional[str]:
        try:
            return (self._directory / "tricks" / name).read_text().strip()
        except FileNotFoundError:
            return None

    def _take(self) -> None:
        if self._trick("hold") is not None:
            return
        for name in names(self._directory / "jobs"):
            if name in self._known:
                continue
            try:
                stored = json.loads((self._directory / "jobs" / name).read_text())
            except FileNotFoundError:
                continue
            self._known.add(name)
            with open(self._directory / "submitted", "a") as log:
                log.write(f"{name}\n")
            if self._trick("lose") is not None:
                (self._directory / "jobs" / name).unlink()
            elif self._trick("never") is not None:
                self._tell(End(name, EndKind.KILLED, reason=Reason.NEVER_FITS, detail="PartitionConfig"))
            else:
                self._start(name, stored)

    def _start(self, name: str, stored: dict[str, Any]) -> None:
        host = self._host()
        self._hosts[name] = host
        command = ("/bin/false",) if self._trick("bad") == host else tuple(stored["command"])
        resources = Resources(*stored["resources"])
        job = Submission(name, command, resources, stored["log"], stored["cwd"], stored["env"])
        self._machine.issue([job])
        if self._trick("twice") is not None:
            self._machine.issue([dataclasses.replace(job, name=f"{name}.twice")])
        if self._trick("again") is not None:
            self._again[name] = dataclasses.replace(job, name=f"{name}.again")

    def _host(self) -> str:
        avoided = self._directory / "avoid"
        avoid = json.loads(avoided.read_text()) if avoided.exists() else []
        self._next_host += 1
        usable = [host for host in HOSTS if host not in avoid] or list(HOSTS)
        return usable[self._next_host % len(usable)]

    def _cancel(self) -> None:
        for entry in names(self._directory / "cancel"):
            path = self._directory / "cancel" / entry
            name = entry.rpartition(".")[0]
            grace = json.loads(path.read_text())
            if name not in self._known and (self._directory / "jobs" / name).exists():
                continue  # held back; it is cancelled when it has been taken
            path.unlink()
            if self._trick("deaf") is None:
                self._machine.cancel([name, f"{name}.twice", f"{name}.again"], grace)

    def _tell_early(self) -> None:
        if self._trick("early") is not None:
            for name in self._machine.running():
                if name in self._hosts:
                    self._tell(End(name, EndKind.FINISHED, 0, host=self._hosts[name]))

    def _ended(self, end: End) -> None:
        (self._directory / "running" / end.name).unlink(missing_ok=True)
        if end.name.endswith(".again"):
            self._tell(dataclasses.replace(end, name=end.name[: -len(".again")]))
        elif end.name in self._again:
            self._machine.issue([self._again.pop(end.name)])
        elif end.name in self._hosts:
            self._tell(end)

    def _tell(self, end: End) -> None:
        if end.name in self._told:
            return
        self._told.add(end.name)
        verdict = self._trick("verdict")
        if verdict is not None:
            end = dataclasses.replace(
                end, kind=EndKind.KILLED, reason=Reason(verdict), detail="the farm says so"
            )
        end = dataclasses.replace(end, host=self._hosts.get(end.name, ""))
        if self._trick("silent") is None:
            write(self._directory / "ended" / end.name, end_as_json(end))
        for kind in ("running", "jobs"):
            (self._directory / kind / end.name).unlink(missing_ok=True)


def main() -> None:
    """The daemon's process."""
    directory, cpu, memory = Path(sys.argv[1]), float(sys.argv[2]), int(sys.argv[3])
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    Farm(directory, cpu, memory).serve()


if __name__ == "__main__":
    main()
