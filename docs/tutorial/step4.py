"""Step 4: targets as classes, and large data in files: sort the lines of many files into one."""

import argparse
import heapq
import os
import time

from jobtree import Stack, Target


class SortAll(Target):
    def __init__(self, paths, output):
        Target.__init__(self)
        self.paths = paths
        self.output = output

    def run(self):
        pieces = []
        for number, path in enumerate(self.paths):
            pieces.append(os.path.join(self.getGlobalTempDir(), str(number)))
            self.addChildTarget(Sort(path, pieces[-1]))
        self.setFollowOnTarget(Merge(pieces, self.output))


class Sort(Target):
    def __init__(self, path, output):
        Target.__init__(self)
        self.path = path
        self.output = output

    def run(self):
        time.sleep(0.3)  # stands for work that takes longer
        with open(self.path) as lines, open(self.output, "w") as file:
            file.writelines(sorted(lines))


class Merge(Target):
    def __init__(self, pieces, output):
        Target.__init__(self)
        self.pieces = pieces
        self.output = output

    def run(self):
        with open(self.output + ".part", "w") as file:
            file.writelines(heapq.merge(*map(open, self.pieces)))
        os.replace(self.output + ".part", self.output)  # nobody ever sees half of it


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("paths", nargs="+")
    parser.add_argument("--output", default="sorted.txt")
    Stack.addJobTreeOptions(parser)
    options = parser.parse_args()
    if Stack(SortAll(options.paths, options.output)).startJobTree(options):
        raise SystemExit(1)
