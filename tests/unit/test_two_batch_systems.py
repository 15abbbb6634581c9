"""Which of two batch systems a job goes to, that each keeps its limits, and what is limited over both."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Callable, Optional

import pytest

from batchsystems.abstract import Submission
from jobtree.errors import UsageError
from jobtree.events import State
from jobtree.frames import Packed
from jobtree.options import Settings
from jobtree.run import _check_built
from tests.fakes.fake_batch_system import FakeBatchSystem
from tests.fakes.master_scene import MakeScene, Scene
from tests.fakes.scripted_worker import target

GIB = 1 << 30


def grown(scene: Scene, children: list[Packed]) -> Iterator[None]:
    """Script: the root adds these children, and all of them succeed."""
    yield from scene.grow(children)
    while not scene.master.tree.stuck:
        yield from scene.play_rest()
        yield  # the ends of the second one are heard of a turn later


def requests(batch: Optional[FakeBatchSystem]) -> list[tuple[float, int]]:
    assert batch is not None
    return [(submission.resources.cpu, submission.resources.memory // GIB) for submission in batch.issued]


def test_large_jobs_go_to_the_second_one(make_scene: MakeScene) -> None:
    scene = make_scene(big_batch_system="big", big_memory_threshold=4 * GIB, big_cpu_threshold=2)
    children = [
        target("Small", memory=4 * GIB, cpu=2.0),
        target("Much", memory=5 * GIB, cpu=1.0),
        target("Wide", memory=GIB, cpu=3.0),
    ]

    master = scene.play(grown(scene, children), cpu=4, memory=8 * GIB)

    assert requests(scene.batch) == [(1.0, 2), (2.0, 4)]
    assert sorted(requests(scene.big)) == [(1.0, 5), (3.0, 1)]
    assert master.tree.complete
    assert scene.left_behind() == []


def test_without_thresholds_the_second_one_gets_what_cannot_fit_into_the_first(make_scene: MakeScene) -> None:
    scene = make_scene(big_batch_system="big")

    scene.play(grown(scene, [target("Fits", cpu=4.0), target("Wide", cpu=5.0)]), cpu=4, memory=8 * GIB)

    assert requests(scene.batch) == [(1.0, 2), (4.0, 2)]
    assert requests(scene.big) == [(5.0, 2)]


def test_what_fits_into_neither_fails_with_both_numbers(
    make_scene: MakeScene, caplog: pytest.LogCaptureFixture
) -> None:
    scene = make_scene(big_batch_system="big")

    master = scene.play(grown(scene, [target("Wide", cpu=9.0)]), cpu=4, memory=8 * GIB)

    assert master.tree.totals[State.FAILED] == 1
    assert "Wide asks for 9 cores, but at most 8" in caplog.text


def test_a_follow_on_may_go_to_the_other_one(make_scene: MakeScene) -> None:
    scene = make_scene(big_batch_system="big", big_cpu_threshold=2)

    def script() -> Iterator[None]:
        yield from scene.grow([target("Small")], target("Wide", cpu=3.0))
        yield from scene.play_rest()

    scene.play(script(), cpu=4, memory=8 * GIB)

    assert requests(scene.batch) == [(1.0, 2), (1.0, 2)]
    assert requests(scene.big) == [(3.0, 2)]


@pytest.mark.parametrize(
    ("first", "second"), [("singleMachine", "single_machine"), ("singleMachine", "acidTest")]
)
def test_the_same_machine_twice_is_refused(first: str, second: str) -> None:
    with pytest.raises(UsageError, match=f"--bigBatchSystem {second} is the same as --batchSystem {first}"):
        _check_built(Settings(batch_system=first, big_batch_system=second))


def test_a_second_one_without_thresholds_is_told_what_it_gets(caplog: pytest.LogCaptureFixture) -> None:
    second = "tests.fakes.detached:Detached"
    with caplog.at_level(logging.WARNING, "jobtree"):
        _check_built(Settings(big_batch_system=second, big_memory_threshold=GIB))
        assert caplog.text == ""
        _check_built(Settings(big_batch_system=second))
    assert "it gets only what cannot fit into singleMachine" in caplog.text


# -- countable things --------------------------------------------------------------------------------------------


def most_at_once(scene: Scene, thing: str) -> Callable[[], int]:
    """Watch how many of a thing were promised at one time, in all batch systems."""
    highest = 0

    def watch(submissions: list[Submission]) -> None:
        nonlocal highest
        highest = max(
            highest, sum(submission.resources.countable.get(thing, 0) for submission in submissions)
        )

    original = scene.active

    def active() -> list[Submission]:
        found = original()
        watch(found)
        return found

    scene.active = active  # type: ignore[method-assign]
    return lambda: highest


def test_no_more_licences_are_promised_than_there_are_in_both_together(make_scene: MakeScene) -> None:
    scene = make_scene(big_batch_system="big", big_cpu_threshold=2, limits={"licence": 3})
    children = [target(f"Small{n}", countable="licence=1") for n in range(6)]
    children += [target(f"Wide{n}", cpu=3.0, countable="licence=2") for n in range(3)]
    highest = most_at_once(scene, "licence")

    master = scene.play(grown(scene, children), cpu=4, memory=8 * GIB)

    assert master.tree.complete
    assert highest() == 3
    assert len(requests(scene.big)) == 3


def test_jobs_that_ask_for_none_do_not_wait_for_a_licence(make_scene: MakeScene) -> None:
    scene = make_scene(limits={"licence": 1})
    children = [target("Licensed", countable="licence=1")] * 3 + [target("Free")] * 2

    def script() -> Iterator[None]:
        yield from scene.grow(children)
        issued = [dict(submission.resources.countable) for submission in scene.batch.active()]
        assert issued.count({"licence": 1}) == 1
        assert issued.count({}) >= 1
        yield from scene.play_rest()

    assert scene.play(script(), cpu=4).tree.complete


@pytest.mark.parametrize(
    ("limits", "countable", "words"),
    [
        (
            {},
            "licence=1",
            "Job asks for 1 licence, and nobody has said how many there are. Say so: --limit licence=N",
        ),
        ({"licence": 2}, "licence=3", "asks for 3 licence, and --limit licence=2 says that there are fewer"),
        ({"gpus": 2}, "gpus=3", "asks for 3 gpus, and --limit gpus=2 says that there are fewer"),
    ],
)
def test_more_than_there_ever_will_be_fails_at_once(
    make_scene: MakeScene,
    caplog: pytest.LogCaptureFixture,
    limits: dict[str, int],
    countable: str,
    words: str,
) -> None:
    scene = make_scene(limits=limits)

    master = scene.play(grown(scene, [target("Job", countable=countable), target("Other")]), cpu=4)

    assert master.tree.totals[State.FAILED] == 1
    assert master.tree.totals[State.DONE] == 1
    assert words in caplog.text


def test_a_larger_limit_at_the_next_start_lets_it_run(make_scene: MakeScene) -> None:
    scene = make_scene(limits={"licence": 1})
    scene.play(grown(scene, [target("Job", countable="licence=2")]))
    scene.settings = Settings(job_tree=scene.paths.root, durable="tree", limits={"licence": 2})

    def script() -> Iterator[None]:
        yield
        yield from scene.play_rest()

    assert scene.play(script()).tree.complete
