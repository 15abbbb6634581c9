"""How a job of SLURM has ended, from what SLURM says of it, and whether it has. Pure.

What must hold: a state that is not known here is no end. Nor is COMPLETING: the job's processes may still run, and its
exit status is not there yet.
"""

from __future__ import annotations

import re
from typing import Optional

from batchsystems.abstract import End, EndKind, Reason
from batchsystems.on_node import EX_TEMPFAIL
from batchsystems.scheduled import Line

SCHEDULER = "SLURM"

_FINAL = frozenset(
    [
        "BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "LAUNCH_FAILED", "NODE_FAIL", "OUT_OF_MEMORY",
        "PREEMPTED", "REVOKED", "TIMEOUT",
    ]
)  # fmt: skip
_RUNNING = frozenset(["COMPLETING", "RESIZING", "RUNNING", "SIGNALING", "STAGE_OUT", "STOPPED", "SUSPENDED"])

# SLURM's own number for a batch script whose output file could not be opened.
_NO_OUTPUT_SIGNAL = 53

_NEVER = re.compile(
    r"PartitionConfig|PartitionNodeLimit|PartitionTimeLimit|BadConstraints|JobHeld(User|Admin)|DependencyNeverSatisfied"
    r"|AccountNotAllowed|QOSNotAllowed|InvalidAccount|InvalidQOS|ReqNodeNotAllowed|InactiveLimit"
    r"|(Assoc|QOS)\w*(PerJob|MinCpu|MinGRES|MinMemory)\w*|(Assoc|QOS)MaxWall\w*"
)
_HELD_AFTER_LAUNCH = re.compile(r"launch.?failed.?requeued.?held|JobHoldMaxRequeue", re.IGNORECASE)


def is_over(line: Line) -> bool:
    """Whether it tells of an end."""
    return line.state in _FINAL


def is_running(line: Line) -> bool:
    """Whether it has been started; it may be ending."""
    return line.state in _RUNNING


def will_never_start(line: Line) -> Optional[EndKind]:
    """Whether a waiting job waits in vain: KILLED (it asks for what it will not get), LOST (its start went wrong, and
    SLURM holds it since); None: it may yet start. Some of the reasons show for a moment while a controller starts."""
    if line.state != "PENDING" and line.state != "REQUEUE_HOLD" and line.state != "SPECIAL_EXIT":
        return None
    if line.state != "PENDING" or _HELD_AFTER_LAUNCH.search(line.reason):
        return EndKind.LOST
    return EndKind.KILLED if _NEVER.fullmatch(line.reason) else None


def end_of(name: str, line: Line, cancelled: bool, command: str, evidence: str) -> Optional[End]:
    """The end that a line tells of; None if it tells of none, or does not know how it was.

    cancelled: it was cancelled by us; command: what it was to run, "" if not known; evidence: what the job's own
    SLURM has written to its output, and `on_node`.
    """
    if line.state not in _FINAL:
        return None
    host = line.host if line.host not in ("None assigned", "N/A") else ""
    said = f"SLURM says {line.state} of job {line.job}"
    if line.reason and line.reason not in ("None", "N/A"):
        said += f" ({line.reason})"
    if host:
        said += f" on {host}"

    def killed(reason: Reason, detail: str = said, number: Optional[int] = None) -> End:
        return End(name, EndKind.KILLED, None, number, reason, detail=detail, host=host)

    if cancelled:
        return killed(Reason.CANCELLED)
    reason = {
        "OUT_OF_MEMORY": Reason.MEMORY, "TIMEOUT": Reason.TIME, "DEADLINE": Reason.TIME, "NODE_FAIL": Reason.NODE,
        "PREEMPTED": Reason.PREEMPTED,
    }.get(line.state)  # fmt: skip
    if reason is not None:
        return killed(reason)
    if line.state == "CANCELLED":
        return killed(Reason.SIGNAL, f"{said}: somebody else has cancelled it")
    if line.state not in ("COMPLETED", "FAILED") or line.wait_status is None:
        return End(name, EndKind.LOST, detail=said, host=host)
    status, number = line.wait_status >> 8 & 0xFF, line.wait_status & 0x7F
    of_job = _evidence_of(line.job, evidence)
    if number == 125:
        return killed(Reason.MEMORY)
    if number == _NO_OUTPUT_SIGNAL:
        detail = f"{said}: its output file in the directory of the run could not be opened there"
        return End(name, EndKind.LOST, detail=detail, host=host)
    if number:
        over = re.search(r"exceeded memory limit.*", of_job)
        if over:
            return killed(Reason.MEMORY, f"{said}: {over.group()}", number)
        return killed(Reason.SIGNAL, said, number)
    return _finished(name, status, host, said, command, evidence)


def _finished(name: str, status: int, host: str, said: str, command: str, evidence: str) -> End:
    kind, detail = EndKind.FINISHED, ""
    told = re.search(rf"^on_node {re.escape(name)} (\w+) (.*)$", evidence, re.MULTILINE)
    if told and told.group(1) == "lost" and status == EX_TEMPFAIL:
        return End(name, EndKind.LOST, detail=told.group(2), host=host)
    if told:
        detail = told.group(2)
    elif status in (126, 127):
        what = f"{command} " if command else ""
        detail = f"{what}exit status {status}, by which shells say that a command cannot be run; {said}"
    return End(name, kind, status, detail=detail, host=host)


def _evidence_of(job: str, evidence: str) -> str:
    """The lines about one job of what an array has written."""
    return "\n".join(
        line for line in evidence.splitlines() if re.search(rf"StepId={job}\b|JOB {job}\b", line)
    )
