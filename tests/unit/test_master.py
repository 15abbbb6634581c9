"""The master's loop, with workers that do what the test says and a clock that stands still: growth, order, steering."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from typing import Any

import pytest

from batchsystems.abstract import End, EndKind
from jobtree import bundles, files, packing, requests
from jobtree.errors import StorageError
from jobtree.events import State
from jobtree.removals import Remover
from jobtree.requests import Request
from jobtree.store import Store
from jobtree.telling import Teller
from tests.fakes.master_scene import MakeScene, WatchedBatchSystem
from tests.fakes.scripted_worker import Value, target


def said(caplog: pytest.LogCaptureFixture, text: str) -> int:
    """How many lines of the log have this in them."""
    return sum(text in record.getMessage() for record in caplog.records)


# -- bundles ---------------------------------------------------------------------------------------------------


def test_a_class_starts_with_one_job_a_slot_and_bundles_grow_tenfold_at_most(make_scene: MakeScene) -> None:
    scene = make_scene()

    def script() -> Iterator[None]:
        yield from scene.grow([target("Child")] * 1000)
        assert list(scene.batch.sizes.values()) == [1, 1, 1]
        scene.run_all(scene.worker(2))
        yield
        assert scene.batch.sizes[4] == 10
        yield from scene.play_rest()

    scene.play(script(), cpu=2, room=2)

    assert scene.master.tree.totals == [0, 0, 0, 0, 1001]
    largest = 1
    left = 1000
    shortest = int(packing.SHORTEST_SECONDS / 0.01)  # which each of them has taken
    for size in list(scene.batch.sizes.values())[1:]:
        assert size <= min(10 * largest, max(1, -(-left // 4), shortest))
        largest = max(largest, size)
        left -= size
    assert largest > 40


def test_a_bundle_takes_no_longer_than_its_goal_by_what_was_measured(make_scene: MakeScene) -> None:
    scene = make_scene()

    def script() -> Iterator[None]:
        yield from scene.grow([target("Child")] * 40)
        worker = scene.worker(2)
        worker.start()
        worker.succeed(wall=packing.GOAL_SECONDS / 5)
        scene.finish(worker)
        yield
        assert scene.batch.sizes[3] == 5
        yield from scene.play_rest()

    scene.play(script(), room=1)


def test_a_job_that_was_told_to_be_slow_ends_the_bundle_before_it(make_scene: MakeScene) -> None:
    scene = make_scene()
    children = [target("Child", time=60.0 if n == 4 else None) for n in range(20)]

    def script() -> Iterator[None]:
        yield from scene.grow(children)
        scene.run_all(scene.worker(2))
        yield
        assert scene.batch.sizes[3] == 3
        scene.run_all(scene.worker(3))
        yield
        assert scene.batch.sizes[4] == 1
        yield from scene.play_rest()

    scene.play(script(), room=1)


def test_shapes_take_turns(make_scene: MakeScene) -> None:
    scene = make_scene()
    order: list[bytes] = []

    def script() -> Iterator[None]:
        yield from scene.grow([target(name) for name in "AAABBBCCC"])
        while scene.batch.active():
            worker = scene.worker(max(scene.batch.sizes))
            order.extend(job.payload for job in worker.left)
            scene.run_all(worker)
            yield

    scene.play(script(), room=1)

    assert order[:3] == [b"A", b"B", b"C"]


# -- the order of things ---------------------------------------------------------------------------------------


@pytest.fixture
def effects(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What the master does to the world, in order: "begin", "commit", "durable", "issue", "tell", "remove", "bundle
    removed", "cancel"."""
    done: list[str] = []

    def note(owner: Any, name: str, word: str) -> None:
        original = getattr(owner, name)

        def noted(*arguments: Any) -> Any:
            if word not in ("tell", "remove") or arguments[-1]:
                done.append(word)
            return original(*arguments)

        monkeypatch.setattr(owner, name, noted)

    for owner, name, word in (
        (Store, "begin", "begin"),
        (Store, "commit", "commit"),
        (WatchedBatchSystem, "issue", "issue"),
        (files, "make_durable", "durable"),
        (Teller, "tell", "tell"),
        (Remover, "add", "remove"),
        (bundles, "remove_bundle", "bundle removed"),
    ):
        note(owner, name, word)
    return done


def test_issuing_telling_and_removing_come_after_the_commit_and_durability_before_it(
    make_scene: MakeScene, effects: list[str]
) -> None:
    scene = make_scene(durable="full")

    def script() -> Iterator[None]:
        worker = scene.worker(1)
        worker.start()
        worker.global_dir()
        worker.message("hello")
        worker.succeed(
            [target("Child")], target("Next", mentions=(b"t",)), Value(b"t", b"x", (), in_file=True)
        )
        scene.finish(worker)
        del effects[:]
        yield
        scene.run_all(scene.worker(2))
        yield
        scene.run_all(scene.worker(3))

    scene.play(script())

    transactions = " ".join(effects).replace("begin", "\nbegin").split("\n")[1:]
    for effect in ("issue", "tell", "remove", "bundle removed"):
        holding = [line for line in transactions if effect in line]
        assert holding, effect
        assert all(line.index("commit") < line.index(effect) for line in holding), holding
    durable = [line for line in transactions if "durable" in line]
    assert durable[0] == transactions[0]
    assert all(line.index("durable") < line.index("commit") for line in durable)
    assert scene.left_behind() == []
    assert scene.rows("SELECT * FROM removals") == []


def test_nothing_is_issued_told_or_removed_if_the_commit_fails(
    make_scene: MakeScene, effects: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    scene = make_scene()

    def refuse(_: Store) -> None:
        raise StorageError("disk full")

    def script() -> Iterator[None]:
        worker = scene.worker(1)
        worker.start()
        worker.message("hello")
        worker.succeed([target("Child")])
        scene.finish(worker)
        del effects[:]
        monkeypatch.setattr(Store, "commit", refuse)
        yield

    with pytest.raises(StorageError, match="disk full"):
        scene.play(script())

    assert effects == ["begin"]
    assert os.path.exists(scene.paths.bundle(1))


def test_an_earlier_master_that_wakes_up_writes_nothing(make_scene: MakeScene) -> None:
    scene = make_scene()

    def script() -> Iterator[None]:
        other = Store(scene.paths.database)
        other.raise_generation()
        other.close()
        scene.run_all(scene.worker(1))
        yield

    with pytest.raises(StorageError, match="taken over by another master"):
        scene.play(script())

    assert scene.rows("SELECT state FROM jobs") == [(int(State.ISSUED),)]


# -- steering --------------------------------------------------------------------------------------------------


def test_a_kill_request_stops_the_run_and_what_ran_is_tried_again_at_the_next_start(
    make_scene: MakeScene,
) -> None:
    scene = make_scene()

    def script() -> Iterator[None]:
        yield from scene.grow([target("Child")] * 2)
        scene.worker(2).start()
        requests.send(scene.paths, Request("kill", "somebody"))
        yield

    stopped = scene.play(script())
    assert stopped.stopped_by == "stopped by jobTreeKill (somebody)"
    assert scene.batch.closed
    assert stopped.tree.totals == [2, 0, 1, 0, 0]
    assert scene.left_behind() == []

    assert scene.play(scene.play_rest()).tree.totals == [0, 0, 0, 0, 3]


def test_requests_that_were_meant_for_an_earlier_master_are_discarded(make_scene: MakeScene) -> None:
    scene = make_scene()
    requests.send(scene.paths, Request("kill", "somebody, long ago"))

    assert scene.play(scene.play_rest()).stopped_by is None

    assert scene.left_behind() == []


def test_a_signal_stops_the_run_in_order(make_scene: MakeScene) -> None:
    scene = make_scene()

    def script() -> Iterator[None]:
        scene.worker(1).start()
        scene.master.stop(15)
        yield

    assert scene.play(script()).stopped_by == 15

    assert scene.rows("SELECT value FROM meta WHERE key = 'ended'") == [("in order",)]
    assert scene.rows("SELECT state, tries, losses FROM jobs") == [(0, 0, 0)]


def test_ends_of_bundles_that_nobody_knows_are_ignored(make_scene: MakeScene) -> None:
    scene = make_scene()

    def script() -> Iterator[None]:
        worker = scene.worker(1)
        worker.start()
        scene.batch._ends += [End("run.77", EndKind.FINISHED, 1), End("other.1", EndKind.LOST)]
        yield
        yield
        assert scene.master.tree.totals == [0, 1, 0, 0, 0]
        worker.succeed()
        scene.finish(worker)
        yield

    assert scene.play(script()).tree.totals == [0, 0, 0, 0, 1]


def test_an_end_that_is_reported_twice_counts_once(make_scene: MakeScene) -> None:
    scene = make_scene()

    def script() -> Iterator[None]:
        yield from scene.grow([target("Child")])
        worker = scene.worker(2)
        worker.start()
        worker.succeed(follow_on=target("Next"))
        scene.finish(worker)
        scene.batch._ends.append(End("run.2", EndKind.FINISHED, 1))
        yield
        scene.batch._ends.append(End("run.2", EndKind.LOST))
        yield
        assert scene.rows("SELECT tries, losses FROM jobs WHERE parent != 0") == [(0, 0)]
        yield from scene.play_rest()

    assert scene.play(script()).tree.totals == [0, 0, 0, 0, 2]


def test_the_logs_of_what_succeeded_go_and_with_keepLogs_they_stay(make_scene: MakeScene) -> None:
    scene = make_scene(keep_logs=True)

    def script() -> Iterator[None]:
        worker = scene.worker(1)
        worker.start()
        worker.print(b"precious")
        worker.succeed([target("Child")])
        scene.finish(worker)
        yield
        worker = scene.worker(2)
        worker.start()
        worker.print(b"precious too")
        worker.succeed()
        worker.flush()  # the last job of the tree is done, and its worker has not exited yet
        yield
        yield

    scene.play(script())

    assert os.path.exists(scene.paths.log(1))
    assert os.path.exists(scene.paths.log(2)), "the master did not wait for the worker, and lost its log"


def test_time_moves_only_when_the_test_says_so_and_the_master_never_turns_for_nothing(
    make_scene: MakeScene, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    scene = make_scene()

    def script() -> Iterator[None]:
        worker = scene.worker(1)
        worker.start()
        for _ in range(100):
            yield
        worker.succeed()
        scene.finish(worker)
        yield

    scene.play(script())

    assert all(timeout > 0 for timeout in scene.batch.timeouts[2:])
