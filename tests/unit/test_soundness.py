"""What is believed at a start, and what is done before it is."""

from __future__ import annotations

import os
import random
import shutil
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from jobtree import database, files, run, soundness
from jobtree.errors import DamagedTree, StorageError, SyncFailed
from jobtree.options import Settings
from jobtree.paths import TreePaths
from jobtree.store import Store
from tests.fakes.fake_clock import FakeClock
from tests.fakes.master_scene import Scene, make_tree, query_rows
from tests.fakes.scripted_worker import target

JOBS = 300


@pytest.fixture
def paths(tmp_path: Path) -> TreePaths:
    """A tree whose master was killed: the last of what it has committed is in the log only."""
    paths = TreePaths(str(tmp_path / "tree"))
    make_tree(paths, target("Root"))
    store = Store(paths.database)
    try:
        run._load(store, Settings(job_tree=paths.root))
        store.begin()
        for number in range(JOBS):
            store.set(f"key {number}", "x" * 200)
        store.commit()
        for suffix in ("", "-wal"):
            shutil.copy(paths.database + suffix, tmp_path / f"killed{suffix}")
    finally:
        store.close()
    for suffix in ("", "-wal"):
        os.replace(tmp_path / f"killed{suffix}", paths.database + suffix)
    assert os.path.getsize(paths.database + "-wal") > JOBS * 200
    return paths


def keys(paths: TreePaths) -> int:
    """How much of what was committed is there."""
    found: int = query_rows(paths, "SELECT count(*) FROM meta WHERE key LIKE 'key %'")[0][0]
    return found


def inode(paths: TreePaths) -> int:
    """What changes when the database is another file."""
    return os.stat(paths.database).st_ino


def set_meta(paths: TreePaths, key: str, value: object) -> None:
    """Write into the database as it is."""
    connection = sqlite3.connect(paths.database)
    with connection:
        connection.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (key, value))
    connection.close()


def test_after_a_kill_the_database_becomes_a_file_that_was_never_synced_before(paths: TreePaths) -> None:
    before = inode(paths)

    soundness.ensure(paths)

    assert inode(paths) != before
    assert not os.path.exists(paths.database + "-wal")
    assert keys(paths) == JOBS
    assert os.stat(paths.database).st_mode & 0o777 == 0o600


def test_an_end_in_order_that_may_never_have_reached_the_disk_is_treated_as_a_kill(paths: TreePaths) -> None:
    """The sync of the very last commit failed: it can be read, and says that all is well."""
    store = Store(paths.database)
    store.raise_generation()
    store.begin()
    store.set("ended", "complete")
    store.commit()
    store.abandon()
    before = inode(paths)

    soundness.ensure(paths)

    assert inode(paths) != before
    assert keys(paths) == JOBS


def test_after_a_start_of_the_machine_the_disk_is_believed(
    paths: TreePaths, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = inode(paths)
    monkeypatch.setattr(soundness, "this_kernel", lambda: "another")

    soundness.ensure(paths)

    assert inode(paths) == before
    assert keys(paths) == JOBS


@pytest.mark.parametrize("ended", sorted(soundness.ORDERLY))
def test_after_an_orderly_end_nothing_is_copied(paths: TreePaths, ended: str) -> None:
    set_meta(paths, "ended", ended)
    before = inode(paths)

    soundness.ensure(paths)

    assert inode(paths) == before


def test_a_start_that_is_killed_at_any_step_of_the_replacement_loses_nothing(
    paths: TreePaths, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Killed(BaseException):
        pass

    steps: list[str] = []
    stop_at = 0

    def counted(name: str) -> None:
        original = getattr(files, name)

        def call(*arguments: Any) -> Any:
            steps.append(name)
            if len(steps) == stop_at:
                raise Killed
            result = original(*arguments)
            if len(steps) == -stop_at:
                raise Killed
            return result

        monkeypatch.setattr(files, name, call)

    for name in ("install", "remove", "fsync_directory"):
        counted(name)
    reached = 0
    for number in range(1, 40):
        for stop_at in (number, -number):
            steps.clear()
            set_meta(paths, "key 0", f"attempt {stop_at}")
            try:
                soundness.ensure(paths)
            except Killed:
                reached += 1
            assert query_rows(paths, "SELECT value FROM meta WHERE key = 'key 0'") == [
                (f"attempt {stop_at}",)
            ]
            assert keys(paths) == JOBS

    assert reached >= 10
    stop_at = 0
    soundness.ensure(paths)
    assert sorted(name for name in os.listdir(paths.root) if "sqlite" in name) == ["tree.sqlite"]


def test_no_room_for_the_copy_is_said_with_what_to_do(
    paths: TreePaths, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise sqlite3.OperationalError("database or disk is full")

    monkeypatch.setattr(database, "check", full)
    with pytest.raises(StorageError, match="needs room for a second database") as caught:
        soundness.ensure(paths)

    assert not isinstance(caught.value, DamagedTree)
    assert not os.path.exists(paths.database + ".new")
    assert keys(paths) == JOBS


# -- damage ----------------------------------------------------------------------------------------------------


def test_a_database_that_is_gone_is_not_made_anew(paths: TreePaths) -> None:
    os.unlink(paths.database)

    with pytest.raises(DamagedTree, match="is gone"):
        soundness.ensure(paths)

    assert not os.path.exists(paths.database)


@pytest.mark.parametrize("size", [0, 1, 100, 4096, 0.5, -1])
@pytest.mark.parametrize("kernel", ["this", "another"])
def test_a_database_that_is_cut_is_found(
    paths: TreePaths, size: float, kernel: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if kernel == "another":
        monkeypatch.setattr(soundness, "this_kernel", lambda: "another")
    else:
        soundness.ensure(paths)  # so that all of it is in the database, and nothing in the log
    set_meta(paths, "ended", "")
    whole = os.path.getsize(paths.database)
    os.truncate(paths.database, int(whole * size) if 0 < size < 1 else int(size % whole))
    content = Path(paths.database).read_bytes()

    with pytest.raises(DamagedTree):
        soundness.ensure(paths)

    assert Path(paths.database).read_bytes() == content
    assert not os.path.exists(paths.database + ".new")


def test_pages_that_are_zeroed_are_found_or_were_not_in_use(paths: TreePaths) -> None:
    soundness.ensure(paths)
    expected = sorted(query_rows(paths, "SELECT * FROM meta"))
    whole = Path(paths.database).read_bytes()
    found = 0

    for start in range(0, len(whole), 4096):
        Path(paths.database).write_bytes(whole[:start] + bytes(4096) + whole[start + 4096 :])
        try:
            soundness.ensure(paths)
        except DamagedTree:
            found += 1
        else:
            assert sorted(query_rows(paths, "SELECT * FROM meta")) == expected

    assert found > 10


@pytest.mark.parametrize("seed", range(3))
def test_bytes_that_are_flipped_never_end_in_a_traceback(paths: TreePaths, seed: int) -> None:
    chance = random.Random(seed)
    soundness.ensure(paths)
    whole = Path(paths.database).read_bytes()
    found = 0

    for _ in range(40):
        content = bytearray(whole)
        for _ in range(chance.randint(1, 20)):
            content[chance.randrange(len(content))] ^= 1 << chance.randrange(8)
        Path(paths.database).write_bytes(content)
        try:
            soundness.ensure(paths)
            with soundness.reading(paths):
                store = Store(paths.database)
                try:
                    run._load(store, Settings(job_tree=paths.root))
                finally:
                    store.close()
        except StorageError as error:
            found += isinstance(error, DamagedTree)

    assert found > 0, f"seed {seed}"


# -- after a failed sync ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("goes_on", [False, True])
def test_what_a_failed_sync_covered_is_made_again_and_what_the_worker_had_synced_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, goes_on: bool
) -> None:
    scene = Scene(tmp_path / "tree", FakeClock(monkeypatch), durable="full")
    scene.make()
    ran: list[bytes] = []

    def first() -> Iterator[None]:
        worker = scene.worker(1)
        ran.append(worker.say_started().payload)
        worker.global_dir()
        next_job = worker.succeed((), target("Next"), go_on=goes_on)
        if next_job is not None:
            ran.append(worker.say_started(next_job).payload)
            worker.succeed()
        scene.finish(worker)
        yield

    def refuse(*_: object) -> None:
        raise SyncFailed("no")

    with monkeypatch.context() as patch:
        patch.setattr(files, "make_durable", refuse)
        with pytest.raises(SyncFailed):
            scene.play(first())
    scene.master._remover.close()
    soundness.distrust(scene.paths)
    second: list[bytes] = []

    def again() -> Iterator[None]:
        while scene.batch.active():
            for submission in scene.batch.active():
                worker = scene.worker(int(submission.name.rpartition(".")[2]))
                while worker.left:
                    second.append(worker.say_started().payload)
                    worker.succeed((), target("Next") if second[-1] == ran[0] else None)
                scene.finish(worker)
            yield

    scene.play(again())

    assert second == ([b"Next"] if goes_on else [ran[0], b"Next"])
    assert "may not be on the disk, so it runs once more" in caplog.text
    assert soundness.is_trusted(scene.paths)
    assert scene.master.tree.totals == [0, 0, 0, 0, 1]


def test_a_run_that_ends_by_a_failed_sync_leaves_word(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from jobtree import master

    paths = TreePaths(str(tmp_path / "tree"))
    make_tree(paths, target("Root"))

    def refuse(_: object) -> None:
        raise SyncFailed("no")

    monkeypatch.setattr(master.Master, "run", refuse)
    with pytest.raises(SyncFailed):
        run.execute(Settings(job_tree=paths.root), None)

    assert not soundness.is_trusted(paths)
