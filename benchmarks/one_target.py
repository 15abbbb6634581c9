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
    return sorted(all_seconds(bench))[TIMES // 2]


def all_seconds(bench: Bench) -> list[float]:
    """What each of the runs took."""

    def run() -> list[float]:
        found = []
        for _ in range(TIMES):
            with bench.start("one_target.py", cells=1) as running:
                found.append(running.checked(done=1).seconds)
        return found

    return bench.once("one target", run)


def measure(bench: Bench) -> list[Figure]:
    """One target, from the start of Python to its exit."""
    found = sorted(all_seconds(bench))
    note = f"median of {TIMES}, {found[0]:.2f} to {found[-1]:.2f}"
    return [bench.at_most("one target, start to exit", found[TIMES // 2], "s", 0.35, note)]


def main() -> int:
    """Run the pipeline."""
    parser = argparse.ArgumentParser(description="A single target.")
    Stack.addJobTreeOptions(parser)
    return 1 if Stack(Single()).startJobTree(parser.parse_args()) else 0


if __name__ == "__main__":
    sys.exit(main())
