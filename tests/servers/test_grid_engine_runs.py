"""Pipelines on a real Grid Engine: from beginning to end, killed and continued, cancelled, and what it is asked."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from xml.etree import ElementTree

import psutil
import pytest

from tests.servers import sort_example
from tests.servers.daemons import ServerError
from tests.servers.grid_engine import GridEngineServer
from tests.system import pipelines
from tests.system.legacy_script import CHECKOUT
from tests.system.pipelines import IMPORTS, MAIN
from tests.system.test_outliving import PIPELINE, complete, counted, leftovers
from tests.system.waiting import PAUSE, SERVER_SECONDS, Bench, Running, gone

pytestmark = [
    pytest.mark.servers, pytest.mark.xdist_group("grid_engine"), pytest.mark.slow, pytest.mark.timeout(900)
]  # fmt: skip

wait_until = partial(pipelines.wait_until, seconds=SERVER_SECONDS)

OPTIONS = (
    "--batchSystem", "gridEngine", "--drmaaInterval", "0.5", "--lease", "60", "--grace", "1", "--jobTime", "0",
    "--defaultMemory", "100M", "--logInfo",
)  # fmt: skip

# A package drmaa that is the real one, but for what happens around the first submission that finds such a file.
LETHAL = """
import os, signal, sys

here = os.path.dirname(os.path.abspath(__file__))
sys.path.remove(here)
del sys.modules["drmaa"]
import drmaa

def told(when):
    try:
        os.rename(os.path.join(here, "die." + when), os.path.join(here, "dead"))
    except FileNotFoundError:
        return False
    return True

def submit(*arguments, really=drmaa.Session.runBulkJobs):
    if told("before"):
        os.kill(os.getppid(), signal.SIGKILL)
        os.kill(os.getpid(), signal.SIGKILL)
    if told("meanwhile"):
        os.kill(os.getppid(), signal.SIGKILL)
    found = really(*arguments)
    if told("after"):
        os.kill(os.getppid(), signal.SIGKILL)
        os.kill(os.getpid(), signal.SIGKILL)
    return found

drmaa.Session.runBulkJobs = staticmethod(submit)
"""


@pytest.fixture
def bench(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, grid_engine_server: GridEngineServer
) -> Iterator[Bench]:
    bin_ = tmp_path / "bin"
    bin_.mkdir()
    for name in ("qstat", "qacct", "qdel"):
        real = f"{grid_engine_server.env['SGE_ROOT']}/bin/{grid_engine_server.env['SGE_ARCH']}/{name}"
        (bin_ / name).write_text(f"#!/bin/sh\necho {name} >> '{tmp_path}/calls'\nexec {real} \"$@\"\n")
        (bin_ / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{bin_}:{os.environ['PATH']}")
    with Bench(tmp_path, SERVER_SECONDS) as made:
        made.write("pipeline.py", IMPORTS, PAUSE, PIPELINE, MAIN)
        yield made


def start(bench: Bench, *options: str) -> Running:
    return bench.start("pipeline.py", "--jobTree", str(bench.directory / "tree"), *OPTIONS, *options)


def err(bench: Bench, number: int) -> str:
    return (bench.directory / f"err.{number}").read_text()


def token(bench: Bench) -> str:
    run: str = json.loads((bench.directory / "tree" / "config.json").read_text())["run"]
    return run


def queue(bench: Bench, server: GridEngineServer) -> dict[str, str]:
    """What the queue has of the run: number and task -> whether it waits ("qw") or runs ("r")."""
    found = {}
    for job in ElementTree.fromstring(server.run("qstat", "-xml", "-g", "d")).iter("job_list"):
        if (job.findtext("JB_name") or "").startswith(f"run-{token(bench)}."):
            state = str(job.findtext("state")).replace("t", "r")  # it is being started
            found[f"{job.findtext('JB_job_number')}.{job.findtext('tasks')}"] = state
    return found


def ended(bench: Bench, server: GridEngineServer) -> set[str]:
    """The same of the accounts: all that has ended."""
    try:
        text = server.run("qacct", "-j", f"run-{token(bench)}.*")
    except ServerError:  # there is none yet
        return set()
    numbers, tasks = (re.findall(rf"^{name} +(\d+)", text, re.MULTILINE) for name in ("jobnumber", "taskid"))
    return {f"{number}.{task}" for number, task in zip(numbers, tasks)}


def submitted(bench: Bench, server: GridEngineServer) -> set[str]:
    """All jobs that there ever were; what has ended may be in the accounts only, and a moment in neither."""
    return set(queue(bench, server)) | ended(bench, server)


def until_accounted(bench: Bench, server: GridEngineServer, jobs: int) -> set[str]:
    """Every job of the run that was ever submitted, when all of them have ended."""
    wait_until(lambda: not queue(bench, server), "an empty queue")
    wait_until(lambda: len(ended(bench, server)) >= jobs, "their ends in the accounts")
    return ended(bench, server)


def notes(bench: Bench, word: str) -> int:
    return sum(word in line for line in bench.lines("notes"))


def test_the_sort_example(bench: Bench) -> None:
    sort_example.sort(bench.directory, *OPTIONS)


def test_many_jobs_are_queued_and_running_when_the_master_is_killed(
    bench: Bench, grid_engine_server: GridEngineServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Running ones are waited for, queued ones stay queued, nothing is submitted twice; `jobTreeKill` ends them all."""
    server = grid_engine_server
    monkeypatch.setenv("CHILDREN", "101")
    options = ("--drmaaMaxJobs", "150", "--defaultCpu", "2")
    master = start(bench, *options)
    bench.gate.let_through(1)  # before the first has ended, only as many as can run are tried
    wait_until(lambda: notes(bench, "ended"), "the end of the first")
    wait_until(lambda: len(queue(bench, server)) == 100, "100 jobs in the queue")
    running = [bench.gate.arrival() for _ in range(5)][1:]
    before = queue(bench, server)
    assert sum(state == "qw" for state in before.values()) == 96
    master.send(signal.SIGKILL)
    master.ended()

    second = start(bench, *options)
    adopted = "100 bundles of the earlier run are still queued or running there"
    wait_until(lambda: adopted in err(bench, 1), "adoption")
    assert queue(bench, server) == before
    assert all(psutil.pid_exists(pid) for pid in running)
    bench.gate.let_through(2)
    wait_until(lambda: notes(bench, "ended") == 3, "the end of some")
    later = [bench.gate.arrival() for _ in range(2)]  # queued ones in place of those

    wait_until(lambda: len(submitted(bench, server)) == 102, "the root's job and those of its children")
    assert set(before) <= submitted(bench, server)
    second.send(signal.SIGKILL)
    second.ended()

    killed = bench.run("jobTreeKill", str(bench.directory / "tree"))

    assert killed.status == 0, killed.err
    assert "in gridEngine." in killed.out
    assert gone([*running, *later])
    wait_until(lambda: not queue(bench, server), "an empty queue")
    assert len(bench.lines("notes")) == 7 + 3, "seven have begun, three of them have ended"


def test_a_master_that_is_killed_and_continued_runs_everything_once(
    bench: Bench, grid_engine_server: GridEngineServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CHILDREN", "16")
    bench.gate.let_through(16)
    for least in (1, 6):
        master = start(bench)
        wait_until(lambda: notes(bench, "ended") >= least, "some work")  # noqa: B023  # called in this round only
        master.send(signal.SIGKILL)
        master.ended()

    start(bench).ended().succeeded()

    assert counted(bench) == complete(16)
    assert leftovers(bench) == []
    assert len(until_accounted(bench, grid_engine_server, 18)) == 18, (
        "the root, its children, their follow-on"
    )


@pytest.mark.parametrize("when", ["before", "after", "meanwhile"])
def test_the_master_dies_exactly_between_submitting_and_noting_it(
    bench: Bench, grid_engine_server: GridEngineServer, when: str
) -> None:
    """Meanwhile: the session goes on and submits what nobody waits for, which may be found or come too late."""
    bench.write("drmaa.py", LETHAL)
    bench.gate.let_through(4)
    (bench.directory / f"die.{when}").touch()
    assert start(bench).ended().status == -signal.SIGKILL
    assert (bench.directory / "dead").exists()

    start(bench).ended().succeeded()

    assert counted(bench) == complete(4)
    assert leftovers(bench) == []
    found = until_accounted(bench, grid_engine_server, 6)
    # What was submitted is found again by its name; what was not is submitted by the next start.
    assert len(found) == 6 if when != "meanwhile" else len(found) in (6, 7)


def test_results_are_noticed_without_asking_grid_engine(bench: Bench) -> None:
    """It may be asked once in 1000 seconds here, and three targets that need one another still end."""
    bench.gate.let_through(4)

    ran = start(bench, "--drmaaInterval", "1000").ended()

    ran.succeeded()
    assert counted(bench) == complete(4)
    calls = (bench.directory / "calls").read_text().splitlines()
    assert calls.count("qstat") <= 2, "the machines, and the queue"
    assert calls.count("qacct") == 0


def test_what_was_submitted_while_the_qmaster_was_down_runs_later(
    bench: Bench, grid_engine_server: GridEngineServer
) -> None:
    """It goes away while targets run; their results are taken, and what follows waits for it."""
    run = start(bench)
    for _ in range(4):
        bench.gate.arrival()
    grid_engine_server.daemons.kill("qmaster")
    try:
        bench.gate.let_through(4)
        wait_until(lambda: "does not take 1 jobs now" in err(bench, 0), "that the follow-on is kept")
        assert notes(bench, "ended") == 4
    finally:
        grid_engine_server.start()

    run.ended().succeeded()

    assert counted(bench) == complete(4)


def test_what_ran_out_of_memory_gets_more(bench: Bench) -> None:
    """One process beyond h_vmem gets a MemoryError."""
    eater = """
    class Setup(Target):
        def run(self):
            eaten = bytearray(1000 << 20)
            note("fed")
    """
    bench.write("pipeline.py", IMPORTS, eater, MAIN)

    ran = start(bench, "--defaultMemory", "600M", "--doubleMem", "--retryCount", "0").ended()

    ran.succeeded()
    assert "MemoryError" in ran.err
    assert "--doubleMem gives it 1.17 GiB now" in ran.err
    assert bench.lines("notes") == ["fed"]


def test_jobs_see_their_own_job_and_not_the_masters(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """The master itself may be a job: what Grid Engine told it is not true of others."""
    for name in ("JOB_ID", "SGE_TASK_ID", "NSLOTS", "JOB_NAME", "PE_HOSTFILE"):
        monkeypatch.setenv(name, "4711")
    monkeypatch.setenv("OF_THE_USER", "mine")
    bench.write(
        "pipeline.py",
        IMPORTS,
        """
        class Setup(Target):
            def run(self):
                for name in ("JOB_ID", "SGE_TASK_ID", "NSLOTS", "JOB_NAME", "PE_HOSTFILE", "OF_THE_USER"):
                    note("%s=%s" % (name, os.environ.get(name)))
        """,
        MAIN,
    )

    start(bench).ended().succeeded()

    seen = dict(line.split("=", 1) for line in bench.lines("notes"))
    assert seen["OF_THE_USER"] == "mine"
    assert "4711" not in seen.values()
    assert (seen["SGE_TASK_ID"], seen["NSLOTS"]) == ("1", "1")
    assert seen["JOB_NAME"].startswith(f"run-{token(bench)}.")


def test_the_master_may_be_a_job_and_the_next_one_goes_on(
    bench: Bench, grid_engine_server: GridEngineServer
) -> None:
    """As the how-to page has it: they wait for one another; the first is asked to stop, as if its time were over."""
    command = [
        sys.executable,
        str(bench.directory / "pipeline.py"),
        "--jobTree",
        str(bench.directory / "tree"),
        *OPTIONS,
    ]
    script = bench.directory / "master.sh"
    script.write_text(
        "#!/bin/sh\n#$ -S /bin/sh -N my-master -cwd -j y -o master.log -l h_vmem=2G\n"
        f"export PYTHONPATH={CHECKOUT}; echo $$ >> masters\n"
        f"(trap '' USR1; exec {shlex.join(command)}) & pid=$!\n"
        "trap 'kill -TERM $pid; wait $pid; exit' USR1\nwait $pid\n"
    )
    submit = ("qsub", "-terse", "-wd", str(bench.directory))
    first = grid_engine_server.run(*submit, str(script))
    second = grid_engine_server.run(*submit, "-hold_jid", first, str(script))
    arrived = [bench.gate.arrival() for _ in range(4)]
    (shell,) = bench.lines("masters")
    os.killpg(os.getpgid(int(shell)), signal.SIGUSR1)  # as s_rt does
    wait_until(lambda: len(bench.lines("masters")) == 2, "the second master")
    assert all(psutil.pid_exists(pid) for pid in arrived)

    bench.gate.let_through(4)

    wait_until(lambda: second not in grid_engine_server.run("qstat"), "the end")
    assert counted(bench) == complete(4)
    assert "go on in gridEngine without a master" in (bench.directory / "master.log").read_text()
