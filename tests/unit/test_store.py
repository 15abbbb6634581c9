"""The store on a real disk: what is written is what is read, and what goes wrong is a StorageError."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobtree.errors import BrokenInvariant
from jobtree.events import Children, GoesOn, Job, Spec, State
from jobtree.frames import Failure, Measures
from jobtree.schema import BundleRow, ChildRow, FailureRow, memory_step
from jobtree.store import Store, _runs
from jobtree.tree import Tree
from jobtree.values import Returned
from tests.unit.tree_histories import fields

ROOT = 1
T1, T2, T3 = b"token-1", b"token-2", b"token-3"


class Open:
    """A store with one transaction going on, and a tree that decides."""

    def __init__(self, path: Path) -> None:
        self.path = str(path / "tree.sqlite")
        self.store = Store(self.path, new=True)
        self.store.raise_generation()
        self.tree = Tree(retry_count=1)
        self.store.begin()
        self.shape = self.store.shape("mod.Root", 100, 1.0)
        self.tree.add_root(Job(ROOT, 0, self.shape), [row(ROOT, self.shape, b"root")])
        self.write()

    def write(self) -> list[str]:
        """Write what the tree decided, and commit it. Returns the files that go."""
        self.store.write(self.tree.take_changes(), self.tree.counts)
        self.turn()
        return self.store.take_dropped()

    def keep(self, returned: list[Returned]) -> None:
        """Write what the tree decided, and what targets returned, in one transaction that goes on."""
        self.store.write(self.tree.take_changes(), self.tree.counts, returned)

    def turn(self) -> None:
        self.store.commit()
        self.store.begin()

    def issue(self, *ids: int, bundle: int = 1) -> None:
        jobs = [job for job, _ in self.store.ready(self.shape, 0, 1000) if job.id in ids]
        assert len(jobs) == len(ids)
        self.tree.issued(bundle, jobs)
        self.write()

    def again(self) -> Store:
        """Close, and open as a new master does."""
        self.store.close()
        self.store = Store(self.path)
        self.store.raise_generation()
        return self.store


@pytest.fixture
def world(tmp_path: Path) -> Iterator[Open]:
    opened = Open(tmp_path)
    yield opened
    opened.store.close()


def row(id: int, shape: int, payload: bytes, *mentions: bytes) -> ChildRow:
    return ChildRow(id, shape, 0, 0.0, payload, mentions)


def failure(job: int, message: str = "broken") -> FailureRow:
    what = Failure("exception", message, "Traceback ...", "what it printed", 3, 17)
    return FailureRow(job, 2, "mod.Root", what, "/log", "host", "run.1", 12.5)


def failures(store: Store) -> list[Any]:
    return store._connection.execute("SELECT * FROM failures").fetchall()


# -- what is written is what is read ---------------------------------------------------------------------------


def test_new_tree_has_its_root_ready(world: Open) -> None:
    ((job, payload),) = world.again().ready(world.shape, 0, 10)

    assert fields(job) == fields(Job(ROOT, 0, world.shape))
    assert payload == b"root"


def test_held_jobs_are_read_as_they_were_written(world: Open) -> None:
    world.issue(ROOT)
    world.tree.uses_global_dir(ROOT, 1)
    follow_on = Spec(world.shape, 1 << 40, 2.5, (b"next", ()))
    rows = [row(2, world.shape, b"child")]
    world.tree.succeeded(ROOT, 1, Children({world.shape: 1}, rows), follow_on, GoesOn(2, world.shape))
    world.write()

    held = {job.id: job for job in world.again().held_jobs()}

    assert {id: fields(job) for id, job in held.items()} == {
        id: fields(job) for id, job in world.tree.jobs.items()
    }
    assert held[ROOT].state is State.BLOCKED
    assert held[ROOT].has_global is True
    assert (held[2].state, held[2].attempt) == (State.ISSUED, 1)


def test_loaded_tree_goes_on_where_the_other_ended(world: Open) -> None:
    world.issue(ROOT)
    world.tree.succeeded(
        ROOT, 1, Children({world.shape: 2}, [row(2, world.shape, b"a"), row(3, world.shape, b"b")])
    )
    world.write()
    store = world.again()
    tree = Tree()

    tree.load(store.held_jobs(), store.counts())

    assert tree.totals == world.tree.totals
    assert [job.id for job, _ in store.ready(world.shape, 0, 10)] == [2, 3]


def test_ready_jobs_come_in_pages_oldest_first(world: Open) -> None:
    world.issue(ROOT)
    other = world.store.shape("mod.Other", None, None)
    ids = [5, 3, 9, 2, 7]
    rows = [*(row(id, world.shape, b"%d" % id) for id in ids), row(4, other, b"4")]
    world.tree.succeeded(ROOT, 1, Children({world.shape: 5, other: 1}, rows))
    world.write()

    ready = world.store.ready

    assert [(job.id, payload) for job, payload in ready(world.shape, 0, 3)] == [
        (2, b"2"),
        (3, b"3"),
        (5, b"5"),
    ]
    assert [job.id for job, _ in ready(world.shape, 5, 3)] == [7, 9]
    assert ready(world.shape, 9, 3) == []
    assert [job.id for job, _ in ready(other, 0, 3)] == [4]


def test_payload_is_the_follow_on_while_the_children_run(world: Open) -> None:
    world.issue(ROOT)
    world.tree.succeeded(ROOT, 1, None, Spec(world.shape, 0, 0.0, (b"second", ())))
    world.write()

    assert [payload for _, payload in world.store.ready(world.shape, 0, 10)] == [b"second"]


def test_done_job_leaves_no_row_and_a_count(world: Open) -> None:
    world.issue(ROOT)
    world.tree.succeeded(ROOT, 1)
    world.write()

    store = world.again()

    assert store._connection.execute("SELECT count(*) FROM jobs").fetchone() == (0,)
    assert store.counts() == {world.shape: (0, 0, 0, 0, 1)}


def test_child_that_is_done_in_the_turn_in_which_it_came_leaves_nothing(world: Open) -> None:
    world.issue(ROOT)
    rows = [row(2, world.shape, b"child", T1)]
    world.tree.succeeded(ROOT, 1, Children({world.shape: 1}, rows), None, GoesOn(2, world.shape))
    world.tree.succeeded(2, 1)
    world.write()

    assert world.store._connection.execute("SELECT count(*) FROM jobs").fetchone() == (0,)
    assert world.store._connection.execute("SELECT count(*) FROM mentions").fetchone() == (0,)


def test_children_may_come_from_a_generator_that_is_read_once(world: Open) -> None:
    world.issue(ROOT)
    source = (row(id, world.shape, b"x") for id in range(2, 5002))
    world.tree.succeeded(ROOT, 1, Children({world.shape: 5000}, source))
    world.write()

    assert len(world.store.ready(world.shape, 0, 10_000)) == 5000


def test_same_number_for_two_jobs_is_our_mistake(world: Open) -> None:
    world.issue(ROOT)
    world.tree.succeeded(ROOT, 1, Children({world.shape: 1}, [row(ROOT, world.shape, b"x")]))

    with pytest.raises(BrokenInvariant):
        world.store.write(world.tree.take_changes(), world.tree.counts)


def test_bundles_are_numbered_upwards_and_known_until_they_are_over(world: Open) -> None:
    first, second = world.store.take_bundle_number(), world.store.take_bundle_number()
    rows = [BundleRow(n, f"run.{n}", "single_machine", world.shape, 3, 0, 1.5, None) for n in (first, second)]
    for bundle in rows:
        world.store.new_bundle(bundle)
    world.store.adopted([(120, second)])
    world.store.bundle_over(first)
    world.turn()

    store = world.again()

    assert second == first + 1
    assert store.bundles() == [rows[1]._replace(offset=120)]
    store.begin()
    assert store.take_bundle_number() == second + 1


def test_removals_are_known_until_they_are_struck(world: Open) -> None:
    noted = world.store.note_removals(["values/0/1-1", "globalTempDirs/0/1.0/1"])
    world.turn()
    assert world.store.removals() == noted
    assert [path for _, path in noted] == ["values/0/1-1", "globalTempDirs/0/1.0/1"]

    world.store.strike_removals([noted[0][0]])
    world.turn()

    assert world.again().removals() == noted[1:]


# -- failures --------------------------------------------------------------------------------------------------


def test_later_failure_of_a_job_replaces_the_one_before(world: Open) -> None:
    world.store.note_failure(failure(ROOT, "first"))
    world.store.note_failure(failure(ROOT, "second"))

    (found,) = failures(world.store)

    assert "second" in found


def test_success_forgives_what_failed_before(world: Open) -> None:
    world.issue(ROOT)
    world.tree.failed(ROOT, 1)
    world.store.note_failure(failure(ROOT))
    world.write()
    world.issue(ROOT, bundle=2)
    world.tree.succeeded(ROOT, 2, None, Spec(world.shape, 0, 0.0, (b"next", ())))
    world.write()

    assert failures(world.store) == []


def test_success_of_a_renewed_job_forgives_what_failed_before(world: Open) -> None:
    world.issue(ROOT)
    assert world.tree.failed(ROOT, 1, final=True) is State.FAILED
    world.store.note_failure(failure(ROOT))
    world.write()
    world.tree.renewed()
    world.store.renew_failed()
    world.write()
    world.issue(ROOT, bundle=2)
    world.tree.succeeded(ROOT, 2)
    world.write()

    assert failures(world.store) == []


def test_renewed_job_is_ready_with_all_its_tries(world: Open) -> None:
    world.issue(ROOT)
    world.tree.lost(ROOT, 1, alone=True)
    world.write()
    world.issue(ROOT, bundle=2)
    world.tree.failed(ROOT, 2, final=True)
    world.write()
    assert world.store.ready(world.shape, 0, 10) == []

    world.store.renew_failed()

    ((job, _),) = world.store.ready(world.shape, 0, 10)
    assert (job.tries, job.losses, job.alone, job.attempt) == (0, 0, False, 2)


@pytest.mark.parametrize("text", ["name in Latin-1: caf\udce9", "NUL \0 inside", "\N{SNOWMAN}" * 10, ""])
def test_failure_may_say_anything(world: Open, text: str) -> None:
    """A file name that is not UTF-8 has surrogates in it, and with it the message of a FileNotFoundError."""
    what = Failure("exception", text, text, text, 0, 0)

    world.store.note_failure(FailureRow(ROOT, 1, text, what, text, text, text, 0.0))
    world.turn()

    assert len(failures(world.store)) == 1


def test_shape_may_have_any_name(world: Open) -> None:
    """A command's first word is its name, and need not be UTF-8."""
    name = "command caf\udce9"

    number = world.store.shape(name, None, None)
    world.turn()

    assert world.again().shape(name, None, None) == number


# -- promised values -------------------------------------------------------------------------------------------


def test_value_stays_until_the_job_that_was_promised_it_is_done(world: Open) -> None:
    world.issue(ROOT)
    rows = [row(2, world.shape, b"child"), row(3, world.shape, b"user", T1)]
    world.tree.succeeded(ROOT, 1, Children({world.shape: 2}, rows))
    world.write()
    world.issue(2, 3, bundle=2)
    world.keep([Returned(T1, None, "values/0/2-1", ())])
    assert world.store.values.of_job(3) == {T1: "values/0/2-1"}
    assert world.store.take_dropped() == []

    world.tree.succeeded(3, 1)

    assert world.write() == ["values/0/2-1"]


def test_value_that_the_old_and_the_new_target_mention_stays(world: Open) -> None:
    world.issue(ROOT)
    world.store.values.mention(ROOT, [T1, T2])
    world.keep([Returned(T1, b"one", None, ()), Returned(T2, None, "two", ())])

    world.tree.succeeded(ROOT, 1, None, Spec(world.shape, 0, 0.0, (b"next", (T1,))))

    assert world.write() == ["two"]
    assert world.store.values.of_job(ROOT) == {T1: b"one"}


def test_value_reached_only_through_the_old_target_stays_if_the_new_one_mentions_it(world: Open) -> None:
    world.issue(ROOT)
    world.store.values.mention(ROOT, [T1])
    world.keep([Returned(T1, b"one", None, (T2,)), Returned(T2, b"two", None, ())])

    world.tree.succeeded(ROOT, 1, None, Spec(world.shape, 0, 0.0, (b"next", (T2,))))
    world.write()

    assert world.store.values.of_job(ROOT) == {T2: b"two"}


def test_value_handed_from_a_parent_to_its_child_stays(world: Open) -> None:
    world.issue(ROOT)
    world.store.values.mention(ROOT, [T1])
    world.keep([Returned(T1, b"one", None, ())])

    world.tree.succeeded(ROOT, 1, Children({world.shape: 1}, [row(2, world.shape, b"child", T1)]))
    world.write()

    assert world.store.values.of_job(2) == {T1: b"one"}
    assert world.store.values.of_job(ROOT) == {}


def test_value_that_a_finished_job_passes_on_in_its_own_value_stays(world: Open) -> None:
    """A target that was given a promise, not kept when it started, returns it; it is kept by the time that it ends."""
    world.issue(ROOT)
    rows = [row(2, world.shape, b"slow"), row(3, world.shape, b"relay", T1), row(4, world.shape, b"user", T2)]
    world.tree.succeeded(ROOT, 1, Children({world.shape: 3}, rows))
    world.write()
    world.issue(2, 3, bundle=2)
    world.tree.succeeded(2, 1)
    world.keep([Returned(T1, b"what slow returned", None, ())])
    world.turn()

    world.tree.succeeded(3, 1)
    world.keep([Returned(T2, b"[promise of slow]", None, (T1,))])
    world.turn()

    assert world.store.values.of_job(4) == {T1: b"what slow returned", T2: b"[promise of slow]"}


def test_result_survives_the_last_job(world: Open) -> None:
    world.store.keep_result(T1)
    world.issue(ROOT)
    world.tree.succeeded(ROOT, 1)
    world.write()
    world.keep([Returned(T1, b"result", None, ())])
    world.turn()

    assert world.again().values.result() == {T1: b"result"}


# -- shapes ----------------------------------------------------------------------------------------------------


@given(memory=st.integers(1, 1 << 62))
def test_memory_step_rounds_up_by_an_eighth_at_most_and_has_eight_steps_an_octave(memory: int) -> None:
    step = memory_step(memory)

    assert memory <= step <= memory * 1.125
    assert memory_step(step) == step
    assert step % (1 << max(0, step.bit_length() - 4)) == 0


@given(one=st.integers(0, 1 << 40), two=st.integers(0, 1 << 40))
def test_memory_step_keeps_the_order(one: int, two: int) -> None:
    assert (one <= two) <= (memory_step(one) <= memory_step(two))


def test_no_memory_said_is_no_memory() -> None:
    assert [memory_step(n) for n in (-1, 0, 1, 7, 15, 16, 17, 31)] == [0, 0, 1, 7, 15, 16, 18, 32]


def test_requests_of_one_step_share_a_shape_also_for_the_next_master(world: Open) -> None:
    shape = world.store.shape
    number = shape("mod.A", 1000, 1.0)
    world.turn()

    assert shape("mod.A", 1010, 1) == number
    assert len({number, shape("mod.A", 1100, 1.0), shape("mod.A", 1000, 2.0), shape("mod.B", 1000, 1.0)}) == 4
    assert world.again().shape("mod.A", 1010, 1.0) == number


def test_statistics_are_read_as_they_were_written(world: Open) -> None:
    stats = world.store.stats[world.shape]
    stats.add(Measures(2.0, 1.0, 500, True))
    stats.add(Measures(1.0, 0.5, 900, True))
    stats.failures += 1
    world.store.write_stats([world.shape])
    world.turn()

    found = world.again().stats[world.shape]

    assert found.failures == 1
    assert found.measured == stats.measured
    assert (found.measured.count, found.measured.time.total, found.measured.wait.total) == (2, 3.0, 1.5)


@given(jobs=st.lists(st.tuples(st.integers(1, 3), st.integers(1, 40)), unique_by=lambda pair: pair[1]))
def test_runs_hold_exactly_the_jobs_they_were_made_of(jobs: list[tuple[int, int]]) -> None:
    runs = _runs(jobs)

    held = [(bundle, id) for bundle, first, last in runs for id in range(first, last + 1)]
    assert sorted(held) == sorted(jobs)
    assert len(held) == len(set(held))


def test_siblings_are_one_run_and_gaps_are_left_alone() -> None:
    assert _runs([(7, 12), (7, 10), (7, 11), (8, 13), (7, 20)]) == [(7, 10, 12), (7, 20, 20), (8, 13, 13)]
    assert _runs([]) == []
