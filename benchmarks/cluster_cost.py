"""What the costs of schedulers have in common: a pipeline of many short targets, commands that note their calls."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from benchmarks import machine

ASKED_RATIO = 1.15

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
    """What a run has cost: seconds, calls of commands by name, and the seconds that its targets need."""

    seconds: float
    calls: Counter[str]
    needed: float

    @property
    def ratio(self) -> float:
        """How many times what the targets need."""
        return self.seconds / self.needed

    def counted(self, names: Sequence[str]) -> int:
        """Calls of these commands together."""
        return sum(self.calls[name] for name in names)


def of_targets(
    targets: int, seconds: float, slots: int, commands: Sequence[str], env: Mapping[str, str], options: Sequence[str]
) -> Cost:  # fmt: skip
    """Run so many targets, each of so many seconds. commands: whose calls are counted; env: what they need."""
    with tempfile.TemporaryDirectory(prefix="cluster-cost-") as name:
        script = Path(name, "pipeline.py")
        script.write_text(PIPELINE.format(targets=targets, seconds=seconds))
        variables = {**machine.environment(), **env}
        variables["PATH"] = _counting(Path(name), commands, variables["PATH"])
        command = [
            sys.executable,
            str(script),
            "--jobTree",
            f"{name}/tree",
            "--defaultMemory",
            "100M",
            *options,
        ]
        began = time.monotonic()
        subprocess.run(command, env=variables, cwd=name, check=True)
        took = time.monotonic() - began
        return Cost(took, Counter(Path(name, "calls").read_text().split()), (targets + 1) * seconds / slots)


def _counting(directory: Path, commands: Sequence[str], path: str) -> str:
    """A PATH whose commands note that they were called."""
    bin_ = directory / "bin"
    bin_.mkdir()
    for name in commands:
        real = shutil.which(name, path=path)
        (bin_ / name).write_text(f"#!/bin/sh\necho {name} >> '{directory}/calls'\nexec {real} \"$@\"\n")
        (bin_ / name).chmod(0o755)
    return f"{bin_}{os.pathsep}{path}"


def print_cost(cost: Cost, slots: int, names: Sequence[str], asked: int) -> None:
    """As the scripts do."""
    print(f"targets need:  {cost.needed:.1f} s on {slots} slots")
    print(f"jobtree takes: {cost.seconds:.1f} s, {cost.ratio:.2f} times that (asked: {ASKED_RATIO})")
    calls = ", ".join(f"{number} {name}" for name, number in sorted(cost.calls.items()))
    print(f"calls:         {calls}; {cost.counted(names)} of {', '.join(names)} (asked: {asked})", flush=True)
