"""The crash test of killing.py, a few runs of it; it runs for hours by itself, with any seed."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from tests.crash.killing import one_run

LINES = 20_000


@pytest.mark.slow
@pytest.mark.parametrize("seed", [101, 102, 103, 104, 105])
def test_killed_and_started_again_it_ends_as_if_nothing_had_happened(tmp_path: Path, seed: int) -> None:
    print(f"seed {seed}; again with: python tests/crash/killing.py --runs 1 --seed {seed} --lines {LINES}")
    assert one_run(tmp_path, random.Random(seed), LINES) > 0
