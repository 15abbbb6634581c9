"""Runs whose master and workers are at different clients of an NFS server, with everything that such a server may do.

The clients are nfs_client.py. ``JOBTREE_TEST_NFS_RUNS=N`` in the environment makes it N runs that are killed, each with
a seed of its own; what a run printed is in the failure.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path

import psutil
import pytest

from tests.crash import random_tree
from tests.crash.mounts import CHECKOUT, require_fuse
from tests.crash.nfs import Site, on_the_node, site
from tests.fakes.detached import children
from tests.system.pipelines import wait_until

RUNS = int(os.environ.get("JOBTREE_TEST_NFS_RUNS", "3"))
SMALL = (86, 140, 171, 284, 394)
"""Seeds of random trees of 20 to 35 jobs."""
DEADLINE_SECONDS = 200.0
KILLS = 7
MISBEHAVIOUR = ("--uses", "25", "--lose", "0.1")
OPTIONS = (
    "--batchSystem", "tests.fakes.detached:Detached", "--lease", "20", "--grace", "1", "--jobTime", "5",
    "--retryCount", "3", "--maxLost", "20",
)  # fmt: skip

pytestmark = pytest.mark.timeout(400)


@pytest.fixture(autouse=True)
def fuse() -> None:
    """All of these need it."""
    require_fuse()


def start(there: Site, seed: int) -> subprocess.Popen[bytes]:
    """The master of a random tree; its result is no affair of the file system's."""
    tree, result = there.shared / "tree", there.directory / "result"
    return there.start("random_tree.py", "--seed", seed, "--result", result, "--jobTree", tree, *OPTIONS)


def check(there: Site, seed: int) -> None:
    """It has come to the right end, and nothing is left."""
    result, jobs = random_tree.expected(seed)
    assert (there.directory / "result").read_text() == result, there.said()
    assert f"Complete: {jobs} jobs done" in there.said()
    for name in ("bundles", "claims", "outcomes", "heartbeats", "values", "globalTempDirs", "requests"):
        left = [path for path in (there.directory / "store" / "tree" / name).rglob("*") if path.is_file()]
        assert left == [], there.said()


def submitted(there: Site) -> int:
    """How many bundles the farm has taken so far."""
    path = there.farm.directory / "submitted"
    return len(path.read_text().splitlines()) if path.exists() else 0


def _has_done(there: Site, enough: int, master: subprocess.Popen[bytes]) -> bool:
    return submitted(there) >= enough or master.poll() is not None


def _kill_one(there: Site, chance: random.Random, killed: list[str]) -> bool:
    """SIGKILL for a supervisor, or for what it has started; False if there is nothing of the kind at this moment."""
    supervisors = there.farm.jobs()
    if chance.random() < 0.5:
        drawn, what = supervisors, "supervisor"
    else:
        drawn, what = [child for one in supervisors for child in children(one)], "worker"
    if not drawn:
        return False
    with contextlib.suppress(psutil.NoSuchProcess):
        chance.choice(drawn).kill()
        killed.append(what)
        return True
    return False


def status_on_the_node(there: Site, *options: str) -> subprocess.CompletedProcess[str]:
    """jobTreeStatus, where it can see only what has come through the server."""
    return subprocess.run(
        [*on_the_node(there.directory), sys.executable, str(CHECKOUT / "bin" / "jobTreeStatus"), *options,
         str(there.shared / "tree")],
        capture_output=True, text=True, timeout=DEADLINE_SECONDS, env={**os.environ, "PYTHONPATH": str(CHECKOUT)},
        check=False,
    )  # fmt: skip


def test_status_from_another_machine_while_it_runs_and_afterwards(tmp_path: Path) -> None:
    """And every bundle is started twice: one of them wins its claim, though answers get lost."""
    seed = SMALL[0]
    with site(tmp_path, seed, *MISBEHAVIOUR) as there:
        there.farm.trick("twice")
        master = start(there, seed)
        wait_until(lambda: submitted(there) >= 2, "bundles to be submitted")
        running = status_on_the_node(there, "--verbose")
        assert running.returncode == 0, running.stderr + there.said()
        assert "running on host" in running.stdout
        assert master.wait(DEADLINE_SECONDS) == 0, there.said()
        check(there, seed)
        ended = status_on_the_node(there, "--failIfNotComplete")
        assert ended.returncode == 0, ended.stdout + ended.stderr


@pytest.mark.parametrize(
    "number", [0, *(pytest.param(number, marks=pytest.mark.slow) for number in range(1, RUNS))]
)
def test_the_master_is_killed_and_started_again(tmp_path: Path, number: int) -> None:
    seed = SMALL[1 + number % (len(SMALL) - 1)]
    chance = random.Random(number)
    with site(tmp_path, number, *MISBEHAVIOUR) as there:
        for _ in range(2):
            enough = submitted(there) + chance.randint(1, 5)
            master = start(there, seed)
            wait_until(partial(_has_done, there, enough, master), "bundles to be submitted")
            master.send_signal(signal.SIGKILL)
            master.wait()
        assert start(there, seed).wait(DEADLINE_SECONDS) == 0, there.said()
        check(there, seed)


@pytest.mark.slow
def test_supervisors_and_workers_are_killed(tmp_path: Path) -> None:
    """One or the other, seven times, at moments that the seed says as numbers of submitted bundles."""
    seed = SMALL[2]
    chance = random.Random(seed)
    print(f"seed {seed}")
    with site(tmp_path, seed, *MISBEHAVIOUR) as there:
        master = start(there, seed)
        killed: list[str] = []
        while master.poll() is None and len(killed) < KILLS:
            enough = submitted(there) + chance.randint(0, 2)
            wait_until(partial(_has_done, there, enough, master), "bundles to be submitted")
            wait_until(lambda: _kill_one(there, chance, killed) or master.poll() is not None, "a job to run")
        assert master.wait(DEADLINE_SECONDS) == 0, there.said()
        assert len(killed) == KILLS, f"the run was over after {killed}"
        check(there, seed)


@pytest.mark.slow
def test_the_sort_on_files_that_two_machines_share(tmp_path: Path) -> None:
    with site(tmp_path, 1, "--uses", "25", "--mmap") as there:
        unsorted = there.shared / "unsorted"
        chance = random.Random(5)
        lines = [f"{chance.getrandbits(64):x}\n" for _ in range(4000)]
        unsorted.write_text("".join(lines))
        master = there.start(
            "../../examples/sort.py", "--fileToSort", unsorted, "--output", there.shared / "sorted", "--N", "20000",
            "--jobTree", there.shared / "tree", *OPTIONS,
        )  # fmt: skip
        assert master.wait(DEADLINE_SECONDS) == 0, there.said()
        assert (there.directory / "store" / "sorted").read_text() == "".join(sorted(lines))
