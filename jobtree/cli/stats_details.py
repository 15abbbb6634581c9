"""What jobTreeStats shows of single targets, of a tree that was run with --stats, and of single workers."""

from __future__ import annotations

import csv
import io
import json
import sqlite3
from collections.abc import Iterable, Sequence
from typing import Any, Callable, NamedTuple, Optional, Union

from jobtree import details, snapshot
from jobtree.cli.stats_tables import Row, in_a_cell, seconds, wrapped
from jobtree.details import Path, TargetSeen, WorkerSeen
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
        of_all = f"{seconds(self.path.working)} of {seconds(last.ended - first.began)}"
        if first is last:
            text = f"critical path: 1 target; it took {of_all}"
        else:
            text = (
                f"critical path: {len(self.path.targets)} targets, each of which had to wait for the one before; they "
                f"took {of_all}, and {seconds(self.path.waiting)} went by between them, waiting for a place"
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


def targets(paths: TreePaths, as_json: bool) -> str:
    """A line for each attempt that was recorded. Raises UsageError if there are none."""
    text = snapshot.query(paths, lambda connection: _lines(TargetSeen, details.lines(connection), as_json))
    if not text.count("\n") > (not as_json):
        raise UsageError(f"{paths.root} has no records of single targets: start the run with --stats.")
    return text


def workers(paths: TreePaths, as_json: bool) -> str:
    """A line for each worker that is over; of very many, for those that were kept."""
    return snapshot.query(paths, lambda connection: _lines(WorkerSeen, details.workers(connection), as_json))


def _lines(
    kind: Union[type[TargetSeen], type[WorkerSeen]],
    found: Iterable[Union[TargetSeen, WorkerSeen]],
    as_json: bool,
) -> str:
    if as_json:
        return "".join(f"{json.dumps(_as_json(one))}\n" for one in found)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(kind._fields)
    writer.writerows(_as_json(one, in_a_cell).values() for one in found)
    return text.getvalue()


def _as_json(one: Union[TargetSeen, WorkerSeen], written: Callable[[str], str] = str) -> dict[str, Any]:
    """With names as they are written there."""
    values = {**one._asdict(), "name": written(one.name), "host": written(one.host)}
    if isinstance(one, TargetSeen):
        return {**values, "job": job_name(one.job)}
    return {**values, "backend": written(one.backend)}


def _by_class(targets: Sequence[TargetSeen]) -> list[tuple[str, tuple[int, float]]]:
    found: dict[str, tuple[int, float]] = {}
    for target in targets:
        count, time = found.get(target.name, (0, 0.0))
        found[target.name] = (count + 1, time + target.wall)
    return sorted(found.items(), key=lambda item: (-item[1][1], item[0]))
