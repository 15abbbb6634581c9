"""How a job of Grid Engine has ended, from what `qstat` and `qacct` say of it, and whether it has. Pure; a `Meaning`.

What must hold: a state that is not known here is no end. `qstat` knows no ends: what is over is not listed.
"""

from __future__ import annotations

import re
from typing import Optional

from batchsystems.abstract import End, EndKind, Reason
from batchsystems.drmaa_ends import of_status
from batchsystems.grid_engine_commands import ENDED, bytes_of
from batchsystems.scheduled import Line

SCHEDULER = "Grid Engine"

_BY_LIMIT = "37"
_BY_SIGNAL = "100"
_NEAR = 0.9
"""What is looked at from time to time was less a moment before it was too much."""


def is_over(line: Line) -> bool:
    """What comes from the accounts."""
    return line.state == ENDED


def is_running(line: Line) -> bool:
    """Being started, running, suspended or being deleted: not one of the states of those that wait."""
    return line.state not in ("", ENDED) and "w" not in line.state


def will_never_start(line: Line) -> Optional[EndKind]:
    """Whether a job waits in vain: KILLED (somebody holds it), LOST (its start went wrong); None: it may start."""
    if "w" not in line.state:
        return None
    if "E" in line.state:
        return EndKind.LOST
    return EndKind.KILLED if "h" in line.state else None


def end_of(name: str, line: Line, cancelled: bool, command: str, evidence: str) -> Optional[End]:
    """The end that the accounts tell of; LOST if they do not know how it was."""
    if not is_over(line):
        return None
    failed, maxvmem, wallclock, category = (*line.reason.split("; ", 3), "", "", "")[:4]
    said = f"Grid Engine says of job {line.job} on {line.host}: failed {' '.join(failed.split())}"
    code = (failed.split() or [""])[0]

    def killed(reason: Reason) -> End:
        number = line.wait_status if line.wait_status and line.wait_status < 128 else None
        return End(name, EndKind.KILLED, None, number, reason, detail=said, host=line.host)

    if cancelled:
        return killed(Reason.CANCELLED)
    if code == _BY_LIMIT:
        said += f" ({maxvmem}, {wallclock}, {category})"
        return killed(_limit(maxvmem, wallclock, category))
    if line.wait_status is None or code not in ("0", _BY_SIGNAL):
        return End(name, EndKind.LOST, detail=said, host=line.host)
    if line.wait_status & 0x7F:
        return killed(Reason.SIGNAL)
    return of_status(name, line.wait_status, command, evidence, line.host)


def _limit(maxvmem: str, wallclock: str, category: str) -> Reason:
    """Which limit a job has met: what it was given is in its category."""
    seconds = re.search(r"\bh_rt=(\d+)", category)
    lasted = re.search(r"=(\d+)", wallclock)
    if seconds and lasted and int(lasted.group(1)) >= _NEAR * int(seconds.group(1)):
        return Reason.TIME
    asked = re.search(r"\b(?:h_vmem|s_vmem)=([\d.]+[KMGTkmgt]?)", category)
    slots = re.search(r"-pe \S+ (\d+)", category)
    used = bytes_of(maxvmem.partition("=")[2].rstrip("B"))
    if asked and used >= _NEAR * bytes_of(asked.group(1)) * int(slots.group(1) if slots else 1):
        return Reason.MEMORY
    # It was looked at too rarely. One of the two it was.
    if asked and not seconds:
        return Reason.MEMORY
    return Reason.TIME if seconds and not asked else Reason.SIGNAL
