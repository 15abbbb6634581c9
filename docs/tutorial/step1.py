"""Step 1: one target, and what it returns."""

import argparse

from jobtree import Stack, Target


def add_up(target, path):
    with open(path) as lines:
        return sum(int(line) for line in lines)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("path")
    Stack.addJobTreeOptions(parser)
    options = parser.parse_args()
    stack = Stack(Target.makeTargetFn(add_up, args=(options.path,)))
    if stack.startJobTree(options):
        raise SystemExit(1)
    print("sum:", stack.result())
