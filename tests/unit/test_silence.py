"""What a running target tells of its progress, as the master sees it, and when it is marked as hung."""

from __future__ import annotations

import logging
from collections.abc import Generator, Iterator

import pytest

from jobtree import outlook, steering_requests
from jobtree.bundles import RunningBundle
from jobtree.contents import RunningJob
from jobtree.job_views import progress
from jobtree.paths import job_id
from jobtree.requests import Request
from tests.fakes.master_scene import Died, MakeScene, Scene
from tests.fakes.scripted_worker import ScriptedWorker, target

A = job_id(1, 1)


def running(scene: Scene) -> RunningJob:
    """The one job that is running."""
    (job,) = scene.master._steering._explainer.running_jobs()
    return job


def why(scene: Scene) -> str:
    return " ".join(scene.master._steering._explainer.why(A))


def live_line(scene: Scene) -> str:
    look = scene.master.outlook.look()
    return outlook.in_words(look, outlook.Pace(look))


def passes(scene: Scene, seconds: float) -> Iterator[None]:
    """Script: so much time, in which nothing is heard; then the master has looked."""
    scene.clock.now += seconds - 1
    began = scene.clock.now
    while scene.clock.now - began < 1:
        yield


def one_runs(scene: Scene) -> Generator[None, None, ScriptedWorker]:
    """Script: one child is running, in bundle 2. Returns its worker."""
    yield from scene.grow([target("Child")])
    worker = scene.worker(2)
    assert worker.start()
    yield from passes(scene, 1)
    return worker


def is_heard_of(worker: ScriptedWorker, way: str) -> None:
    """The target says something, in one of the ways in which it can."""
    if way == "reports":
        worker.progress(0.5)
    elif way == "logs":
        worker.message("here")
    else:
        worker.print(b"here\n")


def end(scene: Scene, worker: ScriptedWorker) -> Iterator[None]:
    worker.succeed()
    scene.finish(worker)
    yield
    yield from scene.play_rest()


def test_what_a_target_tells_is_shown(make_scene: MakeScene) -> None:
    scene = make_scene()

    def script() -> Iterator[None]:
        worker = yield from one_runs(scene)
        assert (running(scene).fraction, running(scene).words) == (None, "")
        worker.progress(0.1, "reading")
        worker.progress(0.25, "aligning chr3")
        yield from passes(scene, 1)
        job = running(scene)
        assert (job.fraction, job.words, job.hung) == (0.25, "aligning chr3", False)
        assert progress(job) == "; 25 %, aligning chr3"
        assert "It has told how far it is: 25 %, aligning chr3." in why(scene)
        yield from end(scene, worker)

    assert scene.play(script()).tree.totals == [0, 0, 0, 0, 2]


def test_what_one_target_told_is_not_said_of_the_next(make_scene: MakeScene) -> None:
    scene = make_scene()

    def script() -> Iterator[None]:
        worker = yield from one_runs(scene)
        worker.progress(1.0, "done")
        worker.start(worker.succeed(follow_on=target("Next"), go_on=True))
        yield from passes(scene, 1)
        assert (running(scene).name, running(scene).fraction, running(scene).words) == ("Child", None, "")
        yield from end(scene, worker)

    assert scene.play(script()).tree.totals == [0, 0, 0, 0, 2]


def test_who_is_silent_for_too_long_is_marked_once_until_it_is_heard_of_again(
    make_scene: MakeScene, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    scene = make_scene(hung_after=60.0)

    def script() -> Iterator[None]:
        worker = yield from one_runs(scene)
        for number, way in enumerate(("reports", "logs", "prints")):
            yield from passes(scene, 58)
            assert not running(scene).hung
            yield from passes(scene, 4)
            assert running(scene).hung
            assert "1 running (1 hung)" in live_line(scene)
            assert "; hung: silent for 1m " in progress(running(scene))
            assert "longer than --hungAfter: it may hang" in why(scene)
            assert caplog.text.count("nothing was heard of job 1-1 (Child) for 1m 0s") == number + 1
            is_heard_of(worker, way)
            yield from passes(scene, 1)
            assert not running(scene).hung
            assert caplog.text.count("job 1-1 (Child) is heard of again") == number + 1
        yield from end(scene, worker)

    assert scene.play(script()).tree.totals == [0, 0, 0, 0, 2]


def test_who_reports_is_never_silent_and_without_the_option_nobody_is(make_scene: MakeScene) -> None:
    for seconds in (60.0, None):
        scene = make_scene(hung_after=seconds)

        def script(scene: Scene = scene, talks: bool = seconds is not None) -> Iterator[None]:
            worker = yield from one_runs(scene)
            for percent in range(10):
                yield from passes(scene, 50)
                if talks:
                    worker.progress(percent / 100)
                assert not running(scene).hung
            yield from end(scene, worker)

        assert scene.play(script()).tree.totals == [0, 0, 0, 0, 2]


def test_hungAfter_is_changed_while_the_run_is_on(make_scene: MakeScene) -> None:
    scene = make_scene()

    def script() -> Iterator[None]:
        worker = yield from one_runs(scene)
        yield from passes(scene, 100)
        assert not running(scene).hung
        change = Request(steering_requests.CHANGE, "ada", {"options": {"hung_after": 90}})
        steering_requests.send(scene.paths, change)
        yield from passes(scene, 3)
        assert running(scene).hung
        change = Request(steering_requests.CHANGE, "ada", {"options": {"hung_after": None}})
        steering_requests.send(scene.paths, change)
        yield from passes(scene, 3)
        assert not running(scene).hung
        yield from end(scene, worker)

    assert scene.play(script()).tree.totals == [0, 0, 0, 0, 2]


def test_that_a_target_reports_does_not_keep_those_behind_it_waiting(make_scene: MakeScene) -> None:
    """A bundle is late when none of its targets begins or ends, however much the one that runs has to say."""
    scene = make_scene()

    def script() -> Iterator[None]:
        worker = yield from scene.grow_late(2)
        began = scene.clock.now
        while not worker.recalled():
            worker.progress(0.5, "still here")
            yield
            assert scene.clock.now - began < 60
        worker.succeed()
        assert not worker.start()
        scene.finish(worker)
        yield
        yield from scene.play_rest()

    assert scene.play(script()).tree.totals == [0, 0, 0, 0, 6]


def test_a_new_master_knows_what_a_target_on_a_cluster_had_told(make_scene: MakeScene) -> None:
    scene = make_scene()

    def script() -> Iterator[None]:
        worker = yield from one_runs(scene)
        worker.progress(0.75, "sorting")
        yield from passes(scene, 1)
        raise Died

    scene.play_until_death(script())
    name, path = scene.name(2), scene.paths.outcome(2)
    with open(path, "rb") as file:
        size = len(file.read())
    bundle = RunningBundle(2, name, 1, 1, path, size, scene.clock.now)
    bundle.replay()
    assert bundle.said is not None
    assert bundle.said.report == (0.75, "sorting")
