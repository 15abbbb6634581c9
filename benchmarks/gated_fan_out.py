"""The fan-out of fan_out.py, whose root waits at a gate: so that what is to watch it can be up before it begins.

    python benchmarks/gated_fan_out.py --jobTree DIR --number 100000     (in a directory with a witness and a FIFO `go`)

The root opens the FIFO, which takes until somebody opens its other end, and then makes the children.
"""

from __future__ import annotations

import argparse
import sys

from benchmarks.fan_out import Nothing
from jobtree import Stack, Target

GATE = "go"


class Root(Target):
    """Waits, and then makes all the children."""

    def __init__(self, number: int) -> None:
        Target.__init__(self)
        self.number = number

    def run(self) -> None:
        with open(GATE, "rb"):
            pass
        for number in range(self.number):
            self.addChildTarget(Nothing(number))


def main() -> int:
    """Run the pipeline."""
    parser = argparse.ArgumentParser(
        description="One target with many children that do nothing, after a gate."
    )
    parser.add_argument("--number", type=int, default=100_000, help="how many children")
    Stack.addJobTreeOptions(parser)
    options = parser.parse_args()
    return 1 if Stack(Root(options.number)).startJobTree(options) else 0


if __name__ == "__main__":
    sys.exit(main())
