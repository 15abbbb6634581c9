"""What a master tells of its tree where nobody else can read the database, and reading there without one."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from jobtree import contents, database, files, lock, published, snapshot, soundness
from jobtree.cli import status
from jobtree.contents import Counts, RunningJob
from jobtree.errors import AnotherMaster, StorageError
from jobtree.lock import TreeLock
from jobtree.paths import job_id
from jobtree.published import Publisher
from jobtree.requests import Requests
from tests.fakes.fake_clock import FakeClock
from tests.unit.test_snapshot import Built

RUNNING = [RunningJob(job_id(1, 1), 2, "some.Child", "run.2", "node1", 7.5)]


class Far(Built):
    """A tree as on a network file system, with a master that holds the lock and publishes."""

    def __init__(self, root: Path) -> None:
        super().__init__(root, exclusive=True)
        self.lock = TreeLock(self.paths)
        self.lock.acquire()
        soundness.trust(self.paths)
        self.publisher = Publisher(self.paths, self.store, lambda: RUNNING)
        self.requests = Requests(self.paths)

    def publish(self, at_once: bool = True) -> None:
        """After a commit."""
        self.commit()
        self.store.commit()
        self.publisher.turn(at_once)
        self.store.begin()

    def fail_some(self, number: int, text: str = "bad") -> None:
        """So many children fail for good, and are then told by the store."""
        self.grow(*[("some.Child", 0)] * number)
        ids = [job_id(1, n) for n in range(1, number + 1)]
        for attempt in (1, 2):
            self.commit()
            self.issue(1 + attempt, *ids)
            for id in ids:
                self.fail(id, attempt)
            self.tree.bundle_over(1 + attempt)
        self.store._connection.execute("UPDATE failures SET message = ?", (text,))

    def serve(self) -> None:
        """Answer one question, as the master's loop does."""
        while not (taken := self.requests.take()):
            pass
        self.store.commit()
        self.requests.answer(taken[0], self.publisher.answer())
        self.store.begin()

    def end(self) -> None:
        """The master is gone."""
        self.store.close()
        self.lock.release()


@pytest.fixture
def far(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Far]:
    monkeypatch.setattr(files, "is_network", lambda path: True)
    monkeypatch.setattr(snapshot, "_FIRST_NEWS_SECONDS", 0.0)
    monkeypatch.setattr(lock, "_PATIENCE_ON_A_NETWORK", 0.1)
    made = Far(tmp_path / "tree")
    yield made
    made.end()


def test_what_was_published_is_seen_while_the_master_runs(far: Far) -> None:
    far.grow(("some.Child", 0), ("some.Child", 0))
    far.issue(2, job_id(1, 1))
    far.publish()

    seen = snapshot.take(far.paths)

    assert (seen.state, seen.counts) == (snapshot.RUNNING, Counts(ready=1, issued=1, blocked=1))
    assert seen.master is not None
    assert seen.master.pid == os.getpid()
    assert seen.running == tuple(RUNNING)


def test_it_comes_back_from_json_as_it_was(far: Far) -> None:
    far.fail_some(2)
    far.commit()
    far.store.commit()
    assert far.store.only_connection is not None
    found = contents.query(far.store.only_connection, contents.ALL)._replace(running=tuple(RUNNING))
    far.store.begin()
    assert len(found.failed) == 2
    assert contents.from_json(json.loads(json.dumps(contents.to_json(found)))) == found


def test_it_is_written_every_two_seconds_at_most(far: Far, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = FakeClock(monkeypatch)
    written = []
    replace = files.replace

    def watched(path: str, data: bytes) -> None:
        written.append(clock.now)
        replace(path, data)

    monkeypatch.setattr(files, "replace", watched)
    for _ in range(40):
        far.publish(at_once=False)
        clock.advance(0.25)
    assert written == [1000.0, 1002.0, 1004.0, 1006.0, 1008.0]


def test_what_an_earlier_master_told_is_not_believed(far: Far) -> None:
    far.publish()
    far.lock.release()
    far.lock = TreeLock(far.paths)
    far.lock.acquire()
    with pytest.raises(AnotherMaster, match="has just started and has not told anything yet"):
        snapshot.take(far.paths)
    far.publish()
    assert snapshot.take(far.paths).state == snapshot.RUNNING


def test_however_many_have_failed_with_whatever_to_say_the_file_is_small(far: Far) -> None:
    far.fail_some(90, "x" * 50_000)
    far.publish()
    assert os.path.getsize(far.paths.status) < 300_000
    seen = published.read(far.paths)
    assert seen is not None
    assert len(seen.failed) == 50
    assert contents.total(kind.counts for kind in seen.classes).failed == 90


def test_many_classes_are_told_as_the_largest_and_the_rest_and_nobody_is_lost(far: Far) -> None:
    far.grow(*[(f"some.Class{n}", 0) for n in range(500)])
    far.publish()
    seen = published.read(far.paths)
    assert seen is not None
    assert len(seen.classes) == 201
    assert seen.classes[-1].name == "(301 other classes)"
    assert contents.total(kind.counts for kind in seen.classes) == Counts(ready=500, blocked=1)


def test_all_failures_are_told_when_asked_for(far: Far, capsys: pytest.CaptureFixture[str]) -> None:
    far.fail_some(60, "y" * 5000)
    far.publish()
    asking = threading.Thread(target=lambda: status.main(["--verbose", far.paths.root]))
    asking.start()
    far.serve()
    asking.join()
    told = capsys.readouterr().out
    assert told.count("failed and is given up") == 60
    assert "y" * 5000 in told
    assert f"log file, indicating failure: {far.paths.root}/logs/0/2.log" in told
    assert "1-1 (some.Child) runs on node1 for 7.50s, attempt 2, bundle run.2" in told
    assert os.listdir(far.paths.requests) == []


def test_a_master_that_does_not_answer_leaves_what_it_has_published(
    far: Far, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(snapshot, "_ANSWER_SECONDS", 0.0)
    far.fail_some(60)
    far.publish()
    assert status.main(["--verbose", far.paths.root]) == 0
    told = capsys.readouterr().out
    assert told.count("failed and is given up") == 50
    assert "10 more have failed" in told


def test_a_full_disk_stops_neither_the_run_nor_later_news(
    far: Far, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(path: str, data: bytes) -> None:
        raise StorageError(f"{path}: no space")

    with monkeypatch.context() as patch:
        patch.setattr(files, "replace", full)
        far.publish()
        far.publish()
    assert caplog.text.count("cannot be told to other machines") == 1
    far.publish()
    assert published.read(far.paths) is not None


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"format": 99}', b'{"format": 1, "master": null}'])
def test_a_file_that_cannot_be_read_is_nothing_yet(far: Far, content: bytes) -> None:
    Path(far.paths.status).write_bytes(content)
    assert published.read(far.paths) is None


# -- without a master ------------------------------------------------------------------------------------------


def test_without_a_master_the_database_is_read_and_masters_kept_away_meanwhile(
    far: Far, monkeypatch: pytest.MonkeyPatch
) -> None:
    far.publish()
    far.commit("in order")
    far.end()
    refused = []
    connect = database.connect

    def watched(path: str, immutable: bool = False, exclusive: bool = False) -> object:
        with pytest.raises(AnotherMaster):
            TreeLock(far.paths).acquire()
        refused.append(exclusive)
        return connect(path, immutable, exclusive)

    monkeypatch.setattr(database, "connect", watched)

    assert snapshot.take(far.paths).state == snapshot.STOPPED

    assert refused == [True]
    monkeypatch.undo()
    after = TreeLock(far.paths)
    after.acquire()
    after.release()


def test_what_may_not_be_on_the_disk_is_not_put_into_the_database_by_a_reader(far: Far) -> None:
    far.commit("in order")
    far.store.commit()
    copy = far.left_by_a_dead_master(Path(far.paths.root + "-2"))
    soundness.trust(copy)
    soundness.distrust(copy)
    before = Path(copy.database + "-wal").read_bytes()
    assert snapshot.take(copy).state == snapshot.STOPPED
    assert Path(copy.database + "-wal").read_bytes() == before


def test_the_database_is_refused_to_others_while_a_master_runs(far: Far) -> None:
    with pytest.raises(AnotherMaster, match="nobody else can read the database"), snapshot.opened(far.paths):
        pass


def test_somebody_else_who_locks_the_database(far: Far, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database, "_PATIENCE_SECONDS", 0.01)
    far.lock.release()
    with pytest.raises(StorageError, match="kept locked"):
        snapshot.take(far.paths)
