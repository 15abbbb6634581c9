"""The table of transitions: every pair of state and event is listed or refused, and contradictions are noticed."""

from __future__ import annotations

import itertools

import pytest

from jobtree.errors import BrokenInvariant
from jobtree.events import Event, Job, State
from jobtree.tree import TRANSITIONS, Tree
from tests.unit.test_tree import ROOT, SHAPE, issue, tree_with_root


@pytest.mark.parametrize(("state", "event"), list(itertools.product(State, Event)), ids=lambda x: x.name)
def test_every_pair_of_state_and_event_is_listed_or_refused(state: State, event: Event) -> None:
    for to in State:
        tree = Tree()
        job = Job(ROOT, 0, SHAPE, state)
        tree.counts[SHAPE] = [1, 1, 1, 1, 1]
        if to in TRANSITIONS.get((state, event), ()):
            tree._move(job, event, to)
            assert job.state is to
        else:
            with pytest.raises(BrokenInvariant, match="cannot become"):
                tree._move(job, event, to)
            assert job.state is state
            assert tree.counts[SHAPE] == [1, 1, 1, 1, 1]


def test_nothing_leaves_done_and_every_other_state_can_be_left() -> None:
    sources = {state for state, _ in TRANSITIONS}
    targets = {to for following in TRANSITIONS.values() for to in following}

    assert sources == set(State) - {State.DONE}
    assert targets == set(State)


@pytest.mark.parametrize("state", [State.ISSUED, State.BLOCKED, State.FAILED, State.DONE])
def test_only_ready_jobs_can_be_issued_or_found_too_large(state: State) -> None:
    with pytest.raises(BrokenInvariant):
        tree_with_root().issued(1, [Job(5, 0, SHAPE, state)])
    with pytest.raises(BrokenInvariant):
        tree_with_root().never_fits(Job(5, 0, SHAPE, state))


def test_child_that_is_done_below_a_parent_that_is_not_blocked_is_our_mistake() -> None:
    tree = tree_with_root()
    issue(tree, ROOT, parent=77)

    with pytest.raises(BrokenInvariant, match="its parent is None"):
        tree.succeeded(ROOT, 1)


BLOCKED = Job(ROOT, 0, SHAPE, State.BLOCKED, pending=1)
CONTRADICTIONS: dict[str, tuple[list[Job], tuple[int, ...]]] = {
    "counted and not there": ([], (0, 1, 0, 0, 0)),
    "there and not counted": ([BLOCKED], (1, 0, 0, 0, 0)),
    "below zero": ([BLOCKED], (2, -1, 1, 0, 0)),
    "blocked by nobody": ([BLOCKED], (0, 0, 1, 0, 0)),
    "more children than are waited for": ([BLOCKED], (2, 0, 1, 0, 0)),
    "ready in memory": ([Job(ROOT, 0, SHAPE)], (1, 0, 0, 0, 0)),
    "parent that is not there": ([BLOCKED, Job(3, 2, SHAPE, State.ISSUED, bundle=1)], (0, 1, 1, 0, 0)),
    "blocked with no children": ([Job(ROOT, 0, SHAPE, State.BLOCKED)], (0, 0, 1, 0, 0)),
    "issued with children": ([Job(ROOT, 0, SHAPE, State.ISSUED, pending=1, bundle=1)], (1, 1, 0, 0, 0)),
}


@pytest.mark.parametrize("what", CONTRADICTIONS)
def test_stored_tree_that_contradicts_itself_is_not_loaded(what: str) -> None:
    jobs, counts = CONTRADICTIONS[what]

    with pytest.raises(BrokenInvariant):
        Tree().load(jobs, {SHAPE: counts})
