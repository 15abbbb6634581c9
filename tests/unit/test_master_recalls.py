"""What the master takes from workers: targets beyond a limit, jobs of late bundles, and outcomes that are damaged."""

from __future__ import annotations

import os
import pickle
import zlib
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest

from batchsystems.abstract import Reason
from jobtree import frames
from tests.fakes.master_scene import Died, MakeScene, Scene
from tests.fakes.scripted_worker import target


def said(caplog: pytest.LogCaptureFixture, text: str) -> int:
    """How many lines of the log have this in them."""
    return sum(text in record.getMessage() for record in caplog.records)


# -- limits ----------------------------------------------------------------------------------------------------


def test_maxJobDuration_ends_the_bundle_whose_target_takes_too_long_and_charges_that(
    make_scene: MakeScene,
) -> None:
    scene = make_scene(max_job_duration=5.0, grace=7.0)

    def script() -> Iterator[None]:
        yield from scene.grow([target("Slow"), target("Chain")])
        slow, chain = scene.worker(2), scene.worker(3)
        slow.start()
        chain.start()
        began = scene.clock.now
        while not scene.batch.cancelled:
            if scene.clock.now - began > 3 and chain.job is not None and chain.job.step == 0:
                chain.start(chain.succeed(follow_on=target("Next"), go_on=True))
            yield
        assert 5 < scene.clock.now - began < 6
        assert scene.batch.cancelled == [(scene.name(2), 7.0)]
        yield
        assert scene.rows("SELECT name, kind FROM failures") == [("Slow", "time")]
        chain.succeed()
        scene.finish(chain)
        yield

    assert scene.play(script()).tree.totals == [0, 0, 1, 1, 1]


def test_a_target_that_came_after_the_one_that_took_too_long_is_not_charged(make_scene: MakeScene) -> None:
    """The slow one ends just before the signal comes, and its worker has begun the next by then."""
    scene = make_scene(max_job_duration=5.0)

    def script() -> Iterator[None]:
        worker = yield from scene.grow_late(2)
        while not scene.batch.cancelled:
            yield
        worker.succeed()
        worker.start()
        assert worker.job is not None
        scene.batch.kill(scene.name(3), Reason.CANCELLED, None)
        yield
        assert scene.rows("SELECT count(*) FROM failures") == [(0,)]
        yield from scene.play_rest()

    assert scene.play(script(), obeys_cancel=False, room=1).tree.totals == [0, 0, 0, 0, 6]


def test_maxOutput_ends_the_bundle_whose_target_prints_too_much(make_scene: MakeScene) -> None:
    scene = make_scene(max_output=1000)

    def script() -> Iterator[None]:
        yield from scene.grow([target("Loud"), target("Quiet")])
        loud, quiet = scene.worker(2), scene.worker(3)
        loud.start()
        loud.print(b"x" * 1001)
        quiet.start()
        quiet.print(b"x" * 999)
        yield
        assert [name for name, _ in scene.batch.cancelled] == [scene.name(2)]
        yield
        assert scene.rows("SELECT name, kind FROM failures") == [("Loud", "output")]
        quiet.succeed()
        scene.finish(quiet)
        yield

    assert scene.play(script()).tree.totals == [0, 0, 1, 1, 1]


@pytest.mark.parametrize("why_it_stays", ["of failed targets", "with --keepLogs"])
def test_what_others_in_the_same_worker_have_printed_is_not_charged(
    make_scene: MakeScene, why_it_stays: str
) -> None:
    scene = make_scene(max_output=1000, retry_count=1, keep_logs=why_it_stays == "with --keepLogs")

    def script() -> Iterator[None]:
        yield from scene.grow_bundle(3)
        worker = scene.worker(3)
        for _ in range(2):
            worker.start()
            worker.print(b"x" * 600)
            if why_it_stays == "of failed targets":
                worker.fail()
            else:
                worker.succeed()
        worker.start()
        yield
        assert scene.batch.cancelled == []
        worker.succeed()
        scene.finish(worker)
        yield
        yield from scene.play_rest()

    assert scene.play(script()).tree.totals == [0, 0, 0, 0, 8]


# -- recalls ---------------------------------------------------------------------------------------------------


def test_what_a_late_bundle_has_not_begun_is_issued_elsewhere_and_runs_once(make_scene: MakeScene) -> None:
    scene = make_scene()
    ran: list[int] = []

    def script() -> Iterator[None]:
        worker = yield from scene.grow_late(5)
        assert worker.job is not None
        ran.append(worker.job.id)
        assert len(scene.batch.active()) == 1
        while len(scene.batch.active()) == 1:
            yield
        assert worker.recalled()
        for submission in scene.batch.active()[1:]:
            other = scene.worker(int(submission.name.split(".")[1]))
            ran.extend(job.id for job in other.left)
            scene.run_all(other)
        yield
        worker.succeed()
        assert not worker.start()
        scene.finish(worker)
        yield
        yield from scene.play_rest()

    assert scene.play(script()).tree.totals == [0, 0, 0, 0, 12]
    assert len(ran) == len(set(ran))
    assert scene.rows("SELECT sum(succeeded) FROM shapes") == [(12,)]


def test_a_bundle_is_not_late_while_it_takes_what_was_expected(make_scene: MakeScene) -> None:
    scene = make_scene()

    def script() -> Iterator[None]:
        yield from scene.grow([target("Child", time=0.02)] * 7)
        scene.run_all(scene.worker(2))
        yield
        worker = scene.worker(3)
        while worker.left:
            worker.start()
            yield
            worker.succeed()
            worker.flush()
            assert not worker.recalled()
            yield
        scene.finish(worker)
        yield
        yield from scene.play_rest()

    assert scene.play(script()).tree.totals == [0, 0, 0, 0, 8]


def test_a_job_that_was_begun_just_before_the_recall_is_given_back_and_runs_elsewhere(
    make_scene: MakeScene,
) -> None:
    scene = make_scene()

    def script() -> Iterator[None]:
        worker = yield from scene.grow_late(3)
        worker.succeed()
        worker.say_started()  # and now it is slow to look for the recall
        while not worker.recalled():
            yield
        yield
        assert worker.job is not None
        row = scene.rows("SELECT state, bundle FROM jobs WHERE id = ?", worker.job.id)
        assert row == [(1, 3)], "what was begun is not taken back"
        assert not worker.look_for_recall()
        scene.finish(worker)
        yield
        assert scene.rows("SELECT sum(tries), sum(losses) FROM jobs") == [(0, 0)]
        yield from scene.play_rest()

    assert scene.play(script()).tree.totals == [0, 0, 0, 0, 8]


@pytest.mark.parametrize("with_child", [False, True])
def test_a_worker_that_went_straight_on_as_it_was_recalled_gives_that_back(
    make_scene: MakeScene, with_child: bool
) -> None:
    """It looked for the recall before it wrote the outcome: the master takes the next step back, it must not run it."""
    scene = make_scene()

    def script() -> Iterator[None]:
        worker = yield from scene.grow_late(2)
        next_job = worker.succeed(
            [target("Next")] if with_child else [], None if with_child else target("Next"), go_on=True
        )
        assert next_job is not None
        while not worker.recalled():
            yield
        assert not worker.start(next_job)
        scene.finish(worker)
        yield
        yield from scene.play_rest()

    assert scene.play(script()).tree.totals == [0, 0, 0, 0, 6 + with_child]
    assert scene.rows("SELECT sum(succeeded) FROM shapes") == [(7,)]


def test_a_late_bundle_is_recalled_though_some_job_waits_for_its_next_try(make_scene: MakeScene) -> None:
    scene = make_scene(retry_count=9)

    def script() -> Iterator[None]:
        yield from scene.grow([target("Fails")] + [target("Child")] * 5)
        for _ in range(6):
            while not [name for name in scene.batch.running() if name != scene.name(3)]:
                yield
            worker = scene.worker(max(set(scene.batch.sizes) - {3}))
            worker.start()
            worker.fail()
            scene.finish(worker)
            yield
        scene.run_all(scene.worker(3))
        yield
        late = scene.worker(min(number for number, size in scene.batch.sizes.items() if size > 1))
        late.start()
        for name in scene.batch.running():
            if name != scene.name(late.bundle):
                scene.run_all(scene.worker(int(name.split(".")[1])))
        for _ in range(20):  # at most five seconds; the failed job waits for ten
            if not late.recalled():
                yield
        assert late.recalled(), "slots are idle, and what this bundle has not begun could run there"
        late.succeed()
        scene.finish(late)
        while True:
            yield from scene.play_rest()
            yield

    assert scene.play(script()).tree.totals == [0, 0, 0, 0, 7]


# -- what comes too late or is damaged -------------------------------------------------------------------------


def test_frames_of_an_older_attempt_change_nothing(make_scene: MakeScene) -> None:
    scene = make_scene(retry_count=3)

    def script() -> Iterator[None]:
        yield from scene.grow([target("Child")], target("Next"))
        first = scene.worker(2)
        old = first.start() and first.job
        assert old
        scene.batch.lose(scene.name(2))
        yield
        worker = scene.worker(3)
        worker.start()
        new = worker.job
        assert new is not None
        assert (new.id, new.attempt) == (old.id, old.attempt + 1)
        before = scene.rows("SELECT * FROM jobs")
        worker.job = old
        worker.succeed([target("Stale")] * 3, target("StaleToo"))
        worker.job = old
        worker.fail("stale")
        worker.job = old
        worker.cannot_import("stale")
        worker.write(frames.GLOBAL_DIR, old.id, old.attempt)
        worker.write(frames.GAVE_BACK, old.id, old.attempt)
        worker.flush()
        yield
        assert scene.rows("SELECT * FROM jobs") == before
        worker.job = new
        worker.succeed()
        scene.finish(worker)
        yield
        yield from scene.play_rest()

    assert scene.play(script()).tree.totals == [0, 0, 0, 0, 2]
    assert scene.rows("SELECT sum(succeeded) FROM shapes") == [(3,)]


def outcome_is_torn(scene: Scene, size: int) -> Generator[None, None, None]:
    """Script: a bundle of three; the outcome of the second is cut, and the worker exits as if all were well."""
    yield from scene.grow_bundle(3)
    worker = scene.worker(3)
    for _ in range(2):
        worker.start()
        worker.succeed()
    scene.finish(worker)
    worker.tear(size)
    yield


@pytest.mark.parametrize("size", [1, 20, 60])
def test_a_torn_outcome_costs_one_more_run_and_is_said(
    make_scene: MakeScene, caplog: pytest.LogCaptureFixture, size: int
) -> None:
    scene = make_scene(retry_count=1)

    def script() -> Iterator[None]:
        yield from outcome_is_torn(scene, size)
        yield from scene.play_rest()

    assert scene.play(script()).tree.totals == [0, 0, 0, 0, 8]

    assert said(caplog, "its last frame is not whole") == 1
    assert scene.rows("SELECT sum(succeeded) FROM shapes") == [(8,)]


def test_a_frame_that_is_still_being_written_is_waited_for(
    make_scene: MakeScene, caplog: pytest.LogCaptureFixture
) -> None:
    scene = make_scene()

    def script() -> Iterator[None]:
        worker = scene.worker(1)
        worker.start()
        worker.succeed([target("Child")] * 3)
        data = worker.unwritten
        for byte in data:
            worker.append(bytes([byte]))
            if byte % 8 == 0:
                yield
        worker.die()
        scene.finish(worker)
        yield
        yield from scene.play_rest()

    assert scene.play(script()).tree.totals == [0, 0, 0, 0, 4]
    assert said(caplog, "not whole") == 0


def test_a_frame_that_cannot_be_read_spoils_only_what_comes_after_it(
    make_scene: MakeScene, caplog: pytest.LogCaptureFixture
) -> None:
    """Its checksum is right and its content is not ours; the outcomes before it are as good as ever."""
    scene = make_scene(retry_count=1)

    def script() -> Iterator[None]:
        yield from scene.grow_bundle(3)
        worker = scene.worker(3)
        worker.start()
        worker.succeed()
        worker.flush()
        body = pickle.dumps(("?", Path("/")), 4)
        worker.append(frames.HEADER.pack(len(body), zlib.crc32(body)) + body)
        for _ in range(10):
            yield
        scene.finish(worker)
        yield
        yield from scene.play_rest()

    assert scene.play(script()).tree.totals == [0, 0, 0, 0, 8]
    assert scene.rows("SELECT sum(succeeded), sum(failures) FROM shapes") == [(8, 0)]
    assert 1 <= said(caplog, "asks for pathlib") <= 2


def test_children_too_many_to_hold_are_read_again_from_the_file(make_scene: MakeScene) -> None:
    scene = make_scene()

    def script() -> Iterator[None]:
        worker = scene.worker(1)
        worker.start()
        worker.write_children([target("Child"), target("Other", cpu=0.5, memory=5)] * 2500)
        worker.flush()
        yield
        worker.write(frames.SUCCEEDED, 1, 1, (0.1, 0.1, 0, True), 5000, None, None, None)
        scene.finish(worker)
        yield
        raise Died

    scene.play_until_death(script())

    assert scene.rows("SELECT ready + issued FROM shapes WHERE name != 'Root'") == [(2500,), (2500,)]
    assert os.listdir(os.path.dirname(scene.paths.outcome(1)))
