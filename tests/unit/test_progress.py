"""The live line, on a pseudo terminal, and the lines of the log where there is none."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from typing import TextIO

import pytest

from jobtree import progress
from jobtree.outlook import Look
from jobtree.progress import LiveLine, Progress
from tests.fakes.terminal import Terminal

log = logging.getLogger("jobtree")
LINE = "5 done, 2 running, 9 waiting, 1 failed"


class Known:
    """An outlook that is always the same. looked: set when somebody has looked twice."""

    def __init__(self) -> None:
        self.looks = 0
        self.looked = threading.Event()

    def look(self) -> Look:
        """The same again."""
        self.looks += 1
        if self.looks > 2:
            self.looked.set()
        return Look(float(self.looks), 5, 2, 9, 1, 5, 0.0, 0.0, 0)


@pytest.fixture(autouse=True)
def colours(monkeypatch: pytest.MonkeyPatch) -> None:
    """A terminal that can do what most can."""
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.delenv("NO_COLOR", raising=False)


@contextlib.contextmanager
def level(number: int) -> Iterator[None]:
    """The run's own logger at this level."""
    before = log.level
    log.setLevel(number)
    try:
        yield
    finally:
        log.setLevel(before)


@contextlib.contextmanager
def at_a_terminal() -> Iterator[Terminal]:
    """A terminal that standard output and error go to, and the log. (No fixture: pytest sets both anew for a test.)"""
    terminal = Terminal(columns=60)
    with pytest.MonkeyPatch.context() as patch, os.fdopen(terminal.slave, "w") as stream:
        patch.setattr(sys, "stdout", stream)
        patch.setattr(sys, "stderr", stream)
        patch.setattr(logging.getLogger(), "handlers", [logging.StreamHandler(stream)])
        with level(logging.INFO):
            yield terminal
    terminal.close()


@contextlib.contextmanager
def line_at_a_terminal() -> Iterator[tuple[Terminal, LiveLine]]:
    """The same, with a line on it."""
    with at_a_terminal() as terminal:
        line = LiveLine(sys.stderr)
        line.open()
        yield terminal, line
        line.close()


def seen(terminal: Terminal) -> list[str]:
    """What is to be seen now."""
    terminal.read()
    return list(terminal.lines)


def test_the_line_is_the_last_one_and_replaces_itself() -> None:
    with line_at_a_terminal() as (terminal, line):
        line.show("one")
        assert seen(terminal) == ["one"]
        line.show("two")
        assert seen(terminal) == ["two"]
        written = terminal.text
        line.show("two")
        seen(terminal)
        assert terminal.text == written


def test_what_is_printed_meanwhile_stands_above_it_intact() -> None:
    with line_at_a_terminal() as (terminal, line):
        long = "[bold]a long line[/] :smile: " + "0123456789" * 12
        line.show(LINE)
        log.info("%s", long)
        print("from the script")
        print("a line in", end="")
        print(" parts", file=sys.stderr)
        sys.stderr.writelines(["and\n", "two\n"])

        shown = seen(terminal)

        assert "".join(shown[:3]) == long
        assert shown[3:] == ["from the script", "a line in parts", "and", "two", LINE]
        assert f"{long}\r\n" in terminal.text  # nothing was put into it, and nothing is broken


def test_a_line_that_is_not_finished_is_not_overwritten() -> None:
    with line_at_a_terminal() as (terminal, line):
        line.show("one")
        print("Password: ", end="")
        line.show("two")
        assert seen(terminal) == ["Password:"]
        print("***")
        assert seen(terminal) == ["Password: ***", "two"]


def test_it_never_needs_a_second_line() -> None:
    with line_at_a_terminal() as (terminal, line):
        line.show("x" * 500)
        assert seen(terminal) == ["x" * 59]


def test_afterwards_it_is_gone_and_all_is_as_before() -> None:
    with at_a_terminal() as terminal:
        before = sys.stdout, sys.stderr, [getattr(h, "stream", None) for h in logging.getLogger().handlers]
        line = LiveLine(sys.stderr)
        line.open()
        assert sys.stdout is not before[0]
        line.show(LINE)
        line.close()
        print("the prompt")

        assert seen(terminal) == ["the prompt"]
        assert (sys.stdout, sys.stderr) == before[:2]
        assert [getattr(h, "stream", None) for h in logging.getLogger().handlers] == before[2]
        assert "\x1b[?25l" not in terminal.text  # the cursor was never hidden


def test_in_the_background_nothing_is_written(monkeypatch: pytest.MonkeyPatch) -> None:
    with line_at_a_terminal() as (terminal, line):
        line.show("one")
        monkeypatch.setattr(os, "tcgetpgrp", lambda _: os.getpgrp() + 1)
        line.show("two")
        seen(terminal)
        written = terminal.text
        line.show("three")
        log.info("news")
        assert seen(terminal)[-1] == "news"
        assert terminal.text == written + "news\r\n"
        monkeypatch.undo()


def test_a_run_shows_it_and_takes_it_away(monkeypatch: pytest.MonkeyPatch) -> None:
    with at_a_terminal() as terminal:
        monkeypatch.setattr(progress, "_FIRST_SECONDS", 0.0)
        known = Known()
        with Progress(known, silent=False):  # type: ignore[arg-type]
            terminal.wait_for(lambda: list(terminal.lines) == [LINE], "the line is to be seen")
            log.info("news")
        assert seen(terminal) == ["news"]
        assert "\x1b[32m5 done" in terminal.text


def test_a_short_run_shows_nothing_and_does_not_import_rich() -> None:
    with at_a_terminal() as terminal:
        with Progress(Known(), silent=False):  # type: ignore[arg-type]
            pass
        assert seen(terminal) == []


def test_rich_is_imported_only_for_the_line() -> None:
    code = "import sys, jobtree.run; sys.exit('rich' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_terminal_that_is_gone_stops_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    with at_a_terminal():
        monkeypatch.setattr(progress, "_FIRST_SECONDS", 0.0)
        monkeypatch.setattr(progress, "_LIVE_SECONDS", 0.01)
        raised: list[object] = []
        monkeypatch.setattr(threading, "excepthook", raised.append)
        gone = Gone()
        monkeypatch.setattr(sys, "stderr", gone)
        with Progress(Known(), silent=False) as shown:  # type: ignore[arg-type]
            assert shown._thread is not None
            shown._thread.join(60)
            assert not shown._thread.is_alive()
        assert raised == []
        assert sys.stderr is gone


class Gone(io.StringIO):
    """A terminal whose line was cut."""

    def isatty(self) -> bool:
        return True

    def write(self, text: str) -> int:
        raise OSError(5, "Input/output error")


@pytest.mark.parametrize("stream", [io.StringIO(), None], ids=["a file", "nothing"])
def test_without_a_terminal_there_are_lines_of_the_log(
    stream: TextIO, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(progress, "_PLAIN_SECONDS", 0.001)
    monkeypatch.setattr(sys, "stderr", stream)
    caplog.set_level(logging.INFO, logger="jobtree")
    known = Known()
    with Progress(known, silent=False):  # type: ignore[arg-type]
        assert known.looked.wait(60)
    assert caplog.messages[0] == f"Progress: {LINE}; 5.0/s" or caplog.messages[0] == f"Progress: {LINE}"


def test_who_wants_silence_gets_it(monkeypatch: pytest.MonkeyPatch) -> None:
    with at_a_terminal() as terminal:
        monkeypatch.setattr(progress, "_FIRST_SECONDS", 0.0)
        with Progress(Known(), silent=True) as shown:  # type: ignore[arg-type]
            assert shown._thread is None
        with level(logging.CRITICAL), Progress(Known(), silent=False) as shown:  # type: ignore[arg-type]
            assert shown._thread is None
        monkeypatch.setenv("TERM", "dumb")
        monkeypatch.setattr(progress, "_PLAIN_SECONDS", 1000.0)
        with Progress(Known(), silent=False):  # type: ignore[arg-type]
            pass
        assert seen(terminal) == []
