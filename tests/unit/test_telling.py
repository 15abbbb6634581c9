"""What a run says of failures that are alike, and of those that are not."""

from __future__ import annotations

import io
import logging
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from jobtree.collected import News
from jobtree.frames import Failure
from jobtree.logging_setup import set_up_logging, take_down_logging
from jobtree.options import Settings
from jobtree.schema import FailureRow
from jobtree.telling import Teller

TRACE = '  File "pipeline.py", line {line}, in run\n    open(path)\n'


def failure(
    n: int, message: str = "ValueError: bad", *, name: str = "a.B", reason: str = "exception", line: int = 9
) -> FailureRow:
    what = Failure(reason, message, TRACE.format(line=line), "", 0, 0)
    return FailureRow(n, 1, name, what, None, None, None, 0.0)


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch) -> Iterator[io.StringIO]:
    """What is read on a terminal."""
    stream = io.StringIO()
    monkeypatch.setattr(logging.getLogger(), "handlers", [])
    set_up_logging(Settings(), stream)
    yield stream
    take_down_logging()


def tell(teller: Teller, *rows: FailureRow, level: int = logging.CRITICAL) -> None:
    teller.tell(News(level, f"job {row.job} in full", row) for row in rows)


def in_full(said: io.StringIO) -> list[int]:
    return [int(line.split()[-3]) for line in said.getvalue().splitlines() if line.endswith(" in full")]


def test_the_first_of_a_kind_are_told_and_then_how_many_there_are(said: io.StringIO) -> None:
    teller = Teller("/a tree")
    tell(teller, *(failure(n, f"OSError: no file: '/data/{n}.fa'") for n in range(1234)))
    teller.tell_counted(1240)
    words = "a.B: OSError: no file: '/data/0.fa'"
    assert said.getvalue().splitlines() == [
        "job 0 in full",
        "job 1 in full",
        "job 2 in full",
        f"More failures like this one are only counted from here on: {words}",
        f"100 failures like this one until now: {words}",
        f"1000 failures like this one until now: {words}",
        f"and 1231 more failed alike: {words}; jobTreeStatus --failed --most 1240 '/a tree' shows them",
    ]


def test_those_that_are_tried_again_are_counted_by_themselves(said: io.StringIO) -> None:
    teller = Teller("/tree")
    rows = [failure(n) for n in range(5)]
    tell(teller, *rows, level=logging.WARNING)
    tell(teller, *rows)
    assert in_full(said) == [0, 1, 2, 0, 1, 2]
    teller.tell_counted(5)
    assert said.getvalue().splitlines()[-2:] == [
        "WARNING: and 2 more failures alike were tried again: a.B: ValueError: bad; with --logFile FILE each is "
        "written down",
        "and 2 more failed alike: a.B: ValueError: bad; jobTreeStatus --failed --most 5 /tree shows them",
    ]


def test_three_are_told_and_nothing_is_counted(said: io.StringIO) -> None:
    teller = Teller("/tree")
    tell(teller, *map(failure, range(3)))
    teller.tell_counted(3)
    assert said.getvalue().splitlines() == ["job 0 in full", "job 1 in full", "job 2 in full"]


@pytest.mark.parametrize(
    "other",
    [
        failure(99, "KeyError: bad"),
        failure(99, name="a.C"),
        failure(99, reason="CannotPickle"),
        failure(99, line=10),
    ],
    ids=["message", "class", "reason", "place"],
)
def test_another_failure_is_told_however_many_came_before(said: io.StringIO, other: FailureRow) -> None:
    teller = Teller("/tree")
    tell(teller, *map(failure, range(50)), other)
    assert in_full(said) == [0, 1, 2, 99]


@pytest.mark.parametrize(
    "messages",
    [
        ["FileNotFoundError: [Errno 2] No such file: '/a/b.txt'", "FileNotFoundError: [Errno 2] No such file: 'c d'"],
        ["RuntimeError: sample NA12878 is bad", "RuntimeError: sample HG00096 is bad"],
        ["RuntimeError: /one/path/x is empty", "RuntimeError: /another/y is empty"],
    ],
)  # fmt: skip
def test_what_differs_from_job_to_job_makes_no_difference(said: io.StringIO, messages: list[str]) -> None:
    tell(Teller("/tree"), *(failure(n, messages[n % 2]) for n in range(6)))
    assert in_full(said) == [0, 1, 2]


def test_an_exit_status_makes_a_difference(said: io.StringIO) -> None:
    tell(Teller("/tree"), *(failure(n, f"exit status {n % 2 + 1}", reason="exit") for n in range(10)))
    assert in_full(said) == [0, 1, 2, 3, 4, 5]


def test_however_many_kinds_there_are_it_has_an_end(said: io.StringIO) -> None:
    teller = Teller("/tree")
    letters = ["".join(chr(ord("a") + int(digit)) for digit in str(n)) for n in range(3000)]
    tell(teller, *(failure(n, f"ValueError: {word}") for n, word in enumerate(letters)))
    assert len(in_full(said)) == 100 + 3
    tell(teller, failure(3001, "ValueError: a"), failure(3002, "ValueError: a"))
    assert in_full(said)[-2:] == [3001, 3002], "kinds that are known go on to be told"
    teller.tell_counted(3002)
    assert "and 2897 more failed alike: of more than 100 kinds; " in said.getvalue()


def test_what_is_shown_of_a_message_is_one_short_line(said: io.StringIO) -> None:
    teller = Teller("/tree")
    tell(teller, *(failure(n, "Bad: \x1b[31m\n" + "x" * 50_000) for n in range(200)))
    teller.tell_counted(200)
    lines = said.getvalue().splitlines()
    assert len(lines) == 6
    assert max(map(len, lines)) < 300


def test_every_failure_is_written_to_log_files_and_to_whoever_listens(
    said: io.StringIO, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    set_up_logging(Settings(log_file=str(tmp_path / "log")), said)
    logging.getLogger().addHandler(caplog.handler)
    tell(Teller("/tree"), *map(failure, range(50)))
    assert (tmp_path / "log").read_text().count("in full") == 50
    assert caplog.text.count("in full") == 50
    assert in_full(said) == [0, 1, 2]


def test_a_script_that_has_set_up_logging_is_not_told_more(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(logging.getLogger(), "handlers", [logging.StreamHandler(sys.stderr)])
    set_up_logging(Settings(), sys.stderr)
    tell(Teller("/tree"), *map(failure, range(50)))
    assert capsys.readouterr().err.count("in full") == 3


def test_messages_and_other_news_are_told_each_time(said: io.StringIO) -> None:
    Teller("/tree").tell([News(logging.INFO, "news"), News(None, "hello")] * 20)
    lines = said.getvalue().splitlines()
    assert lines.count("news") == sum(line.endswith(" : hello") for line in lines) == 20
