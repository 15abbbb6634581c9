"""The moments between two acts of the master: what a worker may do just then, and what is on the disk by then."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

from jobtree import bundles, frames
from jobtree.adoption import Adopter
from jobtree.paths import TreePaths
from jobtree.removals import Remover
from tests.fakes.master_scene import Died, MakeScene
from tests.fakes.scripted_worker import ScriptedWorker, Value, target


def test_what_a_worker_begins_just_before_a_recall_is_not_taken_from_it(
    make_scene: MakeScene, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has said so, looked, and seen no recall; the master reads that after it has recalled."""
    scene = make_scene()
    recall = bundles.recall
    workers: list[ScriptedWorker] = []

    def too_late(paths: TreePaths, bundle: int) -> None:
        worker = workers[0]
        worker.succeed()
        assert worker.start()
        recall(paths, bundle)

    def script() -> Iterator[None]:
        workers.append((yield from scene.grow_late(4)))
        monkeypatch.setattr(bundles, "recall", too_late)
        while len(scene.batch.active()) < 2:
            yield
        worker = workers[0]
        assert worker.job is not None
        running = worker.job.id, worker.job.attempt
        issued_elsewhere = [
            job.id for number in scene.batch.sizes if number > 3 for job in jobs_of(scene.paths, number)
        ]
        assert running[0] not in issued_elsewhere
        assert scene.master.tree.current(*running) is not None
        worker.succeed()
        scene.finish(worker)
        yield from scene.play_rest()

    assert scene.play(script()).tree.totals == [0, 0, 0, 0, 10]


def jobs_of(paths: TreePaths, bundle: int) -> list[frames.BundleJob]:
    """The jobs in a bundle's file."""
    try:
        data = Path(paths.bundle(bundle)).read_bytes()
    except FileNotFoundError:
        return []
    found = frames.decode_bundle(data)
    assert found is not None
    return found[1]


def test_a_restarted_master_claims_waits_and_only_then_reads(
    make_scene: MakeScene, monkeypatch: pytest.MonkeyPatch
) -> None:
    scene = make_scene()

    def first() -> Iterator[None]:
        yield from scene.grow([target("Child")])
        raise Died

    scene.play_until_death(first())
    done: list[str] = []

    def noted(owner: Any, name: str, what: str) -> None:
        original = getattr(owner, name)

        def note(*arguments: Any, **more: Any) -> Any:
            done.append(what)
            return original(*arguments, **more)

        monkeypatch.setattr(owner, name, note)

    noted(bundles, "claim", "claim")
    noted(bundles, "wait_for_worker", "wait")
    noted(Adopter, "settle", "read")
    scene.start()
    scene.store.close()

    assert done == ["claim", "wait", "read"]


def test_a_worker_that_comes_while_a_restarted_master_reads_runs_nothing(
    make_scene: MakeScene, monkeypatch: pytest.MonkeyPatch
) -> None:
    scene = make_scene()

    def first() -> Iterator[None]:
        yield from scene.grow([target("Child")])
        raise Died

    scene.play_until_death(first())
    came: list[bool] = []
    settle = Adopter.settle

    def late(adopter: Adopter, *arguments: Any, **more: Any) -> None:
        came.append(ScriptedWorker(scene.paths, 2).open())
        settle(adopter, *arguments, **more)

    monkeypatch.setattr(Adopter, "settle", late)
    scene.start()
    scene.store.close()

    assert came == [False]


def test_what_is_to_go_is_written_down_before_it_goes(
    make_scene: MakeScene, monkeypatch: pytest.MonkeyPatch
) -> None:
    scene = make_scene(retry_count=1)
    noted: list[tuple[list[str], list[str]]] = []
    add = Remover.add

    def look(remover: Remover, removals: Iterable[tuple[int, str]]) -> None:
        wanted = list(removals)
        paths = [row[0] for row in scene.rows("SELECT path FROM removals")]
        noted.append(([path for _, path in wanted], paths))
        add(remover, wanted)

    def script() -> Iterator[None]:
        worker = scene.worker(1)
        worker.start()
        worker.global_dir()
        worker.keep(Value(b"value", b"nobody asks for it", (), in_file=True))
        worker.fail()
        scene.finish(worker)
        yield
        yield from scene.play_rest()

    monkeypatch.setattr(Remover, "add", look)
    scene.play(script())

    gone = [path for wanted, _ in noted for path in wanted]
    assert sorted(os.path.dirname(path).split(os.sep)[0] for path in gone) == ["globalTempDirs", "values"]
    assert all(set(wanted) <= set(paths) for wanted, paths in noted)
    assert scene.rows("SELECT path FROM removals") == []


def test_a_target_that_tells_of_other_children_than_there_are_runs_again(make_scene: MakeScene) -> None:
    """Frames between are missing: what is there is not what it has left."""
    scene = make_scene()

    def script() -> Iterator[None]:
        worker = scene.worker(1)
        worker.start()
        job = worker.job
        assert job is not None
        worker.write_children([target("Child")] * 2)
        measures = (0.001, 0.001, 1 << 20, True)
        worker.write(frames.SUCCEEDED, job.id, job.attempt, measures, 3, None, None, None)
        worker.job = None
        scene.finish(worker)
        yield
        assert scene.master.tree.totals == [0, 1, 0, 0, 0]
        yield from scene.play_rest()

    assert scene.play(script()).tree.totals == [0, 0, 0, 0, 1]


def test_children_of_a_failed_attempt_are_not_taken_for_those_of_the_next_target(
    make_scene: MakeScene,
) -> None:
    scene = make_scene(retry_count=1)

    def script() -> Iterator[None]:
        yield from scene.grow_bundle(2)
        worker = scene.worker(3)
        worker.start()
        worker.write_children([target("Wrong")] * 3, chunk=1)
        worker.fail()
        worker.start()
        attempt = worker.job
        assert attempt is not None
        worker.succeed([target("Right")])
        scene.finish(worker)
        yield
        # It counts at once, with its own child.
        assert scene.rows("SELECT state, pending FROM jobs WHERE id = ?", attempt.id) == [(2, 1)]
        assert scene.rows("SELECT name FROM shapes WHERE name = 'Wrong'") == []
        yield from scene.play_rest()

    scene.play(script())
    assert scene.master.tree.complete
