"""A tree with a million ready jobs whose master is killed half-way: how soon work goes on, and what a look at it costs.

The pipeline is that of fan_out.py. While it runs, jobTreeStatus is called once at the start of every other stretch of
two seconds, and timed; how many targets were marked in stretches with a call and without one shows whether the run goes
slower when it is looked at. When half of the targets are marked the master is killed with SIGKILL. When the last of its
workers is gone, too, jobTreeStatus is timed on what they left, and the same command is started again. The first
target's mark after that carries the time that counts: from the start of Python to the moment when a target of the
killed run is running.

At the end every target must be done in the tree exactly once. One that was running when the master was killed runs
again, as it must; more than one for each slot would be a mistake.

In a small size (--scale), where a run may be over before anybody has looked at it, its last target waits until the
master has been killed.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from typing import TYPE_CHECKING, NamedTuple

from benchmarks import witness
from benchmarks.fan_out import GO_ON
from benchmarks.running import STATUS

if TYPE_CHECKING:
    from benchmarks.running import Bench, Figure, Running

STRETCH = 2.0
CALLS = 10
FEWEST = 5_000


class Restarted(NamedTuple):
    """What was seen. Times in seconds, rates in targets per second, by stretch."""

    number: int
    at_kill: int
    first_again: float
    while_running: list[float]
    while_not: list[float]
    quiet: list[float]
    looked_at: list[float]


def ran(bench: Bench) -> Restarted:
    """The run, made once for both lines."""
    return bench.once("restart", lambda: _run(bench))


def measure_restart(bench: Bench) -> list[Figure]:
    """How soon the first target runs."""
    found = ran(bench)
    what = f"start again on a tree with {found.number:,} jobs, killed half-way: first target running after"
    note = f"{found.number - found.at_kill:,} were left"
    return [bench.at_most(what, found.first_again, "s", 3.0, note)]


def measure_status(bench: Bench) -> list[Figure]:
    """How long jobTreeStatus takes, and whether the run notices."""
    found = ran(bench)
    what = f"jobTreeStatus on a tree of {found.number:,}"
    figures = []
    for when, times in (("while it runs", found.while_running), ("after the kill", found.while_not)):
        note = f"longest of {len(times)} calls; shortest {min(times):.2f} s"
        figures.append(bench.at_most(f"{what}, {when}", max(times), "s", 0.3, note))
    if found.quiet and found.looked_at:
        quiet = sum(found.quiet) / len(found.quiet)
        looked_at = sum(found.looked_at) / len(found.looked_at)
        note = f"{looked_at:,.0f} and {quiet:,.0f} targets/s in {len(found.quiet)} stretches of {STRETCH:g} s each"
        ratio = looked_at / quiet
        figures.append(
            bench.at_least(f"{what}: speed in stretches with a call, of that without", ratio, "", 0.95, note)
        )
    return figures


def _run(bench: Bench) -> Restarted:
    number = max(FEWEST, bench.scaled(1_000_000))
    held = ["--held"] if bench.scale < 1 else []
    with bench.start("fan_out.py", "--number", str(number), *held, cells=number) as running:
        while_running, quiet, looked_at = _until_half(running, number)
        below = running.processes_below()
        running.kill()
        while any(os.path.exists(f"/proc/{pid}") for pid in below):
            time.sleep(0.01)
        at_kill = running.seen().marked
        while_not = [_seconds_of_status(running) for _ in range(CALLS if bench.scale >= 1 else 2)]
        witness.forget_first(str(running.directory))
        (running.directory / GO_ON).touch()
        running.begin()
        running.ended()
        _check(running, number, bench.slots)
        first = running.seen().first - running.began
        if first <= 0:
            running.wrong("no target was left to be run")
        return Restarted(number, at_kill, first, while_running, while_not, quiet, looked_at)


def _until_half(running: Running, number: int) -> tuple[list[float], list[float], list[float]]:
    """Look on until half of the targets have run; a call of jobTreeStatus at the start of every other stretch."""
    while not running.seen().marked:
        _look_again(running)
    calls: list[float] = []
    rates: tuple[list[float], list[float]] = ([], [])
    stretch = 0
    marked = running.seen().marked
    while marked < number // 2:
        began, before = time.monotonic(), marked
        if stretch % 2 or not calls:
            calls.append(_seconds_of_status(running))
        while time.monotonic() - began < STRETCH and marked < number // 2:
            _look_again(running)
            marked = running.seen().marked
        if stretch and time.monotonic() - began >= STRETCH:
            # The first one is left out: bundles are still growing then.
            rates[stretch % 2].append((marked - before) / (time.monotonic() - began))
        stretch += 1
    pairs = min(map(len, rates))
    return calls, rates[0][:pairs], rates[1][:pairs]


def _look_again(running: Running) -> None:
    if running.process.poll() is not None:
        running.wrong("the run ended before it could be killed")
    time.sleep(0.01)


def _seconds_of_status(running: Running) -> float:
    began = time.monotonic()
    command = [sys.executable, str(STATUS), str(running.tree)]
    if subprocess.run(command, stdout=subprocess.DEVNULL).returncode:
        running.wrong("jobTreeStatus failed")
    return time.monotonic() - began


def _check(running: Running, number: int, slots: int) -> None:
    status = running.status()
    if status["state"] != "complete" or status["counts"]["done"] != number + 1:
        running.wrong(f"jobTreeStatus says {status['state']}, {status['counts']}")
    counts = running.seen().counts
    missing, again = counts.count(0), len(counts) - counts.count(0) - counts.count(1)
    if missing or again > slots:
        running.wrong(f"{missing} targets never ran and {again} ran again")
