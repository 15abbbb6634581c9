"""Targets of very different lengths, of one class and with no hint: does packing small work hurt large work?

    python benchmarks/lengths.py --jobTree DIR --kind random     (in a directory with a witness; see witness.py)

Two draws, each from a fixed seed that is printed: *random*, 400 targets of 0 to 0.5 s, and *mixture*, 10,000 targets
that do nothing with 20 of a second strewn among them. Targets sleep: it is the schedule that is measured, not the load.
Each writes down when it began and ended; the schedule's length is from the first begin to the last end.

The best possible schedule on two slots is no shorter than half the sum and no shorter than the longest target. For the
random lengths that bound is also reached within milliseconds (placing them longest first shows a schedule that is),
so it is what they are compared with. Nobody who does not know the lengths can promise to do better than the bound and
the part of one longest target that the other slot may have to wait for, and the 20 long ones of the mixture are so few
that this matters; it is compared with that, and with what the tiny ones take in a run without long ones.
"""

from __future__ import annotations

import argparse
import random
import sys
import time
from typing import TYPE_CHECKING

from benchmarks.witness import Witness
from jobtree import Stack, Target

if TYPE_CHECKING:
    from benchmarks.running import Bench, Figure

WITNESS = Witness()
SEED = 20
LONG = 20


class Sleep(Target):
    """Sleeps for a while, or not at all."""

    def __init__(self, number: int, seconds: float) -> None:
        Target.__init__(self)
        self.number = number
        self.seconds = seconds

    def run(self) -> None:
        begin = time.monotonic()
        if self.seconds:
            time.sleep(self.seconds)
        WITNESS.mark(self.number, begin, time.monotonic())


class Root(Target):
    """Makes them, in the order drawn."""

    def __init__(self, lengths: list[float]) -> None:
        Target.__init__(self)
        self.lengths = lengths

    def run(self) -> None:
        for number, seconds in enumerate(self.lengths):
            self.addChildTarget(Sleep(number, seconds))


def draw(kind: str, scale: float) -> list[float]:
    """The lengths, in seconds. A smaller scale makes fewer of them, and the long ones of the mixture shorter."""
    chance = random.Random(SEED)
    if kind == "random":
        return [chance.uniform(0, 0.5) for _ in range(max(4, round(400 * scale)))]
    long = [max(0.02, min(1.0, 20 * scale))] * LONG
    lengths = [0.0] * max(100, round(10_000 * scale)) + long
    chance.shuffle(lengths)
    return lengths


def bound(lengths: list[float], slots: int) -> float:
    """No schedule is shorter than this."""
    return max(sum(lengths) / slots, max(lengths))


def longest_first(lengths: list[float], slots: int) -> float:
    """The length of a schedule that is certainly possible for who knows the lengths."""
    ends = [0.0] * slots
    for length in sorted(lengths, reverse=True):
        ends[ends.index(min(ends))] += length
    return max(ends)


def measure_random(bench: Bench) -> list[Figure]:
    """400 random lengths."""
    lengths, span = run(bench, "random")
    best = bound(lengths, bench.slots)
    known = longest_first(lengths, bench.slots)
    what = f"{len(lengths)} targets of random length 0 to 0.5 s, two slots: longer than the best schedule by"
    note = f"{span:.2f} s; best {best:.2f} to {known:.2f} s; seed {SEED}"
    return [bench.at_most(what, 100 * (span / best - 1), "%", 5, note)]


def measure_mixture(bench: Bench) -> list[Figure]:
    """10,000 tiny and 20 long ones."""
    from benchmarks import fan_out, one_target

    lengths, span = run(bench, "mixture")
    tiny = len(lengths) - LONG
    alone = max(0.0, fan_out.ran(bench, tiny).seconds - one_target.seconds_of_one(bench))
    best = bound(lengths, bench.slots)
    known = best + max(lengths) * (1 - 1 / bench.slots) + alone
    what = f"{tiny:,} tiny and {LONG} long targets ({max(lengths):g} s) of a class, two slots: longer than expected by"
    note = f"{span:.2f} s; expected {known:.2f} s: {best:.2f} at best, {alone:.2f} for the tiny ones; seed {SEED}"
    return [bench.at_most(what, 100 * (span / known - 1), "%", 5, note)]


def run(bench: Bench, kind: str) -> tuple[list[float], float]:
    """One checked run: the lengths, and how long the schedule was."""
    lengths = draw(kind, bench.scale)
    arguments = ["--kind", kind, "--scale", repr(bench.scale)]
    with bench.start("lengths.py", *arguments, cells=len(lengths), width=2) as running:
        numbers = running.checked(done=len(lengths) + 1).seen.numbers
    for (begin, end), length in zip(numbers, lengths):
        assert end - begin >= length, "a target was shorter than it should be"
    begins, ends = zip(*numbers)
    return lengths, max(ends) - min(begins)


def main() -> int:
    """Run the pipeline."""
    parser = argparse.ArgumentParser(description="Targets of different lengths.")
    parser.add_argument("--kind", choices=("random", "mixture"), default="random", help="which draw")
    parser.add_argument("--scale", type=float, default=1.0, help="a smaller draw")
    Stack.addJobTreeOptions(parser)
    options = parser.parse_args()
    return 1 if Stack(Root(draw(options.kind, options.scale))).startJobTree(options) else 0


if __name__ == "__main__":
    sys.exit(main())
