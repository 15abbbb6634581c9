"""What the master does about services, with workers that do what the test says: nothing here hopes for a moment.

What only real services show is in tests/system/test_services.py and test_service_trouble.py.
"""

from __future__ import annotations

import signal
from collections.abc import Generator, Iterator

import pytest

from jobtree.events import State
from jobtree.paths import job_id
from tests.fakes.master_scene import Died, MakeScene, Scene, number_of
from tests.fakes.scripted_worker import ScriptedWorker, Value, target

SERVICE = job_id(1, 1)
"""The job of the service: the first that the root adds."""

TOKEN = b"address"


def issued(scene: Scene) -> list[ScriptedWorker]:
    """The workers of what was issued and is not claimed by anybody."""
    numbers = [number_of(submission.name) for submission in scene.active()]
    opened = [ScriptedWorker(scene.paths, number) for number in numbers]
    return [worker for worker in opened if worker.open()]


def only_one(scene: Scene) -> Generator[None, None, ScriptedWorker]:
    """Script: something is issued, in one bundle. Returns its worker."""
    while not (found := issued(scene)):
        yield
    (worker,) = found
    return worker


def comes_up(scene: Scene, address: bytes) -> Generator[None, None, ScriptedWorker]:
    """Script: the service is the only thing that is issued, and comes up. Returns its worker."""
    service = yield from only_one(scene)
    service.start()
    assert service.job is not None
    assert service.job.id == SERVICE
    service.serve(Value(TOKEN, address))
    yield
    return service


def grown(scene: Scene, children: int = 1) -> Generator[None, None, ScriptedWorker]:
    """Script: the root has a service, which comes up, children, and a follow-on. Returns the service's worker."""
    worker = scene.worker(1)
    worker.start()
    made = [target("Child", mentions=(TOKEN,)) for _ in range(children)]
    worker.succeed(made, target("After"), services=[target("Service")])
    scene.finish(worker)
    yield
    service = yield from comes_up(scene, b"one")
    return service


def state_of(scene: Scene, job: int) -> list[int]:
    """The attempt of a job, and how often it has failed by its own fault and was lost."""
    return [*scene.rows("SELECT attempt, tries, losses FROM jobs WHERE id = ?", job)[0]]


def ends(scene: Scene, service: ScriptedWorker) -> Iterator[None]:
    """Script: the service is told to stop, and all that is left succeeds."""
    while not service.recalled():
        yield
    service.succeed()
    scene.finish(service)
    yield
    yield from scene.play_rest()


def goes_to_its_end(scene: Scene, service: ScriptedWorker) -> Iterator[None]:
    """Script: the one child is run, and then the service is told to stop."""
    child = yield from only_one(scene)
    scene.run_all(child)
    yield from ends(scene, service)


def is_run_again(scene: Scene) -> Iterator[None]:
    """Script: the service comes up at another address; the one child gets that, and everything ends."""
    service = yield from comes_up(scene, b"two")
    again = yield from only_one(scene)
    again.start()
    assert again.job is not None
    assert again.job.attempt > 1
    assert again.values == {TOKEN: b"two"}
    again.succeed()
    scene.finish(again)
    yield from ends(scene, service)


def test_it_is_told_to_stop_after_the_last_child_and_the_follow_on_waits_for_that(
    make_scene: MakeScene,
) -> None:
    scene = make_scene()

    def script() -> Iterator[None]:
        service = yield from grown(scene, children=2)
        done = 0
        while done < 2:
            assert not service.recalled()
            for worker in issued(scene):
                while worker.left and worker.start():
                    worker.succeed()
                    done += 1
                scene.finish(worker)
            yield
        while not service.recalled():
            yield
        for _ in range(5):
            assert issued(scene) == [], "the follow-on waits until it has stopped"
            yield
        service.succeed()
        scene.finish(service)
        yield
        yield from scene.play_rest()

    assert scene.play(script(), cpu=4).tree.complete


def test_nothing_that_needs_it_is_issued_before_it_is_up(make_scene: MakeScene) -> None:
    scene = make_scene()

    def script() -> Iterator[None]:
        worker = scene.worker(1)
        worker.start()
        worker.succeed([target("Child")], services=[target("Service")])
        scene.finish(worker)
        yield
        service = yield from only_one(scene)
        service.start()
        for _ in range(5):
            assert issued(scene) == []
            yield
        service.serve(Value(TOKEN, b"one"))
        yield
        yield from goes_to_its_end(scene, service)

    assert scene.play(script(), cpu=4).tree.complete


def test_a_failure_counts_after_a_check_that_began_after_it(make_scene: MakeScene) -> None:
    """Of two that tell that it is well the first may have begun to look before the failure."""
    scene = make_scene()

    def script() -> Iterator[None]:
        service = yield from grown(scene)
        child = yield from only_one(scene)
        job = child.start() and child.job
        assert job
        service.well()
        yield
        child.fail()
        scene.finish(child)
        for _ in range(3):
            yield
        assert state_of(scene, job.id) == [1, 0, 0]
        service.well()
        for _ in range(3):
            yield
        assert state_of(scene, job.id) == [1, 0, 0], "that check may have begun before the failure"
        service.well()
        yield
        yield
        assert state_of(scene, job.id)[1:] == [1, 0]
        yield from ends(scene, service)

    master = scene.play(script(), cpu=4)
    assert [row[0] for row in scene.rows("SELECT job FROM failures")] == [job_id(1, 2)]
    assert not master.tree.complete


@pytest.mark.parametrize("ended", [True, False], ids=["whose worker has ended", "whose worker goes on"])
def test_a_failure_before_it_was_found_dead_is_nobodys_fault(make_scene: MakeScene, ended: bool) -> None:
    scene = make_scene()

    def script() -> Iterator[None]:
        service = yield from grown(scene)
        child = yield from only_one(scene)
        job = child.start() and child.job
        assert job
        child.fail()
        child.flush()
        if ended:
            scene.finish(child)
        yield
        service.die()
        scene.finish(service, 9)
        yield
        assert state_of(scene, job.id)[1:] == [0, 0]
        yield from is_run_again(scene)

    assert scene.play(script(), cpu=4).tree.complete


def test_those_that_use_it_are_ended_when_it_dies_and_get_the_new_address(make_scene: MakeScene) -> None:
    scene = make_scene()

    def script() -> Iterator[None]:
        service = yield from grown(scene)
        child = yield from only_one(scene)
        child.start()
        assert child.values == {TOKEN: b"one"}
        yield
        service.die()
        scene.finish(service, 9)
        yield
        assert scene.name(child.bundle) in [name for name, _ in scene.batch.cancelled]
        yield from is_run_again(scene)

    assert scene.play(script(), cpu=4).tree.complete


def test_death_of_one_that_was_up_is_a_loss_and_no_try(make_scene: MakeScene) -> None:
    scene = make_scene(retry_count=0)

    def script() -> Iterator[None]:
        service = yield from grown(scene)
        yield from only_one(scene)
        service.fail("its check said no")
        scene.finish(service)
        yield
        assert state_of(scene, SERVICE)[1:] == [0, 1]
        service = yield from comes_up(scene, b"two")
        yield from goes_to_its_end(scene, service)

    assert scene.play(script(), cpu=4).tree.complete


def test_one_that_has_stopped_although_it_is_needed_is_started_again(make_scene: MakeScene) -> None:
    scene = make_scene()

    def script() -> Iterator[None]:
        service = yield from grown(scene)
        yield from only_one(scene)
        service.succeed()
        scene.finish(service)
        yield
        service = yield from comes_up(scene, b"two")
        yield from goes_to_its_end(scene, service)

    assert scene.play(script(), cpu=4).tree.complete


def fails_and_goes_on(scene: Scene) -> Generator[None, None, int]:
    """Script: of two jobs in one bundle the first fails, and the second succeeds. Returns the first."""
    child = None
    while child is None:
        for worker in issued(scene):
            if len(worker.left) > 1:
                child = worker
            else:
                scene.run_all(worker)
        yield
    failed = child.start() and child.job
    assert failed
    child.fail()
    child.start()
    child.succeed()
    child.flush()
    return failed.id


def test_what_was_done_after_a_failure_in_doubt_counts_although_the_run_ends(make_scene: MakeScene) -> None:
    scene = make_scene()

    def script() -> Iterator[None]:
        service = yield from grown(scene, children=30)
        yield from fails_and_goes_on(scene)
        done = scene.master.tree.totals[State.DONE]
        yield
        scene.master.stop(signal.SIGTERM)
        yield
        while not service.recalled():
            yield
        service.succeed()
        scene.finish(service)
        yield
        assert scene.master.tree.totals[State.DONE] == done + 1

    scene.play(script(), cpu=2)
    assert scene.rows("SELECT job FROM failures") == [], "whose fault it was is not known"


def test_what_was_done_after_a_failure_in_doubt_counts_although_the_master_died(
    make_scene: MakeScene,
) -> None:
    scene = make_scene(retry_count=0)
    failed = done = 0

    def until_death() -> Iterator[None]:
        nonlocal failed, done
        yield from grown(scene, children=30)
        failed = yield from fails_and_goes_on(scene)
        done = scene.master.tree.totals[State.DONE]
        yield
        raise Died

    def script() -> Iterator[None]:
        assert scene.master.tree.totals[State.DONE] == done + 1
        assert state_of(scene, failed)[1:] == [0, 0]
        service = yield from comes_up(scene, b"two")
        while (workers := issued(scene)) or not service.recalled():
            for worker in workers:
                scene.run_all(worker)
            yield
        yield from ends(scene, service)

    scene.play_until_death(until_death(), cpu=2)
    assert scene.play(script(), cpu=2).tree.complete


def test_at_the_end_of_a_run_those_that_use_it_are_ended_before_it_is(make_scene: MakeScene) -> None:
    scene = make_scene()

    def script() -> Iterator[None]:
        service = yield from grown(scene)
        child = yield from only_one(scene)
        child.start()
        yield
        scene.master.stop(signal.SIGTERM)
        yield
        while not service.recalled():
            yield
        assert scene.name(child.bundle) in [name for name, _ in scene.batch.cancelled]
        service.succeed()
        scene.finish(service)
        yield

    assert scene.play(script(), cpu=2).left == {}


def test_one_that_has_failed_for_good_is_not_waited_for_by_the_next_master_either(
    make_scene: MakeScene,
) -> None:
    scene = make_scene()

    def until_death() -> Iterator[None]:
        yield from scene.grow([target("Gate"), target("Beside")])
        gate, beside = issued(scene)
        gate.start()
        gate.succeed([target("Child")], services=[target("Service")])
        scene.finish(gate)
        beside.start()
        yield
        service = yield from only_one(scene)
        service.start()
        service.fail()
        scene.finish(service)
        yield
        yield
        raise Died

    scene.play_until_death(until_death(), cpu=4)
    master = scene.play(scene.play_rest(), cpu=4)
    assert master.tree.totals[State.FAILED] == 1
    assert master.tree.totals[State.READY] == 1
