"""How often SLURM is talked to in a run of many short targets, at a small size (benchmarks/slurm_cost.py: large)."""

from __future__ import annotations

import pytest

from benchmarks import slurm_cost
from tests.servers.slurm import SlurmServer


@pytest.mark.servers
@pytest.mark.xdist_group("slurm")
@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_run_of_many_targets_is_a_few_submissions_and_questions(slurm_server: SlurmServer) -> None:
    cost = slurm_cost.of_targets(slurm_server, 500, 0.05)

    assert cost.counted(slurm_cost.COUNTED) <= slurm_cost.ASKED_CALLS
    assert cost.calls["sbatch"] < 30
    assert cost.calls["sacct"] == 0
