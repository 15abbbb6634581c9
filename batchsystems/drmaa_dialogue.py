"""How a scheduler is told things through a DRMAA library. When, and what becomes of it, is in `batchsystems.dialogue`.

The session is another process (`drmaa_link`). It tells of ends when they happen; what else is known of jobs it is
asked. SIGTERM and grace are their nodes' affair: DRMAA knows only one way to end a job, and most schedulers use SIGKILL
for it. So a file says who is to be ended, and the keeper on the node (`on_node`) does it. Who still waits then is
removed from the queue: it cannot begin any more, because a job looks for that file before its command is started.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import sys
from collections.abc import Iterable, Mapping, Sequence
from time import monotonic
from typing import Any, Callable, Optional

from batchsystems import drmaa_ends, on_node
from batchsystems.abstract import End, EndKind, Reason, Submission
from batchsystems.array_jobs import Array, Job, Meaning
from batchsystems.commands import Answer
from batchsystems.dialogue import Dialogue, read_evidence
from batchsystems.drmaa_files import Files
from batchsystems.drmaa_link import Link
from batchsystems.scheduled import Line, Refusal, Request, split_name, why_refused
from batchsystems.speech import Lane

log = logging.getLogger("jobtree.drmaa")

_REFUSALS = (
    (Refusal.AWAY, ("drmcommunication", "drmsinit", "noactivesession", "trylater")),
    (
        Refusal.LIMIT,
        ("jobs are allowed per", "submit a job with more than", "queue limit", "maximum number", "too many"),
    ),
    (
        Refusal.NEVER,
        ("deniedbydrm", "invalidattribute", "conflictingattribute", "unsupportedattribute", "invalidargument",
         "authorization", "invalidjobtemplate"),
    ),
)  # fmt: skip


class DrmaaDialogue(Dialogue):
    """native: makes a native specification; index: the variable in which a task has its index, None: no arrays."""

    def __init__(
        self, meaning: Meaning, env: Mapping[str, str], files: Files, link: Link, native: Callable[[Request], str],
        index: Optional[str], patience: float, interval: float, by_accounts: bool = False,
    ) -> None:  # fmt: skip
        super().__init__(meaning, env, files.output, patience, interval, by_accounts)
        self.files = files
        self.link = link
        self._native = native
        self._index = index
        self._ids: dict[str, tuple[str, int]] = {}  # as the library has it -> token, index
        self._removing: dict[str, tuple[Job, float]] = {}  # ended softly, and since when
        self._contact = link.contact

    # -- submitting --------------------------------------------------------------------------------------------

    def indices(self, jobs: Sequence[Job]) -> dict[int, Job]:
        """From 1, in their order: the description has the names."""
        return dict(enumerate(jobs, 1))

    def goes_with(self, first: Job, job: Job) -> bool:
        """Where there are arrays."""
        return self._index is not None

    def job_name(self, array: Array, first: str) -> str:
        """What the scheduler is to call an array; short, since some have no room."""
        return f"run-{array.run}"[:15]

    def submission(
        self, array: Array, jobs: Sequence[Job], tasks: Mapping[int, Submission]
    ) -> Optional[Lane]:
        """Describe it, and have the session submit it."""
        try:
            self.files.describe(array.token, tasks)
        except OSError as error:
            log.warning("%d jobs cannot be submitted now: %s", len(tasks), error)
            return None
        command = [
            sys.executable, "-I", "-S", os.path.abspath(on_node.__file__), self._index or "1",
            self.files.description(array.token),
        ]  # fmt: skip
        return self.link.ask(
            "submit", name=self.job_name(array, jobs[0].name), command=command, output=array.output,
            native=self._native(jobs[0].request), count=len(tasks) if self._index else None,
        )  # fmt: skip

    def number(self, array: Array, answer: Answer) -> Optional[str]:
        """The library's name for the first; all of them are kept for a later instance."""
        numbers = dict(enumerate(json.loads(answer.out)["ids"], 1))
        self._know(array, numbers)
        try:
            self.files.note_numbers(array.token, numbers)
        except OSError as error:
            log.warning("what %d jobs are called cannot be kept for the next start: %s", len(numbers), error)
        return self.number_of(numbers[1])

    def number_of(self, name: str) -> str:
        """The number of an array, from the library's name for one of its tasks."""
        return name

    def _know(self, array: Array, numbers: Mapping[int, str]) -> None:
        self._ids.update({number: (array.token, index) for index, number in numbers.items()})

    def why_refused(self, status: Optional[int], words: str) -> Refusal:
        """By the kind of the library's error, and its words."""
        return why_refused(status, words, _REFUSALS)

    # -- ending ------------------------------------------------------------------------------------------------

    def end(self, jobs: Sequence[Job]) -> None:
        """Through the session."""
        wanted = {id(job) for job in jobs}
        numbers = [n for n, (token, index) in self._ids.items() if id(self._job(token, index)) in wanted]
        if numbers:
            self.say_cancel(lambda: self.link.ask("end", ids=numbers), jobs)

    def end_softly(self, jobs: Sequence[Job]) -> None:
        """Tell their nodes; those that wait are removed when it is known that they still do."""
        now = monotonic()
        for job in jobs:
            if job.kill_at is not None and self.files.cancel(job.name, job.kill_at - now):
                self._removing[job.name] = job, now
            else:
                self.end([job])  # without grace: nobody can be told
        self.ask_soon()

    # -- hearing -----------------------------------------------------------------------------------------------

    def turn(self) -> None:
        """Also what the session tells by itself."""
        if self.jobs.arrays and not self.link.is_there() and monotonic() >= self.link.pause.until:
            self.link.start()
        self.link.turn()
        self._note_contact()
        told, self.link.ended = self.link.ended, []
        for one in told:
            self._ended(one)
        super().turn()

    def _things(self) -> list[Any]:
        lanes = [lane for lane in self._lanes() if lane.fileno() >= 0]
        return [*lanes, *([self.link] if self.link.is_there() else [])]

    def _moments(self) -> list[float]:
        moments = [self.link.due()]
        if self.jobs.arrays and not self.link.is_there():
            moments.append(self.link.pause.until)
        return moments

    def _note_contact(self) -> None:
        if self.link.contact == self._contact:
            return
        self._contact = self.link.contact
        try:
            self.files.note_contact(self._contact)
        except OSError as error:
            log.warning("the contact of the session cannot be kept for the next start: %s", error)

    def _job(self, token: str, index: int) -> Optional[Job]:
        array = self.jobs.arrays.get(token)
        return self.jobs.jobs.get(array.names.get(index, "")) if array is not None else None

    def job_of(self, number: str) -> Optional[Job]:
        """The job that the library calls so."""
        found = self._ids.get(number)
        return self._job(*found) if found is not None else None

    def _ended(self, told: Mapping[str, Any]) -> None:
        job = self.job_of(told["id"])
        if job is None or job.array is None:
            return
        command = job.submission.command[0] if job.submission is not None else ""
        evidence = read_evidence(job.array.output) if told["status"] else ""
        self.told(job, drmaa_ends.of_wait(job.name, told, job.cancelled, command, job.host, evidence))

    def told(self, job: Job, end: End) -> None:
        """Somebody has told of an end. A node may know more of it than the session."""
        if not job.cancelled and (end.kind is EndKind.LOST or end.signal == signal.SIGKILL):
            assert job.array is not None
            evidence = read_evidence(job.array.output)
            status = drmaa_ends.read_ended(evidence).get(job.name, drmaa_ends.KILLED_THERE)
            end = end if status == drmaa_ends.KILLED_THERE else self._by_status(job, status, evidence)
        self.jobs.end(job, end)

    def _by_status(self, job: Job, status: int, evidence: str) -> End:
        if job.cancelled:
            return End(job.name, EndKind.KILLED, reason=Reason.CANCELLED, host=job.host)
        if status == drmaa_ends.KILLED_THERE:
            detail = "it was killed there together with what had started it"
            return End(
                job.name, EndKind.KILLED, None, signal.SIGKILL, Reason.SIGNAL, detail=detail, host=job.host
            )
        command = job.submission.command[0] if job.submission is not None else ""
        return drmaa_ends.of_status(job.name, status, command, evidence, job.host)

    def heard_queue(self, asked: float) -> None:
        """Remove what waits and was to be ended; hear the nodes, whose word may come long before the scheduler's."""
        for name, (job, since) in list(self._removing.items()):
            if self.jobs.jobs.get(name) is not job:
                del self._removing[name]
            elif since <= asked:
                del self._removing[name]
                if not job.running:
                    self.end([job])
        for array in list(self.jobs.arrays.values()):
            evidence = read_evidence(array.output)
            for name, status in drmaa_ends.read_ended(evidence).items() if evidence else ():
                job_there = self.jobs.jobs.get(name)
                if job_there is not None and job_there.array is array and job_there.told is None:
                    self.heard(job_there, status, evidence)

    def heard(self, job: Job, status: int, evidence: str) -> None:
        """A node has told of an end."""
        self.jobs.end(job, self._by_status(job, status, evidence))

    # -- asking ------------------------------------------------------------------------------------------------

    def question(self, runs: Sequence[str]) -> Optional[Lane]:
        """The states of all that are not over; and of those that somebody asks for who did not submit them."""
        self._ids = {n: (t, i) for n, (t, i) in self._ids.items() if self._job(t, i) is not None}
        for run in {split_name(name)[0] for name in self._lookups}:
            self.know_noted(run)
        return self.link.ask("states", ids=list(self._ids))

    def read_queue(self, answer: Answer) -> Optional[list[Line]]:
        """Those that the library knows and that are not over."""
        return self.lines(json.loads(answer.out)["states"])

    def lines(self, states: Mapping[str, str]) -> list[Line]:
        """The lines of states, by the library's name of a job."""
        found = []
        for number, state in states.items():
            token, index = self._ids.get(number, ("", 0))
            names = self.files.names(token) if token else {}
            if index in names and state not in ("done", "failed", "unknown", "undetermined"):
                run = split_name(names[index])[0]
                jobs = {index: names[index]}
                found.append(Line(number, [index], number, state, "", None, "", "", token, jobs, run))
        return found

    def know_noted(self, run: str) -> list[str]:
        """What the library calls the jobs of a run that an earlier instance has submitted."""
        found: list[str] = []
        for token in self.files.tokens():
            names = self.files.names(token)
            if any(split_name(name)[0] == run for name in names.values()):
                numbers = self.files.numbers(token)
                self._ids.update({number: (token, index) for index, number in numbers.items()})
                found += numbers.values()
        return found

    def account_questions(self, arrays: Sequence[Array]) -> list[Any]:
        """DRMAA has no accounts."""
        return []

    def account_question(self, what: Any) -> Optional[Lane]:
        """Nobody to be asked."""
        return None

    def read_accounts(self, answer: Answer) -> Optional[list[Line]]:
        """Nothing was asked."""
        return []

    # -- tidying -----------------------------------------------------------------------------------------------

    def array_ended(self, array: Array) -> None:
        """Nobody needs its files any more."""
        self.files.remove(array.token)

    def sweep(self, lines: Iterable[Line]) -> None:
        """Remove the files of arrays that an earlier instance knew."""
        self.files.sweep({line.token for line in lines} | set(self.jobs.arrays))

    def close(self) -> None:
        """Let go of everything."""
        super().close()
        self.link.close()
