"""Step 6: a tree whose shape depends on what is found, anywhere: how often does each digit begin a number?"""

import argparse
import os
from collections import Counter

from jobtree import Stack, Target

MOST_BYTES = 20_000


class Digits(Target):
    """Counts the lines that begin before `end`: by itself if they are few, or else with two children."""

    def __init__(self, path, start, end):
        Target.__init__(self, time=0.1, memory="100M", cpu=1)
        self.path, self.start, self.end = path, start, end

    def run(self):
        if self.end - self.start > MOST_BYTES:
            middle = (self.start + self.end) // 2
            halves = [(self.start, middle), (middle, self.end)]
            counts = [self.addChildTarget(Digits(self.path, *half)).rv() for half in halves]
            return self.setFollowOnTarget(Sum(counts)).rv()
        found = Counter()
        with open(self.path, "rb") as file:
            if self.start:
                file.seek(self.start - 1)
                file.readline()  # a line that began before belongs to the other half
            while file.tell() < self.end and (line := file.readline()):
                found[line[:1].decode()] += 1
        return found


class Sum(Target):
    def __init__(self, counts):
        Target.__init__(self, time=0.1, memory="100M", cpu=1)
        self.counts = counts

    def run(self):
        return sum(self.counts, Counter())


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("path")
    Stack.addJobTreeOptions(parser)
    options = parser.parse_args()
    path = os.path.abspath(options.path)
    stack = Stack(Digits(path, 0, os.path.getsize(path)))
    if stack.startJobTree(options):
        raise SystemExit(1)
    print(*(f"{digit}:{number}" for digit, number in sorted(stack.result().items())))
