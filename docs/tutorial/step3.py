"""Step 3: a follow-on starts when all children are done, and gets what they have returned."""

import argparse

from jobtree import Stack, Target


def add_up_all(target, paths):
    sums = [target.addChildFn(add_up, args=(path,)).rv() for path in paths]
    return target.setFollowOnTargetFn(total, args=(sums,)).rv()


def add_up(path):
    with open(path) as lines:
        return sum(int(line) for line in lines)


def total(target, sums):
    target.logToMaster(f"the largest of {len(sums)} sums is {max(sums)}")
    return sum(sums)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("paths", nargs="+")
    Stack.addJobTreeOptions(parser)
    options = parser.parse_args()
    stack = Stack(Target.makeTargetFn(add_up_all, args=(options.paths,)))
    if stack.startJobTree(options):
        raise SystemExit(1)
    print("total:", stack.result())
