"""One target with very many children that do nothing: what a small target costs, and whether it costs the same in
large trees as in small ones.

    python benchmarks/fan_out.py --jobTree DIR --number 100000     (in a directory with a witness; see witness.py)

The time is that of the whole command, from the start of Python to its exit. Every child marks its own byte of the
witness, and the tree must say that all of them are done.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from typing import TYPE_CHECKING

from benchmarks.witness import Witness
from jobtree import Stack, Target

if TYPE_CHECKING:
    from benchmarks.running import Bench, Figure, Ran

WITNESS = Witness()
SIZES = (1_000, 10_000, 100_000, 1_000_000)
SHORT = 10_000
"""Runs of so many or fewer are over in less than a second, of which a moment's disturbance is much."""
TIMES = 7

GO_ON = "go-on"
"""The file for which the last child waits with --held."""


class Nothing(Target):
    """Does nothing but say that it ran."""

    def __init__(self, number: int) -> None:
        Target.__init__(self)
        self.number = number

    def run(self) -> None:
        WITNESS.mark(self.number)


class Held(Nothing):
    """Does it when there is a file: until then the run is not over, however few the others are."""

    def run(self) -> None:
        while not os.path.exists(GO_ON):
            time.sleep(0.01)
        Nothing.run(self)


class Root(Target):
    """Makes all the children. held: the last of them waits for a file."""

    def __init__(self, number: int, held: bool = False) -> None:
        Target.__init__(self)
        self.number = number
        self.held = held

    def run(self) -> None:
        for number in range(self.number - self.held):
            self.addChildTarget(Nothing(number))
        if self.held:
            self.addChildTarget(Held(self.number - 1))


def ran(bench: Bench, number: int) -> Ran:
    """One checked run with so many children; the lines share it, as those with a million take a minute."""

    def run() -> Ran:
        with bench.start("fan_out.py", "--number", str(number), cells=number, watch=True) as running:
            return running.checked(done=number + 1)

    return bench.once(f"fan-out {number}", run)


def measure_rate(bench: Bench) -> list[Figure]:
    """100,000 no-op children."""
    number = bench.scaled(100_000)
    seconds = ran(bench, number).seconds
    what = f"{number:,} no-op children of one target"
    return [bench.at_least(what, number / seconds, "targets/s", 20_000, f"{seconds:.2f} s")]


def measure_million(bench: Bench) -> list[Figure]:
    """A million of them: time, and the memory of the two processes that see them all."""
    number = bench.scaled(1_000_000)
    found = ran(bench, number)
    what = f"{number:,} no-op children"
    return [
        bench.at_most(what, found.seconds, "s", 60, f"{number / found.seconds:,.0f} targets/s"),
        bench.at_most(f"{what}: master's peak memory", found.master_peak / 1e6, "MB", 200),
        bench.at_most(f"{what}: peak of the worker that makes them", found.worker_peak / 1e6, "MB", 1500),
    ]


def _cost(bench: Bench, number: int, least: float) -> float:
    """Microseconds per target, what a tree with a single target takes taken off: least, where the run is long.

    Short ones are run several times, each beside one of a single target: the machine's speed wanders, and what it does
    to both is no cost of a target.
    """
    import statistics  # neither of these at the top: see one_target

    from benchmarks import one_target

    if number > SHORT:
        return max(0.0, ran(bench, number).seconds - least) / number * 1e6
    found = []
    for _ in range(TIMES if bench.scale >= 1 else 1):
        single = one_target.seconds(bench)
        with bench.start("fan_out.py", "--number", str(number), cells=number) as running:
            found.append(running.checked(done=number + 1).seconds - single)
    return max(0.0, statistics.median(found)) / number * 1e6


def measure_flat(bench: Bench) -> list[Figure]:
    """The same tree in four sizes. What a tree with a single target takes is taken off, or else the smallest of them
    would look expensive and the largest cheap."""
    from benchmarks import one_target

    least = one_target.seconds_of_one(bench)
    costs = [_cost(bench, bench.scaled(size), least) for size in SIZES]
    note = ", ".join(f"{bench.scaled(size):,}: {cost:.1f}" for size, cost in zip(SIZES, costs))
    spread = max(costs[1:]) / max(1e-9, min(costs[1:]))
    what = f"time per target, from {bench.scaled(SIZES[1]):,} to {bench.scaled(SIZES[-1]):,} targets"
    return [bench.at_most(what, spread, "max/min", 1.3, f"us: {note}; start-up taken off")]


def main() -> int:
    """Run the pipeline."""
    parser = argparse.ArgumentParser(description="One target with many children that do nothing.")
    parser.add_argument("--number", type=int, default=100_000, help="how many children")
    parser.add_argument("--held", action="store_true", help=f"the last one waits for the file {GO_ON}")
    Stack.addJobTreeOptions(parser)
    options = parser.parse_args()
    return 1 if Stack(Root(options.number, options.held)).startJobTree(options) else 0


if __name__ == "__main__":
    sys.exit(main())
