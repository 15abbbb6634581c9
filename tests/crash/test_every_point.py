"""A sample of every_point.py, and whether its model of a disk is right: what it may lose and what it must keep."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from pathlib import Path

import pytest

from tests.crash import disk
from tests.crash.disk import Disk, Effect

CHECKOUT = Path(__file__).resolve().parents[2]
WHICH = os.environ.get("JOBTREE_TEST_CRASH", "1")


@pytest.mark.slow
@pytest.mark.timeout(3 * 3600)
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="effects are seen through /proc/self/fd")
def test_whatever_a_crash_leaves_on_the_disk_the_next_start_ends_as_if_nothing_had_happened(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """JOBTREE_TEST_CRASH=all takes every point, another number another sample."""
    which = ["--all"] if WHICH == "all" else ["--seed", WHICH]
    command = [sys.executable, str(CHECKOUT / "tests" / "crash" / "every_point.py"), *which]

    done = subprocess.run(command, capture_output=True, text=True)

    with capsys.disabled():
        print("\n" + done.stdout)
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-2000:]


def recorded(*effects: Effect) -> Disk:
    """A disk on which these were done, one after the other; it began with the directory d."""
    found = Disk({"d": None})
    for effect in effects:
        found.record(effect)
    return found


CREATE = Effect("create", "d/f")
WRITE = Effect("write", "d/f", data=b"text")
SYNC = Effect("fsync", "d/f")
SYNC_DIRECTORY = Effect("fsync", "d")


def test_the_death_of_a_process_loses_nothing_that_was_done() -> None:
    assert recorded(CREATE, WRITE).image(1) == {"d": None, "d/f": b""}
    assert recorded(CREATE, WRITE).image(2) == {"d": None, "d/f": b"text"}


def test_a_synced_file_may_lose_its_name_and_a_synced_name_its_content() -> None:
    assert recorded(CREATE, WRITE, SYNC).image(3, disk.nothing) == {"d": None}
    assert recorded(CREATE, WRITE, SYNC_DIRECTORY).image(3, disk.nothing) == {"d": None, "d/f": b""}
    both = recorded(CREATE, WRITE, SYNC, SYNC_DIRECTORY)
    assert both.image(4, disk.nothing) == {"d": None, "d/f": b"text"}


def test_a_sync_keeps_what_was_done_before_it_and_only_once_it_is_done() -> None:
    found = recorded(CREATE, SYNC_DIRECTORY, WRITE, SYNC, Effect("write", "d/f", offset=4, data=b"more"))
    assert found.image(3, disk.nothing) == {"d": None, "d/f": b""}
    assert found.image(5, disk.nothing) == {"d": None, "d/f": b"text"}
    assert found.unsynced(5) == [4]


def test_a_later_write_may_be_kept_without_an_earlier_one() -> None:
    found = recorded(CREATE, SYNC_DIRECTORY, WRITE, Effect("write", "d/f", offset=4, data=b"more"))
    assert found.image(4, disk.only(frozenset([3]))) == {"d": None, "d/f": b"\0\0\0\0more"}


def test_a_rename_may_be_kept_without_the_content_of_what_was_renamed() -> None:
    found = recorded(CREATE, WRITE, Effect("rename", "d/f", to="d/g"), SYNC_DIRECTORY)
    assert found.image(4, disk.nothing) == {"d": None, "d/g": b""}


def test_a_removal_that_was_not_synced_may_come_back() -> None:
    found = Disk({"d": None, "d/f": b"text"})
    found.record(Effect("unlink", "d/f"))
    found.record(Effect("rmdir", "d"))
    assert found.image(2) == {}
    assert found.image(2, disk.nothing) == {"d": None, "d/f": b"text"}
    # A directory that still holds something cannot have gone.
    assert found.image(2, disk.only(frozenset([1]))) == {"d": None, "d/f": b"text"}


def test_nothing_is_there_without_the_directory_that_it_is_in() -> None:
    found = recorded(Effect("mkdir", "d/e"), Effect("create", "d/e/f"), Effect("fsync", "d/e"))
    assert found.image(3, disk.nothing) == {"d": None}


def test_syncfs_keeps_everything() -> None:
    found = recorded(Effect("mkdir", "d/e"), CREATE, WRITE, Effect("syncfs"))
    assert found.image(4, disk.nothing) == {"d": None, "d/e": None, "d/f": b"text"}


def test_a_commit_is_cut_in_the_log_and_a_checkpoint_in_the_database() -> None:
    commit = Effect("sqlite", "t", before=(b"old", b"frame"), after=(b"old", b"frameframe"))
    assert {part.after for _, part in disk.cuts(commit)} == {
        (b"old", b"framef"), (b"old", b"framefr"), (b"old", b"framefram"), (b"old", b"frameframe"),
    }  # fmt: skip
    old, new, log = b"o" * 1024, b"n" * 1024, b"frame"
    checkpoint = Effect("sqlite", "t", before=(old, log), after=(new, None))
    assert {part.after for _, part in disk.cuts(checkpoint)} == {
        (b"n" * 512 + b"o" * 512, log), (b"o" * 512 + b"n" * 512, log), (new, log),
    }  # fmt: skip


def test_a_torn_commit_keeps_what_was_committed_before() -> None:
    before = bytes(range(256)) * 4
    commit = Effect("sqlite", "t", before=(b"", before), after=(b"", before + b"x" * 4096))
    for seed in range(20):
        part = disk.scattered(commit, random.Random(seed))
        assert part is not None
        assert part.after[1] is not None
        assert part.after[1].startswith(before)
