"""jobTreeRun --prune: what it leaves, what it refuses, and that it may be killed at any moment."""

from __future__ import annotations

import os
import shutil
import sqlite3
from pathlib import Path

import pytest

from jobtree import pruning, run, snapshot
from jobtree.cli import run as command
from jobtree.lock import TreeLock
from jobtree.paths import TreePaths
from tests.system.pipelines import Pipeline

TARGETS = """
class Setup(Target):
    def run(self):
        values = [self.addChildTarget(Child(n)).rv() for n in range(300)]
        return self.setFollowOnTarget(End(values)).rv()
class Child(Target):
    def __init__(self, n):
        Target.__init__(self)
        self.n = n
    def run(self):
        print("child", self.n)
        if os.path.exists("broken"):
            raise ValueError("no good")
        return self.n
class End(Target):
    def __init__(self, values):
        Target.__init__(self)
        self.values = values
    def run(self):
        return sum(self.values), "x" * 3_000_000
"""


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished tree whose result is in a file, with logs that were kept."""
    pipeline = Pipeline(tmp_path_factory.mktemp("finished"), TARGETS)
    ran = pipeline.run("--keepLogs")
    assert ran.status == 0, ran.err
    return pipeline.tree


@pytest.fixture
def tree(finished: Path, tmp_path: Path) -> Path:
    """The same, with what an interruption may have left, and somebody's own file."""
    tree = Path(shutil.copytree(finished, tmp_path / "tree"))
    (tree / "results.txt").write_text("mine")
    for name in ("tree.sqlite.damaged", "outcomes/0/9", "globalTempDirs/0/9.0/1/file", "backends/slurm/job"):
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        (tree / name).write_text("x" * 10_000)
    return tree


def files_of(tree: Path) -> list[str]:
    """Its files, without what SQLite makes for whoever looks."""
    paths = (path for path in tree.rglob("*") if path.is_file() and not path.name.endswith(("-shm", "-wal")))
    found = sorted(str(path.relative_to(tree)) for path in paths)
    return ["values/FILE" if name.startswith("values/") else name for name in found]


def times(tree: Path) -> dict[str, int]:
    return {name: (tree / name).stat().st_mtime_ns for name in files_of(tree)}


KEPT = [
    "config.json", "copy.sqlite", "environment.json", "lock", "lock.json", "results.txt", "settings.json", "synced",
    "tree.sqlite", "values/FILE",
]  # fmt: skip


def is_finished(tree: Path) -> bool:
    """Whether everything that a finished tree must tell is there."""
    seen = snapshot.take(TreePaths(str(tree)))
    total, text = run.result(str(tree))
    return (seen.state, seen.counts.done, total, len(text)) == (snapshot.COMPLETE, 301, 44850, 3_000_000)


def test_what_stays_is_that_it_is_done_and_its_result(tree: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = (tree / "tree.sqlite").stat().st_size
    assert any(tree.glob("logs/0/*.log"))

    assert command.main([str(tree), "--prune"]) == 0

    said = capsys.readouterr().out
    assert said.startswith(f"{tree}: pruned. ")
    assert "files were freed" in said
    assert files_of(tree) == KEPT
    assert (tree / "tree.sqlite").stat().st_size <= before
    assert is_finished(tree)
    assert command.main([str(tree), "--prune"]) == 0  # twice is once
    assert "pruned. 0 B in 0 files were freed" in capsys.readouterr().out
    assert command.main([str(tree)]) == 0  # a start finds it complete
    assert files_of(tree) == KEPT
    assert is_finished(tree)


def test_the_database_gives_back_what_it_does_not_need(tree: Path) -> None:
    connection = sqlite3.connect(tree / "tree.sqlite")
    connection.execute("CREATE TABLE rows AS SELECT randomblob(1000000)")
    connection.execute("DROP TABLE rows")
    connection.commit()
    connection.close()

    assert command.main([str(tree), "--prune"]) == 0

    assert (tree / "tree.sqlite").stat().st_size < 200_000
    assert (tree / "copy.sqlite").stat().st_size < 200_000


def test_an_unfinished_tree_is_refused_and_not_touched(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pipeline = Pipeline(tmp_path, TARGETS)
    (tmp_path / "broken").touch()
    assert pipeline.run().status == 1
    before = times(pipeline.tree)

    assert command.main([str(pipeline.tree), "--prune"]) == 2

    assert "is not finished: 301 jobs of it left" in capsys.readouterr().err
    assert times(pipeline.tree) == before


def test_one_that_a_master_runs_is_refused(tree: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = files_of(tree)
    holder = TreeLock(TreePaths(str(tree)))
    holder.acquire()
    try:
        assert command.main([str(tree), "--prune"]) == 4
    finally:
        holder.release()
    assert files_of(tree) == before


class Killed(BaseException):
    """The process ends here."""


@pytest.fixture
def killed(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Ends the process at the n-th removal; the list holds n, and then how many there were."""
    left = [0]

    def ending(really: object) -> object:
        def call(*given: object, **named: object) -> object:
            left[0] -= 1
            if left[0] == 0:
                raise Killed
            return really(*given, **named)  # type: ignore[operator]

        return call

    monkeypatch.setattr(os, "unlink", ending(os.unlink))
    monkeypatch.setattr(os, "rmdir", ending(os.rmdir))
    monkeypatch.setattr(pruning, "_compact", ending(pruning._compact))
    return left


@pytest.mark.slow
def test_killed_at_any_removal_it_is_still_finished_and_the_next_one_does_the_rest(
    finished: Path, tmp_path: Path, killed: list[int]
) -> None:
    for n in range(1, 1000):
        tree = Path(shutil.copytree(finished, tmp_path / str(n)))
        killed[0] = n
        try:
            assert command.main([str(tree), "--prune"]) == 0
            break
        except Killed:
            killed[0] = 0
        assert is_finished(tree)
        assert command.main([str(tree)]) == 0
        assert command.main([str(tree), "--prune"]) == 0
        assert [name for name in KEPT if name != "results.txt"] == files_of(tree)
        shutil.rmtree(tree)
    assert 8 < n < 999, "there was nothing to kill it at"
