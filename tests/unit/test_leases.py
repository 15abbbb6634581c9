"""When a bundle on a cluster is over, and what comes of it: with supervisors that do what the test says."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any, Optional

import pytest

from batchsystems.abstract import BatchSystemError, EndKind, NeverFits, Reason
from jobtree import frames
from jobtree.events import State
from tests.fakes.cluster_scene import LEASE, ClusterScene, MakeClusterScene, Supervised
from tests.fakes.master_scene import RUN, Died
from tests.fakes.scripted_worker import ScriptedWorker, Value, target


def issued(scene: ClusterScene) -> list[str]:
    return [submission.name for submission in scene.batch.issued]


def test_a_bundle_that_signs_off_is_over_whatever_the_batch_system_says(
    make_cluster_scene: MakeClusterScene,
) -> None:
    scene = make_cluster_scene()

    def script() -> Iterator[None]:
        worker = scene.supervised(1)
        worker.start()
        worker.succeed([target("Child")])
        worker.sign_off()
        yield from scene.wait(1)
        assert issued(scene) == [f"{RUN}.1", f"{RUN}.2"]
        yield from scene.play_rest()

    master = scene.play(script())

    assert master.tree.complete
    assert scene.left_behind() == []


def test_the_batch_systems_word_starts_a_wait_of_two_leases_and_no_more(
    make_cluster_scene: MakeClusterScene,
) -> None:
    scene = make_cluster_scene()

    def script() -> Iterator[None]:
        worker = scene.supervised(1)
        worker.start()
        yield
        scene.batch.lose(scene.name(1), "node gone")
        yield from scene.wait(2 * LEASE - 1)
        assert issued(scene) == [f"{RUN}.1"]
        yield from scene.wait(2)
        assert issued(scene) == [f"{RUN}.1", f"{RUN}.2"]
        yield from scene.play_rest()

    assert scene.play(script()).tree.complete


def test_every_sign_of_life_starts_the_wait_again(make_cluster_scene: MakeClusterScene) -> None:
    scene = make_cluster_scene()

    def script() -> Iterator[None]:
        worker = scene.supervised(1)
        worker.start()
        scene.batch.lose(scene.name(1), "wrongly")
        yield from scene.wait(10 * LEASE, beating=worker)
        assert issued(scene) == [f"{RUN}.1"]
        worker.succeed()
        worker.sign_off()
        yield from scene.wait(1)

    assert scene.play(script()).tree.complete


def test_silence_alone_is_enough_and_the_batch_system_is_told_to_let_go(
    make_cluster_scene: MakeClusterScene,
) -> None:
    scene = make_cluster_scene()
    late: list[Supervised] = []

    def script() -> Iterator[None]:
        late.append(scene.supervised(1))
        late[0].start()
        yield from scene.wait(2 * LEASE + 1)
        assert issued(scene) == [f"{RUN}.1", f"{RUN}.2"]
        assert [name for name, _ in scene.batch.cancelled] == [scene.name(1)]
        yield from scene.play_rest()

    assert scene.play(script()).tree.complete
    assert not os.path.exists(scene.paths.bundle(1)), "the one that wakes up late could go on"


def test_time_in_which_the_master_slept_is_no_silence(make_cluster_scene: MakeClusterScene) -> None:
    """A machine was suspended for far longer than the lease, and the worker, on the same one, with it."""
    scene = make_cluster_scene()

    def script() -> Iterator[None]:
        worker = scene.supervised(1)
        worker.start()
        yield from scene.wait(LEASE)
        scene.clock.advance(1000 * LEASE)
        yield from scene.wait(LEASE / 2)
        assert issued(scene) == [f"{RUN}.1"], "what woke up beside us could still be running"
        yield from scene.wait(2 * LEASE)
        assert issued(scene) == [f"{RUN}.1", f"{RUN}.2"]
        yield from scene.play_rest()

    assert scene.play(script()).tree.complete


def test_an_end_for_which_only_the_heartbeat_had_room(make_cluster_scene: MakeClusterScene) -> None:
    scene = make_cluster_scene()

    def script() -> Iterator[None]:
        worker = scene.supervised(1)
        worker.start()
        worker.succeed()
        worker.flush()
        worker.sign_off_in_heartbeat()
        yield from scene.wait(LEASE / 4 + 1)

    assert scene.play(script()).tree.complete
    assert scene.left_behind() == []


def test_one_that_was_never_begun_is_issued_again_at_once_and_comes_too_late(
    make_cluster_scene: MakeClusterScene,
) -> None:
    scene = make_cluster_scene()

    def script() -> Iterator[None]:
        yield
        scene.batch.lose(scene.name(1), "the controller has forgotten it")
        yield from scene.wait(1)
        assert issued(scene) == [f"{RUN}.1", f"{RUN}.2"]
        assert not Supervised(scene.paths, 1).open()
        yield from scene.play_rest()

    assert scene.play(script()).tree.complete


def test_an_end_without_a_fault_that_nobody_claimed_is_doubted_for_a_lease(
    make_cluster_scene: MakeClusterScene,
) -> None:
    scene = make_cluster_scene()

    def script() -> Iterator[None]:
        yield
        scene.batch.finish(scene.name(1))
        yield from scene.wait(LEASE - 1)
        worker = scene.supervised(1)
        yield from scene.wait(2)
        assert issued(scene) == [f"{RUN}.1"]
        worker.start()
        worker.succeed()
        worker.sign_off()
        yield from scene.wait(1)

    assert scene.play(script()).tree.complete


def test_one_that_was_claimed_and_never_gave_a_sign_has_two_leases_from_the_batch_systems_word(
    make_cluster_scene: MakeClusterScene,
) -> None:
    scene = make_cluster_scene()

    def script() -> Iterator[None]:
        yield from scene.wait(10 * LEASE)  # in the queue
        assert ScriptedWorker(scene.paths, 1).open()
        scene.batch.lose(scene.name(1), "died in the first instant")
        yield from scene.wait(2 * LEASE - 1)
        assert issued(scene) == [f"{RUN}.1"]
        yield from scene.wait(2)
        assert issued(scene) == [f"{RUN}.1", f"{RUN}.2"]
        yield from scene.play_rest()

    assert scene.play(script()).tree.complete


# -- who is to blame -------------------------------------------------------------------------------------------


def killed(
    make_cluster_scene: MakeClusterScene, verdict: Optional[Reason], **settings: Any
) -> tuple[ClusterScene, Any]:
    """A target whose worker is killed by SIGKILL; the batch system gives this reason later, or none."""
    scene = make_cluster_scene(**settings)

    def script() -> Iterator[None]:
        worker = scene.supervised(1)
        worker.start()
        worker.sign_off(kind=EndKind.KILLED, status=None, signal=9, reason=Reason.SIGNAL)
        yield from scene.wait(5)
        assert issued(scene) == [f"{RUN}.1"], "nobody has waited for the reason"
        if verdict is not None:
            scene.batch.kill(scene.name(1), verdict, detail="says the scheduler")
        yield from scene.wait(30)
        yield from scene.play_rest()

    return scene, scene.play(script())


def test_the_batch_system_says_why_a_worker_was_killed(make_cluster_scene: MakeClusterScene) -> None:
    scene, master = killed(make_cluster_scene, Reason.MEMORY)

    assert master.tree.totals[State.FAILED] == 1
    ((kind, message),) = scene.rows("SELECT kind, message FROM failures")
    assert kind == "memory"
    assert "says the scheduler" in message


def test_the_batch_system_says_why_nothing_was_heard_any_more(make_cluster_scene: MakeClusterScene) -> None:
    """Everything there was killed at once, so that nobody has signed off."""
    scene = make_cluster_scene()

    def script() -> Iterator[None]:
        scene.supervised(1).start()
        scene.batch.kill(scene.name(1), Reason.TIME, detail="says the scheduler")
        yield from scene.wait(2 * LEASE + 1)
        yield from scene.play_rest()

    assert scene.play(script()).tree.totals[State.FAILED] == 1

    ((kind, message),) = scene.rows("SELECT kind, message FROM failures")
    assert kind == "time"
    assert "says the scheduler" in message


@pytest.mark.parametrize("verdict", [None, Reason.PREEMPTED, Reason.NODE])
def test_without_a_fault_it_is_a_loss(
    make_cluster_scene: MakeClusterScene, verdict: Optional[Reason]
) -> None:
    scene, master = killed(make_cluster_scene, verdict)

    assert master.tree.complete
    assert issued(scene) == [f"{RUN}.1", f"{RUN}.2"]


def test_with_double_mem_it_gets_more_and_loses_no_try(make_cluster_scene: MakeClusterScene) -> None:
    scene, master = killed(make_cluster_scene, Reason.MEMORY, double_mem=True, default_memory=1 << 30)

    assert master.tree.complete
    assert [submission.resources.memory for submission in scene.batch.issued] == [1 << 30, 2 << 30]


def test_with_double_time_the_limit_grows(make_cluster_scene: MakeClusterScene) -> None:
    scene, master = killed(make_cluster_scene, Reason.TIME, double_time=True, default_time=100)

    assert master.tree.complete
    assert [submission.resources.time for submission in scene.batch.issued] == [185, 310]


# -- recall ----------------------------------------------------------------------------------------------------


def test_what_was_recalled_goes_back_when_the_supervisor_says_so(
    make_cluster_scene: MakeClusterScene,
) -> None:
    """The last of a bundle of three hangs; what it has not begun is run by somebody else."""
    scene = make_cluster_scene(job_time=1000)

    def script() -> Iterator[None]:
        scene.batch.slot_count = 1
        yield from scene.grow([target("Child")] * 5)
        yield from scene.wait(1)
        assert scene.batch.sizes[2] == 3
        slow = scene.supervised(2)
        slow.start()
        slow.succeed()
        slow.start()  # it hangs; the third has not begun
        rest = scene.play_rest()
        while not slow.recalled():
            slow.beat()
            scene.run_others(2)
            yield
        assert scene.batch.list_issued(RUN) == [scene.name(2)]
        yield from scene.wait(3, beating=slow)
        assert scene.batch.list_issued(RUN) == [scene.name(2)], "nobody has acknowledged it yet"
        slow.acknowledge_recall()
        yield from scene.wait(1, beating=slow)
        ((ready_or_issued,),) = scene.rows("SELECT count(*) FROM jobs WHERE state < 2 AND parent > 0")
        assert ready_or_issued == 2
        scene.run_others(2)
        slow.succeed()
        scene.finish(slow)
        yield from rest

    assert scene.play(script()).tree.complete


# -- starting again --------------------------------------------------------------------------------------------


def test_the_next_master_knows_what_is_running_and_who_is_to_blame(
    make_cluster_scene: MakeClusterScene,
) -> None:
    scene = make_cluster_scene()
    workers: list[Supervised] = []

    def first() -> Iterator[None]:
        workers.append(scene.supervised(1))
        workers[0].start()
        yield from scene.wait(2, beating=workers[0])
        raise Died

    scene.play_until_death(first())
    names = scene.batch.list_issued(RUN)

    def second() -> Iterator[None]:
        yield from scene.wait(3 * LEASE, beating=workers[0])
        assert issued(scene) == []
        workers[0].sign_off(kind=EndKind.KILLED, status=None, signal=11, reason=Reason.SIGNAL)
        yield from scene.wait(1)

    master = resume(scene, second(), names)

    assert master.tree.totals[State.FAILED] == 1
    ((message, host),) = scene.rows("SELECT message, host FROM failures")
    assert "SIGSEGV" in message
    assert host == "node1"


def resume(scene: ClusterScene, script: Iterator[None], listed: list[str]) -> Any:
    """The next master, whose batch system has these jobs."""
    start = scene.start

    def start_with_jobs(**batch: Any) -> Any:
        import tests.fakes.master_scene as module

        class Heir(module.WatchedBatchSystem):
            def list_issued(self, run: str) -> list[str]:
                return list(listed) if not self.issued else super().list_issued(run)

        usual, module.WatchedBatchSystem = module.WatchedBatchSystem, Heir  # type: ignore[misc]
        try:
            return start(**batch)
        finally:
            module.WatchedBatchSystem = usual  # type: ignore[misc]

    scene.start = start_with_jobs  # type: ignore[method-assign]
    try:
        return scene.play(script)
    finally:
        scene.start = start  # type: ignore[method-assign]


def test_what_was_committed_and_not_submitted_goes_back_at_once(make_cluster_scene: MakeClusterScene) -> None:
    scene = make_cluster_scene()

    def first() -> Iterator[None]:
        yield
        raise Died

    scene.play_until_death(first())

    def second() -> Iterator[None]:
        yield from scene.wait(1)
        assert issued(scene) == [f"{RUN}.2"]
        assert not Supervised(scene.paths, 1).open()
        yield from scene.play_rest()

    assert resume(scene, second(), []).tree.complete


def test_what_is_queued_and_nobody_knows_is_cancelled(make_cluster_scene: MakeClusterScene) -> None:
    scene = make_cluster_scene()

    def first() -> Iterator[None]:
        yield
        raise Died

    scene.play_until_death(first())

    def second() -> Iterator[None]:
        yield
        assert [name for name, _ in scene.batch.cancelled] == [f"{RUN}.77"]
        worker = scene.supervised(1)
        worker.start()
        worker.succeed()
        worker.sign_off()
        yield from scene.wait(1)

    assert resume(scene, second(), [f"{RUN}.1", f"{RUN}.77"]).tree.complete


def test_values_and_directories_of_what_runs_on_are_kept(make_cluster_scene: MakeClusterScene) -> None:
    scene = make_cluster_scene()
    workers: list[Supervised] = []
    kept: list[str] = []

    def first() -> Iterator[None]:
        yield
        workers.append(scene.supervised(1))
        worker = workers[0]
        worker.start()
        yield from scene.wait(1, beating=worker)
        kept.append(os.path.join(worker.global_dir(), "file"))
        worker.keep(Value(b"token", b"data", in_file=True))
        kept.append(scene.paths.absolute(scene.paths.value(1, 1)))
        raise Died

    scene.play_until_death(first())

    def second() -> Iterator[None]:
        yield from scene.wait(1, beating=workers[0])
        assert [os.path.exists(path) for path in kept] == [True, True]
        workers[0].succeed()
        workers[0].sign_off()
        yield from scene.wait(1)

    assert resume(scene, second(), [f"{RUN}.1"]).tree.complete
    assert scene.left_behind() == []


def test_the_directory_of_a_job_of_which_no_master_has_read_is_kept(
    make_cluster_scene: MakeClusterScene,
) -> None:
    """A worker has gone straight on to a child, and its master died before it knew."""
    scene = make_cluster_scene(job_time=1000)
    workers: list[Supervised] = []
    kept: list[str] = []

    def first() -> Iterator[None]:
        yield
        worker = scene.supervised(1)
        workers.append(worker)
        worker.start()
        child = worker.succeed([target("Child")], go_on=True)
        assert worker.start(child)
        kept.append(os.path.join(worker.global_dir(), "file"))
        raise Died

    scene.play_until_death(first())

    def second() -> Iterator[None]:
        yield from scene.wait(1, beating=workers[0])
        assert os.path.exists(kept[0])
        workers[0].succeed()
        workers[0].sign_off()
        yield from scene.wait(1)

    assert resume(scene, second(), [f"{RUN}.1"]).tree.complete
    assert scene.left_behind() == []


# -- submitting ------------------------------------------------------------------------------------------------


def test_one_bundle_alone_shows_that_things_can_be_run_there(make_cluster_scene: MakeClusterScene) -> None:
    scene = make_cluster_scene()

    def first() -> Iterator[None]:
        yield from scene.grow([target("Child")] * 5)
        yield from scene.wait(1)
        raise Died

    scene.play_until_death(first(), cpu=8)

    def second() -> Iterator[None]:
        yield from scene.wait(1)
        assert len(issued(scene)) == 1
        worker = scene.supervised(int(issued(scene)[0].rpartition(".")[2]))
        worker.start()
        yield from scene.wait(3, beating=worker)
        assert len(issued(scene)) == 5
        worker.succeed()
        scene.finish(worker)
        yield from scene.play_rest()

    assert resume(scene, second(), []).tree.complete


def test_a_refused_submission_is_made_again_later(make_cluster_scene: MakeClusterScene) -> None:
    scene = make_cluster_scene()

    def script() -> Iterator[None]:
        worker = scene.supervised(1)
        worker.start()
        worker.succeed([target("Child")] * 3)
        scene.finish(worker)
        scene.batch.refusal = BatchSystemError("QOSMaxSubmitJobPerUserLimit")
        yield from scene.wait(10)
        assert len(issued(scene)) == 1
        scene.batch.refusal = None
        yield from scene.wait(61)
        yield from scene.play_rest()

    master = scene.play(script(), cpu=8)

    assert master.tree.complete
    assert scene.rows("SELECT count(*) FROM failures") == [(0,)]


def test_what_can_never_run_fails_and_the_others_go_on(make_cluster_scene: MakeClusterScene) -> None:
    scene = make_cluster_scene()

    def script() -> Iterator[None]:
        worker = scene.supervised(1)
        worker.start()
        worker.succeed([target("Large", memory=1 << 33), target("Small")])
        scene.finish(worker)
        yield from scene.wait(1)
        large = next(s for s in scene.batch.active() if s.resources.memory == 1 << 33)
        scene.batch.kill(large.name, Reason.NEVER_FITS, None, "PartitionConfig")
        yield from scene.wait(1)
        yield from scene.play_rest()

    master = scene.play(script(), cpu=8)

    assert master.tree.totals[State.FAILED] == 1
    ((name, message),) = scene.rows("SELECT name, message FROM failures")
    assert (name, message) == ("Large", "the batch system will never start it: PartitionConfig")


def test_issue_may_say_so_too(make_cluster_scene: MakeClusterScene) -> None:
    scene = make_cluster_scene()

    def script() -> Iterator[None]:
        worker = scene.supervised(1)
        worker.start()
        worker.succeed([target("Child")])
        scene.finish(worker)
        scene.batch.refusal = NeverFits(f"{RUN}.2", "memory", 2 << 40, 1 << 40)
        yield from scene.wait(2)

    master = scene.play(script(), cpu=8)

    assert master.tree.totals[State.FAILED] == 1


def test_all_running_jobs_stay_within_the_limits_of_the_run(make_cluster_scene: MakeClusterScene) -> None:
    scene = make_cluster_scene(max_cpus=3)

    def script() -> Iterator[None]:
        yield from scene.grow([target("Child")] * 6)
        yield from scene.wait(2)
        assert len(scene.batch.active()) == 3
        yield from scene.play_rest()

    assert scene.play(script(), cpu=8).tree.complete


def test_a_machine_where_nothing_begins_is_avoided(make_cluster_scene: MakeClusterScene) -> None:
    scene = make_cluster_scene(max_lost=50)

    def script() -> Iterator[None]:
        yield from scene.grow([target("Child")])
        yield from scene.wait(1)
        for number in (2, 3):
            scene.batch._ends.append(failing_end(scene, number))
            yield from scene.wait(3)
        assert scene.batch.avoided == {"node9"}
        yield from scene.wait(601)
        assert scene.batch.avoided == frozenset()
        yield from scene.play_rest()

    assert scene.play(script(), cpu=8).tree.complete


def failing_end(scene: ClusterScene, number: int) -> Any:
    from batchsystems.abstract import End

    del scene.batch._active[scene.name(number)]
    return End(scene.name(number), EndKind.FINISHED, 1, host="node9")


def test_a_run_of_which_nothing_can_be_run_stops_and_says_why(make_cluster_scene: MakeClusterScene) -> None:
    scene = make_cluster_scene(max_lost=50)

    def script() -> Iterator[None]:
        for number in (1, 2, 3):
            worker = scene.supervised(number)
            worker.sign_off(status=69, detail="the script x.py of the run is not there")
            scene.batch.finish(scene.name(number))
            yield from scene.wait(5)

    master = scene.play(script(), cpu=8)

    assert isinstance(master.stopped_by, str)
    assert "the script x.py of the run is not there" in master.stopped_by
    assert not master.tree.totals[State.FAILED]


def test_what_an_older_attempt_still_writes_counts_for_nothing(make_cluster_scene: MakeClusterScene) -> None:
    scene = make_cluster_scene()

    def script() -> Iterator[None]:
        worker = scene.supervised(1)
        worker.start()
        outcome = open(scene.paths.outcome(1), "ab")  # noqa: SIM115  # the worker's descriptor, which outlives the name
        yield from scene.wait(2 * LEASE + 1)
        assert issued(scene)[-1] == f"{RUN}.2"
        outcome.write(frames.encode((frames.STARTED, 1, 1, 0, 0.0)))
        outcome.close()
        yield from scene.play_rest()

    master = scene.play(script())

    assert master.tree.complete
    assert not os.path.exists(scene.paths.outcome(1))
