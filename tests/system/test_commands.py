"""The commands, as their users meet them: real processes on small scripts, killed at points that are certain."""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from jobtree import files
from jobtree.cli import kill, run, stats, status
from jobtree.errors import StorageError
from jobtree.lock import TreeLock
from jobtree.paths import FORMAT, TreePaths
from jobtree.treedir import make_root
from tests.system.legacy_script import CHECKOUT
from tests.system.waiting import PAUSE, Bench, Running, gone

HOST = socket.gethostname()

#: Three children note that they have run; the second waits at the gate, or fails while the line with BUG is there.
SCRIPT = """
import argparse, sys
from jobtree import Stack, Target

def note(text):
    with open("notes", "a") as file:
        file.write(text + "\\n")

def root(target):
    for n in (1, 2, 3):
        target.addChildFn(child, args=(n,))
    target.setFollowOnFn(note, args=("follow-on",))

def child(n):
    print("child", n, "\\x1b[31m speaks")
    if n == 2:
        SECOND
    note("child %d" % n)

if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    Stack.addJobTreeOptions(parser)
    options = parser.parse_args()
    sys.exit(1 if Stack(Target.makeTargetFn(root)).startJobTree(options) else 0)
"""
BUG = 'raise ValueError("two is\\nno \\x1b[31mgood")'
ALL = ["child 1", "child 2", "child 3", "follow-on"]


def script(second: str) -> str:
    """The script, with that for the second child."""
    return PAUSE + SCRIPT.replace("SECOND", second)


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    with Bench(tmp_path) as made:
        made.write("script.py", script("pause()"))
        yield made


@pytest.fixture(scope="module")
def ended_tree(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A tree that has ended with a failed job, for tests that only look."""
    with Bench(tmp_path_factory.mktemp("ended")) as made:
        broken_tree(made)
        return str(made.directory / "tree")


@pytest.fixture
def here(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> Bench:
    """The bench, with this process in its directory: for commands that are called and not started."""
    monkeypatch.chdir(bench.directory)
    return bench


def start_and_wait(bench: Bench, *more: str) -> Running:
    """Start the script; one of its targets is at the gate when this returns."""
    running = bench.start("script.py", "--jobTree", "tree", *more)
    bench.gate.arrival()
    return running


def seen(bench: Bench, *more: str) -> dict[str, Any]:
    """What jobTreeStatus tells programs."""
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        assert status.main([str(bench.directory / "tree"), "--json", *more]) == 0
    found: dict[str, Any] = json.loads(out.getvalue())
    return found


def broken_tree(bench: Bench, *more: str) -> None:
    """Run the script with its bug, to the end."""
    bench.write("script.py", script(BUG))
    bench.run("script.py", "--jobTree", "tree", *more).failed("1 job failed")


def strays(tree: Path) -> set[int]:
    """The processes that carry the mark of a tree's run."""
    token = json.loads((tree / "config.json").read_text())["run"]
    found = set()
    for process in psutil.process_iter():
        try:
            if process.environ().get("JOBTREE_RUN") == token:
                found.add(process.pid)
        except psutil.Error:
            continue
    return found


# -- jobTreeStatus ---------------------------------------------------------------------------------------


def test_status_while_it_runs_and_after_it_is_complete(bench: Bench) -> None:
    running = start_and_wait(bench)

    text = bench.run("jobTreeStatus", "tree", "--failIfNotComplete")
    found = seen(bench)
    bench.gate.let_through(1)
    running.ended().succeeded()
    afterwards = bench.run("jobTreeStatus", "--jobTree", "tree", "--failIfNotComplete").succeeded()

    assert text.status == 1
    assert f"tree: running on host {HOST} with pid {running.pid}, since 20" in text.out
    assert "Continue with" not in text.out
    assert (found["state"], found["master"]["host"], found["master"]["pid"]) == ("running", HOST, running.pid)
    assert (found["counts"]["blocked"], found["counts"]["failed"]) == (1, 0)
    assert sum(found["counts"].values()) == 4
    assert "tree: complete" in afterwards.out
    assert re.search(r"\b4 done\n\n", afterwards.out)


def test_status_after_a_start_that_was_refused(bench: Bench) -> None:
    refused = bench.run("jobTreeRun", "tree", "--command", "true", "--batchSystem", "ssh")

    assert refused.status == 2
    assert "Give --sshHosts FILE" in refused.err
    assert "tree: nothing of it has run yet: its start was refused" in bench.run("jobTreeStatus", "tree").out


def test_status_after_the_master_was_killed(bench: Bench) -> None:
    running = start_and_wait(bench)
    running.send(signal.SIGKILL)
    running.ended()

    text = bench.run("jobTreeStatus", "--jobTree", "tree", "--failIfNotComplete")
    found = seen(bench, "--verbose")

    assert text.status == 1
    assert "tree: interrupted" in text.out
    assert "issued   were out when the master ended\n" in text.out
    assert text.out.endswith(f"Continue with: jobTreeRun --jobTree {bench.directory}/tree\n")
    assert (found["state"], found["master"], found["failed"]) == ("interrupted", None, [])
    assert found["jobTree"] == f"{bench.directory}/tree"

    bench.gate.let_through(1)
    bench.run("jobTreeRun", "--jobTree", "tree").succeeded()
    assert seen(bench)["counts"] == {"ready": 0, "issued": 0, "blocked": 0, "failed": 0, "done": 4}
    assert set(bench.lines("notes")) == set(ALL)


def test_status_of_failed_jobs(bench: Bench) -> None:
    broken_tree(bench)

    brief = bench.run("jobTreeStatus", "tree").succeeded().out
    text = bench.run("jobTreeStatus", "tree", "--verbose").succeeded().out
    found = seen(bench, "--verbose")

    assert "tree: ended with failed jobs" in brief
    assert f"See why with: jobTreeStatus --verbose {bench.directory}/tree\n" in brief
    (failure,) = found["failed"]
    assert (found["state"], found["counts"]["failed"], found["retried"]) == ("failed", 1, [])
    assert (failure["class"], failure["attempt"], failure["host"]) == ("script.child", 1, HOST)
    assert failure["message"] == "ValueError: two is\nno \x1b[31mgood"
    assert (
        Path(failure["log"]).read_bytes()[failure["log_start"] : failure["log_end"]].decode()
        == failure["output"]
    )
    assert f"Job {failure['job']} (script.child) failed and is given up: ValueError: two is" in text
    assert f"attempt 1 on {HOST}, bundle {failure['bundle']}, 20" in text
    assert "Traceback (most recent call last):" in text
    assert 'script.py", line ' in text
    assert failure["log"] in text
    assert "child 2 \\x1b[31m speaks" in text
    assert text.endswith(f"Continue with: jobTreeRun --jobTree {bench.directory}/tree\n")
    assert "\x1b" not in brief + text, "what a target has printed can move the reader's cursor"
    assert {kind["name"]: kind["failures"] for kind in found["classes"]}["script.child"] == 1


def test_status_of_jobs_that_are_tried_again(bench: Bench) -> None:
    bench.write(
        "script.py",
        script('open("tried", "a").write("x\\n"); len(open("tried").readlines()) > 1 or 1 / 0; pause()'),
    )
    running = start_and_wait(bench, "--retryCount", "1")

    text = bench.run("jobTreeStatus", "tree", "--verbose").succeeded().out
    found = seen(bench, "--verbose")
    bench.gate.let_through(1)
    running.ended().succeeded()

    assert "(script.child) failed and will be tried again: ZeroDivisionError" in text
    assert [(row["attempt"], row["message"]) for row in found["retried"]] == [
        (1, "ZeroDivisionError: division by zero")
    ]
    assert found["failed"] == []
    assert seen(bench, "--verbose")["retried"] == []


def test_status_where_no_directory_is_given(here: Bench, capsys: pytest.CaptureFixture[str]) -> None:
    assert status.main([]) == 2
    assert "no job tree was given, and there is no ./jobTree" in capsys.readouterr().err
    here.write("script.py", script(BUG))
    here.run("script.py", "--jobTree", "jobTree").failed()
    assert status.main([]) == 0
    assert f"{here.directory}/jobTree: ended with failed jobs" in capsys.readouterr().out


def test_status_whose_reader_has_seen_enough(ended_tree: str) -> None:
    read, write = os.pipe()
    os.close(read)
    environment = {**os.environ, "PYTHONPATH": str(CHECKOUT)}
    command = [sys.executable, str(CHECKOUT / "bin" / "jobTreeStatus"), ended_tree]
    ended = subprocess.run(command, env=environment, stdout=write, stderr=subprocess.PIPE, text=True)
    os.close(write)
    assert (ended.returncode, ended.stderr) == (128 + signal.SIGPIPE, "")


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize("command", ["jobTreeStatus", "jobTreeStats"])
def test_output_that_cannot_be_written(command: str, unbuffered: str, ended_tree: str) -> None:
    environment = {**os.environ, "PYTHONPATH": str(CHECKOUT), "PYTHONUNBUFFERED": unbuffered}
    with open("/dev/full", "w") as full:
        ended = subprocess.run(
            [sys.executable, str(CHECKOUT / "bin" / command), ended_tree], env=environment, stdout=full,
            stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
    words = f"{command}: what it has to say cannot be written: No space left on device.\n"
    assert (ended.returncode, ended.stderr) == (StorageError.exit_status, words)


def test_names_that_the_terminal_has_no_letters_for(here: Bench) -> None:
    here.write("script.py", SCRIPT.replace("SECOND", "pass").replace("child", "k\u00e4hl"))
    here.run("script.py", "--jobTree", "tree").succeeded()
    environment = {**os.environ, "PYTHONPATH": str(CHECKOUT), "PYTHONIOENCODING": "ascii"}
    for command in ("jobTreeStatus", "jobTreeStats"):
        ended = subprocess.run(
            [sys.executable, str(CHECKOUT / "bin" / command), str(here.directory / "tree")], env=environment,
            capture_output=True, text=True,
        )  # fmt: skip
        assert (ended.returncode, ended.stderr) == (0, "")
        assert "script.k\\xe4hl" in ended.stdout


def test_a_command_without_any_output(ended_tree: str) -> None:
    environment = {**os.environ, "PYTHONPATH": str(CHECKOUT)}
    command = f"exec {shlex.quote(sys.executable)} {CHECKOUT}/bin/jobTreeStats {shlex.quote(ended_tree)} >&-"
    ended = subprocess.run(["sh", "-c", command], env=environment, stderr=subprocess.PIPE, text=True)
    assert (ended.returncode, ended.stderr) == (0, "")


# -- misuse ----------------------------------------------------------------------------------------------

COMMANDS = {
    "jobTreeStatus": status.main,
    "jobTreeRun": run.main,
    "jobTreeKill": kill.main,
    "jobTreeStats": stats.main,
}


@pytest.mark.parametrize("command", COMMANDS)
def test_what_is_no_job_tree_is_misuse(command: str, here: Bench, capsys: pytest.CaptureFixture[str]) -> None:
    (here.directory / "other").mkdir(mode=0o700)
    here.write("other/letter", "dear")
    here.write("file", "")
    make_root(TreePaths(f"{here.directory}/newer"))
    here.write("newer/config.json", json.dumps({"format": FORMAT + 1, "version": "9.9"}))
    expected = {
        "nothing": "nothing",
        "other": "is not a job tree: it holds 'letter'",
        "file": "is a file",
        "file/below": "cannot be a directory: Not a directory",
        "x" * 300: "cannot be a directory: File name too long",
        "newer": f"was made by jobtree 9.9 in format {FORMAT + 1}",
    }
    for name, words in expected.items():
        assert COMMANDS[command](["--jobTree", name]) == 2
        out, err = capsys.readouterr()
        assert out == ""
        assert err.startswith(f"{command}: {here.directory}/{name}")
        assert words in err
    assert not (here.directory / "nothing").exists()


@pytest.mark.parametrize("command", COMMANDS)
def test_a_working_directory_that_is_gone(
    command: str, here: Bench, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (here.directory / "gone").mkdir()
    monkeypatch.chdir(here.directory / "gone")
    (here.directory / "gone").rmdir()
    assert COMMANDS[command](["--jobTree", "../tree"]) == 2
    assert capsys.readouterr().err.startswith(
        f"{command}: the directory in which this was started is not there any"
    )


@pytest.mark.parametrize("command", COMMANDS)
def test_wrong_arguments_are_misuse(command: str, here: Bench, capsys: pytest.CaptureFixture[str]) -> None:
    assert COMMANDS[command](["--nonsense"]) == 2
    assert COMMANDS[command](["one", "--jobTree", "two"]) == 2
    assert "two directories were given, one and two" in capsys.readouterr().err


@pytest.mark.parametrize("command", COMMANDS)
def test_help_has_an_example_and_fits_a_terminal(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert COMMANDS[command](["--help"]) == 0
    text = capsys.readouterr().out
    assert f"example:\n  {command} " in text
    assert max(map(len, text.splitlines())) < 80
    assert COMMANDS[command](["--version"]) == 0
    assert re.match(rf"{command} \d", capsys.readouterr().out)


def test_values_of_options_that_make_no_sense(here: Bench, capsys: pytest.CaptureFixture[str]) -> None:
    assert run.main(["tree", "--retryCount", "-1"]) == 2
    assert "--retryCount" in capsys.readouterr().err
    assert kill.main(["tree", "--timeout", "soon"]) == 2
    assert "'soon'" in capsys.readouterr().err


# -- jobTreeRun ------------------------------------------------------------------------------------------


def test_run_goes_on_after_the_script_was_mended(bench: Bench) -> None:
    broken_tree(bench)
    assert bench.lines("notes") == ["child 1", "child 3"]
    bench.write("script.py", script("pass"))

    bench.run("jobTreeRun", "--jobTree", "tree").succeeded()

    assert bench.lines("notes") == ALL, "what was done has run again, or something has not run"
    assert seen(bench, "--verbose")["failed"] == []


def test_run_while_jobs_go_on_failing(bench: Bench) -> None:
    broken_tree(bench)
    ended = bench.run("jobTreeRun", "tree")
    assert ended.status == 1
    assert "ValueError: two is" in ended.err
    assert f"Continue with: jobTreeRun --jobTree {bench.directory}/tree" in ended.err


def test_run_of_a_complete_tree_does_nothing(bench: Bench) -> None:
    bench.gate.let_through(1)
    bench.run("script.py", "--jobTree", "tree").succeeded()
    again = bench.run("jobTreeRun", "tree").succeeded()
    assert "nothing to do" in again.err
    assert bench.lines("notes") == ALL


def test_run_of_a_tree_that_another_master_runs(bench: Bench) -> None:
    running = start_and_wait(bench)
    refused = bench.run("jobTreeRun", "tree")
    bench.gate.let_through(1)
    running.ended().succeeded()
    assert refused.status == 4
    assert f"on host {HOST} with pid {running.pid}" in refused.err
    assert "Traceback" not in refused.err


def test_of_two_masters_one_wins(bench: Bench) -> None:
    both = [bench.start("script.py", "--jobTree", "tree") for _ in range(2)]
    bench.gate.arrival()
    winner = seen(bench)["master"]["pid"]
    (loser,) = [process for process in both if process.pid != winner]
    assert loser.ended().status == 4
    bench.gate.let_through(1)
    assert [process.ended().status for process in both if process is not loser] == [0]
    assert bench.lines("notes") == ALL


def test_run_makes_a_tree_of_a_command(bench: Bench) -> None:
    command = "echo done >> notes; test -e allowed"
    first = bench.run("jobTreeRun", "--jobTree", "tree", "--command", command)
    bench.write("allowed")
    again = bench.run("jobTreeRun", "--jobTree", "tree", "--command", command)
    complete = bench.run("jobTreeRun", "tree")

    assert (first.status, again.status, complete.status) == (1, 0, 0)
    assert f"the command ended with exit status 1: {command}" in first.err
    assert bench.lines("notes") == ["done", "done"]
    assert [kind["name"] for kind in seen(bench)["classes"]] == ["command echo"]


def test_run_keeps_the_options_that_are_not_given(bench: Bench) -> None:
    broken_tree(
        bench, "--maxThreads", "1", "--maxLost", "7", "--envDeny", "SECRET", "--logDebug", "--logFile", "log"
    )
    size = (bench.directory / "log").stat().st_size

    ended = bench.run("jobTreeRun", "tree", "--maxLost", "2", "--envDeny", "A", "--envDeny", "B")

    stored = json.loads((bench.directory / "tree" / "settings.json").read_text())
    assert ended.status == 1
    assert (stored["max_threads"], stored["max_lost"], stored["env_deny"]) == (1, 2, ["A", "B"])
    assert (stored["log_debug"], stored["log_file"]) == (False, None)
    assert (bench.directory / "log").stat().st_size == size, (
        "the log file of the last start was not asked for"
    )


def test_run_with_a_log_file_that_cannot_be_written(ended_tree: str, bench: Bench) -> None:
    ended = bench.run("jobTreeRun", ended_tree, "--logFile", "no/such/place")
    assert ended.status == 2
    assert ended.err.startswith("jobTreeRun: --logFile no/such/place cannot be written: No such file")


# -- signals ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("number", "expected"), [(signal.SIGINT, (-signal.SIGINT, 130)), (signal.SIGTERM, (143, 143))], ids=str
)
def test_a_run_that_is_stopped_by_a_signal_says_how_to_go_on(
    bench: Bench, number: signal.Signals, expected: tuple[int, int]
) -> None:
    continued = f"Continue with: jobTreeRun --jobTree {bench.directory}/tree"
    # A script dies of SIGINT itself, which is what shells take as 130.
    running = start_and_wait(bench)
    running.send(number)
    of_script = running.ended()
    state = seen(bench)["state"]
    again = bench.start("jobTreeRun", "tree")
    bench.gate.arrival()
    again.send(number)
    of_command = again.ended()

    assert (of_script.status, of_command.status) == expected
    assert continued in of_script.err
    assert continued in of_command.err
    assert "Traceback" not in of_script.err + of_command.err
    assert state == "stopped"
    bench.gate.let_through(1)
    bench.run("jobTreeRun", "tree").succeeded()
    assert set(bench.lines("notes")) == set(ALL), "what was killed runs again, and nothing else is missing"


# -- jobTreeKill -----------------------------------------------------------------------------------------


def test_kill_stops_a_master_and_its_workers(bench: Bench) -> None:
    running = bench.start("script.py", "--jobTree", "tree")
    worker = bench.gate.arrival()
    pids = {worker} | strays(bench.directory / "tree")

    killed = bench.run("jobTreeKill", "--jobTree", "tree").succeeded()

    ended = running.ended()
    assert gone(pids)
    assert ended.status == 3
    assert re.search(rf"stopped by jobTreeKill \(\w+@{HOST} with pid \d+\)", ended.err)
    assert "has stopped" in killed.out
    assert killed.out.endswith(f"Continue with: jobTreeRun --jobTree {bench.directory}/tree\n")
    assert seen(bench)["state"] == "stopped"
    bench.gate.let_through(1)
    bench.run("jobTreeRun", "tree").succeeded()
    assert set(bench.lines("notes")) == set(ALL), "what was killed runs again, and nothing else is missing"


def test_kill_where_no_master_runs(bench: Bench) -> None:
    broken_tree(bench)
    killed = bench.run("jobTreeKill", "tree").succeeded()
    assert killed.out == (
        f"No master runs {bench.directory}/tree.\nContinue with: jobTreeRun --jobTree {bench.directory}/tree\n"
    )
    bench.write("script.py", script("pass"))
    bench.run("jobTreeRun", "tree").succeeded()
    assert bench.run("jobTreeKill", "tree").succeeded().out == f"No master runs {bench.directory}/tree.\n"


def test_kill_takes_what_a_dead_master_has_left(bench: Bench) -> None:
    broken_tree(bench)
    token = json.loads((bench.directory / "tree" / "config.json").read_text())["run"]
    stray = subprocess.Popen(["sleep", "600"], env={**os.environ, "JOBTREE_RUN": token})
    other = subprocess.Popen(["sleep", "600"], env={**os.environ, "JOBTREE_RUN": "another"})
    killing = bench.start("jobTreeKill", "tree")
    assert stray.wait() == -signal.SIGKILL
    killed = killing.ended().succeeded()
    assert other.poll() is None
    other.kill()
    other.wait()
    assert f"Killed 1 processes that an earlier run had left here: {stray.pid}\n" in killed.out


def test_kill_of_a_master_that_does_not_answer(
    here: Bench, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kill, "_AFTER_SIGTERM", 0.0)
    running = here.start("script.py", "--jobTree", "tree")
    worker = here.gate.arrival()
    running.send(signal.SIGSTOP)

    assert kill.main(["tree", "--timeout", "0.1"]) == 0

    out = capsys.readouterr().out
    assert running.ended().status == -signal.SIGKILL
    assert gone([worker])
    assert f"has not stopped within 0.10s: sending SIGTERM to pid {running.pid}." in out
    assert f"It is still there: sending SIGKILL to pid {running.pid}." in out
    assert out.endswith(f"Continue with: jobTreeRun --jobTree {here.directory}/tree\n")


@pytest.fixture
def innocent() -> Iterator[subprocess.Popen[bytes]]:
    """A process that is nobody's master."""
    process = subprocess.Popen(["sleep", "600"])
    yield process
    process.kill()
    process.wait()


@pytest.mark.parametrize("started", ["before", "after"])
def test_kill_never_hits_a_process_that_got_the_masters_pid(
    ended_tree: str, innocent: subprocess.Popen[bytes], started: str, capsys: pytest.CaptureFixture[str]
) -> None:
    paths = TreePaths(ended_tree)
    holder = TreeLock(paths)
    holder.acquire()
    moment = time.time() if started == "after" else 1.0
    files.write_json(
        paths.lock_owner, {"host": HOST, "pid": innocent.pid, "started": moment, "started_text": "then"}
    )

    result = kill.main([ended_tree, "--timeout", "0.01"])

    holder.release()
    assert result == 1
    assert innocent.poll() is None
    assert (
        f"with pid {innocent.pid}, which it says it is, is not the one that holds" in capsys.readouterr().out
    )


def test_kill_of_a_master_on_another_host_that_does_not_answer(
    ended_tree: str, innocent: subprocess.Popen[bytes], capsys: pytest.CaptureFixture[str]
) -> None:
    paths = TreePaths(ended_tree)
    holder = TreeLock(paths)
    holder.acquire()
    files.write_json(
        paths.lock_owner,
        {"host": "far.away", "pid": innocent.pid, "started": time.time(), "started_text": "then"},
    )

    result = kill.main([ended_tree, "--timeout", "0.01"])

    holder.release()
    assert result == 1
    assert innocent.poll() is None
    assert f"It runs on host far.away with pid {innocent.pid}." in capsys.readouterr().out


# -- jobTreeStats ----------------------------------------------------------------------------------------


def test_stats(ended_tree: str, here: Bench, capsys: pytest.CaptureFixture[str]) -> None:
    assert stats.main([ended_tree]) == 0
    table = capsys.readouterr().out.splitlines()
    assert stats.main(["--jobTree", ended_tree, "--json", "--outputFile", "stats.json"]) == 0
    assert stats.main([ended_tree, "--outputFile", "no/such/file"]) == 2

    out, err = capsys.readouterr()
    found = json.loads((here.directory / "stats.json").read_text())
    (child,) = [kind for kind in found["classes"] if kind["name"] == "script.child"]
    assert any(line.split()[:2] == ["2", "1"] and line.endswith("script.child") for line in table)
    assert (child["count"], child["failures"]) == (2, 1)
    time = child["time"]
    assert 0 < time["min"] <= time["median"] <= time["mean"] * 2 <= time["total"] * 2
    assert child["memory"]["max"] > 2**20
    (host,) = found["hosts"]
    assert (host["name"], host["backend"]) == (HOST, "singleMachine")
    assert (host["targets"], host["failures"]) == (3, 1)
    assert found["targets"]["count"] == 3
    assert host["first"] <= host["last"]
    assert out == ""
    assert "--outputFile no/such/file cannot be written" in err


def test_stats_of_single_targets(here: Bench, capsys: pytest.CaptureFixture[str]) -> None:
    here.write("script.py", script("pass"))
    began = time.time()
    here.run("script.py", "--jobTree", "tree", "--stats").succeeded()

    assert stats.main(["tree", "--json"]) == 0
    path = json.loads(capsys.readouterr().out)["critical_path"]
    assert stats.main(["tree", "--targets", "--json"]) == 0
    targets = [json.loads(line) for line in capsys.readouterr().out.splitlines()]

    names = [target["name"] for target in targets]
    assert sorted(names) == ["script.child"] * 3 + ["script.note", "script.root"]
    assert {target["host"] for target in targets} == {HOST}
    assert all(began - 1 <= target["began"] <= time.time() + 1 for target in targets)
    assert [target["name"] for target in path["targets"]] == ["script.root", "script.child", "script.note"]
