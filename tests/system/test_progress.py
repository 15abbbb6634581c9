"""A run at a terminal, as whoever sits there sees it."""

from __future__ import annotations

import contextlib
import re
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fakes.terminal import Terminal
from tests.system.pipelines import Pipeline, variables
from tests.system.waiting import PAUSE, Bench

TARGETS = (
    PAUSE
    + """
class Setup(Target):
    def run(self):
        for n in range(3):
            self.addChildTarget(Child(n))
class Child(Target):
    def __init__(self, n):
        Target.__init__(self, memory="10M")
        self.n = n
    def run(self):
        self.logToMaster("child %d says: %s" % (self.n, "lorem ipsum " * 10))
        if self.n == 2:
            pause()
"""
)
LINE = r"2 done, 1 running, 1 waiting, 0 failed; [0-9.]+/(s|min)(; 1s left)?"


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    with Bench(tmp_path) as bench:
        yield bench


@pytest.fixture
def terminal() -> Iterator[Terminal]:
    terminal = Terminal(columns=100)
    yield terminal
    terminal.close()


@contextlib.contextmanager
def started(pipeline: Pipeline, terminal: Terminal, *arguments: str) -> Iterator[subprocess.Popen[bytes]]:
    """Start the pipeline with the terminal as its own, as a shell does."""
    streams = dict.fromkeys(("stdin", "stdout", "stderr"), terminal.slave)
    process = subprocess.Popen(
        ["setsid", "--ctty", *pipeline.command("--maxThreads", "1", *arguments)],
        cwd=pipeline.directory,
        env=variables({"TERM": "xterm-256color", "NO_COLOR": None}),
        **streams,  # type: ignore[call-overload]
    )
    try:
        yield process
    finally:
        process.kill()  # does nothing to one that has been waited for
        process.wait()


def test_the_line_is_below_the_messages_and_gone_at_the_end(bench: Bench, terminal: Terminal) -> None:
    pipeline = Pipeline(bench.directory, TARGETS)
    with started(pipeline, terminal) as process:
        terminal.close_slave()
        bench.gate.arrival()
        terminal.wait_for(lambda: terminal.lines and re.fullmatch(LINE, terminal.lines[-1]), "the live line")
        bench.gate.let_through(1)
        terminal.wait_for_end()
        process.wait()

    assert process.returncode == 0
    lines = list(terminal.lines)
    for n in range(3):
        said = f"child {n} says: {'lorem ipsum ' * 10}"
        assert re.search(
            rf"(?:^|[\r\n]|\x1b\[2K)Got message from job at time: [0-9.]+ : {said}\r\n", terminal.text
        )
    assert not any("running," in line for line in lines)
    end = lines.index(next(line for line in lines if line.startswith("   targets  retries")))
    table = [re.sub(r" +[0-9.]+s +[0-9.]+s +[0-9.]+ MiB", " TIME MEAN MEMORY", line) for line in lines[end:]]
    assert sorted(table[1:3]) == [
        "         1        0 TIME MEAN MEMORY  pipeline.Setup",
        "         3        0 TIME MEAN MEMORY  pipeline.Child",
    ]
    assert table[3] == "         4        0 TIME MEAN MEMORY  all"
    assert re.match(r"This start has taken [0-9.]+s\. What targets print that succeed is not kept", table[4])
    assert "Complete: 4 jobs done." in "".join(table[5:])
    assert table[-1] == "result: None"


def test_killed_at_its_worst_moment_it_leaves_a_terminal_that_works(bench: Bench, terminal: Terminal) -> None:
    pipeline = Pipeline(bench.directory, TARGETS)
    with started(pipeline, terminal) as process:
        bench.gate.arrival()
        terminal.wait_for(lambda: terminal.lines and re.fullmatch(LINE, terminal.lines[-1]), "the live line")
        process.send_signal(signal.SIGKILL)
        process.wait()
        terminal.read()

    assert "\x1b[?" not in terminal.text  # no mode was set that somebody would have to take back
    assert terminal.text.endswith("\r")  # the prompt comes over the line
    terminal.close_slave()


def test_without_progress_there_is_no_line(bench: Bench, terminal: Terminal) -> None:
    pipeline = Pipeline(bench.directory, TARGETS)
    with started(pipeline, terminal, "--noProgress") as process:
        terminal.close_slave()
        bench.gate.arrival()
        bench.gate.let_through(1)
        terminal.wait_for_end()
        process.wait()

    assert process.returncode == 0
    assert "\x1b" not in terminal.text
    assert "Complete: 4 jobs done." in terminal.text
