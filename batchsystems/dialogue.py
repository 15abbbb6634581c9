"""What is said to a scheduler and when: three things at a time at most, a submission, a cancelling and a question.

`turn` is to be called often; it starts what is due, hears what has ended, and never waits. How each thing is said, the
subclass of one scheduler knows. What must hold

  - What could not be done is kept and tried again, with growing pauses.
  - There is never more than one question in an interval, and where nothing changes fewer and fewer.
  - A submission of which nobody knows whether it was taken is not repeated before the scheduler was asked for it.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Mapping, Sequence
from time import monotonic
from typing import Any, Callable, Optional

from batchsystems.abstract import End, EndKind, Reason
from batchsystems.array_jobs import Array, Job, Jobs, Meaning
from batchsystems.commands import Answer, Command, Pause, Waiter
from batchsystems.scheduled import Line, Node, Refusal, split_name
from batchsystems.speech import Lane, Speech

log = logging.getLogger("jobtree.scheduler")

_COMMAND_SECONDS = 60.0
"""A command that takes longer is killed. (With a scheduler that is down they take up to 18.)"""
LONGEST_INTERVAL = 60.0
_ARRAY_BYTES = 1 << 20
_CANCEL_AGAIN_SECONDS = 60.0
_LIMIT_HOLDS_SECONDS = 300.0


class Dialogue(Speech):
    """Talks to a scheduler about `jobs`. `answers`: it has, once.

    env: of its commands; directory: for what arrays write; patience: see `Jobs`; interval: seconds between questions;
    by_accounts: the accounts, and not only the queue, tell whether a submission was taken.
    """

    def __init__(
        self, meaning: Meaning, env: Mapping[str, str], directory: str, patience: float, interval: float,
        by_accounts: bool,
    ) -> None:  # fmt: skip
        self.jobs = Jobs(meaning, patience, read_evidence)
        self.held: list[Job] = []
        self.exclude: frozenset[str] = frozenset()
        self.nodes: Sequence[Node] = ()
        self.waiter = Waiter()
        self.answers = False
        self._name = meaning.SCHEDULER
        self._env = env
        self._directory = directory
        self._interval = interval
        self._patience = patience
        self._by_accounts = by_accounts
        self._submitting: Optional[tuple[Lane, Array]] = None
        self._cancelling: Optional[tuple[Lane, list[Job]]] = None
        self._asking: Optional[tuple[Lane, list[str]]] = None
        self._cancels: list[tuple[Callable[[], Optional[Lane]], list[Job]]] = []
        self._lookups: dict[str, tuple[float, float]] = {}  # name -> grace, since when
        self._submit_pause = Pause(1.0, LONGEST_INTERVAL)
        self._cancel_pause = Pause(1.0, LONGEST_INTERVAL)
        self._ask_pause = Pause(interval, max(interval, LONGEST_INTERVAL))
        self._every = interval
        self._next_question = 0.0
        self._last_question = -1e9
        self._last_answer = ""
        self._accounts: list[Any] = []
        self._account_lines: list[Line] = []
        self._piece = 1 << 30
        self._limit: Optional[tuple[int, float]] = None

    # -- what a subclass may add --------------------------------------------------------------------------------

    def longest_interval(self) -> float:
        """Seconds between questions where nothing changes."""
        return LONGEST_INTERVAL

    def heard_queue(self, asked: float) -> None:  # noqa: B027  # not all have more to do then
        """There was an answer to a question that was asked at that time."""

    def array_ended(self, array: Array) -> None:
        """Nothing is left of an array but what it has written."""
        _remove(array.output)

    def say(self, arguments: Sequence[str], read: str = "") -> Optional[Lane]:
        """Start a command."""
        try:
            return Command(arguments, self._env, _COMMAND_SECONDS, read)
        except OSError as error:
            log.warning("%s cannot be started now: %s", arguments[0], error)
            return None

    def say_cancel(self, how: Callable[[], Optional[Lane]], jobs: Iterable[Job]) -> None:
        """Have this said when it is its turn."""
        self._cancels.append((how, list(jobs)))

    # -- what arrays write -------------------------------------------------------------------------------------

    def output(self, token: str) -> str:
        """The file to which the jobs of an array, and the scheduler for them, may write."""
        return os.path.join(self._directory, token)

    def sweep(self, lines: Iterable[Line]) -> None:
        """Remove what arrays have left that an earlier instance knew. lines: all that there is of the run."""
        known = {line.token for line in lines} | set(self.jobs.arrays)
        for name in os.listdir(self._directory):
            if name not in known:
                _remove(self.output(name))

    # -- what is wanted ----------------------------------------------------------------------------------------

    def cancel(self, jobs: Iterable[tuple[Job, float]]) -> None:
        """Have these ended; with seconds of grace."""
        now = monotonic()
        hard, soft = [], []
        for job, grace in jobs:
            if job.array is None:
                self.held.remove(job)
                self.jobs.end(job, _cancelled(job))
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
        if soft:
            self.end_softly(soft)
        if hard:
            self.end(hard)

    def cancel_unknown(self, name: str, grace: float) -> None:
        """Have a job ended that an earlier instance may have submitted."""
        self._lookups.setdefault(name, (grace, monotonic()))
        self.ask_soon()

    def has_to_do(self) -> bool:
        """Whether something was asked for and not done."""
        waits = self.held and monotonic() >= self._submit_pause.until
        return bool(waits or self._submitting or self._cancelling or self._cancels or self._lookups)

    def is_submitting(self) -> bool:
        """Whether there are jobs of which nobody has said yet that they were taken."""
        return bool(self.held or self._submitting or self.jobs.doubted())

    def limit(self) -> Optional[int]:
        """How many jobs there may be, as far as refusals have told; None: they have not."""
        if self._limit is not None and monotonic() > self._limit[1]:
            self._limit, self._piece = None, 1 << 30
        return None if self._limit is None else self._limit[0]

    def close(self) -> None:
        """Let go of everything."""
        for lane in self._lanes():
            lane.close()
        self.waiter.close()

    # -- turning -----------------------------------------------------------------------------------------------

    def turn(self) -> None:
        """Hear what there is, start what is due."""
        self._hear()
        now = monotonic()
        overdue = [j for j in self.jobs.jobs.values() if j.kill_at is not None and j.kill_at <= now]
        for job in overdue:
            job.kill_at = None
        unwanted, self.jobs.unwanted = self.jobs.unwanted, []
        if overdue or unwanted:
            self.end(overdue + unwanted)
        untaken, self.jobs.untaken = self.jobs.untaken, []
        for array in untaken:
            self._refused(array, Refusal.OTHER, "")
        for array in self.jobs.ended_arrays:
            self.array_ended(array)
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
        moments += [*self._moments(), *(lane.deadline for lane in self._lanes())]
        if self._submitting is None and self.held:
            moments.append(self._submit_pause.until)
        if self._cancelling is None and self._cancels:
            moments.append(self._cancel_pause.until)
        if self._asking is None and self._may_ask():
            moments.append(max(self._next_question, self._ask_pause.until))
        moments += [job.kill_at for job in self.jobs.jobs.values() if job.kill_at is not None]
        return self.waiter.wait(min(moments), self._things())

    def _lanes(self) -> list[Lane]:
        return [lane[0] for lane in (self._submitting, self._cancelling, self._asking) if lane is not None]

    def _moments(self) -> list[float]:
        """When there is something more to do."""
        return []

    def _things(self) -> list[Any]:
        """What is readable when there is something to hear."""
        return self._lanes()

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
                lane, runs = self._asking
                self._asking = None
                self._answered(lane.began, runs, answer)

    # -- submitting --------------------------------------------------------------------------------------------

    def _start_submission(self) -> None:
        jobs = self._next_array()
        token = os.urandom(6).hex()
        array = Array(token, split_name(jobs[0].name)[0], self.output(token))
        tasks = self.jobs.hand_over(array, self.indices(jobs))
        lane = self.submission(array, jobs, tasks)
        if lane is None:
            self.jobs.take_back(array)
            self._submit_pause.failed("cannot be started")
            return
        taken = {id(job) for job in jobs}
        self.held = [job for job in self.held if id(job) not in taken]
        self._submitting = lane, array

    def _next_array(self) -> list[Job]:
        """The next jobs that can go together, in their order."""
        first = self.held[0]
        one, run = first.submission, split_name(first.name)[0]
        assert one is not None
        chosen: list[Job] = []
        size = 0
        for job in self.held:
            other = job.submission
            assert other is not None
            if job is not first and (
                split_name(job.name)[0] != run or job.request != first.request or other.cwd != one.cwd
                or (other.env is not one.env and other.env != one.env) or not self.goes_with(first, job)
            ):  # fmt: skip
                continue
            size += 200 + sum(map(len, other.command))
            if chosen and (size > _ARRAY_BYTES or len(chosen) >= self._piece):
                break
            chosen.append(job)
        return chosen

    def _submitted(self, array: Array, answer: Answer) -> None:
        now = monotonic()
        # It may have been seen in the queue before its submission has ended.
        number = self.number(array, answer) if answer.status == 0 else array.number
        if number is not None:
            array.number, array.acknowledged = number, now
            if self._submit_pause.worked():
                log.info("%s takes submissions again", self._name)
            late = [self.jobs.jobs[n] for n in array.names.values() if self.jobs.jobs[n].cancelled]
            if late:
                self.end(late)
            self.ask_soon(self._interval)
            return
        kind = self.why_refused(answer.status or None, answer.words)  # 0: it has told no number
        if kind is Refusal.UNKNOWN:
            array.asked = now
            self.ask_soon()
        else:
            self._refused(array, kind, answer.words)
        if kind is not Refusal.NEVER and self._submit_pause.failed(f"{kind} {answer.words}"):
            log.warning("%s does not take %d jobs now: %s. They are kept, and it is asked again.",
                        self._name, len(array.names), answer.words)  # fmt: skip

    def _refused(self, array: Array, kind: Refusal, words: str) -> None:
        jobs = self.jobs.take_back(array)
        for job in jobs:
            if job.cancelled:
                self.jobs.end(job, _cancelled(job))
            elif kind is Refusal.NEVER:
                self.jobs.end(job, End(job.name, EndKind.KILLED, reason=Reason.NEVER_FITS, detail=words))
        self.held[:0] = [job for job in jobs if job.name in self.jobs.jobs]
        if kind is Refusal.LIMIT:
            there = len(self.jobs.jobs) - len(self.held)
            self._piece = max(1, len(jobs) // 2)
            self._limit = max(1, there), monotonic() + _LIMIT_HOLDS_SECONDS

    # -- cancelling --------------------------------------------------------------------------------------------

    def _start_cancel(self) -> None:
        how, jobs = self._cancels[0]
        lane = how()
        if lane is None:
            self._cancel_pause.failed("cannot be started")
            return
        self._cancelling = lane, jobs

    def _cancelled(self, jobs: list[Job], answer: Answer) -> None:
        kind = self.why_refused(answer.status, answer.words)
        if answer.status != 0 and kind in (Refusal.AWAY, Refusal.UNKNOWN):
            if self._cancel_pause.failed(answer.words):
                log.warning("%s does not cancel jobs now: %s. It is asked again.", self._name, answer.words)
            return
        # It also complains of jobs that have ended; those are heard of.
        self._cancel_pause.worked()
        del self._cancels[0]
        for job in jobs:
            job.cancel_sent = monotonic()
        self.ask_soon()

    # -- asking ------------------------------------------------------------------------------------------------

    def ask_soon(self, after: float = 0.0) -> None:
        """Something is changing: ask when it is time, and in so many seconds at the earliest."""
        self._every = self._interval
        soon = max(self._last_question + self._interval, monotonic() + after)
        self._next_question = min(self._next_question, soon) if self._may_ask() else soon

    def _may_ask(self) -> bool:
        return bool(self._lookups or self._accounts or self.jobs.arrays)

    def _start_question(self, now: float) -> None:
        if not self._may_ask():
            return
        runs: list[str] = []
        if self._accounts:
            lane = self.account_question(self._accounts[0])
        else:
            names = [array.run for array in self.jobs.arrays.values()]
            runs = sorted({*names, *(split_name(name)[0] for name in self._lookups)})
            lane = self.question(runs)
        self._last_question = now
        self._next_question = now + self._every
        if lane is not None:
            self._asking = lane, runs

    def _answered(self, asked: float, runs: list[str], answer: Answer) -> None:
        if not runs:
            self._answered_accounts(answer)
            return
        lines = self.read_queue(answer) if answer.status == 0 else None
        if lines is None:
            if self._ask_pause.failed(answer.words):
                log.warning(
                    "%s cannot be asked now: %s. It is asked again; jobs go on.", self._name, answer.words
                )
            return
        self.answers = True
        if self._ask_pause.worked():
            log.info("%s answers again", self._name)
        now = monotonic()
        self.jobs.hear(lines, asked, now, runs)
        self._look_up(lines, asked)
        self._resolve_doubts(asked, now)
        self._cancel_again(now)
        self.heard_queue(asked)
        changed = answer.out != self._last_answer
        self._last_answer = answer.out
        longest = max(self._interval, min(LONGEST_INTERVAL, self.longest_interval()))
        self._every = self._interval if changed else min(1.5 * self._every, longest)
        self._next_question = self._last_question + self._every
        self.ask_accounts()

    def ask_accounts(self) -> None:
        """Ask for those that are doubtful, as soon as it is time."""
        if self._asking is not None and not self._asking[1]:
            return  # that is being done; who has come since is asked for next
        arrays = {job.array.token: job.array for job in self.jobs.doubtful if job.array is not None}
        self._accounts = self.account_questions(list(arrays.values()))
        self._account_lines = []
        if self._accounts:
            self._next_question = min(self._next_question, self._last_question + self._interval)
        elif self.jobs.doubtful:
            self.jobs.hear_accounts((), monotonic())

    def _answered_accounts(self, answer: Answer) -> None:
        lines = self.read_accounts(answer)
        if lines is None:
            if self._ask_pause.failed(answer.words):
                log.warning(
                    "The accounts of %s cannot be asked now: %s. Asked again.", self._name, answer.words
                )
            return
        self._ask_pause.worked()
        self._account_lines += lines
        del self._accounts[0]
        if not self._accounts:
            self.jobs.hear_accounts(self._account_lines, monotonic())
            self._account_lines = []

    def _look_up(self, lines: Sequence[Line], asked: float) -> None:
        """Jobs that were to be cancelled and are not ours: they are there, or they are not."""
        answered = {name: grace for name, (grace, since) in self._lookups.items() if since <= asked}
        if not answered:
            return
        found = [line for line in lines if not answered.keys().isdisjoint(line.jobs.values())]
        for run in {split_name(name)[0] for name in answered}:
            self.jobs.adopt(run, [line for line in found if line.run == run], asked, self.output, answered)
        for name in answered:
            del self._lookups[name]
        self.cancel(
            (self.jobs.jobs[name], grace) for name, grace in answered.items() if name in self.jobs.jobs
        )

    def _resolve_doubts(self, asked: float, now: float) -> None:
        for array in self.jobs.doubted():
            if array.asked is None or asked < array.asked or now - array.asked < self._patience:
                continue
            if self._by_accounts:
                self.jobs.doubtful += [self.jobs.jobs[name] for name in array.names.values()]
            else:
                self.jobs.untaken.append(array)

    def _cancel_again(self, now: float) -> None:
        late = [
            job
            for job in self.jobs.jobs.values()
            if job.cancelled and job.kill_at is None
            and job.cancel_sent is not None and now - job.cancel_sent > _CANCEL_AGAIN_SECONDS
        ]  # fmt: skip
        for job in late:
            job.cancel_sent = now
        if late:
            self.end(late)


def _cancelled(job: Job) -> End:
    detail = "cancelled before it was submitted"
    return End(job.name, EndKind.KILLED, reason=Reason.CANCELLED, detail=detail)


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
