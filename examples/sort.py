"""Sort the lines of a file of any size in parallel, by merging sorted pieces: a first pipeline to read.

    python examples/sort.py --fileToSort big.txt --N 1000000 --jobTree /tmp/sorting

The file is cut in two, each half again, and so on until the pieces are small enough to be sorted in memory; then they
are merged, two and two, on the way back up. How often it has to be cut is not known before: every target decides for
itself whether it adds two children or sorts its piece. Lines are compared byte by byte, as `LC_ALL=C sort` does.

Each target can be killed and started again at any moment, because it obeys two rules: it never changes what it reads,
and what it writes appears under its name only when it is whole.
"""

import argparse
import heapq
import mmap
import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import BinaryIO

from jobtree import Stack, Target


class Setup(Target):
    """The first target: has the whole file sorted, and then puts the result in its place."""

    def __init__(self, source: str, output: str, max_bytes: int) -> None:
        Target.__init__(self, time=1, memory="100M", cpu=1)
        self.source = source
        self.output = output
        self.max_bytes = max_bytes

    def run(self) -> None:
        result = os.path.join(self.getGlobalTempDir(), "sorted")
        size = os.path.getsize(self.source)
        self.addChildTarget(Down(self.source, 0, size, self.max_bytes, result))
        self.setFollowOnTarget(Cleanup(result, self.output))


class Down(Target):
    """Sorts the bytes from start to end of a file: by itself if they are few, or else with two children."""

    def __init__(self, source: str, start: int, end: int, max_bytes: int, output: str) -> None:
        Target.__init__(self, time=1, memory="100M", cpu=1)
        self.source = source
        self.start = start
        self.end = end
        self.max_bytes = max_bytes
        self.output = output

    def run(self) -> None:
        middle = self.end
        if self.end - self.start > self.max_bytes:
            middle = find_cut(self.source, self.start, self.end)
        if middle == self.end:
            sort_piece(self.source, self.start, self.end, self.output)
            return
        # This directory outlives run(): the children write into it, and the follow-on reads what they wrote.
        left = os.path.join(self.getGlobalTempDir(), "left")
        right = os.path.join(self.getGlobalTempDir(), "right")
        self.addChildTarget(Down(self.source, self.start, middle, self.max_bytes, left))
        self.addChildTarget(Down(self.source, middle, self.end, self.max_bytes, right))
        self.setFollowOnTarget(Up([left, right], self.output))


class Up(Target):
    """The follow-on of a Down that had children: runs when both are done, and merges what they wrote."""

    def __init__(self, sources: list[str], output: str) -> None:
        Target.__init__(self, time=1, memory="100M", cpu=1)
        self.sources = sources
        self.output = output

    def run(self) -> None:
        merge(self.sources, self.output)


class Cleanup(Target):
    """The follow-on of Setup: the result takes its place in one step, so nobody ever sees half of it."""

    def __init__(self, result: str, output: str) -> None:
        Target.__init__(self, time=1, memory="100M", cpu=1)
        self.result = result
        self.output = output

    def run(self) -> None:
        with open(self.result, "rb") as result, written_whole(self.output) as output:
            shutil.copyfileobj(result, output)
        self.logToMaster(f"sorted {os.path.getsize(self.output)} bytes into {self.output}")


def find_cut(path: str, start: int, end: int) -> int:
    """The start of a line near the middle of the range, with a line before it; or the end, if it is all one line."""
    middle = (start + end) // 2
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        newline = content.find(b"\n", middle, end - 1)
        if newline < 0:
            newline = content.rfind(b"\n", start, middle)
    return end if newline < 0 else newline + 1


def sort_piece(path: str, start: int, end: int, output: str) -> None:
    """Sort a range of bytes in memory. The file's last line gets the newline that it may lack."""
    with open(path, "rb") as file:
        file.seek(start)
        content = file.read(end - start)
    lines = content.split(b"\n")
    if not lines[-1]:
        lines.pop()
    with written_whole(output) as sorted_file:
        sorted_file.writelines(line + b"\n" for line in sorted(lines))


def merge(sources: list[str], output: str) -> None:
    """Merge sorted files, holding one line of each in memory."""
    with ExitStack() as stack:
        files = [stack.enter_context(open(source, "rb")) for source in sources]
        # Without the newline: some bytes sort before it, and the end of a line has to come before them.
        merged = heapq.merge(*files, key=lambda line: line[:-1])
        stack.enter_context(written_whole(output)).writelines(merged)


@contextmanager
def written_whole(path: str) -> Iterator[BinaryIO]:
    """A new file that gets its name when it is complete, in place of the file that may have had it."""
    temporary = path + ".tmp"
    with open(temporary, "wb") as file:
        yield file
    os.replace(temporary, path)


def main() -> int:
    """Run the pipeline; the exit status is 0 when the file is sorted."""
    parser = argparse.ArgumentParser(description="Sort the lines of a file in parallel.")
    parser.add_argument("--fileToSort", required=True, help="the file to sort")
    parser.add_argument("--output", help="where the result goes (default: it replaces the file)")
    parser.add_argument("--N", type=int, default=10_000_000, help="sort at most this many bytes in memory")
    Stack.addJobTreeOptions(parser)
    options = parser.parse_args()
    source = os.path.realpath(options.fileToSort)
    output = os.path.realpath(options.output or source)
    failed = Stack(Setup(source, output, options.N)).startJobTree(options)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
