"""jobtree: children of one target. With --promises each returns its number to the follow-on, which adds them up, as the
other engines hand every result to the one who asked; without, each marks its byte of a witness. All synced to disk."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from typing import Any

from benchmarks import witness
from benchmarks.peers.answer import SLOTS, give
from benchmarks.witness import Witness
from jobtree import Stack, Target

WITNESS = Witness()


def task(i: int) -> int:
    """Return what it is given."""
    return i


def mark(i: int) -> None:
    """Note that it ran."""
    WITNESS.mark(i)


def add_up(values: Sequence[int]) -> int:
    """The sum of what the children returned."""
    return sum(values)


def with_promises(target: Target, count: int) -> Any:
    """Make all the children, and the follow-on that gets their values."""
    values = [target.addChildFn(task, args=(i,)).rv() for i in range(count)]
    return target.setFollowOnFn(add_up, args=(values,)).rv()


def without_promises(target: Target, count: int) -> None:
    """Make all the children."""
    for i in range(count):
        target.addChildFn(mark, args=(i,))


def main() -> None:
    """Run them."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--number", type=int, default=1000)
    parser.add_argument("--promises", action="store_true")
    arguments = parser.parse_args()
    options = Stack.getDefaultOptions()
    options.jobTree = "tree"
    options.maxThreads = SLOTS
    root = with_promises if arguments.promises else without_promises
    if not arguments.promises:
        witness.make(os.getcwd(), arguments.number)
    stack = Stack(Target.makeTargetFn(root, args=(arguments.number,)))
    if stack.startJobTree(options):
        raise SystemExit("jobs failed")
    if arguments.promises:
        give(stack.result())
    else:
        seen = witness.read(os.getcwd())
        give(sum(i * count for i, count in enumerate(seen.counts)))


if __name__ == "__main__":
    main()
