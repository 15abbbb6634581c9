"""How a job has ended, from what a DRMAA library says of it. Pure; a `Meaning` for systems of which no more is known.

Libraries differ: a job that was ended by `control` may be aborted, or seem to have exited with status 0; one that died
of a signal may seem to have exited with 128 and more. What we have ended ourselves is known here. An end without
status and signal is LOST, and accounts may know more.
"""

from __future__ import annotations

import re
import signal
from collections.abc import Mapping
from typing import Any, Optional

from batchsystems.abstract import End, EndKind, Reason
from batchsystems.on_node import EX_TEMPFAIL
from batchsystems.scheduled import Line

SCHEDULER = "DRMAA"

_RUNNING = frozenset(["running", "system_suspended", "user_suspended", "user_system_suspended"])


def is_over(line: Line) -> bool:
    """States are told only of jobs that are not."""
    return False


def is_running(line: Line) -> bool:
    """Also what is suspended."""
    return line.state in _RUNNING


def will_never_start(line: Line) -> Optional[EndKind]:
    """Nobody says."""
    return None


def end_of(name: str, line: Line, cancelled: bool, command: str, evidence: str) -> Optional[End]:
    """States tell of no end."""
    return None


def of_wait(
    name: str, told: Mapping[str, Any], cancelled: bool, command: str, host: str, evidence: str
) -> End:
    """From what `wait` tells."""
    usage = told["usage"]
    said = f"the batch system says of job {told['id']}: "
    if cancelled:
        return End(name, EndKind.KILLED, None, None, Reason.CANCELLED, host=host)
    if told["signal"]:
        number = getattr(signal, told["signal"], None)
        detail = said + f"killed by {told['signal']}"
        return End(
            name, EndKind.KILLED, None, number and int(number), Reason.SIGNAL, detail=detail, host=host
        )
    if told["status"] is None or told["aborted"]:
        return End(name, EndKind.LOST, detail=said + "aborted", host=host)
    return of_status(name, told["status"] << 8, command, evidence, host, _seconds(usage))


def _seconds(usage: Mapping[str, str]) -> Optional[float]:
    try:
        return float(usage["cpu"])
    except (KeyError, ValueError):
        return None


def of_status(
    name: str, wait_status: int, command: str, evidence: str, host: str, seconds: Optional[float] = None
) -> End:
    """From a wait status as of wait(2), and what `on_node` has written."""
    number, status = wait_status & 0x7F, wait_status >> 8 & 0xFF
    if number:
        return End(name, EndKind.KILLED, None, number, Reason.SIGNAL, None, seconds, host=host)
    told = re.search(rf"^on_node {re.escape(name)} (lost|status) (.*)$", evidence, re.MULTILINE)
    if told and told.group(1) == "lost" and status == EX_TEMPFAIL:
        return End(name, EndKind.LOST, detail=told.group(2), host=host)
    detail = ""
    if told:
        detail = told.group(2)
    elif status in (126, 127):
        what = f"{command} " if command else ""
        detail = f"{what}exit status {status}, by which shells say that a command cannot be run"
    return End(name, EndKind.FINISHED, status, None, None, None, seconds, detail, host)


KILLED_THERE = -1


def read_ended(text: str) -> dict[str, int]:
    """What `on_node` has told of ends: names and wait statuses; KILLED_THERE: it was itself killed."""
    found = re.findall(r"^on_node (\S+) (?:ended (\d+)|killed .*)$", text, re.MULTILINE)
    return {name: int(status) if status else KILLED_THERE for name, status in found}
