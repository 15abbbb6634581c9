"""jobTreeStatus about single jobs, word for word: on a tree that runs, on one that has ended, and from programs."""

from __future__ import annotations

import contextlib
import io
import json
import re
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from jobtree.cli import status
from tests.system.waiting import PAUSE, Bench, Running

#: A root with a child that has children: one of those fails, and one waits at the gate.
SCRIPT = """
import argparse, sys
from jobtree import Stack, Target

def root(target):
    target.addChildFn(quick)
    target.addChildTargetFn(branch)
    target.setFollowOnFn(quick)

def branch(target):
    for n in range(4):
        target.addChildFn(leaf, args=(n,))

def leaf(n):
    print("leaf", n, "\\x1b[31m speaks")
    if n == 1:
        raise ValueError("one is no good")
    if n == 3:
        pause()

def quick():
    pass

if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    Stack.addJobTreeOptions(parser)
    options = parser.parse_args()
    sys.exit(1 if Stack(Target.makeTargetFn(root)).startJobTree(options) else 0)
"""


def plain(text: str, bench: Bench) -> str:
    """What is another in each run, by its kind: directory, host, run, bundle, times."""
    text = text.replace(str(bench.directory), "DIR").replace(socket.gethostname(), "HOST")
    text = re.sub(r"\b[0-9a-f]{12}\.[0-9]+", "RUN.B", text)
    text = re.sub(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d", "TIME", text)
    text = re.sub(r"logs/0/[0-9]+\.log", "LOG", text)
    text = re.sub(r"bytes [0-9]+ to [0-9]+", "bytes A to B", text)
    text = re.sub(r"\b[0-9.]+ [KMGT]iB\b", "SIZE", text)
    text = re.sub(r"in [0-9]+ files;", "in N files;", text)
    text = re.sub(r"\bfor [0-9.]+ ?(s|ms|min)\b", "for SECONDS", text)
    text = re.sub(r"\b(\d+)-([1-4]) ", lambda m: f"LEAF-{m[2]} " if int(m[1]) > 1 else m[0], text)
    text = re.sub(r"\b([2-9]|[1-9]\d+)-([1-4])\b", lambda m: f"LEAF-{m[2]}", text)
    return re.sub(r" *\^+\n", "", text)


def shown(bench: Bench, *arguments: str) -> str:
    """What the command prints, called in this process."""
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        assert status.main([str(bench.directory / "tree"), *arguments]) == 0
    return out.getvalue()


def told(bench: Bench, *arguments: str) -> Any:
    """What it tells programs."""
    return json.loads(shown(bench, "--json", *arguments))


def leaf(bench: Bench, n: int) -> str:
    """The name of the leaf of this number, from 1 on."""
    found: list[dict[str, Any]] = told(bench, "--tree")
    (branch,) = found[0]["children"]
    return next(str(job["job"]) for job in branch["children"] if job["job"].endswith(f"-{n}"))


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    with Bench(tmp_path) as made:
        made.write("script.py", PAUSE + SCRIPT)
        yield made


def start(bench: Bench) -> Running:
    """Start the script. When this returns a leaf is at the gate, one has failed, and two are done."""
    running = bench.start("script.py", "--jobTree", "tree", "--maxCpus", "1")
    bench.gate.arrival()
    while told(bench)["counts"] != {"ready": 0, "issued": 1, "blocked": 2, "failed": 1, "done": 3}:
        assert running.process.poll() is None
    return running


FAILURE = """\
Job LEAF-2 (script.leaf) failed and is given up: ValueError: one is no good
  attempt 1 on HOST, bundle RUN.B, TIME, reason: exception
  to run it here, under a debugger: jobTreeRun --jobTree DIR/tree --debug LEAF-2
    Traceback (most recent call last):
      File "DIR/script.py", line 27, in leaf
        raise ValueError("one is no good")
    ValueError: one is no good
  The job seems to have left a log file, indicating failure: DIR/tree/LOG
  (bytes A to B); its last lines:
    leaf 1 \\x1b[31m speaks
"""

TREE = """\
0-1 script.quick: blocked, waits for 1
  1-2 script.branch: blocked, waits for 2
    LEAF-2 script.leaf: failed, 1 failure
    LEAF-4 script.leaf: issued
"""

WHY_ROOT = (
    """\
Job 0-1 (script.quick) is blocked; it asks for the defaults.
  It waits for 1 child: 1-2 (blocked). When they are done, its follow-on is to run.
  These below it have failed, and it cannot go on before they are done: LEAF-2.

"""
    + FAILURE
)


def test_while_it_runs(bench: Bench) -> None:
    running = start(bench)
    failed, waiting = leaf(bench, 2), leaf(bench, 4)

    assert plain(shown(bench, "--failed"), bench) == FAILURE + "\n"
    assert plain(shown(bench, "--tree"), bench) == TREE
    assert plain(shown(bench, "--tree", "--depth", "1"), bench) == TREE.split("\n")[0] + "\n"
    assert plain(shown(bench, "--tree", "--most", "1"), bench) == (
        TREE.replace("    LEAF-4 script.leaf: issued\n", "    ... and 1 more\n")
    )
    assert plain(shown(bench, "--below", "1-2"), bench).startswith(
        "1-2 script.branch: blocked, waits for 2\n"
    )
    assert plain(shown(bench, "--running"), bench) == (
        "LEAF-4 (script.leaf) runs on the machine of the master for SECONDS, attempt 1, bundle RUN.B of "
        "singleMachine; log: DIR/tree/LOG\n"
    )
    assert plain(shown(bench, "--why", "0-1"), bench) == WHY_ROOT
    assert plain(shown(bench, "--why", waiting), bench) == (
        "Job LEAF-4 (script.leaf) is issued; it asks for the defaults.\n"
        "  It has been running on the machine of the master for SECONDS, in bundle RUN.B.\n"
    )
    assert shown(bench, "--log", failed) == "leaf 1 \\x1b[31m speaks\n"
    assert shown(bench, "--log", waiting) == "leaf 3 \\x1b[31m speaks\n"
    (job,) = told(bench, "--running")
    assert (job["job"], job["name"], job["backend"]) == (waiting, "script.leaf", "singleMachine")

    bench.gate.let_through(1)
    running.ended().failed()


def test_after_its_end(bench: Bench) -> None:
    running = start(bench)
    bench.gate.let_through(1)
    running.ended().failed()
    failed = leaf(bench, 2)

    assert plain(shown(bench, "--failed"), bench) == FAILURE + "\n"
    assert shown(bench, "--running") == (
        "Nothing can be told: no master runs the tree now, or it does not answer.\n"
    )
    assert told(bench, "--running") is None
    assert plain(shown(bench, "--why", failed), bench) == (
        "Job LEAF-2 (script.leaf) is failed; it asks for the defaults.\n"
        "  It was given up after 1 failure of its own. The next start after an orderly end tries it again.\n"
        "\n" + FAILURE
    )
    assert shown(bench, "--why", "999-1") == (
        "Job 999-1 is not in the tree: it is done, or was forgotten, or never was.\n"
    )
    (failure,) = told(bench, "--failed")
    assert (failure["job"], failure["class"], failure["state"]) == (failed, "script.leaf", "failed")
    assert failure["failure"]["message"] == "ValueError: one is no good"
    assert told(bench, "--log", failed)["output"] == "leaf 1 \x1b[31m speaks\n"
    assert plain(shown(bench), bench) == (
        "DIR/tree: ended with failed jobs\n"
        "           0 ready\n"
        "           0 issued\n"
        "           2 blocked  wait for their children\n"
        "           1 failed   given up\n"
        "           4 done\n"
        "\n"
        "    ready   issued  blocked   failed     done  class\n"
        "        0        0        0        1        3  script.leaf\n"
        "        0        0        1        0        1  script.quick\n"
        "        0        0        1        0        0  script.branch\n"
        "On disk: SIZE in N files; SIZE are free there\n"
        "See why with: jobTreeStatus --verbose DIR/tree\n"
        "Continue with: jobTreeRun --jobTree DIR/tree\n"
    )


def test_a_log_that_is_gone_is_shown_as_far_as_it_was_kept(bench: Bench) -> None:
    running = start(bench)
    bench.gate.let_through(1)
    running.ended().failed()
    failed = leaf(bench, 2)
    Path(told(bench, "--failed")[0]["failure"]["log"]).unlink()
    assert shown(bench, "--log", failed) == "leaf 1 \\x1b[31m speaks\n"


def test_following_ends_with_the_run(bench: Bench) -> None:
    running = start(bench)
    following = bench.start("jobTreeStatus", "tree", "--follow", "--json")
    out = bench.directory / "out.1"
    while not out.read_text().endswith("\n"):
        assert following.process.poll() is None
    bench.gate.let_through(1)
    running.ended().failed()
    seen = [json.loads(line)["state"] for line in following.ended().succeeded().out.splitlines()]
    assert seen[0] == "running"
    assert seen[-1] == "failed"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--why", "me"], "'me' is no job"),
        (["--log", "0-1"], "has printed nothing yet: it is ready"),
        (["--log", "9-9"], "job 9-9 is not in the tree"),
        (["--failed", "--running"], "--failed and --running were given"),
        (["--most", "0"], "a whole number from 1 on is expected"),
        (["--depth", "many"], "a whole number from 1 on is expected"),
    ],
)
def test_misuse(arguments: list[str], words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from tests.unit.test_snapshot import Built

    made = Built(tmp_path / "tree")
    assert status.main([str(tmp_path / "tree"), *arguments]) == 2
    made.store.close()
    assert words in capsys.readouterr().err
