"""What a master knows of one of its jobs in a pool, and what follows from what the hub says of it.

A name that the hub does not have, and of which it has told no end, was forgotten. It may run all the same: a node that
has it says so with its next beat, and one that cannot reach the hub ends it in its time. So for longer than any node
may be silent nothing is done; then it is submitted once more. If that is forgotten as well although the hub has never
shown it, the hub is not to be relied on, and the job is lost.
"""

from __future__ import annotations

import enum
from typing import Optional

from batchsystems.abstract import Capacity, End, EndKind, NeverFits, Reason
from batchsystems.pool_hub import Given
from batchsystems.pool_sealing import GPUS


class Missing(enum.Enum):
    """What to do about a job that the hub does not have."""

    WAIT = "wait"
    AGAIN = "submit it again"
    OVER = "report it"


class Tracked:
    """A job that was issued, or listed, and whose end has not been reported. given: None if an earlier instance did."""

    __slots__ = ("_missing_since", "_told_again", "_unfit_since", "cancelled", "given", "sent")

    def __init__(self, given: Optional[Given]) -> None:
        self.given = given
        self.sent = given is None
        self.cancelled = False
        self._missing_since: Optional[float] = None
        self._told_again = False
        self._unfit_since: Optional[float] = None

    def is_there(self) -> None:
        """The hub has it."""
        self._missing_since, self._told_again = None, False

    def nobody_knows(self) -> None:
        """The hub is away: whatever it has forgotten, time begins when it is back."""
        self._missing_since = None

    def is_missing(self, now: float, grace: float) -> Missing:
        """The hub does not have it; grace: seconds for which that says nothing."""
        if self._missing_since is None:
            self._missing_since = now
        if now - self._missing_since <= grace:
            return Missing.WAIT
        if self.cancelled or self.given is None or self._told_again:
            return Missing.OVER
        self.sent, self._told_again, self._missing_since = False, True, None
        return Missing.AGAIN

    def end_of_missing(self, name: str) -> End:
        """How a job ended that is missing for good."""
        if self.cancelled:
            detail = "cancelled, and the hub does not know it any more"
            return End(name, EndKind.KILLED, reason=Reason.CANCELLED, detail=detail)
        return End(name, EndKind.LOST, detail="the hub has lost it")

    def never_fits(self, name: str, now: float, largest: Capacity, patience: float) -> Optional[End]:
        """The end of a job that has been too large for every node for so long; None while it may yet fit."""
        if self.given is None:
            return None
        _, milli, memory, gpus, _ = self.given.line.split(" ", 4)
        if int(milli) > 1000 * largest.cpu:
            error = NeverFits(name, "cores", int(milli) / 1000, largest.cpu)
        elif int(memory) > largest.memory:
            error = NeverFits(name, "memory", int(memory), largest.memory)
        elif int(gpus) > largest.countable.get(GPUS, 0):
            error = NeverFits(name, GPUS, int(gpus), largest.countable.get(GPUS, 0))
        else:
            self._unfit_since = None
            return None
        if self._unfit_since is None:
            self._unfit_since = now
        if now - self._unfit_since < patience:
            return None
        detail = f"{error} No larger node came for {patience:g} s."
        return End(name, EndKind.KILLED, reason=Reason.NEVER_FITS, detail=detail)
