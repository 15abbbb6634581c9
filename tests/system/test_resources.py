"""Countable resources and two batch systems at once, in real runs: each target checks that it is alone with its own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fakes.detached import VARIABLE, RunningFarm
from tests.system.pipelines import Pipeline

EXCLUSIVE = """
class Alone:
    '''While it is held, nobody else can have the same.'''
    def __init__(self, *things):
        self.paths = [os.path.join(HERE, "held-" + thing) for thing in things]
    def __enter__(self):
        for path in self.paths:
            os.close(os.open(path, os.O_CREAT | os.O_EXCL))
    def __exit__(self, *_):
        for path in self.paths:
            os.unlink(path)

def crunch():
    return sum(i * i for i in range(20000))
"""


def test_a_licence_is_lent_to_one_target_at_a_time(tmp_path: Path) -> None:
    pipeline = Pipeline(
        tmp_path,
        EXCLUSIVE
        + """
class Setup(Target):
    def run(self):
        for i in range(30):
            self.addChildTarget(Licensed(i))
            self.addChildFn(note, args=("free",))
class Licensed(Target):
    def __init__(self, i):
        Target.__init__(self, resources={"licence": 1})
        self.i = i
    def run(self):
        with Alone("licence"):
            crunch()
        self.setFollowOnTarget(Plain())
class Plain(Target):
    def run(self):
        note("after")
""",
    )

    pipeline.run("--maxThreads", "4", "--limit", "licence=1").succeeded()

    assert pipeline.counted() == {"free": 30, "after": 30}


def test_what_nobody_has_counted_is_refused_and_says_what_to_do(tmp_path: Path) -> None:
    pipeline = Pipeline(
        tmp_path,
        """
class Setup(Target):
    def run(self):
        self.addChildCommand("true", resources={"licence": 1})
        self.addChildFn(note, args=("other",))
""",
    )

    ran = pipeline.run()

    assert ran.status == 1
    assert "asks for 1 licence, and nobody has said how many there are. Say so: --limit licence=N" in (
        ran.err
    )
    assert pipeline.notes() == ["other"]
    pipeline.run("--limit", "licence=1").succeeded()


def test_targets_see_the_graphics_cards_that_they_were_lent_and_no_others(tmp_path: Path) -> None:
    pipeline = Pipeline(
        tmp_path,
        EXCLUSIVE
        + """
class Setup(Target):
    def run(self):
        for i in range(12):
            self.addChildTarget(Card(1 + i % 2))
        self.addChildTarget(Card(0))
class Card(Target):
    def __init__(self, number):
        Target.__init__(self, gpus=number)
        self.number = number
    def run(self):
        seen = [card for card in os.environ["CUDA_VISIBLE_DEVICES"].split(",") if card]
        with Alone(*seen):
            crunch()
        assert len(seen) == self.number and set(seen) <= {"0", "1", "2"}, seen
        note(len(seen))
""",
    )

    pipeline.run("--maxThreads", "4", "--limit", "gpus=3").succeeded()

    assert pipeline.counted() == {"0": 1, "1": 6, "2": 6}


@pytest.fixture
def farm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[RunningFarm]:
    monkeypatch.setenv(VARIABLE, str(tmp_path / "farm"))
    with RunningFarm(tmp_path / "farm") as made:
        yield made


@pytest.mark.parametrize("big_is_here", [False, True])
def test_large_targets_run_elsewhere_and_small_ones_here(
    tmp_path: Path, farm: RunningFarm, big_is_here: bool
) -> None:
    here, there = "singleMachine", "tests.fakes.detached:Detached"
    first, second = (there, here) if big_is_here else (here, there)
    pipeline = Pipeline(
        tmp_path,
        """
import psutil

class Setup(Target):
    def run(self):
        parts = [self.addChildTarget(Part(i, 1 + i % 2)).rv() for i in range(12)]
        return self.setFollowOnTarget(Sum(parts)).rv()
class Part(Target):
    def __init__(self, i, cpu):
        Target.__init__(self, cpu=cpu)
        self.i = i
    def run(self):
        parent = " ".join(psutil.Process().parent().cmdline())
        note("%s: %s" % ("there" if "supervisor" in parent else "here", self.getCpu()))
        return self.i
class Sum(Target):
    def __init__(self, numbers):
        Target.__init__(self)
        self.numbers = numbers
    def run(self):
        return sum(self.numbers)
""",
    )

    ran = pipeline.run(
        "--batchSystem", first, "--bigBatchSystem", second, "--bigCpuThreshold", "1", "--maxThreads", "2",
        "--jobTime", "1", "--lease", "30",
    )  # fmt: skip

    ran.succeeded()
    assert "result: 66" in ran.out
    small, large = ("there", "here") if big_is_here else ("here", "there")
    assert pipeline.counted() == {f"{small}: 1.0": 6, f"{large}: 2.0": 6}
    assert pipeline.leftovers() == []
