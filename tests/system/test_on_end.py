"""--onEnd with real runs: when it is called, and what it may do then."""

from __future__ import annotations

import shlex
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.system.legacy_script import CHECKOUT
from tests.system.pipelines import Pipeline
from tests.system.waiting import PAUSE, Bench

TARGETS = """
class Setup(Target):
    def run(self):
        if os.path.exists("broken"):
            raise ValueError("no good")
"""
NOTE = 'echo "$JOBTREE_RESULT $JOBTREE_DONE $JOBTREE_FAILED $JOBTREE_WAITING $JOBTREE_REASON" >> told'


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    with Bench(tmp_path) as bench:
        yield bench


def told(directory: Path) -> list[str]:
    path = directory / "told"
    return [line.rstrip() for line in path.read_text().splitlines()] if path.exists() else []


def test_it_is_told_of_each_run_and_may_look_at_the_tree(tmp_path: Path) -> None:
    pipeline = Pipeline(tmp_path, TARGETS)
    status = shlex.join([sys.executable, str(CHECKOUT / "bin" / "jobTreeStatus")])
    (tmp_path / "broken").touch()

    assert pipeline.run("--onEnd", NOTE).status == 1
    (tmp_path / "broken").unlink()
    again = pipeline.run("--onEnd", f'{NOTE}; {status} "$JOBTREE_DIR" --failIfNotComplete; exit 9')
    complete = pipeline.run("--onEnd", NOTE)

    assert told(tmp_path) == ["failed 0 1 0", "done 1 0 0"]
    assert again.status == 0  # whatever the command says
    assert "WARNING: --onEnd echo " in again.err
    assert again.err.rstrip().endswith("ended with exit status 9")
    assert "tree: complete" in again.out
    assert complete.status == 0


def test_it_is_told_that_a_run_was_stopped(bench: Bench) -> None:
    pipeline = Pipeline(
        bench.directory, PAUSE + "\n" + TARGETS.replace("run(self):", "run(self):\n        pause()")
    )
    running = bench.start(pipeline.name, "--jobTree", str(pipeline.tree), "--onEnd", NOTE)
    bench.gate.arrival()
    running.send(signal.SIGTERM)

    assert running.ended().status == 128 + signal.SIGTERM
    assert told(bench.directory) == ["stopped 0 0 1 stopped by SIGTERM"]


def test_jobtreerun_goes_on_with_the_command_of_the_last_start(tmp_path: Path) -> None:
    pipeline = Pipeline(tmp_path, TARGETS)
    (tmp_path / "broken").touch()
    pipeline.run("--onEnd", NOTE)
    pipeline.program("jobTreeRun", str(pipeline.tree))
    pipeline.program("jobTreeRun", str(pipeline.tree), "--onEnd", "")

    assert told(tmp_path) == ["failed 0 1 0", "failed 0 1 0"]
