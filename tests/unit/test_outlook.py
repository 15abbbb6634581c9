"""How far a run is: counted from what a master has in memory, and how fast it goes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from jobtree.outlook import Look, Pace, in_words
from tests.fakes.master_scene import MakeScene
from tests.fakes.scripted_worker import target

PAGE = Path(__file__).parents[2] / "docs" / "howto" / "see-and-steer.md"


def look(moment: float, targets: int = 0, **more: Any) -> Look:
    """A look at a run whose targets take two seconds each."""
    given: dict[str, Any] = {
        "done": targets,
        "running": 2,
        "waiting": 100,
        "failed": 0,
        "left": 200.0,
        **more,
    }
    return Look(moment, targets=targets, worked=2.0 * targets, unmeasured=0, **given)


def test_a_run_is_counted_as_it_goes_on(make_scene: MakeScene) -> None:
    scene = make_scene(retry_count=0)
    seen: list[Look] = []

    def script() -> Iterator[None]:
        seen.append(scene.master.outlook.look())
        yield from scene.grow([target("Long")] * 3 + [target("New")])
        worker = scene.worker(2)
        worker.start()
        worker.succeed(wall=8.0)
        scene.finish(worker)
        yield
        seen.append(scene.master.outlook.look())
        worker = scene.worker(3)
        worker.start()
        worker.fail("no")
        scene.finish(worker)
        yield
        worker = scene.worker(4)
        worker.start()
        yield
        yield
        scene.clock.advance(2.0)
        seen.append(scene.master.outlook.look())
        worker.succeed(wall=8.0)
        scene.finish(worker)
        yield
        yield from scene.play_rest()

    scene.play(script())
    seen.append(scene.master.outlook.look())

    assert [(s.done, s.running, s.waiting, s.failed) for s in seen] == [
        (0, 0, 1, 0),
        (1, 0, 4, 0),
        (1, 1, 2, 1),
        (3, 0, 1, 1),
    ]
    assert [s.targets for s in seen] == [0, 2, 2, 4]
    assert [s.unmeasured for s in seen] == [1, 1, 0, 0]
    assert seen[1].left == pytest.approx(16.0)  # two of the class that took eight seconds
    assert 12.0 < seen[2].left <= 14.0  # and one of them has been at it for two
    assert seen[3].left == 0


def test_speed_is_that_of_the_last_minute() -> None:
    pace = Pace(look(0.0))
    for second in range(1, 400):
        pace.add(look(float(second), targets=100 * second if second < 200 else 20_000 + 5 * (second - 200)))

    assert pace.rate == pytest.approx(5.0, rel=0.05)
    assert pace.seconds_left == pytest.approx(200.0 / 10.0, rel=0.05)  # ten seconds of work get done in one


def test_the_line_in_the_documents_is_what_is_shown() -> None:
    pace = Pace(look(0.0, targets=4820))
    now = look(10.0, targets=5230, running=8, waiting=1204, failed=1, left=29.0 * 82)
    pace.add(now)

    assert f"```\n{in_words(now, pace)}\n```" in PAGE.read_text("utf-8")


def test_of_long_targets_the_whole_time_counts() -> None:
    pace = Pace(look(0.0))
    for hour in range(1, 6):
        pace.add(look(3600.0 * hour, targets=hour))

    assert pace.rate == pytest.approx(1 / 3600)
    assert pace.seconds_left == 100.0  # two that run get two seconds of work done in one


def test_nothing_is_foretold_where_nothing_is_known() -> None:
    still = Pace(look(0.0, left=0.0))
    stopped = Pace(look(0.0, running=0))

    assert (still.rate, still.seconds_left) == (0.0, None)
    assert stopped.seconds_left is None
    assert in_words(look(0.0, left=0.0), still) == "0 done, 2 running, 100 waiting, 0 failed"


@pytest.mark.parametrize(
    ("seconds", "targets", "left", "words"),
    [
        (10, 18_000, 10.0, "; 1800/s; 1s left"),
        (10, 30, 200.0, "; 3.0/s; 33s left"),
        (50, 10, 4000.0, "; 12/min; 2h 46m left"),
        (7200, 3, 4000.0, "; 1.5/h; 33m 20s left"),
        (10, 18_000, 10**9, "; 1800/s; 3d 5h left"),
    ],
)
def test_rate_and_time_left_are_readable_at_any_speed(
    seconds: int, targets: int, left: float, words: str
) -> None:
    pace = Pace(look(0.0))
    last = look(float(seconds), targets=targets, left=left)
    pace.add(last)

    assert in_words(last, pace) == f"{targets} done, 2 running, 100 waiting, 0 failed{words}"


def test_what_is_not_known_makes_it_the_least() -> None:
    pace = Pace(look(0.0))
    last = look(100.0, targets=100)._replace(unmeasured=1)
    pace.add(last)

    assert in_words(last, pace).endswith("; 1.0/s; at least 1m 40s left")
