"""jobTreePool: what there is in a pool, and taking nodes out of it."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from typing import Any, Optional

from jobtree.cli import pool_arguments, program
from jobtree.quantities import format_duration, format_memory
from jobtree.shown import one_line

_NAME = "jobTreePool"
_LISTS = ("nodes", "jobs", "users", "runs", "sick")


def main(argv: Optional[Sequence[str]] = None) -> int:
    """Run the command; returns its exit status."""
    return program.run(_NAME, _command, argv)


def _parser() -> argparse.ArgumentParser:
    parser = program.parser(
        _NAME,
        "Show what there is in a pool, and take nodes out of it.",
        "  jobTreePool --hub redis://hub.example.org list nodes\n"
        "  jobTreePool --hub redis://hub.example.org drain node17",
    )
    pool_arguments.add_hub(parser)
    parser.add_argument("--json", action="store_true", help="one JSON list, for programs")
    verbs = parser.add_subparsers(dest="verb", metavar="VERB", required=True)
    one = verbs.add_parser("list", help="show nodes, jobs, users, runs, or what is sick")
    one.add_argument("what", choices=_LISTS)
    for verb, does in (
        ("drain", "have a node, or all on a host, take nothing more"),
        ("undrain", "have it take jobs again"),
        ("health", "show what a node has told of itself in the last hour"),
    ):
        one = verbs.add_parser(verb, help=does)
        one.add_argument("node", metavar="NODE")
    for each in verbs.choices.values():
        # Also after the verb, where one looks for it.
        each.add_argument("--json", action="store_true", default=argparse.SUPPRESS, help=argparse.SUPPRESS)
    return parser


def _command(argv: Sequence[str]) -> int:
    arguments = _parser().parse_args(argv)
    from batchsystems.pool_report import Report

    with pool_arguments.hub(arguments) as hub:
        found = Report(hub)
        if arguments.verb == "list":
            rows = getattr(found, arguments.what)()
        elif arguments.verb == "health":
            rows = found.health(arguments.node)
        else:
            nodes = found.drain(arguments.node, drained=arguments.verb == "drain")
            rows = [{"node": node, "state": f"{arguments.verb}ed"} for node in nodes]
    if arguments.json:
        print(json.dumps(rows, indent=1))
    elif rows:
        print("\n".join(_table([_words(row) for row in rows])))
    else:
        print("none")
    return 0


def _words(row: Mapping[str, Any]) -> dict[str, str]:
    """A row for people: sizes and times as one writes them, and what is nested in a few words."""
    words = {}
    for name, value in row.items():
        if name in ("pid", "started", "timeout"):
            continue
        if name == "health":
            value = None if value is None else " ".join(f"{load:g}" for load in value["load"])
            name = "load"
        elif name == "used":
            value = value and f"{format_memory(value['memory'])}, {value['cpu']:g} s"
        elif name == "jobs" and isinstance(value, Mapping):
            value = "; ".join(
                f"{job} {format_memory(used['memory'])} {used['cpu']:g} s" for job, used in value.items()
            )
        elif name == "load":
            value = " ".join(f"{load:g}" for load in value)
        elif name.endswith(("seconds", "seconds_ago")):
            value = None if value is None else format_duration(value)
        elif "memory" in name:
            value = format_memory(value)
        elif isinstance(value, float):
            value = f"{value:g}"
        words[name.replace("_seconds", "").replace("seconds_", "")] = (
            "-" if value in (None, "") else one_line(str(value))
        )
    return words


def _table(rows: Sequence[Mapping[str, str]]) -> list[str]:
    names = list(dict.fromkeys(name for row in rows for name in row))
    lines = [names, *([row.get(name, "-") for name in names] for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(names))]
    return ["  ".join(f"{word:{width}}" for word, width in zip(line, widths)).rstrip() for line in lines]
