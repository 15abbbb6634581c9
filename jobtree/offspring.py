"""What a target that has succeeded leaves behind it, as the tree and the store take it: children, services, follow-on.

Here every job gets its shape, and with it its gate (``jobtree.services``): the job of the target that left it, if that
has left services too; else, as a follow-on and a service always do, the gate of that target.
"""

from __future__ import annotations

import functools
from typing import Any, Optional

from jobtree.bundles import Pending, RunningBundle
from jobtree.events import Children, Spec
from jobtree.frames import Packed
from jobtree.service_rows import ServiceRow
from jobtree.store import Store


def children_of(
    store: Store, bundle: RunningBundle, pending: Pending, id: int, gate: int
) -> tuple[Children, list[ServiceRow]]:
    """The children of a job whose outcome has come, and which of them are services. gate: that of the job itself."""
    shape_of_service = functools.partial(store.shape, gate=gate)
    shape_of = functools.partial(store.shape, gate=id) if pending.services else shape_of_service
    services = [ServiceRow(number, id, shape_of_service(*key)) for number, key in pending.services]
    counts: dict[int, int] = {}
    for row in services:
        counts[row.shape] = counts.get(row.shape, 0) + 1
    for key, number in pending.counts.items():
        shape = shape_of(*key)
        counts[shape] = counts.get(shape, 0) + number
    return Children(counts, bundle.take_children(shape_of, shape_of_service)), services


def spec_of(store: Store, follow_on: Optional[tuple[Any, ...]], gate: int) -> Optional[Spec]:
    """The follow-on of a job; gate: that of the job."""
    if follow_on is None:
        return None
    packed = Packed(*follow_on)
    shape = store.shape(packed.name, packed.memory, packed.cpu, packed.countable, gate)
    return Spec(shape, packed.memory or 0, packed.time or 0.0, (packed.payload, packed.mentions))
