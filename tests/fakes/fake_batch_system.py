"""A batch system for tests of what uses one: jobs end when the test says so, and all that was asked is recorded.

It passes the conformance suite when it is told to run its commands, so what tests learn from it can be trusted. Time
stands still in it: `poll` never waits; when it has nothing to tell it calls `on_idle`, where a test can make the next
thing happen.
"""

from __future__ import annotations

import signal as signals
from collections.abc import Collection, Iterable, Sequence
from typing import Callable, Optional

from batchsystems.abstract import (
    AbstractBatchSystem,
    BatchSystemError,
    Capacity,
    End,
    EndKind,
    NeverFits,
    Reason,
    Resources,
    Submission,
)
from batchsystems.single_machine import SingleMachine


class FakeBatchSystem(AbstractBatchSystem):
    """Records what is issued and cancelled; `finish`, `kill` and `lose` end jobs. All issued jobs count as running.

    `cpu`, `memory`  capacity, in cores and bytes; larger requests are refused
    `room`           `queue_room` is this less the jobs that have not ended
    `obeys_cancel`   whether a cancelled job ends at once; if not, the test ends it
    `outlives`       whether jobs stay when this is closed; `successor` is then what the next master gets
    `run_commands`   really run them, on this machine; `finish` and the like are then not for use

    What it records: `issued` (submissions, in order), `calls` (the lengths of `issue` calls), `cancelled` (name and
    grace, of every name in every call), `timeouts` (of `poll` calls), `avoided` (the last set), `wakes`, `closed`.

    What a test may set: `refusal` is raised by `issue`; `deaf`, then `list_issued` cannot give an answer;
    `slot_count` is the answer of `slots`.
    """

    def __init__(
        self,
        cpu: float = 8.0,
        memory: int = 16 << 30,
        room: int = 1000,
        obeys_cancel: bool = True,
        outlives: bool = False,
        run_commands: bool = False,
    ) -> None:
        self.room = room
        self.obeys_cancel = obeys_cancel
        self.outlives_master = outlives
        self.on_idle: Optional[Callable[[], None]] = None
        self.refusal: Optional[BatchSystemError] = None
        self.deaf = False
        self.slot_count: Optional[int] = None
        self.avoided: frozenset[str] = frozenset()
        self.issued: list[Submission] = []
        self.calls: list[int] = []
        self.cancelled: list[tuple[str, float]] = []
        self.timeouts: list[float] = []
        self.wakes = 0
        self.closed = False
        self._capacity = Capacity(cpu, memory)
        self._active: dict[str, Submission] = {}
        self._ends: list[End] = []
        self._machine = SingleMachine(cpu, memory) if run_commands else None

    # What the test says.

    def finish(
        self,
        name: str,
        status: int = 0,
        peak_memory: Optional[int] = None,
        cpu_seconds: Optional[float] = None,
        detail: str = "",
    ) -> None:
        """The job exits with this status; memory in bytes. Raises KeyError if there is no such job."""
        self._end(End(name, EndKind.FINISHED, status, None, None, peak_memory, cpu_seconds, detail))

    def kill(
        self,
        name: str,
        reason: Reason = Reason.SIGNAL,
        signal: Optional[int] = signals.SIGKILL,
        detail: str = "",
    ) -> None:
        """The job is killed for this reason. Raises KeyError if there is no such job."""
        self._end(End(name, EndKind.KILLED, signal=signal, reason=reason, detail=detail))

    def lose(self, name: str, detail: str = "") -> None:
        """Nobody knows how the job ended. Raises KeyError if there is no such job."""
        self._end(End(name, EndKind.LOST, detail=detail))

    def submission(self, name: str) -> Submission:
        """What was issued under this name, ended or not. Raises KeyError if nothing was."""
        for submission in reversed(self.issued):
            if submission.name == name:
                return submission
        raise KeyError(name)

    def active(self) -> list[Submission]:
        """The jobs that have not ended, in the order in which they were issued."""
        return list(self._active.values())

    def successor(self) -> FakeBatchSystem:
        """What the next master gets after this one died: the same jobs if they outlive it, else none. Ends that
        were not polled are told by the successor, as a scheduler would."""
        capacity = self._capacity
        heir = FakeBatchSystem(
            capacity.cpu, capacity.memory, self.room, self.obeys_cancel, self.outlives_master
        )
        if self.outlives_master:
            heir.issued = list(self.issued)
            heir._active, heir._ends = dict(self._active), list(self._ends)
        self.close()
        return heir

    # The interface.

    def issue(self, submissions: Sequence[Submission]) -> None:
        """Record the submissions. Raises NeverFits, BatchSystemError."""
        self._require_open()
        if self.refusal is not None:
            raise self.refusal
        if self._machine is not None:
            self._machine.issue(submissions)
        else:
            self._check(submissions)
            self._active.update((submission.name, submission) for submission in submissions)
        self.calls.append(len(submissions))
        self.issued += submissions

    def cancel(self, names: Iterable[str], grace: float = 0.0) -> None:
        """Record the names, and end those jobs if `obeys_cancel`."""
        self._require_open()
        names = list(names)
        self.cancelled += [(name, grace) for name in names]
        if self._machine is not None:
            self._machine.cancel(names, grace)
        elif self.obeys_cancel:
            for name in names:
                if name in self._active:
                    self.kill(name, Reason.CANCELLED)

    def poll(self, timeout: float) -> list[End]:
        """The ends that the test has made; calls `on_idle` first if there are none."""
        self._require_open()
        self.timeouts.append(timeout)
        if self._machine is not None:
            return self._machine.poll(timeout)
        if not self._ends and self.on_idle is not None:
            self.on_idle()
        ends, self._ends = self._ends, []
        return ends

    def wake(self) -> None:
        """Count it; `poll` never waits anyway."""
        self.wakes += 1
        if self._machine is not None:
            self._machine.wake()

    def list_issued(self, run: str) -> list[str]:
        """Names of this run's jobs that have not ended."""
        self._require_open()
        if self.deaf:
            raise BatchSystemError("nobody answers")
        if self._machine is not None:
            return self._machine.list_issued(run)
        return [name for name in self._active if name.startswith(run + ".")]

    def running(self) -> list[str]:
        """Names of all jobs that have not ended."""
        self._require_open()
        return list(self._active) if self._machine is None else self._machine.running()

    def capacity(self) -> Capacity:
        """As the constructor was told."""
        return self._capacity

    def queue_room(self) -> int:
        """`room` less the jobs that have not ended."""
        self._require_open()
        return max(0, self.room - len(self._active)) if self._machine is None else self._machine.queue_room()

    def slots(self, resources: Resources) -> Optional[int]:
        """As the test says."""
        return self.slot_count

    def avoid(self, hosts: Collection[str]) -> None:
        """Record them."""
        self.avoided = frozenset(hosts)

    def close(self) -> None:
        """No more calls from here on."""
        self.closed = True
        if self._machine is not None:
            self._machine.close()

    def _end(self, end: End) -> None:
        del self._active[end.name]
        self._ends.append(end)

    def _require_open(self) -> None:
        if self.closed:
            raise BatchSystemError("this batch system has been closed; make a new one")

    def _check(self, submissions: Sequence[Submission]) -> None:
        seen = set(self._active)
        for submission in submissions:
            name, resources = submission.name, submission.resources
            if name in seen:
                raise BatchSystemError(
                    f"{name} is already queued or running; each submission needs its own name"
                )
            seen.add(name)
            if resources.cpu > self._capacity.cpu:
                raise NeverFits(name, "cores", resources.cpu, self._capacity.cpu)
            if resources.memory > self._capacity.memory:
                raise NeverFits(name, "memory", resources.memory, self._capacity.memory)
