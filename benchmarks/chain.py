"""A chain of follow-ons, each of which starts only when the one before it is written down, that is, synced to disk.

    python benchmarks/chain.py --jobTree DIR --length 10000     (in a directory with a witness; see witness.py)

There is nothing to do in parallel here and nothing to put off: the disk's sync is the floor, and the figure is printed
beside it. Every link marks its own byte, and fails unless the link before it has.
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


class Link(Target):
    """One link; it has the next one as its follow-on."""

    def __init__(self, number: int, length: int) -> None:
        Target.__init__(self)
        self.number = number
        self.length = length

    def run(self) -> None:
        if self.number and WITNESS.seen(self.number - 1) != 1:
            raise RuntimeError(f"link {self.number} was started before link {self.number - 1} was done")
        WITNESS.mark(self.number)
        if self.number + 1 < self.length:
            self.setFollowOnTarget(Link(self.number + 1, self.length))


def measure(bench: Bench) -> list[Figure]:
    """10,000 follow-ons, one after the other."""
    from benchmarks import floors

    length = bench.scaled(10_000)
    with bench.start("chain.py", "--length", str(length + 1), cells=length + 1) as running:
        seconds = running.checked(done=1).seconds
    sync = floors.sync_of_append(bench.directory, 1024, times=200)
    note = (
        f"{seconds / length * 1e6:.0f} us each; appending 1 KB and syncing it alone takes {sync * 1e6:.0f} us"
    )
    what = f"a chain of {length:,} follow-ons, each written down before the next starts"
    return [bench.at_least(what, length / seconds, "targets/s", 2_000, note)]


def main() -> int:
    """Run the pipeline."""
    parser = argparse.ArgumentParser(description="A chain of follow-ons.")
    parser.add_argument("--length", type=int, default=10_001, help="how many targets")
    Stack.addJobTreeOptions(parser)
    options = parser.parse_args()
    return 1 if Stack(Link(0, options.length)).startJobTree(options) else 0


if __name__ == "__main__":
    sys.exit(main())
