"""What a master notes of targets and workers: each once, whatever becomes of them."""

from __future__ import annotations

import signal
import sqlite3
from collections.abc import Iterator
from typing import Any

from batchsystems.abstract import Reason
from jobtree.paths import job_id
from jobtree.statistics import ClassUsage, Statistics, made_of, rows
from tests.fakes.master_scene import Died, MakeScene, Scene
from tests.fakes.scripted_worker import target


def recorded(scene: Scene) -> list[Any]:
    """Job, attempt, step, parent, the parent's step, class, kind of failure."""
    return scene.rows(
        "SELECT job, attempt, step, parent, parent_step, name, targets.failed FROM targets "
        "JOIN shapes ON shapes.id = targets.shape ORDER BY job, attempt"
    )


def workers(scene: Scene) -> dict[int, tuple[int, int]]:
    """How many targets of each worker ended well, and not."""
    return {row[0]: row[1:] for row in scene.rows("SELECT bundle, targets, failures FROM workers")}


def used(scene: Scene) -> dict[str, ClassUsage]:
    connection = sqlite3.connect(scene.paths.database)
    try:
        found: Statistics = made_of(rows(connection))
    finally:
        connection.close()
    return {kind.name: kind for kind in found.classes}


def test_every_attempt_has_a_row_with_its_place_in_the_tree(make_scene: MakeScene) -> None:
    scene = make_scene(stats=True, retry_count=1)

    def script() -> Iterator[None]:
        worker = scene.worker(1)
        worker.start()
        worker.succeed([target("Child")], target("Next"))
        scene.finish(worker)
        yield
        worker = scene.worker(2)
        worker.start()
        worker.fail("ValueError: no", wall=2.0)
        scene.finish(worker)
        yield
        scene.run_all(scene.worker(3))
        yield
        worker = scene.worker(4)
        worker.start()
        worker.start(worker.succeed([target("Only")], go_on=True))
        worker.succeed()
        scene.finish(worker)
        yield

    scene.play(script())

    child, only = job_id(1, 1), job_id(4, 1)
    assert recorded(scene) == [
        (1, 1, 0, 0, 0, "Root", None),
        (1, 2, 1, 0, 0, "Next", None),
        (child, 1, 0, 1, 0, "Child", "exception"),
        (child, 2, 0, 1, 0, "Child", None),
        (only, 1, 0, 1, 1, "Only", None),
    ]
    assert workers(scene) == {1: (1, 0), 2: (0, 1), 3: (1, 0), 4: (2, 0)}
    kind = used(scene)["Child"]
    assert (kind.measured.count, kind.failures, kind.in_vain) == (1, 1, 2.0)


def test_without_stats_there_are_sums_only(make_scene: MakeScene) -> None:
    scene = make_scene()

    def script() -> Iterator[None]:
        yield from scene.grow([target("Child")] * 5)
        yield from scene.play_rest()

    scene.play(script())

    assert recorded(scene) == []
    assert used(scene)["Child"].measured.count == 5
    assert sum(well for well, _ in workers(scene).values()) == 6


def test_a_target_that_takes_its_worker_along_is_noted_with_its_time(make_scene: MakeScene) -> None:
    scene = make_scene(stats=True)

    def script() -> Iterator[None]:
        worker = scene.worker(1)
        worker.start()
        yield
        scene.clock.advance(7.0)
        scene.batch.kill(scene.name(1), Reason.MEMORY, signal.SIGKILL)
        yield

    scene.play(script())

    assert [row[-1] for row in recorded(scene)] == ["memory"]
    assert workers(scene) == {1: (0, 1)}
    assert used(scene)["Root"].in_vain >= 7.0


def test_what_an_earlier_master_had_read_of_a_worker_counts_once(make_scene: MakeScene) -> None:
    scene = make_scene(stats=True)

    def first() -> Iterator[None]:
        worker = yield from scene.grow_late(4)
        worker.succeed()
        worker.start()
        worker.succeed()
        worker.flush()
        for _ in range(3):
            yield
        assert scene.rows("SELECT offset > 0 FROM bundles") == [(1,)]
        assert scene.rows("SELECT count(*) FROM targets WHERE bundle = 3") == [(2,)]
        worker.start()
        raise Died

    scene.play_until_death(first())
    scene.play(scene.play_rest())

    assert workers(scene)[3][0] == 2
    done = scene.rows("SELECT count(*), count(DISTINCT job) FROM targets WHERE failed IS NULL")
    assert done == scene.rows("SELECT sum(succeeded), sum(done) FROM shapes")


def test_a_worker_that_started_nothing_is_none(make_scene: MakeScene) -> None:
    scene = make_scene()

    def script() -> Iterator[None]:
        scene.batch.lose(scene.name(1))
        yield
        while not scene.batch.active():
            yield
        yield from scene.play_rest()

    scene.play(script())

    assert list(workers(scene)) == [2]
