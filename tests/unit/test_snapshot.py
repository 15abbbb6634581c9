"""What is read of a tree without disturbing it: on small trees that are made through the store."""

from __future__ import annotations

import os
import shutil
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from jobtree import files, job_views, lock, queries, snapshot, treedir
from jobtree.contents import Counts
from jobtree.errors import NotAJobTree, StorageError, UsageError
from jobtree.events import ROOT_PARENT, Children, Job
from jobtree.frames import Failure, Measures
from jobtree.lock import TreeLock
from jobtree.paths import FORMAT, TreePaths, job_id, job_name
from jobtree.schema import ChildRow, FailureRow
from jobtree.store import Store
from jobtree.tree import Tree

ROOT = 1


class Built:
    """A tree on disk, with the store and the state machine that a master would have of it."""

    def __init__(self, root: Path, exclusive: bool = False) -> None:
        self.paths = TreePaths(str(root))
        treedir.make_root(self.paths)
        treedir.make_directories(self.paths)
        self.store = Store(self.paths.database, new=True, exclusive=exclusive)
        self.store.raise_generation()
        self.tree = Tree(retry_count=1)
        self.config = treedir.write_config(self.paths, "some.Root", "digest", "run")
        self.store.begin()
        shape = self.store.shape("some.Root", None, None)
        self.tree.add_root(Job(ROOT, ROOT_PARENT, shape), [ChildRow(ROOT, shape, 0, 0.0, b"", ())])
        self.commit()

    def commit(self, ended: str = "") -> None:
        """Commit what has come together, and begin the next transaction."""
        self.store.write(self.tree.take_changes(), self.tree.counts)
        self.store.write_stats(self.store.stats)
        self.store.set("ended", ended)
        self.store.commit()
        self.store.begin()

    def issue(self, bundle: int, *ids: int) -> None:
        """READY jobs go into a bundle."""
        wanted = set(ids)
        rows = [row for shape in self.store.shapes for row, _ in self.store.ready(shape, 0, 100)]
        self.tree.issued(bundle, [job for job in rows if job.id in wanted])
        self.store.write(self.tree.take_changes(), self.tree.counts)

    def grow(self, *children: tuple[str, int]) -> None:
        """The root succeeds and has children: class and memory of each. Their ids are those of bundle 1."""
        self.issue(1, ROOT)
        rows = []
        by_shape: dict[int, int] = {}
        for n, (name, memory) in enumerate(children, 1):
            shape = self.store.shape(name, memory, None)
            by_shape[shape] = by_shape.get(shape, 0) + 1
            rows.append(ChildRow(job_id(1, n), shape, memory, 0.0, b"", ()))
        self.tree.succeeded(ROOT, 1, Children(by_shape, rows))
        self.tree.bundle_over(1)
        self.commit()

    def succeed(self, id: int, attempt: int, wall: float = 1.0, cpu: float = 1.0, memory: int = 1) -> None:
        """An issued job succeeds."""
        shape = self.tree.jobs[id].shape
        self.store.stats[shape].add(Measures(wall, cpu, memory, True))
        self.tree.succeeded(id, attempt)

    def fail(self, id: int, attempt: int, log: str = "logs/0/2.log") -> None:
        """An issued job fails by its own fault."""
        self.store.stats[self.tree.jobs[id].shape].failures += 1
        self.tree.failed(id, attempt)
        failure = Failure("exception", f"bad {attempt}", "Traceback", "said", 3, 7)
        self.store.note_failure(FailureRow(id, attempt, "some.Child", failure, log, "here", "run.2", 5.0))

    def left_by_a_dead_master(self, to: Path) -> TreePaths:
        """A copy of the tree as it is on disk now, with the log that nobody has put into the database yet."""
        copy = TreePaths(str(to))
        treedir.make_root(copy)
        for name in ("tree.sqlite", "tree.sqlite-wal", "config.json"):
            data = files.read(os.path.join(self.paths.root, name))
            assert data, f"{name} is empty"
            files.write_new(os.path.join(copy.root, name), data)
        return copy


@pytest.fixture
def built(tmp_path: Path) -> Iterator[Built]:
    made = Built(tmp_path / "tree")
    yield made
    made.store.close()


@pytest.fixture
def held(built: Built) -> Iterator[TreeLock]:
    holder = TreeLock(built.paths)
    holder.acquire()
    yield holder
    holder.release()


def names_in(paths: TreePaths) -> set[str]:
    return set(os.listdir(paths.root))


# -- finding a tree --------------------------------------------------------------------------------------


def test_a_tree_is_found(built: Built) -> None:
    paths, config = snapshot.find(built.paths.root)
    assert (paths.root, config.run) == (built.paths.root, "run")


def test_a_directory_that_is_not_there_is_misuse(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="does not exist"):
        snapshot.find(str(tmp_path / "nothing"))


def test_an_empty_directory_holds_no_tree(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir(mode=0o700)
    with pytest.raises(NotAJobTree, match="holds no job tree"):
        snapshot.find(str(tmp_path / "empty"))


def test_a_directory_with_other_things_holds_no_tree(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir(mode=0o700)
    (tmp_path / "other" / "letter.txt").write_text("dear")
    with pytest.raises(NotAJobTree, match="letter.txt"):
        snapshot.find(str(tmp_path / "other"))


def test_another_versions_tree_is_refused_with_both_formats(built: Built) -> None:
    built.config = built.config._replace(format=FORMAT + 1, version="9.9")
    files.write_json(built.paths.config, built.config._asdict())
    with pytest.raises(NotAJobTree, match=f"jobtree 9.9 in format {FORMAT + 1}.*reads format {FORMAT}"):
        snapshot.find(built.paths.root)


def test_a_tree_that_is_just_being_made(tmp_path: Path) -> None:
    paths = TreePaths(str(tmp_path / "tree"))
    treedir.make_root(paths)
    holder = TreeLock(paths)
    holder.acquire()
    with pytest.raises(UsageError, match="being made"):
        snapshot.find(paths.root)
    holder.release()


# -- counts and classes ----------------------------------------------------------------------------------


def test_a_new_tree(built: Built) -> None:
    seen = snapshot.take(built.paths)
    assert seen.counts == Counts(ready=1)
    assert [kind.name for kind in seen.classes] == ["some.Root"]
    assert seen.classes[0].wall_min is None


def test_counts_by_state(built: Built) -> None:
    built.grow(("some.Child", 0), ("some.Child", 0), ("some.Child", 0), ("some.Child", 0))
    built.issue(2, job_id(1, 1), job_id(1, 2), job_id(1, 3))
    built.succeed(job_id(1, 1), 1, 2.0, 1.0, 1000)
    built.fail(job_id(1, 2), 1)
    built.commit()

    seen = snapshot.take(built.paths)

    assert seen.counts == Counts(ready=2, issued=1, blocked=1, done=1)
    assert seen.counts.left == 4
    assert {kind.name: kind.counts for kind in seen.classes} == {
        "some.Child": Counts(ready=2, issued=1, done=1),
        "some.Root": Counts(blocked=1),
    }


def test_shapes_of_one_class_are_put_together(built: Built) -> None:
    built.grow(("some.Child", 2**20), ("some.Child", 2**30), ("some.Child", 2**30))
    built.issue(2, job_id(1, 1), job_id(1, 2), job_id(1, 3))
    built.succeed(job_id(1, 1), 1, 3.0, 1.0, 1000)
    built.succeed(job_id(1, 2), 1, 1.0, 0.5, 5000)
    built.fail(job_id(1, 3), 1)
    built.commit()

    child, root = snapshot.take(built.paths).classes

    assert (child.name, child.counts) == ("some.Child", Counts(ready=1, done=2))
    assert (child.succeeded, child.failures) == (2, 1)
    assert (child.wall, child.cpu_time) == (4.0, 1.5)
    assert (child.wall_min, child.wall_max, child.memory_max) == (1.0, 3.0, 5000)
    assert root.name == "some.Root"


def test_what_is_not_committed_is_not_seen(built: Built) -> None:
    built.issue(1, ROOT)
    assert snapshot.take(built.paths).counts == Counts(ready=1)


# -- the state of the run --------------------------------------------------------------------------------


def test_running_while_a_master_holds_the_lock(built: Built, held: TreeLock) -> None:
    seen = snapshot.take(built.paths)
    assert seen.state == snapshot.RUNNING
    assert seen.master is not None
    assert seen.master.pid == os.getpid()
    assert seen.master.started > 0


def test_running_before_the_master_has_said_who_it_is(built: Built, held: TreeLock) -> None:
    files.remove(built.paths.lock_owner)
    seen = snapshot.take(built.paths)
    assert (seen.state, seen.master) == (snapshot.RUNNING, None)


def test_interrupted_when_no_end_was_written_down(built: Built) -> None:
    seen = snapshot.take(built.paths)
    assert (seen.state, seen.master) == (snapshot.INTERRUPTED, None)


def test_stopped_when_work_is_left(built: Built) -> None:
    built.commit("in order")
    assert snapshot.take(built.paths).state == snapshot.STOPPED


def test_failed_when_jobs_were_given_up(built: Built) -> None:
    built.tree.retry_count = 0
    built.issue(1, ROOT)
    built.fail(ROOT, 1)
    built.commit("in order")
    seen = snapshot.take(built.paths)
    assert (seen.state, seen.counts) == (snapshot.FAILED, Counts(failed=1))


def test_complete_also_while_the_master_tidies_up(built: Built, held: TreeLock) -> None:
    built.issue(1, ROOT)
    built.succeed(ROOT, 1)
    built.commit("complete")
    while_held = snapshot.take(built.paths)
    held.release()
    afterwards = snapshot.take(built.paths)
    assert (while_held.state, afterwards.state) == (snapshot.COMPLETE, snapshot.COMPLETE)
    assert (while_held.master is None, afterwards.master) == (False, None)


@pytest.mark.parametrize(
    ("ended", "at_first", "state"),
    [("", False, snapshot.RUNNING), ("in order", True, snapshot.STOPPED)],
    ids=["it came meanwhile", "it went meanwhile"],
)
def test_a_master_that_comes_or_goes_while_the_tree_is_read(
    built: Built, monkeypatch: pytest.MonkeyPatch, ended: str, at_first: bool, state: str
) -> None:
    built.commit(ended)
    answers = iter([at_first, not at_first])
    monkeypatch.setattr(lock, "is_held", lambda _: next(answers))
    assert snapshot.take(built.paths).state == state


# -- failures --------------------------------------------------------------------------------------------


def test_failures_only_when_asked_for(built: Built) -> None:
    built.tree.retry_count = 0
    built.issue(1, ROOT)
    built.fail(ROOT, 1)
    built.commit()
    assert snapshot.take(built.paths).failed == ()
    assert len(snapshot.take(built.paths, failures=True).failed) == 1


def test_jobs_given_up_are_told_from_those_that_are_tried_again(built: Built) -> None:
    built.grow(("some.Child", 0), ("some.Child", 0), ("some.Child", 0))
    ids = [job_id(1, n) for n in (1, 2, 3)]
    built.issue(2, *ids)
    for id in ids:
        built.fail(id, 1)
    built.tree.bundle_over(2)
    built.commit()
    built.issue(3, ids[0], ids[1])
    built.fail(ids[0], 2)
    built.commit()

    seen = snapshot.take(built.paths, failures=True)

    assert [(row.job, row.attempt) for row in seen.failed] == [(ids[0], 2)]
    assert sorted((row.job, row.attempt) for row in seen.retried) == [(ids[1], 1), (ids[2], 1)]


def test_more_jobs_that_were_given_up_are_shown_than_are_read_at_once(
    built: Built, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (queries, job_views):
        monkeypatch.setattr(module, "MOST_ROWS", 2)
    built.tree.retry_count = 0
    built.grow(*(("some.Child", 0) for _ in range(6)))
    ids = [job_id(1, n) for n in range(1, 7)]
    built.issue(2, *ids)
    for id in ids:
        built.fail(id, 1)
    built.commit()

    for most in (1, 2, 3, 5, 6, 50):
        view = job_views.failed(built.paths, most)
        assert [job["job"] for job in view.value] == [job_name(id) for id in ids[:most]]
        assert (view.lines[-1] == f"There are more: --most N shows N of them, and not {most}.") == (most < 6)


def test_a_failure_is_read_whole_and_its_log_found_in_the_tree(built: Built) -> None:
    built.tree.retry_count = 0
    built.issue(1, ROOT)
    built.fail(ROOT, 1)
    built.commit()

    (row,) = snapshot.take(built.paths, failures=True).failed

    log = os.path.join(built.paths.root, "logs/0/2.log")
    failure = Failure("exception", "bad 1", "Traceback", "said", 3, 7)
    assert row == FailureRow(ROOT, 1, "some.Child", failure, log, "here", "run.2", 5.0)


def test_the_failure_of_a_job_that_is_done_since_does_not_count(built: Built) -> None:
    built.issue(1, ROOT)
    built.fail(ROOT, 1)
    built.commit()
    built.issue(2, ROOT)
    built.succeed(ROOT, 2)
    built.commit()
    seen = snapshot.take(built.paths, failures=True)
    assert (seen.failed, seen.retried) == ((), ())


# -- disturbing nobody -----------------------------------------------------------------------------------


def test_reading_while_the_master_is_in_the_middle_of_a_transaction(built: Built) -> None:
    built.grow(("some.Child", 0))
    built.issue(2, job_id(1, 1))  # written, not committed
    seen = snapshot.take(built.paths)
    built.commit()
    assert seen.counts == Counts(ready=1, blocked=1)
    assert snapshot.take(built.paths).counts == Counts(issued=1, blocked=1)


def test_nothing_is_locked_afterwards(built: Built) -> None:
    snapshot.take(built.paths, failures=True)
    built.store.commit()
    # Fails with "database is locked" if a reader is still there.
    busy, _, _ = built.store._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
    built.store.begin()
    assert busy == 0


def test_the_tree_is_not_changed(built: Built, tmp_path: Path) -> None:
    copy = built.left_by_a_dead_master(tmp_path / "copy")
    before = {name: files.read(os.path.join(copy.root, name)) for name in names_in(copy)}
    snapshot.take(copy, failures=True)
    after = {name: files.read(os.path.join(copy.root, name)) for name in before}
    assert before == after
    assert names_in(copy) <= {*before, "tree.sqlite-shm"}, "only SQLite's index of the log may be new"


# -- what a dead master has left -------------------------------------------------------------------------


def test_the_log_of_a_dead_master_is_read(built: Built, tmp_path: Path) -> None:
    built.grow(("some.Child", 0))
    copy = built.left_by_a_dead_master(tmp_path / "copy")
    seen = snapshot.take(copy)
    assert (seen.state, seen.counts) == (snapshot.INTERRUPTED, Counts(ready=1, blocked=1))


def cannot_make_an_index(monkeypatch: pytest.MonkeyPatch, copy: TreePaths) -> None:
    """What SQLite says on a read-only file system; permissions alone do not stop a superuser."""
    connect = sqlite3.connect

    def refuse(database: str, **more: Any) -> Any:
        if copy.root in database:
            raise sqlite3.OperationalError("unable to open database file")
        return connect(database, **more)

    monkeypatch.setattr(sqlite3, "connect", refuse)
    monkeypatch.setattr(os, "access", lambda path, mode: False)


def test_it_is_read_where_nothing_may_be_written(
    built: Built, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    built.grow(("some.Child", 0))
    copy = built.left_by_a_dead_master(tmp_path / "copy")
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    before = names_in(copy)
    cannot_make_an_index(monkeypatch, copy)

    seen = snapshot.take(copy)

    assert seen.counts == Counts(ready=1, blocked=1)
    assert names_in(copy) == before
    assert {path.name for path in tmp_path.iterdir()} == {"tree", "copy"}, "the private copy is still there"


def test_a_read_only_tree_that_another_machine_writes_to_is_not_believed(
    built: Built, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = built.left_by_a_dead_master(tmp_path / "copy")
    cannot_make_an_index(monkeypatch, copy)
    copyfile = shutil.copyfile

    def meanwhile(source: str, target: str) -> None:
        copyfile(source, target)
        with open(source, "ab") as file:
            file.write(b"more")

    monkeypatch.setattr(shutil, "copyfile", meanwhile)
    with pytest.raises(StorageError, match="another machine is writing"):
        snapshot.take(copy)


# -- what cannot be read ---------------------------------------------------------------------------------


def test_a_database_that_is_gone(built: Built) -> None:
    files.remove(built.paths.database)
    with pytest.raises(StorageError, match="is gone"):
        snapshot.take(built.paths)


def test_a_database_that_is_damaged(built: Built, tmp_path: Path) -> None:
    copy = built.left_by_a_dead_master(tmp_path / "copy")
    files.remove(copy.database + "-wal")
    files.write_new(copy.database, b"not a database at all" * 100)
    with pytest.raises(StorageError, match="is damaged"):
        snapshot.take(copy)


def test_a_path_that_means_something_in_a_uri(tmp_path: Path) -> None:
    made = Built(tmp_path / "50% of a?b#c")
    assert snapshot.take(made.paths).counts == Counts(ready=1)
    made.store.close()
