"""The real store under the same random histories as the tree: it holds, row by row, what the simple one holds."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable
from typing import Optional

from hypothesis import settings
from hypothesis.stateful import rule

from jobtree import removing
from jobtree.events import Below, Changes, Job
from jobtree.store import _JOB, Store, _job
from tests.unit.tree_histories import SHAPES, Histories, Rows, StoredTree, fields


class Both:
    """Writes everything twice: to SQLite, and to rows in memory."""

    def __init__(self) -> None:
        # Not durable: nothing is cut off here, and a sync costs more than all the rest.
        self.directory = tempfile.mkdtemp(dir="/dev/shm" if os.path.isdir("/dev/shm") else None)
        self.path = os.path.join(self.directory, "tree.sqlite")
        self.simple = Rows()
        self.store = Store(self.path, new=True)
        self.store.raise_generation()
        self.store.begin()
        for shape in SHAPES:
            assert self.store.shape(f"mod.Class{shape}", None, None) == shape
        self.store.commit()
        self.store.begin()

    def write(self, changes: Changes, counts: dict[int, list[int]]) -> None:
        """Both must hold the same afterwards."""
        changes.children = [(parent, list(source)) for parent, source in changes.children]
        self.store.write(changes, counts)
        self.simple.write(changes, counts)
        self.store.commit()
        self.store.begin()
        self.compare()

    def compare(self) -> None:
        """Row by row; and pages of READY jobs are the READY rows in order."""
        mine, others = self.all_jobs(), self.simple.all_jobs()
        assert {id: (fields(job), payload) for id, (job, payload) in mine.items()} == {
            id: (fields(job), payload) for id, (job, payload) in others.items()
        }
        for shape in SHAPES:
            ready = sorted(id for id, (job, _) in others.items() if job.shape == shape and job.state == 0)
            assert [job.id for job, _ in self.store.ready(shape, 0, 1000)] == ready
            assert [job.id for job, _ in self.store.ready(shape, 5, 2)] == [id for id in ready if id > 5][:2]

    def renew_failed(self) -> None:
        """In both."""
        self.store.renew_failed()
        self.simple.renew_failed()

    def below(self, id: int) -> Below:
        """The same from both."""
        found, simple = self.store.below(id), self.simple.below(id)
        assert {s: list(n) for s, n in found.counts.items()} == {s: list(n) for s, n in simple.counts.items()}
        assert sorted(found.going_on) == sorted(simple.going_on)
        assert sorted(found.global_dirs) == sorted(simple.global_dirs)
        return found

    def held_jobs(self) -> Iterable[Job]:
        """As a new master finds them."""
        return list(self.store.held_jobs())

    def counts(self) -> dict[int, tuple[int, ...]]:
        """Kept, not counted; compared with a slow count here."""
        counts = self.store.counts()
        slow = self.store._connection.execute(
            "SELECT shape, state, count(*) FROM jobs GROUP BY 1, 2"
        ).fetchall()
        counted = {shape: [0] * 4 for shape in SHAPES}
        for shape, state, number in slow:
            counted[shape][state] = number
        assert {shape: list(numbers[:4]) for shape, numbers in counts.items()} == counted
        return counts

    def all_jobs(self) -> dict[int, tuple[Job, Optional[bytes]]]:
        """Everything that is not done."""
        rows = self.store._connection.execute(f"SELECT {_JOB}, payload FROM jobs")
        return {row[0]: (_job(row), row[15]) for row in rows}

    def open_again(self) -> None:
        """The master is gone with its transaction, and another one comes."""
        self.store.close()
        self.store = Store(self.path)
        self.store.raise_generation()
        self.store.begin()
        self.compare()


class StoredHistories(Histories):
    """The histories, on a disk."""

    def new_rows(self) -> StoredTree:
        self.both = Both()
        return self.both

    @rule()
    def master_dies_and_starts_again(self) -> None:
        self.both.open_again()
        Histories.master_dies_and_starts_again(self)

    def teardown(self) -> None:
        self.both.store.close()
        removing.remove_tree(self.both.directory)


TestStoredHistories = StoredHistories.TestCase
TestStoredHistories.settings = settings(max_examples=settings.default.max_examples // 3)  # type: ignore[union-attr]
