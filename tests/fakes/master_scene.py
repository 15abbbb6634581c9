"""A job tree with a master on a fake batch system, where nothing happens but what the test says.

The test is a generator: at each ``yield`` the master turns its loop once, and time jumps to the moment for which the
master asked. After every turn the tree, its rows and the files are checked against each other.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Generator, Iterator, Sequence
from pathlib import Path
from typing import Any, Callable, Optional

from batchsystems.abstract import Submission
from jobtree import files, packing, rows, run, soundness, treedir
from jobtree.bundling import AROUND
from jobtree.environment import Environment
from jobtree.events import ROOT_PARENT, Job
from jobtree.frames import Packed
from jobtree.master import Master
from jobtree.options import Settings
from jobtree.paths import TreePaths
from jobtree.schema import ChildRow
from jobtree.store import Store
from jobtree.tree import Tree
from tests.fakes.fake_batch_system import FakeBatchSystem
from tests.fakes.fake_clock import FakeClock
from tests.fakes.scripted_worker import ScriptedWorker, target

RUN = "run"
RESULT = b"result"
"""The token of the run's result."""

ENVIRONMENT = Environment({}, "/", [], None, [])


def make_tree(paths: TreePaths, root: Packed) -> None:
    """Make a tree on disk as a start does, but for the pickling."""
    treedir.make_root(paths)
    treedir.make_directories(paths)
    soundness.trust(paths)
    store = Store(paths.database, new=True)
    store.raise_generation()
    store.begin()
    tree = Tree()
    shape = store.shape(root.name, root.memory, root.cpu)
    row = ChildRow(run.ROOT, shape, root.memory or 0, root.time or 0.0, root.payload, root.mentions)
    tree.add_root(Job(run.ROOT, ROOT_PARENT, shape), [row])
    store.write(tree.take_changes(), tree.counts)
    store.keep_result(RESULT)
    store.set("result_token", RESULT)
    store.commit()
    store.close()
    treedir.write_config(paths, "Root", "digest", RUN)
    files.write_json(paths.environment, ENVIRONMENT.to_json())


class WatchedBatchSystem(FakeBatchSystem):
    """Refuses what was not committed before it was issued. ``sizes``: jobs of each bundle by its number."""

    def __init__(self, paths: TreePaths, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.sizes: dict[int, int] = {}
        self._paths = paths

    def issue(self, submissions: Sequence[Submission]) -> None:
        """Look into the database, with other eyes than the master's, and at the files; then record."""
        committed = dict(query_rows(self._paths, "SELECT name, size FROM bundles"))
        for submission in submissions:
            number = number_of(submission.name)
            self.sizes[number] = committed[submission.name]
            assert os.path.getsize(self._paths.outcome(number)) == 0
            assert os.path.getsize(self._paths.bundle(number)) > 0
        super().issue(submissions)


def number_of(name: str) -> int:
    """The number of a bundle, from its name in the batch system."""
    return int(name.rpartition(".")[2])


class Died(BaseException):
    """Raised by a script: the master is killed. What it has not committed never happened."""


class Scene:
    """One tree and its masters, one after the other. With --bigBatchSystem in the settings there is ``big`` as well."""

    def __init__(self, root: Path, clock: FakeClock, **settings: Any) -> None:
        self.clock = clock
        self.settings = Settings(job_tree=str(root), **{"durable": "tree", **settings})
        self.paths = TreePaths(str(root))
        self.batch: WatchedBatchSystem
        self.big: Optional[WatchedBatchSystem] = None
        self.store: Store
        self.master: Master
        self._script: Iterator[None] = iter(())

    def make(self, root: Optional[Packed] = None) -> None:
        """A new tree with this root target."""
        make_tree(self.paths, target("Root") if root is None else root)

    def start(self, **batch: Any) -> Master:
        """What a start does before the loop: load the tree, and recover. batch: arguments of the batch system."""
        self.batch = WatchedBatchSystem(self.paths, **{"cpu": 1, **batch})
        self.batch.on_idle = self._idle
        if self.settings.big_batch_system is not None:
            self.big = WatchedBatchSystem(self.paths)
        self.store = Store(self.paths.database)
        tree = run._load(self.store, self.settings)
        self.master = Master(
            self.paths, self.store, tree, self.batch, self.settings, ENVIRONMENT, RUN, big=self.big
        )
        self.master.recover()
        return self.master

    def play(self, script: Iterator[None], **batch: Any) -> Master:
        """Start a master and run the loop, the script beside it, to the end of the run."""
        self._script = script
        master = self.start(**batch)
        try:
            master.run()
        finally:
            self.store.close()
        check_rows(self.paths)
        return master

    def play_until_death(self, script: Iterator[None], **batch: Any) -> None:
        """The same, but the script ends by raising Died: the master dies there, and its workers with it."""
        try:
            self.play(script, **batch)
        except Died:
            self.master._remover.close()
        else:
            raise AssertionError("the master has not died")

    def worker(self, bundle: int) -> ScriptedWorker:
        """The worker of a bundle that was issued."""
        assert self.name(bundle) in self._batch_of(bundle).running()
        worker = ScriptedWorker(self.paths, bundle)
        assert worker.open()
        return worker

    def name(self, bundle: int) -> str:
        """The name of a bundle in the batch system."""
        return f"{RUN}.{bundle}"

    def run_all(self, worker: ScriptedWorker) -> None:
        """The worker's targets succeed one after the other, and it exits."""
        while worker.left:
            assert worker.start()
            worker.succeed()
        self.finish(worker)

    def grow(self, children: Sequence[Packed], follow_on: Optional[Packed] = None) -> Iterator[None]:
        """Script: the root target, in bundle 1, adds children."""
        worker = self.worker(1)
        worker.start()
        worker.succeed(children, follow_on)
        self.finish(worker)
        yield

    def grow_bundle(self, size: int, name: str = "Child") -> Iterator[None]:
        """Script, for a machine with one slot: after it, bundle 3 holds so many jobs, and later ones as many."""
        yield from self.grow([target(name)] * (2 * size + 1))
        worker = self.worker(2)
        worker.start()
        # So many of these are as short as bundles get.
        worker.succeed(wall=packing.SHORTEST_SECONDS / (size + 0.25) - AROUND)
        self.finish(worker)
        yield
        assert self.batch.sizes[3] == size

    def grow_late(self, size: int) -> Generator[None, None, ScriptedWorker]:
        """Script: bundle 3 has begun the first of its jobs, and everything else is done. Returns its worker."""
        yield from self.grow_bundle(size)
        worker = self.worker(3)
        worker.start()
        for submission in self.batch.active():
            if submission.name != self.name(3):
                self.run_all(self.worker(number_of(submission.name)))
        yield
        return worker

    def play_rest(self) -> Iterator[None]:
        """Script: everything that is issued, and all that follows, succeeds."""
        while self.active():
            for submission in self.active():
                self.run_all(self.worker(number_of(submission.name)))
            yield

    def active(self) -> list[Submission]:
        """What has been issued and has not ended, anywhere."""
        return [*self.batch.active(), *(self.big.active() if self.big is not None else ())]

    def finish(self, worker: ScriptedWorker, status: int = 0) -> None:
        """The worker writes what it has to say and exits."""
        worker.flush()
        self._batch_of(worker.bundle).finish(self.name(worker.bundle), status)

    def rows(self, query: str, *values: Any) -> list[Any]:
        """What another process sees in the database."""
        return query_rows(self.paths, query, *values)

    def left_behind(self) -> list[str]:
        """Files of bundles and targets that are there."""
        return left_behind(self.paths)

    def _batch_of(self, bundle: int) -> WatchedBatchSystem:
        name = self.name(bundle)
        return self.big if self.big is not None and name in self.big.running() else self.batch

    def _idle(self) -> None:
        self.master.tree.check_invariants()
        check_rows(self.paths)
        self.clock.advance(self.batch.timeouts[-1])
        assert len(self.batch.timeouts) < 5000, f"this does not end: {self.master.tree.totals}"
        if len(self.batch.timeouts) == 1:
            return  # the master asks what has happened before it issues anything
        try:
            next(self._script)
        except StopIteration:
            if not self.batch._ends:
                raise AssertionError(
                    f"the script has ended and the run has not: {self.batch.running()}, {self.master.tree.totals}"
                ) from None


MakeScene = Callable[..., Scene]
"""Makes one; its arguments are settings (the fixture ``make_scene`` of the unit tests)."""


def query_rows(paths: TreePaths, query: str, *values: Any) -> list[Any]:
    """Rows of the database, by a connection of our own."""
    connection = sqlite3.connect(paths.database, isolation_level=None)
    try:
        return connection.execute(query, values).fetchall()
    finally:
        connection.close()


def left_behind(paths: TreePaths) -> list[str]:
    """Files, and directories of targets, that are there beside logs and what every tree has."""
    found = []
    for kind in ("bundles", "claims", "outcomes", "heartbeats", "values", "globalTempDirs", "requests"):
        for folder, _, names in os.walk(os.path.join(paths.root, kind)):
            found += [os.path.relpath(os.path.join(folder, name), paths.root) for name in names]
    return sorted(found)


def check_rows(paths: TreePaths) -> None:
    """What must hold of the rows, and of the files they name, after every commit."""
    connection = sqlite3.connect(paths.database, isolation_level=None)
    try:
        assert rows.find_wrong(connection) == []
    finally:
        connection.close()
    for (file,) in query_rows(paths, "SELECT file FROM promised WHERE file IS NOT NULL"):
        assert os.path.exists(paths.absolute(file)), f"the file {file} of a kept value is gone"
