"""What a target is measured to use, with the programs that it runs: each test in a process of its own."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

CHECKOUT = Path(__file__).resolve().parents[2]
MIB = 1 << 20

BEGINNING = """
import json, subprocess, sys
from jobtree.usage import Usage

def program(megabytes):
    subprocess.run([sys.executable, "-c", f"held = b'x' * ({megabytes} << 20)"], check=True)

def measured(target):
    usage = Usage()
    target()
    return usage.measures()

"""


def measures_of(script: str) -> Any:
    """What a script makes of targets that are measured one after the other, as in one worker."""
    # On Linux the peak of a process begins with that of the one that became it, here of pytest: the shell, which is
    # small, starts one of its own.
    python = [sys.executable, "-c", f"{BEGINNING}{script}\njson.dump(found, sys.stdout)"]
    command = ["sh", "-c", '"$0" "$@"; exit $?', *python]
    ended = subprocess.run(command, cwd=CHECKOUT, check=True, capture_output=True, text=True)
    return json.loads(ended.stdout)


def test_the_largest_program_that_a_target_has_run_counts() -> None:
    ((wall, cpu, memory, exact),) = measures_of("found = [measured(lambda: program(200))]")

    assert 200 * MIB < memory < 300 * MIB
    assert cpu > 0
    assert wall > 0
    assert exact


def test_a_target_that_runs_nothing_has_no_part_in_the_program_of_the_one_before() -> None:
    _, (_, _, memory, _) = measures_of("found = [measured(lambda: program(200)), measured(lambda: None)]")

    assert memory < 100 * MIB


def test_of_a_smaller_program_than_the_one_before_only_the_most_is_known() -> None:
    _, (_, _, memory, exact) = measures_of(
        "found = [measured(lambda: program(200)), measured(lambda: program(100))]"
    )

    assert 200 * MIB < memory < 300 * MIB
    assert not exact


def test_a_larger_program_than_the_one_before_is_known() -> None:
    first, (_, _, memory, exact) = measures_of(
        "found = [measured(lambda: program(100)), measured(lambda: program(200))]"
    )

    assert 100 * MIB < first[2] < 200 * MIB < memory < 300 * MIB
    assert exact


def test_what_the_worker_itself_holds_counts_if_it_is_more() -> None:
    ((_, _, memory, _),) = measures_of(
        "def target():\n    held = b'x' * (300 << 20)\n    program(50)\nfound = [measured(target)]"
    )

    assert 300 * MIB < memory < 400 * MIB
