"""Where log records go."""

from __future__ import annotations

import errno
import io
import logging
import os
import pathlib
from collections.abc import Iterator

import pytest

from jobtree import logging_setup
from jobtree.logging_setup import add_log_file, level_name, level_number, set_level, set_up_logging
from jobtree.options import Settings

root = logging.getLogger()
news = logging.getLogger("jobtree.test")
script = logging.getLogger("script")


@pytest.fixture(autouse=True)
def _restored_logging() -> Iterator[None]:
    handlers, levels = list(root.handlers), (root.level, logging.getLogger("jobtree").level)
    root.handlers[
        :
    ] = []  # a handler that another library has put there, and that writes to standard error, is kept
    yield
    set_up_logging(Settings(), None)
    root.handlers[:] = handlers
    root.setLevel(levels[0])
    logging.getLogger("jobtree").setLevel(levels[1])


def test_news_and_warnings_reach_the_user_without_options() -> None:
    stream = io.StringIO()
    set_up_logging(Settings(), stream)
    news.info("Got message from job at time: 12.5 : hello")
    news.debug("no")
    script.info("no")
    script.warning("careful")
    script.critical("lost")
    assert stream.getvalue() == "Got message from job at time: 12.5 : hello\nWARNING: careful\nlost\n"


def test_a_level_holds_for_both_loggers() -> None:
    stream = io.StringIO()
    set_up_logging(Settings(log_critical=True), stream)
    for logger in (news, script):
        logger.info("no")
        logger.error("no")
        logger.critical("yes")
    set_up_logging(Settings(log_level="DEBUG"), stream)
    for logger in (news, script):
        logger.debug("yes, too")
    assert stream.getvalue().split("\n") == ["yes", "yes", "yes, too", "yes, too", ""]


def test_the_latest_call_counts_and_nothing_comes_twice(tmp_path: pathlib.Path) -> None:
    first, second = io.StringIO(), io.StringIO()
    one, two = tmp_path / "one.log", tmp_path / "two.log"
    set_up_logging(Settings(log_file=str(one)), first)
    news.info("1")
    set_up_logging(Settings(log_file=str(one)), first)
    news.info("2")
    set_up_logging(Settings(log_file=str(two)), second)
    news.info("3")
    assert (first.getvalue(), second.getvalue()) == ("1\n2\n", "3\n")
    assert (one.read_text(), two.read_text()) == ("1\n2\n", "3\n")


def test_a_script_that_has_set_up_logging_keeps_its_handler(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    import sys

    own = logging.StreamHandler(sys.stderr)
    own.setFormatter(logging.Formatter("own: %(message)s"))
    monkeypatch.setattr(root, "handlers", [own])
    set_up_logging(Settings(), sys.stderr)
    news.info("once")
    assert capsys.readouterr().err == "own: once\n"


def test_a_log_file_is_written_once_and_extended(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "a.log"
    path.write_text("earlier\n")
    add_log_file(str(path))
    add_log_file(str(path))
    root.critical("grün")
    assert path.read_text(encoding="utf-8") == "earlier\ngrün\n"


def test_a_rotating_log_file_stays_small(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logging_setup, "ROTATE_AT_BYTES", 100)
    path = tmp_path / "a.log"
    set_up_logging(Settings(log_file=str(path), log_rotating=True), None)
    for _ in range(30):
        root.critical("0123456789")
    assert path.stat().st_size <= 100
    assert [file.name for file in sorted(tmp_path.iterdir())] == ["a.log", "a.log.1"]


def test_a_log_file_that_cannot_be_opened(tmp_path: pathlib.Path) -> None:
    with pytest.raises(FileNotFoundError):
        set_up_logging(Settings(log_file=str(tmp_path / "none" / "a.log")), None)


@pytest.mark.parametrize(
    ("name", "number", "shown"),
    [
        ("OFF", 50, "CRITICAL"),
        ("critical", 50, "CRITICAL"),
        ("ERROR", 40, "CRITICAL"),
        ("WARNING", 30, "CRITICAL"),
        ("INFO", 20, "INFO"),
        ("DEBUG", 10, "DEBUG"),
    ],
)
def test_names_of_levels(name: str, number: int, shown: str) -> None:
    set_level(name)
    assert (root.level, level_number(name), level_name()) == (number, number, shown)


@pytest.mark.parametrize("name", ["", "LOUD", "NOTSET", "Level 7"])
def test_other_names_are_no_levels(name: str) -> None:
    with pytest.raises(ValueError, match="is expected"):
        level_number(name)


class Full(io.StringIO):
    """A stream on a disk that is full."""

    def write(self, text: str) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_stream_that_takes_nothing_stops_nobody(capsys: pytest.CaptureFixture[str]) -> None:
    root.handlers.clear()  # what other tests have left there may complain, too
    set_up_logging(Settings(), Full())

    news.info("nobody hears this")

    assert capsys.readouterr().err == ""


def test_a_log_file_on_a_full_disk_is_told_of_once_and_without_a_traceback(
    tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root.handlers.clear()
    (tmp_path / "log").symlink_to("/dev/full")
    set_up_logging(Settings(log_file=str(tmp_path / "log")), None)

    news.info("one")
    news.info("two")

    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert str(tmp_path / "log") in said
    assert "No space left" in said
    # There is room again, so that what the file's buffer holds can be written when it is closed.
    with open(os.devnull, "wb") as nowhere:
        os.dup2(nowhere.fileno(), root.handlers[-1].stream.fileno())  # type: ignore[attr-defined]
