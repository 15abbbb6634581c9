"""How often Grid Engine is talked to in a run of many short targets, at a small size (benchmarks/grid_engine_cost.py:
large)."""

from __future__ import annotations

import pytest

from benchmarks import grid_engine_cost
from tests.servers.grid_engine import GridEngineServer


@pytest.mark.servers
@pytest.mark.xdist_group("grid_engine")
@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_run_of_many_targets_is_a_few_submissions_and_questions(
    grid_engine_server: GridEngineServer,
) -> None:
    before = grid_engine_cost.arrays(grid_engine_server)
    cost = grid_engine_cost.of_targets(grid_engine_server, 500, 0.05)

    assert cost.counted(grid_engine_cost.COUNTED) <= grid_engine_cost.ASKED_CALLS
    assert grid_engine_cost.arrays(grid_engine_server) - before < 30
