"""Nodes of a pool as jobs of a real SLURM."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.servers import redis
from tests.servers.daemons import wait_until
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
        node = [sys.executable, str(CHECKOUT / "bin" / "jobTreeNode"), *server.options("--")]
        node += [
            "--keyFile",
            str(pool.key_file),
            "--cpus",
            "2",
            "--memory",
            "1G",
            "--lifetime",
            "7h",
            "--idle",
            "1",
        ]
        script = tmp_path / "glide-in"
        script.write_text(f"#!/bin/sh\nexec srun {' '.join(node)}\n")
        log = f"--output={tmp_path}/slurm-%a"
        options = ("--parsable", "--array=1-2", "--cpus-per-task=2", "--signal=TERM@120", log)
        nodes = slurm_server.run("sbatch", *options, str(script))
        bench.gate.let_through(4)

        run.ended().succeeded()
        assert counted(bench) == complete(4)
        wait_until(
            lambda: nodes not in slurm_server.run("squeue", "--noheader", "--format=%F"),
            "the end of the nodes",
        )
        assert pool.report("nodes") == []
