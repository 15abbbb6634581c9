"""This machine as a batch system: a queue in memory, and never more cores or memory promised than there are.

Cores are counted in whole thousandths: a thousand starts and ends of a third of a core leave no drift. Fractions of a
thousandth are dropped, so that three thirds fit in one core. Graphics cards are lent to one job each.

The queue is first come, first served, with overtaking: a job that fits starts although an older one, which does
not fit now, still waits. Alone that would starve large jobs. So starts past the oldest waiting job are counted, and
after `overtake_limit` of them nothing more starts until it has. A count and not a time: the same submissions then
start in the same order on a slow machine.
"""

from __future__ import annotations

import math
import select
import signal
import socket
import time
from bisect import bisect_right, insort
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from typing import Optional

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
    human_bytes,
)
from batchsystems.machine import usable_cores, usable_gpus, usable_memory
from batchsystems.processes import PopenStarter, ProcessEnd, Starter

# Each running process costs a descriptor or two, and the usual limit is 1024. Reached only by jobs that ask for
# little or nothing, which are not bounded by cores.
_MOST_RUNNING = 256

# Overtaking a job that waits for the whole machine is allowed for about this many rounds of a full machine. Emptying
# the machine for it wastes up to one round of idle cores, so this bounds the waste to some ten per cent.
_ROUNDS_OF_OVERTAKING = 8

# One system call waits no longer than this; `poll` goes round again. Keeps infinite timeouts out of C integers.
_LONGEST_WAIT_SECONDS = 3600.0

GPUS = "gpus"

Shape = tuple[int, int, int]  # thousandths of a core, bytes, graphics cards


def shape_of(resources: Resources) -> Shape:
    """What is booked for a request: whole thousandths of a core, bytes, and graphics cards."""
    # 0.57 * 1000 is a little less than 570 in floating point.
    return int(resources.cpu * 1000 + 1e-6), resources.memory, resources.countable.get(GPUS, 0)


class WaitingJobs:
    """The queue: which job starts next when this much is free.

    Jobs of one shape wait in one line, since among them only the oldest can be next. Finding the next costs a look
    at each line, not at each job. A number says how old a job is.
    """

    __slots__ = ("_jumped", "_lines", "_next_number", "_places", "overtake_limit")

    def __init__(self, overtake_limit: int) -> None:
        self.overtake_limit = overtake_limit
        self._lines: dict[Shape, OrderedDict[int, Submission]] = {}
        self._places: dict[str, tuple[Shape, int]] = {}
        self._next_number = 0
        # Numbers of the jobs that started past the oldest one that waits, in order: at most `overtake_limit`. Those
        # that are older than the next oldest did not overtake it, so cutting the front off keeps the count exact.
        self._jumped: list[int] = []

    def __len__(self) -> int:
        return len(self._places)

    def __contains__(self, name: object) -> bool:
        return name in self._places

    def names(self) -> list[str]:
        """Names of the waiting jobs, oldest first."""
        return list(self._places)

    def asked(self, name: str) -> Optional[Shape]:
        """What a waiting job asks for; None if it does not wait."""
        place = self._places.get(name)
        return place[0] if place is not None else None

    def add(self, submission: Submission) -> None:
        """Put a job at the end."""
        shape = shape_of(submission.resources)
        self._lines.setdefault(shape, OrderedDict())[self._next_number] = submission
        self._places[submission.name] = (shape, self._next_number)
        self._next_number += 1

    def remove(self, name: str) -> Submission:
        """Take a job out, wherever it is."""
        shape, number = self._places.pop(name)
        line = self._lines[shape]
        submission = line.pop(number)
        if not line:
            del self._lines[shape]
        return submission

    def take_next(
        self, free_cpu: int, free_memory: int, free_gpus: int = 0
    ) -> Optional[tuple[Shape, Submission]]:
        """Take out the job that starts now, with what is booked for it; None: none may.

        It is the oldest that fits, unless the oldest of all does not and has been overtaken often enough.
        """
        oldest = self._next_number
        fitting = self._next_number
        for asked, line in self._lines.items():
            number = next(iter(line))
            oldest = min(oldest, number)
            cpu, memory, gpus = asked
            if number < fitting and cpu <= free_cpu and memory <= free_memory and gpus <= free_gpus:
                fitting, shape = number, asked
        if fitting == self._next_number:
            return None
        if fitting > oldest:
            if self._jumped and self._jumped[0] < oldest:
                del self._jumped[: bisect_right(self._jumped, oldest)]
            if len(self._jumped) >= self.overtake_limit:
                return None
            insort(self._jumped, fitting)
        submission = self._lines[shape][fitting]
        self.remove(submission.name)
        return shape, submission


class _Running:
    """A started job."""

    __slots__ = ("cancelled", "gpus", "kill_at", "shape")

    def __init__(self, shape: Shape, gpus: Sequence[str]) -> None:
        self.shape = shape
        self.gpus = gpus
        self.cancelled = False
        self.kill_at: Optional[float] = None  # on the monotonic clock; None: nobody waits to kill it


class SingleMachine(AbstractBatchSystem):
    """Runs jobs on this machine; they die with this process as far as the starter can see to that.

    `cpu` (cores) and `memory` (bytes) are what jobs may have together; None: what this process may use of the machine.
    Values given are taken at their word. `starter` starts the processes, and is closed with this object. `gpus` is how
    many graphics cards there are for jobs that reserve some, numbered from 0; jobs that reserve none then see none.
    With None they are those that this process may use, and hidden from nobody who did not ask.
    Raises ValueError for a `cpu` or `memory` that is not more than 0.
    """

    outlives_master = False

    def __init__(
        self,
        cpu: Optional[float] = None,
        memory: Optional[int] = None,
        starter: Optional[Starter] = None,
        gpus: Optional[int] = None,
    ) -> None:
        self._hides_gpus = gpus is not None
        self._free_gpus = list(usable_gpus() if gpus is None else map(str, range(gpus)))
        self._capacity = Capacity(0, 0, {GPUS: len(self._free_gpus)})
        self._free_cpu = self._free_memory = 0
        self._waiting = WaitingJobs(0)
        self._set_limits(cpu, memory)
        self._running: dict[str, _Running] = {}
        self._dying: dict[str, _Running] = {}  # those with a `kill_at`
        self._ends: list[End] = []
        self._closed = False
        self._starter: Starter = PopenStarter() if starter is None else starter
        self._wake_read, self._wake_write = socket.socketpair()
        self._wake_read.setblocking(False)
        self._wake_write.setblocking(False)
        self._poller = select.poll()
        self._poller.register(self._starter.fileno(), select.POLLIN)
        self._poller.register(self._wake_read, select.POLLIN)

    def issue(self, submissions: Sequence[Submission]) -> None:
        """Queue the submissions and start what fits. Raises NeverFits, BatchSystemError."""
        self._require_open()
        self._check(submissions)
        for submission in submissions:
            self._waiting.add(submission)
        self._start_waiting()

    def cancel(self, names: Iterable[str], grace: float = 0.0) -> None:
        """End these jobs; `grace` in seconds."""
        self._require_open()
        # A job that has ended by now ended by itself, even if nobody has been told yet.
        self._collect()
        for name in names:
            if name in self._waiting:
                self._waiting.remove(name)
                detail = "cancelled before it was started"
                self._ends.append(End(name, EndKind.KILLED, reason=Reason.CANCELLED, detail=detail))
            elif name in self._running:
                self._end_running(name, self._running[name], grace)
        self._start_waiting()

    def poll(self, timeout: float) -> list[End]:
        """The ends not yet reported; waits at most `timeout` seconds for one."""
        self._require_open()
        deadline = time.monotonic() + timeout
        while True:
            self._kill_overdue()
            self._start_waiting()
            woken = self._wait(deadline)
            self._start_waiting()  # those that ended have made room: fill it before the caller goes to work
            if self._ends or woken or time.monotonic() >= deadline:
                ends, self._ends = self._ends, []
                return ends

    def wake(self) -> None:
        """Make the current or else the next `poll` return at once."""
        try:
            self._wake_write.send(b".")
        except OSError:
            pass  # full, so `poll` returns anyway; or closed

    def list_issued(self, run: str) -> list[str]:
        """Names of queued or running jobs of this run."""
        self._require_open()
        prefix = run + "."
        return [name for name in (*self._running, *self._waiting.names()) if name.startswith(prefix)]

    def running(self) -> list[str]:
        """Names of the jobs that are running."""
        self._require_open()
        return list(self._running)

    def capacity(self) -> Capacity:
        """What all jobs may have together, hence the largest single request."""
        return self._capacity

    def counts(self, name: str) -> bool:
        """Graphics cards are counted here."""
        return name == GPUS

    def why_waiting(self, name: str) -> str:
        """What it asks for, and what is free."""
        asked = self._waiting.asked(name)
        if asked is None:
            return ""
        cpu, memory, gpus = asked
        cards = (f", {gpus} graphics cards", f", {len(self._free_gpus)} graphics cards") if gpus else ("", "")
        return (
            f"it waits for {cpu / 1000:g} cores, {human_bytes(memory)}{cards[0]}; there are "
            f"{max(0, self._free_cpu) / 1000:g} cores, {human_bytes(max(0, self._free_memory))}{cards[1]} free"
        )

    def set_limits(self, cpu: Optional[float], memory: Optional[int]) -> None:
        """From now on; None: what this process may use of the machine. Raises ValueError as the constructor does."""
        self._require_open()
        self._set_limits(cpu, memory)

    def _set_limits(self, cpu: Optional[float], memory: Optional[int]) -> None:
        cpu = usable_cores() if cpu is None else cpu
        memory = usable_memory() if memory is None else memory
        if not 0 < cpu < math.inf or not 0 < memory < math.inf:
            raise ValueError(
                f"a machine with {cpu!r} cores and {memory!r} bytes; expected more than 0 of both"
            )
        before = shape_of(Resources(self._capacity.cpu, self._capacity.memory))
        self._capacity = Capacity(cpu, memory, self._capacity.countable)
        after = shape_of(Resources(cpu, memory))
        # Below 0 while more is running than may from now on.
        self._free_cpu += after[0] - before[0]
        self._free_memory += after[1] - before[1]
        self._slots = max(1, int(cpu))
        self._most_running = max(_MOST_RUNNING, 4 * self._slots)
        self._waiting.overtake_limit = max(16, _ROUNDS_OF_OVERTAKING * self._slots)

    def queue_room(self) -> int:
        """One submission for each free core and one more for each slot, less what is queued."""
        self._require_open()
        return max(0, self._free_cpu // 1000 + self._slots - len(self._waiting))

    def close(self) -> None:
        """Kill what runs, forget what is queued, free everything."""
        if self._closed:
            return
        self._closed = True
        self._starter.close()
        self._wake_read.close()
        self._wake_write.close()

    def _require_open(self) -> None:
        if self._closed:
            raise BatchSystemError("this batch system has been closed; make a new one")

    def _check(self, submissions: Sequence[Submission]) -> None:
        """Refuse the whole call, before anything of it is queued, if one submission cannot be taken."""
        most_cpu, most_memory, _ = shape_of(Resources(self._capacity.cpu, self._capacity.memory))
        most_gpus = self._capacity.countable[GPUS]
        seen = set()
        for submission in submissions:
            name = submission.name
            if name in seen or name in self._running or name in self._waiting:
                raise BatchSystemError(
                    f"{name} is already queued or running; each submission needs a name of its own"
                )
            seen.add(name)
            cpu, memory, gpus = shape_of(submission.resources)
            if cpu > most_cpu:
                raise NeverFits(name, "cores", submission.resources.cpu, self._capacity.cpu)
            if memory > most_memory:
                raise NeverFits(name, "memory", memory, most_memory)
            if gpus > most_gpus:
                raise NeverFits(name, GPUS, gpus, most_gpus)

    def _start_waiting(self) -> None:
        while self._waiting and len(self._running) < self._most_running:
            taken = self._waiting.take_next(self._free_cpu, self._free_memory, len(self._free_gpus))
            if taken is None:
                return
            shape, submission = taken
            self._start(submission.name, submission, shape)

    def _start(self, name: str, submission: Submission, shape: Shape) -> None:
        self._free_cpu -= shape[0]
        self._free_memory -= shape[1]
        gpus, self._free_gpus = self._free_gpus[: shape[2]], self._free_gpus[shape[2] :]
        self._running[name] = _Running(shape, gpus)
        self._starter.start(name, submission, gpus if gpus or self._hides_gpus else None)

    def _wait(self, deadline: float) -> bool:
        """Wait until something has ended, a grace is over, `wake` was called or the deadline; whether it was `wake`."""
        seconds = 0.0
        if not self._ends:
            until = min(
                (job.kill_at for job in self._dying.values() if job.kill_at is not None), default=deadline
            )
            seconds = min(max(0.0, min(until, deadline) - time.monotonic()), _LONGEST_WAIT_SECONDS)
        woken = False
        for descriptor, _ in self._poller.poll(math.ceil(seconds * 1000)):
            if descriptor == self._wake_read.fileno():
                woken = True
                self._drain_wake()
            else:
                self._collect()
        return woken

    def _drain_wake(self) -> None:
        try:
            while self._wake_read.recv(4096):
                pass
        except BlockingIOError:
            pass

    def _collect(self) -> None:
        for process_end in self._starter.ended():
            job = self._running.pop(process_end.name)
            self._dying.pop(process_end.name, None)
            self._free_cpu += job.shape[0]
            self._free_memory += job.shape[1]
            self._free_gpus.extend(job.gpus)
            self._ends.append(_end_of(process_end, job.cancelled))

    def _end_running(self, name: str, job: _Running, grace: float) -> None:
        if grace <= 0:
            self._kill(name, job)
            return
        kill_at = time.monotonic() + grace
        if not job.cancelled:
            job.cancelled = True
            job.kill_at = kill_at
            self._dying[name] = job
            self._starter.signal(name, signal.SIGTERM)
        elif job.kill_at is not None:
            job.kill_at = min(job.kill_at, kill_at)

    def _kill_overdue(self) -> None:
        if self._dying:
            now = time.monotonic()
            for name, job in list(self._dying.items()):
                if job.kill_at is not None and job.kill_at <= now:
                    self._kill(name, job)

    def _kill(self, name: str, job: _Running) -> None:
        job.cancelled = True
        job.kill_at = None
        self._dying.pop(name, None)
        self._starter.signal(name, signal.SIGKILL)


def _end_of(process_end: ProcessEnd, cancelled: bool) -> End:
    """What a process's end means: an exit status, a signal, our own doing, or nothing that anybody knows."""
    status: Optional[int] = None
    signum: Optional[int] = None
    if process_end.wait_status is not None:
        if process_end.wait_status & 0x7F:
            signum = process_end.wait_status & 0x7F
        else:
            status = process_end.wait_status >> 8 & 0xFF
    reason: Optional[Reason] = None
    if cancelled:
        kind, reason = EndKind.KILLED, Reason.CANCELLED
    elif signum is not None:
        kind, reason = EndKind.KILLED, Reason.SIGNAL
    elif status is not None:
        kind = EndKind.FINISHED
    else:
        kind = EndKind.LOST
    return End(
        process_end.name,
        kind,
        status,
        signum,
        reason,
        process_end.peak_memory,
        process_end.cpu_seconds,
        process_end.detail,
    )
