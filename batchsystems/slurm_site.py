"""What a SLURM has: its limits and machines, read once from `scontrol`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Callable, NamedTuple, Optional

from batchsystems import slurm_commands as commands
from batchsystems.abstract import BatchSystemError
from batchsystems.commands import Answer
from batchsystems.scheduled import Node, Refusal
from batchsystems.slurm_commands import Limits


class Site(NamedTuple):
    """`known` False: nobody could be asked yet, and the rest is what is usual."""

    known: bool = False
    limits: Limits = Limits()
    nodes: tuple[Node, ...] = ()


def read_site(ask: Callable[[Sequence[str]], Answer], partition: Optional[str]) -> Site:
    """Ask for it. Raises BatchSystemError if SLURM's commands do not work here at all; one that is away is no error."""
    answer = ask(["scontrol", "show", "config"])
    if answer.status != 0:
        if commands.why_refused(answer.status, answer.words) in (Refusal.AWAY, Refusal.UNKNOWN):
            return Site()
        raise BatchSystemError(f"SLURM's commands do not work here: {answer.words}")
    limits = commands.read_limits(answer.out)
    if partition is None:
        partition = commands.read_default_partition(ask(["scontrol", "--oneliner", "show", "partition"]).out)
    nodes: list[Node] = []
    if partition is not None:
        shown = ask(["scontrol", "--oneliner", "show", "node"]).out
        nodes = commands.read_nodes(shown, partition.split(","))
    return Site(True, limits, tuple(nodes))
