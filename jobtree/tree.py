"""The state machine: everything that can change a job's state is in this file.

Rules of this file
  1. It does no I/O, reads no clock, draws no random numbers, logs nothing. Events come in as method calls, what must
     be written or done goes out as one ``Changes`` object. Tests compare those.
  2. It knows nothing of payloads. What a target *is* (its pickle, its promises) passes through as an opaque ``spec``.
  3. A pair of state and event that is not in ``TRANSITIONS`` is a bug of ours and raises ``BrokenInvariant``.

What it holds. One small record for each job that is ISSUED or BLOCKED. READY and FAILED jobs are only counted: they
live in the store, and the master reads READY ones from there in pages when it has room for them. So memory follows
what is going on, not what is waiting, and nothing here is proportional to what is done.

What a job is. A chain: a founder and its follow-ons, one after the other, in one row. ``step`` counts the targets of
the chain that have succeeded, ``attempt`` every try of every one of them. A report names (job, attempt); one that is
not the current attempt of an ISSUED job changes nothing and is counted in ``stale``.

Two kinds of transition. Most follow from an event about that job. Two follow from the state of others: when the last
child of a BLOCKED job is DONE, or forgotten, the job goes on to its follow-on or is DONE itself, which may in turn free
its parent; ``_finish`` walks up as far as that reaches, in a loop, because chains of parents can be longer than
Python's stack.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Optional

from jobtree.errors import BrokenInvariant
from jobtree.events import ROOT_PARENT, Below, Changes, Children, Event, GoesOn, Job, Request, Spec, State

TRANSITIONS: Mapping[tuple[State, Event], tuple[State, ...]] = {
    (State.READY, Event.ISSUED): (State.ISSUED,),
    (State.READY, Event.NEVER_FITS): (State.FAILED,),
    (State.ISSUED, Event.SUCCEEDED): (State.BLOCKED, State.READY, State.ISSUED, State.DONE),
    (State.ISSUED, Event.RECALLED): (State.READY,),
    (State.ISSUED, Event.FAILED): (State.READY, State.FAILED),
    (State.ISSUED, Event.LOST): (State.READY, State.FAILED),
    (State.BLOCKED, Event.CHILDREN_DONE): (State.READY, State.DONE),
    (State.FAILED, Event.RENEWED): (State.READY,),
    (State.READY, Event.MARKED_DONE): (State.DONE,),
    (State.ISSUED, Event.MARKED_DONE): (State.DONE,),
    (State.FAILED, Event.MARKED_DONE): (State.DONE,),
    (State.READY, Event.FORGOTTEN): (),
    (State.ISSUED, Event.FORGOTTEN): (),
    (State.BLOCKED, Event.FORGOTTEN): (),
    (State.FAILED, Event.FORGOTTEN): (),
}
"""Every legal pair of state and event, with the states that may follow; none: the job is no more, in any state. Drawn
in the documents from here."""


class Tree:
    """The jobs that are going on, and how many there are in each state.

    retry_count: how often a target that fails by its own fault is tried again.
    max_lost: after how many losses in a row without its own fault a job is given up.
    """

    def __init__(self, retry_count: int = 0, max_lost: int = 5) -> None:
        self.retry_count = retry_count
        self.max_lost = max_lost
        self.jobs: dict[int, Job] = {}
        self.counts: dict[int, list[int]] = {}
        self.totals: list[int] = [0, 0, 0, 0, 0]
        self.stale: int = 0
        self.bundles: dict[int, set[int]] = {}
        self.with_global_dir: int = 0
        self.changes: Changes = Changes()

    # -- loading and handing over ------------------------------------------------------------------------------

    def load(self, jobs: Iterable[Job], counts: Mapping[int, Iterable[int]]) -> None:
        """Take in the ISSUED and BLOCKED jobs of a stored tree, and its counts by shape and state."""
        for shape, numbers in counts.items():
            self.counts[shape] = list(numbers)
            for state, number in enumerate(self.counts[shape]):
                self.totals[state] += number
        for job in jobs:
            self.jobs[job.id] = job
            self.with_global_dir += job.has_global
            if job.state is State.ISSUED:
                self.bundles.setdefault(job.bundle, set()).add(job.id)
        self.check_invariants()

    def take_changes(self) -> Changes:
        """Hand over what has come together since the last call."""
        changes, self.changes = self.changes, Changes()
        return changes

    # -- events ------------------------------------------------------------------------------------------------

    def add_root(self, job: Job, source: Any) -> None:
        """The first job of a new tree; source yields its row."""
        self._count(job.shape, State.READY, 1)
        self.changes.children.append((ROOT_PARENT, source))

    def issued(self, bundle: int, jobs: Iterable[Job]) -> None:
        """READY jobs, read from the store, have been put into a bundle. Each starts a new attempt."""
        members = self.bundles.setdefault(bundle, set())
        for job in jobs:
            if job.id in self.jobs:
                raise BrokenInvariant(
                    f"{job!r} is to be issued and is already going on as {self.jobs[job.id]!r}"
                )
            self._move(job, Event.ISSUED, State.ISSUED)
            job.attempt += 1
            job.bundle = bundle
            self.jobs[job.id] = job
            self.with_global_dir += job.has_global
            members.add(job.id)
            self.changes.issued.append((bundle, job.id))

    def current(self, id: int, attempt: int) -> Optional[Job]:
        """The record of an ISSUED job if this is its current attempt; else None, and the report is stale."""
        job = self.jobs.get(id)
        if job is None or job.attempt != attempt or job.state is not State.ISSUED:
            self.stale += 1
            return None
        return job

    def uses_global_dir(self, id: int, attempt: int) -> None:
        """A target is about to make its chain's global temporary directory."""
        job = self.current(id, attempt)
        if job is not None and not job.has_global:
            job.has_global = True
            self.with_global_dir += 1
            self.changes.touched[id] = job

    def succeeded(
        self,
        id: int,
        attempt: int,
        children: Optional[Children] = None,
        follow_on: Optional[Spec] = None,
        goes_on: Optional[GoesOn] = None,
    ) -> bool:
        """A target ended well and left these children and this follow-on. False if the report is stale."""
        job = self.current(id, attempt)
        if job is None:
            return False
        if job.tries or job.losses:
            self.changes.forgiven.append(id)
            job.tries = job.losses = 0
        job.alone = False
        bundle = job.bundle
        if children is not None and children.total:
            self._block(job, children, follow_on)
            if goes_on is not None:
                self._go_on_with_child(job, bundle, goes_on)
        elif follow_on is not None:
            job.step += 1
            to = State.ISSUED if goes_on is not None else State.READY
            self._move(job, Event.SUCCEEDED, to, follow_on.shape)
            self._replace_spec(job, follow_on)
            if to is State.ISSUED:
                job.attempt += 1
            else:
                self._leave(job)
            self.changes.touched[id] = job
        else:
            self._finish(job, Event.SUCCEEDED)
        return True

    def failed(self, id: int, attempt: int, final: bool = False) -> Optional[State]:
        """A target failed by its own fault: one try less. final: give it up at once.

        Returns the state that follows, READY or FAILED, or None if the report is stale.
        """
        job = self.current(id, attempt)
        if job is None:
            return None
        job.tries += 1
        job.losses = 0  # they are counted in a row
        to = State.FAILED if final or job.tries > self.retry_count else State.READY
        self._give_back(job, Event.FAILED, to)
        return to

    def lost(
        self,
        id: int,
        attempt: int,
        alone: bool = False,
        charge: bool = True,
        request: Optional[Request] = None,
    ) -> Optional[State]:
        """An attempt ended without the target's fault. alone: the next attempt has a worker for itself.

        charge=False does not count the loss either: the job was not even started. request: what it asks for from now
        on. Returns as ``failed`` does.
        """
        job = self.current(id, attempt)
        if job is None:
            return None
        job.losses += charge
        # A loss that says nothing about the job does not clear it of a suspicion either.
        job.alone = alone or (job.alone and not charge)
        to = State.FAILED if charge and job.losses >= self.max_lost else State.READY
        if request is not None:
            job.memory, job.time = request.memory, request.time
        self._give_back(job, Event.LOST, to, request.shape if request is not None else None)
        return to

    def recalled(self, id: int, attempt: int) -> bool:
        """A bundle gave a job back that it had not started; the attempt does not count. False if stale."""
        job = self.current(id, attempt)
        if job is None:
            return False
        self._give_back(job, Event.RECALLED, State.READY)
        return True

    def never_fits(self, job: Job) -> None:
        """A READY job, read from the store, asks for more than there will ever be."""
        self._move(job, Event.NEVER_FITS, State.FAILED)
        self.changes.touched[job.id] = job

    def renewed(self) -> int:
        """Every FAILED job gets its tries back and is READY (the store rewrites the rows). Returns how many."""
        renewed = self.totals[State.FAILED]
        for shape, numbers in self.counts.items():
            number = numbers[State.FAILED]
            if number:
                self._count(shape, State.FAILED, -number)
                self._count(shape, State.READY, number)
        return renewed

    def renew(self, job: Job) -> None:
        """A FAILED job, read from the store, gets its tries back and is READY."""
        self._move(job, Event.RENEWED, State.READY)
        job.tries = job.losses = 0
        job.alone = False
        self.changes.forgiven.append(job.id)
        self.changes.touched[job.id] = job

    def mark_done(self, job: Job) -> None:
        """A job is taken as DONE although its target has not run: READY or FAILED, read from the store, or ISSUED.

        Its chain ends there, because nobody knows what it would have left. Reports of its attempt are stale.
        """
        self.changes.forgiven.append(job.id)
        self._finish(job, Event.MARKED_DONE)

    def forget(self, job: Job, below: Below) -> None:
        """A job and all that is below it are gone as if it had never been added; its parent goes on if it was the last.

        job: READY or FAILED, read from the store, or the record of one that is going on; not the root. The store
        deletes the rows.
        """
        if (job.state, Event.FORGOTTEN) not in TRANSITIONS or job.parent == ROOT_PARENT:
            raise BrokenInvariant(f"this cannot be forgotten: {job!r}")
        for id in below.going_on:
            self._leave(self.jobs[id])
        for shape, numbers in below.counts.items():
            for state in State:
                self._count(shape, state, -numbers[state])
        self._count(job.shape, job.state, -1)
        self._leave(job)
        self.changes.global_dirs.extend(below.global_dirs)
        if job.has_global:
            self.changes.global_dirs.append(job.id)
        self.changes.forgotten.append(job.id)
        parent = self._one_less(job.parent, job)
        if parent is not None:
            self._finish(parent, Event.CHILDREN_DONE)

    def bundle_over(self, bundle: int) -> None:
        """Forget a bundle; every job of it must have been reported."""
        members = self.bundles.pop(bundle, set())
        if members:
            raise BrokenInvariant(
                f"bundle {bundle} is over but {sorted(members)[:5]} in it were not reported"
            )

    # -- steps -------------------------------------------------------------------------------------------------

    def _block(self, job: Job, children: Children, follow_on: Optional[Spec]) -> None:
        shape = follow_on.shape if follow_on is not None else job.shape
        self._move(job, Event.SUCCEEDED, State.BLOCKED, shape)
        self._replace_spec(job, follow_on)
        self.bundles[job.bundle].discard(job.id)
        job.bundle = 0
        job.pending = children.total
        for child_shape, number in children.count_by_shape.items():
            self._count(child_shape, State.READY, number)
        self.changes.children.append((job.id, children.source))
        self.changes.touched[job.id] = job

    def _go_on_with_child(self, parent: Job, bundle: int, goes_on: GoesOn) -> None:
        if goes_on.child is None or parent.pending != 1:
            raise BrokenInvariant(f"a worker went on with a child of {parent!r}, which is not its only one")
        child = Job(goes_on.child, parent.id, goes_on.shape, memory=goes_on.memory, time=goes_on.time)
        self.issued(bundle, [child])

    def _replace_spec(self, job: Job, spec: Optional[Spec]) -> None:
        job.has_next = spec is not None
        if spec is not None:
            job.memory, job.time = spec.memory, spec.time
        self.changes.specs[job.id] = spec

    def _give_back(self, job: Job, event: Event, to: State, shape: Optional[int] = None) -> None:
        self._move(job, event, to, shape)
        self._leave(job)
        self.changes.touched[job.id] = job

    def _leave(self, job: Job) -> None:
        """The record goes, if there is one; the store keeps the row."""
        if self.jobs.pop(job.id, None) is not None:
            self.with_global_dir -= job.has_global
        members = self.bundles.get(job.bundle)
        if members is not None:
            members.discard(job.id)
        job.bundle = 0

    def _finish(self, job: Job, event: Event) -> None:
        """The job is DONE; go up to its parent, and on as long as that makes the parent DONE too."""
        changes = self.changes
        while True:
            self._move(job, event, State.DONE)
            self._leave(job)
            changes.touched.pop(job.id, None)
            changes.specs.pop(job.id, None)
            changes.done.append(job.id)
            if job.has_global:
                changes.global_dirs.append(job.id)
            if job.parent == ROOT_PARENT:
                return
            parent = self._one_less(job.parent, job)
            if parent is None:
                return
            job, event = parent, Event.CHILDREN_DONE

    def _one_less(self, id: int, job: Job) -> Optional[Job]:
        """This child of a BLOCKED job is no more. Returns the parent if that is to be DONE now as well."""
        parent = self.jobs.get(id)
        if parent is None or parent.state is not State.BLOCKED or parent.pending < 1:
            raise BrokenInvariant(f"{job!r} is done and its parent is {parent!r}")
        parent.pending -= 1
        self.changes.touched[parent.id] = parent
        if parent.pending or not parent.has_next:
            return None if parent.pending else parent
        parent.step += 1
        self._move(parent, Event.CHILDREN_DONE, State.READY)
        self._leave(parent)
        return None

    def _move(self, job: Job, event: Event, to: State, shape: Optional[int] = None) -> None:
        if to not in TRANSITIONS.get((job.state, event), ()):
            raise BrokenInvariant(f"{job.state.name} cannot become {to.name} by '{event.value}': {job!r}")
        self._count(job.shape, job.state, -1)
        job.state = to
        if shape is not None:
            job.shape = shape
        self._count(job.shape, to, 1)

    def _count(self, shape: int, state: State, number: int) -> None:
        numbers = self.counts.get(shape)
        if numbers is None:
            numbers = self.counts[shape] = [0, 0, 0, 0, 0]
        numbers[state] += number
        self.totals[state] += number
        self.changes.shapes.add(shape)

    # -- questions ---------------------------------------------------------------------------------------------

    @property
    def complete(self) -> bool:
        """True when no job is left that is not DONE."""
        return not any(self.totals[: State.DONE])

    @property
    def stuck(self) -> bool:
        """True when nothing is going on and nothing can be issued: what is left waits for FAILED jobs."""
        return not self.totals[State.READY] and not self.totals[State.ISSUED]

    def in_bundle(self, bundle: int) -> list[Job]:
        """The jobs that a bundle still has to report."""
        return [self.jobs[id] for id in self.bundles.get(bundle, ())]

    def ancestors_with_global_dir(self, id: int) -> list[int]:
        """The job itself and the jobs above it that have made a global temporary directory, nearest first."""
        found = []
        job = self.jobs.get(id)
        while job is not None:
            if job.has_global:
                found.append(job.id)
            job = self.jobs.get(job.parent)
        return found

    def check_invariants(self) -> None:
        """Raise BrokenInvariant if the state contradicts itself. May be called at any time."""
        by_state = [0, 0, 0, 0, 0]
        children: dict[int, int] = {}
        for id, job in self.jobs.items():
            by_state[job.state] += 1
            children[job.parent] = children.get(job.parent, 0) + 1
            wrong = self._wrong_with(id, job)
            if wrong:
                raise BrokenInvariant(f"{job!r} {wrong}")
        for id, number in children.items():
            if id != ROOT_PARENT and number > self.jobs[id].pending:
                raise BrokenInvariant(f"{self.jobs[id]!r} has {number} children going on")
        for bundle, members in self.bundles.items():
            for id in members:
                if id not in self.jobs or self.jobs[id].bundle != bundle:
                    raise BrokenInvariant(f"{id} is not issued in {bundle}")
        self._check_counts(by_state)

    def _wrong_with(self, id: int, job: Job) -> str:
        """What is wrong with a record, in words; "" if nothing is. (No message is made for what is right: at the
        start of a large tree this is asked a million times.)"""
        if id != job.id:
            return f"is kept under {id}"
        if job.state is not State.ISSUED and job.state is not State.BLOCKED:
            return "should not be in memory"
        if (job.state is State.BLOCKED) != (job.pending > 0):
            return "has a wrong number of children"
        if job.state is State.ISSUED and id not in self.bundles.get(job.bundle, ()):
            return "is not in its bundle"
        if job.parent != ROOT_PARENT:
            parent = self.jobs.get(job.parent)
            if parent is None or parent.state is not State.BLOCKED:
                return f"has the parent {parent!r}"
        return ""

    def _check_counts(self, by_state: list[int]) -> None:
        totals = [sum(numbers[state] for numbers in self.counts.values()) for state in State]
        _require(totals == self.totals, f"the counts {self.counts} do not add up to {self.totals}")
        _require(
            all(n >= 0 for numbers in self.counts.values() for n in numbers), f"{self.counts} below zero"
        )
        for state in (State.ISSUED, State.BLOCKED):
            _require(by_state[state] == self.totals[state], f"{by_state} in memory, {self.totals} counted")
        pending = sum(job.pending for job in self.jobs.values())
        waiting = self.totals[State.READY] + self.totals[State.FAILED] + len(self.jobs)
        roots = 0 if self.complete else 1
        _require(pending + roots == waiting, f"{pending} children are waited for, {waiting - roots} exist")
        with_dir = sum(job.has_global for job in self.jobs.values())
        _require(
            self.with_global_dir == with_dir, f"{with_dir} global directories, {self.with_global_dir} counted"
        )


def _require(holds: bool, otherwise: str) -> None:
    if not holds:
        raise BrokenInvariant(otherwise)
