"""What a scheduler starts on a node: the job is what it was asked to be, and its end is told."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any, Optional

import pytest

from batchsystems import on_node


class Node:
    """Runs jobs in a folder, as a scheduler does."""

    def __init__(self, folder: Path, by_file: bool) -> None:
        self.folder = folder
        self.by_file = by_file

    def run(self, script: str, log: Optional[Path] = None, **more: Any) -> subprocess.CompletedProcess[str]:
        """Run a shell script as job "a.1"."""
        job = {"name": "a.1", "command": ["/bin/sh", "-c", script], "log": log and str(log)}
        what = {"env": {}, "drop": [], "cwd": str(self.folder), "jobs": {"1": job}, **more}
        path = self.folder / "what"
        path.write_text(json.dumps(what))
        command = [sys.executable, "-I", "-S", on_node.__file__, "1"]
        with open(os.devnull if self.by_file else path, "rb") as read:
            return subprocess.run(
                [*command, str(path)] if self.by_file else command,
                stdin=read, capture_output=True, text=True, check=False, timeout=60,
            )  # fmt: skip


@pytest.fixture(params=[False, True], ids=["by standard input", "by a file"])
def node(tmp_path: Path, request: pytest.FixtureRequest) -> Node:
    return Node(tmp_path, request.param)


def test_everything_printed_is_appended_to_the_log_and_nothing_is_there_to_read(node: Node) -> None:
    log = node.folder / "log"
    log.write_text("earlier\n")

    ran = node.run("echo here; echo error >&2; wc -c", log)

    assert log.read_text().split() == ["earlier", "here", "error", "0"]
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, "", "")


def test_without_a_log_nobody_sees_it(node: Node) -> None:
    ran = node.run("echo here; echo error >&2; exit 3")
    assert (ran.returncode, ran.stdout, ran.stderr) == (3, "", "")


def test_only_the_usual_descriptors_are_open(node: Node) -> None:
    node.run("ls /proc/self/fd", node.folder / "log")
    # The fourth is ls's own.
    assert (node.folder / "log").read_text().split() == ["0", "1", "2", "3"]


def test_it_ends_by_the_signal_that_has_ended_the_job(node: Node) -> None:
    assert node.run("kill -9 $$").returncode == -signal.SIGKILL
    assert node.run("kill -TERM $$").returncode == -signal.SIGTERM


def test_what_cannot_be_run_and_where_it_cannot(node: Node) -> None:
    ran = node.run("exit 0", cwd="/nonexistent")
    assert ran.returncode == 127
    assert ran.stderr == "on_node a.1 status /nonexistent: No such file or directory\n"

    ran = node.run("exit 0", Path("/nonexistent/log"))
    assert ran.returncode == on_node.EX_TEMPFAIL
    assert ran.stderr.startswith("on_node a.1 lost ")


def test_a_description_that_is_none_is_said_to_be_so(node: Node) -> None:
    ran = node.run("exit 0", jobs={})
    assert ran.returncode == on_node.EX_TEMPFAIL
    assert "the description of this job cannot be read" in ran.stderr
