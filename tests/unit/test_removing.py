"""Trees that must go, whatever was done to their permissions, and only they."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Callable, Optional

import pytest

from jobtree import removing

NOBODY = 65534


def as_nobody(action: Callable[[], object]) -> Optional[str]:
    """Do this in a child process without a superuser's rights. What it raised, in words; None if nothing."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        said = b""
        try:
            if os.getuid() == 0:
                os.setgid(NOBODY)
                os.setuid(NOBODY)
            action()
        except BaseException as error:  # all of it goes to the parent
            said = f"{type(error).__name__}: {error}".encode()
        os.write(writing, said)
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        said = pipe.read()
    os.waitpid(child, 0)
    return said.decode() or None


@pytest.fixture
def open_to_all(tmp_path: Path) -> Iterator[Path]:
    """A directory where anybody may write, on a path that anybody may walk."""
    import tempfile

    with tempfile.TemporaryDirectory() as name:
        os.chmod(name, 0o777)
        yield Path(name)


def build(top: Path, modes: dict[str, int]) -> None:
    """Directories with a file in each; the permissions are taken away when all are there."""
    for name in modes:
        (top / name).mkdir(parents=True, exist_ok=True)
        (top / name / "file").write_text("x")
    for name, mode in sorted(modes.items(), reverse=True):
        os.chmod(top / name, mode)


LOCKED: dict[str, dict[str, int]] = {
    "unwritable": {"t": 0o700, "t/a": 0o555},
    "unreadable": {"t": 0o700, "t/a": 0o300},
    "no rights at all": {"t": 0o700, "t/a": 0},
    "the top itself": {"t": 0},
    "unwritable in unwritable": {"t": 0o555, "t/a": 0o555, "t/a/b": 0o555},
    "unwritable in no rights": {"t": 0o700, "t/a": 0, "t/a/b": 0o555},
    "no rights in no rights": {"t": 0o700, "t/a": 0, "t/a/b": 0, "t/a/b/c": 0},
    "several beside one another": {"t": 0o500, "t/a": 0, "t/b": 0o555, "t/c": 0o300, "t/c/d": 0},
}


@pytest.mark.parametrize("case", LOCKED)
def test_tree_goes_also_where_permissions_were_taken_away(open_to_all: Path, case: str) -> None:
    def action() -> None:
        build(open_to_all, LOCKED[case])
        left = removing.remove_tree(str(open_to_all / "t"))
        assert left is None, left
        assert not (open_to_all / "t").exists()

    assert as_nobody(action) is None


def test_permissions_outside_of_the_tree_stay_as_they_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The parent may be /tmp, and we its owner."""
    os.chmod(tmp_path, 0o1777)
    (tmp_path / "t" / "a").mkdir(parents=True)
    rmdir = os.rmdir

    def busy(path: Any, **where: Any) -> None:
        if os.path.basename(path) == "t":
            raise OSError(errno.EBUSY, "Device or resource busy", path)
        rmdir(path, **where)

    monkeypatch.setattr(os, "rmdir", busy)

    left = removing.remove_tree(str(tmp_path / "t"))

    assert left is not None
    assert "busy" in left
    assert stat.S_IMODE(tmp_path.stat().st_mode) == 0o1777


def test_what_cannot_be_removed_is_said_and_the_rest_goes(open_to_all: Path) -> None:
    if os.getuid() == 0:
        (open_to_all / "t").mkdir()
        os.chmod(open_to_all / "t", 0o777)
        (open_to_all / "t" / "root's").mkdir(mode=0o700)
        (open_to_all / "t" / "root's" / "file").touch()

        def action() -> None:
            (open_to_all / "t" / "mine").mkdir()
            left = removing.remove_tree(str(open_to_all / "t"))
            assert left is not None
            assert "root's" in left
            assert os.listdir(open_to_all / "t") == ["root's"]

        assert as_nobody(action) is None


@pytest.mark.parametrize("make", [os.mkdir, lambda path: Path(path).write_text("x")])
def test_directory_file_or_nothing_at_all_goes(tmp_path: Path, make: Callable[[str], object]) -> None:
    path = str(tmp_path / "t")
    assert removing.remove_tree(path) is None

    make(path)

    assert removing.remove_tree(path) is None
    assert not os.path.lexists(path)


def test_deep_tree_goes(tmp_path: Path) -> None:
    deep = tmp_path / "t"
    for _ in range(200):
        deep /= "d"
    deep.mkdir(parents=True)

    assert removing.remove_tree(str(tmp_path / "t") + "/") is None
    assert not (tmp_path / "t").exists()


def test_links_go_and_what_they_lead_to_stays(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "file").write_text("x")
    (tmp_path / "t").mkdir()
    (tmp_path / "t" / "to directory").symlink_to(outside)
    (tmp_path / "t" / "to file").symlink_to(outside / "file")
    (tmp_path / "t" / "to nothing").symlink_to("gone")
    (tmp_path / "link").symlink_to(outside)

    assert removing.remove_tree(str(tmp_path / "t")) is None
    assert removing.remove_tree(str(tmp_path / "link")) is None

    assert sorted(os.listdir(tmp_path)) == ["outside"]
    assert (outside / "file").read_text() == "x"
