"""What jobTreeStats shows: its rows, in the order asked for, as tables for people and as values for programs.

A row is a class of targets, or all targets, or the workers of a machine, or all workers. Each category (time, clock,
wait, memory) has the five fields of the original: min, med, ave, max, total.
"""

from __future__ import annotations

import csv
import io
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Callable, NamedTuple, Optional, Union

from jobtree.advice import Size
from jobtree.distributions import Distribution
from jobtree.measured import CATEGORIES, Measured
from jobtree.quantities import format_duration, format_memory
from jobtree.shown import one_line
from jobtree.statistics import Statistics

FIELDS = ("min", "med", "ave", "max", "total")
"""The names that the original has for them on its command line, and at the heads of its columns."""

_LONG_NAMES = {"min": "min", "med": "median", "ave": "mean", "max": "max", "total": "total"}

SORTED_BY = ("alpha", *CATEGORIES, "count", "failures")

_TITLES = {
    "time": "time: of the wall clock",
    "clock": "clock: of the CPU, children that were waited for included",
    "wait": "wait: time without CPU (for disks, networks, other programs)",
    "memory": "memory: the largest resident set",
}
_UNITS = {"time": "seconds", "clock": "seconds", "wait": "seconds", "memory": "bytes"}

_MOST_HOSTS = 20

Number = Union[int, float]


class Row(NamedTuple):
    """One line. kind: class, targets, host or workers; in_vain: seconds of attempts that failed, None: not counted."""

    kind: str
    name: str
    failures: int
    in_vain: Optional[float]
    measured: Measured


class Order(NamedTuple):
    """By what the classes are sorted."""

    category: str
    field: str
    reverse: bool


def rows(found: Statistics, order: Order) -> list[Row]:
    """All lines: the classes in the order asked for, then all targets, the machines, all workers."""
    classes = [Row("class", k.name, k.failures, k.in_vain, k.measured) for k in found.classes]
    classes.sort(key=_key(order), reverse=order.reverse)
    hosts = [Row("host", f"{h.name} ({h.backend})", h.failures, None, h.measured) for h in found.hosts]
    failures, in_vain = sum(row.failures for row in classes), sum(row.in_vain or 0.0 for row in classes)
    return [
        *classes,
        Row("targets", "all targets", failures, in_vain, found.targets),
        *sorted(hosts, key=lambda row: (-row.measured.time.total, row.name)),
        Row("workers", "all workers", sum(row.failures for row in hosts), None, found.workers),
    ]


def _key(order: Order) -> Callable[[Row], Any]:
    if order.category == "alpha":
        return lambda row: row.name
    if order.category == "count":
        return lambda row: (row.measured.count, row.name)
    if order.category == "failures":
        return lambda row: (row.failures, row.name)

    def key(row: Row) -> Any:
        number = value(row.measured.of(order.category), order.field)
        return (-1.0 if number is None else number, row.name)

    return key


def value(of: Distribution, field: str) -> Optional[Number]:
    """One field of a distribution; None where nothing was measured."""
    if not of.count:
        return None
    fields = {"min": of.least, "med": of.median, "ave": of.mean, "max": of.most, "total": of.total}
    return fields[field]


# -- for people ------------------------------------------------------------------------------------------------


def tables(lines: Sequence[Row], categories: Iterable[str], order: Order, pretty: bool) -> list[str]:
    """A table for each category. Names come last, because nothing bounds their length."""
    found: list[str] = []
    for category in categories:
        unit = "" if pretty else f", in {_UNITS[category]}"
        found += ["", f"{_TITLES[category]}{unit}", *_table(_shown(lines), category, order, pretty)]
    return found


def _shown(lines: Sequence[Row]) -> list[Row]:
    """Without machines where there is one, and without those beyond the first where there are very many."""
    hosts = [row for row in lines if row.kind == "host"]
    left_out = hosts[_MOST_HOSTS:] if len(hosts) > 1 else hosts
    return [row for row in lines if row not in left_out]


def _table(lines: Sequence[Row], category: str, order: Order, pretty: bool) -> list[str]:
    heads = ["count", "failures", *FIELDS, ""]
    for n, head in enumerate(heads):
        if order.category == head or (order.category == category and order.field == head):
            heads[n] = head + "*"
    cells = [heads, *(_cells(row, category, pretty) for row in lines)]
    return _aligned(cells)


def _aligned(cells: Sequence[Sequence[str]]) -> list[str]:
    """Lines of columns that are flush right, but for the last one, which has names."""
    widths = [max(map(len, column)) for column in zip(*cells)][:-1]
    return [
        "  ".join([*(cell.rjust(width) for cell, width in zip(row, widths)), row[-1]]).rstrip()
        for row in cells
    ]


def sizes(lines: Sequence[Row], right: Mapping[str, Size], pretty: bool) -> list[str]:
    """What one target of each class asked for, beside the most that any used and what would do."""
    write = _in_words[1] if pretty else _plain_bytes
    cells = [["memory asked", "used", "advised", "cores asked", "used", "advised", ""]]
    for row in lines:
        size = right.get(row.name) if row.kind == "class" else None
        if size is not None:
            memory = [write(amount) for amount in size.memory]
            cores = ["-"] * 3
            if size.cores is not None:
                asked, used, advised = size.cores
                cores = [f"{asked:g}", f"{used:.2f}", f"{advised:g}"]
            cells.append([*memory, *cores, one_line(row.name)])
    unit = "" if pretty else ", memory in bytes"
    return ["", f"asked for by one target, used by one at most, and advised{unit}", *_aligned(cells)]


def _cells(row: Row, category: str, pretty: bool) -> list[str]:
    numbers = [value(row.measured.of(category), field) for field in FIELDS]
    write = (_in_words if pretty else _plain)[category == "memory"]
    failures = "-" if row.in_vain is None and not row.failures else str(row.failures)
    name = one_line(row.name)
    return [str(row.measured.count), failures, *("-" if n is None else write(n) for n in numbers), name]


def wrapped(text: str, indent: str = "  ") -> list[str]:
    """A sentence in lines that fit a window."""
    return textwrap.wrap(
        text, 100, initial_indent=indent, subsequent_indent=f"{indent}    ", break_long_words=False,
        break_on_hyphens=False,
    )  # fmt: skip


def seconds(number: Number) -> str:
    """A time for people, short ones too."""
    if number >= 0.1 or number <= 0:
        return format_duration(number)
    return f"{number * 1e3:.1f}ms" if number >= 0.001 else f"{number * 1e6:.0f}us"


def _plain_seconds(number: Number) -> str:
    return f"{number:.3f}" if number >= 1 else f"{number:.6f}"


def _plain_bytes(number: Number) -> str:
    return str(round(number))


_in_words = (seconds, format_memory)
_plain = (_plain_seconds, _plain_bytes)


# -- for programs ----------------------------------------------------------------------------------------------


def as_json(row: Row) -> dict[str, Any]:
    """One line as a JSON object; numbers that there are not are null."""
    found: dict[str, Any] = {"name": row.name, "count": row.measured.count, "failures": row.failures}
    if row.in_vain is not None:
        found["in_vain"] = row.in_vain
    for category in CATEGORIES:
        of = row.measured.of(category)
        found[category] = {_LONG_NAMES[field]: value(of, field) for field in FIELDS}
    return {**found, "cores_most": row.measured.cores_most, "memory_inexact": row.measured.inexact}


def as_csv(lines: Iterable[Row]) -> str:
    """A heading and one line each."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    fields = [(category, field) for category in CATEGORIES for field in FIELDS]
    numbers = [f"{category}_{_LONG_NAMES[field]}" for category, field in fields]
    writer.writerow(["kind", "name", "count", "failures", "in_vain", *numbers])
    for row in lines:
        cells = [value(row.measured.of(category), field) for category, field in fields]
        writer.writerow(
            [row.kind, in_a_cell(row.name), row.measured.count, row.failures, row.in_vain, *cells]
        )
    return text.getvalue()


def in_a_cell(name: str) -> str:
    """A name as a spreadsheet takes it for one, and for no formula."""
    name = one_line(name)
    return f"'{name}" if name.startswith(("=", "+", "-", "@")) else name


def as_xml(lines: Iterable[Row], about: dict[str, Any]) -> str:
    """The original's raw data: an element for each kind, with its names for everything."""
    from xml.etree import ElementTree  # seldom needed

    by_kind: dict[str, list[Row]] = {}
    for row in lines:
        by_kind.setdefault(row.kind, []).append(row)
    ((targets,), (workers,)) = by_kind["targets"], by_kind["workers"]
    root = ElementTree.Element("collated_stats", {name: str(said) for name, said in about.items()})
    root.set("total_run_time", str(targets.measured.time.total))
    root.set("total_clock", str(targets.measured.clock.total))
    ElementTree.SubElement(root, "slave", _xml_numbers(workers))
    ElementTree.SubElement(root, "target", _xml_numbers(targets))
    types = ElementTree.SubElement(root, "target_types")
    for row in by_kind.get("class", []):
        ElementTree.SubElement(types, _xml_name(row.name), {"name": one_line(row.name), **_xml_numbers(row)})
    ElementTree.indent(root)
    return ElementTree.tostring(root, encoding="unicode") + "\n"


def _xml_numbers(row: Row) -> dict[str, str]:
    longer = {**_LONG_NAMES, "ave": "average"}
    found = {"total_number": str(row.measured.count)}
    for category in CATEGORIES:
        for field in FIELDS:
            found[f"{longer[field]}_{category}"] = str(value(row.measured.of(category), field) or 0)
    return found


def _xml_name(name: str) -> str:
    """A name that XML takes for an element."""
    clean = "".join(c if c.isascii() and (c.isalnum() or c in "._-") else "_" for c in name)
    return clean if clean[:1].isalpha() or clean[:1] == "_" else f"_{clean}"
