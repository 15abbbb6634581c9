"""Step 5: what fails, and what a target needs."""

import argparse

from jobtree import Stack, Target


def add_up_all(target, paths):
    sums = []
    for path in paths:
        child = target.addChildFn(add_up, args=(path,), time=1, memory="100M", cpu=1)
        sums.append(child.rv())
    return target.setFollowOnTargetFn(total, args=(sums,), memory="50M").rv()


def add_up(path):
    print("adding up", path)  # goes into the log of the target
    with open(path) as lines:
        return sum(int(line) for line in lines)


def total(target, sums):
    return sum(sums)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("paths", nargs="+")
    Stack.addJobTreeOptions(parser)
    options = parser.parse_args()
    first = Target.makeTargetFn(add_up_all, args=(options.paths,), memory="50M")
    stack = Stack(first)
    if stack.startJobTree(options):
        raise SystemExit(1)
    print("total:", stack.result())
