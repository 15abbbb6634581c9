"""What all batch systems that hand on to a scheduler have in common: the contract, on top of a `Dialogue`.

What must hold
  - Nobody waits for the scheduler: what is said to it is said beside everything else (`batchsystems.dialogue`).
  - Its queue is kept short: twice what can run at one time. Jobs that have ended make room for others without anybody
    having to ask.
"""

from __future__ import annotations

import time
from abc import abstractmethod
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, Optional

from batchsystems.abstract import (
    AbstractBatchSystem,
    BackendOption,
    BatchSystemError,
    Capacity,
    End,
    NeverFits,
    Resources,
    Submission,
)
from batchsystems.array_jobs import Job
from batchsystems.commands import Answer, run
from batchsystems.dialogue import Dialogue
from batchsystems.scheduled import GPUS, Line, Request, capacity_of, is_name, slots_of, split_name

SYNC_SECONDS = 25.0
"""So long somebody waits who cannot go on without an answer: at the start, and in `list_issued`."""
_CLOSE_SECONDS = 10.0
_ROOM_UNKNOWN = 100
_MOST_JOBS = 1000
_ROOM_STEP = 8
"""There is room for an eighth of all at least, or for none: else each job would make an array of its own."""


class Scheduler(AbstractBatchSystem):
    """own_run: whose directory it is; most_jobs: that it may have queued and running, 0: twice what can run;
    default_minutes: time limit of jobs that do not say how long they take."""

    outlives_master = True

    def __init__(
        self,
        dialogue: Dialogue,
        env: Mapping[str, str],
        own_run: str,
        most_jobs: int,
        default_minutes: Optional[int],
    ) -> None:
        self._dialogue = dialogue
        self._jobs = dialogue.jobs
        self._env = env
        self._own_run = own_run
        self._most_jobs = most_jobs
        self._default_minutes = default_minutes
        self._closed = False

    @abstractmethod
    def _ask_for_all(self, key: str) -> list[Line]:
        """Everything that there is of a run, now. Raises BatchSystemError."""

    # -- the contract ------------------------------------------------------------------------------------------

    def issue(self, submissions: Sequence[Submission]) -> None:
        """Hand over submissions to be submitted as soon as the scheduler takes them."""
        self._require_open()
        seen: set[str] = set()
        capacity = self.capacity()
        for submission in submissions:
            name = submission.name
            if name in self._jobs.jobs or name in seen:
                raise BatchSystemError(
                    f"{name} is already queued or running; each submission needs a name of its own"
                )
            seen.add(name)
            if capacity is not None:
                _require_fit(submission, capacity)
        for submission in submissions:
            request = Request.of(submission.resources, self._default_minutes)
            job = self._jobs.jobs[submission.name] = Job(submission.name, submission, request)
            self._dialogue.held.append(job)
        self._turn()

    def cancel(self, names: Iterable[str], grace: float = 0.0) -> None:
        """End these jobs."""
        self._require_open()
        known = []
        for name in names:
            job = self._jobs.jobs.get(name)
            if job is not None:
                known.append((job, grace))
            elif is_name(name):
                self._dialogue.cancel_unknown(name, grace)
        self._dialogue.cancel(known)
        self._turn()

    def poll(self, timeout: float) -> list[End]:
        """The ends not yet reported."""
        self._require_open()
        deadline = time.monotonic() + timeout
        while True:
            self._turn()
            if self._jobs.ends:
                break
            if self._dialogue.wait(deadline) or time.monotonic() >= deadline:
                self._turn()
                break
        ends, self._jobs.ends = self._jobs.ends, []
        return ends

    def wake(self) -> None:
        """Make `poll` return."""
        self._dialogue.waiter.wake()

    def list_issued(self, run: str) -> list[str]:
        """Names of queued or running jobs of a run; asks the scheduler, and waits for its answer."""
        self._require_open()
        key = split_name(run + ".")[0]
        asked = time.monotonic()
        lines = self._ask_for_all(key)
        active = self._jobs.adopt(key, lines, asked, self._dialogue.output)
        if key == self._own_run:
            self._dialogue.sweep(lines)
        active.update(self._jobs.jobs)
        return sorted(name for name in active if name.startswith(run + "."))

    def running(self) -> list[str]:
        """Names of the jobs that were running when the scheduler was last asked."""
        self._require_open()
        return [job.name for job in self._jobs.jobs.values() if job.running]

    def capacity(self) -> Optional[Capacity]:
        """The largest machine."""
        return capacity_of(self._dialogue.nodes)

    def slots(self, resources: Resources) -> Optional[int]:
        """By cores and memory of the machines that may start jobs."""
        nodes = self._dialogue.nodes
        return slots_of(nodes, Request.of(resources, None)) if nodes else None

    def queue_room(self) -> int:
        """So that twice as many are there as can run."""
        self._require_open()
        if self._dialogue.is_submitting():
            return 0
        jobs, nodes = self._jobs.jobs, self._dialogue.nodes
        cores = max(1, -(-sum(job.request.cpus for job in jobs.values()) // max(1, len(jobs))))
        slots = slots_of(nodes, Request(cores, 0, None)) if nodes else None
        usual = _ROOM_UNKNOWN if slots is None else min(2 * max(1, slots), _MOST_JOBS)
        most = self._most_jobs or usual
        limit = self._dialogue.limit()
        if limit is not None:
            most = min(most, limit)
        room = max(0, most - len(jobs))
        return room if not jobs or room >= most // _ROOM_STEP else 0

    def why_waiting(self, name: str) -> str:
        """The scheduler's own state and reason, as it told them last."""
        job = self._jobs.jobs.get(name)
        if job is None:
            return ""
        return job.words or "it has not been asked about this job yet"

    def avoid(self, hosts: Collection[str]) -> None:
        """Exclude machines from what is submitted from now on; all of them cannot be."""
        known = {node.name for node in self._dialogue.nodes}
        excluded = frozenset(hosts) & known
        self._dialogue.exclude = excluded if excluded != known else frozenset()

    def forget(self, names: Iterable[str]) -> None:
        """Make room for others."""
        self._require_open()
        for name in names:
            self._jobs.forget(name)

    def close(self) -> None:
        """Do what was asked for, for some seconds at most; jobs go on."""
        if self._closed:
            return
        deadline = time.monotonic() + _CLOSE_SECONDS
        while self._dialogue.has_to_do() and time.monotonic() < deadline:
            self._turn()
            self._dialogue.wait(min(deadline, time.monotonic() + 0.5))
        self._closed = True
        self._dialogue.close()

    # -- inside ------------------------------------------------------------------------------------------------

    def _turn(self) -> None:
        self._dialogue.turn()

    def _run(self, arguments: Sequence[str]) -> Answer:
        return ask(arguments, self._env)

    def _require_open(self) -> None:
        if self._closed:
            raise BatchSystemError("this batch system has been closed; make a new one")


def values_of(options: Sequence[BackendOption], given: Mapping[str, Any]) -> dict[str, Any]:
    """The values of all options; their defaults where none is given."""
    return {o.name: o.default if given.get(o.name) is None else o.convert(given[o.name]) for o in options}


def ask(arguments: Sequence[str], env: Mapping[str, str]) -> Answer:
    """Run a command for somebody who cannot go on without its answer. Raises BatchSystemError."""
    try:
        return run(arguments, env, SYNC_SECONDS)
    except OSError as error:
        raise BatchSystemError(f"{arguments[0]} cannot be started: {error}") from error


def _require_fit(submission: Submission, capacity: Capacity) -> None:
    name, resources = submission.name, submission.resources
    if resources.cpu > capacity.cpu:
        raise NeverFits(name, "cores", resources.cpu, capacity.cpu)
    if resources.memory > capacity.memory:
        raise NeverFits(name, "memory", resources.memory, capacity.memory)
    gpus = resources.countable.get(GPUS, 0)
    if gpus > capacity.countable.get(GPUS, gpus):
        raise NeverFits(name, GPUS, gpus, capacity.countable[GPUS])
