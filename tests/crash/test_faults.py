"""A sample of what faults.py enumerates: the real program, killed at or refused one system call of master or worker.

By default a sample is drawn whose seed is printed; JOBTREE_TEST_FAULTS=SEED draws another one. `make faults` takes all.
"""

from __future__ import annotations

import os
import random
from collections import Counter
from pathlib import Path
from typing import Optional

import pytest

from tests.crash.faults import ERRORS, Point, all_points, prove, survey
from tests.requirements import require

SEED = int(os.environ.get("JOBTREE_TEST_FAULTS", "1"))
POINTS = 5

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[Optional[int], Counter[str]]:
    """How often each call is made in an undisturbed run."""
    require("strace")
    return survey(tmp_path_factory.mktemp("survey"))


@pytest.mark.parametrize("fault", ["kill", *ERRORS])
@pytest.mark.parametrize("role", ["master", "worker"])
def test_wherever_it_is_hit_it_ends_as_if_nothing_had_happened(
    tmp_path: Path, found: dict[Optional[int], Counter[str]], role: str, fault: str
) -> None:
    chance = random.Random(f"{SEED} {role} {fault}")
    points = [
        point
        for point in all_points(found)
        if (point.worker is None) == (role == "master") and point.fault.rstrip("+") == fault
    ]
    reached = 0
    for number, point in enumerate(draw(points, chance)):
        print(f"seed {SEED}; again with: python tests/crash/faults.py --point {point}")
        reached += prove(tmp_path / str(number), point) is not None
    assert reached > POINTS // 2, "the faults must be met, or nothing is proven"


def draw(points: list[Point], chance: random.Random) -> list[Point]:
    """Some points, of each call as likely as of any other: a run makes hundreds of one and a handful of another."""
    calls = sorted({point.call for point in points})
    drawn = []
    for call in chance.sample(calls, min(POINTS, len(calls))):
        drawn.append(chance.choice([point for point in points if point.call == call]))
    while len(drawn) < POINTS:
        drawn.append(chance.choice(points))
    return drawn
