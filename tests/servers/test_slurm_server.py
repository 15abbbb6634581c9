"""The SLURM that tests start: it runs jobs, comes back after a kill, keeps to its directory, and ends."""

from __future__ import annotations

import os
from pathlib import Path

import psutil
import pytest

from tests.servers import slurm
from tests.servers.daemons import wait_until
from tests.servers.slurm import SlurmServer

pytestmark = [pytest.mark.servers, pytest.mark.xdist_group("slurm")]


def processes_of(server: SlurmServer) -> list[str]:
    """Command lines of the processes that have the server's configuration in their environment."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get("SLURM_CONF") == server.env["SLURM_CONF"]:
                found.append(" ".join(process.cmdline()))
        except psutil.Error:  # gone meanwhile, or not ours
            pass
    return found


def test_a_job_runs_and_its_controller_may_be_killed(slurm_server: SlurmServer, tmp_path: Path) -> None:
    output = tmp_path / "output"
    slurm_server.run("sbatch", f"--output={output}", "--wrap=echo here")
    wait_until(lambda: output.exists() and output.read_text() == "here\n", "the job's output")

    slurm_server.daemons.kill("slurmctld")
    slurm_server.start()

    assert slurm_server.run("sinfo", "--noheader", "--format=%P").split() == ["main*", "one", "down"]


def test_nothing_is_left_for_the_next_test(slurm_server: SlurmServer) -> None:
    """Such as a crashed controller leaves behind, which forgets, and gives out numbers again that nodes remember."""
    node = slurm_server.nodes[0]
    job = slurm_server.run("sbatch", "--parsable", "--hold", "--output=/dev/null", "--wrap=true")
    slurm_server.daemons.kill("slurmctld")
    slurm_server.start_controller()
    slurm_server.run("scontrol", "update", f"NodeName={node}", "State=DRAIN", "Reason=test")
    assert node in slurm_server.run("sinfo", "--noheader", "--states=drain", "--format=%N")

    slurm_server.start()
    slurm_server.clear()

    assert slurm_server.run("squeue", "--noheader") == ""
    assert slurm_server.run("sinfo", "--noheader", "--states=drain", "--format=%N") == ""
    later = slurm_server.run("sbatch", "--parsable", "--output=/dev/null", "--wrap=true")
    assert int(later) > int(job) + 1000


def test_nothing_is_left_of_a_server_that_was_stopped() -> None:
    slurm.require_installed()
    with slurm.start(variant=slurm.Variant(nodes=2)) as server:
        server.run("sbatch", "--output=/dev/null", "--wrap=sleep 1000")
        wait_until(lambda: "RUNNING" in server.run("squeue", "--noheader", "--format=%T"), "a running job")
        assert len(processes_of(server)) >= 4

    wait_until(lambda: processes_of(server) == [], "the end of all processes")
    assert not os.path.exists(server.directory)


@pytest.mark.slow
def test_accounting_answers(slurm_server_with_accounting: SlurmServer) -> None:
    server = slurm_server_with_accounting
    job = server.run("sbatch", "--parsable", "--output=/dev/null", "--wrap=exit 3")
    ask = ("sacct", "--noheader", "--parsable2", "--allocations", f"--jobs={job}", "--format=State,ExitCode")

    wait_until(lambda: server.run(*ask) == "FAILED|3:0", "the end in the accounts")
