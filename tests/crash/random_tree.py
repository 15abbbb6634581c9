"""A pipeline whose tree is random, and whose result is known: for killing it again and again (killing.py).

    python tests/crash/random_tree.py --seed 7 --result result --jobTree tree

Everything about a target follows from the seed and its place in the tree, so that every run, however often it was
interrupted, must come to the same result: the digest of all targets below the root. ``expected`` computes it without
jobtree. There are leaves, children that are targets or functions, follow-ons with children of their own, chains,
promises that are passed on, values large enough for a file, targets that fail the first time, and directories that
are written by one target and read by another.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import random
import sys
from collections.abc import Sequence
from typing import Any, NamedTuple

from jobtree import Stack, Target

Place = tuple[int, ...]

MOST_CHILDREN = 6
DEEPEST = 4
LARGE = 1_100_000


class Plan(NamedTuple):
    """What the target at one place does. later: children that its follow-on adds; chain: follow-ons after that."""

    children: int
    later: int
    chain: int
    fails: bool
    large: bool
    work: int


def plan_of(seed: int, place: Place) -> Plan:
    """The plan of a place."""
    chance = random.Random(f"{seed} {place}")
    depth = len(place)
    children = 0
    if depth == 0:
        children = MOST_CHILDREN
    elif depth < DEEPEST:
        children = chance.choice((0, 0, 1, 2, 3, MOST_CHILDREN))
    later = chance.choice((0, 0, 1, 2)) if children and depth + 1 < DEEPEST else 0
    chain = chance.choice((0, 0, 1, 3)) if children else 0
    return Plan(
        children, later, chain, chance.random() < 0.05, chance.random() < 0.03, chance.randrange(30_000)
    )


def digest(place: Place, parts: Sequence[str]) -> str:
    """A value in which every part counts, and their order."""
    return hashlib.sha256(repr((place, list(parts))).encode()).hexdigest()[:16]


def own(plan: Plan, place: Place) -> str:
    """What the target at a place has to say itself."""
    return digest(place, []) * (LARGE // 16 if plan.large else 1)


def expected(seed: int, place: Place = ()) -> tuple[str, int]:
    """The result of the tree below a place, and how many jobs (chains) there are in it."""
    plan = plan_of(seed, place)
    parts, jobs = [own(plan, place)], 1
    for number in range(plan.children + plan.later):
        part, below = expected(seed, (*place, number))
        parts.append(part)
        jobs += below
    return digest(place, parts), jobs


class Node(Target):
    """The founder at a place."""

    def __init__(self, seed: int, here: str, place: Place) -> None:
        Target.__init__(self, memory="50M", cpu=1)
        self.seed, self.here, self.place = seed, here, place

    def run(self) -> Any:
        plan = plan_of(self.seed, self.place)
        sum(range(plan.work))
        if plan.fails:
            fail_once(self.here, self.place)
        with open(os.path.join(self.getLocalTempDir(), "scratch"), "w") as scratch:
            scratch.write("x" * 100)
        if not plan.children:
            return digest(self.place, [own(plan, self.place)])
        with open(os.path.join(self.getGlobalTempDir(), "said"), "w") as said:
            said.write(own(plan, self.place))
        parts = add_children(self, self.seed, self.here, self.place, range(plan.children))
        return self.setFollowOnTarget(More(self.seed, self.here, self.place, parts)).rv()


class More(Target):
    """The first follow-on: adds more children."""

    def __init__(self, seed: int, here: str, place: Place, parts: list[Any]) -> None:
        Target.__init__(self, memory="50M", cpu=1)
        self.seed, self.here, self.place, self.parts = seed, here, place, parts

    def run(self) -> Any:
        plan = plan_of(self.seed, self.place)
        numbers = range(plan.children, plan.children + plan.later)
        parts = [*self.parts, *add_children(self, self.seed, self.here, self.place, numbers)]
        return self.setFollowOnTarget(Last(self.place, plan.chain, parts)).rv()


class Last(Target):
    """The follow-ons after that; the last of them puts everything together."""

    def __init__(self, place: Place, more: int, parts: list[Any]) -> None:
        Target.__init__(self, memory="50M", cpu=1)
        self.place, self.more, self.parts = place, more, parts

    def run(self) -> Any:
        if self.more:
            return self.setFollowOnTarget(Last(self.place, self.more - 1, self.parts)).rv()
        with open(os.path.join(self.getGlobalTempDir(), "said")) as said:
            return digest(self.place, [said.read(), *self.parts])


def add_children(target: Target, seed: int, here: str, place: Place, numbers: range) -> list[Any]:
    """Add the children of these numbers, every third as a function; promises of what they return."""
    promises = []
    for number in numbers:
        node = Node(seed, here, (*place, number))
        is_leaf = not plan_of(seed, node.place).children
        added = (
            target.addChildFn(leaf, args=(seed, here, node.place)) if is_leaf and number % 3 == 2 else None
        )
        promises.append((added or target.addChildTarget(node)).rv())
    return promises


def leaf(seed: int, here: str, place: Place) -> str:
    """A leaf as a function."""
    plan = plan_of(seed, place)
    sum(range(plan.work))
    if plan.fails:
        fail_once(here, place)
    return digest(place, [own(plan, place)])


def fail_once(here: str, place: Place) -> None:
    """Fail unless that was done before."""
    try:
        os.mkdir(os.path.join(here, "failed-" + "-".join(map(str, place))))
    except FileExistsError:
        return
    raise RuntimeError("the first time this target fails")


def main() -> int:
    """Run it, and write the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--result", required=True)
    Stack.addJobTreeOptions(parser)
    options = parser.parse_args()
    result = os.path.realpath(options.result)
    stack = Stack(Node(options.seed, os.path.dirname(result), ()))
    failed = stack.startJobTree(options)
    if not failed:
        with open(result + ".new", "w") as file:
            file.write(stack.result())
        os.replace(result + ".new", result)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
