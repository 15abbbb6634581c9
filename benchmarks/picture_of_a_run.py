"""Draw what a real run has used: the picture in docs/howto/statistics.md.

    python benchmarks/picture_of_a_run.py [--output docs/images/statistics.svg]

The pipeline looks like one that aligns reads: pieces of different size, of which each is aligned and then sorted, and
all are merged. It takes some twenty seconds: half of what a target does is computing, the other half waiting.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[1]
sys.path.insert(1, str(CHECKOUT))

from jobtree import Stack, Target  # noqa: E402

PIECES = 28


class Prepare(Target):
    """Makes the pieces, and has them merged in the end."""

    def run(self) -> None:
        """Some waiting, as for a download."""
        time.sleep(0.4)
        for number in range(PIECES):
            self.addChildTarget(Align(number))
        self.setFollowOnTarget(Merge())


class Align(Target):
    """Works on one piece: its number says how large that is."""

    def __init__(self, number: int) -> None:
        Target.__init__(self, memory="512M", cpu=1)
        self.number = number

    def run(self) -> None:
        """Holds memory and computes; the first attempt at one piece fails."""
        held = bytearray((20 + self.number * 37 % 160) << 20)
        work(0.3 + self.number * 29 % 100 / 100)
        marker = Path("failed-once")
        if self.number == 17 and not marker.exists():
            marker.touch()
            raise ValueError("on purpose")
        self.addChildTarget(SortPiece(len(held)))


class SortPiece(Target):
    """Comes after the alignment of its piece."""

    def __init__(self, size: int) -> None:
        Target.__init__(self, memory="256M")
        self.size = size

    def run(self) -> None:
        """Holds half as much for a shorter time."""
        held = bytearray(self.size // 2)
        work(0.1 + len(held) / (500 << 20))


class Merge(Target):
    """Puts all of it together."""

    def __init__(self) -> None:
        Target.__init__(self, memory="1G")

    def run(self) -> None:
        """Holds all of it at once."""
        held = bytearray(300 << 20)
        work(1.0 + len(held) / (1 << 30))
        self.addChildFn(report)


def report() -> None:
    """The last one, which needs next to nothing."""
    time.sleep(0.5)


def work(seconds: float) -> None:
    """Compute for half of the time, and wait for the rest."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        used = time.process_time()
        while time.process_time() - used < 0.02:
            pass
        time.sleep(0.02)


def pipeline() -> int:
    """What runs: this script with the options of a run."""
    parser = argparse.ArgumentParser()
    Stack.addJobTreeOptions(parser)
    return Stack(Prepare()).startJobTree(parser.parse_args())


def main() -> int:
    """Run it and draw it."""
    if "--jobTree" in sys.argv:
        return pipeline()
    parser = argparse.ArgumentParser(description="Draw what a real run has used.")
    parser.add_argument(
        "--output", metavar="FILE", default=str(CHECKOUT / "docs" / "images" / "statistics.svg")
    )
    output = Path(parser.parse_args().output).resolve()
    with tempfile.TemporaryDirectory() as directory:
        run = [
            sys.executable,
            __file__,
            "--jobTree",
            "tree",
            "--stats",
            "--retryCount",
            "1",
            "--maxThreads",
            "4",
        ]
        subprocess.run(run, cwd=directory, check=True, env=environment())
        output.parent.mkdir(parents=True, exist_ok=True)
        program = "import sys; from jobtree.cli import stats; sys.exit(stats.main(sys.argv[1:]))"
        stats = [sys.executable, "-c", program, "tree", "--pretty", "--plot", str(output)]
        subprocess.run(stats, cwd=directory, check=True, env=environment())
    return 0


def environment() -> dict[str, str]:
    """Ours, with this checkout first."""
    path = [str(CHECKOUT), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(path)}


if __name__ == "__main__":
    sys.exit(main())
