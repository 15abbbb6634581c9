"""The Grid Engine that tests start: it runs jobs, comes back after a kill, keeps to its directory, and ends."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import psutil
import pytest

from tests.servers import grid_engine
from tests.servers.daemons import ServerError, wait_until
from tests.servers.grid_engine import GridEngineServer

pytestmark = [pytest.mark.servers, pytest.mark.xdist_group("grid_engine")]


def submit(server: GridEngineServer, script: str, *options: str, output: str = "/dev/null") -> str:
    """The id of a new job."""
    return server.run(
        "qsub", "-terse", "-b", "y", "-j", "y", "-o", output, *options, "/bin/sh", "-c", f'"{script}"'
    )


def processes_of(server: GridEngineServer) -> list[str]:
    """Command lines of the processes that have the server's root in their environment."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get("SGE_ROOT") == server.env["SGE_ROOT"]:
                found.append(" ".join(process.cmdline()))
        except psutil.Error:  # gone meanwhile, or not ours
            pass
    return found


def accounted(server: GridEngineServer, name: str) -> dict[str, str]:
    """What the accounting file has of the job of this name, waiting for its end.

    By name, since a qmaster that was killed soon after its first start gives numbers out once more.
    """
    lines: list[str] = []

    def told() -> bool:
        try:
            lines[:] = server.run("qacct", "-j", name).splitlines()
        except ServerError:  # not there yet
            return False
        return True

    wait_until(told, f"{name} in the accounts")
    pairs = [line.split(None, 1) for line in lines]
    return {pair[0]: pair[1].strip() for pair in pairs if len(pair) == 2}


def test_a_job_runs_and_its_master_may_be_killed(
    grid_engine_server: GridEngineServer, tmp_path: Path
) -> None:
    output = tmp_path / "output"
    submit(grid_engine_server, "env; echo here", output=str(output))
    wait_until(lambda: output.exists() and output.read_text().endswith("here\n"), "the job's output")

    grid_engine_server.daemons.kill("qmaster")
    grid_engine_server.start()

    assert "LD_PRELOAD" not in output.read_text(), "the daemon's environment is not the job's"
    assert grid_engine_server.run("qconf", "-sql") == grid_engine.QUEUE


@pytest.mark.slow
def test_ends_are_accounted_and_what_can_never_run_is_refused(grid_engine_server: GridEngineServer) -> None:
    server = grid_engine_server
    submit(server, "exit 3", "-N", "fails")
    submit(server, "kill -9 $$", "-N", "is_killed", "-pe", "smp", "3")

    assert accounted(server, "fails")["exit_status"] == "3"
    ended = accounted(server, "is_killed")
    assert (ended["exit_status"].split()[0], ended["slots"]) == ("137", "3")

    for request in (("-l", "h_vmem=999G"), ("-pe", "smp", "999"), ("-q", "nowhere.q")):
        with pytest.raises(ServerError, match="Unable to run job"):
            submit(server, "exit 0", *request)
    waiting = submit(server, "exit 0", "-w", "n", "-l", "h_vmem=999G")
    assert server.run("qstat", "-s", "p").splitlines()[-1].split()[0] == waiting
    server.run("qdel", waiting)


def test_nothing_is_left_for_the_next_test(grid_engine_server: GridEngineServer) -> None:
    server = grid_engine_server
    submit(server, "sleep 1000", "-h")
    server.run("qmod", "-d", grid_engine.QUEUE)
    assert not server.is_up()

    server.clear()

    assert server.run("qstat", "-u", "*") == ""
    assert server.is_up()


@pytest.mark.slow
def test_nothing_is_left_of_a_server_that_was_stopped() -> None:
    grid_engine.require_installed()
    with grid_engine.start() as server:
        submit(server, "sleep 1000")
        wait_until(lambda: " r " in server.run("qstat"), "a running job")
        assert len(processes_of(server)) >= 4

        for port in (server.ports, server.ports + 1):
            socket.create_connection(("127.0.0.1", port)).close()
            with pytest.raises(ConnectionRefusedError):  # whoever listens on all addresses has this one too
                socket.create_connection(("127.0.0.2", port))

    wait_until(lambda: processes_of(server) == [], "the end of all processes")
    assert not os.path.exists(server.directory)
