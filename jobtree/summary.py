"""What a run has come to, told when it has ended: targets by class, time, retries, peak memory, and where the logs are.

It is read from what the master has in memory, and is as long as a screen, however many classes there are. Times,
retries and memory are those of all starts of the tree together.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import NamedTuple

from jobtree.events import State
from jobtree.paths import TreePaths
from jobtree.quantities import format_duration, format_memory
from jobtree.shown import one_line
from jobtree.store import Store
from jobtree.tree import Tree

_MOST_CLASSES = 10


class _Used(NamedTuple):
    """What the targets of one class, or of several, have used. retries: attempts after which there was another."""

    succeeded: int = 0
    retries: int = 0
    wall: float = 0.0
    memory: int = 0

    def plus(self, other: _Used) -> _Used:
        """Both together."""
        return _Used(
            self.succeeded + other.succeeded,
            self.retries + other.retries,
            self.wall + other.wall,
            max(self.memory, other.memory),
        )


def lines(store: Store, tree: Tree) -> list[str]:
    """A table of the targets that have ended, by class, those first that took the longest together; empty if none."""
    used: dict[str, _Used] = {}
    for shape, stats in store.stats.items():
        name = store.shapes[shape].name
        given_up = tree.counts[shape][State.FAILED] if shape in tree.counts else 0
        found = _Used(stats.succeeded, stats.failures - given_up, stats.wall, stats.memory_max)
        used[name] = used.get(name, _Used()).plus(found)
    rows = [(name, sums) for name, sums in used.items() if sums.succeeded or sums.retries > 0]
    rows.sort(key=lambda row: (-row[1].wall, row[0]))
    if not rows:
        return []
    shown, others = rows[:_MOST_CLASSES], rows[_MOST_CLASSES:]
    told = [f"{'targets':>10}{'retries':>9}{'time':>10}{'mean':>10}{'memory':>12}  class"]
    told += [_row(one_line(name), sums) for name, sums in shown]
    if others:
        told.append(_row(f"({len(others)} other classes)", _together([sums for _, sums in others])))
    if len(rows) > 1:
        told.append(_row("all", _together([sums for _, sums in rows])))
    return told


def _together(parts: Sequence[_Used]) -> _Used:
    sums = _Used()
    for part in parts:
        sums = sums.plus(part)
    return sums


def _row(name: str, used: _Used) -> str:
    mean = format_duration(used.wall / used.succeeded) if used.succeeded else "-"
    memory = format_memory(used.memory) if used.memory else "-"
    time = format_duration(used.wall)
    return f"{used.succeeded:10d}{max(0, used.retries):9d}{time:>10}{mean:>10}{memory:>12}  {name}"


def about_logs(paths: TreePaths, kept: bool) -> str:
    """Where to read what targets have printed. kept: also that of those that succeeded (--keepLogs)."""
    logs = os.path.join(paths.root, "logs")
    try:
        with os.scandir(logs) as entries:
            any_there = any(entry.is_dir(follow_symlinks=False) for entry in entries)
    except OSError:
        any_there = False
    if not any_there:
        return (
            "No target has printed anything."
            if kept
            else ("What targets print that succeed is not kept (--keepLogs keeps it).")
        )
    whose = "targets" if kept else "targets that failed"
    return f"What {whose} have printed is in {one_line(logs)}"
