"""Changing the course of a run whose jobs outlive their master: what runs there is ended by its control byte, and by
the next master if this one dies before."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from jobtree import frames, steering_requests
from jobtree.requests import Request
from tests.fakes.cluster_scene import ClusterScene, MakeClusterScene, Supervised
from tests.fakes.master_scene import Died
from tests.fakes.scripted_worker import target
from tests.unit.test_leases import resume
from tests.unit.test_obeying import A, B, about, alone, answers, ask, change


def control(scene: ClusterScene, bundle: int) -> bytes:
    """The byte by which a bundle's supervisor is told what to do."""
    return Path(scene.paths.bundle(bundle)).read_bytes()[:1]


def three_children(scene: ClusterScene) -> Iterator[None]:
    """Script: the root has three children, in bundles 2 to 4."""
    yield from scene.grow([target("Child")] * 3)
    yield from scene.wait(2)
    assert len(scene.batch.active()) == 3


def begun(scene: ClusterScene, bundle: int) -> Supervised:
    """A bundle that has begun its first job."""
    worker = scene.supervised(bundle)
    assert worker.start()
    worker.flush()
    return worker


def test_what_is_forgotten_is_ended_where_it_runs_and_withdrawn_where_it_waits(
    make_cluster_scene: MakeClusterScene,
) -> None:
    scene = make_cluster_scene()

    def script() -> Iterator[None]:
        yield from three_children(scene)
        worker = begun(scene, 2)
        yield from scene.wait(1)
        yield from ask(scene, about(steering_requests.FORGET, A), about(steering_requests.MARK_DONE, B))
        assert [answer.done for answer in answers] == [True, True]
        assert control(scene, 2) == frames.CANCEL
        assert [name for name, _ in scene.batch.cancelled] == [scene.name(3)]
        worker.sign_off()
        yield from scene.play_rest()

    assert scene.play(script(), cpu=8).tree.totals == [0, 0, 0, 0, 3]
    assert scene.left_behind() == []


def test_what_was_forgotten_by_a_master_that_died_is_ended_by_the_next(
    make_cluster_scene: MakeClusterScene,
) -> None:
    scene = make_cluster_scene()
    workers = []

    def script() -> Iterator[None]:
        yield from three_children(scene)
        workers.append(begun(scene, 2))
        yield from scene.wait(1)
        raise Died

    scene.play_until_death(script(), cpu=8)
    assert alone(scene, about(steering_requests.FORGET, A)).done
    assert control(scene, 2) == frames.NO_RECALL

    def rest() -> Iterator[None]:
        yield from scene.wait(2, workers[0])
        assert control(scene, 2) == frames.CANCEL
        workers[0].succeed([target("Grandchild")])
        workers[0].sign_off()
        yield from scene.play_rest()

    master = resume(scene, rest(), [scene.name(2)])

    assert master.tree.totals == [0, 0, 0, 0, 3]
    assert scene.left_behind() == []


def test_what_was_killed_has_failed(make_cluster_scene: MakeClusterScene) -> None:
    scene = make_cluster_scene()

    def script() -> Iterator[None]:
        worker = begun(scene, 1)
        yield from scene.wait(1)
        yield from ask(scene, about(steering_requests.KILL_JOB, 1))
        assert answers[0].done
        assert control(scene, 1) == frames.CANCEL
        worker.sign_off(status=0)
        yield from scene.wait(2)

    assert scene.play(script()).tree.totals == [0, 0, 0, 1, 0]
    ((message,),) = scene.rows("SELECT message FROM failures")
    assert message.startswith("the target was killed by ada")


def test_a_pause_takes_back_what_has_not_begun_and_leaves_what_has(
    make_cluster_scene: MakeClusterScene,
) -> None:
    scene = make_cluster_scene()

    def script() -> Iterator[None]:
        yield from three_children(scene)
        worker = begun(scene, 2)
        yield from scene.wait(1)
        yield from ask(scene, Request(steering_requests.PAUSE, "ada"))
        yield from scene.wait(2, worker)
        assert [name for name, _ in scene.batch.cancelled] == [scene.name(3), scene.name(4)]
        assert control(scene, 2) == frames.RECALL
        assert scene.master.tree.totals == [2, 1, 1, 0, 0]
        worker.succeed()
        scene.finish(worker)
        yield from scene.wait(2)
        assert scene.batch.active() == []
        yield from ask(scene, Request(steering_requests.GO_ON, "ada"))
        yield from scene.play_rest()

    assert scene.play(script(), cpu=8).tree.totals == [0, 0, 0, 0, 4]
    assert scene.rows("SELECT * FROM failures") == []


def test_limits_of_a_cluster_are_changed_while_it_runs(make_cluster_scene: MakeClusterScene) -> None:
    scene = make_cluster_scene(max_cpus=1)

    def script() -> Iterator[None]:
        yield from scene.grow([target("Child")] * 6)
        yield from scene.wait(2)
        assert len(scene.batch.active()) == 1
        yield from ask(scene, change(max_cpus=3))
        yield from scene.wait(2)
        assert len(scene.batch.active()) == 3
        yield from ask(scene, change(max_cpus=0.5))
        assert answers[0].done, "one bundle alone may have more, as at a start"
        yield from scene.play_rest()

    assert scene.play(script(), cpu=8).tree.totals == [0, 0, 0, 0, 7]
