"""What many short targets cost on SLURM, against a plain job array of the same: `python -m benchmarks.slurm_cost`.

As root on Debian 12, after `make clusters`: the SLURM of the tests is started here, with four nodes that claim four
cores each. Targets sleep instead of computing, because the sixteen slots share the few cores of this machine; what is
measured is how well slots are kept busy, with all that starting processes, master, SLURM and its nodes cost on the
same few cores. On a cluster every node has its own.

It prints: the seconds that the targets need if all slots are always busy; the seconds of the run, from before the
script is started until it has ended, and how many times the former that is; the calls of sbatch, squeue and sacct; and
the seconds that a plain array takes, each of whose jobs sleeps for as long. Of that, fewer jobs are run and the time is
scaled up: while SLURM starts a thousand, some half a minute here, `sbatch` of a second array can be without an answer
for longer than commands are waited for. `--array 20000` runs them all, in arrays of a thousand, one after the other.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks import cluster_cost, machine
from benchmarks.cluster_cost import ASKED_RATIO, Cost
from tests.servers import slurm
from tests.servers.daemons import wait_until
from tests.servers.slurm import SlurmServer

ASKED_CALLS = 60
COUNTED = ("sbatch", "squeue", "sacct")


def of_targets(server: SlurmServer, targets: int, seconds: float, *options: str) -> Cost:
    """Run so many targets, each of so many seconds."""
    slots = server.variant.nodes * server.variant.cpus
    commands = (*COUNTED, "scancel", "scontrol")
    return cluster_cost.of_targets(
        targets, seconds, slots, commands, server.env, ["--batchSystem", "slurm", *options]
    )


def of_array(server: SlurmServer, jobs: int, seconds: float) -> float:
    """Seconds that plain arrays of so many jobs take, the next when the one before has ended."""
    began = time.monotonic()
    left = jobs
    while left:
        size = min(left, 1000)
        server.run(
            "sbatch", f"--array=0-{size - 1}", "--mem=100M", "--output=/dev/null", f"--wrap=sleep {seconds}"
        )
        wait_until(lambda: not server.run("squeue", "--noheader"), "the end of the array", seconds=7200)
        left -= size
    return time.monotonic() - began


def main() -> int:
    """Measure and print; the exit status is 1 if what was asked for was not reached."""
    parser = argparse.ArgumentParser(description="Measure what short targets cost on SLURM.")
    parser.add_argument("--targets", type=int, default=20_000, help="how many; default: 20000")
    parser.add_argument("--seconds", type=float, default=0.05, help="how long each sleeps; default: 0.05")
    parser.add_argument(
        "--array", type=int, default=1000, help="jobs of the plain array; default: 1000, none: 0"
    )
    arguments = parser.parse_args()
    for name, value in machine.describe(tempfile.gettempdir(), os.cpu_count() or 1).items():
        print(f"{name}: {value}")
    with slurm.start() as server:
        cost = of_targets(server, arguments.targets, arguments.seconds)
        cluster_cost.print_cost(cost, 16, COUNTED, ASKED_CALLS)
        if arguments.array:
            took = of_array(server, arguments.array, arguments.seconds)
            scaled = took * arguments.targets / arguments.array
            print(
                f"plain array:   {arguments.array} jobs in {took:.1f} s, so {scaled:.0f} s for as many as targets"
            )
    print(f"load after:    {os.getloadavg()[0]:.2f}")
    return 0 if cost.ratio <= ASKED_RATIO and cost.counted(COUNTED) <= ASKED_CALLS else 1


if __name__ == "__main__":
    sys.exit(main())
