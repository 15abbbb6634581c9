"""The processes of a node of a pool: started, killed, measured, and known to the guard (batchsystems.pool_guard)."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from typing import Any, Optional

import psutil

from batchsystems import pool_guard
from batchsystems.abstract import Submission
from batchsystems.processes import PopenStarter, ProcessEnd


class GuardedStarter(PopenStarter):
    """Starts processes whose groups the guard kills when the lease has run out, or this process has died.

    lease: seconds after the beginning of the last beat that was answered.
    """

    def __init__(self, lease: float) -> None:
        super().__init__()
        self._lease = lease
        self._begun = "begun 0"
        self._groups: dict[str, int] = {}
        self._guard = self._start_guard()

    def start(self, name: str, submission: Submission, gpus: Optional[Sequence[str]] = None) -> None:
        """Start the command; see `Starter.start`."""
        super().start(name, submission, gpus)
        child = self._children.get(name)
        if child is not None:
            self._groups[name] = child.pid
            self._tell(f"+ {child.pid}")

    def ended(self) -> list[ProcessEnd]:
        """The ends not told before; does not wait."""
        ends = super().ended()
        for end in ends:
            group = self._groups.pop(end.name, None)
            if group is not None:
                self._tell(f"- {group}")
        return ends

    def answered(self, begun: float) -> None:
        """The hub has answered a beat that was begun at this moment."""
        self._begun = f"begun {begun!r}"
        self._tell(self._begun)

    def groups(self) -> Mapping[str, int]:
        """Of each job that runs the leader of its process group."""
        return self._groups

    def close(self) -> None:
        """Kill everything, and end the guard."""
        super().close()
        assert self._guard.stdin is not None
        self._guard.stdin.close()
        self._guard.wait()

    def _start_guard(self) -> subprocess.Popen[bytes]:
        path = os.path.abspath(pool_guard.__file__)
        return subprocess.Popen(
            [sys.executable, "-I", "-S", path, repr(self._lease)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            bufsize=0,
            start_new_session=True,
        )

    def _tell(self, line: str) -> None:
        assert self._guard.stdin is not None
        try:
            if self._guard.poll() is None:
                self._guard.stdin.write(line.encode() + b"\n")
                return
        except BrokenPipeError:
            pass
        # Somebody has killed it: another one takes over, and is told everything.
        self._guard.stdin.close()
        self._guard.wait()
        self._guard = self._start_guard()
        assert self._guard.stdin is not None
        known = [self._begun, *(f"+ {group}" for group in self._groups.values())]
        self._guard.stdin.write("".join(f"{each}\n" for each in known).encode())


def measure(groups: Mapping[str, int]) -> dict[str, Any]:
    """How the machine is: its load and memory, and the memory (bytes) and CPU time (s) of each job's processes."""
    memory = psutil.virtual_memory()
    jobs = {}
    if groups:
        children: dict[int, list[psutil.Process]] = {}
        for process in psutil.process_iter():
            try:
                children.setdefault(process.ppid(), []).append(process)
            except psutil.Error:
                continue  # gone meanwhile
        for name, leader in groups.items():
            jobs[name] = _of_tree(leader, children)
    return {
        "load": [round(value, 2) for value in psutil.getloadavg()],
        "memory_total": memory.total,
        "memory_available": memory.available,
        "jobs": jobs,
    }


def _of_tree(leader: int, children: Mapping[int, list[psutil.Process]]) -> dict[str, float]:
    memory, cpu = 0, 0.0
    try:
        waiting = [psutil.Process(leader)]
    except psutil.Error:
        waiting = []
    while waiting:
        process = waiting.pop()
        waiting += children.get(process.pid, [])
        try:
            with process.oneshot():
                memory += process.memory_info().rss
                times = process.cpu_times()
        except psutil.Error:
            continue
        # Those of children that have ended are with their parents.
        cpu += times.user + times.system + times.children_user + times.children_system
    return {"memory": memory, "cpu": round(cpu, 2)}
