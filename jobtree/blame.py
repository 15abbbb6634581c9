"""Whose fault it is when a worker has died. Pure.

A target that was started and has no outcome is the suspect. It is charged a try only if nobody else can have done it:

  - A worker that had already run other targets may have been damaged by them: nobody is charged, and the suspect runs
    again alone in a fresh process. A death there is its own.
  - A signal that a process gets from its own deeds (SIGSEGV, SIGABRT ...), an exit status of its own (os._exit), a
    limit that we enforce (time, output) or that somebody reports with evidence (memory): its own.
  - Any other signal came from outside; so did a lost machine, a preemption, a full disk: a loss, which is counted
    apart from tries.
"""

from __future__ import annotations

import enum
import signal
from typing import NamedTuple, Optional

from batchsystems.abstract import End, EndKind, Reason

EX_SOFTWARE = 70
"""A worker's exit status after an error that is not of a target's run; its traceback is in the log."""

EX_IOERR = 74

_OWN_DEEDS = frozenset(
    number
    for name in (
        "SIGSEGV", "SIGABRT", "SIGBUS", "SIGFPE", "SIGILL", "SIGSYS", "SIGTRAP", "SIGXCPU", "SIGXFSZ", "SIGPIPE",
        "SIGALRM", "SIGPROF", "SIGVTALRM",
    )
    for number in [getattr(signal, name, None)]
    if number is not None
)  # fmt: skip


class Verdict(enum.Enum):
    """What is to be done with the suspect."""

    CHARGE = "its own fault"
    ALONE = "runs again alone"
    LOSS = "not its fault"


class Judgement(NamedTuple):
    """The verdict, one word for the kind of death, and a sentence for people."""

    verdict: Verdict
    kind: str
    message: str


def judge(end: End, ran_before: int, enforced: Optional[Judgement] = None) -> Judgement:
    """Judge the target that was running when its worker ended.

    ran_before: how many targets that worker had finished. enforced: we ended it ourselves, for this reason.
    """
    if enforced is not None:
        return enforced
    kind, message, own = _death(end)
    if not own:
        return Judgement(Verdict.LOSS, kind, message)
    if ran_before:
        message += f" after {ran_before} other targets in the same worker; it runs again alone"
        return Judgement(Verdict.ALONE, kind, message)
    return Judgement(Verdict.CHARGE, kind, message)


def _death(end: End) -> tuple[str, str, bool]:
    detail = f" ({end.detail})" if end.detail else ""
    if end.kind is EndKind.LOST:
        return "lost", f"its worker is gone and nobody knows how it ended{detail}", False
    if end.kind is EndKind.FINISHED:
        if end.status == EX_IOERR:
            return "storage", f"its worker could not write what became of it{detail}", False
        if end.status == EX_SOFTWARE:
            message = "its worker met an error outside of the target's run"
            return (
                "exit",
                f"{message} (exit status {EX_SOFTWARE}); the end of its log says which{detail}",
                True,
            )
        return (
            "exit",
            f"the target ended its process with exit status {end.status} (os._exit, or a C library){detail}",
            True,
        )
    if end.reason is Reason.MEMORY:
        return "memory", f"the target was killed because it used too much memory{detail}", True
    if end.reason is Reason.TIME:
        return "time", f"the target was killed because it ran too long{detail}", True
    if end.reason is Reason.SIGNAL and end.signal is not None:
        name = _signal_name(end.signal)
        if end.signal in _OWN_DEEDS:
            return "signal", f"the target died of {name}{detail}", True
        return "killed", f"its worker was killed from outside by {name}{detail}", False
    reason = end.reason.value if end.reason is not None else "killed"
    return reason, f"its worker was ended: {reason}{detail}", False


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
