"""SLURM as a batch system.

    python pipeline.py --batchSystem slurm --slurmPartition short --jobTree /shared/tree

What must hold, besides what holds for all schedulers (`batchsystems.scheduler`)
  - Nobody waits for SLURM: its commands run beside everything else (`batchsystems.commands`), one `sbatch`, one
    `scancel` and one question at a time. What could not be done is kept and tried again, with growing pauses.
  - One question answers for all jobs, and there is never more than one in `--slurmInterval` seconds (5): `squeue`
    for the whole run, or for what it does not know any more `sacct` or `scontrol`. Where nothing changes it is asked
    less and less often, down to once a minute, but often enough not to miss what SLURM forgets (MinJobAge).
  - What is issued together is an array, as far as it asks for the same. What is refused because of a limit is
    tried again in smaller pieces, and fewer jobs are queued from then on.

What SLURM says means what `slurm_ends` says; what becomes of jobs of which it says nothing, `array_jobs`. How it fails:
a `slurmctld` or `slurmdbd` that is down for any time delays what is submitted, and changes nothing else. Signals of
`cancel` go through SLURM; after a grace its own KillWait comes on top.
"""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Mapping
from typing import Any, ClassVar

from batchsystems import slurm_commands as commands
from batchsystems.abstract import AbstractBatchSystem, BackendOption, BatchSystemError, Setup
from batchsystems.scheduled import GPUS, Line, Refusal
from batchsystems.scheduler import Scheduler, ask, values_of
from batchsystems.slurm_dialogue import SlurmDialogue, arguments_of
from batchsystems.slurm_options import OPTIONS
from batchsystems.slurm_site import read_site

log = logging.getLogger("jobtree.slurm")


class Slurm(Scheduler):
    """Jobs of SLURM. Options as in `OPTIONS`; `patience`: seconds for which SLURM may be silent about a job that it has
    acknowledged; `own_run`: whose directory it is. Raises BatchSystemError if SLURM's commands are not there
    or refuse the options."""

    OPTIONS: ClassVar[tuple[BackendOption, ...]] = OPTIONS

    def __init__(
        self, directory: str, options: Mapping[str, Any], patience: float = 60.0, own_run: str = ""
    ) -> None:
        self._options = values_of(OPTIONS, options)
        env = commands.environment(os.environ)
        output = os.path.join(os.path.abspath(directory), "output")
        site = read_site(lambda arguments: ask(arguments, env), self._options["slurmPartition"])
        os.makedirs(output, 0o700, exist_ok=True)
        self._slurm = SlurmDialogue(env, output, self._options, patience)
        self._slurm.site, self._slurm.nodes = site, site.nodes
        most = self._options["slurmMaxJobs"] or 0
        super().__init__(self._slurm, env, own_run, most, self._options["slurmTime"])

    @classmethod
    def create(cls, setup: Setup) -> AbstractBatchSystem:
        """Make one, and have SLURM look at the options."""
        for program in ("sbatch", "squeue", "scancel", "scontrol"):
            if shutil.which(program) is None:
                raise BatchSystemError(
                    f"SLURM's command {program} is not on PATH. Start this where SLURM's commands work (a login node; "
                    "perhaps 'module load slurm')."
                )
        made = cls(setup.directory, setup.options, own_run=setup.run)
        try:
            made._check_options()
        except BatchSystemError:
            made.close()
            raise
        return made

    def counts(self, name: str) -> bool:
        """SLURM sees to graphics cards."""
        return name == GPUS

    def _ask_for_all(self, key: str) -> list[Line]:
        answer = self._run(commands.squeue(os.getuid(), [key]))
        if answer.status != 0:
            raise BatchSystemError(f"SLURM cannot be asked now: {answer.words}")
        return commands.read_queue(answer.out)

    def _turn(self) -> None:
        super()._turn()
        if not self._slurm.site.known and self._slurm.answers:
            # It was away when this was made. Once is enough: without it, everything works as well.
            self._slurm.answers = False
            try:
                site = read_site(self._run, self._options["slurmPartition"])
            except BatchSystemError as error:
                log.warning("%s", error)
            else:
                self._slurm.site, self._slurm.nodes = site, site.nodes

    def _check_options(self) -> None:
        """Have SLURM look at what it would be asked for."""
        answer = self._run(["sbatch", "--test-only", "--wrap=true", *arguments_of(self._options)])
        if answer.status and commands.why_refused(answer.status, answer.words) is Refusal.NEVER:
            raise BatchSystemError(
                f"SLURM does not take jobs with these options: {answer.words}. See --slurmPartition, --slurmAccount, "
                "--slurmQos, --slurmArgs; 'sinfo' and 'sacctmgr show associations user=$USER' show what there is."
            )
