"""Whether locks exclude is found out before they are relied upon. The real thing that does not: test_nfs_client.py."""

from __future__ import annotations

import fcntl
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from jobtree import exclusion, files, filesystems
from jobtree.errors import UsageError


@pytest.fixture
def held(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A file on what is taken for a network file system, with a lock that we hold."""
    monkeypatch.setattr(files, "is_network", lambda path: True)
    path = tmp_path / "lock"
    with path.open("wb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield str(path)


def test_locks_that_exclude_are_good_and_leave_nothing(held: str, tmp_path: Path) -> None:
    exclusion.check(held, str(tmp_path / "trial"))
    assert os.listdir(tmp_path) == ["lock"]


@pytest.mark.parametrize("kind", ["flock", "fcntl"])
def test_each_of_the_two_is_tried(
    held: str, tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if kind == "flock":
        held += ".nobody"
        Path(held).touch()
    else:
        monkeypatch.setattr(fcntl, "lockf", lambda *_: None)
    with pytest.raises(UsageError, match=rf"grants one lock \({kind}\) to two processes at once"):
        exclusion.check(held, str(tmp_path / "trial"))


@pytest.mark.parametrize(
    ("kind", "options", "cure"),
    [
        ("nfs", "rw,vers=3,nolock,local_lock=all", "local_lock=none and without nolock"),
        ("nfs4", "rw,vers=4.2,local_lock=flock", "local_lock=none"),
        ("lustre", "rw,localflock", "-o flock"),
        ("cifs", "rw,nobrl", "without nobrl"),
    ],
)
def test_locks_of_one_machine_are_told_by_the_options_of_the_mount(
    held: str, kind: str, options: str, cure: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exclusion, "filesystem_type", lambda path: kind)
    monkeypatch.setattr(exclusion, "mount_options", lambda path: frozenset(options.split(",")))
    with pytest.raises(UsageError, match=f"hold on one machine only.*{cure}"):
        exclusion.check(held, held + ".trial")


@pytest.mark.parametrize(
    ("kind", "options"), [("nfs4", "rw,vers=4.2,local_lock=none"), ("lustre", "rw,flock"), ("ceph", "rw")]
)
def test_other_options_are_good(held: str, kind: str, options: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exclusion, "filesystem_type", lambda path: kind)
    monkeypatch.setattr(exclusion, "mount_options", lambda path: frozenset(options.split(",")))
    exclusion.check(held, held + ".trial")


def test_what_cannot_be_found_out_is_said(held: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(UsageError, match="could not be found out"):
        exclusion.check(held, str(tmp_path / "trial"))


def test_a_local_file_system_is_not_asked(tmp_path: Path) -> None:
    exclusion.check(str(tmp_path / "nothing"), str(tmp_path / "trial"))
    assert os.listdir(tmp_path) == []


def test_options_of_a_mount() -> None:
    assert {"rw", "ro"} & filesystems.mount_options("/proc")
    assert filesystems.mount_options("/nowhere") == frozenset()
