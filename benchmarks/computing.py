"""Targets that compute for one millisecond each: how much of the machine is left for them.

    python benchmarks/computing.py --jobTree DIR --number 20000     (in a directory with a witness; see witness.py)

Each target computes until its process has used one millisecond of CPU, and writes beside its mark what it has used in
fact and when it began and ended. The figure is the sum of what they used, divided by what the slots had to give between
the first one's begin and the last one's end.
"""

from __future__ import annotations

import argparse
import sys
import time
from typing import TYPE_CHECKING

from benchmarks.witness import Witness
from jobtree import Stack, Target

if TYPE_CHECKING:
    from benchmarks.running import Bench, Figure

WITNESS = Witness()
SECONDS = 0.001


class Compute(Target):
    """Uses CPU for a while."""

    def __init__(self, number: int) -> None:
        Target.__init__(self)
        self.number = number

    def run(self) -> None:
        begin, used = time.monotonic(), time.process_time()
        end = used + SECONDS
        while time.process_time() < end:
            sum(range(100))
        WITNESS.mark(self.number, begin, time.monotonic(), time.process_time() - used)


class Root(Target):
    """Makes them."""

    def __init__(self, number: int) -> None:
        Target.__init__(self)
        self.number = number

    def run(self) -> None:
        for number in range(self.number):
            self.addChildTarget(Compute(number))


def measure(bench: Bench) -> list[Figure]:
    """20,000 of them."""
    number = bench.scaled(20_000)
    with bench.start("computing.py", "--number", str(number), cells=number, width=3) as running:
        found = running.checked(done=number + 1)
    begins, ends, used = zip(*found.seen.numbers)
    span = max(ends) - min(begins)
    busy = 100 * sum(used) / (bench.slots * span)
    note = f"{sum(used):.1f} s of computing in {span:.1f} s"
    what = f"{number:,} targets of 1 ms of computing: both cores busy with it"
    return [bench.at_least(what, busy, "%", 85, note)]


def main() -> int:
    """Run the pipeline."""
    parser = argparse.ArgumentParser(description="Targets that compute for a millisecond each.")
    parser.add_argument("--number", type=int, default=20_000, help="how many")
    Stack.addJobTreeOptions(parser)
    options = parser.parse_args()
    return 1 if Stack(Root(options.number)).startJobTree(options) else 0


if __name__ == "__main__":
    sys.exit(main())
