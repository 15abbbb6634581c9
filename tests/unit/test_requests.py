"""Requests to a running master, and its answers."""

from __future__ import annotations

import json
import os
import pwd
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Callable

import pytest

from jobtree import files, requests
from jobtree.errors import StorageError
from jobtree.paths import TreePaths
from jobtree.requests import Answer, Request, Requests
from jobtree.store import Store
from tests.fakes.fake_clock import FakeClock
from tests.fakes.master_scene import Scene

LONG = 1e9
"""Seconds that no test lasts."""


@pytest.fixture
def paths(tmp_path: Path) -> TreePaths:
    (tmp_path / "requests").mkdir()
    return TreePaths(str(tmp_path))


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> FakeClock:
    return FakeClock(monkeypatch)


def names(paths: TreePaths) -> list[str]:
    return sorted(os.listdir(paths.requests))


def put(paths: TreePaths, name: str, content: bytes, moment: int = 0) -> None:
    path = Path(paths.requests, name)
    path.write_bytes(content)
    os.utime(path, ns=(moment, moment))


def is_alive() -> bool:
    return True


def test_a_request_is_taken_once_and_its_answer_fetched_once(paths: TreePaths) -> None:
    master = Requests(paths)
    id = requests.send(paths, Request("limit", "ada", {"licence": 4}), wants_answer=True)

    (request,) = master.take()
    assert request == Request("limit", "ada", {"licence": 4}, id)
    assert master.take() == []

    master.answer(request, Answer(True, {"licence": [2, 4]}))
    assert requests.wait(paths, id, LONG, is_alive) == Answer(True, {"licence": [2, 4]})
    assert names(paths) == []
    assert master.take() == []


def test_whoever_asks_waits_for_the_answer(paths: TreePaths) -> None:
    master = Requests(paths)
    answers: list[Any] = []
    asking = threading.Thread(
        target=lambda: answers.append(requests.ask(paths, Request("why", "ada"), LONG, is_alive))
    )
    asking.start()
    taken: list[Request] = []
    while not taken:
        taken = master.take()
    assert answers == []

    master.answer(taken[0], Answer(False, "nobody knows"))

    asking.join()
    assert answers == [Answer(False, "nobody knows")]


def test_answer_that_nobody_wants_is_not_written(paths: TreePaths) -> None:
    requests.send(paths, Request("kill", "ada"))
    master = Requests(paths)
    (request,) = master.take()

    master.answer(request, Answer(True))

    assert names(paths) == []


def test_nobody_waits_for_a_master_that_has_died_and_the_request_is_withdrawn(paths: TreePaths) -> None:
    id = requests.send(paths, Request("retry", "ada"), wants_answer=True)
    assert requests.wait(paths, id, LONG, lambda: False) is None
    assert names(paths) == []


def test_answer_that_came_just_before_the_end_counts(paths: TreePaths) -> None:
    master = Requests(paths)
    id = requests.send(paths, Request("retry", "ada"), wants_answer=True)
    master.answer(master.take()[0], Answer(True))
    master.close()
    assert requests.wait(paths, id, LONG, lambda: False) == Answer(True)


def test_what_a_starting_master_throws_away_is_waited_for_by_nobody(paths: TreePaths) -> None:
    id = requests.send(paths, Request("retry", "ada"), wants_answer=True)
    master = Requests(paths)
    master.discard()
    assert master.take() == []
    assert requests.wait(paths, id, LONG, is_alive) is None


def test_what_is_being_written_is_left_alone(paths: TreePaths) -> None:
    put(paths, "kill-1-ab.json.77.new", b"{")
    master = Requests(paths)
    master.discard()
    assert master.take() == []
    master.close()
    assert names(paths) == ["kill-1-ab.json.77.new"]


def test_requests_are_taken_in_the_order_in_which_they_were_written(paths: TreePaths) -> None:
    for moment, kind in enumerate(["resume", "pause", "again"]):
        put(paths, f"{kind}-1-{kind}.json", json.dumps({"kind": kind, "by": "ada"}).encode(), moment * 10**9)
    assert [request.kind for request in Requests(paths).take()] == ["resume", "pause", "again"]


def test_more_than_one_look_takes_are_left_for_the_next(
    paths: TreePaths, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(requests, "_MOST_AT_ONCE", 2)
    for number in range(5):
        put(paths, f"kill-{number}-a.json", b'{"kind": "kill", "by": "ada"}', number)
    master = Requests(paths)
    assert [len(master.take()) for _ in range(4)] == [2, 2, 1, 0]


@pytest.mark.parametrize(
    "content",
    [
        b"", b"\xff\xfe", b"[]", b'{"kind": "kill"}', b'{"kind": "kill", "by": "x", "arguments": 7}', b"[" * 50_000,
        b'{"kind": "kill", "by": "' + b"x" * 100_000 + b'"}',
    ],
    ids=["nothing", "bytes", "a list", "nobody", "no arguments", "deep", "long"],
)  # fmt: skip
def test_what_is_no_request_is_removed_and_said(
    paths: TreePaths, content: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    put(paths, "kill-1-a.json", content)
    assert Requests(paths).take() == []
    assert names(paths) == []
    assert "not a request" in caplog.text


def test_nothing_piles_up(paths: TreePaths, clock: FakeClock) -> None:
    """Neither answers of those who have died waiting, nor what they were writing when they died."""
    master = Requests(paths)
    requests.send(paths, Request("why", "ada"), wants_answer=True)
    put(paths, "kill-1-ab.json.77.new", b"{")
    master.answer(master.take()[0], Answer(True))
    clock.advance(10.0)
    assert master.take() == []
    assert len(names(paths)) == 2

    clock.advance(601.0)

    assert master.take() == []
    assert names(paths) == []


def test_directory_that_has_not_changed_for_a_while_is_not_read(
    paths: TreePaths, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """But is until then: a change within one tick of the clock of a file system does not show."""
    master = Requests(paths)
    read = []
    listdir = os.listdir

    def watched(path: int) -> list[str]:
        read.append(path)
        return listdir(path)

    monkeypatch.setattr(os, "listdir", watched)
    for _ in range(3):
        master.take()
    assert len(read) == 3
    clock.advance(4.0)
    master.take()
    assert len(read) == 3


def test_what_a_dead_master_has_answered_can_still_be_fetched(paths: TreePaths, clock: FakeClock) -> None:
    ids = [requests.send(paths, Request(kind, "ada"), wants_answer=True) for kind in ("retry", "why")]
    dead = Requests(paths, {"retry"})
    for taken in dead.take():
        dead.answer(taken, Answer(True, taken.kind))
    master = Requests(paths, {"retry"})
    master.discard()
    assert requests.wait(paths, ids[0], LONG, is_alive) == Answer(True, "retry")
    assert requests.wait(paths, ids[1], LONG, is_alive) is None


# -- whatever lies there ---------------------------------------------------------------------------------------


def a_fifo(path: Path) -> None:
    os.mkfifo(path)


def a_link(path: Path) -> None:
    path.symlink_to("/dev/zero")


def a_link_to_itself(path: Path) -> None:
    path.symlink_to(path.name)


def a_directory(path: Path) -> None:
    path.mkdir()
    (path / "file").touch()


@pytest.mark.parametrize("make", [a_fifo, a_link, a_link_to_itself, a_directory])
def test_what_is_no_file_is_not_opened_and_does_not_come_between_others(
    paths: TreePaths,
    make: Callable[[Path], None],
    caplog: pytest.LogCaptureFixture,
    clock: FakeClock,
) -> None:
    master = Requests(paths, {"retry"})
    id = requests.send(paths, Request("retry", "ada"))
    make(Path(paths.requests, "retry-0.json"))

    master.discard()
    (taken,) = master.take_all()
    assert taken.id == id
    assert "retry-0.json: not a request (it is no regular file)" in caplog.text
    for _ in range(3):
        clock.advance(1000.0)
        Path(paths.requests, f"retry-{clock.now}.json").touch()
        assert master.take() == []
    assert master.answer(taken, Answer(True))
    master.close()
    assert caplog.text.count("retry-0.json: not a request") == 1
    assert names(paths) == (["retry-0.json"] if make is a_directory else [])


@pytest.mark.parametrize(
    "name", ["\udcff.json", "a\nb.json", ".json", "..json", "x" * 250 + ".json", "retry-\x1b[2J.json"]
)
def test_names_that_nobody_would_give(paths: TreePaths, name: str, caplog: pytest.LogCaptureFixture) -> None:
    put(paths, name, b'{"kind": "retry", "by": "ada"}')
    put(paths, "second" + name[-200:], b"no request")
    master = Requests(paths)
    (taken,) = master.take()
    assert (taken.kind, taken.by) == ("retry", "ada")
    assert master.answer(taken, Answer(True))
    assert names(paths) == []
    assert all(record.getMessage().isprintable() for record in caplog.records)


def test_who_asks_is_one_line_of_bounded_length(paths: TreePaths) -> None:
    put(paths, "a.json", json.dumps({"kind": "k", "by": "ada\n\x1b[2J" + "x" * 5000 + "\ud800"}).encode())
    (taken,) = Requests(paths).take()
    assert taken.by.startswith("ada\\n\\x1b[2Jxxx")
    assert len(taken.by) < 220


def test_whose_file_it_is_is_said(paths: TreePaths, monkeypatch: pytest.MonkeyPatch) -> None:
    put(paths, "a.json", b'{"kind": "k", "by": "ada@here"}')
    owner = pwd.getpwuid(os.geteuid()).pw_name
    monkeypatch.setattr(os, "geteuid", lambda: 54321)
    (taken,) = Requests(paths).take()
    assert taken.by == f"ada@here (in a file of the user {owner})"


def test_a_request_that_cannot_be_read_is_removed(
    paths: TreePaths, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    put(paths, "a.json", b'{"kind": "k", "by": "ada"}')

    def refused(path: str, *_: object) -> bytes:
        raise StorageError(f"{path}: permission denied")

    with monkeypatch.context() as patch:
        patch.setattr(files, "read_from", refused)
        assert Requests(paths).take() == []
    assert "permission denied" in caplog.text
    assert names(paths) == []


def test_a_request_that_cannot_be_removed_is_not_met_again_by_the_same_master(
    paths: TreePaths, monkeypatch: pytest.MonkeyPatch, clock: FakeClock
) -> None:
    master = Requests(paths, {"retry"})
    requests.send(paths, Request("retry", "ada"))
    (taken,) = master.take()

    def refused(path: str) -> None:
        raise StorageError(f"{path}: not permitted")

    with monkeypatch.context() as patch:
        patch.setattr(files, "remove", refused)
        assert not master.answer(taken, Answer(True))
        for _ in range(3):
            clock.advance(1000.0)
            assert master.take() == []
        master.close()


@pytest.mark.parametrize("instead", ["a file", "nothing"])
def test_without_a_directory_the_master_goes_on(
    paths: TreePaths, instead: str, caplog: pytest.LogCaptureFixture
) -> None:
    os.rmdir(paths.requests)
    if instead == "a file":
        Path(paths.requests).touch()
    master = Requests(paths)
    for _ in range(3):
        assert master.take_all() == []
    master.discard()
    master.close()
    assert caplog.text.count("requests cannot be seen") == (instead == "a file")


def test_a_start_takes_all_that_lies_there(paths: TreePaths, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(requests, "_MOST_AT_ONCE", 4)
    for number in range(9):
        put(paths, f"retry-{number}.json", b'{"kind": "retry", "by": "ada"}')
        put(paths, f"none-{number}.json", b"[]")
    assert len(Requests(paths).take_all()) == 9
    assert len(names(paths)) == 9


@pytest.mark.parametrize("value", [None, True, 1.0, "1", -1, 1 << 63, [], {}])
def test_what_is_no_number_is_refused(value: object) -> None:
    with pytest.raises(ValueError, match=r"^job is .*, and a number is expected$"):
        Request("k", "ada", {"job": value}).number("job")


# -- the master -------------------------------------------------------------------------------------------------


def test_the_master_answers_after_the_commit(
    tmp_path: Path, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    scene = Scene(tmp_path / "tree", clock)
    scene.make()
    ids: list[str] = []
    unanswered = []
    commit = Store.commit

    def watched(store: Store) -> None:
        if ids:
            unanswered.append(Path(scene.paths.requests, ids[0] + ".answer").read_bytes() == b"")
        commit(store)

    monkeypatch.setattr(Store, "commit", watched)

    def script() -> Iterator[None]:
        ids.append(requests.send(scene.paths, Request("kill", "ada"), wants_answer=True))
        ids.append(requests.send(scene.paths, Request("dance", "ada"), wants_answer=True))
        yield

    assert scene.play(script()).stopped_by == "stopped by jobTreeKill (ada)"

    assert unanswered[0], "it was answered before the commit"
    assert requests.wait(scene.paths, ids[0], LONG, is_alive) == Answer(True)
    refusal = requests.wait(scene.paths, ids[1], LONG, is_alive)
    assert refusal is not None
    assert not refusal.done
    assert "does not know how to dance" in refusal.body
    assert scene.left_behind() == []


def test_a_master_that_could_not_commit_does_not_answer(
    tmp_path: Path, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    scene = Scene(tmp_path / "tree", clock)
    scene.make()
    ids: list[str] = []
    commit = Store.commit

    def failing(store: Store) -> None:
        if ids:
            raise StorageError("the disk is full")
        commit(store)

    monkeypatch.setattr(Store, "commit", failing)

    def script() -> Iterator[None]:
        ids.append(requests.send(scene.paths, Request("kill", "ada"), wants_answer=True))
        yield

    with pytest.raises(StorageError, match="the disk is full"):
        scene.play(script())
    assert requests.wait(scene.paths, ids[0], LONG, lambda: False) is None
