"""What is said to SLURM and when: three things at a time at most, a submission, a cancelling and a question.

`turn` is to be called often; it starts what is due, hears what has ended, and never waits. See `batchsystems.slurm` for
what must hold.
"""

from __future__ import annotations

import logging
import os
import shlex
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Optional

from batchsystems import slurm_commands as commands
from batchsystems.abstract import End, EndKind, Reason
from batchsystems.commands import Answer, Command, Pause, Waiter
from batchsystems.slurm_commands import Line, Refusal
from batchsystems.slurm_jobs import Array, Job, Jobs, tasks_by_number
from batchsystems.slurm_site import Site

log = logging.getLogger("jobtree.slurm")

_COMMAND_SECONDS = 60.0
"""A command that takes longer is killed. (With a controller that is down they take 9 to 18.)"""
_LONGEST_INTERVAL = 60.0
_SCRIPT_BYTES = 1 << 20
_CANCEL_AGAIN_SECONDS = 60.0
_LIMIT_HOLDS_SECONDS = 300.0
_ARRAYS_A_QUESTION = 100


class Dialogue:
    """Talks to SLURM about `jobs`. `answers`: it has, once.

    options: of the backend; directory: for what SLURM writes down of arrays; patience: see `Jobs`.
    """

    def __init__(
        self, env: Mapping[str, str], directory: str, options: Mapping[str, Any], patience: float
    ) -> None:
        self.jobs = Jobs(patience, read_evidence)
        self.held: list[Job] = []
        self.exclude: frozenset[str] = frozenset()
        self.site = Site()
        self.waiter = Waiter()
        self._env = env
        self._directory = directory
        self._arguments = arguments_of(options)
        self._interval: float = options["slurmInterval"]
        self._patience = patience
        self._submitting: Optional[tuple[Command, Array]] = None
        self._cancelling: Optional[tuple[Command, list[Job]]] = None
        self._asking: Optional[tuple[Command, list[str]]] = None
        self._cancels: list[tuple[list[str], list[Job]]] = []
        self._lookups: dict[str, tuple[float, float]] = {}  # name -> grace, since when
        self._submit_pause = Pause(1.0, _LONGEST_INTERVAL)
        self._cancel_pause = Pause(1.0, _LONGEST_INTERVAL)
        self._ask_pause = Pause(self._interval, max(self._interval, _LONGEST_INTERVAL))
        self._every = self._interval
        self._next_question = 0.0
        self._last_question = -1e9
        self._last_answer = ""
        self._accounts: list[str] = []
        self._account_lines: list[Line] = []
        self._piece = 1 << 30
        self._limit: Optional[tuple[int, float]] = None
        self.answers = False

    def output(self, token: str) -> str:
        """The file to which the jobs of an array, and SLURM for them, may write."""
        return os.path.join(self._directory, token)

    def sweep(self, lines: Iterable[Line]) -> None:
        """Remove what arrays have left that an earlier instance knew. lines: all that SLURM has of the run."""
        known = {line.token for line in lines} | set(self.jobs.arrays)
        for name in os.listdir(self._directory):
            if name not in known:
                _remove(self.output(name))

    # -- what is wanted ----------------------------------------------------------------------------------------

    def submit(self, jobs: Iterable[Job]) -> None:
        """Have these submitted."""
        self.held += jobs

    def cancel(self, jobs: Iterable[tuple[Job, float]]) -> None:
        """Have these ended; with seconds of grace."""
        now = time.monotonic()
        hard, soft = [], []
        for job, grace in jobs:
            if job.array is None:
                self.held.remove(job)
                detail = "cancelled before it was submitted"
                self.jobs.end(job, End(job.name, EndKind.KILLED, reason=Reason.CANCELLED, detail=detail))
                continue
            if grace > 0 and not job.cancelled:
                job.kill_at = now + grace
                soft.append(job)
            elif grace > 0:
                job.kill_at = None if job.kill_at is None else min(job.kill_at, now + grace)
            elif not job.cancelled or job.kill_at is not None:
                job.kill_at = None
                hard.append(job)
            job.cancelled = True
        self._queue_cancel(soft, "--state=PENDING")
        self._queue_cancel(soft, "--signal=TERM", "--full")
        self._queue_cancel(hard)

    def cancel_unknown(self, name: str, grace: float) -> None:
        """Have a job ended that an earlier instance may have submitted."""
        self._lookups.setdefault(name, (grace, time.monotonic()))
        self._ask_soon()

    def has_to_do(self) -> bool:
        """Whether something was asked for and not done."""
        waits = self.held and time.monotonic() >= self._submit_pause.until
        return bool(waits or self._submitting or self._cancelling or self._cancels or self._lookups)

    def is_submitting(self) -> bool:
        """Whether there are jobs of which SLURM has not said yet that it has taken them."""
        return bool(self.held or self._submitting or self.jobs.doubted())

    def limit(self) -> Optional[int]:
        """How many jobs there may be, as far as refusals have told; None: they have not."""
        if self._limit is not None and time.monotonic() > self._limit[1]:
            self._limit, self._piece = None, 1 << 30
        return None if self._limit is None else self._limit[0]

    def close(self) -> None:
        """Let go of everything."""
        for lane in (self._submitting, self._cancelling, self._asking):
            if lane is not None:
                lane[0].close()
        self.waiter.close()

    # -- turning -----------------------------------------------------------------------------------------------

    def turn(self) -> None:
        """Hear what there is, start what is due."""
        self._hear()
        now = time.monotonic()
        overdue = [j for j in self.jobs.jobs.values() if j.kill_at is not None and j.kill_at <= now]
        for job in overdue:
            job.kill_at = None
        self._queue_cancel(overdue)
        if self.jobs.unwanted:
            unwanted, self.jobs.unwanted = self.jobs.unwanted, []
            self._queue_cancel(unwanted)
        for array in self.jobs.ended_arrays:
            _remove(array.output)
        self.jobs.ended_arrays.clear()
        if self._submitting is None and self.held and now >= self._submit_pause.until:
            self._start_submission()
        if self._cancelling is None and self._cancels and now >= self._cancel_pause.until:
            self._start_cancel()
        if self._asking is None and now >= max(self._next_question, self._ask_pause.until):
            self._start_question(now)

    def wait(self, until: float) -> bool:
        """Wait until that moment, or until there is something to do; whether `wake` was called."""
        moments = [until]
        lanes = [lane[0] for lane in (self._submitting, self._cancelling, self._asking) if lane is not None]
        moments += [command.deadline for command in lanes]
        if self._submitting is None and self.held:
            moments.append(self._submit_pause.until)
        if self._cancelling is None and self._cancels:
            moments.append(self._cancel_pause.until)
        if self._asking is None and self._may_ask():
            moments.append(max(self._next_question, self._ask_pause.until))
        moments += [job.kill_at for job in self.jobs.jobs.values() if job.kill_at is not None]
        return self.waiter.wait(min(moments), lanes)

    def _hear(self) -> None:
        if self._submitting is not None:
            answer = self._submitting[0].answer()
            if answer is not None:
                array, self._submitting = self._submitting[1], None
                self._submitted(array, answer)
        if self._cancelling is not None:
            answer = self._cancelling[0].answer()
            if answer is not None:
                jobs, self._cancelling = self._cancelling[1], None
                self._cancelled(jobs, answer)
        if self._asking is not None:
            answer = self._asking[0].answer()
            if answer is not None:
                command, runs = self._asking
                self._asking = None
                self._answered(command.began, runs, answer)

    def _start(self, arguments: Sequence[str], read: str = "") -> Optional[Command]:
        try:
            return Command(arguments, self._env, _COMMAND_SECONDS, read)
        except OSError as error:
            log.warning("%s cannot be started now: %s", arguments[0], error)
            return None

    # -- submitting --------------------------------------------------------------------------------------------

    def _start_submission(self) -> None:
        jobs = self._next_array()
        run, rest = commands.split_name(jobs[0].name)
        token = os.urandom(6).hex()
        array = Array(token, run, self.output(token))
        tasks = self.jobs.hand_over(array, jobs)
        number = commands.number_of(jobs[0].name)
        comment = f"{array.token} {'=' + rest if number is None else number}"
        exclude = self.exclude
        request = jobs[0].request
        command = self._start(
            commands.sbatch(run, comment, tasks, request, array.output, exclude, self._arguments),
            commands.script(sys.executable, tasks, self._env),
        )
        if command is None:
            self.held[:0] = self.jobs.take_back(array)
            self._submit_pause.failed("cannot be started")
            return
        taken = {id(job) for job in jobs}
        self.held = [job for job in self.held if id(job) not in taken]
        self._submitting = command, array

    def _next_array(self) -> list[Job]:
        """The next jobs that can go together, in their order."""
        first = self.held[0]
        base = commands.number_of(first.name)
        if base is None:
            return [first]
        one, run = first.submission, commands.split_name(first.name)[0]
        assert one is not None
        chosen: list[Job] = []
        size = 0
        for job in self.held:
            number, other = commands.number_of(job.name), job.submission
            assert other is not None
            if (
                number is None or not base <= number < base + self.site.limits.array_size
                or commands.split_name(job.name)[0] != run or job.request != first.request or other.cwd != one.cwd
                or (other.env is not one.env and other.env != one.env)
            ):  # fmt: skip
                continue
            size += 200 + sum(map(len, other.command))
            if chosen and (size > _SCRIPT_BYTES or len(chosen) >= self._piece):
                break
            chosen.append(job)
        return chosen

    def _submitted(self, array: Array, answer: Answer) -> None:
        now = time.monotonic()
        # It may have been seen in the queue before its `sbatch` has ended.
        number = commands.submitted_id(answer.out) if answer.status == 0 else array.number
        if number is not None:
            array.number, array.acknowledged = number, now
            if self._submit_pause.worked():
                log.info("SLURM takes submissions again")
            late = [self.jobs.jobs[n] for n in array.names.values() if self.jobs.jobs[n].cancelled]
            self._queue_cancel(late)
            self._ask_soon(self._interval)
            return
        kind = commands.why_refused(answer.status or None, answer.words)  # 0: it has told no number
        if kind is Refusal.UNKNOWN:
            array.asked = now
            self._ask_soon()
        else:
            self._refused(array, kind, answer.words)
        if kind is not Refusal.NEVER and self._submit_pause.failed(f"{kind} {answer.words}"):
            log.warning("SLURM does not take %d jobs now: %s. They are kept, and it is asked again.",
                        len(array.names), answer.words)  # fmt: skip

    def _refused(self, array: Array, kind: Refusal, words: str) -> None:
        jobs = self.jobs.take_back(array)
        for job in jobs:
            if job.cancelled:
                detail = "cancelled before it was submitted"
                self.jobs.end(job, End(job.name, EndKind.KILLED, reason=Reason.CANCELLED, detail=detail))
            elif kind is Refusal.NEVER:
                self.jobs.end(job, End(job.name, EndKind.KILLED, reason=Reason.NEVER_FITS, detail=words))
        self.held[:0] = [job for job in jobs if job.name in self.jobs.jobs]
        if kind is Refusal.LIMIT:
            there = len(self.jobs.jobs) - len(self.held)
            self._piece = max(1, len(jobs) // 2)
            self._limit = max(1, there), time.monotonic() + _LIMIT_HOLDS_SECONDS

    # -- cancelling --------------------------------------------------------------------------------------------

    def _queue_cancel(self, jobs: Iterable[Job], *how: str) -> None:
        """Cancel those that have a number; the others are cancelled when they have one."""
        chosen = list(jobs)
        for run, tasks in tasks_by_number(chosen).items():
            for command in commands.cancel_commands(run, tasks, *how):
                mine = [j for j in chosen if j.array is not None and j.array.number in tasks]
                self._cancels.append((command, mine))

    def _start_cancel(self) -> None:
        arguments, jobs = self._cancels[0]
        command = self._start(arguments)
        if command is None:
            self._cancel_pause.failed("cannot be started")
            return
        self._cancelling = command, jobs

    def _cancelled(self, jobs: list[Job], answer: Answer) -> None:
        kind = commands.why_refused(answer.status, answer.words)
        if answer.status != 0 and kind in (Refusal.AWAY, Refusal.UNKNOWN):
            if self._cancel_pause.failed(answer.words):
                log.warning("SLURM does not cancel jobs now: %s. It is asked again.", answer.words)
            return
        # It also complains of jobs that have ended; those are heard of.
        self._cancel_pause.worked()
        del self._cancels[0]
        for job in jobs:
            job.cancel_sent = time.monotonic()
        self._ask_soon()

    # -- asking ------------------------------------------------------------------------------------------------

    def _ask_soon(self, after: float = 0.0) -> None:
        """Something is changing: ask when it is time, and in so many seconds at the earliest."""
        self._every = self._interval
        soon = max(self._last_question + self._interval, time.monotonic() + after)
        self._next_question = min(self._next_question, soon) if self._may_ask() else soon

    def _may_ask(self) -> bool:
        return bool(self._lookups or self._accounts or self.jobs.arrays)

    def _start_question(self, now: float) -> None:
        if not self._may_ask():
            return
        if self._accounts:
            asked = self._accounts[: _ARRAYS_A_QUESTION if self.site.limits.accounting else 1]
            arguments = commands.sacct(asked) if self.site.limits.accounting else commands.show_job(asked[0])
            runs: list[str] = []
        else:
            names = [array.run for array in self.jobs.arrays.values()] + [
                commands.split_name(name)[0] for name in self._lookups
            ]
            runs = sorted(set(names))
            arguments = commands.squeue(os.getuid(), runs)
        self._last_question = now
        self._next_question = now + self._every
        command = self._start(arguments)
        if command is not None:
            self._asking = command, runs

    def _answered(self, asked: float, runs: list[str], answer: Answer) -> None:
        if self._accounts and not runs:
            self._answered_accounts(answer)
            return
        if answer.status != 0:
            if self._ask_pause.failed(answer.words):
                log.warning("SLURM cannot be asked now: %s. It is asked again; jobs go on.", answer.words)
            return
        self.answers = True
        if self._ask_pause.worked():
            log.info("SLURM answers again")
        now = time.monotonic()
        lines = commands.read_queue(answer.out)
        self.jobs.hear(lines, asked, now, runs)
        self._look_up(lines, asked)
        self._resolve_doubts(asked, now)
        self._cancel_again(now)
        self._accounts = sorted({j.array.number for j in self.jobs.doubtful if j.array and j.array.number})
        self._account_lines = []
        if self.jobs.doubtful and not self._accounts:
            self.jobs.hear_accounts(())
        changed = answer.out != self._last_answer
        self._last_answer = answer.out
        longest = max(
            self._interval, min(_LONGEST_INTERVAL, self.site.limits.min_job_age / 3 or _LONGEST_INTERVAL)
        )
        self._every = self._interval if changed else min(1.5 * self._every, longest)
        self._next_question = self._last_question + self._every

    def _answered_accounts(self, answer: Answer) -> None:
        many = self.site.limits.accounting
        unknown = "invalid job id" in answer.words.lower()
        if answer.status != 0 and not unknown:
            if self._ask_pause.failed(answer.words):
                log.warning("SLURM's accounts cannot be asked now: %s. Asked again.", answer.words)
            return
        self._ask_pause.worked()
        if not unknown:
            self._account_lines += (
                commands.read_accounts(answer.out) if many else commands.read_jobs(answer.out)
            )
        del self._accounts[: _ARRAYS_A_QUESTION if many else 1]
        if not self._accounts:
            self.jobs.hear_accounts(self._account_lines)
            self._account_lines = []

    def _look_up(self, lines: Sequence[Line], asked: float) -> None:
        """Jobs that were to be cancelled and are not ours: they are there, or they are not."""
        answered = {name: grace for name, (grace, since) in self._lookups.items() if since <= asked}
        if not answered:
            return
        found = [line for line in lines if any(name in answered for name in commands.names_of(line))]
        for run in {commands.split_name(name)[0] for name in answered}:
            self.jobs.adopt(
                run, [line for line in found if line.run == run], asked, self.output, only=answered
            )
        for name in answered:
            del self._lookups[name]
        self.cancel(
            (self.jobs.jobs[name], grace) for name, grace in answered.items() if name in self.jobs.jobs
        )

    def _resolve_doubts(self, asked: float, now: float) -> None:
        for array in self.jobs.doubted():
            if array.asked is not None and asked >= array.asked and now - array.asked >= self._patience:
                self._refused(array, Refusal.OTHER, "")

    def _cancel_again(self, now: float) -> None:
        late = [
            job
            for job in self.jobs.jobs.values()
            if job.cancelled and job.kill_at is None
            and job.cancel_sent is not None and now - job.cancel_sent > _CANCEL_AGAIN_SECONDS
        ]  # fmt: skip
        for job in late:
            job.cancel_sent = now
        self._queue_cancel(late)


def arguments_of(options: Mapping[str, Any]) -> list[str]:
    """The arguments of `sbatch` that a user's options are."""
    found = []
    for flag, name in (("partition", "slurmPartition"), ("account", "slurmAccount"), ("qos", "slurmQos")):
        if options[name] is not None:
            found.append(f"--{flag}={options[name]}")
    return found + shlex.split(options["slurmArgs"] or "")


def read_evidence(path: str, most: int = 1 << 18) -> str:
    """The end of what an array has written; empty if it cannot be read."""
    try:
        with open(path, "rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - most))
            return file.read().decode("utf-8", "replace")
    except OSError:
        return ""


def _remove(path: str) -> None:
    try:
        os.unlink(path)
    except OSError:
        pass
