"""What the master adopts from outcome files: messages, warnings and values; each once, and none left over."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import pytest

from jobtree import bundles, frames, soundness
from tests.fakes.master_scene import RESULT, Died, MakeScene, check_rows
from tests.fakes.scripted_worker import ScriptedWorker, Value, target


def said(caplog: pytest.LogCaptureFixture, text: str) -> int:
    """How many lines of the log have this in them."""
    return sum(text in record.getMessage() for record in caplog.records)


# -- messages --------------------------------------------------------------------------------------------------


def test_a_message_is_told_once_though_the_file_is_read_in_pieces_and_the_master_dies(
    make_scene: MakeScene, caplog: pytest.LogCaptureFixture
) -> None:
    scene = make_scene()

    def first() -> Iterator[None]:
        worker = scene.worker(1)
        worker.start()
        worker.message("first")
        yield
        yield
        worker.message("second")
        worker.write_children([target("Child")] * 3, chunk=1)
        yield
        raise Died

    scene.play_until_death(first())
    assert said(caplog, "first") == said(caplog, "second") == 1
    scene.play(scene.play_rest())

    assert said(caplog, "first") == said(caplog, "second") == 1
    assert scene.master.tree.totals == [0, 0, 0, 0, 1]


def test_messages_of_an_attempt_that_failed_are_told(
    make_scene: MakeScene, caplog: pytest.LogCaptureFixture
) -> None:
    scene = make_scene(retry_count=1)

    def script() -> Iterator[None]:
        worker = scene.worker(1)
        worker.start()
        worker.message("before the failure")
        worker.fail()
        scene.finish(worker)
        yield
        yield from scene.play_rest()

    scene.play(script())

    assert said(caplog, "before the failure") == 1


def test_what_is_read_when_a_bundle_is_recalled_is_not_read_again_after_a_crash(
    make_scene: MakeScene, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker writes between the look at its outcome file and the recall; then the master dies."""
    scene = make_scene()
    recall = bundles.recall
    writer: list[ScriptedWorker] = []

    def recall_late(*arguments: Any) -> None:
        writer[0].message("just now")
        writer[0].succeed(
            follow_on=target("Next", mentions=(b"t",)), value=Value(b"t", b"large", (), in_file=True)
        )
        writer[0].flush()
        recall(*arguments)
        writer.clear()

    monkeypatch.setattr(bundles, "recall", recall_late)

    def first() -> Iterator[None]:
        writer.append((yield from scene.grow_late(3)))
        while writer:
            yield
        raise Died

    scene.play_until_death(first())
    assert said(caplog, "just now") == 1
    scene.start()
    scene.master._remover.close()
    check_rows(scene.paths)
    scene.store.close()

    assert said(caplog, "just now") == 1


def test_warnings_about_targets_are_said_a_few_times_only(
    make_scene: MakeScene, caplog: pytest.LogCaptureFixture
) -> None:
    scene = make_scene()

    def script() -> Iterator[None]:
        yield from scene.grow([target("Child")] * 50)
        while scene.batch.active():
            worker = scene.worker(max(scene.batch.sizes))
            while worker.left:
                worker.start()
                worker.warning("left a thread running")
                worker.succeed()
            scene.finish(worker)
            yield

    scene.play(script(), room=1)

    assert 1 <= said(caplog, "left a thread running") <= 5


# -- attempts that are read in two halves ----------------------------------------------------------------------


@pytest.mark.parametrize("ends", [False, True])
def test_what_came_before_an_outcome_is_read_again_after_a_crash(make_scene: MakeScene, ends: bool) -> None:
    """The master has read children and the name of a value's file, and dies; the outcome came meanwhile, or did not."""
    scene = make_scene()

    def first() -> Iterator[None]:
        worker = scene.worker(1)
        worker.start()
        kept = worker.keep(Value(RESULT, b"large", (), in_file=True))
        worker.write_children([target("Child")] * 4, chunk=2)
        worker.flush()
        yield
        yield
        if ends:
            worker.write(frames.SUCCEEDED, 1, 1, (0.1, 0.1, 0, True), 4, None, None, kept)
            worker.flush()
        raise Died

    scene.play_until_death(first())
    scene.start()
    scene.master._remover.close()
    scene.store.close()

    assert scene.rows("SELECT attempt, pending FROM jobs WHERE id = 1") == [(1, 4 if ends else 0)]
    assert scene.left_behind() == (["values/0/1-1"] if ends else [])


# -- after a power cut -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("booted", [False, True])
@pytest.mark.parametrize("durable", ["full", "tree"])
def test_success_that_nothing_was_synced_for_is_not_believed_after_a_power_cut(
    make_scene: MakeScene, monkeypatch: pytest.MonkeyPatch, booted: bool, durable: str
) -> None:
    """The outcome has reached the disk; whether the files that the target left have, nobody knows."""
    scene = make_scene(durable=durable)

    def first() -> Iterator[None]:
        yield
        worker = scene.worker(1)
        worker.start()
        worker.global_dir()
        worker.succeed(follow_on=target("Next"))
        worker.flush()
        raise Died

    scene.play_until_death(first())
    if booted:
        monkeypatch.setattr(soundness, "this_kernel", lambda: "another kernel")
    scene.start()
    scene.master._remover.close()
    scene.store.close()

    runs_again = booted and durable == "full"
    assert scene.rows("SELECT step, state, tries, losses FROM jobs") == [(0 if runs_again else 1, 0, 0, 0)]


def test_success_with_which_a_worker_went_on_is_believed_after_a_power_cut(
    make_scene: MakeScene, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was synced before the next one was started, which must not run before the first again."""
    scene = make_scene(durable="full")

    def first() -> Iterator[None]:
        yield
        worker = scene.worker(1)
        worker.start()
        worker.global_dir()
        worker.start(worker.succeed(follow_on=target("Next"), go_on=True))
        worker.succeed(follow_on=target("Last"))
        worker.flush()
        raise Died

    scene.play_until_death(first())
    monkeypatch.setattr(soundness, "this_kernel", lambda: "another kernel")
    scene.start()
    scene.master._remover.close()
    scene.store.close()

    assert scene.rows("SELECT step, state, tries, losses FROM jobs") == [(1, 0, 0, 0)]


def test_death_in_a_start_after_a_power_cut_does_not_make_it_believed(
    make_scene: MakeScene, monkeypatch: pytest.MonkeyPatch
) -> None:
    scene = make_scene(durable="full")

    def first() -> Iterator[None]:
        yield
        worker = scene.worker(1)
        worker.start()
        worker.global_dir()
        worker.succeed(follow_on=target("Next"))
        worker.flush()
        raise Died

    def die(*_: Any) -> None:
        raise Died

    scene.play_until_death(first())
    monkeypatch.setattr(soundness, "this_kernel", lambda: "another kernel")
    with monkeypatch.context() as patch:
        patch.setattr(bundles, "wait_for_worker", die)
        with pytest.raises(Died):
            scene.start()
    scene.store.close()
    scene.start()
    scene.master._remover.close()
    scene.store.close()

    assert scene.rows("SELECT step, state FROM jobs") == [(0, 0)]


# -- values ---------------------------------------------------------------------------------------------------


def test_the_run_has_its_result_and_nothing_else_is_kept(make_scene: MakeScene) -> None:
    scene = make_scene()

    def script() -> Iterator[None]:
        worker = scene.worker(1)
        worker.start()
        worker.succeed([target("Child")], value=Value(RESULT, b"it", (b"child",)))
        scene.finish(worker)
        yield
        worker = scene.worker(2)
        worker.start()
        worker.succeed(value=Value(b"child", b"all of it", (), in_file=True))
        scene.finish(worker)
        yield

    scene.play(script())

    assert scene.rows("SELECT token, file IS NULL FROM promised ORDER BY token") == [
        (b"child", 0),
        (RESULT, 1),
    ]
    assert scene.left_behind() == ["values/0/2-1"]


def test_a_promise_that_was_passed_on_unkept_is_kept_for_whom_it_was_returned_to(
    make_scene: MakeScene,
) -> None:
    """Two children run side by side; one returns its promise of the other's value, which nobody else holds."""
    scene = make_scene()

    def script() -> Iterator[None]:
        children = [target("Maker"), target("Passer", mentions=(b"made",))]
        yield from scene.grow(children, target("Reader", mentions=(b"passed",)))
        maker, passer = scene.worker(2), scene.worker(3)
        maker.start()
        passer.start()
        maker.succeed(value=Value(b"made", b"it"))
        scene.finish(maker)
        yield
        passer.succeed(value=Value(b"passed", b"see made", (b"made",)))
        scene.finish(passer)
        yield
        reader = scene.worker(4)
        assert reader.left[0].values == {b"passed": b"see made", b"made": b"it"}
        scene.run_all(reader)
        yield

    assert scene.play(script()).tree.totals == [0, 0, 0, 0, 3]


def test_what_a_power_cut_leaves_of_files_that_no_frame_tells_of_is_removed(make_scene: MakeScene) -> None:
    """Outcome files are not synced, values are: after the cut there may be a value that nothing leads to."""
    scene = make_scene()

    def first() -> Iterator[None]:
        worker = scene.worker(1)
        worker.start()
        worker.keep(Value(b"t", b"large", (), in_file=True))
        os.truncate(scene.paths.outcome(1), 0)
        yield from ()
        raise Died

    scene.play_until_death(first())
    scene.play(scene.play_rest())

    assert scene.left_behind() == []
