"""A real Grid Engine keeps the contract: as itself, and as any other system with a DRMAA library would."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from typing import Any

import pytest

from batchsystems.abstract import AbstractBatchSystem, EndKind, Setup
from batchsystems.drmaa import Drmaa
from batchsystems.grid_engine import GridEngine
from tests.conformance.batch_system import BatchSystemContract
from tests.conformance.clauses_scheduler import SchedulerContract
from tests.conformance.scene import SERVER_SECONDS
from tests.servers.grid_engine import QUEUE, GridEngineServer

DIRECTORY = "JOBTREE_TEST_GRID_ENGINE_DIRECTORY"
OPTIONS = {"drmaaInterval": 0.1, "drmaaTime": 600}

pytestmark = [
    pytest.mark.slow, pytest.mark.servers, pytest.mark.xdist_group("grid_engine"), pytest.mark.timeout(600)
]  # fmt: skip


class GridEngineContract(BatchSystemContract, SchedulerContract):
    """What both share."""

    short_jobs = 40
    seconds = SERVER_SECONDS
    server: GridEngineServer

    @pytest.fixture(autouse=True)
    def real(self, grid_engine_server: GridEngineServer, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
        type(self).server = grid_engine_server
        with tempfile.TemporaryDirectory(prefix="grid-engine-") as name:
            monkeypatch.setenv(DIRECTORY, name)
            yield
            grid_engine_server.forget_jobs()

    def setup(self) -> Setup:
        return Setup("conformance", os.environ[DIRECTORY], self.options())

    def options(self) -> dict[str, Any]:
        return dict(OPTIONS)

    @contextlib.contextmanager
    def down(self) -> Iterator[None]:
        self.server.daemons.kill("qmaster")
        try:
            yield
        finally:
            self.server.start()

    @contextlib.contextmanager
    def refusing(self) -> Iterator[None]:
        """Its only queue gives less time than is asked for."""
        self.server.run("qconf", "-rattr", "queue", "h_rt", "0:1:0", QUEUE)
        try:
            yield
        finally:
            self.server.run("qconf", "-rattr", "queue", "h_rt", "INFINITY", QUEUE)

    def test_a_submission_that_was_lost_is_reported_as_lost(self) -> None:
        """The qmaster crashes, and what it had written down is older than the submission."""
        saved = self.server.path("saved")
        with self.scene() as scene:
            self.server.daemons.stop("execd")  # nothing is to be started
            self.server.daemons.kill("qmaster")
            shutil.copytree(self.server.path("spool"), saved)
            self.server.start_master()
            scene.issue(scene.job("lost", "await go"))
            scene.until(lambda: scene.batch.queue_room() > 0, "an acknowledgement")
            self.server.daemons.kill("qmaster")
            shutil.rmtree(self.server.path("spool"))
            shutil.move(saved, self.server.path("spool"))
            self.server.start()

            end = scene.end("lost")

            assert end.kind is EndKind.LOST
            assert scene.batch.list_issued(scene.run) == []


class TestGridEngine(GridEngineContract):
    def make(self) -> AbstractBatchSystem:
        return GridEngine(os.environ[DIRECTORY], self.options(), patience=3.0)


class TestDrmaa(GridEngineContract):
    """Nothing is known of the system but its library, and how it wants to be asked."""

    def make(self) -> AbstractBatchSystem:
        return Drmaa(os.environ[DIRECTORY], self.options(), patience=3.0)

    def options(self) -> dict[str, Any]:
        request = "-b y -shell n -w e | -l h_vmem={mebibytes}M | -l h_rt={seconds}"
        return {**OPTIONS, "drmaaSystem": "gridEngine", "drmaaRequest": request}
