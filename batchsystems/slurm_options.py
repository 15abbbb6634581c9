"""What the SLURM batch system adds to the command line."""

from __future__ import annotations

import shlex

from batchsystems.abstract import BackendOption
from batchsystems.option_values import count, minutes, positive
from batchsystems.slurm_commands import OWN_ARGUMENTS


def _arguments(given: object) -> str:
    for argument in shlex.split(str(given)):
        name = argument.partition("=")[0]
        name = name if name.startswith("--") else name[:2]
        if not name.startswith("-"):
            continue
        if name in OWN_ARGUMENTS:
            raise ValueError(name)
    return str(given)


OPTIONS: tuple[BackendOption, ...] = (
    BackendOption(
        "--slurmPartition", "Partition (or several, a,b) for the jobs; default: SLURM's.", metavar="NAME"
    ),
    BackendOption("--slurmAccount", "Account that the jobs are charged to; default: SLURM's.", metavar="NAME"),
    BackendOption("--slurmQos", "Quality of service of the jobs; default: SLURM's.", metavar="NAME"),
    BackendOption(
        "--slurmTime",
        "Time limit of jobs that do not say how long they take (minutes, h:m:s or d-h); default: the partition's.",
        None, minutes, "minutes, hours:minutes:seconds or days-hours", "TIME",
    ),
    BackendOption(
        "--slurmArgs",
        "Further arguments for sbatch, as one text ('--constraint=avx2 --gres=gpu:1'); default: none.",
        None, _arguments, "arguments of sbatch, without those that are given anyway (--array, --output ...)", "TEXT",
    ),
    BackendOption(
        "--slurmMaxJobs", "Jobs that the run has in SLURM's queue; default: twice what can run at one time.",
        None, count, "a number of jobs, 1 or more", "NUMBER",
    ),
    BackendOption(
        "--slurmInterval", "Seconds between two questions to SLURM, at least; default: 5.",
        5.0, positive, "seconds, more than 0", "SECONDS",
    ),
)  # fmt: skip
