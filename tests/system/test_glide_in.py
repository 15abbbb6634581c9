"""Nodes of a pool as jobs of a real SLURM."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

import pytest

from tests.servers import redis
from tests.servers.daemons import ServerError, wait_until
from tests.servers.pool_nodes import RunningPool
from tests.servers.slurm import SlurmServer
from tests.system.legacy_script import CHECKOUT
from tests.system.pipelines import IMPORTS, MAIN
from tests.system.test_outliving import PIPELINE, complete, counted
from tests.system.waiting import PAUSE, Bench

pytestmark = [pytest.mark.servers, pytest.mark.slow, pytest.mark.xdist_group("slurm")]


def test_slurm_jobs_work_for_a_run_and_end_when_idle(slurm_server: SlurmServer, tmp_path: Path) -> None:
    redis.require_installed()
    with redis.start() as server, RunningPool(server, tmp_path / "pool") as pool, Bench(tmp_path) as bench:
        bench.write("pipeline.py", IMPORTS, PAUSE, PIPELINE, MAIN)
        run = bench.start(
            "pipeline.py", "--jobTree", "tree", "--jobTime", "0", *pool.options(), "--defaultMemory", "64M"
        )
        script = tmp_path / "glide-in"
        script.write_text(f"#!/bin/sh\nexec srun {shlex.join(node(pool))}\n")
        bench.gate.let_through(4)

        try:
            # A node ends after a second without work, also where the run only takes a breath: then there are new ones.
            while run.process.poll() is None:
                submit(slurm_server, tmp_path, script)
                wait_until(
                    lambda: run.process.poll() is not None or queue(slurm_server) == "", "the end of the run"
                )
            run.ended().succeeded()
            wait_until(lambda: queue(slurm_server) == "", "the end of the nodes")
        except ServerError as error:
            logs = [f"{log.name}: {log.read_text()}" for log in sorted(tmp_path.glob("slurm-*"))]
            pytest.fail("\n".join((str(error), slurm_server.describe(), *logs)))

        assert counted(bench) == complete(4)
        assert pool.report("nodes") == []


def node(pool: RunningPool) -> list[str]:
    """The command of a node."""
    command = [sys.executable, str(CHECKOUT / "bin" / "jobTreeNode"), *pool.server.options("--")]
    command += ["--keyFile", str(pool.key_file), "--cpus", "2", "--memory", "1G"]
    return [*command, "--lifetime", "7h", "--idle", "1"]


def submit(server: SlurmServer, directory: Path, script: Path) -> None:
    """Two nodes."""
    options = ("--array=1-2", "--cpus-per-task=2", "--mem=1G", "--signal=TERM@120", "--no-requeue")
    log = (f"--output={directory}/slurm-%A-%a", "--open-mode=append")
    server.run("sbatch", "--job-name=glide-in", *options, *log, str(script))


def queue(server: SlurmServer) -> str:
    """The nodes that SLURM has not seen the end of."""
    return server.run("squeue", "--noheader", "--name=glide-in")
