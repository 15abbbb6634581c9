"""Ending what a run has left in batch systems that outlive their master, when there is no master: for jobTreeKill.

Whoever does this holds the tree's lock. The store is not needed, so a damaged one does not matter: a bundle that has
not begun is claimed, so that it never will; one that runs is told to end by its control byte, which its supervisor
obeys even where the batch system cannot be reached; and every batch system that was used here is asked to cancel all
that it has under the run's name. The next start finds the ends as it finds all others.
"""

from __future__ import annotations

from typing import NamedTuple

from batchsystems.abstract import AbstractBatchSystem, BatchSystemError
from jobtree import bundles, clock
from jobtree.backends import Make
from jobtree.paths import TreePaths

WAIT_SECONDS = 30.0
"""So long the batch system may take to let go of the jobs."""


class Killed(NamedTuple):
    """What has become of the jobs in one batch system: cancelled, still there (they may end later); or why not."""

    backend: str
    cancelled: int
    left: int
    trouble: str


def kill_all(paths: TreePaths, run: str, make: Make, grace: float) -> list[Killed]:
    """Kill everything, in every batch system that was ever used here; make: makes one of them."""
    began = 0
    for number in sorted(set(paths.numbers_used("heartbeats"))):
        if not bundles.claim(paths, number):
            bundles.cancel(paths, number)
            began += 1
    found = []
    for backend in paths.backends_used():
        try:
            with make(backend) as batch:
                if batch.outlives_master:
                    found.append(_kill_in(batch, backend, run, grace))
        except BatchSystemError as error:
            found.append(Killed(backend, 0, began, str(error)))
    return [killed for killed in found if killed.cancelled or killed.left]


def _kill_in(batch: AbstractBatchSystem, backend: str, run: str, grace: float) -> Killed:
    wanted = set(batch.list_issued(run))
    batch.cancel(wanted, grace)
    deadline = clock.elapsed() + grace + WAIT_SECONDS
    left, trouble = wanted, ""
    while left and clock.elapsed() < deadline:
        batch.poll(0.5)
        try:
            left, trouble = wanted & set(batch.list_issued(run)), ""
        except BatchSystemError as error:
            trouble = str(error)
    return Killed(backend, len(wanted) - len(left), len(left), trouble)
