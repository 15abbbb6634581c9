"""The heartbeat's block: what is written is read, half of it is nothing, and a full disk stops nothing."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from batchsystems.abstract import End, EndKind, Reason
from jobtree import files, heartbeat
from jobtree.errors import StorageError
from jobtree.heartbeat import BLOCK, Beat, Writer
from tests.requirements import missing, require

ENDS = [
    End("r.1", EndKind.FINISHED, 0, host="node1"),
    End(
        "r.1",
        EndKind.KILLED,
        signal=9,
        reason=Reason.MEMORY,
        peak_memory=1 << 40,
        cpu_seconds=2.5,
        detail="oom",
    ),
    End("r.1", EndKind.KILLED, signal=signal.SIGKILL, reason=Reason.SIGNAL),
    End("r.1", EndKind.LOST, detail="Zürich 東京"),
]


@pytest.fixture
def path(tmp_path: Path) -> str:
    """A block that nobody has written yet."""
    files.write_durably(str(tmp_path / "7"), bytes(BLOCK))
    return str(tmp_path / "7")


def test_a_block_that_nobody_has_written_says_nothing(path: str) -> None:
    assert heartbeat.read(path, "r.1") == (bytes(BLOCK), None)


def test_every_beat_changes_the_block_and_no_beat_its_size(path: str) -> None:
    writer = Writer(path, "node1", 60.0)
    seen = set()
    for number in range(1, 4):
        writer.beat()
        block, beat = heartbeat.read(path, "r.1")
        assert beat == Beat(number, "node1", os.getpid(), 60.0)
        assert len(block) == os.path.getsize(path) == BLOCK
        seen.add(block)
    assert len(seen) == 3


@pytest.mark.parametrize("end", ENDS)
def test_the_end_comes_with_the_last_beat(path: str, end: End) -> None:
    writer = Writer(path, "node1", 60.0)
    writer.beat()

    writer.sign_off(end)

    beat = heartbeat.read(path, "r.1")[1]
    assert beat is not None
    assert (beat.number, beat.end) == (2, end)


def test_many_words_about_the_end_are_cut(path: str) -> None:
    Writer(path, "node1", 60.0).sign_off(End("r.1", EndKind.FINISHED, 1, detail="é" * 5000))

    beat = heartbeat.read(path, "r.1")[1]
    assert beat is not None
    assert beat.end is not None
    assert beat.end.detail.startswith("ééé")
    assert os.path.getsize(path) == BLOCK


@pytest.mark.parametrize("cut", [1, 9, 40])
def test_half_a_block_says_nothing(path: str, cut: int) -> None:
    Writer(path, "node1", 60.0).beat()
    whole = Path(path).read_bytes()
    Path(path).write_bytes(whole[:cut] + b"\xff" * (BLOCK - cut))

    assert heartbeat.read(path, "r.1")[1] is None


def test_a_block_that_is_gone_is_not_made_again(path: str) -> None:
    writer = Writer(path, "node1", 60.0)
    os.unlink(path)

    with pytest.raises(FileNotFoundError):
        writer.beat()
    assert not os.path.exists(path)
    assert heartbeat.read(path, "r.1") == (b"", None)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 64 KiB."""
    if os.geteuid() != 0:
        missing("making a small file system needs root")
    require("mount")
    disk = tmp_path / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(disk)], check=True)
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


def test_a_full_disk_stops_no_heartbeat(small_disk: Path) -> None:
    path = str(small_disk / "7")
    files.write_durably(path, bytes(BLOCK))
    with pytest.raises(StorageError):
        files.write_durably(str(small_disk / "ballast"), bytes(1 << 20))
    writer = Writer(path, "node1", 60.0)

    writer.beat()
    writer.sign_off(ENDS[1])

    beat = heartbeat.read(path, "r.1")[1]
    assert beat is not None
    assert beat.end == ENDS[1]
