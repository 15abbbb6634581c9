"""Who may write to the store, and what becomes of what goes wrong: a StorageError."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Callable

import pytest

from jobtree.errors import StorageError
from jobtree.events import Children
from jobtree.store import Store
from tests.unit.test_store import ROOT, T1, T3, Open, failure, row


@pytest.fixture
def world(tmp_path: Path) -> Iterator[Open]:
    opened = Open(tmp_path)
    yield opened
    opened.store.close()


# -- who may write ---------------------------------------------------------------------------------------------


def test_each_start_raises_the_generation(world: Open) -> None:
    before = world.store.generation

    assert world.again().generation == before + 1


def test_master_that_was_replaced_writes_nothing_more(world: Open) -> None:
    world.store.commit()
    newer = Store(world.path)
    try:
        newer.raise_generation()

        with pytest.raises(StorageError, match="taken over"):
            world.store.begin()
        newer.begin()  # and the refused one holds no lock
        newer.set("ended", "complete")
        newer.commit()
    finally:
        newer.close()


def test_what_was_not_committed_is_gone_after_close(world: Open) -> None:
    world.issue(ROOT)
    world.store.note_removals(["x"])
    world.store.set("ended", "complete")

    store = world.again()

    assert store.removals() == []
    assert store.get("ended") is None
    assert [job.id for job in store.held_jobs()] == [ROOT]


def test_every_commit_reaches_the_disk_before_it_returns(world: Open) -> None:
    pragma = world.store._connection.execute

    assert pragma("PRAGMA journal_mode").fetchone() == ("wal",)
    assert pragma("PRAGMA synchronous").fetchone() == (2,)


def test_network_file_system_needs_no_shared_memory(tmp_path: Path) -> None:
    path = tmp_path / "tree.sqlite"
    store = Store(str(path), new=True, exclusive=True)
    try:
        store.raise_generation()
        assert not (tmp_path / "tree.sqlite-shm").exists()
    finally:
        store.close()


# -- what goes wrong -------------------------------------------------------------------------------------------


def test_directory_in_place_of_the_database_is_a_storage_error(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="unable to open"):
        Store(str(tmp_path))


@pytest.mark.parametrize("content", [b"this is not a database" * 100, b"SQLite format 3\0" + b"\xff" * 5000])
def test_garbage_in_the_database_is_a_storage_error(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "tree.sqlite"
    path.write_bytes(content)

    with pytest.raises(StorageError, match=str(path)):
        Store(str(path))


def test_empty_file_in_place_of_the_database_is_a_storage_error(tmp_path: Path) -> None:
    path = tmp_path / "tree.sqlite"
    path.touch()

    with pytest.raises(StorageError):
        Store(str(path))


def test_directory_that_is_gone_is_a_storage_error(tmp_path: Path) -> None:
    with pytest.raises(StorageError):
        Store(str(tmp_path / "gone" / "tree.sqlite"), new=True)


def test_read_only_database_is_a_storage_error(world: Open) -> None:
    world.store.commit()
    world.store._connection.execute("PRAGMA query_only = ON")

    with pytest.raises(StorageError, match="readonly"):
        world.store.begin()


def test_full_disk_is_a_storage_error(world: Open) -> None:
    pages = world.store._connection.execute("PRAGMA page_count").fetchone()[0]
    world.store._connection.execute(f"PRAGMA max_page_count = {pages}")
    world.tree.issued(1, [job for job, _ in world.store.ready(world.shape, 0, 1)])
    rows = [row(2 + n, world.shape, b"x" * 5000) for n in range(100)]
    world.tree.succeeded(ROOT, 1, Children({world.shape: 100}, rows))

    with pytest.raises(StorageError, match="full"):
        world.store.write(world.tree.take_changes(), world.tree.counts)


USES: dict[str, Callable[[Store], object]] = {
    "begin": lambda store: store.begin(),
    "commit": lambda store: store.commit(),
    "get": lambda store: store.get("ended"),
    "set": lambda store: store.set("ended", ""),
    "held_jobs": lambda store: list(store.held_jobs()),
    "counts": lambda store: store.counts(),
    "bundles": lambda store: store.bundles(),
    "removals": lambda store: store.removals(),
    "ready": lambda store: store.ready(1, 0, 1),
    "shape": lambda store: store.shape("new", 1, 1.0),
    "renew_failed": lambda store: store.renew_failed(),
    "keep_result": lambda store: store.keep_result(T3),
    "take_bundle_number": lambda store: store.take_bundle_number(),
    "adopted": lambda store: store.adopted([(1, 1)]),
    "note_failure": lambda store: store.note_failure(failure(ROOT)),
    "note_removals": lambda store: store.note_removals(["x"]),
    "strike_removals": lambda store: store.strike_removals([1]),
    "kept values of a job": lambda store: store.values_of_jobs([ROOT]),
}


@pytest.mark.parametrize("use", USES)
def test_every_use_of_a_database_that_fails_is_a_storage_error(world: Open, use: str) -> None:
    world.store.values.mention(ROOT, [T1])
    world.turn()
    world.store._connection.commit()

    def refuse(*_: object) -> int:
        return sqlite3.SQLITE_DENY

    # Everything that a statement wants to do is denied: an error of SQLite at any time and place.
    world.store._connection.set_authorizer(refuse)
    try:
        with pytest.raises(StorageError):
            USES[use](world.store)
    finally:
        world.store._connection.set_authorizer(None)


# -- the log, and letting go of it -----------------------------------------------------------------------------


def log_of(world: Open) -> Path:
    return Path(world.path + "-wal")


def test_log_that_cannot_be_made_is_a_storage_error(tmp_path: Path) -> None:
    (tmp_path / "tree.sqlite-wal").mkdir()

    with pytest.raises(StorageError, match=r"tree\.sqlite"):
        Store(str(tmp_path / "tree.sqlite"), new=True)


def test_log_is_carried_over_from_time_to_time_and_not_only_when_it_is_long(
    world: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("jobtree.store._MOST_COMMITS", 3)
    database = Path(world.path)
    before = database.read_bytes()
    world.turn()
    assert database.read_bytes() == before

    world.turn()
    world.store.set("x", 1)
    world.turn()

    assert database.read_bytes() != before


def test_after_an_orderly_close_there_is_no_log(world: Open) -> None:
    world.store.commit()

    world.store.close()
    world.store.close()

    assert not log_of(world).exists()


def test_what_is_abandoned_stays_as_it_is_on_the_disk_and_is_all_there_at_the_next_start(world: Open) -> None:
    world.store.set("told", 1)
    world.turn()
    world.store.set("told", 2)
    log, database = log_of(world).read_bytes(), Path(world.path).read_bytes()

    world.store.abandon()
    world.store.close()

    assert log_of(world).read_bytes() == log
    assert Path(world.path).read_bytes() == database
    again = Store(world.path)
    assert again.get("told") == 1
    again.raise_generation()  # the one that was abandoned, in this same process, is in nobody's way
    again.close()


def test_after_an_error_closing_says_no_word_more_to_the_disk(world: Open) -> None:
    world.store.commit()
    log = log_of(world).read_bytes()
    with pytest.raises(StorageError):
        world.store.shape("x" * 10, -1, object())  # type: ignore[arg-type]  # anything that SQLite refuses

    world.store.close()

    assert log_of(world).read_bytes() == log
