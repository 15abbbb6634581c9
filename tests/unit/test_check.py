"""``jobTreeStatus --check``: what it finds, what it leaves alone, and that it changes nothing."""

from __future__ import annotations

import json
import os
import re
import shutil
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Callable

import pytest

from jobtree import check, copies, files, frames, soundness
from jobtree.check import Finding
from jobtree.cli import status
from jobtree.lock import TreeLock
from jobtree.paths import TreePaths
from tests.fakes.fake_clock import FakeClock
from tests.fakes.master_scene import Died, Scene, query_rows
from tests.fakes.scripted_worker import Value, target


@pytest.fixture
def scene(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Scene:
    """A tree of one root target."""
    scene = Scene(tmp_path / "tree", FakeClock(monkeypatch))
    scene.make()
    files.write_json(scene.paths.settings, {})
    Path(scene.paths.lock).touch(0o600)
    return scene


@pytest.fixture
def complete(scene: Scene) -> TreePaths:
    """A tree that is done, with a kept value in a file, and a copy."""

    def script() -> Iterator[None]:
        worker = scene.worker(1)
        worker.start()
        worker.succeed((), None, Value(b"result", b"large", (), in_file=True))
        scene.finish(worker)
        yield

    scene.play(script())
    assert scene.master.tree.complete
    copies.make(scene.paths)
    make_private(scene.paths)
    return scene.paths


@pytest.fixture
def interrupted(scene: Scene) -> TreePaths:
    """A tree whose master died: the root waits for its children, one of which was running."""

    def script() -> Iterator[None]:
        worker = scene.worker(1)
        worker.start()
        worker.global_dir()
        worker.succeed([target("Child")] * 3, target("Last"))
        scene.finish(worker)
        yield
        worker = scene.worker(2)
        worker.start()
        worker.message("here")
        yield
        yield
        raise Died

    scene.play_until_death(script())
    make_private(scene.paths)
    return scene.paths


def make_private(paths: TreePaths) -> None:
    """The scripted workers make their files with whatever mode; real ones do not."""
    for folder, _, names in os.walk(paths.root):
        os.chmod(folder, 0o700)
        for name in names:
            os.chmod(os.path.join(folder, name), 0o600)


def wrong(paths: TreePaths) -> list[Finding]:
    """What should not be."""
    return [finding for finding in check.check(paths) if finding.wrong]


def execute(paths: TreePaths, statement: str) -> None:
    """Change the database."""
    connection = sqlite3.connect(paths.database)
    with connection:
        connection.execute(statement)
    connection.close()


def everything(paths: TreePaths) -> dict[str, bytes]:
    """The content of all files but SQLite's log, as far as it is empty, and its index, which a reader may make."""
    return {
        str(path): path.read_bytes()
        for path in Path(paths.root).rglob("*")
        if path.is_file()
        and not path.name.endswith("-shm")
        and (path.suffix != ".sqlite-wal" or path.stat().st_size)
    }


def test_a_complete_tree_is_as_it_should_be(complete: TreePaths) -> None:
    assert wrong(complete) == []


def test_what_a_dead_master_leaves_is_nothing_wrong(interrupted: TreePaths) -> None:
    assert wrong(interrupted) == []


def test_nothing_is_changed(interrupted: TreePaths) -> None:
    before = everything(interrupted)

    check.check(interrupted)

    assert everything(interrupted) == before


def test_a_running_master_is_not_disturbed_and_its_files_are_its_affair(interrupted: TreePaths) -> None:
    Path(interrupted.bundle(999)).parent.mkdir(parents=True, exist_ok=True)
    Path(interrupted.bundle(999)).touch(0o600)
    holder = TreeLock(interrupted)
    holder.acquire()
    try:
        assert [finding for finding in check.check(interrupted) if "999" in finding.path] == []
    finally:
        holder.release()


def cut(path: str, size: int = 10) -> None:
    """Cut a file."""
    os.truncate(path, size)


def replace_with_directory(path: str) -> None:
    """Put a directory in the place of a file."""
    os.unlink(path)
    os.mkdir(path, 0o700)


def value_file(paths: TreePaths) -> str:
    """The file of the kept value."""
    (found,) = paths.existing_values()
    return paths.absolute(found)


COMPLETE: dict[str, tuple[Callable[[TreePaths], object], str]] = {
    "no configuration": (lambda p: os.unlink(p.config), "config.json: is not there"),
    "torn configuration": (lambda p: cut(p.config), "config.json: .* is damaged"),
    "torn environment": (lambda p: cut(p.environment), "environment.json: .* is damaged"),
    "an edited file": (
        lambda p: Path(p.environment).write_text(Path(p.environment).read_text().replace('"/"', '"/x"')),
        "environment.json: .* checksum",
    ),
    "no database": (lambda p: os.unlink(p.database), "tree.sqlite: is not there"),
    "a directory for a database": (lambda p: replace_with_directory(p.database), "tree.sqlite: cannot be read: Is a"),
    "a cut database": (lambda p: cut(p.database, os.path.getsize(p.database) - 9), "tree.sqlite: .* it is cut off"),
    "a wrong count": (lambda p: execute(p, "UPDATE shapes SET ready = 7"), "tree.sqlite: .* the counts of a shape"),
    "no index": (lambda p: execute(p, "DROP INDEX failed_in"), "tree.sqlite: lacks: CREATE INDEX failed_in"),
    "a damaged copy": (lambda p: cut(p.copy, 5000), "copy.sqlite: is damaged"),
    "no directory": (lambda p: os.rmdir(os.path.join(p.root, "requests")), "requests: the directory is not there"),
    "a directory for all": (lambda p: os.chmod(p.root, 0o777), "tree: can be written by others .mode 777"),
    "a file for the group": (lambda p: os.chmod(p.settings, 0o660), "settings.json: can be written by others"),
    "a link": (lambda p: os.symlink("/dev/null", os.path.join(p.root, "logs", "1.log")), "1.log: is a symbolic link"),
    "a value that is gone": (lambda p: os.unlink(value_file(p)), "values.*: the file of a returned value is not there"),
    "a value too many": (lambda p: shutil.copy(value_file(p), value_file(p) + "7"), "values.*7: is a value that"),
    "a file of no bundle": (lambda p: files.write_new(p.outcome(55), b""), "outcomes/0/55: belongs to no bundle"),
    "a directory of no job": (lambda p: os.makedirs(p.global_dir(1)), "globalTempDirs.*: belongs to no job"),
}  # fmt: skip


@pytest.mark.parametrize("what", COMPLETE)
def test_what_is_wrong_with_a_complete_tree_is_found_with_what_to_do(complete: TreePaths, what: str) -> None:
    spoil, expected = COMPLETE[what]
    spoil(complete)

    found = wrong(complete)

    assert any(re.search(expected, f"{finding.path}: {finding.found}") for finding in found), found
    assert all(len(finding.advice) > 10 for finding in found)


def test_a_directory_that_is_needed_and_gone_is_found(interrupted: TreePaths) -> None:
    shutil.rmtree(interrupted.global_dir(1))

    (found,) = wrong(interrupted)

    assert found.path == interrupted.global_dir(1)
    assert "is not there" in found.found


def test_an_outcome_file_that_has_lost_what_was_read_of_it_is_found(interrupted: TreePaths) -> None:
    ((number, offset),) = query_rows(interrupted, "SELECT id, offset FROM bundles WHERE offset > 0")
    cut(interrupted.outcome(number), offset - 1)

    (found,) = wrong(interrupted)

    assert found.path == interrupted.outcome(number)
    assert f"holds {offset - 1} bytes, and {offset} were read" in found.found


def test_a_torn_frame_is_what_a_crash_leaves(interrupted: TreePaths) -> None:
    ((number,),) = query_rows(interrupted, "SELECT id FROM bundles WHERE offset > 0")
    with open(interrupted.outcome(number), "ab") as file:
        file.write(frames.encode((frames.MESSAGE, 1, 1, "x"))[:-1])

    found = [f for f in check.check(interrupted) if f.path == interrupted.outcome(number)]

    assert [(f.wrong, f.found[:7]) for f in found] == [(False, "is torn")]


def test_a_failed_sync_is_told(interrupted: TreePaths) -> None:
    soundness.distrust(interrupted)

    assert any("a sync has failed" in finding.found for finding in check.check(interrupted))
    assert wrong(interrupted) == []


def test_many_findings_of_a_kind_are_told_in_short(complete: TreePaths) -> None:
    for number in range(1, 60):
        files.write_new(complete.claim(number), b"")

    found = wrong(complete)

    assert len(found) == 21
    assert found[-1].found == "39 more of the kind before that"


def test_the_command_tells_people_and_programs(
    complete: TreePaths, capsys: pytest.CaptureFixture[str]
) -> None:
    assert status.main(["--check", complete.root]) == 0
    assert capsys.readouterr().out.endswith(f"{complete.root}: nothing is wrong\n")
    os.chmod(complete.settings, 0o666)

    assert status.main(["--check", complete.root]) == 1
    text = capsys.readouterr().out
    assert f"{complete.settings}: can be written by others (mode 666)\n    What lies here" in text
    assert status.main(["--check", "--json", complete.root]) == 1
    told = json.loads(capsys.readouterr().out)

    assert told["jobTree"] == complete.root
    assert told["wrong"] == 1
    assert {"wrong": True, "path": complete.settings} in [
        {name: finding[name] for name in ("wrong", "path")} for finding in told["findings"]
    ]


def test_a_directory_that_is_none_is_said_to_be_none(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert status.main(["--check", str(tmp_path / "nothing")]) == 2
    assert "does not exist" in capsys.readouterr().err
