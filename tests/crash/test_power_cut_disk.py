"""The model of a disk that loses power keeps what was synced, and loses what it may."""

from __future__ import annotations

import random
import stat

import pytest

from tests.crash.power_cut_disk import SECTOR, Disk, Inode

FILE = stat.S_IFREG | 0o600
DIRECTORY = stat.S_IFDIR | 0o700


def make(disk: Disk, path: str, data: bytes = b"") -> Inode:
    """A new file with this content."""
    inode = disk.make(path, FILE, 0.0)
    if data:
        disk.write(inode, 0, data)
    return inode


def names(disk: Disk, path: str = "/") -> list[str]:
    """The names in a directory."""
    return sorted(disk.find(path).entries)


def content(disk: Disk, path: str) -> bytes:
    """The content of a file."""
    return bytes(disk.find(path).data)


@pytest.fixture
def disk() -> Disk:
    """An empty disk."""
    return Disk()


def test_nothing_survives_without_a_sync(disk: Disk) -> None:
    make(disk, "/a", b"data")
    disk.cut(None)
    assert names(disk) == []


def test_synced_file_without_a_synced_name_is_lost(disk: Disk) -> None:
    disk.sync_file(make(disk, "/a", b"data"))
    disk.cut(None)
    assert names(disk) == []


def test_synced_name_without_synced_content_is_an_empty_file(disk: Disk) -> None:
    make(disk, "/a", b"data")
    disk.sync_directory(disk.find("/"))
    disk.cut(None)
    assert content(disk, "/a") == b""


def test_what_was_synced_survives_every_cut() -> None:
    for seed in range(50):
        disk = Disk()
        inode = make(disk, "/a", b"x" * 3000)
        disk.sync_file(inode)
        disk.sync_directory(disk.find("/"))
        make(disk, "/b")
        disk.cut(random.Random(seed))
        assert content(disk, "/a") == b"x" * 3000


def test_directory_keeps_its_names_and_not_its_own(disk: Disk) -> None:
    disk.make("/d", DIRECTORY, 0.0)
    make(disk, "/d/a")
    disk.sync_directory(disk.find("/d"))
    disk.cut(None)
    assert names(disk) == []


def test_rename_is_whole_or_not_at_all() -> None:
    seen = set()
    for seed in range(60):
        disk = Disk()
        disk.sync_file(make(disk, "/old", b"old"))
        disk.sync_file(make(disk, "/new", b"new"))
        disk.sync_directory(disk.find("/"))
        disk.rename("/new", "/old", 0.0)
        disk.cut(random.Random(seed))
        seen.add((tuple(names(disk)), content(disk, "/old")))
    assert seen == {(("new", "old"), b"old"), (("old",), b"new")}


def test_sync_of_one_directory_brings_the_other_half_of_a_rename(disk: Disk) -> None:
    for name in ("/a", "/b"):
        disk.make(name, DIRECTORY, 0.0)
    make(disk, "/a/file")
    disk.sync_directory(disk.find("/"))
    disk.rename("/a/file", "/b/file", 0.0)
    disk.sync_directory(disk.find("/b"))
    disk.cut(None)
    assert names(disk, "/a") == []
    assert names(disk, "/b") == ["file"]


def test_changes_of_different_names_survive_in_any_order() -> None:
    seen = set()
    for seed in range(200):
        disk = Disk()
        make(disk, "/a")
        make(disk, "/b")
        disk.cut(random.Random(seed))
        seen.add(tuple(names(disk)))
    assert seen == {(), ("a",), ("b",), ("a", "b")}


def test_changes_of_one_name_survive_in_their_order() -> None:
    seen = set()
    for seed in range(200):
        disk = Disk()
        make(disk, "/a")
        disk.remove("/a", 0.0)
        second = make(disk, "/a").number
        disk.cut(random.Random(seed))
        seen.add(disk.find("/").entries.get("a") == second)
    assert seen == {True, False}


def test_write_is_torn_at_sectors_and_nowhere_else() -> None:
    seen = set()
    for seed in range(300):
        disk = Disk()
        inode = make(disk, "/a", b"0" * 4 * SECTOR)
        disk.sync_file(inode)
        disk.sync_directory(disk.find("/"))
        disk.write(inode, 0, b"1" * 4 * SECTOR)
        disk.cut(random.Random(seed))
        data = content(disk, "/a")
        sectors = [data[n * SECTOR : (n + 1) * SECTOR] for n in range(4)]
        assert all(sector in (b"0" * SECTOR, b"1" * SECTOR) for sector in sectors)
        seen.add(tuple(sectors))
    assert len(seen) == 2**4


def test_write_harms_nothing_beside_it() -> None:
    for seed in range(50):
        disk = Disk()
        inode = make(disk, "/a", b"0" * SECTOR)
        disk.sync_file(inode)
        disk.sync_directory(disk.find("/"))
        disk.write(inode, 100, b"1" * 10)
        disk.cut(random.Random(seed))
        data = content(disk, "/a")
        assert data[:100] == b"0" * 100
        assert data[110:] == b"0" * (SECTOR - 110)


def test_file_that_grew_may_hold_zeros() -> None:
    seen = set()
    for seed in range(300):
        disk = Disk()
        inode = make(disk, "/a")
        disk.sync_directory(disk.find("/"))
        disk.write(inode, 0, b"1" * SECTOR)
        disk.write(inode, SECTOR, b"1" * SECTOR)
        disk.cut(random.Random(seed))
        seen.add(content(disk, "/a"))
    one, zero = b"1" * SECTOR, bytes(SECTOR)
    assert seen == {b"", one, zero, one + one, one + zero, zero + one, zero + zero}


def test_cut_of_a_truncated_file_gives_one_of_its_lengths() -> None:
    seen = set()
    for seed in range(200):
        disk = Disk()
        inode = make(disk, "/a", b"1" * 1000)
        disk.sync_file(inode)
        disk.sync_directory(disk.find("/"))
        disk.truncate(inode, 10)
        disk.truncate(inode, 20)
        disk.cut(random.Random(seed))
        seen.add(len(content(disk, "/a")))
    assert seen == {1000, 10, 20}


def test_disk_that_lies_loses_what_was_synced() -> None:
    disk = Disk(lies=True)
    disk.sync_file(make(disk, "/a", b"data"))
    disk.sync_directory(disk.find("/"))
    disk.cut(None)
    assert names(disk) == []


def test_disk_goes_on_after_a_cut_with_what_is_left(disk: Disk) -> None:
    disk.sync_file(make(disk, "/a", b"data"))
    disk.sync_directory(disk.find("/"))
    disk.link("/a", "/b", 0.0)
    disk.cut(None)
    assert disk.find("/a").links == 1
    disk.write(disk.find("/a"), 4, b"+")
    disk.cut(None)
    assert content(disk, "/a") == b"data"
