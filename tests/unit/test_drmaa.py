"""DRMAA: how things are asked for, what ends mean, and the files between instances and nodes."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Optional

import pytest

from batchsystems import drmaa_ends, drmaa_native, on_node
from batchsystems.abstract import EndKind, Reason, Submission
from batchsystems.drmaa_files import Files
from batchsystems.drmaa_options import OPTIONS
from batchsystems.scheduled import Request
from tests.servers.daemons import wait_until

# -- requests ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("system", "request_", "expected"),
    [
        ("pbs", Request(2, 100, 3), "-l select=1:ncpus=2:mem=100mb -l walltime=180 -q short"),
        ("pbs", Request(2, 0, None), "-q short"),
        ("torque", Request(1, 100, None), "-l nodes=1:ppn=1 -l mem=100mb -q short"),
        ("lsf", Request(2, 100, 3), "-n 2 -R span[hosts=1] -M 100MB -W 3 -q short"),
        ("slurm", Request(1, 0, 3), "--nodes=1 --cpus-per-task=1 --time=3 -q short"),
        (
            "condor",
            Request(1, 100, 3, 1),
            "request_cpus = 1 \nrequest_memory = 100 \nrequest_gpus = 1 -q short",
        ),
        ("other", Request(2, 100, 3), "-q short"),
    ],
)
def test_each_system_is_asked_in_its_own_words(system: str, request_: Request, expected: str) -> None:
    template = drmaa_native.SYSTEMS[system].request
    assert drmaa_native.native(template, request_, "-q short") == expected


@pytest.mark.parametrize("template", ["-n {cores}", "-n {}", "-n {cpus", "{0}"])
def test_a_template_with_other_names_is_refused(template: str) -> None:
    with pytest.raises(ValueError, match=".*"):
        drmaa_native.read_template(template)


def test_options_take_what_they_have_made() -> None:
    given = {
        "drmaaSystem": "PBS", "drmaaRequest": "-n {cpus}", "drmaaTime": "1:00:00", "drmaaMaxJobs": "5",
        "drmaaInterval": "2.5",
    }  # fmt: skip
    made = {option.name: option.convert(given[option.name]) for option in OPTIONS if option.name in given}

    assert made == {
        "drmaaSystem": "pbs", "drmaaRequest": "-n {cpus}", "drmaaTime": 60, "drmaaMaxJobs": 5, "drmaaInterval": 2.5
    }  # fmt: skip
    assert {o.name: o.convert(made[o.name]) for o in OPTIONS if o.name in made} == made


# -- ends --------------------------------------------------------------------------------------------------------


def told(**values: Any) -> dict[str, Any]:
    return {"id": "4.1", "status": None, "signal": "", "aborted": False, "usage": {"cpu": "1.5"}, **values}


@pytest.mark.parametrize(
    ("values", "cancelled", "kind", "status", "number", "reason"),
    [
        ({"status": 0}, False, EndKind.FINISHED, 0, None, None),
        ({"status": 3}, False, EndKind.FINISHED, 3, None, None),
        ({"signal": "SIGKILL"}, False, EndKind.KILLED, None, 9, Reason.SIGNAL),
        ({"signal": "SIGODD"}, False, EndKind.KILLED, None, None, Reason.SIGNAL),
        ({"status": 137, "signal": "SIGKILL"}, False, EndKind.KILLED, None, 9, Reason.SIGNAL),
        ({"aborted": True}, False, EndKind.LOST, None, None, None),
        ({}, False, EndKind.LOST, None, None, None),
        ({"status": 0}, True, EndKind.KILLED, None, None, Reason.CANCELLED),
        ({"aborted": True}, True, EndKind.KILLED, None, None, Reason.CANCELLED),
    ],
)
def test_each_end_is_told_apart(
    values: dict[str, Any], cancelled: bool, kind: EndKind, status: Optional[int], number: Optional[int],
    reason: Optional[Reason],
) -> None:  # fmt: skip
    end = drmaa_ends.of_wait("run.1", told(**values), cancelled, "true", "n1", "")

    assert (end.kind, end.status, end.signal, end.reason, end.host) == (kind, status, number, reason, "n1")


# -- files -------------------------------------------------------------------------------------------------------


def test_a_later_instance_knows_the_names_of_an_array_until_it_is_over(tmp_path: Path) -> None:
    files = Files(str(tmp_path))
    tasks = {1: Submission("run.5", ("true",)), 2: Submission("run.odd.name", ("é\udcff",))}
    files.describe("0a1b2c", tasks)
    files.note_numbers("0a1b2c", {1: "7.1", 2: "7.2"})
    files.note_contact("session=1")

    later = Files(str(tmp_path))
    assert later.tokens() == ["0a1b2c"]
    assert later.names("0a1b2c") == {1: "run.5", 2: "run.odd.name"}
    assert later.numbers("0a1b2c") == {1: "7.1", 2: "7.2"}
    assert later.contact == "session=1"

    later.cancel("run.5", 1.0)
    later.remove("0a1b2c")
    assert (later.tokens(), later.names("0a1b2c"), later.numbers("0a1b2c")) == ([], {}, {})
    assert os.listdir(tmp_path / "cancel") == []


@pytest.mark.parametrize("damage", [b"", b"{", b"[]", b"\xff"])
def test_what_was_being_written_when_we_died_is_not_there(tmp_path: Path, damage: bytes) -> None:
    files = Files(str(tmp_path))
    for folder in ("arrays", "numbers"):
        (tmp_path / folder / "0a1b2c").write_bytes(damage)

    assert (files.names("0a1b2c"), files.numbers("0a1b2c")) == ({}, {})


def test_what_belongs_to_no_array_is_swept_away(tmp_path: Path) -> None:
    files = Files(str(tmp_path))
    for token in ("0a", "0b"):
        files.describe(token, {1: Submission(f"run.{token}", ("true",))})
        files.cancel(f"run.{token}", 0.0)

    Files(str(tmp_path)).sweep({"0b"})

    assert Files(str(tmp_path)).tokens() == ["0b"]
    assert os.listdir(tmp_path / "cancel") == ["run.0b"]


# -- on a node ---------------------------------------------------------------------------------------------------


class Node:
    """Starts jobs as a scheduler does."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.files = Files(str(directory / "files"))
        self.started: list[subprocess.Popen[bytes]] = []

    def start(self, script: str) -> subprocess.Popen[bytes]:
        submission = Submission("run.1", ("/bin/sh", "-c", script), cwd=str(self.directory))
        self.files.describe("0a", {1: submission})
        command = [sys.executable, "-I", "-S", on_node.__file__, "SGE_TASK_ID", self.files.description("0a")]
        with open(os.path.join(self.files.output, "0a"), "ab") as output:
            env = {**os.environ, "SGE_TASK_ID": "1"}
            self.started.append(subprocess.Popen(command, stdout=output, stderr=output, env=env))
        return self.started[-1]

    def said(self) -> str:
        return (self.directory / "files" / "output" / "0a").read_text()

    def until(self, name: str) -> str:
        wait_until((self.directory / name).exists, name)
        return (self.directory / name).read_text()


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    made = Node(tmp_path)
    yield made
    for process in made.started:
        process.kill()
        process.wait()


HOLDS = "exec 9> held; echo $$ > new; mv new pid; read never < fifo"


def test_the_end_of_a_command_is_told(node: Node) -> None:
    assert node.start("exit 3").wait(60) == 3
    assert drmaa_ends.read_ended(node.said()) == {"run.1": 3 << 8}


def test_a_job_is_ended_by_a_file_with_its_grace(node: Node) -> None:
    os.mkfifo(node.directory / "fifo")
    job = node.start("trap 'echo > seen; exit 5' TERM; echo > started; while :; do read never < fifo; done")
    node.until("started")

    node.files.cancel("run.1", 1000.0)

    assert job.wait(60) == 5
    node.until("seen")


def test_who_ignores_that_is_killed_and_a_later_file_can_shorten_the_grace(node: Node) -> None:
    os.mkfifo(node.directory / "fifo")
    job = node.start("trap '' TERM; echo > started; while :; do read never < fifo; done")
    node.until("started")
    node.files.cancel("run.1", 1000.0)
    node.files.cancel("run.1", 0.0)

    assert job.wait(60) == -signal.SIGKILL
    assert drmaa_ends.read_ended(node.said()) == {"run.1": signal.SIGKILL}


def test_a_job_that_was_cancelled_before_it_began_does_not_begin(node: Node) -> None:
    node.files.cancel("run.1", 10.0)

    assert node.start("echo > started").wait(60) == -signal.SIGKILL
    assert not (node.directory / "started").exists()
    assert drmaa_ends.read_ended(node.said()) == {"run.1": signal.SIGTERM}


def test_what_a_killed_job_leaves_is_killed_and_told(node: Node) -> None:
    """Grid Engine kills the process group that it has started, and no other."""
    for name in ("fifo", "held"):
        os.mkfifo(node.directory / name)
    reader = os.open(node.directory / "held", os.O_RDONLY | os.O_NONBLOCK)
    try:
        job = node.start(HOLDS)
        node.until("pid")
        job.kill()
        job.wait()

        poll = select.poll()
        poll.register(reader, 0)
        assert poll.poll(60_000), "it still runs"
    finally:
        os.close(reader)
    wait_until(lambda: drmaa_ends.read_ended(node.said()), "the keeper's word")
    assert drmaa_ends.read_ended(node.said()) == {"run.1": drmaa_ends.KILLED_THERE}


def test_a_description_that_is_gone_is_told(node: Node) -> None:
    command = [sys.executable, "-I", "-S", on_node.__file__, "1", str(node.directory / "nothing")]
    ran = subprocess.run(command, check=False, capture_output=True, text=True)

    assert ran.returncode == on_node.EX_TEMPFAIL
    assert "lost the description of this job cannot be read" in ran.stderr
