"""The kill storm of killing.py, a short one; `make soak` kills a thousand times, with any seed."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.crash.killing import run

LINES = 20_000
KILLS = 12


@pytest.mark.slow
@pytest.mark.timeout(400)
@pytest.mark.parametrize("seed", [101, 102])
@pytest.mark.parametrize("kind", ["sort", "tree"])
def test_killed_and_started_again_it_ends_as_if_nothing_had_happened(
    tmp_path: Path, kind: str, seed: int
) -> None:
    print(f"again with: python tests/crash/killing.py --run {kind} --seed {seed} --lines {LINES}")
    kills = run(kind, seed, tmp_path, LINES, KILLS)

    assert sum(kills.values()) >= KILLS // 3, "it must be killed often, or nothing is proven"
