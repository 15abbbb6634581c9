"""jobTreeStats --plot: a timeline of what ran where, and how much memory each class used, as SVG, PNG or PDF.

matplotlib draws it; without it everything else works. Names come from outside: they are escaped as on a terminal, and
never taken for formulas ("$...$") or for instructions to a legend (a leading "_"), so the axis of the
classes is the legend.
"""

from __future__ import annotations

import math
import os
import re
import warnings
from collections.abc import Sequence
from typing import Any, NamedTuple

from jobtree import clock
from jobtree.distributions import edges
from jobtree.errors import UsageError
from jobtree.quantities import format_duration, format_memory
from jobtree.shown import one_line
from jobtree.statistics import ClassUsage, Statistics
from jobtree.timeline import Timeline

_COLOURS = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#f0e442", "#7d5ba6")
"""Okabe and Ito's, which the colour-blind can tell apart too, and one more."""
_OTHER = "#a8a8a8"
_FAILED = "#000000"
_INK = "#333333"
_PALE = "#bbbbbb"

_MOST_CLASSES = 16
_MOST_LABELS = 30
_LONGEST_NAME = 36
_THINNEST = 1 / 250
_THINNEST_SPAN = 1 / 1500
"""Bars are at least so large a part of their axis wide: of memory, and of time, where there are very many."""
_TICKS = 8
_STEPS = (1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 3 * 3600, 6 * 3600, 12 * 3600, 86400)
"""Seconds between two ticks, at most so many of them."""
_SUFFIXES = (".svg", ".png", ".pdf")

_STYLE = {
    "svg.fonttype": "none", "svg.hashsalt": "jobtree", "text.parse_math": False, "text.usetex": False, "font.size": 9,
    "axes.edgecolor": "#999999", "axes.labelcolor": _INK, "xtick.color": _INK, "ytick.color": _INK,
    "axes.spines.top": False, "axes.spines.right": False, "axes.titlesize": 10, "axes.titlelocation": "left",
}  # fmt: skip


class Picture(NamedTuple):
    """What is drawn. title: of the whole; default_memory: bytes of targets that did not ask."""

    title: str
    statistics: Statistics
    timeline: Timeline
    default_memory: int


def check(path: str) -> None:
    """Raise UsageError if nothing can be drawn into such a file, before anything else is done."""
    if os.path.splitext(path)[1].lower() not in _SUFFIXES:
        raise UsageError(f"--plot {path}: a name that ends in {', '.join(_SUFFIXES)} is expected.")
    try:
        import matplotlib.figure  # noqa: F401
    except ImportError as error:
        raise UsageError(
            f"--plot needs matplotlib, which cannot be imported ({error}). Install it: pip install 'jobtree[plot]'"
        ) from error


def draw(path: str, picture: Picture) -> None:
    """Draw it into a file. Raises UsageError."""
    import matplotlib
    from matplotlib.figure import Figure

    kinds = sorted(picture.statistics.classes, key=lambda kind: (-kind.measured.time.total, kind.name))
    kinds = [kind for kind in kinds if kind.measured.count][:_MOST_CLASSES]
    colours = {kind.name: colour for kind, colour in zip(kinds, _COLOURS)}
    lanes = _lanes(picture.timeline)
    upper, lower = min(7.0, 1.2 + 0.22 * len(lanes)), 0.8 + 0.34 * max(2, len(kinds))
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(10, upper + lower + 0.5), layout="constrained")
        above, below = figure.subplots(2, 1, gridspec_kw={"height_ratios": [upper, lower]})
        figure.suptitle(one_line(picture.title), x=0.01, ha="left", fontsize=11, color=_INK)
        _draw_timeline(above, picture.timeline, lanes, colours)
        _draw_memory(below, kinds, colours, picture.default_memory)
        metadata = {".svg": {"Date": None}, ".pdf": {"CreationDate": None}}.get(
            os.path.splitext(path)[1].lower()
        )
        try:
            with warnings.catch_warnings():
                # Letters that the font does not have are drawn as boxes; an SVG has them as text all the same.
                warnings.filterwarnings("ignore", message="Glyph")
                figure.savefig(path, dpi=150, metadata=metadata)
        except OSError as error:
            raise UsageError(f"--plot {path} cannot be written: {error.strerror}.") from error


# -- what ran when ---------------------------------------------------------------------------------------------


def _lanes(timeline: Timeline) -> dict[tuple[str, int], int]:
    """The height of each line of each host, from the top down."""
    found = sorted(
        {(span.host, span.slot) for span in timeline.spans}, key=lambda lane: (_natural(lane[0]), lane)
    )
    return {lane: number for number, lane in enumerate(found)}


def _natural(name: str) -> list[tuple[int, str]]:
    """Sorts node2 before node10."""
    return [(int(part), "") if part.isdecimal() else (0, part) for part in re.split(r"(\d+)", name)]


def _draw_timeline(
    axes: Any, timeline: Timeline, lanes: dict[tuple[str, int], int], colours: dict[str, str]
) -> None:
    from matplotlib.ticker import FuncFormatter

    start = min((span.begin for span in timeline.spans), default=0.0)
    end = max((span.end for span in timeline.spans), default=1.0)
    width = max(end - start, 1e-3)
    bars: dict[tuple[int, str, bool], list[tuple[float, float]]] = {}
    for span in timeline.spans:
        key = (lanes[span.host, span.slot], colours.get(span.name, _OTHER), span.failed)
        length = max(span.end - span.begin, width * _THINNEST_SPAN)
        bars.setdefault(key, []).append((span.begin - start, length))
    # A white line parts neighbours, unless that would leave nothing of them.
    edges = [_FAILED if failed else "white" for failed in (False, True)]
    for (lane, colour, failed), pieces in sorted(bars.items()):
        lines = [0.3 if length > 8 * width * _THINNEST_SPAN else 0.0 for _, length in pieces]
        axes.broken_barh(
            pieces, (lane - 0.42, 0.84), facecolor=colour, hatch="////" if failed else None, edgecolor=edges[failed],
            linewidth=lines,
        )  # fmt: skip
    axes.set_xlim(0, width)
    axes.set_ylim(len(lanes) - 0.4, -0.6)
    axes.xaxis.set_major_locator(_ticks(width))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda seconds, _: _moment(seconds)))
    if timeline.spans:
        axes.set_xlabel(f"time since {clock.text(start)}")
    _label_hosts(axes, lanes)
    axes.set_title(_about(timeline), color=_INK)


def _about(timeline: Timeline) -> str:
    which = f"the longest {len(timeline.spans):,} {timeline.of}" if timeline.longest else timeline.of
    if timeline.every > 1:
        which += f", one in {timeline.every} of them"
    if not timeline.spans:
        return f"When {timeline.of} ran: none has ended yet"
    failed = "; hatched: failed" if any(span.failed for span in timeline.spans) else ""
    return f"When {which} ran, in each slot (colours: the classes below{failed})"


def _ticks(seconds: float) -> Any:
    """Ticks at round times: of seconds, minutes, hours, days."""
    from matplotlib.ticker import MaxNLocator, MultipleLocator

    if seconds < _TICKS:
        return MaxNLocator(_TICKS, steps=[1, 2, 5, 10])
    for step in _STEPS:
        if seconds / step <= _TICKS:
            return MultipleLocator(step)
    return MultipleLocator(86400 * math.ceil(seconds / 86400 / _TICKS))


def _moment(seconds: float) -> str:
    return f"{seconds:g}s" if seconds < 60 else re.sub(r" 0[hms]$", "", format_duration(seconds))


def _label_hosts(axes: Any, lanes: dict[tuple[str, int], int]) -> None:
    hosts: dict[str, list[int]] = {}
    for (host, _), lane in lanes.items():
        hosts.setdefault(host, []).append(lane)
    step = -(-len(hosts) // _MOST_LABELS) or 1
    shown = [(sum(found) / len(found), host) for host, found in hosts.items()][::step]
    labels = [f"{_short(host)}, {_slots(len(hosts[host]))}" for _, host in shown]
    axes.set_yticks([middle for middle, _ in shown], labels=labels)
    axes.tick_params(axis="y", length=0)
    for found in list(hosts.values())[1:]:
        axes.axhline(min(found) - 0.5, color="#dddddd", linewidth=0.8)


def _slots(number: int) -> str:
    return "1 slot" if number == 1 else f"{number} slots"


# -- memory ----------------------------------------------------------------------------------------------------


def _draw_memory(
    axes: Any, kinds: Sequence[ClassUsage], colours: dict[str, str], default_memory: int
) -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator
    from matplotlib.transforms import ScaledTranslation

    # The squares are left of the axis, whatever its scale and width.
    beside = axes.get_yaxis_transform() + ScaledTranslation(-8 / 72, 0, axes.figure.dpi_scale_trans)
    asked = [max(request.memory or default_memory for request in kind.requests) for kind in kinds]
    low, high = _limits(kinds, asked)
    axes.set_xscale("log", base=2)
    axes.set_xlim(low, high)
    for line, kind in enumerate(kinds):
        colour = colours.get(kind.name, _OTHER)
        axes.plot([0], [line], "s", color=colour, markersize=9, transform=beside, clip_on=False)
        _draw_buckets(axes, line, kind, colour, (high / low) ** _THINNEST)
        _draw_request(axes, line, kind.measured.memory.most, asked[line])
    axes.set_ylim(len(kinds) - 0.4, -0.6)
    axes.set_yticks(
        range(len(kinds)), labels=[f"{_short(kind.name)} ({kind.measured.count:,})" for kind in kinds]
    )
    axes.tick_params(axis="y", length=0, pad=14)
    axes.xaxis.set_major_locator(LogLocator(base=2, numticks=9))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda amount, _: format_memory(amount).replace(".0 ", " ")))
    axes.set_xlabel("peak memory of one target (of its largest process), logarithmic scale")
    most = f", of the {len(kinds)} that took longest" if len(kinds) == _MOST_CLASSES else ""
    axes.set_title(
        f"Memory of each class's targets{most} (height: how many; | the most used; \u25bc asked for)",
        color=_INK,
    )


def _limits(kinds: Sequence[ClassUsage], asked: Sequence[int]) -> tuple[float, float]:
    """From one power of two to another, so that both are labelled."""
    amounts = [
        amount
        for kind in kinds
        for amount in (kind.measured.memory.least, kind.measured.memory.most)
        if amount
    ]
    amounts += [amount for amount in asked if amount]
    if not amounts:
        return 1 << 20, 1 << 30
    return 2.0 ** (math.ceil(math.log2(min(amounts))) - 1), 2.0 ** (math.floor(math.log2(max(amounts))) + 1)


def _draw_buckets(axes: Any, line: int, kind: ClassUsage, colour: str, thinnest: float) -> None:
    """How many targets used so much: a bar for each bucket, the highest for the most."""
    memory = kind.measured.memory
    highest = max(memory.buckets.values())
    base = line + 0.4
    for bucket, count in sorted(memory.buckets.items()):
        low, high = edges(bucket)
        low, high = max(low, memory.least or 0), min(high, memory.most)
        if low > 0:
            top = base - 0.08 - 0.72 * count / highest
            axes.fill_between(
                [low, max(high, low * thinnest)], [top] * 2, [base] * 2, color=colour, linewidth=0
            )


def _draw_request(axes: Any, line: int, most: float, asked: float) -> None:
    """The most that was used, what was asked for, and how far that is apart."""
    axes.plot([most, asked], [line + 0.25] * 2, color=_PALE, linewidth=1, zorder=0.5)
    axes.plot([asked], [line + 0.25], marker="v", color=_INK, markersize=6, linestyle="none", clip_on=False)
    axes.plot([most, most], [line - 0.45, line + 0.4], color=_INK, linewidth=1.2)


def _short(name: str) -> str:
    name = one_line(name) or "?"
    return name if len(name) <= _LONGEST_NAME else "\u2026" + name[-_LONGEST_NAME:]
