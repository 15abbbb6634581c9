"""What jobTreeStats shows of single targets, of a tree that was run with --stats."""

from __future__ import annotations

import csv
import io
import json
import sqlite3
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, Optional

from jobtree import details, snapshot
from jobtree.cli.stats_tables import Row, seconds, wrapped
from jobtree.details import Path, TargetSeen
from jobtree.distributions import PRECISION
from jobtree.errors import AnotherMaster, UsageError
from jobtree.paths import TreePaths, job_name
from jobtree.shown import one_line

_MOST_CLASSES = 10


class Details(NamedTuple):
    """What was read. missing: why there is no critical path, in words."""

    path: Optional[Path]
    true_medians: bool
    missing: str = ""

    @property
    def about_medians(self) -> str:
        """How good the medians are."""
        if self.true_medians:
            return "med is the median."
        return f"med, the median, is within {PRECISION:.0%} of the true one."

    def critical_path(self) -> list[str]:
        """For people: how long it took, and which classes have a part in it."""
        if self.path is None:
            return [f"critical path: {self.missing}"]
        first, last = self.path.targets[0], self.path.targets[-1]
        text = (
            f"critical path: {len(self.path.targets)} targets, each of which had to wait for the one before; they "
            f"took {seconds(self.path.working)} of {seconds(last.ended - first.began)}, and "
            f"{seconds(self.path.waiting)} went by between them, waiting for a place"
        )
        lines = wrapped(text, "")
        shares = _by_class(self.path.targets)
        for name, (count, time) in shares[:_MOST_CLASSES]:
            lines.append(f"  {time / self.path.working:6.1%}  {seconds(time)} in {count} of {one_line(name)}")
        if len(shares) > _MOST_CLASSES:
            lines.append(f"  and {len(shares) - _MOST_CLASSES} more classes (--json)")
        return lines

    def as_json(self) -> dict[str, Any]:
        """For programs."""
        path: Optional[dict[str, Any]] = None
        if self.path is not None:
            targets = [_as_json(target) for target in self.path.targets]
            path = {"working": self.path.working, "waiting": self.path.waiting, "targets": targets}
        return {"median_exact": self.true_medians, "critical_path": path}


NONE = Details(None, False, "start the run with --stats to have it recorded which target waited for which")


def read(paths: TreePaths, rows: Sequence[Row]) -> Details:
    """Everything, and the true medians for the rows of which all targets were recorded."""
    by_class = {row.name: row.measured for row in rows if row.kind == "class"}
    (all,) = (row.measured for row in rows if row.kind == "targets")

    def ask(connection: sqlite3.Connection) -> Details:
        exact = details.set_medians(connection, by_class, all)
        return Details(details.critical_path(connection), exact, "no target has ended well yet")

    try:
        return snapshot.query(paths, ask)
    except AnotherMaster:
        return Details(None, False, "on a network file system it can be told when the run has ended")


def lines(paths: TreePaths, as_json: bool) -> str:
    """A line for each attempt that was recorded. Raises UsageError if there are none."""

    def ask(connection: sqlite3.Connection) -> str:
        found = details.lines(connection)
        return "".join(f"{json.dumps(_as_json(target))}\n" for target in found) if as_json else _as_csv(found)

    text = snapshot.query(paths, ask)
    if not text.count("\n") > (not as_json):
        raise UsageError(f"{paths.root} has no records of single targets: start the run with --stats.")
    return text


def _as_json(target: TargetSeen) -> dict[str, Any]:
    return {**target._asdict(), "job": job_name(target.job)}


def _as_csv(found: Iterator[TargetSeen]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(TargetSeen._fields)
    for target in found:
        clean = target._replace(name=one_line(target.name), host=one_line(target.host))
        writer.writerow([job_name(target.job), *clean[1:]])
    return text.getvalue()


def _by_class(targets: Sequence[TargetSeen]) -> list[tuple[str, tuple[int, float]]]:
    found: dict[str, tuple[int, float]] = {}
    for target in targets:
        count, time = found.get(target.name, (0, 0.0))
        found[target.name] = (count + 1, time + target.wall)
    return sorted(found.items(), key=lambda item: (-item[1][1], item[0]))
