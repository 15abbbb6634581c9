"""Drawings, made from what the code itself goes by, in the language of graphviz."""

from __future__ import annotations

from typing import Callable

from jobtree.events import Event, State
from jobtree.tree import TRANSITIONS

STYLE = [
    "-Gfontname=sans-serif", "-Nfontname=sans-serif", "-Efontname=sans-serif", "-Nfontsize=11", "-Efontsize=10",
    "-Nshape=box", "-Nstyle=rounded", "-Nmargin=0.15,0.08", "-Gbgcolor=transparent",
]  # fmt: skip
"""How all drawings look: arguments of dot."""

_MEANING = {
    State.READY: "can start",
    State.ISSUED: "in a bundle:\nrunning, or about to",
    State.BLOCKED: "waits for its children",
    State.FAILED: "given up",
    State.DONE: "",
}


def states() -> str:
    """The states of a job, and what leads from one to another: every entry of the table, and nothing else."""
    lines = [
        "```{graphviz}",
        ":alt: the states of a job",
        "",
        "digraph states {",
        "  rankdir=LR; nodesep=0.6;",
    ]
    for state in State:
        label = f"{state.name}\n{_MEANING[state]}".strip().replace("\n", "\\n")
        shape = ", peripheries=2" if state is State.DONE else ""
        lines.append(f'  {state.name} [label="{label}"{shape}];')
    lines.append('  start [shape=point]; start -> READY [label="added"];')
    for (state, event), following in TRANSITIONS.items():
        lines += [f'  {state.name} -> {to.name} [label="{event.value}"];' for to in following]
    return "\n".join([*lines, "}", "```"])


def transitions() -> str:
    """The same as a table."""
    lines = ["| a job that is | to which this happens | is then |", "| --- | --- | --- |"]
    for (state, event), following in TRANSITIONS.items():
        then = " or ".join(to.name for to in following)
        lines.append(f"| {state.name} | {event.value} | {then} |")
    unused = [event.value for event in Event if event not in {event for _, event in TRANSITIONS}]
    assert not unused, f"events that change nothing: {unused}"
    return "\n".join(lines)


MAKERS: tuple[Callable[[], str], ...] = (states, transitions)
