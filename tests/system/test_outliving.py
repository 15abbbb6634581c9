"""Runs on a batch system whose jobs outlive the master: kill, continue, cancel, and all that a scheduler gets wrong.

The farm (tests/fakes/farm.py) is the scheduler. Targets wait at a gate, so that the test decides what is running when
something is killed. Leases are so long that a busy machine loses none, but where one is to be lost.
"""

from __future__ import annotations

import os
import random
import signal
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import psutil
import pytest

from tests.fakes.detached import VARIABLE, RunningFarm, on_a_farm
from tests.system.pipelines import IMPORTS, MAIN, wait_until
from tests.system.waiting import PAUSE, Bench, Running, gone

OPTIONS = (*on_a_farm(lease=30), "--logInfo")

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


@pytest.mark.parametrize("when", ["before", "after"])
def test_the_master_dies_between_the_commit_and_noting_the_submission(
    bench: Bench, farm: RunningFarm, when: str
) -> None:
    bench.gate.let_through(4)
    farm.trick("die", when)
    start(bench).ended()
    assert not bench.lines("notes") or when == "after"

    start(bench).ended().succeeded()

    assert counted(bench) == complete(4)
    assert leftovers(bench) == []


@pytest.mark.slow
@pytest.mark.parametrize("victim", ["supervisor", "guard", "worker"])
def test_one_of_the_three_processes_of_a_bundle_is_killed(
    bench: Bench, farm: RunningFarm, monkeypatch: pytest.MonkeyPatch, victim: str
) -> None:
    monkeypatch.setenv("CHILDREN", "1")
    run = start(bench)
    worker = bench.gate.arrival()
    supervisor, guard = supervisors(bench.directory / "tree")
    {"supervisor": supervisor, "guard": guard, "worker": psutil.Process(worker)}[victim].kill()
    if victim == "guard":
        # There is another one, and it does its work.
        wait_until(
            lambda: {p.pid for p in supervisors(bench.directory / "tree")} - {supervisor.pid, guard.pid}, "it"
        )
        supervisor.kill()
    assert gone([worker])
    assert bench.gate.arrival() != worker
    bench.gate.let_through(1)

    ran = run.ended()

    ran.succeeded()
    assert counted(bench) == {"0": 2, "0 ended": 1, "sum 0": 1}
    said = "killed from outside by SIGKILL" if victim == "worker" else "its supervisor was killed"
    assert said in ran.err
    assert leftovers(bench) == []


def test_a_frozen_supervisor_loses_its_lease(
    bench: Bench, farm: RunningFarm, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The guard ends the worker after one lease, the master goes on after two; what wakes up later does no harm."""
    monkeypatch.setenv("CHILDREN", "1")
    farm.trick("deaf")  # it would end the supervisor for good
    run = start(bench, "--lease", "4")
    worker = bench.gate.arrival()
    supervisor = supervisors(bench.directory / "tree")[0]
    supervisor.suspend()
    assert gone([worker])
    assert bench.lines("notes") == ["0"], "somebody has started it again before it was over"
    second = bench.gate.arrival()
    supervisor.resume()
    assert gone([supervisor.pid])
    assert psutil.pid_exists(second)
    bench.gate.let_through(1)

    ran = run.ended()

    ran.succeeded()
    assert "no sign of life" in ran.err
    assert counted(bench) == {"0": 2, "0 ended": 1, "sum 0": 1}
    assert leftovers(bench) == []


@pytest.mark.slow
def test_a_worker_whose_tree_is_gone_ends_itself(bench: Bench, farm: RunningFarm) -> None:
    run = start(bench)
    workers = [bench.gate.arrival(), bench.gate.arrival()]
    processes = supervisors(bench.directory / "tree")
    run.send(signal.SIGKILL)
    run.ended()
    (bench.directory / "tree").rename(bench.directory / "elsewhere")

    assert gone([*workers, *(process.pid for process in processes)])
    assert not (bench.directory / "tree").exists()


@pytest.mark.slow
@pytest.mark.parametrize("trick", ["twice", "again", "early", "silent"])
def test_a_scheduler_that_is_wrong_about_a_job(bench: Bench, farm: RunningFarm, trick: str) -> None:
    """It starts it twice, or once more, or says too early that it has ended, or never."""
    farm.trick(trick)
    bench.gate.let_through(4)

    ran = start(bench).ended()

    ran.succeeded()
    assert counted(bench) == complete(4)
    wait_until(lambda: leftovers(bench) == [], "the end of those that came too late")


@pytest.mark.slow
def test_acknowledged_submissions_are_lost(bench: Bench, farm: RunningFarm) -> None:
    farm.trick("lose")
    bench.gate.let_through(4)
    run = start(bench)
    wait_until(
        lambda: "the farm has lost it" in (bench.directory / "err.0").read_text(), "the news of a loss"
    )
    farm.behave("lose")

    run.ended().succeeded()

    assert counted(bench) == complete(4)


@pytest.mark.slow
def test_a_scheduler_that_takes_nothing_is_asked_again(bench: Bench, farm: RunningFarm) -> None:
    farm.trick("refuse")
    bench.gate.let_through(4)
    run = start(bench)
    wait_until(
        lambda: "the farm takes no more jobs" in (bench.directory / "err.0").read_text(), "the refusal"
    )
    farm.behave("refuse")

    run.ended().succeeded()

    assert counted(bench) == complete(4)


@pytest.mark.slow
def test_a_scheduler_that_is_down_while_the_master_starts_again(bench: Bench, farm: RunningFarm) -> None:
    bench.gate.let_through(4)
    farm.trick("hold")
    first = start(bench)
    wait_until(lambda: farm.names("jobs"), "a submission")
    first.send(signal.SIGKILL)
    first.ended()
    farm.trick("down")
    second = start(bench)
    wait_until(lambda: "cannot be asked now" in (bench.directory / "err.1").read_text(), "the warning")
    farm.behave("hold")
    wait_until(lambda: farm.names("ended"), "the end of the first")
    farm.behave("down")

    second.ended().succeeded()

    assert counted(bench) == complete(4)


@pytest.mark.slow
def test_what_can_never_run_fails_with_the_schedulers_words(bench: Bench, farm: RunningFarm) -> None:
    farm.trick("never")

    ran = start(bench).ended()

    assert ran.status == 1
    assert "the batch system will never start it: PartitionConfig" in ran.err


@pytest.mark.slow
def test_a_machine_on_which_bundles_die_at_once_is_avoided_and_named(bench: Bench, farm: RunningFarm) -> None:
    farm.trick("bad", "node2")
    bench.gate.let_through(4)

    ran = start(bench, "--maxLost", "20").ended()

    ran.succeeded()
    assert "bundles die on node2 before they have begun: it is avoided for" in ran.err
    assert counted(bench) == complete(4)


@pytest.mark.slow
@pytest.mark.parametrize("victim", ["worker", "supervisor"])
def test_what_ran_out_of_memory_gets_more(
    bench: Bench, farm: RunningFarm, monkeypatch: pytest.MonkeyPatch, victim: str
) -> None:
    """Whom a batch system kills for it is its own choice; that it was for that, only it knows."""
    monkeypatch.setenv("CHILDREN", "1")
    run = start(bench, "--doubleMem", "--defaultMemory", "1G")
    worker = bench.gate.arrival()
    farm.trick("verdict", "memory")
    supervisor = supervisors(bench.directory / "tree")[0]
    os.kill(worker if victim == "worker" else supervisor.pid, signal.SIGKILL)
    bench.gate.arrival()
    farm.behave("verdict")
    bench.gate.let_through(1)

    ran = run.ended()

    ran.succeeded()
    assert "--doubleMem gives it 2 GiB now" in ran.err


def test_ctrl_c_leaves_cluster_jobs_running_and_kill_ends_them(bench: Bench, farm: RunningFarm) -> None:
    run = start(bench)
    workers = [bench.gate.arrival(), bench.gate.arrival()]
    run.send(signal.SIGINT)
    ran = run.ended()
    assert ran.status == 130 or ran.status == -signal.SIGINT
    assert "go on in tests.fakes.detached:Detached without a master" in ran.err
    assert all(psutil.pid_exists(worker) for worker in workers)

    killed = bench.run("jobTreeKill", str(bench.directory / "tree"))

    assert killed.status == 0
    assert "Ended 2 bundles in tests.fakes.detached:Detached." in killed.out
    assert gone(workers)
    bench.gate.let_through(4)
    start(bench).ended().succeeded()
    assert {name: n for name, n in counted(bench).items() if "ended" in name} == {
        f"{i} ended": 1 for i in range(4)
    }
    assert leftovers(bench) == []


@pytest.mark.slow
def test_a_master_that_is_asked_to_stop_ends_its_jobs(bench: Bench, farm: RunningFarm) -> None:
    run = start(bench)
    workers = [bench.gate.arrival(), bench.gate.arrival()]

    bench.run("jobTreeKill", str(bench.directory / "tree"))

    assert run.ended().status == 3
    assert gone(workers)
    assert farm.names("jobs") == []
    bench.gate.let_through(4)
    start(bench).ended().succeeded()
    assert leftovers(bench) == []


@pytest.mark.slow
def test_a_start_with_another_batch_system_waits_for_what_runs_in_the_old_one(
    bench: Bench, farm: RunningFarm
) -> None:
    first = start(bench)
    workers = [bench.gate.arrival(), bench.gate.arrival()]
    first.send(signal.SIGKILL)
    first.ended()
    second = start(bench, "--batchSystem", "singleMachine", "--maxThreads", "2")
    others = [bench.gate.arrival(), bench.gate.arrival()]
    assert not set(workers) & set(others)
    bench.gate.let_through(4)

    second.ended().succeeded()

    assert counted(bench) == complete(4)
    assert leftovers(bench) == []


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_two_hundred_jobs_and_a_master_that_is_killed_again_and_again(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CHILDREN", "200")
    bench.gate.let_through(200)
    seed = random.randrange(1 << 30)
    print(f"seed {seed}")
    chance = random.Random(seed)
    with RunningFarm(tmp_path / "farm", cpu=4) as farm:
        (farm.directory / "room").write_text("300")
        ended = 0
        for _ in range(6):
            master = start(bench)
            ended += chance.randint(5, 25)
            wait_until(partial(has_come_so_far, bench, ended), "some of the work")
            master.send(signal.SIGKILL)
            master.process.wait(60)
        master = start(bench)
        master.process.wait(300)

        assert master.process.returncode == 0, master.ended().err
        assert counted(bench) == complete(200)
        submitted = (farm.directory / "submitted").read_text().splitlines()
        # The root, its children, their follow-on, and nothing for a second time.
        assert len(submitted) == len(set(submitted)) == 202
        assert leftovers(bench) == []


def has_come_so_far(bench: Bench, ended: int) -> bool:
    return sum(line.endswith("ended") for line in bench.lines("notes")) >= ended
