"""The detached batch system, on which the tests of the master's restarts stand, keeps the contract."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from batchsystems.abstract import AbstractBatchSystem
from tests.conformance.batch_system import BatchSystemContract
from tests.conformance.clauses_scheduler import SchedulerContract
from tests.fakes.detached import VARIABLE, Detached, RunningFarm


@pytest.fixture(autouse=True)
def farm() -> Iterator[None]:
    with tempfile.TemporaryDirectory(prefix="farm-") as name, RunningFarm(Path(name), 3, 1 << 30):
        os.environ[VARIABLE] = name
        yield
        del os.environ[VARIABLE]


class TestDetached(BatchSystemContract, SchedulerContract):
    short_jobs = 50

    def make(self) -> AbstractBatchSystem:
        return Detached(Path(os.environ[VARIABLE]))

    @contextlib.contextmanager
    def trick(self, name: str) -> Iterator[None]:
        path = Path(os.environ[VARIABLE], "tricks", name)
        path.touch()
        yield
        path.unlink()

    def down(self) -> AbstractContextManager[None]:
        return self.trick("down")

    def forgetful(self) -> AbstractContextManager[None]:
        return self.trick("lose")

    def refusing(self) -> AbstractContextManager[None]:
        return self.trick("never")
