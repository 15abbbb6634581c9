"""Ending everything that was started under a run's token, wherever it runs, and knowing that it is over.

For going back to a copy of the database (jobtree.restoring): then the store does not know which bundles there are, but
their files tell. What holds for a single bundle (jobtree.leases) holds for all: one that nobody has claimed is claimed
by us and can never run; one on this machine is over when no process has its outcome file open; any other when its
supervisor has signed off, or its heartbeat has not changed for two leases. What a batch system says is only a hint.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Sequence
from typing import Optional

from batchsystems.abstract import AbstractBatchSystem, BatchSystemError
from jobtree import bundles, clock, heartbeat, processtree
from jobtree.backends import Make
from jobtree.leases import LEASES_OF_SILENCE
from jobtree.paths import TreePaths
from jobtree.quantities import format_duration

log: logging.Logger = logging.getLogger("jobtree")

_LOOK_SECONDS = 0.5
_CANCEL_SECONDS = 30.0


def end_all(paths: TreePaths, run: str, lease: float, make: Make) -> None:
    """End all, and wait until it is over.

    lease: seconds, for bundles that do not say; make: makes a batch system that has been used here.
    """
    processtree.kill_strays(run)
    elsewhere = []
    for number in sorted(set(paths.numbers_used("bundles", "claims", "outcomes", "heartbeats"))):
        if bundles.claim(paths, number):
            continue
        if os.path.exists(paths.heartbeat(number)):
            elsewhere.append(number)
        else:
            bundles.wait_for_worker(paths, number)
    if elsewhere:
        batches = list(filter(None, (_made(name, make) for name in paths.backends_used())))
        try:
            _wait(paths, run, elsewhere, lease, batches)
        finally:
            for batch in batches:
                batch.close()


def _made(name: str, make: Make) -> Optional[AbstractBatchSystem]:
    try:
        return make(name)
    except BatchSystemError as error:
        log.warning("batch system %s cannot be asked to cancel what it has of this run: %s", name, error)
        return None


def _wait(
    paths: TreePaths, run: str, numbers: Sequence[int], lease: float, batches: Sequence[AbstractBatchSystem]
) -> None:
    """Have them cancelled, again and again, and wait for each until it is over."""
    now = clock.elapsed()
    seen = dict.fromkeys(numbers, (b"", now, lease))
    log.warning(
        "%d bundles were running elsewhere: they are cancelled, and waited for until they say so, or have not moved "
        "for %s.", len(seen), format_duration(LEASES_OF_SILENCE * lease),
    )  # fmt: skip
    next_cancel = now
    while seen:
        now = clock.elapsed()
        if now >= next_cancel:
            next_cancel = now + _CANCEL_SECONDS
            for batch in batches:
                _cancel(batch, run)
        for number, (block, changed, its_lease) in list(seen.items()):
            found, beat = heartbeat.read(paths.heartbeat(number), f"{run}.{number}")
            if found != block:
                seen[number] = found, now, max(its_lease, beat.lease if beat is not None else 0.0)
            if (beat is not None and beat.end is not None) or (
                found == block and now - changed >= LEASES_OF_SILENCE * its_lease
            ):
                del seen[number]
        for batch in batches:
            batch.poll(0.0)  # many do only here what they were asked for
        if seen:
            time.sleep(_LOOK_SECONDS)


def _cancel(batch: AbstractBatchSystem, run: str) -> None:
    try:
        batch.cancel(batch.list_issued(run))
    except BatchSystemError as error:
        log.warning("a batch system could not cancel what it has of this run: %s", error)
