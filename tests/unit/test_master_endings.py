"""How the master judges what becomes of jobs: failures, deaths of workers, losses, and what cannot be run at all."""

from __future__ import annotations

import signal
from collections.abc import Iterator

import pytest

from batchsystems.abstract import Reason
from jobtree.errors import StorageError
from tests.fakes.master_scene import Died, MakeScene
from tests.fakes.scripted_worker import Value, target


def said(caplog: pytest.LogCaptureFixture, text: str) -> int:
    """How many lines of the log have this in them."""
    return sum(text in record.getMessage() for record in caplog.records)


# -- failures --------------------------------------------------------------------------------------------------


def test_a_target_that_fails_is_tried_again_at_once_and_then_later_and_later(make_scene: MakeScene) -> None:
    scene = make_scene(retry_count=5)
    issued: list[float] = []

    def script() -> Iterator[None]:
        while True:
            worker = scene.worker(max(scene.batch.sizes))
            issued.append(scene.clock.now)
            worker.start()
            worker.fail()
            scene.finish(worker)
            number = len(scene.batch.issued)
            yield
            while len(scene.batch.issued) == number:
                yield

    end = scene.play(script())

    assert end.tree.totals == [0, 0, 0, 1, 0]
    waits = [round(later - earlier, 2) for earlier, later in zip(issued, issued[1:])]
    expected = [0.0, 0.5, 1.0, 2.0, 5.0]
    assert all(wanted <= wait <= wanted + 0.3 for wait, wanted in zip(waits, expected)), waits
    assert scene.rows("SELECT attempt, tries FROM jobs") == [(6, 6)]


def test_tries_are_per_target_and_a_success_forgets_its_failures(make_scene: MakeScene) -> None:
    scene = make_scene(retry_count=1)

    def script() -> Iterator[None]:
        for _ in range(2):
            worker = scene.worker(max(scene.batch.sizes))
            worker.start()
            worker.fail()
            scene.finish(worker)
            yield
            worker = scene.worker(max(scene.batch.sizes))
            worker.start()
            worker.succeed(follow_on=target("Next"))
            scene.finish(worker)
            yield
            assert scene.rows("SELECT * FROM failures") == []
        yield from scene.play_rest()

    assert scene.play(script()).tree.totals == [0, 0, 0, 0, 1]


def test_failed_jobs_are_tried_again_by_the_next_start_and_then_nothing_is_left_of_the_failure(
    make_scene: MakeScene,
) -> None:
    scene = make_scene()

    def fails() -> Iterator[None]:
        worker = scene.worker(1)
        worker.start()
        worker.fail()
        scene.finish(worker)
        yield

    assert scene.play(fails()).tree.totals == [0, 0, 0, 1, 0]
    assert scene.play(scene.play_rest()).tree.totals == [0, 0, 0, 0, 1]

    assert scene.rows("SELECT job FROM failures") == []


def test_children_of_an_attempt_that_failed_do_not_count(make_scene: MakeScene) -> None:
    scene = make_scene(retry_count=1)

    def script() -> Iterator[None]:
        worker = scene.worker(1)
        worker.start()
        worker.write_children([target("Child")] * 5, chunk=2)
        worker.keep(Value(b"t", b"x", (), in_file=True))
        worker.fail("CannotPickle: the last of them")
        scene.finish(worker)
        yield
        yield from scene.play_rest()

    assert scene.play(script()).tree.totals == [0, 0, 0, 0, 1]

    assert scene.left_behind() == []


def test_fail_fast_ends_the_run_at_the_first_job_that_is_given_up(make_scene: MakeScene) -> None:
    scene = make_scene(fail_fast=True)

    def script() -> Iterator[None]:
        yield from scene.grow([target("Child")] * 9)
        worker = scene.worker(2)
        worker.start()
        worker.fail()
        scene.finish(worker)
        yield

    end = scene.play(script())

    assert end.tree.totals == [8, 0, 1, 1, 0]
    assert len(scene.batch.issued) == 2


def test_what_can_never_fit_fails_with_both_numbers_and_the_rest_goes_on(
    make_scene: MakeScene, caplog: pytest.LogCaptureFixture
) -> None:
    scene = make_scene(retry_count=3)

    def script() -> Iterator[None]:
        yield from scene.grow(
            [target("Big", memory=64 << 30), target("Wide", cpu=12.0), target("Fits", memory=1 << 30)]
        )
        yield from scene.play_rest()

    end = scene.play(script(), cpu=4, memory=16 << 30)

    assert end.tree.totals == [0, 0, 1, 2, 1]
    assert said(caplog, "64 GiB of memory, but at most 16 GiB") == 1
    assert said(caplog, "12 cores, but at most 4") == 1


# -- deaths ----------------------------------------------------------------------------------------------------


def test_whoever_kills_a_worker_that_ran_others_goes_alone_and_the_rest_is_bundled_again(
    make_scene: MakeScene,
) -> None:
    scene = make_scene(retry_count=1)

    def script() -> Iterator[None]:
        yield from scene.grow_bundle(6)
        worker = scene.worker(3)
        worker.start()
        worker.succeed()
        worker.start()
        assert worker.job is not None
        suspect = worker.job.id
        scene.batch.kill(scene.name(3), Reason.SIGNAL, signal.SIGSEGV)
        yield
        row = scene.rows("SELECT tries, losses, alone FROM jobs WHERE id = ?", suspect)
        assert row == [(0, 0, 1)]
        seen: list[tuple[int, bool]] = []
        while scene.batch.active():
            for submission in scene.batch.active():
                again = scene.worker(int(submission.name.split(".")[1]))
                ids = [job.id for job in again.left]
                seen.append((len(ids), suspect in ids))
                if suspect in ids:
                    again.start()
                    scene.batch.kill(submission.name, Reason.SIGNAL, signal.SIGSEGV)
                else:
                    scene.run_all(again)
            yield
        assert [size for size, guilty in seen if guilty] == [1, 1]
        assert max(size for size, guilty in seen if not guilty) > 1

    assert scene.play(script()).tree.totals == [0, 0, 1, 1, 13 - 1]


def test_a_suspect_stays_alone_when_the_master_dies(make_scene: MakeScene) -> None:
    scene = make_scene(retry_count=1)

    def first() -> Iterator[None]:
        worker = yield from scene.grow_late(2)
        worker.succeed()
        worker.start()
        scene.batch.kill(scene.name(3), Reason.SIGNAL, signal.SIGSEGV)
        yield
        assert scene.rows("SELECT alone FROM jobs WHERE parent != 0") == [(1,)]
        scene.worker(max(scene.batch.sizes)).start()
        raise Died

    scene.play_until_death(first())
    scene.start()
    scene.store.close()

    assert scene.rows("SELECT tries, losses, alone FROM jobs WHERE parent != 0") == [(0, 0, 1)]


def test_a_target_that_ends_its_process_is_charged_if_it_was_the_first(make_scene: MakeScene) -> None:
    scene = make_scene()

    def script() -> Iterator[None]:
        worker = scene.worker(1)
        worker.start()
        scene.finish(worker, status=3)
        yield

    assert scene.play(script()).tree.totals == [0, 0, 0, 1, 0]

    assert scene.rows("SELECT kind FROM failures") == [("exit",)]


@pytest.mark.parametrize("how", ["killed from outside", "lost", "no disk", "preempted"])
def test_losses_are_not_charged_but_too_many_in_a_row_give_the_job_up(
    make_scene: MakeScene, how: str
) -> None:
    scene = make_scene(retry_count=0, max_lost=3)

    def script() -> Iterator[None]:
        for loss in range(3):
            number = max(scene.batch.sizes)
            worker = scene.worker(number)
            worker.start()
            if how == "killed from outside":
                scene.batch.kill(scene.name(number), Reason.SIGNAL, signal.SIGKILL)
            elif how == "lost":
                scene.batch.lose(scene.name(number))
            elif how == "no disk":
                scene.batch.finish(scene.name(number), 74)
            else:
                scene.batch.kill(scene.name(number), Reason.PREEMPTED, None)
            yield
            assert scene.rows("SELECT tries, losses FROM jobs") == [(0, loss + 1)]
            while not scene.batch.active():
                yield

    assert scene.play(script()).tree.totals == [0, 0, 0, 1, 0]


def test_a_success_between_losses_starts_their_count_anew(make_scene: MakeScene) -> None:
    scene = make_scene(max_lost=2)

    def script() -> Iterator[None]:
        for step in range(3):
            scene.worker(max(scene.batch.sizes)).start()
            scene.batch.lose(scene.name(max(scene.batch.sizes)))
            yield
            worker = scene.worker(max(scene.batch.sizes))
            worker.start()
            worker.succeed(follow_on=target("Next") if step < 2 else None)
            scene.finish(worker)
            yield

    assert scene.play(script()).tree.totals == [0, 0, 0, 0, 1]


def test_workers_that_never_start_anything_do_not_go_on_for_ever(make_scene: MakeScene) -> None:
    scene = make_scene(max_lost=2)

    def script() -> Iterator[None]:
        yield from scene.grow_bundle(2)
        for _ in range(100):
            for submission in scene.batch.active():
                scene.batch.finish(submission.name, 0)
            yield

    end = scene.play(script())

    assert end.tree.totals == [0, 0, 1, 4, 1]
    assert {row[0] for row in scene.rows("SELECT kind FROM failures")} == {"worker"}


def test_a_bundle_that_ends_without_having_begun_everything_gives_the_rest_back(
    make_scene: MakeScene,
) -> None:
    scene = make_scene()

    def script() -> Iterator[None]:
        yield from scene.grow_bundle(3)
        worker = scene.worker(3)
        worker.start()
        worker.succeed()
        scene.finish(worker)
        yield
        assert scene.rows("SELECT sum(tries + losses) FROM jobs") == [(0,)]
        yield from scene.play_rest()

    assert scene.play(script()).tree.totals == [0, 0, 0, 0, 8]


def test_after_import_errors_in_three_bundles_nothing_more_is_issued_and_the_run_says_why(
    make_scene: MakeScene,
) -> None:
    scene = make_scene()

    def script() -> Iterator[None]:
        yield from scene.grow([target("Child")] * 9)
        while scene.batch.active():
            worker = scene.worker(max(scene.batch.sizes))
            worker.start()
            worker.cannot_import("module 'numpy' cannot be imported")
            scene.finish(worker)
            yield

    end = scene.play(script())

    assert isinstance(end.stopped_by, str)
    assert "numpy" in end.stopped_by
    assert len(scene.batch.issued) == 1 + 3
    assert end.tree.totals == [9, 0, 1, 0, 0]
    assert scene.rows("SELECT sum(tries), sum(losses) FROM jobs") == [(0, 0)]


def test_while_it_waits_for_the_last_bundles_after_import_errors_the_master_does_not_spin(
    make_scene: MakeScene,
) -> None:
    scene = make_scene(retry_count=9)

    def script() -> Iterator[None]:
        yield from scene.grow([target(name) for name in ("Slow", "Fails", "A", "B", "C")])
        slow, fails = scene.worker(2), scene.worker(3)
        slow.start()
        fails.start()
        fails.fail()
        scene.finish(fails)
        yield
        again = scene.worker(max(scene.batch.sizes))
        again.start()
        again.fail()  # the second failure: it waits for half a second now
        scene.finish(again)
        for number in (4, 5, 6):
            worker = scene.worker(number)
            worker.start()
            worker.cannot_import()
            scene.finish(worker)
        for _ in range(20):
            yield
        assert 0.0 not in scene.batch.timeouts[-10:], "it asks again and again without waiting"
        slow.succeed()
        scene.finish(slow)
        yield

    scene.play(script())


# -- workers that cannot write ---------------------------------------------------------------------------------

REFUSED = "jobtree worker: /tree/outcomes/0/1: No space left on device. Free some space there"


def test_a_worker_that_could_not_write_is_told_of_and_charges_nobody(
    make_scene: MakeScene, caplog: pytest.LogCaptureFixture
) -> None:
    scene = make_scene(retry_count=0, max_lost=1)

    def script() -> Iterator[None]:
        worker = scene.worker(max(scene.batch.sizes))
        worker.start()
        worker.print(b"what the target printed\n" + REFUSED.encode() + b"\n")
        scene.batch.finish(scene.name(worker.bundle), 74)
        yield
        assert scene.rows("SELECT tries, losses FROM jobs") == [(0, 0)]
        while not scene.batch.active():
            yield
        yield from scene.play_rest()

    end = scene.play(script())

    assert end.tree.complete
    assert said(caplog, "outcomes/0/1: No space left on device") == 1


@pytest.mark.parametrize("started", [True, False])
def test_when_workers_cannot_write_again_and_again_the_run_stops_and_says_why(
    make_scene: MakeScene, started: bool
) -> None:
    scene = make_scene(retry_count=0, max_lost=1)

    def script() -> Iterator[None]:
        for _ in range(3):
            worker = scene.worker(max(scene.batch.sizes))
            if started:
                worker.start()
            worker.print(REFUSED.encode() + b"\n")
            scene.batch.finish(scene.name(worker.bundle), 74)
            yield
            while not scene.batch.active():
                yield

    with pytest.raises(StorageError, match=r"outcomes/0/1: No space left on device.*Seen by 3 workers"):
        scene.play(script())

    assert scene.rows("SELECT tries, losses FROM jobs") == [(0, 0)]
