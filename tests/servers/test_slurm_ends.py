"""Each way in which SLURM ends a job, produced on a real one, is told apart."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Optional

import pytest

from batchsystems.abstract import EndKind, Reason, Resources, Submission
from batchsystems.slurm import Slurm
from tests.conformance.scene import SERVER_SECONDS, Scene, is_alive
from tests.servers.daemons import wait_until
from tests.servers.slurm import SlurmServer

pytestmark = [
    pytest.mark.servers,
    pytest.mark.xdist_group("slurm"),
    pytest.mark.slow,
    pytest.mark.timeout(600),
]

EAT = "python3 -c 'import time; x = bytearray(300 << 20); print(1, flush=True); time.sleep(60)'"


class Ground:
    """A scene on a server, and the numbers of its jobs."""

    def __init__(self, server: SlurmServer, directory: Path, **options: object) -> None:
        self.server = server
        batch = Slurm(str(directory), {"slurmInterval": 0.2, **options}, patience=1.0)
        self.scene = Scene(batch, None, SERVER_SECONDS)

    def job_id(self, name: str) -> str:
        """SLURM's number of a job: array and task."""
        job = self.scene.batch._jobs.jobs[f"{self.scene.run}.{name}"]  # type: ignore[attr-defined]
        self.scene.until(lambda: job.array is not None and job.array.number is not None, "its number")
        return f"{job.array.number}_{job.index}"

    def run(self, name: str, script: str, memory: int = 100 << 20, time: Optional[float] = None) -> str:
        """Issue a job and wait until it has begun; where."""
        command = self.scene.job(name, f': > "started.{name}"; {script}').command
        job = Submission(
            f"{self.scene.run}.{name}", command, Resources(1, memory, time), cwd=self.scene.folder
        )
        self.scene.issue(job)
        self.scene.until_file(f"started.{name}")
        return self.job_id(name)


@pytest.fixture
def plain(slurm_server: SlurmServer, tmp_path: Path) -> Iterator[Ground]:
    yield from ground(slurm_server, tmp_path)


@pytest.fixture
def accounted(slurm_server_with_accounting: SlurmServer, tmp_path: Path) -> Iterator[Ground]:
    yield from ground(slurm_server_with_accounting, tmp_path)


def ground(server: SlurmServer, directory: Path) -> Iterator[Ground]:
    made = Ground(server, directory)
    with made.scene:
        yield made
    server.run("scancel", "--signal=KILL", "--user=root")
    wait_until(lambda: not server.run("squeue", "--noheader"), "an empty queue")


def test_memory_with_control_groups(accounted: Ground) -> None:
    accounted.run("eats", f"{EAT}; exit 0")

    end = accounted.scene.end("eats")

    assert (end.kind, end.reason) == (EndKind.KILLED, Reason.MEMORY)
    assert "OUT_OF_MEMORY" in end.detail


def test_memory_without_control_groups(plain: Ground) -> None:
    """SLURM calls it FAILED by signal 9; what it has printed tells."""
    plain.run("eats", EAT)

    end = plain.scene.end("eats")

    assert (end.kind, end.reason) == (EndKind.KILLED, Reason.MEMORY)
    assert "exceeded memory limit" in end.detail


def test_a_node_that_fails(plain: Ground) -> None:
    plain.run("works", "await go")
    node = node_of(plain, "works")
    plain.server.run("scontrol", "update", f"NodeName={node}", "State=DOWN", "Reason=test")
    try:
        end = plain.scene.end("works")
    finally:
        wait_until(plain.server._all_up, "the node's return")

    assert (end.kind, end.reason, end.host) == (EndKind.KILLED, Reason.NODE, node)


def node_of(ground: Ground, name: str) -> str:
    return ground.server.run("squeue", "--noheader", "--format=%N", f"--jobs={ground.job_id(name)}")


def test_cancelled_by_somebody_else_while_running_and_while_waiting(plain: Ground) -> None:
    running = plain.run("running", "await go")
    plain.server.run("scontrol", "update", "PartitionName=main", "State=DOWN")
    try:
        plain.scene.issue(plain.scene.job("waiting", ": > hit"))
        waiting = plain.job_id("waiting")
        plain.server.run("scancel", running, waiting)

        ends = plain.scene.ends("running", "waiting")
    finally:
        plain.server.run("scontrol", "update", "PartitionName=main", "State=UP")

    assert {(end.kind, end.reason) for end in ends} == {(EndKind.KILLED, Reason.SIGNAL)}
    assert all("somebody else" in end.detail for end in ends)
    assert not plain.scene.exists("hit")


def test_a_time_limit(plain: Ground) -> None:
    """SLURM's limits are whole minutes, and it looks at them twice a minute; the operator shortens this one."""
    job = plain.run("long", "await go", time=600)
    plain.server.run("scontrol", "update", f"JobId={job}", "EndTime=now+1")

    end = plain.scene.end("long")

    assert (end.kind, end.reason) == (EndKind.KILLED, Reason.TIME)
    assert "TIMEOUT" in end.detail


def test_preempted_for_somebody_who_is_more_important(slurm_server: SlurmServer, tmp_path: Path) -> None:
    server = slurm_server
    more = ("PreemptType=preempt/partition_prio", "PreemptMode=CANCEL",
            f"PartitionName=urgent Nodes={server.nodes[0]} PriorityTier=9 State=UP OverSubscribe=NO")  # fmt: skip
    restart(server, *more)
    try:
        for made in ground(server, tmp_path):
            made.scene.batch._options["slurmPartition"] = "one"  # type: ignore[attr-defined]
            made.scene.batch._dialogue._arguments.append("--partition=one")  # type: ignore[attr-defined]
            made.run("small", "await go")
            server.run("sbatch", "--partition=urgent", "--ntasks=4", "--output=/dev/null", "--wrap=sleep 20")

            end = made.scene.end("small")

            assert (end.kind, end.reason) == (EndKind.KILLED, Reason.PREEMPTED)
    finally:
        server.run("scancel", "--user=root")
        restart(server)


def restart(server: SlurmServer, *more: str) -> None:
    """Have the controller read other settings, also those that it reads at its start only."""
    server.daemons.stop("slurmctld")
    server.write_configuration(*more)
    server.start_controller()
    wait_until(server._all_up, "nodes")


def test_slurm_is_asked_not_to_queue_jobs_again(plain: Ground) -> None:
    job = plain.run("works", "await go")

    assert "Requeue=0" in plain.server.run("scontrol", "show", "job", job)
    plain.scene.create("go")
    assert plain.scene.end("works").status == 0


def test_an_operator_may_queue_it_again_and_that_is_no_end(plain: Ground) -> None:
    job = plain.run("again", 'echo run >> runs; test "$(wc -l < runs)" = 2 || await go')
    plain.server.run("scontrol", "update", f"JobId={job}", "Requeue=1")
    plain.server.run("scontrol", "requeue", job)

    wait_until(lambda: "PENDING" in state_of(plain, job), "it is queued again")
    assert plain.scene.poll(1.0) == []
    plain.server.run("scontrol", "update", f"JobId={job}", "StartTime=now")
    end = plain.scene.end("again")

    assert (end.kind, end.status) == (EndKind.FINISHED, 0)
    assert plain.scene.read("runs") == "run\nrun\n"


def state_of(ground: Ground, job: str) -> str:
    return ground.server.run("squeue", "--noheader", "--states=all", "--format=%T", f"--jobs={job}")


def test_a_missing_directory_is_not_replaced_by_another(plain: Ground) -> None:
    """SLURM would run it in /tmp and call it a success."""
    job = Submission(f"{plain.scene.run}.lost", ("/bin/pwd",), cwd="/nonexistent/directory")
    plain.scene.issue(job)

    end = plain.scene.end("lost")

    assert (end.kind, end.status) == (EndKind.FINISHED, 127)
    assert "/nonexistent/directory" in end.detail


def test_an_output_directory_that_the_node_does_not_have(plain: Ground) -> None:
    plain.scene.batch._dialogue._directory = "/nonexistent/output"  # type: ignore[attr-defined]
    plain.scene.issue(plain.scene.job("blind", ": > hit"))

    end = plain.scene.end("blind")

    assert end.kind is EndKind.LOST
    assert "could not be opened" in end.detail
    assert not plain.scene.exists("hit")


def test_a_log_that_cannot_be_written_loses_the_job(plain: Ground) -> None:
    plain.scene.issue(plain.scene.job("mute", ": > hit", log="/nonexistent/log"))

    end = plain.scene.end("mute")

    assert end.kind is EndKind.LOST
    assert "/nonexistent/log" in end.detail


def test_what_pends_for_ever_is_told_and_removed(plain: Ground) -> None:
    job = plain.run("blocks", "await go")
    plain.server.run("scontrol", "update", "PartitionName=main", "State=DOWN")
    plain.scene.issue(plain.scene.job("held", ": > hit"))
    held = plain.job_id("held")
    plain.server.run("scontrol", "hold", held)
    plain.server.run("scontrol", "update", "PartitionName=main", "State=UP")

    end = plain.scene.end("held")

    assert (end.kind, end.reason) == (EndKind.KILLED, Reason.NEVER_FITS)
    assert "JobHeld" in end.detail
    wait_until(lambda: plain.scene.poll() == [] and "PENDING" not in state_of(plain, held), "its removal")
    assert state_of(plain, job) == "RUNNING"
    plain.scene.create("go")
    plain.scene.end("blocks")


def test_a_daemon_of_a_node_that_is_killed_changes_nothing(plain: Ground) -> None:
    job = plain.run("works", "await go; exit 5")
    node = node_of(plain, "works")
    plain.server.daemons.kill(node)
    try:
        plain.scene.create("go")
        wait_until(
            lambda: state_of(plain, job) == "COMPLETING", "its end, of which only SLURM's step daemon tells"
        )
        assert plain.scene.poll(0.5) == []
    finally:
        plain.server.start_node(node)
    end = plain.scene.end("works")

    assert (end.kind, end.status) == (EndKind.FINISHED, 5)


def test_a_crashed_controller_gives_numbers_out_again(plain: Ground) -> None:
    """The first job is lost with it; the second has the first one's number, and is itself."""
    server, scene = plain.server, plain.scene
    server.daemons.stop("slurmctld")
    server.run("cp", "-a", server.path("state"), server.path("saved"))
    server.start_controller()
    scene.issue(scene.job("first", "await go"))
    first = plain.job_id("first")
    server.daemons.kill("slurmctld")
    server.run("rm", "-r", server.path("state"))
    server.run("mv", server.path("saved"), server.path("state"))
    server.start_controller()
    scene.issue(scene.job("second", "await go; exit 2"))
    assert plain.job_id("second") == first

    assert scene.end("first").kind is EndKind.LOST
    scene.create("go")
    assert scene.end("second").status == 2


def test_what_slurm_has_forgotten_is_in_the_accounts(accounted: Ground) -> None:
    """MinJobAge has passed while nobody asked: `sacct` knows how it ended."""
    server = accounted.server
    server.reconfigure("MinJobAge=2")
    try:
        accounted.scene.batch._dialogue._interval = 1000.0  # type: ignore[attr-defined]
        accounted.run("ended", "tell pid $$; exit 7")
        job = accounted.job_id("ended")
        wait_until(lambda: not is_alive(int(accounted.scene.read("pid") or os.getpid())), "its end")
        wait_until(lambda: job.split("_")[0] not in server.run("squeue", "--noheader", "--states=all", "--format=%F"),
                   "that SLURM forgets it", seconds=120)  # fmt: skip
        accounted.scene.batch._dialogue._interval = 0.2  # type: ignore[attr-defined]
        accounted.scene.batch._dialogue._next_question = 0.0  # type: ignore[attr-defined]
        accounted.scene.batch._dialogue._every = 0.2  # type: ignore[attr-defined]

        end = accounted.scene.end("ended")
    finally:
        server.reconfigure()

    assert (end.kind, end.status) == (EndKind.FINISHED, 7)


def test_accounts_that_are_away_stop_nothing(accounted: Ground) -> None:
    server = accounted.server
    server.daemons.kill("slurmdbd")
    try:
        accounted.run("works", "exit 4")
        assert accounted.scene.end("works").status == 4
    finally:
        server.start_dbd()


def test_machines_to_avoid_are_not_used(plain: Ground, tmp_path: Path) -> None:
    node = plain.server.nodes[0]
    plain.scene.batch.avoid({node, "unknown.example.org"})
    names = [str(number) for number in range(6)]
    plain.scene.issue(*(plain.scene.job(name, 'echo "$SLURMD_NODENAME" >> nodes') for name in names))
    plain.scene.ends(*names)

    nodes = plain.scene.read("nodes").split()
    assert len(nodes) == 6
    assert node not in nodes
