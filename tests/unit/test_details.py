"""Single targets that were recorded: true medians, and the critical path, against one found by looking at all."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple, Optional

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jobtree import details, statistics
from jobtree.frames import Measures
from jobtree.measured import Measured
from jobtree.paths import job_id
from jobtree.records import TargetRow, WorkerRow
from jobtree.schema import SCHEMA
from jobtree.store import Store
from tests.unit.test_snapshot import Built

SHAPE, BUNDLE = 1, 7


@pytest.fixture
def built(tmp_path: Path) -> Iterator[Built]:
    made = Built(tmp_path / "tree")
    yield made
    made.store.close()


@pytest.fixture
def connection() -> Iterator[sqlite3.Connection]:
    made = database()
    yield made
    made.close()


def database() -> sqlite3.Connection:
    made = sqlite3.connect(":memory:")
    made.executescript(SCHEMA)
    made.execute(
        "INSERT INTO shapes (id, name, memory, cpu, countable) VALUES (?, 'some.Class', 0, 0, '')", (SHAPE,)
    )
    return made


def record(connection: sqlite3.Connection, *rows: TargetRow) -> None:
    connection.executemany("INSERT INTO targets VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", rows)


def row(
    job: int, began: float, ended: float, step: int = 0, parent: int = 0, parent_step: int = 0,
    failed: Optional[str] = None, attempt: Optional[int] = None,
) -> TargetRow:  # fmt: skip
    attempt = step + 1 if attempt is None else attempt
    return TargetRow(
        job, attempt, step, parent, parent_step, SHAPE, BUNDLE, began, ended - began, 0.5, 100, failed
    )


def path(connection: sqlite3.Connection) -> list[tuple[int, int]]:
    """The jobs and steps of the critical path."""
    found = details.critical_path(connection)
    assert found is not None
    return [(target.job, target.step) for target in found.targets]


# -- the critical path -----------------------------------------------------------------------------------------


def test_nothing_recorded_has_no_path(connection: sqlite3.Connection) -> None:
    assert details.critical_path(connection) is None


def test_it_goes_through_the_child_that_was_done_last_and_the_follow_on(
    connection: sqlite3.Connection,
) -> None:
    record(connection, row(1, 0, 1), row(2, 1, 5, parent=1), row(3, 2, 9, parent=1), row(1, 10, 12, step=1))

    found = details.critical_path(connection)

    assert path(connection) == [(1, 0), (3, 0), (1, 1)]
    assert found is not None
    assert (found.working, found.waiting) == (1 + 7 + 2, 1 + 1)


def test_what_is_below_a_child_counts_too(connection: sqlite3.Connection) -> None:
    record(
        connection, row(1, 0, 1), row(2, 1, 2, parent=1), row(3, 1, 6, parent=1), row(4, 2, 4, parent=2),
        row(4, 4, 7, step=1, parent=1), row(1, 8, 9, step=1),
    )  # fmt: skip

    assert path(connection) == [(1, 0), (2, 0), (4, 0), (4, 1), (1, 1)]


def test_children_of_two_steps_of_one_chain_are_told_apart(connection: sqlite3.Connection) -> None:
    record(
        connection, row(1, 0, 1), row(2, 1, 9, parent=1), row(1, 9, 10, step=1),
        row(3, 10, 11, parent=1, parent_step=1), row(1, 12, 13, step=2),
    )  # fmt: skip

    assert path(connection) == [(1, 0), (2, 0), (1, 1), (3, 0), (1, 2)]


def test_attempts_that_failed_are_waiting(connection: sqlite3.Connection) -> None:
    record(
        connection,
        row(1, 0, 1),
        row(2, 1, 4, parent=1, failed="exception"),
        row(2, 5, 6, parent=1, attempt=2),
    )

    found = details.critical_path(connection)

    assert found is not None
    assert [(target.job, target.attempt) for target in found.targets] == [(1, 1), (2, 2)]
    assert (found.working, found.waiting) == (2, 4)


def test_what_ran_before_it_was_recorded_is_left_out(connection: sqlite3.Connection) -> None:
    record(connection, row(5, 3, 4, parent=2), row(2, 5, 6, step=1, parent=1))

    assert path(connection) == [(5, 0), (2, 1)]


class Node(NamedTuple):
    """A job of a random tree: for each of its targets, how long it takes and the jobs that it adds."""

    steps: list[tuple[int, list[Node]]]


NODES = st.recursive(
    st.builds(Node, st.lists(st.tuples(st.integers(1, 9), st.just([])), min_size=1, max_size=3)),
    lambda below: st.builds(
        Node, st.lists(st.tuples(st.integers(1, 9), st.lists(below, max_size=3)), min_size=1, max_size=3)
    ),
    max_leaves=12,
)


class Run:
    """Runs a random tree with places enough for all, so that nothing ever waits."""

    def __init__(self) -> None:
        self.rows: list[TargetRow] = []
        self.number = 0

    def job(self, node: Node, begin: float, parent: int = 0, parent_step: int = 0) -> float:
        self.number += 1
        job = job_id(self.number, 1)
        for step, (seconds, children) in enumerate(node.steps):
            self.rows.append(row(job, begin, begin + seconds, step, parent, parent_step))
            begin += seconds
            begin = max([begin, *(self.job(child, begin, job, step) for child in children)])
        return begin


@settings(max_examples=200)
@given(NODES)
def test_with_places_for_all_the_path_takes_as_long_as_the_run(root: Node) -> None:
    run = Run()
    end = run.job(root, 0.0)
    connection = database()
    record(connection, *run.rows)

    found = details.critical_path(connection)

    connection.close()
    assert found is not None
    assert (found.working, found.waiting) == (end, 0)
    for before, after in zip(found.targets, found.targets[1:]):
        assert before.ended == after.began


# -- medians and lines -----------------------------------------------------------------------------------------


def test_medians_are_true_where_all_were_recorded(connection: sqlite3.Connection) -> None:
    numbers = [1.0, 1.01, 1.02, 5.0, 9.0]
    record(connection, *(row(n, 0, wall) for n, wall in enumerate(numbers, 1)))
    all_of_them, some_more = Measured(), Measured()
    all_of_them.add([(wall, 0.5, 100, True) for wall in numbers])
    some_more.add([(wall, 0.5, 100, True) for wall in [*numbers, 2.0]])

    assert details.set_medians(connection, {"some.Class": all_of_them}, all_of_them)
    assert not details.set_medians(connection, {"some.Class": some_more}, some_more)

    assert (all_of_them.time.median, all_of_them.wait.median, all_of_them.memory.median) == (1.02, 0.52, 100)
    assert some_more.time.true_median is None


def test_what_the_store_records_is_read_with_its_host(built: Built) -> None:
    worker = WorkerRow(BUNDLE, "node1", "slurm", 1, 0.0, 1.0, 3.0, 1, 1, 2.0)
    shape = built.store.shape("some.Root", None, None)
    built.store.stats[shape].add(Measures(2.0, 0.5, 100, True))
    rows = [row(5, 1.0, 3.0), row(5, 0.0, 1.0, failed="memory", attempt=0)]
    built.store.write_stats([shape], [one._replace(shape=shape) for one in rows], [(worker, 1.0, 100)])
    built.store.commit()

    with sqlite3.connect(built.paths.database) as connection:
        failed, ended_well = details.lines(connection)
        assert statistics.made_of(json.loads(json.dumps(statistics.rows(connection)))).detailed
    connection.close()

    assert (failed.failed, failed.host, failed.name) == ("memory", "node1", "some.Root")
    assert (ended_well.failed, ended_well.ended) == (None, 3.0)
    built.store.begin()


def test_a_record_counts_once_however_often_it_is_written(built: Built) -> None:
    for _ in range(2):
        built.store.write_stats([], [row(5, 1.0, 3.0)])
        built.store.commit()
        built.store.close()
        built.store = Store(built.paths.database)
        built.store.raise_generation()
        built.store.begin()

    with sqlite3.connect(built.paths.database) as connection:
        assert connection.execute("SELECT count(*) FROM targets").fetchone() == (1,)
    connection.close()
