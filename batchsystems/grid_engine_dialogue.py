"""How Grid Engine is told things: jobs go through DRMAA, all else through its commands, which know jobs by name."""

from __future__ import annotations

import signal
from collections.abc import Mapping, Sequence
from functools import partial
from time import monotonic
from typing import Optional

from batchsystems import drmaa_ends, grid_engine_ends
from batchsystems import grid_engine_commands as commands
from batchsystems.abstract import End, EndKind
from batchsystems.array_jobs import Array, Job
from batchsystems.commands import Answer
from batchsystems.drmaa_dialogue import DrmaaDialogue
from batchsystems.drmaa_files import Files
from batchsystems.drmaa_link import Link
from batchsystems.grid_engine_commands import Site
from batchsystems.scheduled import Line, Refusal, split_name, why_refused
from batchsystems.speech import Lane


class GridEngineDialogue(DrmaaDialogue):
    """user: whose jobs they are; more: native specification of the user's."""

    def __init__(
        self, env: Mapping[str, str], files: Files, link: Link, user: str, more: str, patience: float, interval: float
    ) -> None:  # fmt: skip
        self.site = Site()
        super().__init__(
            grid_engine_ends, env, files, link,
            lambda request: commands.native(request, self.site, self.exclude, more),
            "SGE_TASK_ID", patience, interval, by_accounts=True,
        )  # fmt: skip
        self._user = user

    def job_name(self, array: Array, first: str) -> str:
        """By which it can be found again."""
        return commands.job_name(array.run, split_name(first)[1], array.token)

    def number_of(self, name: str) -> str:
        """NUMBER.TASK"""
        return name.partition(".")[0]

    def job_of(self, number: str) -> Optional[Job]:
        """Also of an earlier instance. The latest, should a number have been given out again."""
        found = super().job_of(number)
        if found is not None:
            return found
        array_number, _, task = number.partition(".")
        for array in reversed(list(self.jobs.arrays.values())):
            if array.number == array_number and task.isdigit():
                return self._job(array.token, int(task))
        return None

    def why_refused(self, status: Optional[int], words: str) -> Refusal:
        """By the words of its commands, or of its library."""
        kind = why_refused(status, words, commands.REFUSALS)
        return super().why_refused(status, words) if kind is Refusal.OTHER else kind

    def end(self, jobs: Sequence[Job]) -> None:
        """`qdel`, once for each array."""
        by_array: dict[str, tuple[Array, list[Job]]] = {}
        for job in jobs:
            if job.array is not None:
                by_array.setdefault(job.array.token, (job.array, []))[1].append(job)
        for array, mine in by_array.values():
            if array.acknowledged is None:
                continue  # it is cancelled when that is known
            for command in commands.qdel(self._user, self._name_of(array), (job.index for job in mine)):
                self.say_cancel(partial(self.say, command), mine)

    def _name_of(self, array: Array) -> str:
        # The pattern leaves out what only people read.
        return commands.job_name(array.run, "*", array.token)

    def told(self, job: Job, end: End) -> None:
        """What it does not say, accounts do: which limit was met, why a start went wrong."""
        if job.cancelled or (end.kind is not EndKind.LOST and end.signal != signal.SIGKILL):
            self.jobs.end(job, end)
        elif job.told is None:
            job.told, job.missing, job.running = end, monotonic(), False
            self.jobs.doubtful.append(job)
            self.ask_accounts()
            self.ask_soon()

    def heard(self, job: Job, status: int, evidence: str) -> None:
        """The same here."""
        if status == drmaa_ends.KILLED_THERE:
            self.told(job, self._by_status(job, status, evidence))
        else:
            super().heard(job, status, evidence)

    def question(self, runs: Sequence[str]) -> Optional[Lane]:
        """One `qstat` for all."""
        return self.say(commands.qstat(self._user))

    def read_queue(self, answer: Answer) -> Optional[list[Line]]:
        """What waits and what runs."""
        return commands.read_queue(answer.out, self.files.names)

    def account_questions(self, arrays: Sequence[Array]) -> list[str]:
        """One `qacct` for each array."""
        return [self._name_of(array) for array in arrays]

    def account_question(self, what: str) -> Optional[Lane]:
        """Ask for one."""
        return self.say(commands.qacct(what))

    def read_accounts(self, answer: Answer) -> Optional[list[Line]]:
        """That it is not found is an answer."""
        if "not found" in answer.words:
            return []
        return commands.read_accounts(answer.out) if answer.status == 0 else None
