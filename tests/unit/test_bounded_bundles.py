"""How much goes into a bundle on a cluster, where a worker gives back what it has not begun, as the master sees it.

(jobtree.bundling has the rules; tests/unit/test_bundling.py holds it to them, without a master.)
"""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from tests.fakes.cluster_scene import MakeClusterScene
from tests.fakes.master_scene import number_of
from tests.fakes.scripted_worker import target


def test_what_a_running_bundle_has_shown_is_enough_to_make_the_next_ones(
    make_cluster_scene: MakeClusterScene,
) -> None:
    """Nobody waits for the end of a bundle that may take minutes to know how long its targets take."""
    scene = make_cluster_scene(job_time=30)

    def script() -> Iterator[None]:
        scene.batch.slot_count = 1
        yield from scene.grow([target("Child")] * 8)
        yield from scene.wait(1)
        first = scene.supervised(2)
        yield from scene.wait(3, beating=first)
        assert scene.batch.sizes == {1: 1, 2: 4}, "half of them, and nothing more until something is known"
        first.start()
        first.succeed(wall=10.0)
        first.start()
        yield from scene.wait(1, beating=first)
        assert scene.batch.sizes[3] == 2, "as many as take about 25 s"
        scene.run_all(first)
        yield from scene.play_rest()

    assert scene.play(script()).tree.complete


def test_the_time_limit_of_a_bundle_counts_what_its_worker_gives_back(
    make_cluster_scene: MakeClusterScene,
) -> None:
    scene = make_cluster_scene(job_time=30, default_time=100)

    def script() -> Iterator[None]:
        scene.batch.slot_count = 1
        yield from scene.grow([target("Child")] * 20)
        yield from scene.wait(1)
        assert scene.batch.sizes[2] == 10
        yield from scene.play_rest()

    assert scene.play(script()).tree.complete
    # One begins after 60 s at the latest and may take 100; a quarter and a minute are the margin.
    assert scene.batch.issued[1].resources.time == 260


@pytest.mark.parametrize("wall", [2.5, 8.0])
def test_idle_slots_take_over_what_a_guessed_bundle_has_not_begun(
    make_cluster_scene: MakeClusterScene, wall: float
) -> None:
    """However often one of its targets ends: what counts is how long the bundle takes."""
    scene = make_cluster_scene(job_time=300)

    def script() -> Iterator[None]:
        scene.batch.slot_count = 2
        yield from scene.grow([target("Child")] * 400)
        yield from scene.wait(1)
        slow = scene.supervised(2)
        slow.start()
        yield from scene.wait(2, beating=slow)
        begun = scene.clock.now
        while not slow.recalled():
            until = scene.clock.now + wall
            while scene.clock.now < until and not slow.recalled():
                scene.run_others(2)
                yield from scene.wait(0.1, beating=slow)
            if not slow.recalled():
                slow.succeed(wall=wall)
                slow.start()
        assert scene.clock.now - begun < 30
        slow.acknowledge_recall()
        slow.succeed(wall=wall)
        scene.finish(slow)
        yield from scene.play_rest()

    assert scene.play(script()).tree.complete


def test_a_class_that_waits_for_its_measurement_keeps_nobody_from_what_others_have_not_begun(
    make_cluster_scene: MakeClusterScene, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of Big there is one slot and nothing known; it has ready jobs, and the other three slots are idle."""
    scene = make_cluster_scene(job_time=30)

    def script() -> Iterator[None]:
        monkeypatch.setattr(scene.batch, "slots", lambda asked: 1 if asked.memory > 4 << 30 else 4)
        yield from scene.grow([target("Child")] * 40 + [target("Big", memory=8 << 30)] * 10)
        yield from scene.wait(1)
        slow = scene.supervised(2)
        slow.start()
        yield from scene.wait(2, beating=slow)
        (big,) = (s.name for s in scene.batch.active() if s.resources.memory > 4 << 30)
        held = scene.supervised(number_of(big))
        held.start()
        while not slow.recalled():
            held.beat()
            scene.run_others(2, held.bundle)
            yield from scene.wait(0.1, beating=slow)
        slow.acknowledge_recall()
        for worker in (slow, held):
            worker.succeed()
            scene.finish(worker)
        yield from scene.play_rest()

    assert scene.play(script()).tree.complete


def test_large_jobs_of_which_nothing_is_known_are_few_to_a_bundle(
    make_cluster_scene: MakeClusterScene,
) -> None:
    """A worker reads its whole bundle into the memory that one of them asks for."""
    scene = make_cluster_scene(job_time=30)

    def script() -> Iterator[None]:
        scene.batch.slot_count = 1
        yield from scene.grow([target("Child", payload=bytes(1 << 20)) for _ in range(40)])
        yield from scene.wait(1)
        assert scene.batch.sizes[2] == 4
        assert os.path.getsize(scene.paths.bundle(2)) < 5 << 20
        yield from scene.play_rest()

    assert scene.play(script()).tree.complete


def test_workers_that_end_after_each_target_are_not_given_thousands(
    make_cluster_scene: MakeClusterScene,
) -> None:
    """As those do whose targets leave a thread behind; what they have not run was written and issued in vain."""
    scene = make_cluster_scene(job_time=30)

    def script() -> Iterator[None]:
        scene.batch.slot_count = 2
        yield from scene.grow([target("Child")] * 400)
        ended = 0
        while ended < 20:
            for submission in scene.batch.active():
                worker = scene.supervised(number_of(submission.name))
                worker.start()
                worker.succeed(wall=0.01)
                scene.finish(worker)
                ended += 1
            yield from scene.wait(1)
        assert max(size for bundle, size in scene.batch.sizes.items() if bundle > 8) <= 10
        yield from scene.play_rest()

    assert scene.play(script()).tree.complete


def test_slots_that_come_later_get_a_part_too(make_cluster_scene: MakeClusterScene) -> None:
    scene = make_cluster_scene(job_time=300)

    def script() -> Iterator[None]:
        scene.batch.slot_count = 1
        yield from scene.grow([target("Child")] * 1000)
        yield from scene.wait(1)
        assert scene.batch.sizes[2] == 500
        scene.batch.slot_count = 100
        first = scene.supervised(2)
        first.start()
        yield from scene.wait(2, beating=first)
        assert scene.batch.sizes[3] == 3
        scene.run_all(first)
        yield from scene.play_rest()

    assert scene.play(script()).tree.complete
