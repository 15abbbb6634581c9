"""Real pipelines on --batchSystem acidTest: half of their workers are killed, and they end as if none had been."""

from __future__ import annotations

import random
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.crash.killing import SORT, expected, leftovers, make_input, token_of
from tests.system.pipelines import Pipeline, variables


def killed_of(err: str) -> tuple[int, int]:
    """How many workers were killed, and of how many, by the run's own account."""
    found = re.search(r"acidTest killed (\d+) of (\d+) workers; the same again: --acidTestSeed \d+", err)
    assert found, err
    return int(found.group(1)), int(found.group(2))


@pytest.mark.slow
@pytest.mark.parametrize("max_lost", ["5", "2"])
def test_the_sort_ends_right_although_half_of_its_workers_are_killed(tmp_path: Path, max_lost: str) -> None:
    source, output, tree = (tmp_path / name for name in ("lines", "sorted", "tree"))
    make_input(source, random.Random(5), 20_000)
    command = [sys.executable, str(SORT), "--fileToSort", str(source), "--output", str(output)]
    command += ["--N", str(source.stat().st_size // 16), "--jobTree", str(tree), "--maxThreads", "2"]
    command += ["--batchSystem", "acidTest", "--maxLost", max_lost, "--acidTestSeed", "11"]

    ran = subprocess.run(command, env=variables(), capture_output=True, text=True, timeout=110, check=False)

    assert ran.returncode == 0, ran.stderr
    killed, started = killed_of(ran.stderr)
    assert 0 < killed < started
    assert output.read_bytes() == expected(source)
    token = token_of(tree)
    assert token is not None
    assert leftovers(tree, token) == []


def test_nobody_is_killed_who_cannot_afford_it(tmp_path: Path) -> None:
    pipeline = Pipeline(
        tmp_path,
        """
        class Setup(Target):
            def run(self):
                for number in range(40):
                    self.addChildFn(note, args=(number,))
        """,
    )

    ran = pipeline.run("--batchSystem", "acidTest", "--maxLost", "1", "--maxThreads", "2")

    assert ran.status == 0, ran.err
    assert killed_of(ran.err)[0] == 0
    assert pipeline.counted() == {str(number): 1 for number in range(40)}
