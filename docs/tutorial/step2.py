"""Step 2: a target adds children, which run at the same time."""

import argparse

from jobtree import Stack, Target


def add_up_all(target, paths):
    return [target.addChildFn(add_up, args=(path,)).rv() for path in paths]


def add_up(path):
    with open(path) as lines:
        return sum(int(line) for line in lines)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("paths", nargs="+")
    Stack.addJobTreeOptions(parser)
    options = parser.parse_args()
    stack = Stack(Target.makeTargetFn(add_up_all, args=(options.paths,)))
    if stack.startJobTree(options):
        raise SystemExit(1)
    print("sums:", *stack.result())
