"""A tree whose shape nobody knows beforehand: what is in a directory, and in all that are below it?

    python examples/crawl.py --jobTree crawling /usr/lib/python3

Without a directory it is the library of the Python that runs it. One target looks at one directory: it counts the
files in it by their endings, and adds a child for every directory that it finds there. What the children have found
comes back as promises, and is added up on the way.
"""

import argparse
import os
from collections import Counter
from typing import Any

from jobtree import Stack, Target

Found = Counter[tuple[str, str]]
"""How much there is of ("files" or "bytes", ending)."""


class Directory(Target):
    """Looks at one directory."""

    def __init__(self, path: str) -> None:
        Target.__init__(self, time=0.01, memory="100M")
        self.path = path

    def run(self) -> Any:
        here: Found = Counter()
        below: list[Any] = []  # promises now, and what they promised when the follow-on runs
        with os.scandir(self.path) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    below.append(self.addChildTarget(Directory(entry.path)).rv())
                elif entry.is_file(follow_symlinks=False):
                    ending = os.path.splitext(entry.name)[1] or "(none)"
                    here["files", ending] += 1
                    here["bytes", ending] += entry.stat(follow_symlinks=False).st_size
        if not below:
            return here
        return self.setFollowOnTarget(Total(here, below)).rv()


class Total(Target):
    """Adds up what was found in a directory and below it."""

    def __init__(self, here: Found, below: list[Any]) -> None:
        Target.__init__(self, time=0.01, memory="100M")
        self.here = here
        self.below = below

    def run(self) -> Found:
        return sum(self.below, self.here)


def plot(found: Found, endings: list[str], path: str) -> None:
    """Draws how many bytes there are of each ending."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.5), layout="constrained")
    axes = figure.subplots()
    axes.barh(endings[::-1], [found["bytes", ending] / 1e6 for ending in endings[::-1]])
    axes.set_xlabel("megabytes")
    figure.savefig(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("directory", nargs="?", default=os.path.dirname(os.__file__))
    parser.add_argument("--plot", metavar="FILE", help="draw a picture as well (pip install matplotlib)")
    Stack.addJobTreeOptions(parser)
    options = parser.parse_args()
    stack = Stack(Directory(os.path.abspath(options.directory)))
    if stack.startJobTree(options):
        raise SystemExit(1)
    found: Found = stack.result()
    print(f"{'ending':<12}{'files':>8}{'bytes':>14}")
    endings = [ending for what, ending in found if what == "files"]
    endings = sorted(endings, key=lambda ending: -found["bytes", ending])[:10]
    for ending in endings:
        print(f"{ending:<12}{found['files', ending]:>8}{found['bytes', ending]:>14}")
    if options.plot:
        plot(found, endings, options.plot)


if __name__ == "__main__":
    main()
