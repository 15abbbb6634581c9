"""The door to the disk: old or new and nothing between, one maker, trees that go, links that are not followed."""

from __future__ import annotations

import errno
import multiprocessing
import os
import stat
import threading
from pathlib import Path
from typing import Any, Callable, Optional

import pytest

from jobtree import files, filesystems
from jobtree.errors import StorageError, SyncFailed
from tests.unit.test_removing import as_nobody, open_to_all

__all__ = ["open_to_all"]

# -- writing ---------------------------------------------------------------------------------------------------


def test_replaced_file_is_new_and_private_and_nothing_else_is_left(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")

    files.replace_durably(str(path), b"new")

    assert path.read_bytes() == b"new"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert os.listdir(tmp_path) == ["file"]


def test_new_name_is_made_durable_after_the_content(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[str] = []
    replace = os.replace

    def note_sync(fd: int) -> None:
        done.append("directory" if stat.S_ISDIR(os.fstat(fd).st_mode) else "content")

    def note_replace(old: str, new: str) -> None:
        done.append("name")
        replace(old, new)

    monkeypatch.setattr(os, "fsync", note_sync)
    monkeypatch.setattr(os, "fdatasync", note_sync, raising=False)
    monkeypatch.setattr(os, "replace", note_replace)

    files.replace_durably(str(tmp_path / "file"), b"x")

    assert done == ["content", "name", "directory"]


def raised_by(action: Callable[[], object]) -> Optional[str]:
    """What the StorageError said; None if there was none."""
    try:
        action()
    except StorageError as error:
        return str(error)
    return None


STEPS = ["os.open", "os.write", "os.fsync", "os.fdatasync", "os.replace"]


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EIO, errno.EDQUOT])
def test_whichever_step_fails_the_old_file_stays_and_the_error_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str, error: int
) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")
    called = []

    def fail(*_: object, **__: object) -> Any:
        called.append(step)
        raise OSError(error, os.strerror(error))

    with monkeypatch.context() as patch:
        patch.setattr(step, fail)
        told = raised_by(lambda: files.replace_durably(str(path), b"new"))

    assert path.read_bytes() == (b"old" if called else b"new")
    assert (told is not None) == bool(called)
    assert told is None or os.strerror(error) in told


SYNCS: dict[str, Callable[[str, int], None]] = {
    "fsync": lambda path, fd: files.fsync(fd, path),
    "fdatasync": lambda path, fd: files.fdatasync(fd, path),
    "fsync_names": lambda path, fd: files.fsync_names(path, os.path.dirname(path)),
    "fsync_way_to": lambda path, fd: files.fsync_way_to(path),
}


@pytest.mark.parametrize("name", SYNCS)
def test_failed_fsync_is_told_and_not_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    calls = []

    def fail(fd: int) -> None:
        calls.append(fd)
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "fsync", fail)
    monkeypatch.setattr(os, "fdatasync", fail, raising=False)

    with pytest.raises(SyncFailed):
        files.write_durably(str(tmp_path / "file"), b"x")
    fd = os.open(tmp_path / "file", os.O_RDONLY)
    try:
        with pytest.raises(SyncFailed):
            SYNCS[name](str(tmp_path / "file"), fd)
    finally:
        os.close(fd)

    assert len(calls) == 2


def test_the_names_above_a_path_are_synced_from_below_up_to_the_top(
    tmp_path: Path, synced: list[str]
) -> None:
    path = tmp_path / "a" / "b" / "c"
    path.parent.mkdir(parents=True)

    files.fsync_names(str(path), str(tmp_path))

    assert synced == ["b", "a", tmp_path.name]


def test_directory_that_cannot_be_synced_at_all_is_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(fd: int) -> None:
        raise OSError(errno.EINVAL, "Invalid argument")

    monkeypatch.setattr(os, "fsync", fail)

    files.fsync_directory(str(tmp_path))


def test_reader_sees_the_old_file_or_the_new_one_and_nothing_between(tmp_path: Path) -> None:
    path = str(tmp_path / "file")
    contents = {bytes([65 + n]) * 20_000 for n in range(20)}
    files.replace_durably(path, min(contents))
    done = threading.Event()
    seen: set[Optional[bytes]] = set()

    def look() -> None:
        while not done.is_set():
            seen.add(files.read(path))

    reader = threading.Thread(target=look)
    reader.start()
    for content in sorted(contents):
        files.replace_durably(path, content)
    done.set()
    reader.join()

    assert seen <= contents


def test_short_writes_are_continued(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write = os.write
    monkeypatch.setattr(os, "write", lambda fd, data: write(fd, bytes(data)[:7]))

    files.write_new(str(tmp_path / "a" / "b" / "file"), b"0123456789" * 10)

    assert (tmp_path / "a/b/file").read_bytes() == b"0123456789" * 10


def test_json_comes_back_and_damage_is_told(tmp_path: Path) -> None:
    path = tmp_path / "file.json"
    assert files.read_json(str(path)) is None

    files.write_json(str(path), {"a": [1, "caf\udce9"]})
    assert files.read_json(str(path)) == {"a": [1, "caf\udce9"]}

    for damage in (b"", b"{", b"\xff\xfe"):
        path.write_bytes(damage)
        with pytest.raises(StorageError, match="damaged"):
            files.read_json(str(path))


REFUSED: dict[str, Callable[[str], object]] = {
    "replace_durably": lambda path: files.replace_durably(path, b"x"),
    "write_durably": lambda path: files.write_durably(path, b"x"),
    "write_new": lambda path: files.write_new(path, b"x"),
    "make_once": lambda path: files.make_once(path, b"x"),
    "read_json": files.read_json,
    "read_from": lambda path: files.read_from(path, 0, 1),
    "write_byte": lambda path: files.write_byte(path, 0, b"x"),
    "remove": files.remove,
    "fsync_directory": files.fsync_directory,
    "sync_tree": files.sync_tree,
}


@pytest.mark.parametrize("name", REFUSED)
def test_whatever_the_disk_refuses_is_a_storage_error_that_names_the_file(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").touch()
    path = str(tmp_path / "file" / "below")

    with pytest.raises(StorageError, match="below"):
        REFUSED[name](path)


def test_bytes_are_read_from_and_written_at_an_offset(tmp_path: Path) -> None:
    path = tmp_path / "file"
    assert files.read_from(str(path), 0, 5) == b""
    files.write_byte(str(path), 0, b"x")
    assert not path.exists()

    path.write_bytes(b"0123456789")
    files.write_byte(str(path), 3, b"X")

    assert files.read_from(str(path), 2, 3) == b"2X4"
    assert files.read_from(str(path), 8, 100) == b"89"
    assert files.read_from(str(path), 50, 1) == b""


# -- making once -----------------------------------------------------------------------------------------------


def test_one_of_many_threads_makes_the_file(tmp_path: Path) -> None:
    path = str(tmp_path / "new directory" / "claim")
    barrier = threading.Barrier(16)
    won = []

    def make(number: int) -> None:
        barrier.wait()
        if files.make_once(path, b"thread %d" % number):
            won.append(number)

    threads = [threading.Thread(target=make, args=(n,)) for n in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len(won) == 1
    assert files.read(path) == b"thread %d" % won[0]


def _make_in_process(path: str, number: int, barrier: Any, winners: Any) -> None:
    barrier.wait()
    if files.make_once(path, b"process %d" % number):
        winners.put(number)


def test_one_of_many_processes_makes_the_file(tmp_path: Path) -> None:
    path = str(tmp_path / "claims" / "0" / "1")
    fork = multiprocessing.get_context("fork")
    barrier, winners = fork.Barrier(6), fork.SimpleQueue()
    processes = [fork.Process(target=_make_in_process, args=(path, n, barrier, winners)) for n in range(6)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()

    winner = winners.get()
    assert winners.empty()
    assert files.read(path) == b"process %d" % winner


def test_maker_whose_answer_was_lost_finds_that_it_has_won(tmp_path: Path) -> None:
    path = str(tmp_path / "claim")

    assert files.make_once(path, b"mine")
    assert files.make_once(path, b"mine")
    assert not files.make_once(path, b"another's")


# -- making durable --------------------------------------------------------------------------------------------


@pytest.fixture
def synced(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What fsync was called for."""
    found: list[str] = []
    monkeypatch.setattr(
        os, "fsync", lambda fd: found.append(os.path.basename(os.readlink(f"/proc/self/fd/{fd}")))
    )
    return found


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    top = tmp_path / "top"
    (top / "below").mkdir(parents=True)
    (top / "one").write_text("1")
    (top / "below" / "two").write_text("2")
    for path in (top / "one", top / "below" / "two"):
        os.utime(path, (1e9, 1e9))
    return top


def test_all_files_and_directories_of_a_tree_are_synced(tree: Path, synced: list[str]) -> None:
    files.sync_tree(str(tree))

    assert sorted(synced) == ["below", "one", "top", "two"]


def test_file_that_has_not_changed_is_not_synced_again(tree: Path, synced: list[str]) -> None:
    known: dict[str, tuple[int, ...]] = {}
    files.sync_tree(str(tree), known)
    synced.clear()
    (tree / "one").write_text("longer")

    files.sync_tree(str(tree), known)

    assert sorted(synced) == ["below", "one", "top"]


def test_file_that_was_written_just_now_is_synced_again(tree: Path, synced: list[str]) -> None:
    """It may be written once more within one tick of the file system's clock."""
    (tree / "one").write_text("new")
    known: dict[str, tuple[int, ...]] = {}
    files.sync_tree(str(tree), known)
    synced.clear()

    files.sync_tree(str(tree), known)

    assert sorted(synced) == ["below", "one", "top"]


def test_directories_on_the_way_are_synced_once_each(
    tree: Path, synced: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "filesystem_type", lambda path: "fuse.sshfs")
    (tree / "beside").mkdir()

    files.make_durable([str(tree / "below"), str(tree / "beside")], None, str(tree))

    assert sorted(synced) == ["below", "beside", "top", "two"]


def test_names_on_the_way_to_a_file_are_synced(tree: Path, synced: list[str]) -> None:
    files.fsync_names(str(tree / "below" / "two"), str(tree))
    assert synced == ["below", "top"]


def test_names_on_the_way_to_a_tree_are_synced_up_to_the_file_system_that_it_is_on(
    tree: Path, synced: list[str]
) -> None:
    files.fsync_way_to(str(tree / "below"))

    device = tree.stat().st_dev
    assert synced == [path.name for path in (tree, *tree.parents) if path.stat().st_dev == device]


def test_links_and_pipes_are_not_opened(tree: Path, tmp_path: Path, synced: list[str]) -> None:
    (tmp_path / "outside").write_text("x")
    (tree / "link").symlink_to(tmp_path / "outside")
    (tree / "to directory").symlink_to(tmp_path)
    os.mkfifo(tree / "pipe")

    files.sync_tree(str(tree))

    assert sorted(synced) == ["below", "one", "top", "two"]


def test_unreadable_file_is_synced_and_stays_unreadable(open_to_all: Path) -> None:
    def action() -> None:
        (open_to_all / "file").write_text("x")
        os.utime(open_to_all / "file", (1e9, 1e9))
        (open_to_all / "closed").mkdir()
        os.chmod(open_to_all / "file", 0)
        os.chmod(open_to_all / "closed", 0)
        known: dict[str, tuple[int, ...]] = {}
        files.sync_tree(str(open_to_all), known)
        assert list(known) == [str(open_to_all / "file")]
        assert stat.S_IMODE((open_to_all / "file").stat().st_mode) == 0

    assert as_nobody(action) is None


def test_directories_that_are_not_there_need_not_be_durable(tmp_path: Path, synced: list[str]) -> None:
    files.make_durable([str(tmp_path / "gone")])

    assert synced == []


def test_where_one_call_flushes_all_no_file_is_synced(
    tree: Path, synced: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[int] = []

    def flush(fd: int) -> int:
        calls.append(fd)
        return 0

    monkeypatch.setattr(files, "_syncfs", flush)
    monkeypatch.setattr(files, "filesystem_type", lambda path: "ext4")
    files.make_durable([str(tree)])
    assert (len(calls), synced) == (1, [])

    monkeypatch.setattr(files, "filesystem_type", lambda path: "fuse.sshfs")
    files.make_durable([str(tree)])
    assert (len(calls), sorted(synced)) == (1, ["below", "one", "top", "two"])


def test_flush_that_fails_is_a_storage_error(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import ctypes

    def fail(fd: int) -> int:
        ctypes.set_errno(errno.EIO)
        return -1

    monkeypatch.setattr(files, "_syncfs", fail)
    monkeypatch.setattr(files, "filesystem_type", lambda path: "ext4")

    with pytest.raises(StorageError, match="Input/output error"):
        files.make_durable([str(tree)])


@pytest.mark.parametrize("path", ["/proc", "/sys"])
def test_type_of_a_file_system_is_found(path: str) -> None:
    assert files.filesystem_type(path) == {"/proc": "proc", "/sys": "sysfs"}[path]


def test_type_of_what_is_not_there_is_unknown() -> None:
    assert files.filesystem_type("/no/such/path") == ""


@pytest.mark.parametrize(
    ("kind", "network"),
    [("ext4", False), ("xfs", False), ("btrfs", False), ("tmpfs", False), ("overlay", False), ("zfs", False),
     ("nfs4", True), ("lustre", True), ("cifs", True), ("fuse.sshfs", True), ("fuseblk", True), ("9p", True),
     ("wekafs", True), ("panfs", True), ("never heard of", True),
     ("", True)],
)  # fmt: skip
def test_only_what_is_known_to_be_local_is_local(
    kind: str, network: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(filesystems, "filesystem_type", lambda path: kind)

    assert filesystems.is_network("/anywhere") is network


def test_type_by_mount_point_is_that_of_the_nearest_one_above(tmp_path: Path) -> None:
    # What macOS goes by; here both ways must come to the same, on whatever file system this is.
    found = filesystems._type_by_mount_point(os.path.realpath(tmp_path))

    assert found == files.filesystem_type(str(tmp_path))


# -- one maker where other machines see the file as well -------------------------------------------------------


@pytest.fixture
def on_a_network(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "is_network", lambda path: True)


def test_on_a_network_the_content_comes_with_the_name(
    tmp_path: Path, on_a_network: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "claims" / "7"
    link = os.link

    def link_and_lose_the_answer(own: str, name: str) -> None:
        link(own, name)
        assert path.read_bytes() == b"first"
        raise FileExistsError(errno.EEXIST, "asked again")

    monkeypatch.setattr(os, "link", link_and_lose_the_answer)
    assert files.make_once(str(path), b"first"), "it was made, and only the answer was lost"
    monkeypatch.setattr(os, "link", link)
    assert not files.make_once(str(path), b"second")
    assert os.listdir(path.parent) == ["7"]
    assert path.read_bytes() == b"first"


@pytest.mark.parametrize("number", [errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS])
def test_where_there_are_no_links_the_name_decides_alone(
    tmp_path: Path, on_a_network: None, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "link", refuse)
    assert files.make_once(str(tmp_path / "7"), b"first")
    assert not files.make_once(str(tmp_path / "7"), b"second")
    assert os.listdir(tmp_path) == ["7"]


@pytest.mark.parametrize("network", [False, True])
def test_a_claim_makes_no_directories_if_it_may_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, network: bool
) -> None:
    monkeypatch.setattr(files, "is_network", lambda path: network)
    with pytest.raises(StorageError):
        files.make_once(str(tmp_path / "gone" / "7"), b"first", directories=False)
    assert os.listdir(tmp_path) == []
