"""Runs on a batch system whose jobs outlive the master: kill, continue, cancel, and all that a scheduler gets wrong.

The farm (tests/fakes/farm.py) is the scheduler. Targets wait at a gate, so that the test decides what is running when
something is killed; leases are of two seconds.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.fakes.detached import VARIABLE, RunningFarm
from tests.system.pipelines import IMPORTS, MAIN, wait_until
from tests.system.waiting import PAUSE, Bench, Running

OPTIONS = (
    "--batchSystem", "tests.fakes.detached:Detached", "--lease", "2", "--grace", "1", "--jobTime", "0", "--logInfo"
)  # fmt: skip

PIPELINE = """
class Setup(Target):
    def run(self):
        children = [self.addChildTarget(Child(i)) for i in range(int(os.environ.get("CHILDREN", "4")))]
        self.setFollowOnTarget(Sum([child.rv() for child in children]))
class Child(Target):
    def __init__(self, i):
        Target.__init__(self)
        self.i = i
    def run(self):
        note(self.i)
        pause()
        note("%d ended" % self.i)
        return self.i
class Sum(Target):
    def __init__(self, values):
        Target.__init__(self)
        self.values = values
    def run(self):
        note("sum %d" % sum(self.values))
"""


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    monkeypatch.setenv(VARIABLE, str(tmp_path / "farm"))
    with Bench(tmp_path) as made:
        made.write("pipeline.py", IMPORTS, PAUSE, PIPELINE, MAIN)
        yield made


@pytest.fixture
def farm(tmp_path: Path) -> Iterator[RunningFarm]:
    with RunningFarm(tmp_path / "farm") as made:
        yield made


def start(bench: Bench, *options: str) -> Running:
    return bench.start("pipeline.py", "--jobTree", str(bench.directory / "tree"), *OPTIONS, *options)


def supervisors(tree: Path) -> list[psutil.Process]:
    """The supervisors and guards of a tree; a supervisor comes before its guard."""
    found = []
    for process in psutil.process_iter():
        try:
            words = process.cmdline()
            ours = str(tree) in words and any(word.endswith("supervisor.py") for word in words)
            if ours and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except psutil.Error:
            continue
    return sorted(found, key=lambda process: process.pid)


def counted(bench: Bench) -> dict[str, int]:
    lines = bench.lines("notes")
    return {line: lines.count(line) for line in lines}


def complete(children: int) -> dict[str, int]:
    """What a run that met nothing has noted."""
    numbers = {str(i): 1 for i in range(children)}
    ended = {f"{i} ended": 1 for i in range(children)}
    return {**numbers, **ended, f"sum {sum(range(children))}": 1}


def leftovers(bench: Bench) -> list[str]:
    found = [str(process) for process in supervisors(bench.directory / "tree")]
    for name in ("bundles", "claims", "outcomes", "heartbeats", "globalTempDirs"):
        found += [str(path) for path in (bench.directory / "tree" / name).rglob("*") if path.is_file()]
    return found


def test_a_run_from_beginning_to_end(bench: Bench, farm: RunningFarm) -> None:
    bench.gate.let_through(4)

    ran = start(bench).ended()

    ran.succeeded()
    assert counted(bench) == complete(4)
    assert leftovers(bench) == []
    assert farm.names("jobs") == []


def test_the_master_is_killed_and_what_runs_is_waited_for(
    bench: Bench, farm: RunningFarm, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Running ones go on, queued ones stay queued, nothing is submitted twice."""
    monkeypatch.setenv("CHILDREN", "12")
    (farm.directory / "room").write_text("100")
    master = start(bench)
    arrived = [bench.gate.arrival(), bench.gate.arrival()]
    wait_until(lambda: len(farm.names("jobs")) >= 10, "more jobs in the queue than can run")
    master.send(signal.SIGKILL)
    master.ended()
    queued = set(farm.names("jobs"))

    second = start(bench)
    wait_until(lambda: "are waited for" in (bench.directory / "err.1").read_text(), "the adoption")
    assert queued <= set(farm.names("jobs"))
    assert all(psutil.pid_exists(pid) for pid in arrived)
    bench.gate.let_through(12)

    second.ended().succeeded()
    assert counted(bench) == complete(12)
    assert leftovers(bench) == []


def test_going_back_to_the_copy_ends_what_runs_there_first(
    bench: Bench, farm: RunningFarm, tmp_path: Path
) -> None:
    """The database is damaged while targets run elsewhere: none of them runs beside its second run."""
    master = start(bench, "--copyEvery", "0.1")
    old = [bench.gate.arrival(), bench.gate.arrival()]
    wait_until((tmp_path / "tree" / "copy.sqlite").exists, "a copy was made")
    master.send(signal.SIGKILL)
    master.ended()
    database = tmp_path / "tree" / "tree.sqlite"
    database.write_bytes(bytes(database.stat().st_size))
    (tmp_path / "tree" / "tree.sqlite-wal").unlink()
    refused = start(bench).ended()
    assert refused.status == 5
    assert "--restoreCopy" in refused.err
    assert all(psutil.pid_exists(pid) for pid in old), "a start that refuses ends nothing"

    back = bench.start("jobTreeRun", "--restoreCopy", "--jobTree", "tree")
    wait_until(lambda: not any(psutil.pid_exists(pid) for pid in old), "what ran is ended")
    new = bench.gate.arrival()
    assert new not in old
    bench.gate.let_through(10)

    ran = back.ended()
    assert ran.status == 0, ran.err
    assert "were running elsewhere: they are cancelled" in ran.err
    found = counted(bench)
    assert {line: number for line, number in found.items() if "ended" in line or "sum" in line} == {
        "0 ended": 1, "1 ended": 1, "2 ended": 1, "3 ended": 1, "sum 6": 1,
    }  # fmt: skip
    assert leftovers(bench) == []
    assert farm.names("jobs") == []
