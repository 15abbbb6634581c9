"""jobTreeRun --debug: a job that fails runs here, with pdb where there is a terminal, and the tree stays as it was."""

from __future__ import annotations

import json
import os
import pty
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.system.legacy_script import CHECKOUT
from tests.system.waiting import Bench

SCRIPT = """
import argparse, os, sys
from jobtree import Stack, Target

def root(target):
    with open(os.path.join(target.getGlobalTempDir(), "shared"), "w") as file:
        file.write("from the root")
    value = target.addChildFn(gives).rv()
    target.setFollowOnTargetFn(fails, args=(value,), cpu=0.5)

def gives():
    return [1, 2, 3]

def quick():
    pass

def fails(target, value):
    secret = sum(value)
    print("here in", os.getcwd(), "with", secret, os.environ["OMP_NUM_THREADS"], os.environ.get("COLOUR"))
    target.logToMaster("a word to the master")
    with open(os.path.join(target.getLocalTempDir(), "scratch"), "w") as file:
        file.write("x")
    path = os.path.join(target.getGlobalTempDir(), "shared")
    with open(path) as file:
        print("the root left", file.read())
    if "jobtree-debug-" in path:
        with open(path, "w") as file:
            file.write("spoilt")
    target.addChildFn(quick)
    target.setFollowOnFn(quick)
    if not os.path.exists("mended"):
        raise ValueError("six is no good")
    return "well"

if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    Stack.addJobTreeOptions(parser)
    options = parser.parse_args()
    sys.exit(1 if Stack(Target.makeTargetFn(root)).startJobTree(options) else 0)
"""


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    monkeypatch.setenv("COLOUR", "green")
    with Bench(tmp_path) as made:
        made.write("script.py", SCRIPT)
        ran = made.run("script.py", "--jobTree", "tree")
        assert ran.status == 1
        monkeypatch.delenv("COLOUR")
        monkeypatch.chdir("/")
        yield made


def rows(bench: Bench) -> Any:
    """Everything that is told of the tree, and the files of the chain's directory."""
    found = json.loads(bench.run("jobTreeStatus", "tree", "--json", "--tree").out)
    files = {path: path.read_text() for path in (bench.directory / "tree" / "globalTempDirs").rglob("shared")}
    return found, files


def debug_files() -> set[str]:
    return {name for name in os.listdir("/tmp") if name.startswith("jobtree-debug-")}


def test_it_fails_here_as_it_did_there_and_changes_nothing(bench: Bench) -> None:
    before, files = rows(bench), debug_files()

    ran = bench.run("jobTreeRun", "--jobTree", "tree", "--debug", "0-1")

    assert ran.status == 1
    assert ran.out == f"here in {bench.directory} with 6 1 green\nthe root left from the root\n"
    assert ran.err.startswith(
        "jobtree: job 0-1 (script.fails) runs here, without any effect on the tree\n"
        "jobtree: job 0-1 says: a word to the master\n"
        "jobtree: a copy of "
    )
    trace = ran.err[ran.err.index("Traceback") :]
    assert re.sub(r" *\^+\n", "", trace) == (
        "Traceback (most recent call last):\n"
        f'  File "{bench.directory}/script.py", line 32, in fails\n'
        '    raise ValueError("six is no good")\n'
        "ValueError: six is no good\n"
        "jobtree: it failed. The tree is as it was.\n"
    )
    assert (rows(bench), debug_files()) == (before, files)


def test_it_succeeds_once_the_code_is_mended_and_nothing_of_it_is_kept(bench: Bench) -> None:
    (bench.directory / "mended").touch()
    before = rows(bench)

    ran = bench.run("jobTreeRun", "--jobTree", "tree", "--debug", "0-1").succeeded()

    assert ran.err.endswith(
        "jobtree: it succeeded, returned 'well' and added 1 child, and the follow-on script.quick. Nothing of it is "
        "kept.\n"
    )
    assert rows(bench) == before
    bench.run("jobTreeRun", "--jobTree", "tree").succeeded()


def test_on_a_terminal_an_error_leads_into_pdb(bench: Bench) -> None:
    ours, theirs = pty.openpty()
    command = [sys.executable, str(CHECKOUT / "bin" / "jobTreeRun"), "--jobTree", "tree", "--debug", "0-1"]
    environment = {**os.environ, "PYTHONPATH": str(CHECKOUT)}
    process = subprocess.Popen(
        command, cwd=bench.directory, env=environment, stdin=theirs, stdout=theirs, stderr=theirs
    )
    os.close(theirs)
    try:
        os.write(ours, b"p secret * 7\nq\n")
        shown = b""
        while True:
            try:
                data = os.read(ours, 4096)
            except OSError:  # how a terminal tells that nobody has it open any more
                break
            shown += data
            if not data:
                break
    finally:
        os.close(ours)
        assert process.wait(60) == 1
    text = shown.decode()
    assert '-> raise ValueError("six is no good")' in text
    assert "42" in text
    assert text.rstrip().endswith("it failed. The tree is as it was.")


def test_the_command_for_it_is_printed_with_each_failure(bench: Bench) -> None:
    said = f"  to run it here, under a debugger: jobTreeRun --jobTree {bench.directory}/tree --debug 0-1\n"
    assert said in bench.run("jobTreeStatus", "tree", "--failed").out
    assert said in bench.run("jobTreeStatus", "tree", "--verbose").out
    assert said in bench.run("jobTreeRun", "--jobTree", "tree").err


@pytest.mark.parametrize(
    ("job", "words"), [("me", "'me' is no job"), ("7-7", "job 7-7 is not in the tree: it is done")]
)
def test_what_cannot_be_debugged(bench: Bench, job: str, words: str) -> None:
    ran = bench.run("jobTreeRun", "--jobTree", "tree", "--debug", job)
    assert ran.status == 2
    assert words in ran.err
