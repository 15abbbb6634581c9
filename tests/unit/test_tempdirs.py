"""Temporary directories: made empty and private, and removed whoever dies."""

from __future__ import annotations

import errno
import os
import stat
import threading
from pathlib import Path

import pytest

from jobtree import tempdirs
from jobtree.errors import StorageError

RUN = "a1b2c3"


@pytest.fixture(autouse=True)
def scratch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where this machine wants temporary files, with brackets in its name."""
    place = tmp_path / "scratch [1]"
    place.mkdir()
    monkeypatch.setenv("TMPDIR", str(place))
    return place


def test_local_directory_is_empty_private_and_where_the_machine_wants_it(scratch: Path) -> None:
    path = tempdirs.make_local(RUN, 7, 1)

    assert path == str(scratch / f"jobtree-{RUN}-7" / "1")
    assert os.listdir(path) == []
    for directory in (path, os.path.dirname(path)):
        assert stat.S_IMODE(os.stat(directory).st_mode) == 0o700


def test_every_target_has_its_own() -> None:
    assert len({tempdirs.make_local(RUN, bundle, n) for bundle in (1, 2) for n in (1, 2)}) == 4


def test_what_is_in_the_way_goes(scratch: Path) -> None:
    path = Path(tempdirs.make_local(RUN, 7, 1))
    (path / "left over").write_text("x")

    assert os.listdir(tempdirs.make_local(RUN, 7, 1)) == []


@pytest.mark.parametrize("kind", ["link", "file"])
def test_what_somebody_planted_in_place_of_the_base_is_refused(
    scratch: Path, tmp_path: Path, kind: str
) -> None:
    base = Path(tempdirs.local_base(RUN, 7))
    (tmp_path / "elsewhere").mkdir()
    if kind == "link":
        base.symlink_to(tmp_path / "elsewhere")
    else:
        base.write_text("x")

    with pytest.raises(StorageError, match="planted"):
        tempdirs.make_local(RUN, 7, 1)

    assert os.listdir(tmp_path / "elsewhere") == []


def test_directory_of_somebody_else_is_refused(scratch: Path) -> None:
    if os.getuid() != 0:
        return  # only a superuser can give a directory away
    os.mkdir(tempdirs.local_base(RUN, 7))
    os.chown(tempdirs.local_base(RUN, 7), 12345, -1)

    with pytest.raises(StorageError, match="not a directory of ours"):
        tempdirs.make_local(RUN, 7, 1)
    tempdirs.sweep_local(RUN)

    assert os.path.isdir(tempdirs.local_base(RUN, 7))


def test_directory_for_temporary_files_that_is_gone_is_a_storage_error(
    scratch: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempdirs, "local_root", lambda: str(scratch))
    scratch.rmdir()

    with pytest.raises(StorageError, match=RUN):
        tempdirs.make_local(RUN, 7, 1)


def test_bundles_directories_go_and_those_of_others_stay(scratch: Path) -> None:
    Path(tempdirs.make_local(RUN, 7, 1), "file").write_text("x")
    tempdirs.make_local(RUN, 7, 2)
    tempdirs.make_local(RUN, 77, 1)

    assert tempdirs.remove_local(RUN, 7) is None
    assert tempdirs.remove_local(RUN, 7) is None

    assert os.listdir(scratch) == [f"jobtree-{RUN}-77"]


def test_sweep_takes_all_of_a_run_and_nothing_else(scratch: Path, tmp_path: Path) -> None:
    for bundle in (1, 2):
        Path(tempdirs.make_local(RUN, bundle, 1), "file").write_text("x")
    tempdirs.make_local("other0", 1, 1)
    (tmp_path / "elsewhere").mkdir()
    (scratch / f"jobtree-{RUN}-9").symlink_to(tmp_path / "elsewhere")
    (scratch / f"my-jobtree-{RUN}-1").mkdir()

    tempdirs.sweep_local(RUN)

    assert sorted(os.listdir(scratch)) == [f"jobtree-{RUN}-9", "jobtree-other0-1", f"my-jobtree-{RUN}-1"]
    assert (tmp_path / "elsewhere").is_dir()


def test_global_directory_is_made_once_and_kept(tmp_path: Path) -> None:
    path = str(tmp_path / "globalTempDirs" / "0" / "1.0" / "3")
    assert tempdirs.make_global(path) == path
    Path(path, "file").write_text("x")

    tempdirs.make_global(path)

    assert os.listdir(path) == ["file"]
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o700


def test_file_in_place_of_a_global_directory_is_a_storage_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")

    with pytest.raises(StorageError):
        tempdirs.make_global(str(tmp_path / "file"))


def test_removed_global_directory_takes_empty_ones_above_it_along(tmp_path: Path) -> None:
    top = tmp_path / "globalTempDirs"
    for relative in ("0/1.0/1", "0/1.0/2", "0/2.0/1"):
        tempdirs.make_global(str(top / relative))
        (top / relative / "file").write_text("x")

    assert tempdirs.remove_global(str(top / "0/1.0/1"), str(top)) is None
    assert sorted(os.listdir(top / "0")) == ["1.0", "2.0"]
    assert tempdirs.remove_global(str(top / "0/1.0/2"), str(top)) is None
    assert os.listdir(top / "0") == ["2.0"]
    assert tempdirs.remove_global(str(top / "0/2.0/1"), str(top)) is None
    assert tempdirs.remove_global(str(top / "0/2.0/1"), str(top)) is None

    assert os.listdir(top) == []


def test_making_and_removing_neighbours_at_once_disturbs_nobody(tmp_path: Path) -> None:
    top = tmp_path / "globalTempDirs"
    top.mkdir()
    trouble: list[BaseException] = []

    def work(name: str) -> None:
        try:
            for _ in range(50):
                path = tempdirs.make_global(str(top / "0" / "1.0" / name))
                assert os.path.isdir(path)
                assert tempdirs.remove_global(path, str(top)) is None
        except BaseException as error:  # a thread's own errors are nobody's otherwise
            trouble.append(error)

    threads = [threading.Thread(target=work, args=(str(n),)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert trouble == []
    assert os.listdir(top) == []


def test_the_place_does_not_depend_on_there_being_room(
    scratch: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise the next start, when there is room again, would sweep another place."""

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "open", full)
    monkeypatch.setattr(os, "write", full)

    assert tempdirs.local_root() == str(scratch)


@pytest.mark.parametrize("value", ["", "no/such/directory"])
def test_without_a_usable_wish_it_is_tmp(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", value)
    for name in ("TEMP", "TMP"):
        monkeypatch.delenv(name, raising=False)

    assert tempdirs.local_root() == "/tmp"


def test_removal_that_was_interrupted_half_way_up_is_taken_to_its_end(tmp_path: Path) -> None:
    top = tmp_path / "globalTempDirs"
    (top / "0").mkdir(parents=True)

    assert tempdirs.remove_global(str(top / "0" / "1.0" / "1"), str(top)) is None

    assert os.listdir(top) == []


def test_directory_above_that_cannot_be_removed_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    top = tmp_path / "globalTempDirs"
    path = tempdirs.make_global(str(top / "0" / "1.0" / "1"))

    def refuse(path: str, **more: object) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr("jobtree.tempdirs.os.rmdir", refuse)

    assert "Input/output error" in str(tempdirs.remove_global(path, str(top)))
