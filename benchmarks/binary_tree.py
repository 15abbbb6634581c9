"""A binary tree in which every inner job has a follow-on: children, waiting for them, and follow-ons, in equal parts.

    python benchmarks/binary_tree.py --jobTree DIR --depth 14     (in a directory with a witness; see witness.py)

Depth d means 2^d leaves below 2^d - 1 inner jobs. Each inner target and each leaf marks its own byte, numbered as in a
heap; each follow-on marks another one, and fails unless all that it has waited for was done before.
"""

from __future__ import annotations

import argparse
import math
import sys
from typing import TYPE_CHECKING

from benchmarks.witness import Witness
from jobtree import Stack, Target

if TYPE_CHECKING:
    from benchmarks.running import Bench, Figure

WITNESS = Witness()


class Node(Target):
    """Node ``number`` of a heap with 2^depth leaves."""

    def __init__(self, number: int, depth: int) -> None:
        Target.__init__(self)
        self.number = number
        self.depth = depth

    def run(self) -> None:
        WITNESS.mark(self.number - 1)
        if self.number < 1 << self.depth:
            self.addChildTarget(Node(2 * self.number, self.depth))
            self.addChildTarget(Node(2 * self.number + 1, self.depth))
            self.setFollowOnTarget(After(self.number, self.depth))


class After(Target):
    """The follow-on of an inner node."""

    def __init__(self, number: int, depth: int) -> None:
        Target.__init__(self)
        self.number = number
        self.depth = depth

    def run(self) -> None:
        leaves = 1 << self.depth
        for child in (2 * self.number, 2 * self.number + 1):
            last = child - 1 if child >= leaves else 2 * leaves - 1 + child - 1
            if WITNESS.seen(last) != 1:
                raise RuntimeError(
                    f"the follow-on of node {self.number} was started before node {child} was done"
                )
        WITNESS.mark(2 * leaves - 1 + self.number - 1)


def measure(bench: Bench) -> list[Figure]:
    """Depth 14: 49,150 targets, of which 32,767 are jobs of their own."""
    depth = max(2, 14 + round(math.log2(bench.scale)))
    jobs = 2 * (1 << depth) - 1
    targets = jobs + (1 << depth) - 1
    with bench.start("binary_tree.py", "--depth", str(depth), cells=targets) as running:
        seconds = running.checked(done=jobs).seconds
    what = f"binary tree of depth {depth}, a follow-on at every inner job ({targets:,} targets)"
    return [bench.at_least(what, targets / seconds, "targets/s", 10_000, f"{seconds:.2f} s")]


def main() -> int:
    """Run the pipeline."""
    parser = argparse.ArgumentParser(description="A binary tree with a follow-on at every inner job.")
    parser.add_argument("--depth", type=int, default=14, help="the tree has 2^DEPTH leaves")
    Stack.addJobTreeOptions(parser)
    options = parser.parse_args()
    return 1 if Stack(Node(1, options.depth)).startJobTree(options) else 0


if __name__ == "__main__":
    sys.exit(main())
