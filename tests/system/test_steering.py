"""Changing the course of a run by jobTreeRun, word for word: while a master runs, where none does, and when it dies."""

from __future__ import annotations

import json
import os
import re
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.system.pipelines import wait_until
from tests.system.waiting import PAUSE, Bench, Running, gone

#: Of four children one fails until it is mended, one waits at the gate, and two wait for a core.
SCRIPT = """
import argparse, os, sys
from jobtree import Stack, Target

def note(text):
    with open("notes", "a") as file:
        file.write(text + "\\n")

def root(target):
    target.addChildFn(fails)
    target.addChildFn(waits)
    promised = target.addChildFn(gives).rv()
    target.addChildFn(quick)
    target.setFollowOnFn(takes, args=(promised,))

def fails():
    note("fails")
    if not os.path.exists("mended"):
        raise ValueError("not yet")

def waits():
    note("waits")
    pause()
    note("went on")

def gives():
    note("gives")
    return "a present"

def quick():
    note("quick")

def takes(present):
    note("takes %s" % present)

if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    Stack.addJobTreeOptions(parser)
    options = parser.parse_args()
    sys.exit(1 if Stack(Target.makeTargetFn(root)).startJobTree(options) else 0)
"""

FAILS, WAITS, GIVES, QUICK = "1-1", "1-2", "1-3", "1-4"


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    with Bench(tmp_path) as made:
        made.write("script.py", PAUSE + SCRIPT)
        yield made


def start(bench: Bench, *options: str) -> Running:
    """Start the script on one core. When this returns one has failed, one is at the gate, two are ready."""
    running = bench.start("script.py", "--jobTree", "tree", "--maxCpus", "1", "--grace", "0.1", *options)
    bench.gate.arrival()
    wait_until(lambda: status(bench)["counts"]["failed"] == 1, "one has failed")
    return running


def status(bench: Bench, *arguments: str) -> Any:
    """What jobTreeStatus tells programs."""
    return json.loads(bench.run("jobTreeStatus", "tree", "--json", *arguments).out)


def steered(bench: Bench, *arguments: str, done: bool = True) -> str:
    """What jobTreeRun prints."""
    ran = bench.run("jobTreeRun", "--jobTree", "tree", *arguments)
    assert (ran.status, ran.err) == (0 if done else 1, ""), ran
    return ran.out


def lines(bench: Bench) -> list[str]:
    return bench.lines("notes")


# -- while a master runs ---------------------------------------------------------------------------------------


def test_retry_kill_and_forget_while_it_runs(bench: Bench) -> None:
    running = start(bench)
    (bench.directory / "mended").touch()

    assert steered(bench, "--retry", FAILS) == "Job 1-1 (script.fails) is tried again.\n"
    assert steered(bench, "--retry", WAITS, done=False) == (
        "Job 1-2 (script.waits) has not failed: it is issued.\n"
    )
    assert steered(bench, "--killJob", WAITS) == (
        "Job 1-2 is being killed; attempt 1 counts as a failed try.\n"
    )
    wait_until(lambda: "quick" in lines(bench), "the core is free again")
    (failure,) = status(bench, "--failed")
    assert failure["failure"]["reason"] == "killed"
    assert re.fullmatch(
        r"the target was killed by \S+@\S+ \(jobTreeRun --killJob\) after .*", failure["failure"]["message"]
    )
    ran = running.ended()
    assert ran.status == 1
    assert "Job 1-2 (script.waits) failed and is given up: the target was killed by" in ran.err
    assert re.search(r"\S+@\S+: Job 1-1 \(script.fails\) is tried again.", ran.err)

    assert steered(bench, "--forget", WAITS) == "Job 1-2 (script.waits) is forgotten.\n"
    bench.run("jobTreeRun", "--jobTree", "tree").succeeded()
    assert lines(bench) == ["fails", "fails", "gives", "quick", "takes a present", "waits"]


def test_a_running_target_that_is_forgotten_ends(bench: Bench) -> None:
    running = start(bench)
    (bench.directory / "mended").touch()
    (job,) = status(bench, "--running")
    assert job["job"] == WAITS

    assert steered(bench, "--retry", "all") == "1 job that had failed is tried again.\n"
    assert steered(bench, "--forget", WAITS) == "Job 1-2 (script.waits) is forgotten.\n"

    running.ended().succeeded()
    assert lines(bench) == ["fails", "fails", "gives", "quick", "takes a present", "waits"]
    assert status(bench)["counts"]["done"] == 4


def test_marking_as_done_while_it_runs(bench: Bench) -> None:
    running = start(bench)

    assert steered(bench, "--markDone", GIVES, done=False) == (
        "Job 1-3 (script.gives) is not marked as done: its value was promised to job 0-1, and what is marked as done "
        "has none. Retry it, or forget it.\n"
    )
    assert steered(bench, "--markDone", FAILS) == "Job 1-1 (script.fails) is taken as done.\n"
    assert steered(bench, "--markDone", WAITS) == "Job 1-2 (script.waits) is taken as done.\n"

    running.ended().succeeded()
    assert lines(bench) == ["fails", "gives", "quick", "takes a present", "waits"]
    assert status(bench)["counts"]["done"] == 5


def test_a_promise_of_what_was_forgotten_is_never_kept_and_says_so(bench: Bench) -> None:
    running = start(bench)
    assert steered(bench, "--forget", GIVES) == "Job 1-3 (script.gives) is forgotten.\n"
    steered(bench, "--markDone", FAILS)
    bench.gate.let_through(1)
    ran = running.ended()
    assert ran.status == 1
    assert "gives was forgotten (jobTreeRun --forget), and nobody will ever return that value" in (
        " ".join(ran.err.split())
    )


def test_pause_is_remembered_and_ended(bench: Bench) -> None:
    running = start(bench)
    assert steered(bench, "--pause") == (
        "The run is paused: nothing is begun any more; what runs goes on to its end.\n"
    )
    assert bench.run("jobTreeStatus", "tree").out.splitlines()[1].startswith("paused by ")
    bench.gate.let_through(1)
    wait_until(lambda: "went on" in lines(bench), "what runs goes on")
    wait_until(lambda: status(bench)["counts"]["issued"] == 0, "it has ended")
    running.send(signal.SIGTERM)
    running.ended()
    assert lines(bench) == ["fails", "waits", "went on"]

    again = bench.start("jobTreeRun", "--jobTree", "tree")
    wait_until(lambda: "the run is paused, by" in again.said(), "it says that it is paused")
    assert status(bench)["state"] == "running"
    assert status(bench)["paused"]
    (bench.directory / "mended").touch()
    assert steered(bench, "--goOn") == "The run goes on.\n"
    again.ended().succeeded()
    assert lines(bench) == ["fails", "fails", "gives", "quick", "takes a present", "waits", "went on"]


def test_more_cores_while_it_runs(bench: Bench) -> None:
    running = start(bench)
    assert lines(bench) == ["fails", "waits"]

    assert steered(bench, "--change", "--maxCpus", "3") == "From now on: --maxCpus 3.\n"
    wait_until(lambda: {"gives", "quick"} <= set(lines(bench)), "others run beside the one at the gate")
    assert steered(bench, "--change", "--maxCpus", "1", "--retryCount", "2") == (
        "From now on: --maxCpus 1, --retryCount 2.\n"
    )
    assert steered(bench, "--change", "--maxCpus", "0.5", done=False) == (
        "Nothing is changed: jobs of script.takes that are to run ask for 1 cores.\n"
    )
    bench.gate.let_through(1)
    running.ended().failed()
    settings = json.loads((bench.directory / "tree" / "settings.json").read_text())
    assert (settings["max_cpus"], settings["retry_count"]) == (1, 2)


# -- when the master dies --------------------------------------------------------------------------------------


def frozen(bench: Bench, running: Running, *arguments: str) -> Running:
    """Ask a master that does not look, and when the request lies there kill it."""
    running.send(signal.SIGSTOP)
    asking = bench.start("jobTreeRun", "--jobTree", "tree", *arguments)
    requests = bench.directory / "tree" / "requests"
    wait_until(lambda: list(requests.glob("*.json")), "the request lies there")
    running.send(signal.SIGKILL)
    running.ended()
    return asking


def test_a_master_that_dies_before_it_has_looked_is_replaced_by_whoever_asked(bench: Bench) -> None:
    running = start(bench)
    asking = frozen(bench, running, "--forget", WAITS)
    ran = asking.ended()
    assert (ran.status, ran.out) == (0, "Job 1-2 (script.waits) is forgotten.\n")

    (bench.directory / "mended").touch()
    carries_on = bench.run("jobTreeRun", "--jobTree", "tree", "--retry", FAILS)
    carries_on.succeeded()
    assert "Job 1-1 (script.fails) is tried again." in carries_on.err
    assert lines(bench) == ["fails", "fails", "gives", "quick", "takes a present", "waits"]
    assert os.listdir(bench.directory / "tree" / "requests") == []


def test_when_whoever_asked_dies_too_the_next_master_does_it(bench: Bench) -> None:
    running = start(bench)
    running.send(signal.SIGSTOP)
    requests = bench.directory / "tree" / "requests"
    for number, arguments in enumerate((("--forget", WAITS), ("--retry", "all")), start=1):
        asking = bench.start("jobTreeRun", "--jobTree", "tree", *arguments)
        wait_until(lambda: len(list(requests.glob("*.json"))) >= number, "it lies there")  # noqa: B023
        asking.send(signal.SIGKILL)
        asking.ended()
    running.send(signal.SIGKILL)
    running.ended()
    (bench.directory / "mended").touch()

    ran = bench.run("jobTreeRun", "--jobTree", "tree")

    ran.succeeded()
    assert "Job 1-2 (script.waits) is forgotten." in ran.err
    assert "1 job that had failed is tried again." in ran.err
    assert lines(bench) == ["fails", "fails", "gives", "quick", "takes a present", "waits"]


# -- misuse ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--retry", "me"], "'me' is no job"),
        (["--retry", "all", "--pause"], "--retry and --pause were given; one is done at a time"),
        (["--forget", "1-1", "--maxCpus", "2"], "--forget does one thing, and --maxCpus was given too"),
        (["--change"], "and nothing was given"),
        (["--change", "--durable", "full"], "not --durable"),
    ],
)
def test_misuse(arguments: list[str], words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from jobtree.cli import run

    (tmp_path / "tree").mkdir()
    assert run.main(["--jobTree", str(tmp_path / "tree"), *arguments]) == 2
    assert words in capsys.readouterr().err


def test_there_is_nothing_to_steer_where_no_tree_is(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from jobtree.cli import run

    assert run.main(["--jobTree", str(tmp_path / "none"), "--pause"]) == 2
    assert "does not exist" in capsys.readouterr().err


def test_nobody_is_left(bench: Bench) -> None:
    """The worker of a target that was forgotten is gone with all that it has started."""
    running = bench.start("script.py", "--jobTree", "tree", "--maxCpus", "1", "--grace", "0.1")
    pid = bench.gate.arrival()
    wait_until(lambda: status(bench, "--running"), "it runs")
    steered(bench, "--forget", WAITS)
    assert gone([pid])
    running.ended().failed()
