"""How cores, memory and time are asked for through DRMAA, which leaves that to each system's native specification.

Pure. Only Grid Engine's (`grid_engine_commands.native`) has been run against its system; the others are as their
documents have them, and `--drmaaRequest` replaces them.
"""

from __future__ import annotations

import string
from typing import NamedTuple, Optional

from batchsystems.scheduled import Request


class System(NamedTuple):
    """request: pieces between `|`, of which those are left out that name what a job does not ask for; variable: the
    one in which a task of an array finds its index, None: it has no arrays."""

    request: str
    variable: Optional[str]


SYSTEMS: dict[str, System] = {
    "gridEngine": System("", "SGE_TASK_ID"),
    "pbs": System("-l select=1:ncpus={cpus}:mem={mebibytes}mb | -l walltime={seconds}", "PBS_ARRAY_INDEX"),
    "torque": System("-l nodes=1:ppn={cpus} | -l mem={mebibytes}mb | -l walltime={seconds}", "PBS_ARRAYID"),
    "lsf": System("-n {cpus} -R span[hosts=1] | -M {mebibytes}MB | -W {minutes}", "LSB_JOBINDEX"),
    "slurm": System(
        "--nodes=1 --cpus-per-task={cpus} | --mem={mebibytes} | --time={minutes}", "SLURM_ARRAY_TASK_ID"
    ),
    "condor": System(
        "request_cpus = {cpus} | \nrequest_memory = {mebibytes} | \nrequest_gpus = {gpus}", None
    ),
    "other": System("", None),
}

_FIELDS = frozenset(["cpus", "mebibytes", "minutes", "seconds", "gpus"])


def read_template(text: str) -> list[tuple[str, frozenset[str]]]:
    """The pieces of a template, and the values that each needs. Raises ValueError."""
    found = []
    for piece in text.split("|"):
        names = frozenset(name for _, name, _, _ in string.Formatter().parse(piece) if name is not None)
        if not names <= _FIELDS:
            raise ValueError(text)
        found.append((piece.strip(" "), names))
    return found


def native(template: str, request: Request, more: str) -> str:
    """The native specification for a request."""
    minutes = request.minutes
    values = {
        "cpus": request.cpus, "mebibytes": request.mebibytes, "minutes": minutes, "gpus": request.gpus,
        "seconds": None if minutes is None else 60 * minutes,
    }  # fmt: skip
    pieces = [
        piece.format(**values)
        for piece, names in read_template(template)
        if all(values[name] for name in names)
    ]
    return " ".join([*(piece for piece in pieces if piece), *([more] if more else [])])
