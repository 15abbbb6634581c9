"""The job tree directory: what is one, what may become one, and what is refused before anything is read from it."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path
from typing import Any

import pytest

from jobtree import files, treedir
from jobtree.errors import JobTreeError, NotAJobTree, StorageError
from jobtree.paths import FORMAT, TreePaths


@pytest.fixture
def paths(tmp_path: Path) -> TreePaths:
    return TreePaths(str(tmp_path / "tree"))


def make(paths: TreePaths) -> treedir.Config:
    treedir.make_root(paths)
    treedir.make_directories(paths)
    return treedir.write_config(paths, "mod.Root", "digest", "run0")


def test_tree_that_was_made_is_one(paths: TreePaths) -> None:
    config = make(paths)

    assert treedir.read_config(paths) == config
    assert (config.format, config.run, config.root, config.root_digest) == (
        FORMAT,
        "run0",
        "mod.Root",
        "digest",
    )
    assert stat.S_IMODE(os.stat(paths.root).st_mode) == 0o700
    assert all(os.path.isdir(path) for path in paths.directories())


def test_directory_that_does_not_exist_or_is_empty_may_become_a_tree(paths: TreePaths) -> None:
    assert treedir.read_config(paths) is None

    os.makedirs(paths.root, 0o777)
    os.chmod(paths.root, 0o777)
    assert treedir.read_config(paths) is None

    treedir.make_root(paths)
    assert stat.S_IMODE(os.stat(paths.root).st_mode) == 0o700


def test_tree_can_be_moved(paths: TreePaths, tmp_path: Path) -> None:
    config = make(paths)
    os.rename(paths.root, tmp_path / "moved")

    assert treedir.read_config(TreePaths(str(tmp_path / "moved"))) == config


WRITTEN_BEFORE_CONFIG = [
    "lock", "lock.json", "settings.json", "environment.json", "tree.sqlite", "tree.sqlite-wal", "tree.sqlite-shm",
]  # fmt: skip


@pytest.mark.parametrize("name", WRITTEN_BEFORE_CONFIG)
def test_making_that_was_interrupted_is_no_tree_yet_and_can_be_made_again(
    paths: TreePaths, name: str
) -> None:
    treedir.make_root(paths)
    treedir.make_directories(paths)
    Path(paths.root, name).write_text("half")

    assert treedir.read_config(paths) is None

    make(paths)
    assert treedir.read_config(paths) is not None


@pytest.mark.parametrize("name", ["lock.json", "settings.json", "environment.json", "config.json"])
def test_making_that_was_interrupted_while_a_file_was_replaced_can_be_made_again(
    paths: TreePaths, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """Killed between the writing of the new file and its renaming."""
    treedir.make_root(paths)
    with monkeypatch.context() as patch:

        def killed(*_: object) -> None:
            raise KeyboardInterrupt

        patch.setattr(os, "replace", killed)
        with pytest.raises(KeyboardInterrupt):
            files.write_json(os.path.join(paths.root, name), {})
    assert os.listdir(paths.root) != []

    assert treedir.read_config(paths) is None


def test_database_of_an_interrupted_making_goes(paths: TreePaths) -> None:
    treedir.make_root(paths)
    for suffix in ("", "-wal", "-shm", "-journal"):
        Path(paths.database + suffix).write_text("old")

    treedir.make_directories(paths)

    assert [name for name in os.listdir(paths.root) if name.startswith("tree.sqlite")] == []


def test_directory_that_holds_something_else_is_refused_by_name(paths: TreePaths) -> None:
    os.makedirs(paths.root)
    for name in ("results.txt", "thesis.tex"):
        Path(paths.root, name).write_text("precious")

    with pytest.raises(NotAJobTree, match=r"'results.txt' and 1 more"):
        treedir.read_config(paths)

    assert sorted(os.listdir(paths.root)) == ["results.txt", "thesis.tex"]


def test_file_in_place_of_the_directory_is_refused(paths: TreePaths) -> None:
    Path(paths.root).write_text("x")

    with pytest.raises(NotAJobTree, match="is a file"):
        treedir.read_config(paths)


@pytest.mark.parametrize("mode", [0o770, 0o720, 0o702, 0o777, 0o1777])
def test_directory_where_others_can_write_is_refused_with_its_cure(paths: TreePaths, mode: int) -> None:
    make(paths)
    os.chmod(paths.root, mode)

    with pytest.raises(NotAJobTree, match="chmod go-w"):
        treedir.read_config(paths)


@pytest.mark.parametrize("mode", [0o700, 0o750, 0o755, 0o711])
def test_directory_that_others_can_only_read_is_taken(paths: TreePaths, mode: int) -> None:
    make(paths)
    os.chmod(paths.root, mode)

    assert treedir.read_config(paths) is not None


def test_directory_of_somebody_else_is_refused(paths: TreePaths, monkeypatch: pytest.MonkeyPatch) -> None:
    make(paths)
    monkeypatch.setattr(os, "geteuid", lambda: os.stat(paths.root).st_uid + 1)

    with pytest.raises(NotAJobTree, match="belongs to the user"):
        treedir.read_config(paths)


@pytest.mark.parametrize("name", ["bundles", "outcomes", "values", "claims", "requests", "tree.sqlite"])
def test_part_of_the_tree_where_others_can_write_is_refused(paths: TreePaths, name: str) -> None:
    make(paths)
    path = Path(paths.root, name)
    if not path.exists():
        path.touch()
    os.chmod(path, 0o777)

    with pytest.raises(NotAJobTree, match=rf"{name} can be written by others .*chmod go-w"):
        treedir.read_config(paths)


@pytest.mark.parametrize("existing", [True, False], ids=["a tree", "none yet"])
def test_directory_on_the_way_where_everybody_can_rename_is_refused(tmp_path: Path, existing: bool) -> None:
    paths = TreePaths(str(tmp_path / "open" / "below" / "tree"))
    os.makedirs(os.path.dirname(paths.root))
    if existing:
        make(paths)
    os.chmod(tmp_path / "open", 0o777)

    with pytest.raises(NotAJobTree, match=r"without the sticky bit .*chmod \+t"):
        treedir.read_config(paths)

    for mode in (0o1777, 0o775, 0o2770):
        os.chmod(tmp_path / "open", mode)
        assert (treedir.read_config(paths) is not None) == existing


@pytest.mark.parametrize("place", ["the tree", "above the tree"])
@pytest.mark.parametrize("existing", [True, False], ids=["a tree", "none yet"])
def test_symbolic_link_of_somebody_else_in_a_directory_like_tmp_is_refused(
    tmp_path: Path, place: str, existing: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same as the kernel's protected_symlinks, which not every machine has turned on."""
    real = TreePaths(str(tmp_path / "real" / "tree"))
    os.mkdir(tmp_path / "real")
    if existing:
        make(real)
    shared = tmp_path / "shared"
    shared.mkdir()
    link = shared / "link"
    link.symlink_to("../real/tree" if place == "the tree" else "../real")
    paths = TreePaths(str(link if place == "the tree" else link / "tree"))
    assert (treedir.read_config(paths) is not None) == existing
    os.chmod(shared, 0o1777)
    assert (treedir.read_config(paths) is not None) == existing, "a link of one's own is nobody else's affair"

    real_lstat = os.lstat

    def planted(path: Any, **more: Any) -> os.stat_result:
        status = real_lstat(path, **more)
        if os.fspath(path) != str(link):
            return status
        return os.stat_result((*status[:4], status.st_uid + 4711, *status[5:]))

    monkeypatch.setattr(os, "lstat", planted)
    with pytest.raises(
        NotAJobTree, match=r"link, on the way to .*, is a symbolic link that the user with number"
    ):
        treedir.read_config(paths)
    os.chmod(shared, 0o755)
    assert (treedir.read_config(paths) is not None) == existing, (
        "only who owns the directory can put one there"
    )


def test_circle_of_symbolic_links_is_said(tmp_path: Path) -> None:
    (tmp_path / "one").symlink_to("two")
    (tmp_path / "two").symlink_to("one")

    with pytest.raises(NotAJobTree, match="Too many levels of symbolic links"):
        treedir.read_config(TreePaths(str(tmp_path / "one" / "tree")))


def test_other_format_is_refused_with_both_numbers(paths: TreePaths) -> None:
    config = make(paths)._asdict()
    config["format"], config["version"] = FORMAT + 1, "99.1"
    Path(paths.config).write_text(json.dumps(config))

    with pytest.raises(NotAJobTree, match=rf"jobtree 99\.1 in format {FORMAT + 1}.* reads format {FORMAT}"):
        treedir.read_config(paths)


@pytest.mark.parametrize(
    "content", [[], {}, 3, "text", {"format": "1"}, {"format": None}, {"name": "package"}]
)
def test_configuration_of_something_else_is_refused(paths: TreePaths, content: Any) -> None:
    make(paths)
    Path(paths.config).write_text(json.dumps(content))

    with pytest.raises(NotAJobTree, match="not of a job tree"):
        treedir.read_config(paths)


@pytest.mark.parametrize("missing", ["version", "run", "created", "root", "root_digest"])
def test_configuration_that_lacks_something_is_refused(paths: TreePaths, missing: str) -> None:
    config = make(paths)._asdict()
    del config[missing]
    Path(paths.config).write_text(json.dumps(config))

    with pytest.raises(JobTreeError, match=r"config\.json"):
        treedir.read_config(paths)


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b'{"format": 1'])
def test_damaged_configuration_is_a_storage_error_and_never_a_new_tree(
    paths: TreePaths, content: bytes
) -> None:
    make(paths)
    Path(paths.config).write_bytes(content)

    with pytest.raises(StorageError, match="damaged"):
        treedir.read_config(paths)


def test_place_where_no_directory_can_be_made_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").touch()

    with pytest.raises(StorageError):
        treedir.make_root(TreePaths(str(tmp_path / "file" / "tree")))
    with pytest.raises(NotAJobTree, match="cannot be a directory: Not a directory"):
        treedir.read_config(TreePaths(str(tmp_path / "file" / "tree")))


def test_tokens_are_different_and_fit_for_names() -> None:
    tokens = {treedir.new_token() for _ in range(100)}

    assert len(tokens) == 100
    assert all(token.isalnum() and token.isascii() and len(token) >= 12 for token in tokens)


def test_everything_is_on_the_disk_before_the_configuration_makes_it_a_tree(
    paths: TreePaths, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And the directory's own name before anybody is told that there is a tree."""
    treedir.make_root(paths)
    treedir.make_directories(paths)
    done: list[str] = []

    def noted(name: str) -> None:
        original = getattr(files, name)

        def note(path: str, *more: Any) -> Any:
            done.append(f"{name} {os.path.basename(path)}")
            return original(path, *more)

        monkeypatch.setattr(files, name, note)

    for name in ("fsync_directory", "fsync_way_to", "replace_durably"):
        noted(name)

    treedir.write_config(paths, "Root", "digest", "run")

    # replace_durably syncs the tree's directory once more.
    assert done == [
        "fsync_directory tree", "replace_durably config.json", "fsync_directory tree", "fsync_way_to tree",
    ]  # fmt: skip


def test_what_is_left_of_a_file_that_was_being_replaced_goes(paths: TreePaths) -> None:
    make(paths)
    before = set(os.listdir(paths.root))
    for name in ("settings.json.4711.new", "lock.json.12.new"):
        (Path(paths.root) / name).write_text("{")

    treedir.remove_interrupted(paths)

    assert set(os.listdir(paths.root)) == before
