"""What `on_node` is told of the jobs of an array."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping

from batchsystems.abstract import Submission

# What a scheduler says of the process that submits is not true of the job, which is told its own.
_PREFIXES = ("SLURM_", "SLURMD_", "SBATCH_", "SGE_", "PBS_", "LSB_", "LS_")
_NAMES = frozenset(
    [
        "ARC", "JOB_ID", "JOB_NAME", "JOB_SCRIPT", "NHOSTS", "NQUEUES", "NSLOTS", "PE", "PE_HOSTFILE", "QUEUE",
        "REQUEST", "REQNAME", "RESTARTED",
    ]
)  # fmt: skip
_OF_THE_SITE = frozenset(
    ["SLURM_CONF", "SGE_CELL", "SGE_CLUSTER_NAME", "SGE_EXECD_PORT", "SGE_QMASTER_PORT", "SGE_ROOT"]
)


def describe(submissions: Mapping[int, Submission], drop: Iterable[str], **more: object) -> str:
    """The text for the tasks of an array, by index. All have the same environment and directory.

    drop: variables that the scheduler hands on from here and that are none of the job's; more: see `on_node`.
    """
    first = next(iter(submissions.values()))
    given = dict(os.environ if first.env is None else first.env)
    env = {
        name: value
        for name, value in given.items()
        if name in _OF_THE_SITE or not (name.startswith(_PREFIXES) or name in _NAMES)
    }
    jobs = {
        index: {"name": job.name, "command": job.command, "log": job.log and os.path.abspath(job.log)}
        for index, job in submissions.items()
    }
    return json.dumps(
        {"env": env, "drop": sorted(drop), "cwd": first.cwd or os.getcwd(), "jobs": jobs, **more}
    )
