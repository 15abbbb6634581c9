"""What many short targets cost on Grid Engine, against a plain array: `python -m benchmarks.grid_engine_cost`.

As root on Debian 12, after `make clusters`: the Grid Engine of the tests is started here, with one host of eight slots.
Targets sleep instead of computing, because the slots share the few cores of this machine with the master and with all
of Grid Engine; what is measured is how well slots are kept busy. On a cluster every host has its own cores.

It prints: the seconds that the targets need if all slots are always busy; the seconds of the run, from before the
script is started until it has ended, and how many times the former that is; the calls of qstat, qacct and qdel; the
arrays that were submitted (through DRMAA, so without a command); and the seconds that a plain array takes, each of
whose jobs sleeps for as long. Of that, fewer jobs are run and the time is scaled up: Grid Engine starts them one by
one.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
import tempfile
import time
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks import cluster_cost, machine
from benchmarks.cluster_cost import ASKED_RATIO, Cost
from tests.servers import grid_engine
from tests.servers.daemons import ServerError, wait_until
from tests.servers.grid_engine import GridEngineServer

ASKED_CALLS = 60
COUNTED = ("qstat", "qacct", "qdel")


def of_targets(server: GridEngineServer, targets: int, seconds: float, *options: str) -> Cost:
    """Run so many targets, each of so many seconds."""
    commands = (*COUNTED, "qconf")
    options = ("--batchSystem", "gridEngine", *options)
    return cluster_cost.of_targets(targets, seconds, server.variant.slots, commands, server.env, options)


def arrays(server: GridEngineServer) -> int:
    """How many arrays runs have submitted so far; those that have ended."""
    try:
        text = server.run("qacct", "-j", "run-*")
    except ServerError:  # there is none
        return 0
    return len(set(re.findall(r"^jobname +(\S+)", text, re.MULTILINE)))


def of_array(server: GridEngineServer, jobs: int, seconds: float) -> float:
    """Seconds that a plain array of so many jobs takes."""
    began = time.monotonic()
    server.run("qsub", "-t", f"1-{jobs}", "-b", "y", "-o", "/dev/null", "-j", "y", "sleep", str(seconds))
    wait_until(lambda: not server.run("qstat"), "the end of the array", seconds=7200)
    return time.monotonic() - began


def main() -> int:
    """Measure and print; the exit status is 1 if what was asked for was not reached."""
    parser = argparse.ArgumentParser(description="Measure what short targets cost on Grid Engine.")
    parser.add_argument("--targets", type=int, default=20_000, help="how many; default: 20000")
    parser.add_argument("--seconds", type=float, default=0.05, help="how long each sleeps; default: 0.05")
    parser.add_argument(
        "--array", type=int, default=1000, help="jobs of the plain array; default: 1000, none: 0"
    )
    arguments = parser.parse_args()
    for name, value in machine.describe(tempfile.gettempdir(), os.cpu_count() or 1).items():
        print(f"{name}: {value}")
    with grid_engine.start() as server:
        cost = of_targets(server, arguments.targets, arguments.seconds)
        cluster_cost.print_cost(cost, server.variant.slots, COUNTED, ASKED_CALLS)
        wait_until(lambda: not server.run("qstat"), "the end of all jobs")
        print(f"arrays:        {arrays(server)}", flush=True)
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
