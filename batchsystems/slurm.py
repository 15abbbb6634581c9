"""SLURM as a batch system.

    python pipeline.py --batchSystem slurm --slurmPartition short --jobTree /shared/tree

What must hold
  - Nobody waits for SLURM: its commands run beside everything else (`batchsystems.commands`), one `sbatch`, one
    `scancel` and one question at a time. What could not be done is kept and tried again, with growing pauses.
  - One question answers for all jobs, and there is never more than one in `--slurmInterval` seconds (5): `squeue`
    for the whole run, or for what it does not know any more `sacct` or `scontrol`. Where nothing changes it is asked
    less and less often, down to once a minute, but often enough not to miss what SLURM forgets (MinJobAge).
  - What is issued together is an array, as far as it asks for the same. What is refused because of a limit is
    tried again in smaller pieces, and fewer jobs are queued from then on.
  - SLURM's queue is kept short: twice what can run at one time. Jobs that have ended make room for others without
    anybody having to ask.

What SLURM says means what `slurm_ends` says; what becomes of jobs of which it says nothing, `slurm_jobs`. How it fails:
a `slurmctld` or `slurmdbd` that is down for any time delays what is submitted, and changes nothing else. Signals of
`cancel` go through SLURM; after a grace its own KillWait comes on top.
"""

from __future__ import annotations

import logging
import os
import shutil
import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, ClassVar, Optional

from batchsystems import slurm_commands as commands
from batchsystems.abstract import (
    AbstractBatchSystem,
    BackendOption,
    BatchSystemError,
    Capacity,
    End,
    NeverFits,
    Resources,
    Setup,
    Submission,
)
from batchsystems.commands import Answer, run
from batchsystems.slurm_commands import Refusal, Request
from batchsystems.slurm_dialogue import Dialogue, arguments_of
from batchsystems.slurm_jobs import Job
from batchsystems.slurm_options import OPTIONS
from batchsystems.slurm_site import read_site

log = logging.getLogger("jobtree.slurm")

_SYNC_SECONDS = 25.0
"""So long somebody waits who cannot go on without an answer: at the start, and in `list_issued`."""
_CLOSE_SECONDS = 10.0
_ROOM_UNKNOWN = 100
_MOST_JOBS = 1000
_ROOM_STEP = 8
"""There is room for an eighth of all at least, or for none: else each job would make an array of its own."""


class Slurm(AbstractBatchSystem):
    """Jobs of SLURM. Options as in `OPTIONS`; `patience`: seconds for which SLURM may be silent about a job that it has
    acknowledged; `own_run`: whose directory it is. Raises BatchSystemError if SLURM's commands are not there
    or refuse the options."""

    outlives_master = True

    OPTIONS: ClassVar[tuple[BackendOption, ...]] = OPTIONS

    def __init__(
        self, directory: str, options: Mapping[str, Any], patience: float = 60.0, own_run: str = ""
    ) -> None:
        self._own_run = own_run
        self._options = {
            o.name: o.default if options.get(o.name) is None else o.convert(options[o.name]) for o in OPTIONS
        }
        self._env = commands.environment(os.environ)
        output = os.path.join(os.path.abspath(directory), "output")
        site = read_site(self._run, self._options["slurmPartition"])
        os.makedirs(output, 0o700, exist_ok=True)
        self._dialogue = Dialogue(self._env, output, self._options, patience)
        self._dialogue.site = site
        self._jobs = self._dialogue.jobs
        self._closed = False

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

    # -- the contract ------------------------------------------------------------------------------------------

    def issue(self, submissions: Sequence[Submission]) -> None:
        """Hand over submissions to be submitted as soon as SLURM takes them."""
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
            if capacity is not None and submission.resources.cpu > capacity.cpu:
                raise NeverFits(name, "cores", submission.resources.cpu, capacity.cpu)
            if capacity is not None and submission.resources.memory > capacity.memory:
                raise NeverFits(name, "memory", submission.resources.memory, capacity.memory)
            gpus = submission.resources.countable.get(commands.GPUS, 0)
            if capacity is not None and gpus > capacity.countable[commands.GPUS]:
                raise NeverFits(name, commands.GPUS, gpus, capacity.countable[commands.GPUS])
        for submission in submissions:
            request = Request.of(submission.resources, self._options["slurmTime"])
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
            elif commands.is_name(name):
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
        """Names of queued or running jobs of a run; asks SLURM, and waits for its answer."""
        self._require_open()
        key = commands.split_name(run + ".")[0]
        asked = time.monotonic()
        answer = self._run(commands.squeue(os.getuid(), [key]))
        if answer.status != 0:
            raise BatchSystemError(f"SLURM cannot be asked now: {answer.words}")
        lines = commands.read_queue(answer.out)
        active = self._jobs.adopt(key, lines, asked, self._dialogue.output)
        if key == self._own_run:
            self._dialogue.sweep(lines)
        active.update(self._jobs.jobs)
        return sorted(name for name in active if name.startswith(run + "."))

    def running(self) -> list[str]:
        """Names of the jobs that were running when SLURM was last asked."""
        self._require_open()
        return [job.name for job in self._jobs.jobs.values() if job.running]

    def capacity(self) -> Optional[Capacity]:
        """The largest machine of the partition."""
        return self._dialogue.site.capacity

    def slots(self, resources: Resources) -> Optional[int]:
        """By cores and memory of the machines that may start jobs."""
        return self._dialogue.site.slots(Request.of(resources, None))

    def counts(self, name: str) -> bool:
        """SLURM sees to graphics cards."""
        return name == commands.GPUS

    def queue_room(self) -> int:
        """So that twice as many are there as can run."""
        self._require_open()
        if self._dialogue.is_submitting():
            return 0
        jobs = self._jobs.jobs
        cores = max(1, -(-sum(job.request.cpus for job in jobs.values()) // max(1, len(jobs))))
        slots = self._dialogue.site.slots(Request(cores, 0, None))
        usual = _ROOM_UNKNOWN if slots is None else min(2 * max(1, slots), _MOST_JOBS)
        most = int(self._options["slurmMaxJobs"] or usual)
        limit = self._dialogue.limit()
        if limit is not None:
            most = min(most, limit)
        room = max(0, most - len(jobs))
        return room if not jobs or room >= most // _ROOM_STEP else 0

    def why_waiting(self, name: str) -> str:
        """SLURM's own state and reason, as it told them last."""
        job = self._jobs.jobs.get(name)
        if job is None:
            return ""
        return job.words or "it has not been asked about this job yet"

    def avoid(self, hosts: Collection[str]) -> None:
        """Exclude machines from what is submitted from now on; all of them cannot be."""
        known = {node.name for node in self._dialogue.site.nodes}
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
        if not self._dialogue.site.known and self._dialogue.answers:
            # It was away when this was made. Once is enough: without it, everything works as well.
            self._dialogue.answers = False
            try:
                self._dialogue.site = read_site(self._run, self._options["slurmPartition"])
            except BatchSystemError as error:
                log.warning("%s", error)

    def _run(self, arguments: Sequence[str]) -> Answer:
        try:
            return run(arguments, self._env, _SYNC_SECONDS)
        except OSError as error:
            raise BatchSystemError(f"{arguments[0]} cannot be started: {error}") from error

    def _check_options(self) -> None:
        """Have SLURM look at what it would be asked for."""
        answer = self._run(["sbatch", "--test-only", "--wrap=true", *arguments_of(self._options)])
        if answer.status and commands.why_refused(answer.status, answer.words) is Refusal.NEVER:
            raise BatchSystemError(
                f"SLURM does not take jobs with these options: {answer.words}. See --slurmPartition, --slurmAccount, "
                "--slurmQos, --slurmArgs; 'sinfo' and 'sacctmgr show associations user=$USER' show what there is."
            )

    def _require_open(self) -> None:
        if self._closed:
            raise BatchSystemError("this batch system has been closed; make a new one")
