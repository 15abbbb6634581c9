"""What many short targets cost on SLURM, against a plain job array of the same: `python -m benchmarks.slurm_cost`.

As root on Debian 12, after `make clusters`: the SLURM of the tests is started here, with four nodes that claim four
cores each. Targets sleep instead of computing, because the sixteen slots share the few cores of this machine; what is
measured is how well slots are kept busy, with all that starting processes, master, SLURM and its nodes cost on the
same few cores. On a cluster every node has its own.

It prints: the seconds that the targets need if all slots are always busy; the seconds of the run, from before the
script is started until it has ended, and how many times the former that is; the calls of sbatch, squeue and sacct; and
the seconds that an array of as many jobs takes, each sleeping for as long.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks import machine
from tests.servers import slurm
from tests.servers.daemons import wait_until
from tests.servers.slurm import SlurmServer

ASKED_RATIO = 1.15
ASKED_CALLS = 60
COUNTED = ("sbatch", "squeue", "sacct")

PIPELINE = """
import sys, time
from jobtree import Stack, Target

class Setup(Target):
    def run(self):
        for number in range({targets}):
            self.addChildTarget(Sleep())

class Sleep(Target):
    def run(self):
        time.sleep({seconds})

if __name__ == "__main__":
    import argparse
    parser = argparse.ArgumentParser()
    Stack.addJobTreeOptions(parser)
    sys.exit(1 if Stack(Setup()).startJobTree(parser.parse_args()) else 0)
"""


class Cost(NamedTuple):
    """What a run has cost: seconds, calls of SLURM's commands by name, and the seconds that its targets need."""

    seconds: float
    calls: Counter[str]
    needed: float

    @property
    def ratio(self) -> float:
        """How many times what the targets need."""
        return self.seconds / self.needed

    @property
    def counted(self) -> int:
        """Calls of those commands of which there are to be few."""
        return sum(self.calls[name] for name in COUNTED)


@contextlib.contextmanager
def counting(directory: Path) -> Iterator[dict[str, str]]:
    """Variables with which SLURM's commands note that they were called."""
    bin_ = directory / "bin"
    bin_.mkdir()
    for name in (*COUNTED, "scancel", "scontrol"):
        real = shutil.which(name)
        (bin_ / name).write_text(f"#!/bin/sh\necho {name} >> '{directory}/calls'\nexec {real} \"$@\"\n")
        (bin_ / name).chmod(0o755)
    yield {**machine.environment(), "PATH": f"{bin_}:{os.environ['PATH']}"}


def of_targets(server: SlurmServer, targets: int, seconds: float, *options: str) -> Cost:
    """Run so many targets, each of so many seconds."""
    slots = server.variant.nodes * server.variant.cpus
    with tempfile.TemporaryDirectory(prefix="slurm-cost-") as name, counting(Path(name)) as variables:
        script = Path(name, "pipeline.py")
        script.write_text(PIPELINE.format(targets=targets, seconds=seconds))
        command = [sys.executable, str(script), "--jobTree", f"{name}/tree", "--batchSystem", "slurm",
                   "--defaultMemory", "100M", *options]  # fmt: skip
        began = time.monotonic()
        subprocess.run(command, env={**variables, **server.env}, cwd=name, check=True)
        took = time.monotonic() - began
        return Cost(took, Counter(Path(name, "calls").read_text().split()), (targets + 1) * seconds / slots)


def of_array(server: SlurmServer, jobs: int, seconds: float) -> float:
    """Seconds that plain arrays of so many jobs take."""
    began = time.monotonic()
    left = jobs
    while left:
        size = min(left, 1000)
        server.run(
            "sbatch", f"--array=0-{size - 1}", "--mem=100M", "--output=/dev/null", f"--wrap=sleep {seconds}"
        )
        left -= size
    wait_until(lambda: not server.run("squeue", "--noheader"), "the end of the array", seconds=7200)
    return time.monotonic() - began


def main() -> int:
    """Measure and print; the exit status is 1 if what was asked for was not reached."""
    parser = argparse.ArgumentParser(description="Measure what short targets cost on SLURM.")
    parser.add_argument("--targets", type=int, default=20_000, help="how many; default: 20000")
    parser.add_argument("--seconds", type=float, default=0.05, help="how long each sleeps; default: 0.05")
    parser.add_argument("--no-array", action="store_true", help="leave out the plain array")
    arguments = parser.parse_args()
    for name, value in machine.describe(tempfile.gettempdir(), os.cpu_count() or 1).items():
        print(f"{name}: {value}")
    with slurm.start() as server:
        cost = of_targets(server, arguments.targets, arguments.seconds)
        print(f"targets need:  {cost.needed:.1f} s on 16 slots")
        print(f"jobtree takes: {cost.seconds:.1f} s, {cost.ratio:.2f} times that (asked: {ASKED_RATIO})")
        calls = ", ".join(f"{number} {name}" for name, number in sorted(cost.calls.items()))
        print(f"calls:         {calls}; {cost.counted} of {', '.join(COUNTED)} (asked: {ASKED_CALLS})")
        if not arguments.no_array:
            print(
                f"plain array:   {of_array(server, arguments.targets, arguments.seconds):.1f} s", flush=True
            )
    print(f"load after:    {os.getloadavg()[0]:.2f}")
    return 0 if cost.ratio <= ASKED_RATIO and cost.counted <= ASKED_CALLS else 1


if __name__ == "__main__":
    sys.exit(main())
