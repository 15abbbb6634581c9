"""A SLURM of fake commands that is away, slow, forgetful, or wrong: what becomes of jobs, and how often it is asked."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from batchsystems.abstract import BatchSystemError, EndKind, NeverFits, Reason, Setup
from batchsystems.slurm import Slurm
from batchsystems.slurm_options import OPTIONS
from tests.conformance.scene import Scene, raised
from tests.fakes.slurm_cluster import RunningSlurm


@pytest.fixture
def slurm(monkeypatch: pytest.MonkeyPatch) -> Iterator[RunningSlurm]:
    with RunningSlurm(monkeypatch) as made:
        yield made


@pytest.fixture
def scene(slurm: RunningSlurm, tmp_path: Path) -> Iterator[Scene]:
    with new_scene(tmp_path) as made:
        yield made


def new_scene(directory: Path, **options: object) -> Scene:
    return Scene(Slurm(str(directory), {"slurmInterval": 0.1, **options}, patience=0.5), None)


def numbered(scene: Scene, count: int, script: str = "exit 0") -> list[str]:
    names = [str(number) for number in range(1, count + 1)]
    scene.issue(*(scene.job(name, script, cpu=0.1) for name in names))
    return names


def test_what_is_issued_together_is_one_array(slurm: RunningSlurm, scene: Scene) -> None:
    scene.ends(*numbered(scene, 30))

    assert len(slurm.calls("sbatch")) == 1
    assert len(slurm.submitted()) == 30


def test_arrays_keep_to_the_limit_on_their_indices(slurm: RunningSlurm, scene: Scene) -> None:
    """MaxArraySize is 101 there: no index of 101 or more, whatever the numbers of the jobs."""
    scene.issue(*(scene.job(str(number), "exit 0") for number in (5, 100, 105, 106, 300)))

    scene.ends("5", "100", "105", "106", "300")

    assert [word for call in slurm.calls("sbatch") for word in call if word.startswith("--array")] == [
        "--array=0,95,100", "--array=0", "--array=0"
    ]  # fmt: skip


def test_different_requests_are_different_arrays(slurm: RunningSlurm, scene: Scene) -> None:
    scene.issue(*(scene.job(str(number), "exit 0", cpu=1 + number % 2) for number in range(6)))

    scene.ends(*map(str, range(6)))

    assert len(slurm.calls("sbatch")) == 2


def test_a_submission_without_an_answer_is_found_in_the_queue_and_not_made_again(
    slurm: RunningSlurm, scene: Scene
) -> None:
    slurm.trick("mute")
    names = numbered(scene, 3, "await go")
    scene.until(lambda: len(scene.batch.running()) == 3, "that they are seen")
    slurm.behave("mute")
    scene.create("go")

    assert {end.status for end in scene.ends(*names)} == {0}
    assert len(slurm.submitted()) == 3


def test_a_submission_without_an_answer_that_is_not_there_is_made_again(
    slurm: RunningSlurm, scene: Scene
) -> None:
    slurm.trick("mute")
    slurm.trick("lose")
    names = numbered(scene, 3)
    scene.until(lambda: len(slurm.calls("sbatch")) >= 1, "a submission")
    slurm.behave("lose")
    slurm.behave("mute")

    assert {end.status for end in scene.ends(*names)} == {0}


def test_limits_of_the_account_mean_fewer_at_a_time(slurm: RunningSlurm, scene: Scene) -> None:
    slurm.trick("limit", "4")

    names = numbered(scene, 12)

    assert {end.status for end in scene.ends(*names)} == {0}
    assert sorted(slurm.submitted()) == sorted(f"{scene.run}.{name}" for name in names)


def test_what_slurm_will_never_take_is_not_tried_again(slurm: RunningSlurm, scene: Scene) -> None:
    slurm.trick(
        "refuse", "Batch job submission failed: Invalid account or account/partition combination specified"
    )
    scene.issue(scene.job("1", "exit 0"), scene.job("2", "exit 0"))

    ends = scene.ends("1", "2")

    assert {(end.kind, end.reason) for end in ends} == {(EndKind.KILLED, Reason.NEVER_FITS)}
    assert "Invalid account" in ends[0].detail
    assert len(slurm.calls("sbatch")) == 1


@pytest.mark.parametrize("answer", ["", "slurm_load_jobs: what?\n||||\n1|2|3", "\0\0|||||||||x y|"])
def test_an_answer_that_makes_no_sense_ends_no_job_at_once(
    slurm: RunningSlurm, tmp_path: Path, answer: str
) -> None:
    with Scene(Slurm(str(tmp_path), {"slurmInterval": 0.1}, patience=1000.0), None) as scene:
        names = numbered(scene, 2, "await go")
        scene.until(lambda: len(scene.batch.running()) == 2, "that they run")
        slurm.trick("garbage", answer)
        before = len(slurm.calls("squeue"))
        scene.until(lambda: len(slurm.calls("squeue")) > before + 2, "some answers")
        assert scene.reported == []
        slurm.behave("garbage")
        scene.create("go")

        assert {end.status for end in scene.ends(*names)} == {0}


def test_completing_is_no_end(slurm: RunningSlurm, scene: Scene) -> None:
    slurm.trick("completing")
    scene.issue(scene.job("1", ": > hit; exit 3"))
    scene.until_file("hit")
    before = len(slurm.calls("squeue"))
    scene.until(lambda: len(slurm.calls("squeue")) > before + 3, "some answers")
    assert scene.reported == []
    slurm.behave("completing")

    assert scene.end("1").status == 3


@pytest.mark.parametrize(
    ("verdict", "kind", "reason"),
    [
        ("OUT_OF_MEMORY 253", EndKind.KILLED, Reason.MEMORY),
        ("TIMEOUT 15", EndKind.KILLED, Reason.TIME),
        ("NODE_FAIL 0", EndKind.KILLED, Reason.NODE),
        ("PREEMPTED 0", EndKind.KILLED, Reason.PREEMPTED),
        ("BOOT_FAIL 0", EndKind.LOST, None),
        ("CANCELLED 15", EndKind.KILLED, Reason.SIGNAL),
    ],
)
def test_ends_as_the_queue_tells_them(
    slurm: RunningSlurm, scene: Scene, verdict: str, kind: EndKind, reason: object
) -> None:
    slurm.trick("verdict", verdict)
    scene.issue(scene.job("1", "exit 0"))

    end = scene.end("1")

    assert (end.kind, end.reason, end.host) == (kind, reason, "node1")


def test_a_state_that_nobody_knows_is_no_end(slurm: RunningSlurm, scene: Scene) -> None:
    slurm.trick("verdict", "BRAND_NEW 0")
    scene.issue(scene.job("1", ": > hit"))
    scene.until_file("hit")
    before = len(slurm.calls("squeue"))

    scene.until(lambda: len(slurm.calls("squeue")) > before + 3, "some answers")

    assert scene.reported == []
    assert scene.batch.list_issued(scene.run) == [f"{scene.run}.1"]


def test_queued_once_more_by_slurm_is_no_end(slurm: RunningSlurm, scene: Scene) -> None:
    slurm.trick("requeue")
    scene.issue(scene.job("1", "echo x >> runs; exit 5"))

    end = scene.end("1")

    assert end.status == 5
    assert scene.read("runs") == "x\nx\n"


@pytest.mark.parametrize("accounting", [True, False])
def test_what_is_forgotten_is_asked_for_in_the_accounts_where_there_are_any(
    slurm: RunningSlurm, tmp_path: Path, accounting: bool
) -> None:
    if accounting:
        slurm.trick("accounting")
    slurm.trick("forget")
    with new_scene(tmp_path) as scene:
        scene.issue(scene.job("1", "exit 6"))

        end = scene.end("1")

    lists = slurm.calls("sacct"), [call for call in slurm.calls("scontrol") if "job" in call]
    assert [len(calls) for calls in lists] == ([1, 0] if accounting else [0, 1])
    assert (end.kind, end.status) == ((EndKind.FINISHED, 6) if accounting else (EndKind.LOST, None))


def test_a_number_that_is_given_out_again_is_another_job(slurm: RunningSlurm, scene: Scene) -> None:
    """The accounts then have two ends under one number, and only the time of the submission tells which is whose."""
    slurm.trick("number", "7")
    scene.issue(scene.job("1", "exit 1"))
    assert scene.end("1").status == 1
    scene.issue(scene.job("2", "exit 2"))
    assert scene.end("2").status == 2
    scene.issue(scene.job("3", "exit 3"), scene.job("x", "exit 4"))

    assert [end.status for end in scene.ends("3", "x")] == [3, 4]


def test_jobs_in_slurms_queue_are_found_by_name_of_the_run_alone(slurm: RunningSlurm, tmp_path: Path) -> None:
    with new_scene(tmp_path) as scene:
        numbered(scene, 5, "await go")
        scene.until(lambda: scene.batch.running() != [], "that one runs")
        scene.batch.close()
        scene.batch = Slurm(str(tmp_path / "elsewhere"), {"slurmInterval": 0.1}, patience=0.5)

        assert len(scene.batch.list_issued(scene.run)) == 5
        assert scene.batch.list_issued(scene.run + "0") == []
        scene.cancel("1", "2", "3", "4", "5")

        assert {end.reason for end in scene.ends("1", "2", "3", "4", "5")} == {Reason.CANCELLED}
    assert len(slurm.submitted()) == 5


def test_ends_that_came_while_there_was_no_master_are_told_to_the_next(
    slurm: RunningSlurm, tmp_path: Path
) -> None:
    with new_scene(tmp_path) as scene:
        scene.issue(scene.job("1", ": > started; await go; exit 9"))
        scene.until_file("started")
        scene.batch.close()
        slurm.trick("verdict", "OUT_OF_MEMORY 253")
        scene.create("go")
        scene.batch = Slurm(str(tmp_path), {"slurmInterval": 0.1}, patience=0.5)
        scene.until(lambda: scene.batch.list_issued(scene.run) == [], "that it is not in the queue any more")

        assert scene.end("1").reason is Reason.MEMORY


def test_slow_commands_are_waited_for_by_nobody(slurm: RunningSlurm, scene: Scene) -> None:
    slurm.trick("slow", "3")
    begun = len(slurm.calls())

    for number in range(50):
        scene.issue(scene.job(str(number), "exit 0"))
        scene.poll(0.0)

    # Fifty issues and polls have not even outlasted the first command.
    assert len(slurm.calls()) - begun <= 2
    slurm.behave("slow")
    scene.ends(*map(str, range(50)))


def test_it_is_asked_no_more_often_than_allowed_and_less_where_nothing_changes(
    slurm: RunningSlurm, tmp_path: Path
) -> None:
    with new_scene(tmp_path, slurmInterval=0.3) as scene:
        scene.issue(scene.job("1", ": > started; await go"))
        scene.until_file("started")
        dialogue = scene.batch._dialogue  # type: ignore[attr-defined]
        before = len(slurm.calls("squeue"))
        asked: list[float] = []
        while len(slurm.calls("squeue")) < before + 4:
            scene.poll(0.1)
            if not asked or asked[-1] != dialogue._last_question:
                asked.append(dialogue._last_question)
        pauses = [second - first for first, second in zip(asked, asked[1:])]

        assert all(pause >= 0.3 for pause in pauses)
        assert dialogue._every > 0.4
        scene.create("go")
        scene.end("1")


def test_what_the_user_knows_to_be_over_makes_room_at_once(slurm: RunningSlurm, tmp_path: Path) -> None:
    with new_scene(tmp_path, slurmInterval=1000.0, slurmMaxJobs=2) as scene:
        scene.issue(scene.job("1", ": > hit.1"), scene.job("2", ": > hit.2"))
        scene.until_file("hit.1", "hit.2")
        assert scene.batch.queue_room() == 0

        scene.batch.forget([f"{scene.run}.1", f"{scene.run}.2"])

        assert scene.batch.queue_room() == 2


def test_bad_options_and_missing_commands_are_refused_when_it_is_made(
    slurm: RunningSlurm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    setup = Setup("run", str(tmp_path), {option.name: option.default for option in OPTIONS})
    slurm.trick("refuse", "invalid partition specified: nope")
    refused = raised(BatchSystemError, lambda: Slurm.create(setup))
    slurm.behave("refuse")
    Slurm.create(setup).close()
    monkeypatch.setenv("PATH", "/nonexistent")
    missing = raised(BatchSystemError, lambda: Slurm.create(setup))

    assert "invalid partition specified: nope" in str(refused)
    assert "--slurmPartition" in str(refused)
    assert "sbatch is not on PATH" in str(missing)


def test_it_is_made_while_slurm_is_away_and_learns_the_rest_later(
    slurm: RunningSlurm, tmp_path: Path
) -> None:
    slurm.trick("down")
    setup = Setup("run", str(tmp_path), {**{o.name: o.default for o in OPTIONS}, "slurmInterval": 0.1})
    batch = Slurm.create(setup)
    with Scene(batch, None) as scene:
        assert batch.capacity() is None
        scene.issue(scene.job("1", "exit 0"))
        slurm.behave("down")

        assert scene.end("1").status == 0
        assert batch.capacity() is not None
        raised(NeverFits, lambda: scene.batch.issue([scene.job("2", "exit 0", cpu=5)]))
