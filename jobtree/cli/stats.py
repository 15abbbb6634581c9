"""jobTreeStats: time and memory by class of target."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable, Sequence
from typing import Any, Optional

from jobtree import snapshot
from jobtree.cli import program
from jobtree.contents import TargetClass
from jobtree.errors import UsageError
from jobtree.quantities import format_duration, format_memory
from jobtree.shown import one_line

_NAME = "jobTreeStats"
_HEADINGS = ("count", "failures", "wall", "mean", "min", "max", "cpu", "memory", "class")


def main(argv: Optional[Sequence[str]] = None) -> int:
    """Run the command; returns its exit status."""
    return program.run(_NAME, _command, argv)


def _parser() -> argparse.ArgumentParser:
    parser = program.parser(
        _NAME,
        "Show what the targets that have succeeded have used, by class: how many there were and how many attempts "
        "failed; wall time in all, on average, least and most; CPU time in all; most memory.",
        "  jobTreeStats ./tree\n  jobTreeStats --jobTree ./tree --json --outputFile stats.json",
    )
    program.add_tree(parser)
    parser.add_argument("--outputFile", metavar="FILE", help="write to a file")
    parser.add_argument("--json", action="store_true", help="one JSON object, for programs")
    return parser


def _command(argv: Sequence[str]) -> int:
    arguments = _parser().parse_args(argv)
    paths, _ = snapshot.find(program.tree_of(arguments))
    seen = snapshot.take(paths)
    kinds = [kind for kind in seen.classes if kind.succeeded or kind.failures]
    if arguments.json:
        found = {"jobTree": seen.root, "state": seen.state, "classes": [_as_json(kind) for kind in kinds]}
        text = json.dumps(found, indent=1)
    else:
        text = _table(kinds) if kinds else f"No target of {one_line(seen.root)} has ended yet."
    _write(arguments.outputFile, text + "\n")
    return 0


def _write(path: Optional[str], text: str) -> None:
    if path is None:
        sys.stdout.write(text)
        return
    try:
        with open(path, "w", encoding="utf-8") as file:
            file.write(text)
    except OSError as error:
        raise UsageError(f"--outputFile {path} cannot be written: {error.strerror}.") from error


def _as_json(kind: TargetClass) -> dict[str, Any]:
    return {
        "name": kind.name,
        "count": kind.succeeded,
        "failures": kind.failures,
        "wall_total": kind.wall,
        "wall_mean": _mean(kind),
        "wall_min": kind.wall_min,
        "wall_max": kind.wall_max if kind.succeeded else None,
        "cpu_total": kind.cpu_time,
        "memory_max": kind.memory_max,
    }


def _mean(kind: TargetClass) -> Optional[float]:
    return kind.wall / kind.succeeded if kind.succeeded else None


def _table(kinds: Iterable[TargetClass]) -> str:
    """One line a class, the one with most time first. Names come last, because nothing bounds their length."""
    rows = [_HEADINGS, *(_row(kind) for kind in sorted(kinds, key=lambda kind: (-kind.wall, kind.name)))]
    widths = [max(map(len, column)) for column in zip(*rows)][:-1]
    lines = ["  ".join([*(cell.rjust(width) for cell, width in zip(row, widths)), row[-1]]) for row in rows]
    return "\n".join(lines)


def _row(kind: TargetClass) -> tuple[str, ...]:
    none = not kind.succeeded
    return (
        str(kind.succeeded),
        str(kind.failures),
        format_duration(kind.wall),
        "-" if none else format_duration(kind.wall / kind.succeeded),
        "-" if none else format_duration(kind.wall_min or 0.0),
        "-" if none else format_duration(kind.wall_max),
        format_duration(kind.cpu_time),
        "-" if none else format_memory(kind.memory_max),
        one_line(kind.name),
    )
