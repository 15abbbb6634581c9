"""Pipelines on a real SLURM: from beginning to end, killed and continued, cancelled, and what SLURM is asked."""

from __future__ import annotations

import json
import os
import shlex
import signal
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import psutil
import pytest

from batchsystems import slurm_commands as commands
from tests.servers import sort_example
from tests.servers.slurm import SlurmServer
from tests.system import pipelines
from tests.system.legacy_script import CHECKOUT
from tests.system.pipelines import IMPORTS, MAIN
from tests.system.test_outliving import PIPELINE, complete, counted, leftovers
from tests.system.waiting import PAUSE, SERVER_SECONDS, Bench, Running, gone

pytestmark = [
    pytest.mark.servers, pytest.mark.xdist_group("slurm"), pytest.mark.slow, pytest.mark.timeout(600)
]  # fmt: skip

wait_until = partial(pipelines.wait_until, seconds=SERVER_SECONDS)

OPTIONS = (
    "--batchSystem", "slurm", "--slurmInterval", "0.5", "--lease", "60", "--grace", "1", "--jobTime", "0",
    "--defaultMemory", "100M", "--logInfo",
)  # fmt: skip

SHIM = """#!/bin/sh
printf '%s\\n' {name} >> {directory}/calls
if test {name} = sbatch && test "$2" != --test-only && mv {directory}/die.before {directory}/dead 2> /dev/null; then
    kill -9 $PPID; exit 1
fi
/usr/bin/{name} "$@"; status=$?
if test {name} = sbatch && test "$1" = --parsable && mv {directory}/die.after {directory}/dead 2> /dev/null; then
    kill -9 $PPID
fi
exit $status
"""


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, slurm_server: SlurmServer) -> Iterator[Bench]:
    bin_ = tmp_path / "bin"
    bin_.mkdir()
    for name in ("sbatch", "squeue", "sacct"):
        (bin_ / name).write_text(SHIM.format(name=name, directory=tmp_path))
        (bin_ / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{bin_}:{os.environ['PATH']}")
    with Bench(tmp_path, SERVER_SECONDS) as made:
        made.write("pipeline.py", IMPORTS, PAUSE, PIPELINE, MAIN)
        yield made
    slurm_server.run("scancel", "--signal=KILL", "--user=root")
    wait_until(lambda: not slurm_server.run("squeue", "--noheader"), "an empty queue")


def start(bench: Bench, *options: str) -> Running:
    return bench.start("pipeline.py", "--jobTree", str(bench.directory / "tree"), *OPTIONS, *options)


def token(bench: Bench) -> str:
    run: str = json.loads((bench.directory / "tree" / "config.json").read_text())["run"]
    return run


def queue(bench: Bench, server: SlurmServer) -> dict[str, tuple[str, str]]:
    """What SLURM has of the run: name of the bundle -> number of its array, state. Each name must be there once."""
    found: dict[str, tuple[str, str]] = {}
    os.environ["SLURM_BITSTR_LEN"] = "0"
    for line in commands.read_queue(server.run(*commands.squeue(os.getuid(), [token(bench)]))):
        for name in line.jobs.values():
            assert name not in found, f"{name} was submitted twice"
            found[name] = line.array, line.state
    return found


def waits_or_runs(found: dict[str, tuple[str, str]]) -> dict[str, str]:
    return {name: array for name, (array, state) in found.items() if state in ("PENDING", "RUNNING")}


def test_the_sort_example(bench: Bench) -> None:
    sort_example.sort(bench.directory, *OPTIONS)


def test_two_hundred_jobs_are_queued_and_running_when_the_master_is_killed(
    bench: Bench, slurm_server: SlurmServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Running ones are waited for, queued ones stay queued, nothing is submitted twice; `jobTreeKill` ends them all."""
    monkeypatch.setenv("CHILDREN", "201")
    options = ("--slurmMaxJobs", "250", "--defaultCpu", "2")
    master = start(bench, *options)
    bench.gate.let_through(1)  # before the first has ended, only as many as can run are tried
    wait_until(lambda: any("ended" in line for line in bench.lines("notes")), "the end of the first")
    wait_until(lambda: len(waits_or_runs(queue(bench, slurm_server))) >= 200, "200 jobs in the queue")
    before = waits_or_runs(queue(bench, slurm_server))
    assert len(before) == 200
    master.send(signal.SIGKILL)
    master.ended()
    calls = (bench.directory / "calls").read_text().splitlines()

    second = start(bench, *options)
    wait_until(
        lambda: "200 bundles of the earlier run are still queued or running there" in err(bench, 1),
        "adoption",
    )
    bench.gate.let_through(4)
    wait_until(lambda: sum("ended" in line for line in bench.lines("notes")) >= 5, "the end of some")
    arrived = [
        bench.gate.arrival() for _ in range(13)
    ]  # eight at first, and then queued ones in place of those five

    assert calls.count("sbatch") < 12, "so many jobs are a few arrays"
    after = queue(bench, slurm_server)
    assert {name: after[name][0] for name in before} == before
    # The root's bundle and those of its children: nothing else was ever submitted.
    assert len(after) == 202
    assert sum(psutil.pid_exists(pid) for pid in arrived) == 8
    second.send(signal.SIGKILL)
    second.ended()

    killed = bench.run("jobTreeKill", str(bench.directory / "tree"))

    assert killed.status == 0, killed.err
    assert "in slurm." in killed.out
    assert gone(arrived)
    wait_until(lambda: waits_or_runs(queue(bench, slurm_server)) == {}, "an empty queue")


def err(bench: Bench, number: int) -> str:
    return (bench.directory / f"err.{number}").read_text()


def test_a_master_that_is_killed_and_continued_runs_everything_once(
    bench: Bench, slurm_server: SlurmServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CHILDREN", "24")
    bench.gate.let_through(24)
    for least in (1, 10):
        master = start(bench)
        wait_until(lambda: sum("ended" in line for line in bench.lines("notes")) >= least, "some work")  # noqa: B023
        master.send(signal.SIGKILL)
        master.ended()

    start(bench).ended().succeeded()

    assert counted(bench) == complete(24)
    assert leftovers(bench) == []
    assert len(queue(bench, slurm_server)) == 26  # the root, its children, their follow-on


@pytest.mark.parametrize("when", ["before", "after"])
def test_the_master_dies_exactly_between_submitting_and_noting_it(
    bench: Bench, slurm_server: SlurmServer, when: str
) -> None:
    bench.gate.let_through(4)
    (bench.directory / f"die.{when}").touch()
    assert start(bench).ended().status == -signal.SIGKILL
    assert (bench.directory / "dead").exists()

    start(bench).ended().succeeded()

    assert counted(bench) == complete(4)
    assert leftovers(bench) == []
    # What was submitted is found again; what was not has a new name, since nobody can know.
    assert len(queue(bench, slurm_server)) == 6


def test_results_are_noticed_without_asking_slurm(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """SLURM may be asked once in 1000 seconds here, and three targets that need one another still end."""
    bench.gate.let_through(4)

    ran = start(bench, "--slurmInterval", "1000").ended()

    ran.succeeded()
    assert counted(bench) == complete(4)
    calls = (bench.directory / "calls").read_text().splitlines()
    assert calls.count("squeue") <= 1
    assert calls.count("sacct") == 0


def test_jobs_see_their_own_job_and_not_the_masters(
    bench: Bench, slurm_server: SlurmServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The master itself may be a job: what SLURM told it is not true of others."""
    monkeypatch.setenv("SLURM_JOB_ID", "4711")
    monkeypatch.setenv("SLURM_CPUS_PER_TASK", "4711")
    monkeypatch.setenv("SLURM_MEM_PER_CPU", "4711")
    monkeypatch.setenv("SBATCH_EXCLUSIVE", "1")
    monkeypatch.setenv("OF_THE_USER", "mine")
    bench.write(
        "pipeline.py",
        IMPORTS,
        """
        class Setup(Target):
            def run(self):
                for name, value in os.environ.items():
                    if name.startswith(("SLURM", "SBATCH")) or name == "OF_THE_USER":
                        note("%s=%s" % (name, value))
        """,
        MAIN,
    )

    start(bench).ended().succeeded()

    seen = dict(line.split("=", 1) for line in bench.lines("notes"))
    assert seen["OF_THE_USER"] == "mine"
    assert "4711" not in seen.values()
    assert seen["SLURM_JOB_NAME"] == token(bench)
    assert seen["SLURMD_NODENAME"] in slurm_server.nodes
    assert "SBATCH_EXCLUSIVE" not in seen


def test_nothing_follows_a_first_job_that_cannot_run(bench: Bench, slurm_server: SlurmServer) -> None:
    """The script is gone by the time jobs start: one bundle after the other says so, none in crowds."""
    (bench.directory / "here").mkdir()
    (bench.directory / "here" / "pipeline.py").write_text((bench.directory / "pipeline.py").read_text())
    slurm_server.run("scontrol", "update", "PartitionName=main", "State=DOWN")
    try:
        run = bench.start(
            "here/pipeline.py", "--jobTree", str(bench.directory / "tree"), *OPTIONS, "--maxLost", "9"
        )
        wait_until(lambda: (bench.directory / "tree" / "config.json").exists(), "the tree")
        wait_until(lambda: waits_or_runs(queue(bench, slurm_server)), "a job in the queue")
        (bench.directory / "here").rename(bench.directory / "gone")
    finally:
        slurm_server.run("scontrol", "update", "PartitionName=main", "State=UP")

    ran = run.ended()

    assert ran.status in (1, 3), ran.err
    assert "Nothing can be run by slurm" in ran.err
    assert "here" in ran.err
    assert bench.lines("notes") == []


def test_options_that_slurm_does_not_take_are_refused_at_the_start(bench: Bench) -> None:
    ran = start(bench, "--slurmPartition", "nope").ended()

    assert ran.status == 2, ran.err
    assert "invalid partition specified: nope" in ran.err.lower()
    assert "--slurmPartition" in ran.err
    assert "Traceback" not in ran.err


def test_what_was_submitted_while_the_controller_was_down_runs_later(
    bench: Bench, slurm_server: SlurmServer
) -> None:
    """It goes away while targets run; their results are taken, and what follows waits for it."""
    run = start(bench)
    for _ in range(4):
        bench.gate.arrival()
    slurm_server.daemons.kill("slurmctld")
    try:
        bench.gate.let_through(4)
        wait_until(lambda: "SLURM does not take 1 jobs now" in err(bench, 0), "that the follow-on is kept")
        assert sum("ended" in line for line in bench.lines("notes")) == 4
    finally:
        slurm_server.start_controller()

    run.ended().succeeded()

    assert counted(bench) == complete(4)


def test_the_master_may_be_a_job_and_the_next_one_goes_on(
    bench: Bench, slurm_server: SlurmServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the how-to page has it: two masters of one name, one after the other; the first is asked to stop."""
    monkeypatch.setenv("PYTHONPATH", str(CHECKOUT))
    command = [
        sys.executable,
        str(bench.directory / "pipeline.py"),
        "--jobTree",
        str(bench.directory / "tree"),
        *OPTIONS,
    ]
    script = bench.directory / "master.sh"
    script.write_text(
        "#!/bin/sh\n#SBATCH --job-name=my-master --dependency=singleton\n#SBATCH --signal=B:TERM@120 --mem=100M\n"
        f"#SBATCH --output={bench.directory}/master.log --open-mode=append\nexec {shlex.join(command)}\n"
    )
    first, second = (
        slurm_server.run("sbatch", "--parsable", f"--chdir={bench.directory}", str(script)) for _ in range(2)
    )
    arrived = [bench.gate.arrival() for _ in range(4)]
    slurm_server.run("scancel", "--batch", "--signal=TERM", first)
    wait_until(lambda: state(slurm_server, second) == "RUNNING", "the second master")
    assert all(psutil.pid_exists(pid) for pid in arrived)

    bench.gate.let_through(4)

    wait_until(lambda: state(slurm_server, second) == "COMPLETED", "the end")
    assert counted(bench) == complete(4)
    assert "go on in slurm without a master" in (bench.directory / "master.log").read_text()


def state(server: SlurmServer, job: str) -> str:
    return server.run("squeue", "--noheader", "--states=all", "--format=%T", f"--jobs={job}")
