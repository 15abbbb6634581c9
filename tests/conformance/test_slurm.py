"""SLURM keeps the contract: the real one, without and with accounting, and the one that is made of fake commands."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import AbstractContextManager
from typing import Any

import pytest

from batchsystems.abstract import AbstractBatchSystem, EndKind, Resources, Setup, Submission
from batchsystems.slurm import Slurm
from tests.conformance.batch_system import BatchSystemContract
from tests.conformance.clauses_cancel import ListContract
from tests.conformance.clauses_issue import EndsContract
from tests.conformance.clauses_scheduler import SchedulerContract
from tests.conformance.scene import SERVER_SECONDS, Contract
from tests.fakes.slurm_cluster import RunningSlurm
from tests.servers.daemons import wait_until
from tests.servers.slurm import SlurmServer

DIRECTORY = "JOBTREE_TEST_SLURM_DIRECTORY"
# One machine, so that what fits on the largest machine is all that there is.
OPTIONS = {"slurmInterval": 0.1, "slurmPartition": "one", "slurmTime": 600}


@pytest.fixture(autouse=True)
def directory(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with tempfile.TemporaryDirectory(prefix="slurm-") as name:
        monkeypatch.setenv(DIRECTORY, name)
        yield


class MakesSlurm(Contract):
    """How it is made."""

    short_jobs = 40

    def make(self) -> AbstractBatchSystem:
        return self.with_options()

    def with_options(self, **options: Any) -> Slurm:
        return Slurm(os.environ[DIRECTORY], {**OPTIONS, **options}, patience=1.0)

    def setup(self) -> Setup:
        return Setup("conformance", os.environ[DIRECTORY], OPTIONS)


class SlurmContract(MakesSlurm, BatchSystemContract, SchedulerContract):
    """The whole contract."""

    def test_a_small_job_is_not_held_up_by_a_large_one(self) -> None:
        """SLURM lets pass only who says that it will be gone in time."""
        with self.scene() as scene:
            capacity = scene.batch.capacity()
            assert capacity is not None
            scene.issue(scene.job("holds", "await go"))
            scene.until(lambda: scene.batch.running() != [], "a running job")
            scene.issue(scene.job("large", "exit 0", cpu=capacity.cpu))
            small = scene.job("small", "exit 0")
            scene.issue(with_time(small, 60.0))

            assert scene.end("small").status == 0
            assert f"{scene.run}.large" in scene.batch.list_issued(scene.run)
            scene.create("go")
            scene.ends("holds", "large")


def with_time(submission: Submission, seconds: float) -> Submission:
    return dataclasses.replace(submission, resources=Resources(1.0, 0, seconds))


class RealSlurm(MakesSlurm, SchedulerContract):
    """How a real one is made to misbehave."""

    server: SlurmServer
    seconds = SERVER_SECONDS

    @contextlib.contextmanager
    def down(self) -> Iterator[None]:
        self.server.daemons.stop("slurmctld")
        try:
            yield
        finally:
            self.server.start_controller()

    def refusing(self) -> AbstractContextManager[None]:
        return self.partition("MaxTime=1", "MaxTime=INFINITE")

    @contextlib.contextmanager
    def partition(self, setting: str, usual: str) -> Iterator[None]:
        self.server.run("scontrol", "update", "PartitionName=one", setting)
        try:
            yield
        finally:
            self.server.run("scontrol", "update", "PartitionName=one", usual)

    def test_a_submission_that_was_lost_is_reported_as_lost(self) -> None:
        """The controller crashes, and what it had written down is older than the submission."""
        saved = self.server.path("saved")
        with self.scene() as scene:
            self.server.daemons.stop("slurmctld")
            shutil.copytree(self.server.path("state"), saved)
            self.server.start_controller()
            scene.issue(scene.job("lost", "await go"))
            scene.until(lambda: scene.batch.queue_room() > 0, "an acknowledgement")
            self.server.daemons.kill("slurmctld")
            shutil.rmtree(self.server.path("state"))
            shutil.move(saved, self.server.path("state"))
            self.server.start_controller()

            end = scene.end("lost")

            assert end.kind is EndKind.LOST
            assert scene.batch.list_issued(scene.run) == []


@pytest.mark.slow
@pytest.mark.servers
@pytest.mark.xdist_group("slurm")
@pytest.mark.timeout(600)
class TestSlurm(RealSlurm, SlurmContract):
    @pytest.fixture(autouse=True)
    def real(self, slurm_server: SlurmServer) -> Iterator[None]:
        type(self).server = slurm_server
        yield
        empty(slurm_server)


@pytest.mark.slow
@pytest.mark.servers
@pytest.mark.xdist_group("slurm")
@pytest.mark.timeout(600)
class TestSlurmWithAccounting(RealSlurm, EndsContract, ListContract):
    """The clauses for which it matters that SLURM keeps accounts, and that control groups see to processes."""

    test_all_processes_of_a_running_job_are_killed = (
        BatchSystemContract.test_all_processes_of_a_running_job_are_killed
    )

    @pytest.fixture(autouse=True)
    def real(self, slurm_server_with_accounting: SlurmServer) -> Iterator[None]:
        type(self).server = slurm_server_with_accounting
        yield
        empty(slurm_server_with_accounting)


class TestFakeSlurm(SlurmContract):
    slurm: RunningSlurm

    @pytest.fixture(autouse=True)
    def fake(self, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
        with RunningSlurm(monkeypatch) as slurm:
            type(self).slurm = slurm
            yield

    def test_a_small_job_is_not_held_up_by_a_large_one(self) -> None:
        BatchSystemContract.test_a_small_job_is_not_held_up_by_a_large_one(self)

    @pytest.mark.slow
    def test_a_large_job_is_not_starved_by_small_ones(self) -> None:
        super().test_a_large_job_is_not_starved_by_small_ones()

    @pytest.mark.slow
    def test_a_thousand_short_jobs_are_all_reported_once(self) -> None:
        super().test_a_thousand_short_jobs_are_all_reported_once()

    def down(self) -> AbstractContextManager[None]:
        return self.trick("down")

    def forgetful(self) -> AbstractContextManager[None]:
        return self.trick("lose")

    def refusing(self) -> AbstractContextManager[None]:
        return self.trick("never", "PartitionConfig")

    @contextlib.contextmanager
    def trick(self, name: str, value: str = "") -> Iterator[None]:
        self.slurm.trick(name, value)
        yield
        self.slurm.behave(name)


def empty(server: SlurmServer) -> None:
    server.run("scancel", "--signal=KILL", "--user=root")
    wait_until(lambda: not server.run("squeue", "--noheader"), "an empty queue")
