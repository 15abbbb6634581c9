"""A bundle of a thousand targets, one of which kills its worker: the others must not pay for it.

    python benchmarks/culprit.py --jobTree DIR --number 20000 --retryCount 2   (in a directory with a witness)

Many children do nothing but mark their byte; one, in the middle, dies of SIGSEGV whenever it runs, as a C library may,
and takes its worker with it. Bundles grow as the class turns out to be short, so by then they hold more than a
thousand; the one that dies looks up the size of its own. Expected: every other target runs once; the one runs once in
company, which is charged to nobody because the worker had run others before, and then alone, as often as its own tries
allow; it alone is failed.
"""

from __future__ import annotations

import argparse
import glob
import os
import resource
import signal
import sqlite3
import sys
from typing import TYPE_CHECKING

from benchmarks.witness import Witness
from jobtree import Stack, Target

if TYPE_CHECKING:
    from benchmarks.running import Bench, Figure

WITNESS = Witness()
RETRIES = 2
SIZE = "size of the bundle"


class Child(Target):
    """Does nothing, or kills its worker."""

    def __init__(self, number: int, kills: bool) -> None:
        Target.__init__(self)
        self.number = number
        self.kills = kills

    def run(self) -> None:
        WITNESS.mark(self.number)
        if self.kills:
            with open(SIZE, "a", encoding="ascii") as file:
                file.write(f"{size_of_own_bundle('tree')}\n")
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
            os.kill(os.getpid(), signal.SIGSEGV)


class Root(Target):
    """Makes the children."""

    def __init__(self, number: int) -> None:
        Target.__init__(self)
        self.number = number

    def run(self) -> None:
        for number in range(self.number):
            self.addChildTarget(Child(number, number == self.number // 2))


def size_of_own_bundle(tree: str) -> int:
    """How many jobs are in the bundle that this process runs: claims say which it is, the database how large."""
    for claim in glob.glob(os.path.join(tree, "claims", "*", "*")):
        with open(claim, encoding="ascii") as file:
            words = file.read().split()
        if len(words) > 1 and words[1] == str(os.getpid()):
            database = sqlite3.connect(os.path.join(tree, "tree.sqlite"), timeout=30)
            try:
                row = database.execute(
                    "SELECT size FROM bundles WHERE id = ?", (os.path.basename(claim),)
                ).fetchone()
            finally:
                database.close()
            return int(row[0])
    raise LookupError("no claim names this process")


def measure(bench: Bench) -> list[Figure]:
    """How many of a bundle's others ran exactly once. All of the tree's others must have."""
    number = bench.scaled(20_000)
    arguments = ["--number", str(number), "--retryCount", str(RETRIES)]
    with bench.start("culprit.py", *arguments, cells=number) as running:
        running.ended(expected=1)
        counts = bytearray(running.seen().counts)
        tries = counts.pop(number // 2)
        status = running.status()
        sizes = [int(line) for line in (running.directory / SIZE).read_text().split()]
        if counts.count(1) != number - 1:
            running.wrong(f"{number - 1 - counts.count(1)} of the others did not run exactly once")
        if status["counts"]["failed"] != 1 or status["counts"]["done"] != number - 1:
            running.wrong(f"jobTreeStatus says {status['counts']}")
        # The first death is charged to nobody, unless it happened to be the first target of its bundle.
        if tries - RETRIES not in (1, 2) or sizes[1:] != [1] * (tries - 1):
            running.wrong(f"the one that kills was run {tries} times, in bundles of {sizes}")
    what = f"a bundle of at least {bench.scaled(1_000):,} of which one kills its worker: others that ran exactly once"
    note = f"the one ran once in company and {tries - 1} times alone (--retryCount {RETRIES}); nobody else failed"
    return [bench.at_least(what, sizes[0] - 1, "targets", bench.scaled(1_000) - 1, note)]


def main() -> int:
    """Run the pipeline; the exit status is 1, as one job fails."""
    parser = argparse.ArgumentParser(description="Many targets, one of which kills its worker.")
    parser.add_argument("--number", type=int, default=20_000, help="how many children")
    Stack.addJobTreeOptions(parser)
    options = parser.parse_args()
    return 1 if Stack(Root(options.number)).startJobTree(options) else 0


if __name__ == "__main__":
    sys.exit(main())
