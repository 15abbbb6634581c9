"""Why a job is not running, as the master tells it: a scene for each reason."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from batchsystems.abstract import BatchSystemError
from jobtree import published, requests
from jobtree.paths import job_id
from jobtree.requests import Answer, Request
from tests.fakes.master_scene import MakeScene, Scene
from tests.fakes.scripted_worker import target

GIB = 1 << 30


def why(scene: Scene, id: int) -> str:
    """What the master says of a job now, as one text."""
    return " ".join(scene.master._steering._explainer.why(id))


def ask(scene: Scene, request: Request) -> Iterator[None]:
    """Script: ask, and let the master's loop turn until it has looked."""
    id = requests.send(scene.paths, request, wants_answer=True)
    for _ in range(8):
        yield
    answer = requests.wait(scene.paths, id, 0.0, lambda: True)
    assert answer is not None
    scene.answer = answer  # type: ignore[attr-defined]


def answer_of(scene: Scene) -> Answer:
    found: Answer = scene.answer  # type: ignore[attr-defined]
    return found


def test_queued_running_and_waiting_in_a_bundle(make_scene: MakeScene) -> None:
    scene = make_scene()

    def script() -> Iterator[None]:
        yield from scene.grow_bundle(4)
        assert why(scene, job_id(1, 2)).startswith("It has waited in the queue of singleMachine for ")
        worker = scene.worker(3)
        worker.start()
        yield
        running, behind = job_id(1, 2), job_id(1, 3)
        assert "It has been running on the machine of the master for" in why(scene, running)
        assert "in bundle run.3, which runs on the machine of the master, and waits there for job 1-2" in why(
            scene, behind
        )
        assert why(scene, 1) == ""
        assert why(scene, job_id(7, 7)) == ""
        (job,) = scene.master._steering._explainer.running_jobs()
        assert (job.job, job.attempt, job.bundle, job.backend) == (running, 1, "run.3", "singleMachine")
        while worker.left:
            worker.succeed()
            worker.start()
        worker.succeed()
        scene.finish(worker)
        yield
        yield from scene.play_rest()

    assert scene.play(script()).tree.totals[4] == 10


def test_a_retry_that_waits(make_scene: MakeScene) -> None:
    scene = make_scene(retry_count=5)

    def script() -> Iterator[None]:
        for bundle in (1, 2, 3):
            worker = scene.worker(bundle)
            worker.start()
            worker.fail()
            scene.finish(worker)
            yield
            if scene.store.job(1) is not None and scene.master._lanes.not_before:
                assert "It has failed before, and is tried again in" in why(scene, 1)
                told.append(True)
            while not scene.active():
                yield
        yield from scene.play_rest()

    told: list[bool] = []
    assert scene.play(script()).tree.totals == [0, 0, 0, 0, 1]
    assert told


def test_no_room(make_scene: MakeScene) -> None:
    scene = make_scene()

    def script() -> Iterator[None]:
        yield from scene.grow([target("Child")] * 3)
        last = why(scene, job_id(1, 3))
        assert "All places of singleMachine are taken by 1 bundles that are running or queued." in last
        assert "1 other jobs of its class and size are ready as well" in last
        yield from scene.play_rest()

    scene.play(script(), room=1)


def test_a_countable_thing_that_others_have(make_scene: MakeScene) -> None:
    scene = make_scene(limits={"licence": 1})

    def script() -> Iterator[None]:
        yield from scene.grow([target("Child", countable="licence=1")] * 2)
        assert "It waits for licence: 1 asked for, 1 of 1 in use." in why(scene, job_id(1, 2))
        yield from scene.play_rest()

    scene.play(script())


def test_questions_are_answered_by_the_loop(make_scene: MakeScene) -> None:
    scene = make_scene()

    def script() -> Iterator[None]:
        yield from scene.grow([target("Child")])
        worker = scene.worker(2)
        worker.start()
        yield from ask(scene, Request(published.RUNNING, "a test"))
        (job,) = answer_of(scene).body
        assert (job["job"], job["name"]) == (job_id(1, 1), "Child")
        yield from ask(scene, Request(published.WHY, "a test", {"job": job_id(1, 1)}))
        assert "It has been running" in answer_of(scene).body[0]
        worker.succeed()
        scene.finish(worker)
        yield

    scene.play(script())


@pytest.mark.parametrize("arguments", [{}, {"job": "x"}, {"job": None}, {"job": 10**30}, {"job": [1]}])
def test_a_question_that_makes_no_sense_does_not_harm_the_master(
    make_scene: MakeScene, arguments: dict[str, Any]
) -> None:
    scene = make_scene()

    def script() -> Iterator[None]:
        yield from ask(scene, Request(published.WHY, "a test", arguments))
        assert not answer_of(scene).done
        yield from ask(scene, Request(published.LOOK, "a test", arguments))
        assert not answer_of(scene).done
        yield from scene.play_rest()

    assert scene.play(script()).tree.totals == [0, 0, 0, 0, 1]


def test_a_batch_system_that_refuses(make_scene: MakeScene, monkeypatch: pytest.MonkeyPatch) -> None:
    scene = make_scene()

    def script() -> Iterator[None]:
        yield from scene.grow([target("Child")] * 2)
        scene.master._cluster.refused("singleMachine", [], BatchSystemError("full"))
        assert "singleMachine has refused what it was given; it is asked again in" in why(scene, job_id(1, 2))
        yield from scene.play_rest()

    scene.play(script(), room=1)
