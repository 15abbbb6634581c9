"""What is known of the jobs that SLURM was given, and what its answers make of it. No commands, no files, no clock.

What must hold
  - A job is known by the token of its array and its index there, and by the time at which SLURM took it; never by its
    number alone, which may be another job's by now.
  - Only a complete answer to a question that was asked after a submission was acknowledged says anything by its
    silence: a job that is missing in such answers for a while is asked for in the accounts, and if nobody knows it,
    it is lost.
  - Each job is reported once. Jobs that an earlier instance has submitted are reported when they have been adopted.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping, Sequence
from typing import Callable, Optional

from batchsystems import slurm_ends
from batchsystems.abstract import End, EndKind, Reason, Submission
from batchsystems.slurm_commands import Line, Request, names_of, number_of, split_name


class Array:
    """One submission. `number`: as `sbatch` has said; None: it has not yet, or nobody knows what it said."""

    __slots__ = ("acknowledged", "asked", "names", "number", "output", "run", "submitted", "token")

    def __init__(self, token: str, run: str, output: str) -> None:
        self.token = token
        self.run = run
        self.output = output
        self.number: Optional[str] = None
        self.acknowledged: Optional[float] = None  # when it was, on our clock
        self.asked: Optional[float] = (
            None  # when an `sbatch` ended of which nobody knows whether it was heard
        )
        self.submitted = ""  # when it was, on SLURM's clock and in its words
        self.names: dict[int, str] = {}


class Job:
    """A job that was not reported yet."""

    __slots__ = (
        "array", "cancel_sent", "cancelled", "grace", "index", "kill_at", "missing", "name", "never", "request",
        "running", "submission", "words",
    )  # fmt: skip

    def __init__(self, name: str, submission: Optional[Submission], request: Request) -> None:
        self.name = name
        self.submission = submission
        self.request = request
        self.array: Optional[Array] = None  # None: not handed over yet
        self.index = 0
        self.running = False
        self.words = ""  # what SLURM said of it last
        self.missing: Optional[float] = None  # since when it is not to be seen
        self.never: Optional[float] = None  # since when it is said that it will not start
        self.cancelled = False
        self.cancel_sent: Optional[float] = None
        self.grace = 0.0
        self.kill_at: Optional[float] = None


class Jobs:
    """All jobs that were not reported yet.

    patience: seconds for which SLURM may fail to show a job, or say that it will never start, before that is believed.
    evidence: reads what an array has written, by the path of its output.
    """

    def __init__(self, patience: float, evidence: Callable[[str], str]) -> None:
        self.jobs: dict[str, Job] = {}
        self.arrays: dict[str, Array] = {}
        self.ends: list[End] = []
        self.unwanted: list[Job] = []
        """Reported, but still in the queue: to be removed from there."""
        self.doubtful: list[Job] = []
        """Not to be seen for so long that somebody else must be asked."""
        self.ended_arrays: list[Array] = []
        """Nothing is left of them but their output."""
        self._patience = patience
        self._evidence = evidence
        self._reported: set[str] = set()
        self._adopted_runs: set[str] = set()

    # -- handing over ------------------------------------------------------------------------------------------

    def hand_over(self, array: Array, jobs: Sequence[Job]) -> dict[int, Submission]:
        """These jobs go into an array. Returns its tasks."""
        base = number_of(jobs[0].name) or 0
        tasks = {}
        for job in jobs:
            job.array, job.index = array, (number_of(job.name) or 0) - base
            array.names[job.index] = job.name
            assert job.submission is not None
            tasks[job.index] = job.submission
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
        """Arrays of which nobody knows whether SLURM has taken them."""
        return [array for array in self.arrays.values() if array.asked is not None]

    # -- what SLURM says ---------------------------------------------------------------------------------------

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
            for name in names_of(line):
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
        job.missing = None
        job.running = line.state in slurm_ends.RUNNING
        job.words = f"job {line.job} is {line.state} ({line.reason})"
        if line.state in slurm_ends.FINAL:
            self.end(job, self._end_by(job, line))
            return
        kind = slurm_ends.will_never_start(line)
        if kind is None or job.cancelled:
            job.never = None
            return
        if job.never is None:
            job.never = now
        if now - job.never >= self._patience:
            self.unwanted.append(job)
            reason = Reason.NEVER_FITS if kind is EndKind.KILLED else None
            words = f"SLURM holds job {line.job} and says {line.reason}"
            self.end(job, End(job.name, kind, reason=reason, detail=words))

    def _end_by(self, job: Job, line: Line) -> End:
        assert job.array is not None
        command = job.submission.command[0] if job.submission is not None else ""
        bad = line.state not in ("COMPLETED", "CANCELLED")
        evidence = self._evidence(job.array.output) if bad else ""
        found = slurm_ends.end_of(job.name, line, job.cancelled, command, evidence)
        assert found is not None
        return found

    def _not_seen(self, job: Job, others: Iterable[Line], asked: float, now: float) -> None:
        # What waited and was cancelled loses its own line.
        if job.cancel_sent is not None and job.cancel_sent <= asked:
            detail = "cancelled in SLURM's queue"
            self.end(job, End(job.name, EndKind.KILLED, reason=Reason.CANCELLED, detail=detail))
            return
        for line in others:
            if line.state == "CANCELLED" and not job.cancelled:
                detail = f"somebody else has cancelled it in SLURM's queue (array {line.array})"
                self.end(job, End(job.name, EndKind.KILLED, reason=Reason.SIGNAL, detail=detail))
                return
        job.running = False
        if job.missing is None:
            job.missing = now
        if now - job.missing >= self._patience:
            self.doubtful.append(job)

    def hear_accounts(self, lines: Sequence[Line]) -> None:
        """What the accounts say of those that are doubtful, which are asked for once; what they do not know is lost."""
        doubtful, self.doubtful = self.doubtful, []
        for job in doubtful:
            if job.name not in self.jobs or job.array is None:
                continue
            line = next((line for line in lines if self._is_about(line, job)), None)
            if line is not None and line.state not in slurm_ends.FINAL:
                job.missing = None  # it is there after all
            elif line is not None:
                self.end(job, self._end_by(job, line))
            else:
                detail = "SLURM acknowledged it and does not know it any more"
                self.end(job, End(job.name, EndKind.LOST, detail=detail))

    def _is_about(self, line: Line, job: Job) -> bool:
        array = job.array
        assert array is not None
        if line.array != array.number or line.run != array.run or job.index not in (line.tasks or ()):
            return False
        if line.token:
            return line.token == array.token
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
        """Take over what SLURM has of a run that we do not know. Returns the names of those that are not over.

        Of those that are over already the ends are reported, the first time. only: take over no others.
        """
        first = run not in self._adopted_runs and only is None
        if only is None:
            self._adopted_runs.add(run)
        active = set()
        for line in lines:
            over = line.state in slurm_ends.FINAL
            for name in names_of(line):
                if only is not None and name not in only:
                    continue
                if not over and name not in self._reported:
                    active.add(name)
                if name in self.jobs or name in self._reported or (over and not first):
                    continue
                job = self._adopted(name, line, asked, output)
                if over:
                    self.end(job, self._end_by(job, line))
                else:
                    job.running = line.state in slurm_ends.RUNNING
        return active

    def _adopted(self, name: str, line: Line, asked: float, output: Callable[[str], str]) -> Job:
        array = self.arrays.get(line.token)
        if array is None:
            array = self.arrays[line.token] = Array(line.token, line.run, output(line.token))
            array.number, array.submitted, array.acknowledged = line.array, line.submitted, asked
        job = self.jobs[name] = Job(name, None, Request(1, 0, None))
        job.array = array
        base = 0 if line.names.startswith("=") else int(line.names)
        job.index = 0 if line.names.startswith("=") else (number_of(name) or 0) - base
        array.names[job.index] = name
        return job


def tasks_by_number(jobs: Iterable[Job]) -> Mapping[str, Mapping[str, list[int]]]:
    """The tasks of jobs whose numbers are known: run -> number of the array -> indices."""
    found: dict[str, dict[str, list[int]]] = {}
    for job in jobs:
        if job.array is not None and job.array.number is not None:
            found.setdefault(job.array.run, {}).setdefault(job.array.number, []).append(job.index)
    return found
