"""What DRMAA and Grid Engine add to the command line."""

from __future__ import annotations

from batchsystems.abstract import BackendOption
from batchsystems.drmaa_native import SYSTEMS, read_template
from batchsystems.option_values import count, minutes, positive


def _system(given: object) -> str:
    for name in SYSTEMS:
        if str(given).lower() == name.lower():
            return name
    raise ValueError(str(given))


def _template(given: object) -> str:
    read_template(str(given))
    return str(given)


OPTIONS: tuple[BackendOption, ...] = (
    BackendOption(
        "--drmaaSystem", "What the library belongs to; default: Grid Engine where it is there, else 'other'.",
        None, _system, " or ".join(SYSTEMS), "NAME",
    ),
    BackendOption(
        "--drmaaLibrary", "The DRMAA library; default: $DRMAA_LIBRARY_PATH, else it is looked for.", metavar="FILE"
    ),
    BackendOption(
        "--drmaaNativeSpec",
        "Native specification that is added to each job's ('-q short.q -P lab'); default: none.",
    ),
    BackendOption(
        "--drmaaRequest",
        "How cores, memory and time are asked for, where it is not Grid Engine ('-n {cpus} | -M {mebibytes} | -W "
        "{minutes}'); default: as --drmaaSystem has it.",
        None, _template, "pieces between '|' with {cpus}, {mebibytes}, {minutes}, {seconds} or {gpus}", "TEXT",
    ),
    BackendOption(
        "--drmaaMemory",
        "Grid Engine's name for the memory of a job, empty: do not ask for memory; default: h_vmem.",
        "h_vmem", metavar="NAME",
    ),
    BackendOption(
        "--drmaaPe",
        "Grid Engine's parallel environment for jobs of several cores; default: the only one, or one named smp.",
        metavar="NAME",
    ),
    BackendOption(
        "--drmaaTime",
        "Time limit of jobs that do not say how long they take (minutes, h:m:s or d-h); default: none.",
        None, minutes, "minutes, hours:minutes:seconds or days-hours", "TIME",
    ),
    BackendOption(
        "--drmaaMaxJobs", "Jobs that the run has in the queue; default: twice what can run at one time.",
        None, count, "a number of jobs, 1 or more", "NUMBER",
    ),
    BackendOption(
        "--drmaaInterval", "Seconds between two questions to the scheduler, at least; default: 5.",
        5.0, positive, "seconds, more than 0", "SECONDS",
    ),
)  # fmt: skip
