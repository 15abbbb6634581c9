"""The single machine keeps the contract, with pidfds and without."""

from __future__ import annotations

import pytest

from batchsystems.abstract import AbstractBatchSystem
from batchsystems.processes import PopenStarter
from batchsystems.single_machine import SingleMachine
from tests.conformance.batch_system import BatchSystemContract


class TestSingleMachine(BatchSystemContract):
    def make(self) -> AbstractBatchSystem:
        return SingleMachine(cpu=3, memory=1 << 30)

    @pytest.mark.slow
    def test_a_thousand_short_jobs_are_all_reported_once(self) -> None:
        super().test_a_thousand_short_jobs_are_all_reported_once()


class TestSingleMachineWithoutPidfds(BatchSystemContract):
    short_jobs = 200

    def make(self) -> AbstractBatchSystem:
        return SingleMachine(cpu=3, memory=1 << 30, starter=PopenStarter(use_pidfd=False))
