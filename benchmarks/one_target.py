"""A single target: what every run costs, however little it has to do. Interpreter, imports, a new job tree on disk with
its syncs, launcher, worker, clean-up.

    python benchmarks/one_target.py --jobTree DIR     (in a directory with a witness; see witness.py)
"""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING

from benchmarks.witness import Witness
from jobtree import Stack, Target

if TYPE_CHECKING:
    from benchmarks.running import Bench, Figure

WITNESS = Witness()
TIMES = 7


class Single(Target):
    """Says that it ran."""

    def run(self) -> None:
        WITNESS.mark(0)


def seconds_of_one(bench: Bench) -> float:
    """The median of several runs, each in a new tree."""
    import statistics  # not at the top: the pipeline does not need it, and what it imports is part of the figure

    return statistics.median(all_seconds(bench))


def all_seconds(bench: Bench) -> list[float]:
    """What each of the runs took."""

    def run() -> list[float]:
        return [seconds(bench) for _ in range(TIMES if bench.scale >= 1 else 2)]

    return bench.once("one target", run)


def seconds(bench: Bench) -> float:
    """What one run takes."""
    with bench.start("one_target.py", cells=1) as running:
        return running.checked(done=1).seconds


def measure(bench: Bench) -> list[Figure]:
    """One target, from the start of Python to its exit."""
    import statistics

    found = sorted(all_seconds(bench))
    note = f"median of {len(found)}, {found[0]:.2f} to {found[-1]:.2f}"
    return [bench.at_most("one target, start to exit", statistics.median(found), "s", 0.35, note)]


def main() -> int:
    """Run the pipeline."""
    parser = argparse.ArgumentParser(description="A single target.")
    Stack.addJobTreeOptions(parser)
    return 1 if Stack(Single()).startJobTree(parser.parse_args()) else 0


if __name__ == "__main__":
    sys.exit(main())
