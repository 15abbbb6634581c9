"""The state machine under random histories, and the theorem that disturbances change nothing in the end."""

from __future__ import annotations

import copy
import random
from collections import Counter
from typing import NamedTuple, Optional

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jobtree.events import ROOT_PARENT, Children, GoesOn, Job, Spec, State
from jobtree.schema import ChildRow
from jobtree.tree import Tree
from tests.unit.tree_histories import ROOT_ID, Histories, Rows, check_rows

TestRandomHistories = Histories.TestCase


class Plan(NamedTuple):
    """What a target does: it fails so many times, then adds these children and this follow-on."""

    failures: int
    shape: int
    children: tuple[Plan, ...]
    follow_on: Optional[Plan]


def plans(depth: int) -> st.SearchStrategy[Plan]:
    """Random trees of targets."""
    below: st.SearchStrategy[Plan] = plans(depth - 1) if depth else st.nothing()
    children = st.lists(below, max_size=3).map(tuple) if depth else st.just(())
    follow_on = st.none() | below if depth else st.none()
    return st.builds(Plan, st.integers(0, 2), st.integers(1, 3), children, follow_on)


def names_below(plan: Plan, name: str) -> set[str]:
    """The names of a target and of everything that it leads to."""
    names = {name}
    for index, child in enumerate(plan.children):
        names |= names_below(child, f"{name}.{index}")
    if plan.follow_on is not None:
        names |= names_below(plan.follow_on, f"{name}+")
    return names


class Run:
    """Carries a plan out, one event at a time, in an order that a seed decides."""

    def __init__(self, plan: Plan, seed: int, disturbances: int) -> None:
        self.chance = random.Random(seed)
        self.disturbances = disturbances
        self.rows = Rows()
        self.plans: dict[str, Plan] = {}
        self.counted: Counter[str] = Counter()
        self.uncommitted: list[str] = []
        self.last_id = ROOT_ID
        self.last_bundle = 0
        self.know("r", plan)
        self.tree = self.new_tree()
        self.tree.add_root(
            Job(ROOT_ID, ROOT_PARENT, plan.shape), [ChildRow(ROOT_ID, plan.shape, 0, 0.0, b"r", ())]
        )
        self.commit()

    def know(self, name: str, plan: Plan) -> None:
        self.plans[name] = plan

    def new_tree(self) -> Tree:
        return Tree(retry_count=2, max_lost=3)

    def commit(self) -> None:
        self.rows.write(self.tree.take_changes(), self.tree.counts)
        self.counted.update(self.uncommitted)
        self.uncommitted.clear()
        for id, payload in self.rows.payloads.items():
            if self.rows.jobs[id].state is State.READY and payload is not None:
                self.check_order(payload.decode())

    def check_order(self, name: str) -> None:
        """A follow-on is READY: all that its founder's children led to must be done."""
        if not name.endswith("+"):
            return
        founder = name[:-1]
        for index, child in enumerate(self.plans[founder].children):
            missing = names_below(child, f"{founder}.{index}") - set(self.counted)
            assert not missing, f"{name} could start before {missing}"

    def to_the_end(self) -> Counter[str]:
        while not self.tree.complete:
            if self.tree.stuck:
                self.commit()
                self.tree.renewed()
                self.rows.renew_failed()
            self.step()
            self.tree.check_invariants()
        self.commit()
        check_rows(self.rows)
        return self.counted

    def step(self) -> None:
        issued = [job for job in self.tree.jobs.values() if job.state is State.ISSUED]
        if self.disturbances and self.chance.random() < 0.3:
            self.disturbances -= 1
            self.disturb(issued)
        elif issued and (self.chance.random() < 0.7 or not self.tree.totals[State.READY]):
            self.report(self.chance.choice(issued))
        elif self.tree.totals[State.READY]:
            self.issue()
        if self.chance.random() < 0.5:
            self.commit()

    def issue(self) -> None:
        self.commit()
        ready = [job for job in self.rows.jobs.values() if job.state is State.READY]
        some = self.chance.sample(ready, self.chance.randint(1, min(3, len(ready))))
        self.last_bundle += 1
        self.tree.issued(self.last_bundle, [copy.copy(job) for job in some])

    def disturb(self, issued: list[Job]) -> None:
        what = self.chance.choice(("master dies", "lost", "recalled", "late"))
        if what == "master dies":
            self.tree = self.new_tree()
            self.tree.load(self.rows.held_jobs(), self.rows.counts())
            self.uncommitted.clear()
        elif what == "late":
            id = self.chance.randint(1, self.last_id)
            job = self.tree.jobs.get(id)
            assert not self.tree.succeeded(id, 0 if job is None else job.attempt - 1)
        elif issued:
            job = self.chance.choice(issued)
            if what == "lost":
                self.tree.lost(job.id, job.attempt, alone=True, charge=self.chance.random() < 0.8)
            else:
                self.tree.recalled(job.id, job.attempt)

    def report(self, job: Job) -> None:
        name = self.name_of(job)
        plan = self.plans[name]
        if job.tries < plan.failures:
            self.tree.failed(job.id, job.attempt)
            return
        rows = []
        for index, child in enumerate(plan.children):
            self.last_id += 1
            self.know(f"{name}.{index}", child)
            rows.append(ChildRow(self.last_id, child.shape, 0, 0.0, f"{name}.{index}".encode(), ()))
        spec = None
        if plan.follow_on is not None:
            self.know(f"{name}+", plan.follow_on)
            spec = Spec(plan.follow_on.shape, 0, 0.0, (f"{name}+".encode(), ()))
        shapes = Counter(row.shape for row in rows)
        goes_on = None
        if self.chance.random() < 0.5:
            if len(rows) == 1:
                goes_on = GoesOn(rows[0].id, rows[0].shape)
            elif not rows and spec is not None:
                goes_on = GoesOn()
        assert self.tree.succeeded(
            job.id, job.attempt, Children(shapes, rows) if rows else None, spec, goes_on
        )
        self.uncommitted.append(name)

    def name_of(self, job: Job) -> str:
        """Which target a job is at: as committed, or as it will be."""
        changes = self.tree.changes
        spec = changes.specs.get(job.id)
        if spec is not None:
            return str(spec.packed[0].decode())
        for _, source in changes.children:
            for row in source:
                if row.id == job.id:
                    return str(row.payload.decode())
        payload = self.rows.payloads[job.id]
        assert payload is not None
        return payload.decode()


@settings(max_examples=settings.default.max_examples * 2)  # type: ignore[union-attr]
@given(plan=plans(3), seed=st.integers(0, 2**32), disturbances=st.integers(0, 40))
def test_disturbed_run_ends_as_the_undisturbed_one(plan: Plan, seed: int, disturbances: int) -> None:
    undisturbed = Run(plan, seed, 0).to_the_end()

    disturbed = Run(plan, seed, disturbances).to_the_end()

    assert undisturbed == Counter(names_below(plan, "r"))
    assert disturbed == undisturbed


@pytest.mark.parametrize("seed", range(5))
def test_deep_and_broad_plan_survives_many_disturbances(seed: int) -> None:
    plan = Plan(0, 1, (), None)
    for level in range(60):
        leaf = Plan(level % 3, 2, (), None)
        plan = Plan(level % 2, 1, (plan, leaf) if level % 3 else (plan,), leaf if level % 2 else None)

    assert Run(plan, seed, 300).to_the_end() == Counter(names_below(plan, "r"))
