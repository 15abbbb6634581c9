"""SLURM's commands: what is said to them, and what their answers mean. Values and texts, no processes.

A submission is an array, also if it is one job, and is known by what is in its comment: "TOKEN BASE" (the task with
index i is the job RUN.(BASE + i)) or "TOKEN =REST" (a single job, RUN.REST). The token is made for this one `sbatch`.
Numbers of jobs are given out again after a controller has crashed, so they are only what `scancel` must be told. RUN is
the name of all jobs of a run, so that one `squeue --name=RUN` answers for all of them.

Written for SLURM 22.05 and the documents of the versions around it. What is not understood is never an end.
"""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple, Optional

from batchsystems import on_node, scheduled
from batchsystems.abstract import Submission
from batchsystems.node_description import describe
from batchsystems.scheduled import Line, Node, Refusal, Request, read_tasks, write_tasks

_KEPT = frozenset(
    ["HOME", "LANG", "LC_ALL", "LD_LIBRARY_PATH", "LOGNAME", "PATH", "SLURM_CONF", "TZ", "USER"]
)
_DEFAULTS = frozenset(
    f"SBATCH_{name}"
    for name in ("ACCOUNT", "CONSTRAINT", "PARTITION", "QOS", "RESERVATION", "TIMELIMIT", "WCKEY")
)
"""What a user may have set once and for all for `sbatch`; the rest of its variables would change how we use it."""

# An argument's length has a limit, and a command with 46,000 ids has met it.
_IDS_LENGTH = 8000
_MOST_IDS = 500

OWN_ARGUMENTS = (
    "--array", "--chdir", "--comment", "--error", "--export", "--export-file", "--get-user-env", "--input",
    "--job-name", "--kill-on-invalid-dep", "--nodes", "--no-requeue", "--ntasks", "--open-mode", "--output",
    "--parsable", "--requeue", "--test-only", "--wait", "--wrap", "--clusters", "-a", "-D", "-e", "-i", "-J", "-M",
    "-N", "-n", "-o", "-W",
)  # fmt: skip
"""Arguments of `sbatch` that are not the user's to give."""


def environment(given: Mapping[str, str]) -> dict[str, str]:
    """The variables for SLURM's commands: few, since `sbatch` hands them on to the job, and many change an answer."""
    kept = {name: value for name, value in given.items() if name in _KEPT or name in _DEFAULTS}
    # Lists of tasks are cut off after 64 characters otherwise.
    return {**kept, "SLURM_BITSTR_LEN": "0"}


# -- submitting ------------------------------------------------------------------------------------------------


def sbatch(
    run: str, comment: str, tasks: Iterable[int], request: Request, output: str, exclude: Iterable[str],
    arguments: Sequence[str],
) -> list[str]:  # fmt: skip
    """The command that submits an array; it reads `script`."""
    command = [
        "sbatch", "--parsable", "--no-requeue", "--nodes=1", "--ntasks=1", f"--job-name={run}", f"--comment={comment}",
        f"--array={write_tasks(tasks)}", f"--cpus-per-task={request.cpus}", "--export=ALL", "--chdir=/",
        f"--output={output.replace('%', '%%')}", "--open-mode=append",
    ]  # fmt: skip
    if request.mebibytes:
        command.append(f"--mem={request.mebibytes}M")
    if request.minutes is not None:
        command.append(f"--time={request.minutes}")
    if request.gpus:
        command.append(f"--gres=gpu:{request.gpus}")
    excluded = ",".join(sorted(exclude))
    if excluded:
        command.append(f"--exclude={excluded}")
    return [*command, *arguments]


def script(python: str, submissions: Mapping[int, Submission], drop: Iterable[str]) -> str:
    """The batch script for the tasks of an array, by index. All have the same environment and directory.

    drop: variables that `sbatch` hands on and that are none of the job's.
    """
    told = describe(submissions, drop)
    start = shlex.join([python, "-I", "-S", os.path.abspath(on_node.__file__)])
    # A shell that could not read all of this would have nothing to run.
    return f"#!/bin/sh\nexec {start} \"$SLURM_ARRAY_TASK_ID\" <<'END'\n{told}\nEND\n"


def submitted_id(out: str) -> Optional[str]:
    """The number that `sbatch --parsable` has printed ("205", or "205;cluster")."""
    found = re.search(r"^(\d+)(?:;\S+)?$", out, re.MULTILINE)
    return found.group(1) if found else None


_REFUSALS = (
    (Refusal.AWAY, ("connect failure", "connection refused", "unable to resolve", "no route to host")),
    (Refusal.UNKNOWN, ("timed out", "zero bytes were transmitted", "unexpected message", "send/recv", "i/o error")),
    (
        Refusal.LIMIT,
        (
            "accounting/qos policy", "submitjob", "submit job limit", "temporarily unable to accept", "queue is full",
            "job array specification",
        ),
    ),
    (
        Refusal.NEVER,
        (
            "invalid ", "configuration is not available", "configuration not available", "can not be satisfied",
            "cannot be satisfied", "not permitted", "unrecognized", "no partition specified", "permission denied",
            "more processors requested",
        ),
    ),
)  # fmt: skip


def why_refused(status: Optional[int], words: str) -> Refusal:
    """What kind of refusal an answer is."""
    return scheduled.why_refused(status, words, _REFUSALS)


# -- cancelling -----------------------------------------------------------------------------------------------


def cancel_commands(run: str, tasks: Mapping[str, Iterable[int]], *how: str) -> Iterator[list[str]]:
    """The commands that cancel tasks, by the number of their array; as many as keep the lines short.

    By the name of the run as well, so that a number that now is another run's does it no harm.
    """
    ids: list[str] = []
    for number, indices in tasks.items():
        for piece in write_tasks(indices).split(","):
            ids.append(f"{number}_[{piece}]" if "-" in piece else f"{number}_{piece}")
            if len(ids) >= _MOST_IDS or sum(map(len, ids)) > _IDS_LENGTH:
                yield ["scancel", f"--name={run}", *how, *ids]
                ids = []
    if ids:
        yield ["scancel", f"--name={run}", *how, *ids]


# -- what has become of jobs -----------------------------------------------------------------------------------


_QUEUE_FIELDS = (
    "ArrayJobID", "ArrayTaskID", "JobID", "State", "Reason", "exit_code", "SubmitTime", "NodeList", "Name", "Comment",
)  # fmt: skip


def squeue(user: int, runs: Iterable[str]) -> list[str]:
    """The one question: all jobs of these runs, also those that have ended a short time ago."""
    fields = ",".join(f"{field}:|" for field in _QUEUE_FIELDS)
    names = ",".join(sorted(runs))
    return ["squeue", "--noheader", "--states=all", f"--user={user}", f"--name={names}", f"--Format={fields}"]


def read_queue(text: str) -> list[Line]:
    """The lines of `squeue` that are of our making."""
    found = []
    for line in text.splitlines():
        fields = line.split("|")
        if len(fields) < len(_QUEUE_FIELDS):
            continue
        array, tasks, job, state, reason, status, submitted, host, run, comment = (
            f.strip() for f in fields[:10]
        )
        token, _, names = comment.partition(" ")
        if not names:
            continue
        indices = read_tasks(tasks)
        jobs = _jobs(run, names.strip(), indices)
        wait_status = _wait_status(status)
        found.append(
            Line(array, indices or None, job, state, reason, wait_status, submitted, host, token, jobs, run)
        )
    return found


def _jobs(run: str, names: str, tasks: Iterable[int]) -> dict[int, str]:
    """The names of the tasks of an array, from its comment."""
    if names.startswith("="):
        return dict.fromkeys(tasks, f"{run}.{names[1:]}")
    return {index: f"{run}.{int(names) + index}" for index in tasks} if names.isdigit() else {}


def _wait_status(text: str) -> Optional[int]:
    """An exit code as `squeue` has it (a wait status, or "3:0") or `sacct` and `scontrol` do ("3:0")."""
    code, colon, number = text.partition(":")
    try:
        return int(code) << 8 | int(number) if colon else int(code)
    except ValueError:
        return None


_ACCOUNT_FIELDS = ("JobID", "JobIDRaw", "JobName", "State", "ExitCode", "Submit", "End", "NodeList")


def sacct(numbers: Iterable[str]) -> list[str]:
    """What became of arrays that `squeue` does not know any more. Also of other jobs that had the same numbers."""
    fields = ",".join(_ACCOUNT_FIELDS)
    return [
        "sacct", "--noheader", "--parsable2", "--allocations", "--duplicates", f"--format={fields}",
        f"--jobs={','.join(numbers)}",
    ]  # fmt: skip


def read_accounts(text: str) -> list[Line]:
    """The lines of `sacct`. Token and names are not there: what a line is about is told by number and time."""
    found = []
    for line in text.splitlines():
        fields = line.split("|")
        if len(fields) != len(_ACCOUNT_FIELDS):
            continue
        identity, job, run, state, code, submitted, end, host = fields
        array, _, tasks = identity.partition("_")
        # After slurmdbd was away there are ends whose time, and so whose status, nobody knows.
        status = _wait_status(code) if end not in ("", "Unknown") else None
        state = state.split(" ")[0]
        found.append(
            Line(array, read_tasks(tasks) or None, job, state, "", status, submitted, host, "", {}, run)
        )
    return found


def show_job(number: str) -> list[str]:
    """The same question where there are no accounts."""
    return ["scontrol", "--oneliner", "show", "job", number]


def read_jobs(text: str) -> list[Line]:
    """The lines of `scontrol show job`."""
    found = []
    for line in text.splitlines():
        known = read_pairs(line)
        if "JobId" not in known:
            continue
        token, _, names = known.get("Comment", "").partition(" ")
        run, tasks = known.get("JobName", ""), read_tasks(known.get("ArrayTaskId", ""))
        found.append(
            Line(
                known.get("ArrayJobId", known["JobId"]),
                tasks or None,
                known["JobId"],
                known.get("JobState", ""),
                known.get("Reason", ""),
                _wait_status(known.get("ExitCode", "")),
                known.get("SubmitTime", ""),
                known.get("NodeList", "").replace("(null)", ""),
                token,
                _jobs(run, names, tasks),
                run,
            )  # fmt: skip
        )
    return found


# -- what there is ---------------------------------------------------------------------------------------------


def read_pairs(line: str) -> dict[str, str]:
    """A line of "Name=value Name=value", where values may hold blanks."""
    starts = list(re.finditer(r"(?:^|\s)([A-Z][A-Za-z/:]*)=", line))
    ends = [start.start() for start in starts[1:]] + [len(line)]
    return {start.group(1): line[start.end() : end].strip() for start, end in zip(starts, ends)}


class Limits(NamedTuple):
    """What `scontrol show config` says that matters here."""

    array_size: int = 1001
    job_count: int = 10000
    min_job_age: float = 300.0
    accounting: bool = False


def read_limits(text: str) -> Limits:
    """See `Limits`."""
    known = {}
    for line in text.splitlines():
        name, equals, value = line.partition("=")
        if equals:
            known[name.strip()] = value.strip()
    usual = Limits()

    def number(name: str, default: float) -> int:
        found = re.match(r"\d+", known.get(name, ""))
        return int(found.group()) if found else int(default)

    return Limits(
        number("MaxArraySize", usual.array_size),
        number("MaxJobCount", usual.job_count),
        float(number("MinJobAge", usual.min_job_age)),
        "slurmdbd" in known.get("AccountingStorageType", ""),
    )


def read_default_partition(text: str) -> Optional[str]:
    """The partition for jobs that name none, from `scontrol --oneliner show partition`."""
    for line in text.splitlines():
        known = read_pairs(line)
        if known.get("Default") == "YES":
            return known.get("PartitionName")
    return None


def read_nodes(text: str, partitions: Iterable[str]) -> list[Node]:
    """The machines of these partitions, from `scontrol --oneliner show node`."""
    wanted = set(partitions)
    found = []
    for line in text.splitlines():
        known = read_pairs(line)
        if not wanted & set(known.get("Partitions", "").split(",")):
            continue
        state = known.get("State", "")
        usable = not re.search(r"DOWN|DRAIN|FAIL|MAINT|FUTURE|UNKNOWN|NOT_RESPONDING", state)
        cpus = int(known.get("CPUEfctv") or known.get("CPUTot") or 0)
        memory = int(known.get("RealMemory") or 0) << 20
        gpus = sum(map(int, re.findall(r"gpu(?::[^:,()]+)?:(\d+)", known.get("Gres", ""))))
        found.append(Node(known.get("NodeName", ""), cpus, memory, usable, gpus))
    return found
