"""What pages are told without asking: a stream of server-sent events.

    event: trees    how far each tree is, in a few numbers
    event: tree     all that a page shows of the one tree that it has asked for

A page that reads slowly misses looks and not more: what is sent is always the newest. A comment every now and then
keeps tunnels open, and shows both sides that the other one is there.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

from jobtree.monitor.overview import overview, summary
from jobtree.monitor.trees import WatchedTree
from jobtree.monitor.watching import Watch

_QUIET_SECONDS = 15.0


async def stream(watch: Watch, tree: WatchedTree) -> AsyncIterator[str]:
    """The events for a page that shows this tree, as text."""
    async for fresh in watch.news(_QUIET_SECONDS):
        if not fresh:
            yield ": nothing new\n\n"
            continue
        yield watch.once(0, lambda: _of_all(watch))
        if tree.number in fresh:
            yield watch.once(tree.number, lambda: event("tree", told(watch, tree, overview(tree))))


def _of_all(watch: Watch) -> str:
    return event("trees", [told(watch, tree, summary(tree)) for tree in watch.trees])


def told(watch: Watch, tree: WatchedTree, found: dict[str, Any]) -> dict[str, Any]:
    """What was found, and what is amiss with the tree."""
    return {**found, "trouble": watch.troubles.get(tree.number)}


def event(kind: str, value: Any) -> str:
    """One event. (JSON has no newline in it, and with it no end of an event.)"""
    return f"event: {kind}\ndata: {json.dumps(value)}\n\n"
