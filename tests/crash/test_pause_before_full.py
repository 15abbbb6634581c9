"""The pause before the disk or the inodes run out, on small file systems that are really filled."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.requirements import missing, require
from tests.system.pipelines import Pipeline, wait_until
from tests.system.waiting import PAUSE, Bench

TARGETS = (
    PAUSE
    + """
class Setup(Target):
    def run(self):
        with open(os.path.join(self.getLocalTempDir(), "scratch"), "w") as file:
            file.write("x")
        note("setup")
        pause()
        for n in range(3):
            self.addChildTarget(Child())
class Child(Target):
    def run(self):
        note("child")
"""
)


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    with Bench(tmp_path) as bench:
        yield bench


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Path]:
    """A file system of 64 MiB and 2000 inodes."""
    mount = require("mount")
    if os.geteuid() != 0:
        missing("mounting a small file system needs root")
    path = tmp_path / "small"
    path.mkdir()
    subprocess.run([mount, "-t", "tmpfs", "-o", "size=64M,nr_inodes=2000", "none", str(path)], check=True)
    yield path
    subprocess.run(["umount", "--lazy", str(path)], check=True)


def fill(directory: Path, with_files: bool) -> None:
    """Leave 1 MiB of it, or 50 inodes."""
    there = os.statvfs(directory)
    if with_files:
        (directory / "full").mkdir()
        for n in range(there.f_favail - 51):
            (directory / "full" / str(n)).touch()
    else:
        with open(directory / "full", "wb") as file:
            os.posix_fallocate(file.fileno(), 0, there.f_bavail * there.f_frsize - (1 << 20))


@pytest.mark.parametrize("what", ["bytes", "inodes"])
@pytest.mark.parametrize("where", ["tree", "temporary"])
def test_it_pauses_says_so_and_goes_on_by_itself(
    bench: Bench, small: Path, what: str, where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipeline = Pipeline(bench.directory, TARGETS)
    if where == "tree":
        pipeline.tree = small / "tree"
    else:
        monkeypatch.setenv("TMPDIR", str(small))
    run = bench.start(pipeline.name, "--jobTree", str(pipeline.tree))
    bench.gate.arrival()
    fill(small, with_files=what == "inodes")
    wait_until(lambda: "Paused" in (bench.directory / "err.0").read_text(), "that it says that it is paused")
    bench.gate.let_through(1)
    counts = {"text": ""}

    def paused() -> bool:
        counts["text"] = pipeline.program("jobTreeStatus", str(pipeline.tree)).out
        return "3 ready" in counts["text"]

    wait_until(paused, "that the children are ready")
    why = pipeline.program("jobTreeStatus", str(pipeline.tree), "--why", "1-1").out
    assert f"Nothing is issued until there is room: {small}" in why
    assert pipeline.notes() == ["setup"]
    subprocess.run(["rm", "-r", str(small / "full")], check=True)

    ran = run.ended()

    assert ran.status == 0, ran.err
    assert pipeline.counted() == {"setup": 1, "child": 3}
    assert ran.err.count("Paused, nothing more is started: ") == 1
    assert ran.err.count("There is room again: the run goes on.") == 1
    assert ("files (inodes)" in ran.err) == (what == "inodes")
