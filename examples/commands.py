"""Nothing but shell commands: count the words of some text files, each file by commands of its own.

    python examples/commands.py --jobTree counting README.md docs/*.md

Targets are only there to say which command comes when; all work is done by programs. Every command writes its output
under another name and renames it when it is whole, so any of them can be killed and run again.

The same without any Python, in a file of steps: examples/steps.yaml.
"""

import argparse
import os
import shlex

from jobtree import Stack, Target


class CountAll(Target):
    """A command for each file; when all have ended, one for the sum."""

    def __init__(self, paths: list[str], output: str) -> None:
        Target.__init__(self, time=1, memory="100M")
        self.paths = paths
        self.output = output

    def run(self) -> None:
        counts = self.getGlobalTempDir()
        for number, path in enumerate(self.paths):
            counted = os.path.join(counts, f"{number}.txt")
            words = f"tr -cs '[:alpha:]' '\\n' < {shlex.quote(path)} | tr '[:upper:]' '[:lower:]' | sort | uniq -c"
            self.addChildCommand(writing(words, counted), memory="100M")
        self.setFollowOnTarget(Sum(counts, self.output))


class Sum(Target):
    """Adds up what the commands have counted."""

    def __init__(self, counts: str, output: str) -> None:
        Target.__init__(self, time=1, memory="100M")
        self.counts = counts
        self.output = output

    def run(self) -> None:
        summed = "awk '{ n[$2] += $1 } END { for (w in n) print n[w], w }'"
        self.addChildCommand(
            writing(f"cat {shlex.quote(self.counts)}/*.txt | {summed} | sort -k1,1nr -k2", self.output)
        )


def writing(command: str, path: str) -> str:
    """A command line that writes its output to a file, which appears only when it is whole."""
    quoted = shlex.quote(path)
    return f"{command} > {quoted}.part && mv {quoted}.part {quoted}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("paths", nargs="+", help="text files")
    parser.add_argument("--output", default="words.txt", help="where the counts go; default: words.txt")
    Stack.addJobTreeOptions(parser)
    options = parser.parse_args()
    paths = [os.path.abspath(path) for path in options.paths]
    failed = Stack(CountAll(paths, os.path.abspath(options.output))).startJobTree(options)
    raise SystemExit(1 if failed else 0)


if __name__ == "__main__":
    main()
