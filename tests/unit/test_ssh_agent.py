"""Agents and keepers on this machine, without ssh: what a host does when its connections, keepers and masters end."""

from __future__ import annotations

import os
import platform
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from batchsystems import ssh_agent, ssh_check
from batchsystems.abstract import EndKind, Reason, Resources, Submission
from batchsystems.ssh import Ssh
from batchsystems.ssh_file import HostLine
from batchsystems.ssh_link import LOCALHOST, Link
from tests.conformance.scene import is_alive
from tests.servers.daemons import wait_until

LINE = f"{LOCALHOST} cores=4 memory=1G tmp="


@pytest.fixture
def made(tmp_path: Path) -> Iterator[list[Ssh]]:
    batches: list[Ssh] = []
    yield batches
    for batch in batches:
        # os.walk does not mind that the agent removes directories meanwhile.
        found = [name for _, names, _ in os.walk(tmp_path) for name in names if name.startswith("run.")]
        batch.cancel(found)
        batch.close()


def make(made: list[Ssh], directory: Path, more: str = "") -> Ssh:
    (directory / "hosts").write_text(f"{LINE}{directory}{more}\n")
    batch = Ssh(str(directory), str(directory / "hosts"))
    made.append(batch)
    return batch


def job(name: str, script: str, directory: Path) -> Submission:
    return Submission(f"run.{name}", ("/bin/sh", "-c", script), Resources(1.0), cwd=str(directory))


def ends(batch: Ssh, number: int) -> list[Any]:
    found: list[Any] = []

    def all_there() -> bool:
        found.extend(batch.poll(0.1))
        return len(found) >= number

    wait_until(all_there, f"{number} ends")
    return sorted(found, key=lambda end: str(end.name))


def file(directory: Path, job_name: str, name: str) -> str:
    found = list(directory.rglob(f"run.{job_name}/{name}"))
    return found[0].read_text() if found else ""


def test_statuses_that_ssh_itself_uses_are_told_apart(made: list[Ssh], tmp_path: Path) -> None:
    batch = make(made, tmp_path)
    batch.issue([job("a", "exit 255", tmp_path), job("b", "kill -9 $$", tmp_path)])

    first, second = ends(batch, 2)

    assert (first.kind, first.status) == (EndKind.FINISHED, 255)
    assert (second.kind, second.reason, second.signal) == (EndKind.KILLED, Reason.SIGNAL, 9)


def test_a_job_whose_keeper_is_killed_is_ended_and_lost(made: list[Ssh], tmp_path: Path) -> None:
    batch = make(made, tmp_path)
    batch.issue([job("a", "sleep 1000", tmp_path)])
    wait_until(lambda: batch.poll(0.05) or file(tmp_path, "a", "child"), "a job")
    child = int(file(tmp_path, "a", "child").split()[0])

    os.kill(int(file(tmp_path, "a", "keeper")), signal.SIGKILL)
    (end,) = ends(batch, 1)

    assert end.kind is EndKind.LOST
    assert "keeper is gone" in end.detail
    wait_until(lambda: not is_alive(child), "the end of the job")


def test_an_end_waits_for_the_next_master(made: list[Ssh], tmp_path: Path) -> None:
    first = make(made, tmp_path)
    first.issue([job("a", "exit 3", tmp_path)])

    def has_ended() -> bool:
        first.cancel([])  # goes on with what there is to do, and takes no end
        return bool(file(tmp_path, "a", "end"))

    wait_until(has_ended, "the end of the job")
    first.close()
    made.remove(first)

    second = make(made, tmp_path)

    assert second.list_issued("run") == ["run.a"]
    (end,) = ends(second, 1)
    assert (end.kind, end.status) == (EndKind.FINISHED, 3)
    assert second.list_issued("run") == []
    second.close()
    made.remove(second)
    assert make(made, tmp_path).list_issued("run") == []


def test_what_an_unknown_master_left_can_be_cancelled(made: list[Ssh], tmp_path: Path) -> None:
    first = make(made, tmp_path)
    first.issue([job("a", "trap '' TERM; sleep 1000 & wait; sleep 1000", tmp_path)])
    wait_until(lambda: first.poll(0.05) or file(tmp_path, "a", "child"), "a job")
    child = int(file(tmp_path, "a", "child").split()[0])
    first.close()
    made.remove(first)

    second = make(made, tmp_path)
    second.cancel(["run.a"])
    second.close()
    made.remove(second)

    wait_until(lambda: not is_alive(child), "the end of the job")


def test_an_agent_whose_connection_was_replaced_starts_nothing(tmp_path: Path) -> None:
    line = HostLine(LOCALHOST, 1000, 1 << 30, tmp=str(tmp_path))
    old, new = Link(line, "key", "master", ["ssh"]), Link(line, "key", "master", ["ssh"])
    new._number = 1  # as if it had replaced the other
    for link in (old, new):
        wait_until(lambda: link.turn() or link.about, "a connection")  # noqa: B023
    told: list[dict[str, Any]] = []

    def has_told(link: Link, key: str, value: object = None) -> bool:
        told.extend(link.turn())
        return any(key in message and value in (None, message[key]) for message in told)

    described: dict[str, Any] = {
        "command": ["/bin/sh", "-c", ": > hit"],
        "env": {},
        "cwd": str(tmp_path),
        "log": None,
        "booked": [],
    }
    old.send({"start": "run.a", "job": described})
    wait_until(lambda: has_told(old, "lost"), "its end")

    assert not any("started" in message for message in told)
    number = new.ask()
    wait_until(lambda: has_told(new, "list", number), "a list")
    assert told[-1]["jobs"] == {}
    assert not (tmp_path / "hit").exists()
    for link in (old, new):
        link.close(10.0)


def test_a_directory_that_others_can_enter_is_refused(made: list[Ssh], tmp_path: Path) -> None:
    (tmp_path / f"jobtree-ssh-{os.getuid()}").mkdir()
    (tmp_path / f"jobtree-ssh-{os.getuid()}").chmod(0o777)

    (found,) = make(made, tmp_path).check_hosts()

    assert "that nobody else can enter" in found.problems[0]


def test_a_drained_host_is_checked_too(made: list[Ssh], tmp_path: Path) -> None:
    (found,) = make(made, tmp_path, " drain").check_hosts()

    assert found.problems == ()


def test_what_one_host_writes_is_not_taken_for_the_answer_of_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    about = {"host": "there", "uid": os.getuid(), "user": "me", "python": platform.python_version()}
    first, second = ssh_check.prepare(str(tmp_path), 2)
    found = ssh_agent.check({**first, "python": sys.executable})
    monkeypatch.setattr(ssh_check, "SECONDS", 0.1)  # nobody is going to write the other one

    one = ssh_check.judge("one", about, found, first, "")
    two = ssh_check.judge("two", about, found, second, "")

    assert one.problems == ()
    assert two.problems == (f"what it writes into {tmp_path} is not seen here after 0.1 s",)
    ssh_check.clean_up([first, second])
    assert list(tmp_path.iterdir()) == []
