"""The file system that behaves like a client of an NFS server, and what jobtree relies on there, rule by rule.

Each rule is looked at with two clients of one store that remember everything for ever, unless they are asked afresh.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import sqlite3
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Callable

import pytest

from batchsystems.abstract import End, EndKind
from jobtree import bundles, clock, database, files, frames, heartbeat, lock, requests, tempdirs, treedir
from jobtree.errors import AnotherMaster, StorageError, UsageError
from jobtree.lock import TreeLock
from jobtree.paths import TreePaths
from jobtree.requests import Answer, Request, Requests
from tests.crash.mounts import require_fuse
from tests.crash.nfs import Client

Mounted = Callable[..., tuple[Client, Client]]


@pytest.fixture
def mounted(tmp_path: Path) -> Iterator[Mounted]:
    """Mounts two clients of one store, with these options."""
    require_fuse()
    with contextlib.ExitStack() as stack:

        def mount(*options: object) -> tuple[Client, Client]:
            clients = []
            for name in ("one", "other"):
                clients.append(
                    Client(tmp_path / name, tmp_path / "store", tmp_path / f"{name}.log", *options)
                )
                stack.enter_context(clients[-1])
            return clients[0], clients[1]

        yield mount


def trees(clients: tuple[Client, Client]) -> tuple[TreePaths, TreePaths]:
    """One job tree as two machines see it."""
    one, other = (TreePaths(str(client.path / "tree")) for client in clients)
    treedir.make_root(one)
    treedir.make_directories(one)
    files.write_new(one.database)
    treedir.write_config(one, "some.Root", "digest", "run")
    return one, other


# -- the double itself -----------------------------------------------------------------------------------------


def test_what_others_do_is_seen_only_when_it_is_opened_afresh(mounted: Mounted) -> None:
    one, other = mounted()
    file = other.path / "file"
    assert not file.exists()
    (one.path / "file").write_text("first")
    assert not file.exists(), "that there was none is remembered"
    assert os.listdir(other.path) == ["file"]
    with file.open() as held:
        assert held.read() == "first"
        (one.path / "file").write_text("second time")
        assert file.stat().st_size == 5
        assert os.pread(held.fileno(), 100, 0) == b"first"
        assert file.read_text() == "second time"


def test_what_was_written_is_seen_after_a_sync(mounted: Mounted) -> None:
    one, other = mounted()
    with (one.path / "file").open("wb", 0) as writing:
        writing.write(b"some")
        assert (other.path / "file").read_bytes() == b""
        os.fsync(writing.fileno())
        assert (other.path / "file").read_bytes() == b"some"


def test_everything_is_seen_on_demand_or_after_so_many_uses(mounted: Mounted) -> None:
    one, other = mounted()
    assert not (other.path / "file").exists()
    (one.path / "file").touch()
    assert not (other.path / "file").exists()
    other.see_everything()
    assert (other.path / "file").exists()


def test_what_is_remembered_expires(mounted: Mounted) -> None:
    one, other = mounted("--uses", 5)
    assert not (other.path / "file").exists()
    (one.path / "file").touch()
    looks = 0
    while not (other.path / "file").exists():
        looks += 1
    assert looks < 12


def test_an_open_file_that_another_client_replaces_is_stale(mounted: Mounted) -> None:
    one, other = mounted()
    (one.path / "file").write_text("old")
    with (other.path / "file").open("rb", 0) as held:
        (one.path / "new").write_text("new")
        (one.path / "new").rename(one.path / "file")
        with pytest.raises(OSError, match=os.strerror(errno.ESTALE)):
            held.read()
    assert (other.path / "file").read_text() == "new"


def test_an_open_file_that_the_same_client_removes_gets_another_name(mounted: Mounted) -> None:
    one, _ = mounted()
    (one.path / "d").mkdir()
    (one.path / "d" / "file").write_text("there")
    with (one.path / "d" / "file").open() as held:
        (one.path / "d" / "file").unlink()
        (left,) = os.listdir(one.path / "d")
        assert left.startswith(".nfs")
        with pytest.raises(OSError, match=os.strerror(errno.ENOTEMPTY)):
            (one.path / "d").rmdir()
        assert held.read() == "there"
    assert os.listdir(one.path / "d") == []


def test_two_that_append_overwrite_each_other(mounted: Mounted) -> None:
    one, other = mounted()
    (one.path / "file").touch()
    with (one.path / "file").open("ab", 0) as first, (other.path / "file").open("ab", 0) as second:
        first.write(b"1")
        second.write(b"2")
    assert len((one.path / "file").read_bytes()) == 1


def test_answers_get_lost_and_it_has_happened(mounted: Mounted) -> None:
    one, _ = mounted("--lose", 1)
    (one.path / "file").touch()
    with pytest.raises(FileNotFoundError):
        (one.path / "file").rename(one.path / "renamed")
    with pytest.raises(FileExistsError):
        os.link(one.path / "renamed", one.path / "linked")
    with pytest.raises(FileNotFoundError):
        (one.path / "renamed").unlink()
    assert os.listdir(one.path) == ["linked"]


@pytest.mark.parametrize("take", [fcntl.flock, fcntl.lockf])
def test_locks_hold_across_clients_and_for_each_process(
    mounted: Mounted, take: Callable[..., object]
) -> None:
    one, other = mounted()
    (one.path / "file").touch()
    with (one.path / "file").open("r+b") as first, (other.path / "file").open("r+b") as second:
        take(first, fcntl.LOCK_EX | fcntl.LOCK_NB)
        with pytest.raises(BlockingIOError):
            take(second, fcntl.LOCK_EX | fcntl.LOCK_NB)
        take(first, fcntl.LOCK_UN)  # the end of a process does it too, but not at once
        take(second, fcntl.LOCK_EX | fcntl.LOCK_NB)


# -- what jobtree relies on ------------------------------------------------------------------------------------


def test_the_master_reads_what_a_worker_has_synced(mounted: Mounted) -> None:
    """Frames, heartbeats and the control byte, each of which the other side has read before."""
    master, node = trees(mounted())
    for path in (master.outcome(1), master.heartbeat(1), master.bundle(1)):
        files.write_new(path, bytes(heartbeat.BLOCK) if "heartbeats" in path else b"")
    files.write_new(master.bundle(1), frames.NO_RECALL + b"rest")
    assert files.read_from(master.outcome(1), 0, 100) == b""
    assert heartbeat.read(master.heartbeat(1), "run.1")[1] is None
    assert files.read_from(node.bundle(1), 0, 1) == frames.NO_RECALL

    writer = heartbeat.Writer(node.heartbeat(1), "node1", 10.0)
    with open(node.outcome(1), "ab", 0) as outcome:
        for number in (1, 2):
            outcome.write(frames.encode(("x", number)))
            files.fdatasync(outcome.fileno(), node.outcome(1))
            found = frames.decode(files.read_from(master.outcome(1), 0, 1000))
            assert [frame.body for frame in found] == [("x", n) for n in range(1, number + 1)]
            writer.beat()
            beat = heartbeat.read(master.heartbeat(1), "run.1")[1]
            assert beat is not None
            assert beat.number == number
        bundles.recall(master, 1)
        assert files.read_from(node.bundle(1), 0, 1) == frames.RECALL
        writer.sign_off(End("run.1", EndKind.FINISHED, 0))
    last = heartbeat.read(master.heartbeat(1), "run.1")[1]
    assert last is not None
    assert last.end is not None


def test_with_open_files_that_ask_nobody_none_of_that_holds(mounted: Mounted) -> None:
    """The control: on a mount with nocto nothing new is seen, so these tests can tell."""
    master, node = trees(mounted("--nocto"))
    files.write_new(master.outcome(1))
    assert files.read_from(master.outcome(1), 0, 100) == b""
    assert files.read_from(node.outcome(1), 0, 100) == b""
    with open(node.outcome(1), "ab", 0) as outcome:
        outcome.write(b"more")
        files.fdatasync(outcome.fileno(), node.outcome(1))
    assert files.read_from(master.outcome(1), 0, 100) == b""


@pytest.mark.parametrize("lose", [0, 0.5, 1])
def test_a_claim_is_won_once_whatever_answers_get_lost(mounted: Mounted, lose: float) -> None:
    paths = trees_despite(mounted("--lose", lose, "--seed", 4))
    for number in range(20):
        os.makedirs(os.path.dirname(paths[0].claim(number)), exist_ok=True)
        for side in paths:
            assert not os.path.exists(side.claim(number)), "both remember that there is none"
        won = [
            files.make_once(side.claim(number), f"{side.root} {number} {turn}".encode())
            for turn in range(2)
            for side in paths
        ]
        assert won == [True, False, False, False]


def trees_despite(clients: tuple[Client, Client]) -> tuple[TreePaths, TreePaths]:
    """The same; answers get lost while it is made, too."""
    return trees(clients)


def test_files_are_replaced_and_removed_although_answers_get_lost(mounted: Mounted) -> None:
    master, node = trees(mounted("--lose", 1))
    for number in range(3):
        files.write_json(master.settings, {"number": number})
        assert files.read_json(node.settings) == {"number": number}
        files.replace(master.status, b"%d" % number)
        assert files.read(node.status) == b"%d" % number
    files.rename(master.settings, master.settings + ".old")
    files.write_new(master.bundle(5000), b"in a directory that is made for it")
    files.write_durably(master.copy + ".new", b"copy")
    files.install(master.copy + ".new", master.copy)
    files.remove(master.bundle(5000))
    files.remove(master.bundle(5000))
    assert files.read(node.copy) == b"copy"
    assert os.listdir(os.path.dirname(master.bundle(5000))) == []


def test_a_chains_directory_is_removed_although_it_was_not_there_when_last_seen(mounted: Mounted) -> None:
    one, other = trees(mounted())
    path = tempdirs.make_global(one.global_dir(1_003_000_007))
    tempdirs.remove_global(path, one.global_dirs)
    assert not os.path.lexists(os.path.dirname(path))
    assert not os.path.lexists(path)
    made = tempdirs.make_global(other.global_dir(1_003_000_007))
    Path(made, "file").touch()
    assert not os.path.lexists(path), "that there was none is remembered"

    assert tempdirs.remove_global(path, one.global_dirs) is None

    assert os.listdir(other.global_dirs) == []


def test_what_is_replaced_between_opening_and_reading_is_opened_again(
    mounted: Mounted, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By another machine: then what was opened is stale. Not only once, and not for ever."""
    one, other = (str(client.path / "file") for client in mounted())
    files.replace(one, b"old")
    open_file, open_descriptor = open, os.open
    contents = [b"1", b"2", b"3"]

    def meanwhile(path: str) -> None:
        if path == other and contents:
            files.replace(one, contents.pop(0))

    def opening_files(path: str, mode: str) -> Any:
        file = open_file(path, mode)
        meanwhile(path)
        return file

    def opening_descriptors(path: str, *arguments: Any, **keywords: Any) -> int:
        fd = open_descriptor(path, *arguments, **keywords)
        meanwhile(path)
        return fd

    monkeypatch.setattr(files, "open", opening_files, raising=False)
    assert files.read(other) == b"3"
    assert contents == []

    monkeypatch.setattr(os, "open", opening_descriptors)
    contents += [b"4", b"5"]
    assert files.read_from(other, 0, 10) == b"5"
    contents += [b"%d" % number for number in range(100)]
    with pytest.raises(StorageError, match="Stale file handle"):
        files.read_from(other, 0, 10)


def test_a_rename_that_has_not_happened_is_an_error_all_the_same(mounted: Mounted) -> None:
    master, _ = trees(mounted())
    os.mkdir(master.status)
    with pytest.raises(Exception, match=r"status\.json: Is a directory"):
        files.replace(master.status, b"x")


@pytest.mark.skipif(sys.version_info < (3, 11), reason="which error it was, sqlite3 tells since Python 3.11")
def test_a_copied_database_is_opened_although_answers_get_lost(mounted: Mounted, tmp_path: Path) -> None:
    one, _ = mounted("--lose", 1)
    with contextlib.closing(sqlite3.connect(tmp_path / "store" / "tree.sqlite")) as made:
        made.execute("CREATE TABLE numbers (n)")
    with contextlib.closing(database.connect(str(one.path / "tree.sqlite"), exclusive=True)) as opened:
        assert database.to_log_mode(opened) == "wal"
        opened.execute("INSERT INTO numbers VALUES (17)")
    with contextlib.closing(sqlite3.connect(tmp_path / "store" / "tree.sqlite")) as read:
        assert read.execute("SELECT n FROM numbers").fetchall() == [(17,)]


def test_requests_are_answered_across_machines(mounted: Mounted) -> None:
    """Neither side waits for a name that it remembers not to be there."""
    paths, node = trees(mounted("--lose", 0.3, "--seed", 2))
    master = Requests(paths)
    master.take()
    for number in range(5):
        answers: list[object] = []
        asking = threading.Thread(
            target=lambda n=number, to=answers: to.append(
                requests.ask(node, Request("why", "ada", {"n": n}), 60.0, lambda: True)
            )
        )
        asking.start()
        taken: list[Request] = []
        deadline = clock.elapsed() + 60.0
        while not taken:
            taken = master.take()
            assert clock.elapsed() < deadline, "the request is never seen"
        master.answer(taken[0], Answer(True, number))
        asking.join()
        assert answers == [Answer(True, number)]
    assert os.listdir(paths.requests) == []


def test_a_master_elsewhere_is_seen(mounted: Mounted, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lock, "_PATIENCE_ON_A_NETWORK", 0.1)
    paths, node = trees(mounted())
    holder = TreeLock(paths)
    for _ in range(2):
        assert not lock.is_held(node)
        holder.acquire()
        assert lock.is_held(node)
        assert lock.owner(node) == lock.owner(paths)
        with pytest.raises(AnotherMaster, match="with pid"):
            TreeLock(node).acquire()
        holder.release()


def test_a_mount_whose_locks_exclude_nobody_is_refused(mounted: Mounted) -> None:
    paths, _ = trees(mounted("--locks", "none"))
    with pytest.raises(
        UsageError, match=r"grants one lock \(flock and fcntl\) to two processes at once.*mounted"
    ):
        TreeLock(paths).acquire()
    assert not os.path.exists(paths.lock_trial)
