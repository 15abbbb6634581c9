"""What the starter says when a process cannot be started or its end cannot be learned."""

from __future__ import annotations

import os
import select
from collections.abc import Iterator
from pathlib import Path

import pytest

from batchsystems.abstract import Submission
from batchsystems.child_watch import has_pidfd
from batchsystems.processes import PopenStarter, ProcessEnd


@pytest.fixture(params=[False, pytest.param(True, marks=pytest.mark.skipif(not has_pidfd(), reason="none"))])
def starter(request: pytest.FixtureRequest) -> Iterator[PopenStarter]:
    starter = PopenStarter(use_pidfd=request.param)
    yield starter
    starter.close()


def next_end(starter: PopenStarter) -> ProcessEnd:
    """Wait for the next end."""
    while True:
        poll = select.poll()
        poll.register(starter.fileno(), select.POLLIN)
        assert poll.poll(60_000), "nothing ended"
        ends = starter.ended()
        if ends:
            assert len(ends) == 1
            return ends[0]


def test_an_end_has_status_memory_and_time(starter: PopenStarter) -> None:
    starter.start("r.a", Submission("r.a", ("sh", "-c", "exit 3")))

    end = next_end(starter)

    assert (end.name, end.wait_status) == ("r.a", 3 << 8)
    assert end.peak_memory is not None
    assert end.peak_memory > 100_000
    assert end.cpu_seconds is not None
    assert end.cpu_seconds >= 0


@pytest.mark.parametrize(
    ("command", "status"),
    [("/nonexistent", 127), ("nonexistent-program", 127), ("/", 126), ("a\0b", 126), ("\ud800", 126)],
)
def test_a_command_that_cannot_be_run_has_a_shells_status(
    starter: PopenStarter, command: str, status: int
) -> None:
    starter.start("r.a", Submission("r.a", (command,)))

    end = next_end(starter)

    assert end.wait_status == status << 8
    assert "cannot start" in end.detail
    assert starter.ended() == []


def test_a_log_that_cannot_be_opened_is_not_the_commands_fault(starter: PopenStarter, tmp_path: Path) -> None:
    log = str(tmp_path / "missing" / "log")
    starter.start("r.a", Submission("r.a", ("true",), log=log))

    end = next_end(starter)

    assert end.wait_status is None
    assert log in end.detail


def test_an_end_that_other_code_took_is_not_guessed(starter: PopenStarter, tmp_path: Path) -> None:
    told = tmp_path / "pid"
    os.mkfifo(told)
    starter.start("r.a", Submission("r.a", ("sh", "-c", f"echo $$ > '{told}'; read go < '{told}'")))
    pid = int(told.read_text(encoding="ascii"))
    told.write_text("go\n", encoding="ascii")

    os.waitpid(pid, 0)

    end = next_end(starter)
    assert end.wait_status is None
    assert "taken by other code" in end.detail


def test_signals_to_what_is_gone_or_unknown_are_ignored(starter: PopenStarter) -> None:
    starter.start("r.a", Submission("r.a", ("true",)))
    next_end(starter)

    starter.signal("r.a", 9)
    starter.signal("r.b", 9)


def test_close_twice_is_fine(starter: PopenStarter) -> None:
    starter.start("r.a", Submission("r.a", ("sleep", "1000")))
    starter.close()
    starter.close()
