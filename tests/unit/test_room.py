"""The pause before the disk is full: when it begins and ends, and what is said of it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Optional

import pytest

from jobtree import room, tempdirs
from jobtree.events import State
from jobtree.paths import job_id
from jobtree.room import Free
from tests.fakes.master_scene import RUN, MakeScene, Scene
from tests.fakes.scripted_worker import target

GIB = 1 << 30
AMPLE = Free(100 * GIB, GIB, 10**6, 10_000)


class Disks:
    """What each file system has left, by the path that is asked about."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.left: dict[str, Optional[Free]] = {}
        monkeypatch.setattr(room, "free", lambda path, least: self.left.get(path, AMPLE))


@pytest.fixture
def disks(monkeypatch: pytest.MonkeyPatch) -> Disks:
    return Disks(monkeypatch)


def a_while(scene: Scene) -> Iterator[None]:
    """Script: turns of the loop, until the disk has been looked at."""
    scene.clock.advance(1.0)
    yield
    yield


@pytest.mark.parametrize(
    "full",
    [
        Free(GIB - 1, GIB, 10**6, 10_000),
        Free(100 * GIB, GIB, 9_999, 10_000),
    ],
    ids=["bytes", "inodes"],
)
def test_nothing_is_issued_until_there_is_room_and_that_is_said_once(
    make_scene: MakeScene, disks: Disks, full: Free, caplog: pytest.LogCaptureFixture
) -> None:
    scene = make_scene()
    root = scene.paths.root

    def script() -> Iterator[None]:
        worker = scene.worker(1)
        worker.start()
        disks.left[root] = full
        yield from a_while(scene)
        worker.succeed([target("Child")] * 3)
        scene.finish(worker)
        yield from a_while(scene)
        assert scene.master.tree.totals[State.READY] == 3
        assert scene.active() == []
        (why, *_) = scene.master._steering._explainer.why(job_id(1, 1))
        assert why.startswith(f"Nothing is issued until there is room: {root} has ")
        assert scene.master.outlook.look().paused == "no room on the disk"
        disks.left[root] = full._replace(bytes=full.bytes + 2, files=(full.files or 0) + 2)
        yield from a_while(scene)
        assert scene.active() == []  # on the edge it does not start and stop
        del disks.left[root]
        yield from a_while(scene)
        assert scene.master.outlook.look().paused == ""
        yield from scene.play_rest()

    scene.play(script())

    assert scene.master.tree.complete
    said = [message for message in caplog.messages if "aused" in message or "room" in message]
    assert len(said) == 2
    assert said[0].startswith(f"Paused, nothing more is started: {root} has ")
    assert said[1] == "There is room again: the run goes on."


def test_a_full_tmp_matters_once_it_has_been_used(
    make_scene: MakeScene, disks: Disks, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    disks.left[str(tmp_path)] = Free(0, GIB, None, 0)
    scene = make_scene()

    def script() -> Iterator[None]:
        yield from a_while(scene)
        worker = scene.worker(1)
        worker.start()
        assert scene.master.outlook.look().paused == ""
        os.mkdir(tempdirs.local_base(RUN, 1))
        yield from a_while(scene)
        os.rmdir(tempdirs.local_base(RUN, 1))
        worker.succeed([target("Child")])
        scene.finish(worker)
        yield from a_while(scene)
        assert scene.active() == []
        assert scene.master.outlook.look().paused
        disks.left.clear()
        yield from a_while(scene)
        yield from scene.play_rest()

    scene.play(script())

    assert scene.master.tree.complete


def test_who_wants_none_of_it(make_scene: MakeScene, disks: Disks) -> None:
    scene = make_scene(min_free=0)
    disks.left[scene.paths.root] = Free(0, GIB, 0, 10_000)
    scene.play(scene.play_rest())

    assert scene.master.tree.complete


def test_a_paused_run_can_be_stopped(make_scene: MakeScene, disks: Disks) -> None:
    scene = make_scene()
    disks.left[scene.paths.root] = Free(0, GIB, 0, 10_000)

    def script() -> Iterator[None]:
        yield from a_while(scene)
        scene.master.stop("enough")
        yield

    scene.play(script())

    assert scene.master.stopped_by == "enough"


@pytest.mark.parametrize(
    ("blocks", "inodes", "least", "kept"),
    [
        (1 << 30, 10**9, None, (GIB, 10_000)),
        (1 << 14, 10_000, None, ((64 << 20) // 20, 500)),
        (1 << 14, 10_000, 7, (7, 500)),
        (1 << 14, 10_000, 0, (0, 0)),
        (1 << 14, 0, None, ((64 << 20) // 20, 0)),
        (0, 0, None, (0, 0)),
    ],
)
def test_how_much_is_kept_free(
    monkeypatch: pytest.MonkeyPatch, blocks: int, inodes: int, least: Optional[int], kept: tuple[int, int]
) -> None:
    there = SimpleNamespace(f_blocks=blocks, f_frsize=4096, f_bavail=5, f_files=inodes, f_favail=7)
    monkeypatch.setattr(os, "statvfs", lambda _: there)

    assert room.free("/", least) == Free(5 * 4096, kept[0], 7 if inodes else None, kept[1])


def test_a_file_system_that_says_nothing_stops_nobody() -> None:
    assert room.free("/nowhere/at/all", None) is None
    assert room._lacking("/nowhere/at/all", None, 1.0) == ""
