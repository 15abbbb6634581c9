"""Each transition of the state machine, with the changes that go out."""

from __future__ import annotations

from typing import Any, Optional

import pytest

from jobtree.errors import BrokenInvariant
from jobtree.events import Below, Changes, Children, GoesOn, Job, Spec, State
from jobtree.tree import Tree

ROOT = 1
SHAPE = 1
OTHER = 2


def tree_with_root(retry_count: int = 0, max_lost: int = 5) -> Tree:
    """A new tree with one READY job, committed."""
    tree = Tree(retry_count, max_lost)
    tree.add_root(Job(ROOT, 0, SHAPE), ["root"])
    tree.take_changes()
    return tree


def issue(tree: Tree, *ids: int, bundle: int = 1, parent: int = 0, **more: Any) -> list[Job]:
    """Put READY jobs into a bundle, and forget the changes."""
    jobs = [Job(id, parent, SHAPE, **more) for id in ids]
    tree.issued(bundle, jobs)
    tree.take_changes()
    return jobs


def tree_with_issued_root(retry_count: int = 0, max_lost: int = 5) -> tuple[Tree, Job]:
    """A tree whose only job is in bundle 1, in its first attempt."""
    tree = tree_with_root(retry_count, max_lost)
    return tree, issue(tree, ROOT)[0]


def children(count: int, shape: int = SHAPE) -> Children:
    return Children({shape: count}, f"{count} rows")


def spec(text: str = "next", shape: int = SHAPE) -> Spec:
    return Spec(shape, 100, 2.0, text)


def done(tree: Tree) -> Changes:
    """The changes, after a look at the invariants."""
    tree.check_invariants()
    return tree.take_changes()


def test_first_job_is_ready_and_its_row_goes_to_the_store() -> None:
    tree = Tree()
    tree.add_root(Job(ROOT, 0, SHAPE), ["root"])

    changes = done(tree)

    assert changes.children == [(0, ["root"])]
    assert changes.shapes == {SHAPE}
    assert tree.totals == [1, 0, 0, 0, 0]
    assert tree.jobs == {}


def test_issued_job_is_in_its_bundle_with_a_new_attempt() -> None:
    tree = tree_with_root()
    job = Job(ROOT, 0, SHAPE, attempt=3)

    tree.issued(7, [job])

    changes = done(tree)
    assert (job.state, job.attempt, job.bundle) == (State.ISSUED, 4, 7)
    assert changes.issued == [(7, ROOT)]
    assert changes.touched == {}
    assert tree.in_bundle(7) == [job]


def test_job_that_is_going_on_cannot_be_issued_again() -> None:
    tree, _ = tree_with_issued_root()

    with pytest.raises(BrokenInvariant, match="already going on"):
        tree.issued(2, [Job(ROOT, 0, SHAPE)])


def test_success_with_children_blocks_and_keeps_the_follow_on() -> None:
    tree, job = tree_with_issued_root()

    assert tree.succeeded(ROOT, 1, children(3, OTHER), spec(shape=5))

    changes = done(tree)
    assert (job.state, job.pending, job.has_next, job.bundle, job.step) == (State.BLOCKED, 3, True, 0, 0)
    assert (job.shape, job.memory, job.time) == (5, 100, 2.0)
    assert changes.children == [(ROOT, "3 rows")]
    assert changes.specs == {ROOT: spec(shape=5)}
    assert changes.touched == {ROOT: job}
    assert changes.shapes == {SHAPE, OTHER, 5}
    assert tree.counts[OTHER] == [3, 0, 0, 0, 0]
    assert tree.counts[SHAPE] == [0, 0, 0, 0, 0]
    assert tree.counts[5] == [0, 0, 1, 0, 0]
    assert tree.in_bundle(1) == []


def test_success_with_children_and_no_follow_on_blocks_without_a_next_target() -> None:
    tree, job = tree_with_issued_root()

    tree.succeeded(ROOT, 1, children(1))

    changes = done(tree)
    assert (job.state, job.has_next, job.shape) == (State.BLOCKED, False, SHAPE)
    assert changes.specs == {ROOT: None}


def test_success_with_a_follow_on_only_is_ready_again() -> None:
    tree, job = tree_with_issued_root()

    tree.succeeded(ROOT, 1, None, spec(shape=OTHER))

    changes = done(tree)
    assert (job.state, job.step, job.attempt, job.bundle, job.shape) == (State.READY, 1, 1, 0, OTHER)
    assert changes.touched == {ROOT: job}
    assert changes.specs == {ROOT: spec(shape=OTHER)}
    assert changes.children == []
    assert ROOT not in tree.jobs


def test_no_children_at_all_are_the_same_as_none() -> None:
    tree, job = tree_with_issued_root()

    tree.succeeded(ROOT, 1, Children({SHAPE: 0}, []), spec())

    assert job.state is State.READY
    assert done(tree).children == []


def test_worker_that_goes_on_with_the_follow_on_keeps_the_job() -> None:
    tree, job = tree_with_issued_root()

    tree.succeeded(ROOT, 1, None, spec(), GoesOn())

    changes = done(tree)
    assert (job.state, job.step, job.attempt, job.bundle) == (State.ISSUED, 1, 2, 1)
    assert changes.touched == {ROOT: job}
    assert changes.issued == []
    assert tree.in_bundle(1) == [job]
    assert tree.succeeded(ROOT, 2)


def test_worker_that_goes_on_with_the_only_child_has_it_in_the_same_bundle() -> None:
    tree, job = tree_with_issued_root()

    tree.succeeded(ROOT, 1, children(1, OTHER), spec(), GoesOn(2, OTHER, 64, 0.5))

    changes = done(tree)
    child = tree.jobs[2]
    assert job.state is State.BLOCKED
    assert (child.state, child.parent, child.attempt, child.bundle) == (State.ISSUED, ROOT, 1, 1)
    assert (child.shape, child.memory, child.time) == (OTHER, 64, 0.5)
    assert changes.issued == [(1, 2)]
    assert tree.in_bundle(1) == [child]
    assert tree.counts[OTHER] == [0, 1, 0, 0, 0]


@pytest.mark.parametrize(("count", "child"), [(2, 2), (1, None)])
def test_worker_cannot_go_on_with_one_of_several_children_or_with_none_named(
    count: int, child: Optional[int]
) -> None:
    tree, _ = tree_with_issued_root()

    with pytest.raises(BrokenInvariant, match="not its only one"):
        tree.succeeded(ROOT, 1, children(count), None, GoesOn(child))


def test_success_with_nothing_is_done() -> None:
    tree, _ = tree_with_issued_root()

    tree.succeeded(ROOT, 1)

    changes = done(tree)
    assert changes.done == [ROOT]
    assert changes.touched == {}
    assert changes.specs == {}
    assert tree.complete
    assert tree.totals == [0, 0, 0, 0, 1]


def test_recalled_job_is_ready_and_neither_try_nor_loss_is_counted() -> None:
    tree, job = tree_with_issued_root()

    assert tree.recalled(ROOT, 1)

    changes = done(tree)
    assert (job.state, job.tries, job.losses, job.bundle) == (State.READY, 0, 0, 0)
    assert changes.touched == {ROOT: job}


def test_failure_is_tried_again_until_the_tries_are_used_up() -> None:
    tree, _ = tree_with_issued_root(retry_count=2)
    states = []
    for attempt in range(1, 4):
        states.append(tree.failed(ROOT, attempt))
        tree.check_invariants()
        if states[-1] is State.READY:
            issue(tree, ROOT, bundle=attempt + 1, attempt=attempt, tries=attempt)

    assert states == [State.READY, State.READY, State.FAILED]
    assert tree.totals == [0, 0, 0, 1, 0]


def test_final_failure_is_given_up_whatever_tries_remain() -> None:
    tree, job = tree_with_issued_root(retry_count=9)

    assert tree.failed(ROOT, 1, final=True) is State.FAILED
    assert (job.state, job.tries) == (State.FAILED, 1)
    assert done(tree).touched == {ROOT: job}


def test_losses_are_counted_apart_from_tries() -> None:
    tree, job = tree_with_issued_root(retry_count=0)

    assert tree.lost(ROOT, 1, alone=True) is State.READY
    assert (job.tries, job.losses, job.alone) == (0, 1, True)
    assert done(tree).touched == {ROOT: job}


def test_job_is_given_up_after_so_many_losses_in_a_row() -> None:
    tree = tree_with_root(max_lost=3)
    issue(tree, ROOT, losses=2)

    assert tree.lost(ROOT, 1) is State.FAILED
    assert tree.stuck
    assert not tree.complete


def test_loss_that_charges_nobody_is_not_counted() -> None:
    tree, job = tree_with_issued_root(max_lost=1)

    assert tree.lost(ROOT, 1, charge=False) is State.READY
    assert job.losses == 0


def test_loss_that_charges_nobody_never_gives_a_job_up() -> None:
    """The limit can be lower than at the start before, when the job had already been lost so often."""
    tree = tree_with_root(max_lost=2)
    issue(tree, ROOT, losses=3)

    assert tree.lost(ROOT, 1, charge=False) is State.READY


def test_losses_with_a_failure_between_them_are_not_in_a_row() -> None:
    tree = tree_with_root(retry_count=5, max_lost=3)
    job = issue(tree, ROOT, losses=2)[0]

    tree.failed(ROOT, 1)

    assert job.losses == 0


def test_suspect_stays_alone_when_its_next_attempt_is_lost_without_charge() -> None:
    tree = tree_with_root()
    job = issue(tree, ROOT, alone=True)[0]

    tree.lost(ROOT, 1, charge=False)

    assert job.alone


def test_success_forgives_tries_losses_and_suspicion() -> None:
    tree = tree_with_root(retry_count=5)
    job = issue(tree, ROOT, tries=2, losses=1, alone=True)[0]

    tree.succeeded(ROOT, 1, None, spec())

    assert (job.tries, job.losses, job.alone) == (0, 0, False)
    assert done(tree).forgiven == [ROOT]


def test_success_without_failures_before_has_nothing_to_forgive() -> None:
    tree, _ = tree_with_issued_root()

    tree.succeeded(ROOT, 1)

    assert done(tree).forgiven == []


def test_job_that_never_fits_fails() -> None:
    tree = tree_with_root()
    job = Job(ROOT, 0, SHAPE)

    tree.never_fits(job)

    assert job.state is State.FAILED
    assert done(tree).touched == {ROOT: job}
    assert tree.counts[SHAPE] == [0, 0, 0, 1, 0]


def test_renewed_jobs_are_ready_and_counted() -> None:
    tree = Tree()
    tree.load(
        [Job(ROOT, 0, OTHER, State.BLOCKED, pending=6)], {SHAPE: (2, 0, 0, 3, 7), OTHER: (0, 0, 1, 1, 0)}
    )

    tree.renewed()

    assert tree.counts == {SHAPE: [5, 0, 0, 0, 7], OTHER: [1, 0, 1, 0, 0]}
    assert done(tree).shapes == {SHAPE, OTHER}


def test_renewal_says_how_many_jobs_it_renewed() -> None:
    tree = Tree()
    tree.load(
        [Job(ROOT, 0, OTHER, State.BLOCKED, pending=5)], {SHAPE: (2, 0, 0, 3, 7), OTHER: (0, 0, 1, 0, 0)}
    )

    assert tree.renewed() == 3


@pytest.mark.parametrize("report", ["succeeded", "failed", "lost", "recalled", "uses_global_dir"])
@pytest.mark.parametrize("attempt", [0, 2])
def test_late_report_of_an_earlier_attempt_changes_nothing(report: str, attempt: int) -> None:
    tree, job = tree_with_issued_root()

    assert not getattr(tree, report)(ROOT, attempt)

    assert (job.state, job.attempt, tree.stale) == (State.ISSUED, 1, 1)
    assert not done(tree)


@pytest.mark.parametrize("report", ["succeeded", "failed", "lost", "recalled", "uses_global_dir"])
def test_report_of_a_job_that_is_not_issued_changes_nothing(report: str) -> None:
    tree, job = tree_with_issued_root()
    tree.succeeded(ROOT, 1, children(1))
    tree.take_changes()

    assert not getattr(tree, report)(ROOT, 1)
    assert not getattr(tree, report)(99, 1)

    assert (job.state, tree.stale) == (State.BLOCKED, 2)
    assert not done(tree)


def test_last_child_done_makes_the_follow_on_ready() -> None:
    tree, job = tree_with_issued_root()
    tree.succeeded(ROOT, 1, children(2), spec())
    issue(tree, 2, 3, bundle=2, parent=ROOT)

    tree.succeeded(2, 1)
    first = done(tree)
    tree.succeeded(3, 1)
    second = done(tree)

    assert (first.done, first.touched) == ([2], {ROOT: job})
    assert (second.done, second.touched) == ([3], {ROOT: job})
    assert (job.state, job.pending, job.step) == (State.READY, 0, 1)
    assert tree.jobs == {}


def test_last_child_done_finishes_a_job_without_a_follow_on() -> None:
    tree, _ = tree_with_issued_root()
    tree.succeeded(ROOT, 1, children(1))
    issue(tree, 2, bundle=2, parent=ROOT)

    tree.succeeded(2, 1)

    changes = done(tree)
    assert changes.done == [2, ROOT]
    assert changes.touched == {}
    assert tree.complete


def test_failed_child_keeps_its_parent_blocked_and_the_tree_stuck() -> None:
    tree, job = tree_with_issued_root()
    tree.succeeded(ROOT, 1, children(2), spec())
    issue(tree, 2, 3, bundle=2, parent=ROOT)

    stuck = []
    tree.failed(2, 1)
    stuck.append(tree.stuck)
    tree.succeeded(3, 1)
    stuck.append(tree.stuck)

    assert (job.state, job.pending) == (State.BLOCKED, 1)
    assert stuck == [False, True]
    assert not tree.complete


def test_global_directory_is_noted_once_and_goes_when_the_chain_is_done() -> None:
    tree, job = tree_with_issued_root()

    tree.uses_global_dir(ROOT, 1)
    first = done(tree)
    tree.uses_global_dir(ROOT, 1)
    second = done(tree)
    tree.succeeded(ROOT, 1, None, spec(), GoesOn())
    third = done(tree)
    tree.succeeded(ROOT, 2)

    assert first.touched == {ROOT: job}
    assert not second
    assert third.global_dirs == []
    assert done(tree).global_dirs == [ROOT]
    assert tree.with_global_dir == 0


def test_ancestors_with_global_directories_are_found_nearest_first() -> None:
    tree, _ = tree_with_issued_root()
    tree.uses_global_dir(ROOT, 1)
    tree.succeeded(ROOT, 1, children(1), None, GoesOn(2, SHAPE))
    tree.succeeded(2, 1, children(1), None, GoesOn(3, SHAPE))
    tree.uses_global_dir(3, 1)

    assert tree.ancestors_with_global_dir(3) == [3, ROOT]
    assert tree.ancestors_with_global_dir(2) == [ROOT]
    assert tree.ancestors_with_global_dir(99) == []
    assert tree.with_global_dir == 2


def test_bundle_is_over_only_when_all_its_jobs_are_reported() -> None:
    tree, _ = tree_with_issued_root()

    with pytest.raises(BrokenInvariant, match="not reported"):
        tree.bundle_over(1)


def test_bundle_that_nobody_knows_is_over_already() -> None:
    tree = tree_with_root()

    tree.bundle_over(17)

    assert tree.bundles == {}


def test_chain_of_a_hundred_thousand_parents_ends_without_recursion(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Tree, "check_invariants", lambda self: None)  # looking at so many jobs takes seconds
    depth = 100_000
    tree = Tree()
    above = [
        Job(id, id - 1, SHAPE, State.BLOCKED, pending=1, has_next=False, has_global=id == 5)
        for id in range(1, depth)
    ]
    tree.load(
        [*above, Job(depth, depth - 1, SHAPE, State.ISSUED, attempt=1, bundle=9)],
        {SHAPE: (0, 1, depth - 1, 0, 0)},
    )

    tree.succeeded(depth, 1)

    changes = tree.take_changes()
    assert changes.done == list(range(depth, 0, -1))
    assert changes.global_dirs == [5]
    assert changes.touched == {}
    assert tree.complete


def test_deep_chain_stops_at_the_first_job_that_has_more_to_do() -> None:
    tree = Tree()
    above = [Job(id, id - 1, SHAPE, State.BLOCKED, pending=1, has_next=id == 400) for id in range(1, 1000)]
    tree.load([*above, Job(1000, 999, SHAPE, State.ISSUED, attempt=1, bundle=9)], {SHAPE: (0, 1, 999, 0, 0)})

    tree.succeeded(1000, 1)

    changes = done(tree)
    assert changes.done == list(range(1000, 400, -1))
    assert list(changes.touched) == [400]
    assert tree.totals == [1, 0, 399, 0, 600]


def test_fan_out_costs_no_memory_for_jobs_that_wait() -> None:
    tree, job = tree_with_issued_root()

    tree.succeeded(ROOT, 1, Children({SHAPE: 900_000, OTHER: 100_000}, "rows"))

    assert job.pending == 1_000_000
    assert list(tree.jobs) == [ROOT]
    assert tree.totals == [1_000_000, 0, 1, 0, 0]
    tree.check_invariants()


def test_changes_are_handed_over_once() -> None:
    tree, _ = tree_with_issued_root()
    tree.succeeded(ROOT, 1)

    assert tree.take_changes()
    assert not tree.take_changes()


# -- by request ------------------------------------------------------------------------------------------------

NOTHING = Below({}, (), ())


def tree_with_children(number: int, follow_on: Optional[Spec] = None, **more: Any) -> tuple[Tree, list[Job]]:
    """A blocked root whose children are issued in bundle 2."""
    tree, root = tree_with_issued_root()
    tree.succeeded(ROOT, 1, children(number), follow_on)
    tree.bundle_over(1)
    return tree, issue(tree, *range(2, 2 + number), bundle=2, parent=ROOT, **more)


def test_one_failed_job_is_renewed_and_its_failure_counts_no_more() -> None:
    tree, (job, other) = tree_with_children(2)
    tree.failed(job.id, 1)
    tree.failed(other.id, 1)
    tree.take_changes()

    tree.renew(job)

    changes = done(tree)
    assert (job.state, job.tries, job.losses, job.alone) == (State.READY, 0, 0, False)
    assert tree.totals == [1, 0, 1, 1, 0]
    assert (changes.forgiven, list(changes.touched)) == ([job.id], [job.id])


@pytest.mark.parametrize("state", [State.READY, State.ISSUED])
def test_a_job_that_has_not_failed_is_not_renewed(state: State) -> None:
    tree = tree_with_root()
    with pytest.raises(BrokenInvariant, match="tries renewed"):
        tree.renew(Job(ROOT, 0, SHAPE, state))


def test_what_is_marked_done_while_it_is_issued_frees_its_parent_and_its_report_is_stale() -> None:
    tree, (job,) = tree_with_children(1, spec())

    tree.mark_done(job)

    changes = done(tree)
    assert tree.totals == [1, 0, 0, 0, 1]
    assert (changes.done, changes.forgiven) == ([job.id], [job.id])
    assert changes.touched[ROOT].state is State.READY
    assert not tree.succeeded(job.id, 1)
    assert tree.stale == 1
    tree.bundle_over(2)


def test_what_is_ready_or_has_failed_is_marked_done_as_it_was_read_from_the_store() -> None:
    tree, (failed, given_back) = tree_with_children(2)
    tree.failed(failed.id, 1)
    tree.recalled(given_back.id, 1)
    tree.take_changes()

    tree.mark_done(Job(failed.id, ROOT, SHAPE, State.FAILED, has_global=True))
    tree.mark_done(Job(given_back.id, ROOT, SHAPE))

    changes = done(tree)
    assert tree.complete
    assert changes.done == [failed.id, given_back.id, ROOT]
    assert changes.global_dirs == [failed.id]


def test_what_waits_for_its_children_is_not_marked_done() -> None:
    tree, _ = tree_with_children(1)
    with pytest.raises(BrokenInvariant, match="marked done"):
        tree.mark_done(tree.jobs[ROOT])


def test_a_forgotten_job_is_not_counted_and_its_parent_waits_for_the_others() -> None:
    tree, (job, other) = tree_with_children(2, spec())

    tree.forget(job, NOTHING)

    changes = done(tree)
    assert tree.totals == [0, 1, 1, 0, 0]
    assert (changes.forgotten, changes.done) == ([job.id], [])
    assert tree.jobs[ROOT].pending == 1
    assert not tree.succeeded(job.id, 1)
    tree.succeeded(other.id, 1)
    assert tree.totals == [1, 0, 0, 0, 1]


def test_forgetting_the_last_child_ends_all_above_that_have_nothing_more_to_do() -> None:
    tree, (job,) = tree_with_children(1)
    tree.succeeded(job.id, 1, children(1))
    issue(tree, 9, bundle=3, parent=job.id)

    tree.forget(tree.jobs[9], NOTHING)

    changes = done(tree)
    assert changes.done == [job.id, ROOT]
    assert tree.totals == [0, 0, 0, 0, 2]


def test_all_that_is_below_a_forgotten_job_is_gone_too_whatever_state_it_is_in() -> None:
    tree, (top, other) = tree_with_children(2)
    tree.succeeded(top.id, 1, children(3, OTHER))
    grandchild = Job(10, top.id, OTHER, has_global=True)
    tree.issued(4, [grandchild])
    done(tree)

    tree.forget(tree.jobs[top.id], Below({OTHER: (2, 1, 0, 0, 0)}, [10], [10]))

    changes = done(tree)
    assert (changes.forgotten, changes.global_dirs) == ([top.id], [10])
    assert (tree.with_global_dir, tree.in_bundle(4)) == (0, [])
    assert tree.counts[OTHER] == [0, 0, 0, 0, 0]
    assert sorted(tree.jobs) == [ROOT, other.id]


def test_the_root_is_not_forgotten() -> None:
    with pytest.raises(BrokenInvariant, match="cannot be forgotten"):
        tree_with_root().forget(Job(ROOT, 0, SHAPE), NOTHING)
