"""How SLURM is told things: with its commands. When, and what becomes of it, is in `batchsystems.dialogue`."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import Any, Optional

from batchsystems import slurm_commands as commands
from batchsystems import slurm_ends
from batchsystems.abstract import Submission
from batchsystems.array_jobs import Array, Job, tasks_by_number
from batchsystems.commands import Answer
from batchsystems.dialogue import LONGEST_INTERVAL, Dialogue
from batchsystems.scheduled import Line, Refusal, number_of, split_name
from batchsystems.slurm_site import Site
from batchsystems.speech import Lane

_ARRAYS_A_QUESTION = 100


class SlurmDialogue(Dialogue):
    """options: of the backend; directory: for what SLURM writes down of arrays; patience: see `Jobs`."""

    def __init__(
        self, env: Mapping[str, str], directory: str, options: Mapping[str, Any], patience: float
    ) -> None:
        super().__init__(slurm_ends, env, directory, patience, options["slurmInterval"], by_accounts=False)
        self.site = Site()
        self._arguments = arguments_of(options)

    def indices(self, jobs: Sequence[Job]) -> dict[int, Job]:
        """By number: a task's name can be told from its index, and the array's name."""
        base = number_of(jobs[0].name) or 0
        return {(number_of(job.name) or 0) - base: job for job in jobs}

    def goes_with(self, first: Job, job: Job) -> bool:
        """Numbers that are not too far from one another."""
        base, number = number_of(first.name), number_of(job.name)
        if base is None or number is None:
            return False
        return base <= number < base + self.site.limits.array_size

    def submission(
        self, array: Array, jobs: Sequence[Job], tasks: Mapping[int, Submission]
    ) -> Optional[Lane]:
        """`sbatch`, with the script on its standard input."""
        run, rest = split_name(jobs[0].name)
        number = number_of(jobs[0].name)
        comment = f"{array.token} {'=' + rest if number is None else number}"
        return self.say(
            commands.sbatch(
                run, comment, tasks, jobs[0].request, array.output, self.exclude, self._arguments
            ),
            commands.script(sys.executable, tasks, self._env),
        )

    def number(self, array: Array, answer: Answer) -> Optional[str]:
        """As `sbatch` has printed it."""
        return commands.submitted_id(answer.out)

    def why_refused(self, status: Optional[int], words: str) -> Refusal:
        """By SLURM's words."""
        return commands.why_refused(status, words)

    def end(self, jobs: Sequence[Job]) -> None:
        """SLURM sends SIGTERM, and SIGKILL after its own KillWait."""
        self._cancel(jobs)

    def end_softly(self, jobs: Sequence[Job]) -> None:
        """To all processes of the job, and not only of its batch script."""
        self._cancel(jobs, "--state=PENDING")
        self._cancel(jobs, "--signal=TERM", "--full")

    def _cancel(self, jobs: Iterable[Job], *how: str) -> None:
        """Those that have a number; the others are cancelled when they have one."""
        chosen = list(jobs)
        for run, tasks in tasks_by_number(chosen).items():
            for command in commands.cancel_commands(run, tasks, *how):
                mine = [j for j in chosen if j.array is not None and j.array.number in tasks]
                self.say_cancel(partial(self.say, command), mine)

    def question(self, runs: Sequence[str]) -> Optional[Lane]:
        """One `squeue` for all."""
        return self.say(commands.squeue(os.getuid(), runs))

    def read_queue(self, answer: Answer) -> Optional[list[Line]]:
        """Also of jobs that have ended a short time ago."""
        return commands.read_queue(answer.out)

    def longest_interval(self) -> float:
        """Often enough not to miss what SLURM forgets."""
        return self.site.limits.min_job_age / 3 or LONGEST_INTERVAL

    def account_questions(self, arrays: Sequence[Array]) -> list[list[str]]:
        """`sacct` takes many, `scontrol` one."""
        numbers = sorted({array.number for array in arrays if array.number is not None})
        many = _ARRAYS_A_QUESTION if self.site.limits.accounting else 1
        return [numbers[start : start + many] for start in range(0, len(numbers), many)]

    def account_question(self, what: list[str]) -> Optional[Lane]:
        """Ask where there is an answer."""
        return self.say(commands.sacct(what) if self.site.limits.accounting else commands.show_job(what[0]))

    def read_accounts(self, answer: Answer) -> Optional[list[Line]]:
        """A number that is not known is an answer."""
        if "invalid job id" in answer.words.lower():
            return []
        if answer.status != 0:
            return None
        many = self.site.limits.accounting
        return commands.read_accounts(answer.out) if many else commands.read_jobs(answer.out)


def arguments_of(options: Mapping[str, Any]) -> list[str]:
    """The arguments of `sbatch` that a user's options are."""
    found = []
    for flag, name in (("partition", "slurmPartition"), ("account", "slurmAccount"), ("qos", "slurmQos")):
        if options[name] is not None:
            found.append(f"--{flag}={options[name]}")
    return found + shlex.split(options["slurmArgs"] or "")
