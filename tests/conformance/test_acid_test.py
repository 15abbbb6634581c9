"""acidTest keeps the contract of batch systems while its dice are off, and kills whom they choose when they are not."""

from __future__ import annotations

from typing import Callable, Optional

from batchsystems.abstract import AbstractBatchSystem, EndKind, Reason
from batchsystems.acid_test import AcidTest
from tests.conformance.batch_system import BatchSystemContract
from tests.conformance.scene import Scene

JOBS = [str(number) for number in range(1, 25)]


class TestAcidTestWithoutItsDice(BatchSystemContract):
    short_jobs = 100

    def make(self) -> AbstractBatchSystem:
        return AcidTest(cpu=3, memory=1 << 30, chance=0)


def victims(
    seed: Optional[int], parent: str, spare: Callable[[str], bool] = lambda name: False
) -> tuple[set[str], AcidTest]:
    """Which of many jobs that would wait for ever are killed. spare: asked with the job's short name."""
    batch = AcidTest(cpu=64, memory=1 << 30, seed=seed, spare=lambda name: spare(name.rpartition(".")[2]))
    with Scene(batch, parent) as scene:
        scene.issue(*(scene.job(name, "await never", cpu=0.1) for name in JOBS))
        scene.until(lambda: not batch._doomed, "the moment of every victim")
        scene.until(lambda: not batch._victims, "the ends of the victims")
        for end in scene.reported:
            assert (end.kind, end.reason, end.signal) == (EndKind.KILLED, Reason.SIGNAL, 9)
        return {end.name.rpartition(".")[2] for end in scene.reported}, batch


def test_some_are_killed_from_outside_and_some_are_not(tmp_path: object) -> None:
    killed, batch = victims(7, str(tmp_path))

    assert 0 < len(killed) < len(JOBS)
    assert (batch.killed, batch.started) == (len(killed), len(JOBS))


def test_the_same_seed_chooses_the_same_victims(tmp_path: object) -> None:
    first, batch = victims(None, str(tmp_path))

    assert victims(batch.seed, str(tmp_path))[0] == first
    assert victims(batch.seed + 1, str(tmp_path))[0] != first


def test_who_must_be_spared_is_not_killed(tmp_path: object) -> None:
    chosen, _ = victims(7, str(tmp_path))
    spared = set(sorted(chosen)[::2])

    assert victims(7, str(tmp_path), spare=lambda name: name in spared)[0] == chosen - spared


def test_a_victim_that_was_too_fast_is_made_up_for(tmp_path: object) -> None:
    batch = AcidTest(cpu=1, memory=1 << 30, seed=7)
    batch._typical = 1000.0  # as if all others had taken so long
    with Scene(batch, str(tmp_path)) as scene:
        scene.issue(*(scene.job(name, "exit 0") for name in JOBS[:8]))
        scene.ends(*JOBS[:8])
        owed = batch._owed
        assert owed > 0
        assert batch.killed == 0
        scene.issue(scene.job("99", "await never"), scene.job("98", "await never"))
        assert "98" not in batch._doomed
        assert batch._owed == owed - 1 or f"{scene.run}.99" in batch._doomed
