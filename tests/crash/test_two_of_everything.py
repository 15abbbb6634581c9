"""Two masters, two workers of one bundle, two submissions of it: one wins, always, and the other does nothing.

A master that is stopped (SIGSTOP) keeps the kernel's lock, so on one machine nobody can take over from it. Where the
lock is lost (a network file system whose server forgot it), the number of the start in the database decides, and the
claims of bundles.
"""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NoReturn

import pytest

from batchsystems.abstract import Submission
from jobtree import run, serialization
from jobtree.errors import AnotherMaster, StorageError
from jobtree.frames import Packed
from jobtree.options import Settings
from jobtree.target import CommandTarget
from tests.fakes.detached import VARIABLE, RunningFarm
from tests.fakes.fake_batch_system import FakeBatchSystem
from tests.fakes.fake_clock import FakeClock
from tests.fakes.master_scene import Scene, check_rows
from tests.fakes.scripted_worker import ScriptedWorker, target
from tests.system.pipelines import IMPORTS, MAIN, Pipeline, variables, wait_until
from tests.system.test_outliving import OPTIONS, PIPELINE, complete, counted, leftovers
from tests.system.waiting import PAUSE, Bench

ROUNDS = 100
LANES = 5
DEADLINE_SECONDS = 60.0

GATED = (
    PAUSE
    + """
class Setup(Target):
    def run(self):
        note("setup")
        pause()
"""
)


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    """A directory with a gate."""
    with Bench(tmp_path) as bench:
        yield bench


# -- two masters -----------------------------------------------------------------------------------------------


class Contender:
    """A process that is ready to start a master, and does so when the pipe ``start`` is closed.

    One that wins holds the tree until all others have lost, which they tell by closing their end of ``lost``.
    """

    def __init__(self, root: Path, start: int, not_mine: Sequence[int], lost: tuple[int, int]) -> None:
        self.report, told = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            for fd in not_mine:
                os.close(fd)
            self._contend(root, start, told, lost)
        os.close(told)

    @staticmethod
    def _contend(root: Path, start: int, told: int, lost: tuple[int, int]) -> NoReturn:
        status = 99

        def hold(*_: object) -> run.Ended:
            os.write(told, b"won")
            os.close(lost[1])
            select.select([lost[0]], [], [], DEADLINE_SECONDS)
            return run.Ended(0, 0, 0)

        try:
            run._run_locked = hold  # type: ignore[assignment]
            os.read(start, 1)
            run.execute(Settings(job_tree=str(root)), CommandTarget("true"))
            status = 0
        except AnotherMaster as error:
            status = error.exit_status
            os.write(told, b"refused")
        finally:
            os._exit(status)

    def ended(self) -> tuple[str, int]:
        """What it has said, and its exit status."""
        ready, _, _ = select.select([self.report], [], [], DEADLINE_SECONDS)
        said = os.read(self.report, 100).decode() if ready else "nothing"
        os.close(self.report)
        return said, os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])


def contest(root: Path) -> list[tuple[str, int]]:
    """Two masters on one tree at the same instant."""
    start = os.pipe()
    lost = os.pipe()
    contenders = [Contender(root, start[0], [start[1]], lost) for _ in range(2)]
    for fd in (*start, *lost):
        os.close(fd)  # closing the last end is what starts them
    return sorted(contender.ended() for contender in contenders)


@pytest.mark.slow
@pytest.mark.parametrize("lane", range(LANES))
@pytest.mark.parametrize("tree", ["new", "existing"])
def test_of_two_masters_at_the_same_instant_one_wins(tmp_path: Path, lane: int, tree: str) -> None:
    """A hundred times in all for each kind of tree."""
    for number in range(ROUNDS // LANES):
        root = tmp_path / (str(number) if tree == "new" else "tree")

        assert contest(root) == [("refused", 4), ("won", 0)], f"lane {lane}, round {number}"


@pytest.mark.slow
def test_whole_masters_at_the_same_instant_do_the_work_once(bench: Bench, tmp_path: Path) -> None:
    pipeline = Pipeline(tmp_path, GATED)

    masters = [bench.start("pipeline.py", "--jobTree", "tree") for _ in range(4)]
    bench.gate.arrival()
    wait_until(lambda: sum(m.process.poll() is not None for m in masters) == 3, "three are refused")
    bench.gate.let_through(1)

    assert sorted(master.ended().status for master in masters) == [0, 4, 4, 4]
    assert pipeline.notes() == ["setup"]
    assert pipeline.leftovers() == []


# -- a master that is paused -----------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_master_that_is_stopped_keeps_its_tree_and_goes_on(bench: Bench, tmp_path: Path) -> None:
    pipeline = Pipeline(tmp_path, GATED)
    first = bench.start("pipeline.py", "--jobTree", "tree")
    bench.gate.arrival()
    first.send(signal.SIGSTOP)

    second = bench.start("pipeline.py", "--jobTree", "tree").ended()

    assert second.status == 4
    assert f"with pid {first.pid}" in second.err
    first.send(signal.SIGCONT)
    bench.gate.let_through(1)
    assert first.ended().status == 0
    assert pipeline.notes() == ["setup"]


def test_a_master_that_lost_its_lock_between_commit_and_submission_changes_nothing_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = FakeClock(monkeypatch)
    old = Scene(tmp_path / "tree", clock)
    old.make()
    new = Scene(tmp_path / "tree", clock)
    taken_over = False

    def script() -> Iterator[None]:
        yield from old.grow([target("Child")] * 3, target("Last"))

        def paused(submissions: Sequence[Submission]) -> None:
            nonlocal taken_over
            new.play(new.play_rest())
            taken_over = True
            # Not the watched one, which looks for the bundles among those that are not over.
            FakeBatchSystem.issue(old.batch, submissions)

        monkeypatch.setattr(old.batch, "issue", paused)
        old.run_all(old.worker(2))
        yield
        # The old one has woken up and has submitted what it had committed. Now it turns its loop once more.
        assert taken_over
        yield

    with pytest.raises(StorageError, match="was taken over by another master"):
        old.play(script())
    old.master._remover.close()

    assert taken_over
    assert new.master.tree.totals == [0, 0, 0, 0, 4]
    check_rows(new.paths)
    assert new.left_behind() == []
    late = [s for s in old.batch.issued if int(s.name.rpartition(".")[2]) > 2]
    assert late, "the old one has submitted nothing, so this proves nothing"
    for submission in late:
        assert not ScriptedWorker(old.paths, int(submission.name.rpartition(".")[2])).open()


# -- a bundle that is started twice ----------------------------------------------------------------------------


@pytest.mark.slow
def test_of_two_workers_of_a_bundle_one_runs_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    notes = tmp_path / "notes"
    program = (
        "import sys; from jobtree import worker; input(); sys.exit(worker.run_bundle(sys.argv[1], 1, '/'))"
    )
    for number in range(20):
        scene = Scene(tmp_path / str(number), FakeClock(monkeypatch), keep_logs=True)
        stored: Packed = serialization.pack(CommandTarget(f"echo {number} >> {notes}"))
        scene.make(stored)

        def script(scene: Scene = scene) -> Iterator[None]:
            workers = [
                subprocess.Popen(
                    [sys.executable, "-c", program, scene.paths.root], env=variables(), stdin=subprocess.PIPE
                )
                for _ in range(2)
            ]
            for worker in workers:
                assert worker.stdin is not None
                worker.stdin.write(b"go\n")
                worker.stdin.flush()
            for worker in workers:
                worker.communicate(timeout=DEADLINE_SECONDS)
            assert [worker.returncode for worker in workers] == [0, 0]
            scene.batch.finish(scene.name(1))
            yield

        scene.play(script())
        assert scene.master.tree.totals == [0, 0, 0, 0, 1]

    assert notes.read_text().split() == [str(number) for number in range(20)]


# -- an answer that is lost ------------------------------------------------------------------------------------

LOST_ANSWER = """
from batchsystems.abstract import BatchSystemError
from tests.fakes.detached import Detached

class LostAnswer(Detached):
    '''Takes every submission, and of every second call says that it has not.'''
    calls = 0
    def issue(self, submissions):
        Detached.issue(self, submissions)
        LostAnswer.calls += 1
        if LostAnswer.calls % 2:
            raise BatchSystemError("timed out while waiting for the answer")
"""


@pytest.mark.slow
def test_a_submission_whose_answer_is_lost_is_not_run_twice(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(VARIABLE, str(tmp_path / "farm"))
    bench.write("pipeline.py", IMPORTS, PAUSE, PIPELINE, MAIN)
    bench.write("lost_answer.py", LOST_ANSWER)
    bench.gate.let_through(4)
    options = [
        option.replace("tests.fakes.detached:Detached", "lost_answer:LostAnswer") for option in OPTIONS
    ]

    with RunningFarm(tmp_path / "farm") as farm:
        ran = bench.start("pipeline.py", "--jobTree", str(tmp_path / "tree"), *options).ended()

        assert ran.status == 0, ran.err
        assert "timed out while waiting for the answer" in ran.err
        assert counted(bench) == complete(4)
        assert leftovers(bench) == []
        wait_until(lambda: farm.names("jobs") == [], "the farm has ended what it was given")
