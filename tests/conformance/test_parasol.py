"""Parasol keeps the contract, on a fake hub that speaks its formats and really runs the jobs."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from batchsystems.abstract import AbstractBatchSystem, Setup
from batchsystems.parasol import Parasol
from tests.conformance.batch_system import BatchSystemContract
from tests.conformance.clauses_scheduler import SchedulerContract
from tests.fakes.parasol import CLIENT, VARIABLE, FakeParasol

_hub: list[FakeParasol] = []


@pytest.fixture(autouse=True)
def parasol() -> Iterator[None]:
    with tempfile.TemporaryDirectory(prefix="parasol-") as name, FakeParasol(Path(name)) as made:
        _hub.append(made)
        yield
        _hub.remove(made)


class TestParasol(BatchSystemContract, SchedulerContract):
    short_jobs = 30

    def make(self) -> AbstractBatchSystem:
        # The directory is that of the hub, so that a master in a process of its own finds the same.
        return Parasol(CLIENT, os.path.join(os.environ[VARIABLE], "jobs"), interval=0.05, patience=1.0)

    def setup(self) -> Setup:
        return Setup("conformance", os.environ[VARIABLE], {"parasolCommand": CLIENT})

    def down(self) -> AbstractContextManager[None]:
        return _hub[0].trick("down")

    def forgetful(self) -> AbstractContextManager[None]:
        return _hub[0].trick("lose")

    def refusing(self) -> AbstractContextManager[None]:
        return _hub[0].trick("sick")


pytestmark = pytest.mark.slow
