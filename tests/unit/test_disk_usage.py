"""What a tree takes of the disk: exact for a small one, bounded for a large one, measured by the master meanwhile."""

from __future__ import annotations

import json
import os
import threading
from pathlib import Path
from typing import Any

import pytest

from jobtree import clock, disk_usage, tempdirs
from jobtree.cli import disk_view
from jobtree.disk_usage import Measurer, Usage
from jobtree.paths import TreePaths

RUN = "abcdef"


@pytest.fixture
def paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> TreePaths:
    """A tree with files of a block or more."""
    (tmp_path / "temporary").mkdir()
    monkeypatch.setenv("TMPDIR", str(tmp_path / "temporary"))
    paths = TreePaths(str(tmp_path / "tree"))
    for path in (paths.root, *paths.directories(), paths.global_dir(1), tempdirs.local_base(RUN, 7)):
        os.makedirs(path)
    for path, size in (
        (paths.database, 50_000),
        (paths.log(3), 9000),
        (paths.global_dir(1) + "/big", 300_000),
    ):
        os.makedirs(os.path.dirname(path), exist_ok=True)
        Path(path).write_bytes(os.urandom(size))
    Path(tempdirs.local_base(RUN, 7), "scratch").write_bytes(os.urandom(70_000))
    Path(tempdirs.local_base("other", 7) + "x").write_bytes(os.urandom(70_000))
    return paths


def du(path: str) -> int:
    """What is taken, counted otherwise."""
    found = 0
    for folder, _, names in os.walk(path):
        found += sum(os.lstat(os.path.join(folder, name)).st_blocks * 512 for name in (".", *names))
    return found


def test_all_of_a_small_tree(paths: TreePaths, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(disk_usage, "_MOST_SECONDS", 60.0)  # a busy machine may take longer than a busy user
    os.symlink("/usr", os.path.join(paths.root, "logs", "link"))
    found = disk_usage.look(paths, RUN)

    assert found.whole
    assert found.bytes == du(paths.root) - os.lstat(paths.root).st_blocks * 512
    assert found.files == 4
    assert 300_000 <= found.global_dirs < 320_000
    assert found.local_dirs == du(tempdirs.local_base(RUN, 7))
    assert disk_usage.measure(paths, RUN)._replace(moment=0) == found._replace(moment=0)


def test_of_a_large_tree_a_part_is_looked_at_and_the_last_measurement_told(
    paths: TreePaths, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = disk_usage.measure(paths, RUN)._replace(moment=clock.wall() - 3600, host="far\x1b")
    monkeypatch.setattr(disk_usage, "_MOST_ENTRIES", 5)
    least = disk_usage.look(paths, RUN)
    assert not least.whole
    assert least.bytes < whole.bytes
    assert disk_view.look(paths, RUN).lines[0].startswith("On disk: at least ")

    disk_usage.note(paths, whole)

    assert disk_usage.look(paths, RUN) == whole
    (line,) = disk_view.look(paths, RUN).lines
    assert "local temporary directories on far\\x1b: " in line
    assert line.endswith(" (measured 1h 0m ago)")


@pytest.mark.parametrize(
    "stored",
    [
        b"",
        b"[1]",
        b"{}",
        b'{"bytes": 1}',
        json.dumps(Usage(True, 1, 1, 1, "", 0.0)._asdict()).encode(),
        b"\xff",
    ],
)
def test_a_measurement_that_makes_no_sense_is_none(
    paths: TreePaths, monkeypatch: pytest.MonkeyPatch, stored: bytes
) -> None:
    monkeypatch.setattr(disk_usage, "_MOST_ENTRIES", 5)
    Path(paths.usage).write_bytes(stored)

    assert not disk_usage.look(paths, RUN).whole


def test_the_master_measures_meanwhile(paths: TreePaths, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(disk_usage, "_FIRST_SECONDS", 0.0)
    monkeypatch.setattr(disk_usage, "_PIECE", 3)
    noted = threading.Event()
    really = disk_usage.note

    def note(*given: Any) -> None:
        really(*given)
        noted.set()

    monkeypatch.setattr(disk_usage, "note", note)
    with Measurer(paths, RUN):
        assert noted.wait(60)
    monkeypatch.setattr(disk_usage, "_MOST_ENTRIES", 1)

    assert disk_usage.look(paths, RUN).whole


def test_a_run_does_not_wait_for_a_measurement_to_end(
    paths: TreePaths, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(disk_usage, "_FIRST_SECONDS", 0.0)
    monkeypatch.setattr(disk_usage, "_PIECE", 1)
    monkeypatch.setattr(disk_usage, "_PAUSE", 1000.0)
    with Measurer(paths, RUN):
        pass

    assert not os.path.exists(paths.usage)


def test_a_directory_that_cannot_be_read_or_is_gone_is_left_out(paths: TreePaths) -> None:
    assert disk_usage.of(paths.root + "/nowhere") == (0, 0)
    assert disk_usage.of(paths.database) == (os.lstat(paths.database).st_blocks * 512, 1)
