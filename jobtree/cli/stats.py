"""jobTreeStats: what targets and workers have used, and what to do about it."""

from __future__ import annotations

import argparse
import json
import os
import sqlite3
import sys
from collections.abc import Sequence
from typing import Any, Optional

from jobtree import clock, snapshot, statistics, timeline
from jobtree.advice import Size, advice, overhead, right_sizes
from jobtree.cli import program, stats_details, stats_plot, stats_tables
from jobtree.cli.stats_plot import Picture
from jobtree.cli.stats_tables import FIELDS, SORTED_BY, Order, Row
from jobtree.errors import JobTreeError, UsageError
from jobtree.measured import CATEGORIES
from jobtree.options import Settings
from jobtree.paths import TreePaths
from jobtree.quantities import format_duration, format_memory
from jobtree.shown import one_line
from jobtree.statistics import Statistics

_NAME = "jobTreeStats"

_WORTH_A_LINE = 0.01
_MOST_ADVICE = 12
"""What concerns less of the time than that is shown to programs only, and so is what is beyond so many lines."""


def main(argv: Optional[Sequence[str]] = None) -> int:
    """Run the command; returns its exit status."""
    return program.run(_NAME, _command, argv)


def _parser() -> argparse.ArgumentParser:
    parser = program.parser(
        _NAME,
        "Show what targets have used, by class, and their workers, by machine: time, CPU, waiting, memory. "
        "Targets that succeeded are measured; attempts that failed are counted. It only looks, while a "
        "run goes on or after it.",
        "  jobTreeStats ./tree --pretty\n"
        "  jobTreeStats ./tree --categories memory --sortField max\n"
        "  jobTreeStats --jobTree ./tree --json --outputFile stats.json",
    )
    program.add_tree(parser)
    parser.add_argument("--outputFile", metavar="FILE", help="write to a file")
    shown = parser.add_argument_group("what is shown, and how")
    shown.add_argument(
        "--pretty", "--human", action="store_true", help="times and sizes in words, not in seconds and bytes"
    )
    shown.add_argument(
        "--categories",
        metavar="LIST",
        type=_categories,
        default=CATEGORIES,
        help=f"only these, of {','.join(CATEGORIES)}",
    )
    shown.add_argument(
        "--sortCategory",
        metavar="COLUMN",
        choices=SORTED_BY,
        default="time",
        help=f"sort the classes by {', '.join(SORTED_BY)}, smallest first; default: time",
    )
    shown.add_argument(
        "--sortField",
        metavar="FIELD",
        choices=FIELDS,
        default="med",
        help=f"by which field of it: {', '.join(FIELDS)}; default: med, the median",
    )
    shown.add_argument("--sortReverse", "--reverseSort", action="store_true", help="largest first")
    shown.add_argument("--cache", action="store_true", help="no effect: it is fast without")
    others = parser.add_argument_group("for programs, and as a picture")
    others.add_argument(
        "--plot", metavar="FILE", help="draw when what ran, and memory by class: FILE.svg, .png or .pdf"
    )
    single = others.add_mutually_exclusive_group()
    single.add_argument(
        "--targets",
        action="store_true",
        help="a line of CSV (with --json: an object) for each target, of a run with --stats",
    )
    single.add_argument("--workers", action="store_true", help="the same for each worker, of any run")
    forms = others.add_mutually_exclusive_group()
    forms.add_argument("--json", action="store_true", help="one JSON object, for programs")
    forms.add_argument("--csv", action="store_true", help="a line for each row, for spreadsheets")
    forms.add_argument("--raw", action="store_true", help="XML, as the original had it")
    return parser


def _categories(text: str) -> tuple[str, ...]:
    given = tuple(name.strip() for name in text.split(","))
    for name in given:
        if name not in CATEGORIES:
            raise argparse.ArgumentTypeError(
                f"{name!r} was given, and names of {', '.join(CATEGORIES)} are expected, with commas between"
            )
    return given


def _command(argv: Sequence[str]) -> int:
    arguments = _parser().parse_args(argv)
    paths, _ = snapshot.find(program.tree_of(arguments), shared=True)
    if arguments.targets or arguments.workers:
        if arguments.raw or arguments.plot is not None:
            raise UsageError(
                "--targets and --workers go with --json or --csv only, not with --raw or --plot."
            )
        lines = stats_details.targets if arguments.targets else stats_details.workers
        _write(arguments.outputFile, lines(paths, arguments.json))
        return 0
    if arguments.plot is not None:
        stats_plot.check(arguments.plot)
    seen = snapshot.take(paths)
    found = _statistics(paths)
    settings = _settings(paths)
    if arguments.plot is not None:
        ran = snapshot.query(paths, timeline.read)
        title = ", ".join([f"{os.path.basename(seen.root)}: {seen.state}", *_extent(found)])
        picture = Picture(title, found, ran, settings.default_memory)
        stats_plot.draw(arguments.plot, picture)
    order = Order(arguments.sortCategory, arguments.sortField, arguments.sortReverse)
    rows = stats_tables.rows(found, order)
    detailed = stats_details.read(paths, rows) if found.detailed else stats_details.NONE
    if arguments.json:
        value = {"jobTree": seen.root, "state": seen.state, **_as_json(found, rows, settings)}
        text = json.dumps({**value, **detailed.as_json()}, indent=1) + "\n"
    elif arguments.csv:
        text = stats_tables.as_csv(rows)
    elif arguments.raw:
        text = stats_tables.as_xml(rows, _about(settings))
    else:
        head = [f"{one_line(seen.root)}: {seen.state}", *_summary(found, settings)]
        if found.classes:
            head += stats_tables.tables(rows, arguments.categories, order, arguments.pretty)
            right = right_sizes(found, settings.default_memory, settings.default_cpu)
            head += [detailed.about_medians, *stats_tables.sizes(rows, right, arguments.pretty)]
            head += [*_what_to_do(found, settings), "", *detailed.critical_path()]
        text = "\n".join(head) + "\n"
    _write(arguments.outputFile, text)
    return 0


def _statistics(paths: TreePaths) -> Statistics:
    try:
        return statistics.made_of(snapshot.look(paths, "statistics"))
    except sqlite3.Error as error:
        raise snapshot.explained(paths, False, error) from error


def _settings(paths: TreePaths) -> Settings:
    """The options of the latest start; defaults where they are lost, because they only say what was meant."""
    try:
        return Settings.from_dict(snapshot.settings(paths))
    except (JobTreeError, ValueError, TypeError, AttributeError):
        return Settings()


def _write(path: Optional[str], text: str) -> None:
    if path is None:
        sys.stdout.write(text)
        return
    try:
        with open(path, "w", encoding="utf-8") as file:
            file.write(text)
    except OSError as error:
        raise UsageError(f"--outputFile {path} cannot be written: {error.strerror}.") from error


def _summary(found: Statistics, settings: Settings) -> list[str]:
    """What there is, in a few lines."""
    if not found.classes:
        return ["No target has ended yet."]
    failures = sum(kind.failures for kind in found.classes)
    lines = [
        f"{_number(found.targets.count, 'target')} of {_number(len(found.classes), 'class', 'classes')}; "
        f"{_number(failures, 'attempt')} failed",
    ]
    workers = found.workers
    if workers.count:
        first, last = min(h.first for h in found.hosts), max(h.last for h in found.hosts)
        ended = sum(host.targets + host.failures for host in found.hosts)
        lines.append(
            f"{_number(workers.count, 'worker')} on {_number(len({h.name for h in found.hosts}), 'host')}, "
            f"{ended / workers.count:.1f} targets each, from {clock.text(first)} to {clock.text(last)} "
            f"({format_duration(last - first)})"
        )
    lines.append(
        f"batch system {settings.batch_system}, default memory {format_memory(settings.default_memory)}, "
        f"default cores {settings.default_cpu:g}"
    )
    return lines


def _extent(found: Statistics) -> list[str]:
    """How large the run was, for a title."""
    extent = [_number(found.targets.count, "target")] if found.classes else []
    if found.hosts:
        span = max(host.last for host in found.hosts) - min(host.first for host in found.hosts)
        extent.append(f"{format_duration(span)} on {_number(len({h.name for h in found.hosts}), 'host')}")
    return extent


def _number(count: int, one: str, many: str = "") -> str:
    return f"{count:,} {one if count == 1 else many or one + 's'}"


def _about(settings: Settings) -> dict[str, Any]:
    """What the original says of a run in its raw data."""
    return {
        "batch_system": settings.batch_system, "job_time": settings.job_time,
        "default_memory": settings.default_memory, "default_cpu": settings.default_cpu,
        "max_cpus": settings.max_cpus, "max_threads": settings.max_threads,
    }  # fmt: skip


def _what_to_do(found: Statistics, settings: Settings) -> list[str]:
    """Where the workers' time went, and the advice."""
    lines = ["", "what to do about it"]
    over = overhead(found)
    if over is not None and over.workers:
        shares = (over.targets / over.workers, over.in_vain / over.workers, over.between / over.workers)
        text = (
            "of the workers' time {:.1%} was in targets that succeeded, {:.1%} in attempts that failed, {:.1%} "
            "between targets; {:.1f} workers at a time"
        )
        lines += stats_tables.wrapped(text.format(*shares, over.at_once))
    given = advice(found, settings.default_memory, settings.default_cpu)
    shown = [one for one in given if one.weight >= _WORTH_A_LINE][:_MOST_ADVICE]
    for one in shown:
        lines += stats_tables.wrapped(f"{one_line(one.name)} {one.text}".lstrip())
    if len(given) > len(shown):
        left = len(given) - len(shown)
        lines.append(f"  and {_number(left, 'thing that matters', 'things that matter')} less (--json)")
    return lines if given else [*lines, "  nothing: what was asked for fits what was used"]


def _as_json(found: Statistics, rows: Sequence[Row], settings: Settings) -> dict[str, Any]:
    kinds = {kind.name: kind for kind in found.classes}
    right = right_sizes(found, settings.default_memory, settings.default_cpu)
    classes = []
    for row in rows:
        if row.kind == "class":
            requests = [
                {
                    "memory": request.memory or None, "cpu": request.cpu or None, "countable": request.countable,
                    "count": request.measured.count, "memory_max": request.measured.memory.most,
                    "time_total": request.measured.time.total, "clock_total": request.measured.clock.total,
                }
                for request in kinds[row.name].requests
            ]  # fmt: skip
            size = _size_as_json(right.get(row.name))
            classes.append({**stats_tables.as_json(row), "requests": requests, "right_size": size})
    by_kind = {row.kind: stats_tables.as_json(row) for row in rows}
    measured = {row.name: stats_tables.as_json(row) for row in rows if row.kind == "host"}
    hosts = [
        {
            **measured[f"{host.name} ({host.backend})"], "name": host.name, "backend": host.backend,
            "targets": host.targets, "busy": host.busy, "queued_total": host.queued, "queued_max": host.queued_max,
            "first": host.first, "last": host.last,
        }
        for host in found.hosts
    ]  # fmt: skip
    over = overhead(found)
    return {
        "classes": classes, "targets": by_kind["targets"], "hosts": hosts, "workers": by_kind["workers"],
        "overhead": over._asdict() if over is not None else None,
        "advice": [one._asdict() for one in advice(found, settings.default_memory, settings.default_cpu)],
    }  # fmt: skip


def _size_as_json(size: Optional[Size]) -> Optional[dict[str, Any]]:
    if size is None:
        return None
    cores = None if size.cores is None else size.cores._asdict()
    return {"memory": size.memory._asdict(), "cores": cores}
