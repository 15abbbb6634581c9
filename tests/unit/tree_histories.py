"""Random histories of a tree, for the tests of the state machine and for those of the store.

``Rows`` is a store without a disk: it applies ``Changes`` in the order in which the real one does. ``Histories`` plays
a master that knows nothing but a Tree and such a store: it issues what is READY, reports whatever comes to its mind,
and loses its memory now and then.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable
from typing import Any, Optional, Protocol

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from jobtree.events import ROOT_PARENT, Below, Changes, Children, GoesOn, Job, Spec, State
from jobtree.schema import ChildRow
from jobtree.tree import Tree

SHAPES = (1, 2, 3)
ROOT_ID = 1


def fields(job: Job) -> tuple[Any, ...]:
    """A record as something that can be compared."""
    return tuple(getattr(job, name) for name in Job.__slots__)


class StoredTree(Protocol):
    """What a history needs of a store."""

    def write(self, changes: Changes, counts: dict[int, list[int]]) -> None: ...

    def renew_failed(self) -> None: ...

    def below(self, id: int) -> Below: ...

    def held_jobs(self) -> Iterable[Job]: ...

    def counts(self) -> dict[int, tuple[int, ...]]: ...

    def all_jobs(self) -> dict[int, tuple[Job, Optional[bytes]]]: ...


class Rows:
    """Rows in memory. What a real store would write, and nothing cleverer."""

    def __init__(self) -> None:
        self.jobs: dict[int, Job] = {}
        self.payloads: dict[int, Optional[bytes]] = {}
        self.by_shape: dict[int, list[int]] = {}

    def write(self, changes: Changes, counts: dict[int, list[int]]) -> None:
        """Children, issued, touched with their specs, done, counts: in this order."""
        for parent, source in changes.children:
            for row in source:
                assert row.id not in self.jobs
                self.jobs[row.id] = Job(row.id, parent, row.shape, memory=row.memory, time=row.time)
                self.payloads[row.id] = row.payload
        for bundle, id in changes.issued:
            job = self.jobs[id]
            job.state, job.bundle = State.ISSUED, bundle
            job.attempt += 1
        for id, job in changes.touched.items():
            self.jobs[id] = copy.copy(job)
            if id in changes.specs:
                spec = changes.specs[id]
                self.payloads[id] = None if spec is None else spec.packed[0]
        for id in changes.done:
            del self.jobs[id], self.payloads[id]
        for top in changes.forgotten:
            for id in [top, *(job.id for job in self._below(top))]:
                del self.jobs[id], self.payloads[id]
        for shape in changes.shapes:
            self.by_shape[shape] = list(counts[shape])

    def below(self, id: int) -> Below:
        """All that is below a job, at any depth."""
        found = self._below(id)
        counts: dict[int, list[int]] = {}
        for job in found:
            counts.setdefault(job.shape, [0] * len(State))[job.state] += 1
        going_on = [job.id for job in found if job.state in (State.ISSUED, State.BLOCKED)]
        return Below(counts, going_on, [job.id for job in found if job.has_global])

    def _below(self, id: int) -> list[Job]:
        found = [job for job in self.jobs.values() if job.parent == id]
        return [*found, *(job for child in found for job in self._below(child.id))]

    def renew_failed(self) -> None:
        """FAILED rows become READY and have all their tries."""
        for job in self.jobs.values():
            if job.state is State.FAILED:
                job.state = State.READY
                job.tries = job.losses = 0
                job.alone = False

    def held_jobs(self) -> Iterable[Job]:
        """What a new master loads."""
        return [copy.copy(j) for j in self.jobs.values() if j.state in (State.ISSUED, State.BLOCKED)]

    def counts(self) -> dict[int, tuple[int, ...]]:
        """The counts by shape, as written."""
        return {shape: tuple(numbers) for shape, numbers in self.by_shape.items()}

    def all_jobs(self) -> dict[int, tuple[Job, Optional[bytes]]]:
        """Everything that is not done."""
        return {id: (copy.copy(job), self.payloads[id]) for id, job in self.jobs.items()}


def check_rows(rows: StoredTree) -> None:
    """What must hold of the rows alone, whoever wrote them, seen after a commit."""
    jobs = {id: job for id, (job, _) in rows.all_jobs().items()}
    slow: dict[int, list[int]] = {}
    for job in jobs.values():
        slow.setdefault(job.shape, [0] * 4)[job.state] += 1
        if job.parent != ROOT_PARENT:
            assert jobs[job.parent].state is State.BLOCKED, f"{job} is below {jobs[job.parent]}"
        below = sum(other.parent == job.id for other in jobs.values())
        assert job.pending == below, f"{job} waits for {job.pending} jobs and has {below}"
        assert (job.bundle > 0) == (job.state is State.ISSUED), job
    for shape, numbers in rows.counts().items():
        assert list(numbers[:4]) == slow.pop(shape, [0] * 4), f"shape {shape}"
    assert not slow


class Histories(RuleBasedStateMachine):
    """Everything that can happen to a tree, in any order."""

    retry_count = 0
    max_lost = 1

    def __init__(self) -> None:
        super().__init__()
        self.rows: StoredTree = self.new_rows()
        self.tree = Tree()
        self.last_id = ROOT_ID
        self.last_bundle = 0
        self.attempts: dict[int, int] = {}

    def new_rows(self) -> StoredTree:
        """An empty store."""
        return Rows()

    def child_row(self, shape: int, memory: int) -> ChildRow:
        """A row for one more job."""
        self.last_id += 1
        return ChildRow(self.last_id, shape, memory, 0.5, b"target %d" % self.last_id, ())

    def packed(self, text: bytes) -> Any:
        """What the store needs of a follow-on."""
        return text, ()

    @initialize(retry_count=st.integers(0, 2), max_lost=st.integers(1, 3), shape=st.sampled_from(SHAPES))
    def begin(self, retry_count: int, max_lost: int, shape: int) -> None:
        self.retry_count, self.max_lost = retry_count, max_lost
        self.tree = Tree(retry_count, max_lost)
        self.tree.add_root(Job(ROOT_ID, ROOT_PARENT, shape), [ChildRow(ROOT_ID, shape, 0, 0.0, b"root", ())])
        self.commit()

    # -- what the master does --------------------------------------------------------------------------------

    def commit(self) -> None:
        self.rows.write(self.tree.take_changes(), self.tree.counts)
        check_rows(self.rows)
        for id, (job, _) in self.rows.all_jobs().items():
            assert job.attempt >= self.attempts.get(id, 0), f"attempts of {job} went back"
            self.attempts[id] = job.attempt
            if job.state in (State.ISSUED, State.BLOCKED):
                assert fields(self.tree.jobs[id]) == fields(job), "the store and the tree differ"

    def in_state(self, state: State) -> list[Job]:
        return [job for _, (job, _) in sorted(self.rows.all_jobs().items()) if job.state is state]

    def pick_issued(self, data: st.DataObject) -> Job:
        issued = sorted(job.id for job in self.tree.jobs.values() if job.state is State.ISSUED)
        return self.tree.jobs[data.draw(st.sampled_from(issued))]

    @rule()
    def commits(self) -> None:
        self.commit()

    @rule()
    def master_dies_and_starts_again(self) -> None:
        """What was not committed never happened."""
        self.tree = Tree(self.retry_count, self.max_lost)
        self.tree.load(self.rows.held_jobs(), self.rows.counts())
        for bundle in list(self.tree.bundles):
            if not self.tree.in_bundle(bundle):
                self.tree.bundle_over(bundle)

    @rule()
    def restart_after_commit_changes_nothing(self) -> None:
        self.commit()
        before = self.tree
        self.master_dies_and_starts_again()
        assert {id: fields(job) for id, job in before.jobs.items()} == {
            id: fields(job) for id, job in self.tree.jobs.items()
        }
        assert before.totals == self.tree.totals
        assert {b: m for b, m in before.bundles.items() if m} == self.tree.bundles
        assert before.with_global_dir == self.tree.with_global_dir

    @precondition(lambda self: self.tree.totals[State.READY])
    @rule(data=st.data())
    def issues_a_bundle(self, data: st.DataObject) -> None:
        self.commit()  # READY jobs are read from the store, so what is known must be there
        ready = self.in_state(State.READY)
        some = data.draw(
            st.lists(st.sampled_from(ready), min_size=1, max_size=4, unique_by=lambda job: job.id)
        )
        self.last_bundle += 1
        self.tree.issued(self.last_bundle, some)

    @precondition(lambda self: self.tree.totals[State.READY])
    @rule(data=st.data())
    def finds_that_a_job_never_fits(self, data: st.DataObject) -> None:
        self.commit()
        self.tree.never_fits(data.draw(st.sampled_from(self.in_state(State.READY))))

    @rule()
    def renews_the_tries_of_failed_jobs(self) -> None:
        self.commit()
        self.tree.renewed()
        self.rows.renew_failed()
        self.commit()
        assert not self.tree.totals[State.FAILED]

    @precondition(lambda self: self.tree.totals[State.FAILED])
    @rule(data=st.data())
    def renews_the_tries_of_one(self, data: st.DataObject) -> None:
        self.commit()
        job = data.draw(st.sampled_from(self.in_state(State.FAILED)))
        self.tree.renew(job)
        self.commit()
        assert job.id in [other.id for other in self.in_state(State.READY)]

    def pick(self, data: st.DataObject, *states: State) -> Job:
        """A job in one of these states, as a request finds it: in the tree if it is going on, else in the store."""
        self.commit()
        found = data.draw(st.sampled_from([job for state in states for job in self.in_state(state)]))
        return self.tree.jobs.get(found.id) or found

    @precondition(lambda self: self.tree.totals[State.READY] or self.tree.totals[State.FAILED])
    @rule(data=st.data())
    def marks_as_done(self, data: st.DataObject) -> None:
        job = self.pick(data, State.READY, State.ISSUED, State.FAILED)
        done = self.tree.totals[State.DONE]
        self.tree.mark_done(job)
        assert self.tree.totals[State.DONE] > done
        self.commit()
        assert job.id not in self.rows.all_jobs()

    @precondition(lambda self: not self.tree.complete)
    @rule(data=st.data())
    def forgets_a_job_with_all_below_it(self, data: st.DataObject) -> None:
        job = self.pick(data, State.READY, State.ISSUED, State.BLOCKED, State.FAILED)
        if job.parent == ROOT_PARENT:
            return
        below = self.rows.below(job.id)
        before, done = len(self.rows.all_jobs()), self.tree.totals[State.DONE]
        self.tree.forget(job, below)
        self.commit()
        freed = self.tree.totals[State.DONE] - done
        assert len(self.rows.all_jobs()) == before - 1 - below.total - freed

    @rule()
    def forgets_bundles_that_are_over(self) -> None:
        for bundle in [b for b, members in self.tree.bundles.items() if not members]:
            self.tree.bundle_over(bundle)

    # -- what workers report -----------------------------------------------------------------------------------

    @precondition(lambda self: self.tree.totals[State.ISSUED])
    @rule(
        data=st.data(),
        shapes=st.lists(st.sampled_from(SHAPES), max_size=3),
        follow_on=st.none() | st.sampled_from(SHAPES),
        straight_on=st.booleans(),
    )
    def target_succeeds(
        self, data: st.DataObject, shapes: list[int], follow_on: Optional[int], straight_on: bool
    ) -> None:
        job = self.pick_issued(data)
        rows = [self.child_row(shape, memory) for memory, shape in enumerate(shapes)]
        children = Children({shape: shapes.count(shape) for shape in shapes}, rows) if rows else None
        spec = None
        if follow_on is not None:
            spec = Spec(follow_on, follow_on << 20, 1.5, self.packed(b"follow-on of %d" % job.id))
        goes_on = None
        if straight_on and len(rows) == 1:
            goes_on = GoesOn(rows[0].id, rows[0].shape, rows[0].memory, rows[0].time)
        elif straight_on and not rows and spec is not None:
            goes_on = GoesOn()
        assert self.tree.succeeded(job.id, job.attempt, children, spec, goes_on)

    @precondition(lambda self: self.tree.totals[State.ISSUED])
    @rule(data=st.data(), final=st.booleans())
    def target_fails(self, data: st.DataObject, final: bool) -> None:
        job = self.pick_issued(data)
        left = self.retry_count - job.tries
        state = self.tree.failed(job.id, job.attempt, final)
        assert state is (State.FAILED if final or left <= 0 else State.READY)

    @precondition(lambda self: self.tree.totals[State.ISSUED])
    @rule(data=st.data(), alone=st.booleans(), charge=st.booleans())
    def worker_is_lost(self, data: st.DataObject, alone: bool, charge: bool) -> None:
        job = self.pick_issued(data)
        self.tree.lost(job.id, job.attempt, alone, charge)

    @precondition(lambda self: self.tree.totals[State.ISSUED])
    @rule(data=st.data())
    def job_is_recalled(self, data: st.DataObject) -> None:
        job = self.pick_issued(data)
        assert self.tree.recalled(job.id, job.attempt)

    @precondition(lambda self: self.tree.totals[State.ISSUED])
    @rule(data=st.data())
    def target_makes_its_global_directory(self, data: st.DataObject) -> None:
        job = self.pick_issued(data)
        self.tree.uses_global_dir(job.id, job.attempt)
        assert self.tree.ancestors_with_global_dir(job.id)[0] == job.id

    @rule(
        id=st.integers(0, 30),
        off=st.sampled_from((-1, 1, 2)),
        report=st.sampled_from(("succeeded", "failed", "lost", "recalled", "uses_global_dir")),
    )
    def late_report_changes_nothing(self, id: int, off: int, report: str) -> None:
        job = self.tree.jobs.get(id)
        attempt = off if job is None else job.attempt + (off if job.state is State.ISSUED else 0)
        before = ({i: fields(j) for i, j in self.tree.jobs.items()}, list(self.tree.totals))
        touched = {i: fields(j) for i, j in self.tree.changes.touched.items()}
        stale = self.tree.stale

        answer = getattr(self.tree, report)(id, attempt)

        assert not answer
        assert self.tree.stale == stale + 1
        assert ({i: fields(j) for i, j in self.tree.jobs.items()}, list(self.tree.totals)) == before
        assert {i: fields(j) for i, j in self.tree.changes.touched.items()} == touched

    @invariant()
    def nothing_contradicts_itself(self) -> None:
        self.tree.check_invariants()
