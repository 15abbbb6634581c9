"""A pipeline on a file system that loses power several times a run ends right, every time; with a disk that lies it
does not, which shows that these runs can tell.

JOBTREE_TEST_POWER_CUTS=N in the environment makes it N runs of each kind; ``tests/crash/power_cut.py`` repeats a seed.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from tests.crash.mounts import Mount, require_fuse
from tests.crash.power_cut import cuts_of, wrong

RUNS = int(os.environ.get("JOBTREE_TEST_POWER_CUTS", "12"))
LIES = 8
"""Runs on a disk that lies, of which all but one must end wrong: a cut can come before anything was to be lost."""


@pytest.fixture(autouse=True)
def fuse() -> None:
    """All of these need it."""
    require_fuse()


def _seeds(first: int) -> list[Any]:
    return [first] + [pytest.param(seed, marks=pytest.mark.slow) for seed in range(first + 1, first + RUNS)]


@pytest.mark.parametrize("seed", _seeds(1000))
def test_run_ends_right_however_often_the_power_goes(tmp_path: Path, seed: int) -> None:
    what = wrong(tmp_path, seed, local=False, lies=False, cuts=cuts_of(seed))
    assert what is None, what


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(5000, 5000 + RUNS))
def test_run_on_a_disk_of_this_machine_ends_right_too(tmp_path: Path, seed: int) -> None:
    what = wrong(tmp_path, seed, local=True, lies=False, cuts=cuts_of(seed))
    assert what is None, what


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_disk_that_answers_to_a_sync_and_does_nothing_is_found_out(tmp_path: Path) -> None:
    found = []
    for seed in range(LIES):
        directory = tmp_path / str(seed)
        directory.mkdir()
        found.append(wrong(directory, seed, local=seed % 2 == 1, lies=True, cuts=3))
    right = [seed for seed, what in enumerate(found) if what is None]
    assert len(right) <= 1, f"nothing was lost with seeds {right}"


def test_shared_memory_works_there(tmp_path: Path) -> None:
    """What SQLite's index of its log needs, where jobtree takes the file system for a local one."""
    import mmap
    import sqlite3

    with Mount(
        "power_cut_fs.py", tmp_path / "mounted", tmp_path / "log", "--image", tmp_path / "image"
    ) as mount:
        with (mount.path / "file").open("w+b") as file:
            file.truncate(8192)
            with mmap.mmap(file.fileno(), 8192) as shared:
                shared[5000:5005] = b"hello"
                shared.flush()
                assert os.pread(file.fileno(), 5, 5000) == b"hello"
        writer = sqlite3.connect(mount.path / "database", isolation_level=None)
        assert writer.execute("PRAGMA journal_mode = WAL").fetchone() == ("wal",)
        writer.execute("CREATE TABLE numbers (n)")
        writer.execute("INSERT INTO numbers VALUES (17)")
        reader = sqlite3.connect(mount.path / "database")
        assert reader.execute("SELECT n FROM numbers").fetchall() == [(17,)]
        assert (mount.path / "database-shm").exists()
        reader.close()
        writer.close()
