"""``--shareWith``: what a group sees of somebody's tree, what strangers see, and that only the owner can write."""

from __future__ import annotations

import json
import os
import shutil
import stat
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from jobtree.paths import TreePaths
from tests.requirements import missing
from tests.system.other_users import FRIEND, GROUP, STRANGER, as_user
from tests.system.pipelines import IMPORTS, MAIN, wait_until
from tests.system.waiting import PAUSE, Bench

PIPELINE = """
class Setup(Target):
    def run(self):
        self.addChildTarget(Waits())
        self.addChildTarget(Fails())
class Waits(Target):
    def run(self):
        print("one moment", flush=True)
        pause()
class Fails(Target):
    def run(self):
        print("what a pity", flush=True)
        raise ValueError("no such luck")
"""


@pytest.fixture
def bench() -> Iterator[Bench]:
    if os.geteuid() != 0:
        missing("only root can be other users")
    # Not below pytest's directory, through which nobody else may go.
    directory = Path(tempfile.mkdtemp(prefix="jobtree-test-"))
    directory.chmod(0o755)
    try:
        with Bench(directory) as made:
            made.write("pipeline.py", IMPORTS, PAUSE, PIPELINE, MAIN)
            yield made
    finally:
        shutil.rmtree(directory)


def friend(*command: str) -> subprocess.CompletedProcess[str]:
    return as_user(FRIEND, [GROUP], *command)


@pytest.mark.slow
def test_a_group_looks_on_and_nobody_else(bench: Bench) -> None:
    tree = str(bench.directory / "tree")
    run = bench.start("pipeline.py", "--jobTree", tree, "--shareWith", str(GROUP))
    bench.gate.arrival()

    def sees(what: str) -> bool:
        return what in friend("jobTreeStatus", "--verbose", tree).stdout

    wait_until(lambda: sees("no such luck") and sees("Waits) runs on"), "the group to be told")
    seen = friend("jobTreeStatus", "--json", "--verbose", tree)
    assert seen.returncode == 0, seen.stderr
    told = json.loads(seen.stdout)
    assert told["state"] == "running"
    bundle = int(told["running"][0]["bundle"].rpartition(".")[2])
    logs = [told["failed"][0]["log"], TreePaths(tree).log(bundle)]
    assert "what a pity" in friend("cat", logs[0]).stdout
    assert "one moment" in friend("cat", logs[1]).stdout
    single = friend("jobTreeStatus", "--tree", tree)
    assert single.returncode == 2
    assert "another user's" in single.stderr
    killed = friend("jobTreeKill", tree)
    assert killed.returncode == 2
    assert "only its owner may" in killed.stderr

    walked = dict(line.split(" ", 1)[::-1] for line in friend("walk", tree).stdout.splitlines())
    assert {path for path, can in walked.items() if can == "10"} == {
        ".", "status.json", "report.json", "config.json", "lock.json", "logs", "logs/0",
        *(os.path.relpath(log, tree) for log in logs),
    }  # fmt: skip
    assert set(walked.values()) == {"00", "10"}
    stranger = as_user(STRANGER, [], "jobTreeStatus", tree)
    assert stranger.returncode == 2
    assert "not shared with you" in stranger.stderr
    assert "Traceback" not in stranger.stderr + single.stderr + killed.stderr

    bench.gate.let_through(1)
    run.ended()
    ended = friend("jobTreeStatus", tree)
    assert "ended with failed jobs" in ended.stdout
    assert ended.returncode == 0
    used = friend("jobTreeStats", tree)
    assert used.returncode == 0, used.stderr
    assert "batch system singleMachine" in used.stdout
    assert "2 targets" in used.stdout
    refused = friend("jobTreeStats", "--targets", tree)
    assert (refused.returncode, "another user's" in refused.stderr) == (2, True), refused.stderr

    # A start without it closes the tree again.
    bench.run("jobTreeRun", "--jobTree", tree, "--shareWith", "")
    assert stat.S_IMODE(os.stat(tree).st_mode) == 0o700
    assert "not shared with you" in friend("jobTreeStatus", tree).stderr


def test_a_group_that_is_not_there_is_refused_before_anything_is_made(bench: Bench) -> None:
    tree = bench.directory / "tree"

    ran = bench.start("pipeline.py", "--jobTree", str(tree), "--shareWith", "no such group").ended()

    assert ran.status == 2
    assert "--shareWith no such group: there is no such group" in ran.err
    assert not tree.exists()
