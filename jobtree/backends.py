"""The batch systems of one start: the one or two that were chosen, and those that still have bundles of earlier starts.

A bundle belongs to the batch system that it was given to. So a start with another --batchSystem goes on asking,
waiting and cancelling in the old one until its last bundle there is over. If that one cannot even be made any more (its
library is gone), nobody can be asked: then the leases of its bundles decide alone.

Only one is waited for in ``poll``: this machine if it was chosen, because its ends are heard of in no other way. All
others outlive the master, and their word is a hint that can come a moment later.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from typing import Callable, Optional

from batchsystems.abstract import AbstractBatchSystem, BatchSystemError, End

log: logging.Logger = logging.getLogger("jobtree")

Make = Callable[[str], AbstractBatchSystem]


class Backends:
    """chosen: those of this start, by name; make: makes one of the others, or raises BatchSystemError."""

    def __init__(self, chosen: Mapping[str, AbstractBatchSystem], make: Optional[Make] = None) -> None:
        self.chosen: dict[str, AbstractBatchSystem] = dict(chosen)
        # One of them is waited for. This machine tells of ends at once; a cluster's are read from files anyway.
        self._first = min(self.chosen, key=lambda name: self.chosen[name].outlives_master)
        self._make = make
        self._others: dict[str, Optional[AbstractBatchSystem]] = {}

    def of(self, name: str) -> Optional[AbstractBatchSystem]:
        """The batch system of this name; None if it cannot be had, which is said once."""
        if name in self.chosen:
            return self.chosen[name]
        if name not in self._others:
            try:
                if self._make is None:
                    raise BatchSystemError("it is not there")
                self._others[name] = self._make(name)
            except BatchSystemError as error:
                self._others[name] = None
                log.warning(
                    "batch system %s still has jobs of this run and cannot be asked about them: %s. They are over when "
                    "they say so themselves, or have shown no sign of life for two leases.", name, error,
                )  # fmt: skip
        return self._others[name]

    def poll(self, timeout: float) -> list[End]:
        """The ends that any of them tells; waits only for one that was chosen."""
        ends = []
        waited_for = self.chosen[self._first]
        for batch in self._all():
            if batch is not waited_for:
                ends += batch.poll(0.0)
        return ends + waited_for.poll(0.0 if ends else timeout)

    def cancel(self, names: Mapping[str, Iterable[str]], grace: float) -> None:
        """Cancel jobs, given by batch system."""
        for backend, jobs in names.items():
            batch = self.of(backend)
            if batch is not None:
                batch.cancel(list(jobs), grace)

    def forget(self, names: Mapping[str, Iterable[str]]) -> None:
        """Tell them of jobs that are over, given by batch system."""
        for backend, jobs in names.items():
            batch = self.of(backend)
            if batch is not None:
                batch.forget(list(jobs))

    def listed(self, name: str, run: str) -> Optional[set[str]]:
        """The jobs of a run that one of them has queued or running; None if it cannot be asked now."""
        batch = self.of(name)
        if batch is None:
            return None
        try:
            return set(batch.list_issued(run))
        except BatchSystemError as error:
            log.warning("batch system %s cannot be asked now: %s", name, error)
            return None

    def wake(self) -> None:
        """Make ``poll`` return."""
        self.chosen[self._first].wake()

    def close(self) -> None:
        """Close all of them; what outlives the master goes on."""
        for batch in self._all():
            batch.close()

    def _all(self) -> list[AbstractBatchSystem]:
        return [*(batch for batch in self._others.values() if batch is not None), *self.chosen.values()]
