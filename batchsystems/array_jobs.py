"""What is known of the jobs that a scheduler was given, and what its answers make of it. No commands, files, clock.

What must hold
  - A job is known by the token of its array and its index there, and by the time at which the scheduler took it; never
    by its number alone, which may be another job's by now.
  - Only a complete answer to a question that was asked after a submission was acknowledged says anything by its
    silence: a job that is missing in such answers for a while is asked for in the accounts, and if nobody knows it,
    it is lost.
  - Each job is reported once. Jobs that an earlier instance has submitted are reported when they have been adopted.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping, Sequence
from typing import Callable, Optional, Protocol

from batchsystems.abstract import End, EndKind, Reason, Submission
from batchsystems.scheduled import Line, Request, split_name


class Meaning(Protocol):
    """What the words of one scheduler mean; a module of functions (`slurm_ends`) is one."""

    SCHEDULER: str
    """What people call it."""

    def is_over(self, line: Line) -> bool:
        """Whether the line tells of an end."""

    def is_running(self, line: Line) -> bool:
        """Whether it tells of a job that has been started and is not over."""

    def will_never_start(self, line: Line) -> Optional[EndKind]:
        """Whether a waiting job waits in vain: KILLED (it asks for what it will not get), LOST (its start went wrong,
        and is not tried again); None: it may yet start."""

    def end_of(self, name: str, line: Line, cancelled: bool, command: str, evidence: str) -> Optional[End]:
        """The end that a line tells of. cancelled: by us; command: what was to run; evidence: what the array wrote."""


class Array:
    """One submission. `number`: as the scheduler has said; None: not yet, or nobody knows what it said."""

    __slots__ = ("acknowledged", "asked", "names", "number", "output", "run", "submitted", "token")

    def __init__(self, token: str, run: str, output: str) -> None:
        self.token = token
        self.run = run
        self.output = output
        self.number: Optional[str] = None
        self.acknowledged: Optional[float] = None  # when it was, on our clock
        self.asked: Optional[float] = (
            None  # when a submission ended of which nobody knows whether it was heard
        )
        self.submitted = ""  # when it was, on the scheduler's clock and in its words
        self.names: dict[int, str] = {}


class Job:
    """A job that was not reported yet."""

    __slots__ = (
        "array", "cancel_sent", "cancelled", "host", "index", "kill_at", "missing", "name", "never", "request",
        "running", "submission", "told", "words",
    )  # fmt: skip

    def __init__(self, name: str, submission: Optional[Submission], request: Request) -> None:
        self.name = name
        self.submission = submission
        self.request = request
        self.array: Optional[Array] = None  # None: not handed over yet
        self.index = 0
        self.running = False
        self.host = ""  # where it runs, as far as has been said
        self.words = ""  # what the scheduler said of it last
        self.told: Optional[End] = None  # an end of which the accounts may know more
        self.missing: Optional[float] = None  # since when it is not to be seen
        self.never: Optional[float] = None  # since when it is said that it will not start
        self.cancelled = False
        self.cancel_sent: Optional[float] = None
        self.kill_at: Optional[float] = None


class Jobs:
    """All jobs that were not reported yet.

    patience: seconds for which the scheduler may fail to show a job, or say that it will never start, before that is
    believed. evidence: reads what an array has written, by the path of its output.
    """

    def __init__(self, meaning: Meaning, patience: float, evidence: Callable[[str], str]) -> None:
        self._meaning = meaning
        self.jobs: dict[str, Job] = {}
        self.arrays: dict[str, Array] = {}
        self.ends: list[End] = []
        self.unwanted: list[Job] = []
        """Reported, but still in the queue: to be removed from there."""
        self.doubtful: list[Job] = []
        """Not to be seen for so long that somebody else must be asked."""
        self.untaken: list[Array] = []
        """Nobody knew whether they were taken, and nobody knows them: they were not."""
        self.ended_arrays: list[Array] = []
        """Nothing is left of them but their output."""
        self._patience = patience
        self._evidence = evidence
        self._reported: set[str] = set()
        self._adopted_runs: set[str] = set()

    # -- handing over ------------------------------------------------------------------------------------------

    def hand_over(self, array: Array, jobs: Mapping[int, Job]) -> dict[int, Submission]:
        """These jobs, by index, go into an array. Returns its tasks."""
        tasks = {}
        for index, job in jobs.items():
            job.array, job.index = array, index
            array.names[index] = job.name
            assert job.submission is not None
            tasks[index] = job.submission
        self.arrays[array.token] = array
        return tasks

    def take_back(self, array: Array) -> list[Job]:
        """An array was not taken: its jobs are where they were before."""
        if self.arrays.pop(array.token, None) is not None:
            self.ended_arrays.append(array)
        found = [self.jobs[name] for name in array.names.values() if name in self.jobs]
        for job in found:
            job.array = None
            job.missing = job.never = None
        return found

    def doubted(self) -> list[Array]:
        """Arrays of which nobody knows whether they were taken."""
        return [array for array in self.arrays.values() if array.asked is not None]

    # -- what the scheduler says -------------------------------------------------------------------------------

    def hear(self, lines: Iterable[Line], asked: float, now: float, runs: Iterable[str]) -> None:
        """A complete answer about these runs to a question that was asked at that time."""
        heard: dict[str, Line] = {}
        numbers: dict[str, list[Line]] = {}
        for line in lines:
            array = self.arrays.get(line.token)
            if array is not None:
                array.number = array.number or line.array
                array.submitted = array.submitted or line.submitted
                array.asked = None
                if array.acknowledged is None:
                    array.acknowledged = asked
            for name in line.jobs.values():
                heard[name] = line
            if line.tasks is None:
                numbers.setdefault(line.token, []).append(line)
        told = set(runs)
        for job in list(self.jobs.values()):
            array = job.array
            if array is None or array.run not in told or array.acknowledged is None:
                continue
            line_of_job = heard.get(job.name)
            if line_of_job is not None and line_of_job.token == array.token:
                self._seen(job, line_of_job, now)
            elif array.acknowledged <= asked:
                self._not_seen(job, numbers.get(array.token, ()), asked, now)
        self._reported -= {
            name for name in self._reported if split_name(name)[0] in told and name not in heard
        }

    def _seen(self, job: Job, line: Line, now: float) -> None:
        if job.told is not None:
            return  # it has ended, and the queue does not know yet
        job.missing = None
        self._note(job, line)
        if self._meaning.is_over(line):
            self.end(job, self._end_by(job, line))
            return
        kind = self._meaning.will_never_start(line)
        if kind is None or job.cancelled:
            job.never = None
            return
        if job.never is None:
            job.never = now
        if now - job.never >= self._patience:
            self.unwanted.append(job)
            reason = Reason.NEVER_FITS if kind is EndKind.KILLED else None
            words = f"{self._meaning.SCHEDULER} holds job {line.job} and says {line.reason or line.state}"
            self.end(job, End(job.name, kind, reason=reason, detail=words))

    def _note(self, job: Job, line: Line) -> None:
        job.running = self._meaning.is_running(line)
        job.host = line.host or job.host
        reason = f" ({line.reason})" if line.reason else ""
        job.words = f"job {line.job} is {line.state}{reason}"

    def _end_by(self, job: Job, line: Line) -> End:
        assert job.array is not None
        command = job.submission.command[0] if job.submission is not None else ""
        evidence = "" if job.cancelled or line.wait_status == 0 else self._evidence(job.array.output)
        found = self._meaning.end_of(job.name, line, job.cancelled, command, evidence)
        assert found is not None
        return found

    def _not_seen(self, job: Job, others: Iterable[Line], asked: float, now: float) -> None:
        # What waited and was cancelled loses its own line.
        if job.cancel_sent is not None and job.cancel_sent <= asked:
            detail = f"cancelled in the queue of {self._meaning.SCHEDULER}"
            self.end(job, End(job.name, EndKind.KILLED, reason=Reason.CANCELLED, detail=detail))
            return
        for line in others:
            if line.state == "CANCELLED" and not job.cancelled:
                queue = f"the queue of {self._meaning.SCHEDULER} (array {line.array})"
                detail = f"somebody else has cancelled it in {queue}"
                self.end(job, End(job.name, EndKind.KILLED, reason=Reason.SIGNAL, detail=detail))
                return
        job.running = False
        if job.missing is None:
            job.missing = now
        if now - job.missing >= self._patience and job not in self.doubtful:
            self.doubtful.append(job)

    def hear_accounts(self, lines: Sequence[Line], now: float) -> None:
        """What the accounts say of those that are doubtful, which are asked for once; what they do not know is lost."""
        doubtful, self.doubtful = self.doubtful, []
        untaken = {}
        for job in doubtful:
            array = job.array
            if job.name not in self.jobs or array is None:
                continue
            line = next((line for line in lines if self._is_about(line, job)), None)
            if line is not None:
                array.asked, array.acknowledged = None, array.acknowledged or now
            if line is not None and not self._meaning.is_over(line):
                job.missing = None  # it is there after all
            elif line is not None:
                self.end(job, self._end_by(job, line))
            elif array.acknowledged is None:
                untaken[array.token] = array
            elif job.missing is not None and now - job.missing < self._patience:
                self.doubtful.append(job)  # accounts are written a little later
            elif job.told is not None:
                self.end(job, job.told)
            else:
                detail = f"{self._meaning.SCHEDULER} acknowledged it and does not know it any more"
                self.end(job, End(job.name, EndKind.LOST, detail=detail))
        self.untaken += [array for array in untaken.values() if array.acknowledged is None]

    def _is_about(self, line: Line, job: Job) -> bool:
        array = job.array
        assert array is not None
        if line.run != array.run or job.index not in (line.tasks or ()):
            return False
        if line.token:
            return line.token == array.token
        if line.array != array.number:
            return False
        if array.submitted:
            return line.submitted == array.submitted
        # It was never seen. What was may have been given the same number after a crash.
        others = (a for a in self.arrays.values() if a is not array and a.number == line.array)
        return all(other.submitted != line.submitted for other in others)

    def end(self, job: Job, end: End) -> None:
        """A job is over, and to be reported."""
        del self.jobs[job.name]
        self._reported.add(job.name)
        self.ends.append(end)
        if job.array is not None:
            job.array.names.pop(job.index, None)
            if not job.array.names and job.array.token in self.arrays:
                del self.arrays[job.array.token]
                self.ended_arrays.append(job.array)

    def forget(self, name: str) -> None:
        """A job is over, and somebody knows that already."""
        job = self.jobs.get(name)
        if job is not None and job.array is not None:
            self.end(job, End(name, EndKind.LOST))
            self.ends.pop()

    # -- jobs of earlier instances -----------------------------------------------------------------------------

    def adopt(
        self,
        run: str,
        lines: Iterable[Line],
        asked: float,
        output: Callable[[str], str],
        only: Optional[Container[str]] = None,
    ) -> set[str]:
        """Take over what the scheduler has of a run that we do not know. Returns the names of those that are not over.

        Of those that are over already the ends are reported, the first time. only: take over no others.
        """
        first = run not in self._adopted_runs and only is None
        if only is None:
            self._adopted_runs.add(run)
        active = set()
        for line in lines:
            over = self._meaning.is_over(line)
            for index, name in line.jobs.items():
                if only is not None and name not in only:
                    continue
                if not over and name not in self._reported:
                    active.add(name)
                if name in self.jobs or name in self._reported or (over and not first):
                    continue
                job = self._adopted(name, index, line, asked, output)
                if over:
                    self.end(job, self._end_by(job, line))
                else:
                    self._note(job, line)
        return active

    def _adopted(self, name: str, index: int, line: Line, asked: float, output: Callable[[str], str]) -> Job:
        array = self.arrays.get(line.token)
        if array is None:
            array = self.arrays[line.token] = Array(line.token, line.run, output(line.token))
            array.number, array.submitted, array.acknowledged = line.array, line.submitted, asked
        job = self.jobs[name] = Job(name, None, Request(1, 0, None))
        job.array, job.index = array, index
        array.names[job.index] = name
        return job


def tasks_by_number(jobs: Iterable[Job]) -> Mapping[str, Mapping[str, list[int]]]:
    """The tasks of jobs whose numbers are known: run -> number of the array -> indices."""
    found: dict[str, dict[str, list[int]]] = {}
    for job in jobs:
        if job.array is not None and job.array.number is not None:
            found.setdefault(job.array.run, {}).setdefault(job.array.number, []).append(job.index)
    return found
