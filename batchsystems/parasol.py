"""UCSC's Parasol as a batch system, by its own ``parasol`` command.

What Parasol is like, and what follows from it:

  - It splits commands at blanks and keeps no more than a line of them. So a job is a script in a directory of its own,
    and a submission is told by the path of that script, never by its number: numbers jump when the hub is restarted.
  - Cores and memory belong to a *batch*, which is a user and a results file. So each shape of request has a directory
    and a results file of its own. Jobs also run there, because a restarted hub writes the results of what was running
    into a file of that name in the job's directory.
  - It forgets what it was told to remove, sends it one SIGTERM, and writes no result. So what runs on the node is
    `parasol_job.py`, which kills when the grace is over and says in a file how everything ended.
  - A batch with 25 failures in a row is *sick*: its waiting jobs are dropped without a word. What is neither listed nor
    in a results file is lost, and a sick batch that still has jobs waiting and none running is cleared.
  - A hub that is down makes the command fail, and ``add job`` crash; whether a job was taken is then seen in the next
    listing. Nothing is submitted again before one has been read.

Results files are read as they grow. The hub is asked for one listing per interval, more rarely while nothing changes.
"""

from __future__ import annotations

import contextlib
import logging
import os
import time
from collections.abc import Iterable, Sequence
from typing import Optional

from batchsystems.abstract import (
    AbstractBatchSystem,
    BackendOption,
    BatchSystemError,
    End,
    EndKind,
    Reason,
    Setup,
    Submission,
)
from batchsystems.commands import Pause, Waiter
from batchsystems.parasol_commands import Hub, HubDown, Result, SickBatch, read_results
from batchsystems.parasol_files import Files

log = logging.getLogger("jobtree")

_TICK_SECONDS = 0.25
"""Between looks at results files while somebody waits in ``poll``."""
_SLOWEST = 12
"""While nothing changes, listings are up to so many intervals apart."""
_FIRST_PAUSE, _LONGEST_PAUSE = 1.0, 60.0
_BUDGET_SECONDS = 3.0
"""So long one call submits or removes; the rest follows in the next one."""
_MOST_SICK = 3
"""A batch that is sick again after so many clearings will not take the job."""
_LONGEST_PATH = 1000
"""A message to the hub has 1420 bytes; the job's paths stand in it three times, shortened by what they share."""
_QUEUED = 100
"""What may wait where the hub does not say how many cores it has."""


class _Job:
    """A submission that has not been reported."""

    __slots__ = (
        "batch", "cancelled", "doubtful", "grace", "id", "machine", "missing_since", "name", "removed",
        "sick",
    )  # fmt: skip

    def __init__(self, name: str, batch: str) -> None:
        self.name = name
        self.batch = batch  # the directory of its batch
        self.id: Optional[int] = None  # None: not submitted, as far as we know
        self.doubtful = False  # the hub did not answer when it was given to it
        self.machine = ""
        self.missing_since: Optional[float] = None
        self.cancelled = False
        self.grace = 0.0
        self.removed: Optional[float] = None  # when the hub was told to forget it
        self.sick = 0


class Parasol(AbstractBatchSystem):
    """Runs jobs on a Parasol cluster.

    `command` is the parasol program with options, `directory` one that all nodes see at the same place. `interval` and
    `patience` are seconds: between listings, and for which a job may be missing in them before it is lost.
    Raises BatchSystemError for a directory whose name Parasol cannot take.
    """

    outlives_master = True

    OPTIONS = (BackendOption("--parasolCommand", "The parasol program; default: parasol.", "parasol"),)

    def __init__(self, command: str, directory: str, interval: float = 5.0, patience: float = 60.0) -> None:
        directory = os.path.abspath(directory)
        if len(directory.split()) != 1 or len(os.fsencode(directory)) > _LONGEST_PATH // 3:
            raise BatchSystemError(
                f"Parasol cannot take the directory {directory!r}: it splits commands at blanks, and takes no more "
                f"than some {_LONGEST_PATH // 3} bytes. Give a --jobTree with a shorter name, without blanks."
            )
        self._hub = Hub(command)
        self._files = Files(directory)
        self._interval = interval
        self._patience = patience
        self._jobs: dict[str, _Job] = {}
        self._held: list[_Job] = []
        self._ends: list[End] = []
        self._offsets: dict[str, int] = {}
        self._failed: set[str] = set()  # batches with failures since they were last seen running
        self._stalled: dict[str, int] = {}
        self._sick_nodes: list[str] = []
        self._pause = Pause(_FIRST_PAUSE, _LONGEST_PAUSE)
        self._slower = 1.0
        self._next_listing = 0.0
        self._cpus: Optional[int] = None
        self._closed = False
        self._waiter = Waiter()

    @classmethod
    def create(cls, setup: Setup) -> AbstractBatchSystem:
        """Make one for a run. Raises BatchSystemError."""
        return cls(setup.options["parasolCommand"], setup.directory)

    # -- the contract ------------------------------------------------------------------------------------------

    def issue(self, submissions: Sequence[Submission]) -> None:
        """Write their scripts, and submit them as far as the hub answers."""
        self._require_open()
        seen = set(self._jobs)
        for submission in submissions:
            if submission.name in seen:
                raise BatchSystemError(
                    f"{submission.name} is already queued or running; each submission needs a name of its own"
                )
            seen.add(submission.name)
        for submission in submissions:
            job = _Job(submission.name, self._files.batch(self._files.write(submission)))
            self._jobs[job.name] = job
            self._held.append(job)
        self._hand_over()

    def cancel(self, names: Iterable[str], grace: float = 0.0) -> None:
        """Have their nodes end them, and the hub forget them."""
        self._require_open()
        self._read_results()
        for name in names:
            if name not in self._jobs and self._files.knows(name):
                self._adopt(name, "", None)  # an earlier instance's; the next listing tells its number
            job = self._jobs.get(name)
            if job is None or (job.cancelled and grace >= job.grace):
                continue
            job.cancelled, job.grace = True, grace
            self._files.cancel(name, grace)
            if job in self._held and not job.doubtful:
                self._held.remove(job)
                self._cancelled(job, "cancelled before it was submitted")
        self._hand_over()

    def poll(self, timeout: float) -> list[End]:
        """The ends not yet reported."""
        self._require_open()
        deadline = time.monotonic() + timeout
        while True:
            self._hand_over()
            self._read_results()
            self._look_at_cancelled()
            if time.monotonic() >= self._next_listing and (self._jobs or self._cpus is None):
                with contextlib.suppress(BatchSystemError):
                    self._list()
            left = deadline - time.monotonic()
            if self._ends or self._waiter.wait(min(deadline, time.monotonic() + _TICK_SECONDS)) or left <= 0:
                ends, self._ends = self._ends, []
                return ends

    def wake(self) -> None:
        """Make the current or else the next `poll` return at once."""
        self._waiter.wake()

    def list_issued(self, run: str) -> list[str]:
        """What the hub has of a run, and what waits here. Those of earlier instances are reported from now on."""
        self._require_open()
        for name, machine, id in self._list():
            if name.startswith(run + ".") and name not in self._jobs:
                self._adopt(name, machine, id)
        for name in self._files.ended(run):
            if name not in self._jobs:
                self._adopt(name, "", None)  # it has ended while nobody listened
        return sorted(name for name in self._jobs if name.startswith(run + "."))

    def running(self) -> list[str]:
        """Those that had a machine in the last listing."""
        self._require_open()
        return [job.name for job in self._jobs.values() if job.machine]

    def capacity(self) -> None:
        """How large a machine is the hub does not tell."""
        return

    def queue_room(self) -> int:
        """So that as many wait as there are cores."""
        self._require_open()
        if self._held:
            return 0
        if self._cpus is None and time.monotonic() >= self._pause.until:
            try:
                self._cpus = self._hub.cpus()
            except BatchSystemError as error:
                self._failed_to_ask(error)
        waiting = sum(not job.machine for job in self._jobs.values())
        return max(0, 2 * (self._cpus or _QUEUED // 2) - waiting)

    def close(self) -> None:
        """What runs goes on."""
        if not self._closed:
            self._closed = True
            for job in self._jobs.values():
                if self._files.end(job.name) is not None:  # over, and nobody will ask how any more
                    self._files.remove(job.name)
            self._waiter.close()

    def _require_open(self) -> None:
        if self._closed:
            raise BatchSystemError("this batch system has been closed; make a new one")

    # -- submitting and removing -------------------------------------------------------------------------------

    def _hand_over(self) -> None:
        """Submit what is held, remove what was cancelled, for as long as the hub answers and not for too long."""
        to_remove = [job for job in self._jobs.values() if job.cancelled and job.removed is None]
        if not self._held and not to_remove:
            return
        begin = time.monotonic()
        if begin < self._pause.until:
            return
        try:
            if any(job.doubtful for job in self._held) or any(job.id is None for job in to_remove):
                # Were they taken after all, are they perhaps over by now, and what are their numbers?
                self._list()
                self._read_results()
            self._remove(to_remove)
            if self._submit_held(begin):
                self._hub.plan()
        except SickBatch as error:
            self._pause.failed(str(error))
        except BatchSystemError as error:
            self._failed_to_ask(error)
        else:
            self._pause.worked()

    def _failed_to_ask(self, error: BatchSystemError) -> None:
        had = bool(self._pause.trouble)
        self._pause.failed(str(error))
        if not had:
            log.warning("Parasol cannot be asked: %s. It is tried again.", error)

    def _remove(self, jobs: Sequence[_Job]) -> None:
        for job in jobs:
            if job.name not in self._jobs or job.id is None:
                continue  # it is over, or was never submitted
            self._hub.remove(job.id)
            job.removed = time.monotonic()
            if not job.machine and not self._files.started(job.name):
                # Should it start all the same, it finds that it was cancelled.
                self._cancelled(job, "cancelled before it was started")

    def _submit_held(self, begin: float) -> set[str]:
        """Returns the batches that got something."""
        batches = set()
        while self._held and time.monotonic() - begin < _BUDGET_SECONDS:
            job = self._held[0]
            if job.cancelled and not job.doubtful:
                self._held.pop(0)
                self._cancelled(job, "cancelled before it was submitted")
                continue
            stored = self._files.read(job.name)
            cpu, memory = int(stored.get("cpu", 1)), int(stored.get("memory", 0))
            try:
                command = self._files.command(job.name)
                job.id = self._hub.add(command, _results(job.batch), job.batch, cpu, memory)
            except SickBatch as error:
                self._sick(job, error)
                raise
            except HubDown:
                job.doubtful = True
                raise
            self._held.pop(0)
            job.doubtful = False
            batches.add(job.batch)
        return batches

    def _sick(self, job: _Job, error: SickBatch) -> None:
        job.sick += 1
        if job.sick <= _MOST_SICK:
            self._hub.clear_sick(_results(job.batch))
            return
        self._held.remove(job)
        detail = f"{error}; also after its failures were cleared {_MOST_SICK} times"
        self._report(job, End(job.name, EndKind.KILLED, reason=Reason.NEVER_FITS, detail=detail))

    # -- hearing -----------------------------------------------------------------------------------------------

    def _read_results(self) -> None:
        """New lines of the results files of batches that have jobs."""
        for batch in {job.batch for job in self._jobs.values()}:
            offset = self._offsets.get(batch, 0)
            try:
                if os.stat(_results(batch)).st_size <= offset:
                    continue
                with open(_results(batch), "rb") as file:
                    file.seek(offset)
                    lines, size = read_results(file.read())
            except FileNotFoundError:
                continue
            except OSError as error:
                log.warning("%s cannot be read now: %s", _results(batch), error)
                continue
            self._offsets[batch] = offset + size
            for line in lines:
                job = self._jobs.get(self._files.name_of(line.command) or "")
                if job is not None:  # old lines are written again when a hub has been restarted
                    self._has_result(job, line)

    def _has_result(self, job: _Job, line: Result) -> None:
        if line.status:
            self._failed.add(job.batch)
        job.machine = line.machine
        status = line.status >> 8 if not line.status & 0x7F else -(line.status & 0x7F)
        self._ended(job, *(self._files.end(job.name) or (status, "")))

    def _look_at_cancelled(self) -> None:
        """Removed jobs get no result: their nodes say that they are over, or nobody does."""
        for job in [job for job in self._jobs.values() if job.removed is not None]:
            assert job.removed is not None
            end = self._files.end(job.name)
            if end is not None:
                self._ended(job, *end)
            elif time.monotonic() - job.removed > job.grace + self._patience:
                self._cancelled(job, "its node has not said that it is over")

    def _ended(self, job: _Job, status: int, detail: str) -> None:
        if job.cancelled:
            self._cancelled(job, detail, status if status >= 0 else None)
        elif status < 0:
            self._report(
                job,
                End(job.name, EndKind.KILLED, None, -status, Reason.SIGNAL, detail=detail, host=job.machine),
            )
        else:
            self._report(job, End(job.name, EndKind.FINISHED, status, detail=detail, host=job.machine))

    def _cancelled(self, job: _Job, detail: str, status: Optional[int] = None) -> None:
        end = End(job.name, EndKind.KILLED, status, None, Reason.CANCELLED, detail=detail, host=job.machine)
        self._report(job, end)

    def _report(self, job: _Job, end: End) -> None:
        del self._jobs[job.name]
        if job in self._held:
            self._held.remove(job)
        self._ends.append(end)
        self._files.remove(job.name)

    # -- listings ----------------------------------------------------------------------------------------------

    def _list(self) -> list[tuple[str, str, int]]:
        """Read a listing, and learn from it. Returns name, machine and number of all jobs in our directory."""
        self._next_listing = time.monotonic() + self._interval
        if self._cpus is None:
            self._cpus = self._hub.cpus()
        before = {job.name: job.machine for job in self._jobs.values()}
        found = []
        for id, machine, command in self._hub.listed():
            name = self._files.name_of(command)
            if name is not None:
                found.append((name, machine, id))
        self._compare({name: (machine, id) for name, machine, id in found})
        changed = before != {job.name: job.machine for job in self._jobs.values()}
        self._slower = 1.0 if changed else min(self._slower * 1.5, _SLOWEST)
        self._next_listing = time.monotonic() + self._interval * self._slower
        self._clear_stalled()
        return found

    def _compare(self, listed: dict[str, tuple[str, int]]) -> None:
        now = time.monotonic()
        for job in list(self._jobs.values()):
            if job.name in listed:
                job.machine, job.id = listed[job.name]
                job.missing_since = None
                if job.doubtful:  # it had been taken
                    job.doubtful = False
                    self._held.remove(job)
            elif job.doubtful:
                job.doubtful = False  # it had not, or it is over, and then there is a result
            elif job not in self._held and job.removed is None:
                job.missing_since = now if job.missing_since is None else job.missing_since
                end = self._files.end(job.name)
                if end is not None:
                    self._ended(job, *end)
                elif now - job.missing_since > self._patience:
                    detail = "Parasol no longer knows it and has written no result"
                    self._report(job, End(job.name, EndKind.LOST, detail=detail, host=job.machine))

    def _clear_stalled(self) -> None:
        """Clear batches in which something failed, something waits, and nothing has run for two listings; name sick
        nodes."""
        if not self._failed:
            return
        for batch in list(self._failed):
            jobs = [job for job in self._jobs.values() if job.batch == batch and job.id is not None]
            if not jobs:
                self._failed.discard(batch)
            elif any(job.machine for job in jobs):
                self._stalled.pop(batch, None)
            else:
                self._stalled[batch] = self._stalled.get(batch, 0) + 1
                if self._stalled[batch] >= 2:
                    del self._stalled[batch]
                    self._hub.clear_sick(_results(batch))
                    self._hub.plan()
        sick = self._hub.sick()
        if sick and sick != self._sick_nodes:
            log.warning(
                "Parasol uses these nodes no more for some batch, after failures: %s", ", ".join(sick)
            )
        self._sick_nodes = sick

    def _adopt(self, name: str, machine: str, id: Optional[int]) -> None:
        """A job of an earlier instance is reported by this one from now on."""
        batch = self._files.batch(str(self._files.read(name).get("batch", "unknown")))
        job = self._jobs[name] = _Job(name, batch)
        job.machine = machine
        job.id = id


def _results(batch: str) -> str:
    return os.path.join(batch, "para.results")
