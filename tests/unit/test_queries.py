"""What is asked of a database about single jobs: the answers, and that no question looks at a whole table."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from jobtree import queries, snapshot
from jobtree.errors import AnotherMaster
from jobtree.events import ROOT_PARENT, Children, State
from jobtree.paths import job_id, job_name, job_number
from jobtree.queries import Details, JobSeen
from jobtree.schema import ChildRow
from tests.unit.test_snapshot import ROOT, Built

A, B, C = (job_id(1, n) for n in (1, 2, 3))


@pytest.fixture
def built(tmp_path: Path) -> Iterator[Built]:
    made = Built(tmp_path / "tree")
    yield made
    made.store.close()


def add_below(built: Built, id: int, bundle: int, number: int) -> list[int]:
    """An issued job succeeds and leaves so many children, made by its bundle."""
    shape = built.store.shape("some.Grandchild", 0, None)
    ids = [job_id(bundle, n) for n in range(1, number + 1)]
    rows = [ChildRow(child, shape, 0, 0.0, b"", ()) for child in ids]
    built.tree.succeeded(id, 1, Children({shape: number}, rows))
    return ids


def give_up(built: Built, *ids: int) -> None:
    """Jobs that are issued fail, and have no tries left."""
    built.tree.retry_count = 0
    for id in ids:
        built.fail(id, built.tree.jobs[id].attempt)


def details(built: Built, id: int) -> Details:
    built.commit()
    found = snapshot.look(built.paths, "details", id=id)
    assert isinstance(found, Details)
    return found


def names(jobs: tuple[JobSeen, ...] | list[JobSeen]) -> list[str]:
    return [job_name(job.id) for job in jobs]


# -- the answers -----------------------------------------------------------------------------------------


def test_a_ready_job(built: Built) -> None:
    found = details(built, ROOT)
    assert (found.job.name, found.job.state, found.job.parent) == ("some.Root", "ready", ROOT_PARENT)
    assert (found.bundle, found.children, found.failed_below) == (None, (), ())


def test_a_job_that_is_not_there(built: Built) -> None:
    assert snapshot.look(built.paths, "details", id=job_id(7, 7)) is None


def test_a_blocked_job_with_its_first_children(built: Built) -> None:
    built.grow(*[("some.Child", 0)] * 9)
    found = details(built, ROOT)
    assert (found.job.state, found.job.pending) == ("blocked", 9)
    assert names(found.children) == ["1-1", "1-2", "1-3", "1-4", "1-5"]


def test_an_issued_job_and_its_bundle(built: Built) -> None:
    built.grow(("some.Child", 0))
    built.issue(2, A)
    built.store._connection.execute("INSERT INTO bundles VALUES (2, 'run.2', 'slurm', 1, 1, 0, 9.5, 'node7')")
    found = details(built, A)
    assert found.job.state == "issued"
    assert found.bundle == queries.BundleSeen("run.2", "slurm", "node7", 9.5)


def test_what_has_failed_below_is_found_at_any_depth_and_nothing_else(built: Built) -> None:
    built.grow(("some.Child", 0), ("some.Child", 0), ("some.Child", 0))
    built.issue(2, A)
    below_a = add_below(built, A, 2, 2)
    built.commit()
    built.issue(3, below_a[1], C)
    give_up(built, below_a[1], C)

    assert names(details(built, ROOT).failed_below) == ["1-3", "2-2"]
    found = details(built, A)
    assert names(found.failed_below) == ["2-2"]
    assert found.failed_below[0].failure is not None
    assert found.failed_below[0].failure.failure.message == "bad 1"
    assert not found.more
    assert details(built, B).failed_below == ()


def test_no_more_failed_jobs_are_told_than_a_few(built: Built) -> None:
    built.grow(*[("some.Child", 0)] * 9)
    ids = [job_id(1, n) for n in range(1, 10)]
    built.issue(2, *ids)
    give_up(built, *ids)
    found = details(built, ROOT)
    assert (len(found.failed_below), found.more) == (5, True)


@pytest.mark.parametrize(("attribute", "value"), [("_MOST_FAILED", 3), ("_MOST_STEPS", 0)])
def test_the_search_for_what_failed_is_bounded_and_says_so(
    built: Built, monkeypatch: pytest.MonkeyPatch, attribute: str, value: int
) -> None:
    monkeypatch.setattr(queries, attribute, value)
    built.grow(*[("some.Child", 0)] * 5)
    ids = [job_id(1, n) for n in range(1, 6)]
    built.issue(2, ids[4])
    (grandchild,) = add_below(built, ids[4], 2, 1)
    built.commit()
    built.issue(3, *ids[:4], grandchild)
    give_up(built, *ids[:4], grandchild)
    assert details(built, ids[4]).more


def test_children_come_in_pages(built: Built) -> None:
    built.grow(*[("some.Child", 0)] * 7)
    built.commit()
    first = snapshot.look(built.paths, "children", parent=ROOT, limit=4)
    rest = snapshot.look(built.paths, "children", parent=ROOT, after=first[-1].id, limit=4)
    assert names(first) + names(rest) == [f"1-{n}" for n in range(1, 8)]
    assert names(snapshot.look(built.paths, "children", parent=ROOT_PARENT)) == ["0-1"]


def test_nobody_gets_more_rows_than_there_may_be(built: Built, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(queries, "MOST_ROWS", 3)
    built.grow(*[("some.Child", 0)] * 7)
    built.commit()
    assert len(snapshot.look(built.paths, "children", parent=ROOT, limit=10**9)) == 3
    assert snapshot.look(built.paths, "children", parent=ROOT, limit=-1) == []


def test_jobs_in_a_state_come_with_their_failures(built: Built) -> None:
    built.grow(*[("some.Child", 0)] * 3)
    built.issue(2, A, B, C)
    give_up(built, A, C)
    built.commit()
    found = snapshot.look(built.paths, "in_state", state=int(State.FAILED))
    assert [(job_name(job.id), job.tries, job.failure.failure.kind) for job in found] == [
        ("1-1", 1, "exception"),
        ("1-3", 1, "exception"),
    ]
    assert names(snapshot.look(built.paths, "in_state", state=int(State.FAILED), after=A)) == ["1-3"]


# -- how it is asked -------------------------------------------------------------------------------------


@pytest.mark.parametrize("what", queries.STATEMENTS)
def test_no_question_looks_at_a_whole_table(built: Built, what: str) -> None:
    statement = queries.STATEMENTS[what]
    connection = sqlite3.connect(built.paths.database)
    plan = connection.execute(f"EXPLAIN QUERY PLAN {statement}", [1] * statement.count("?")).fetchall()
    connection.close()
    assert plan
    assert [row[3] for row in plan if not row[3].startswith("SEARCH ")] == []


def test_answers_come_through_json_as_they_were(built: Built) -> None:
    built.grow(*[("some.Child", 0)] * 3)
    built.issue(2, A, B)
    built.store._connection.execute("INSERT INTO bundles VALUES (2, 'run.2', 'slurm', 1, 1, 0, 9.5, NULL)")
    give_up(built, A)
    built.store.commit()
    connection = built.store._connection
    for question, asked in [
        ("details", {"id": ROOT}),
        ("details", {"id": A}),
        ("details", {"id": B}),
        ("details", {"id": 99}),
        ("children", {"parent": ROOT}),
        ("in_state", {"state": int(State.FAILED)}),
        ("statistics", {}),
        ("hosts", {"limit": 5}),
    ]:
        sent = json.loads(json.dumps(queries.answer_as_json(connection, question, asked)))
        assert queries.answer_from_json(question, sent) == queries.answer(connection, question, asked)
    built.store.begin()


def test_on_a_network_file_system_a_master_that_does_not_answer_is_told(
    built: Built, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("jobtree.files.is_network", lambda path: True)
    monkeypatch.setattr("jobtree.lock.is_held", lambda paths: True)
    monkeypatch.setattr(snapshot, "_ANSWER_SECONDS", 0.0)
    with pytest.raises(AnotherMaster, match="asked in vain: it does not answer"):
        snapshot.look(built.paths, "details", id=ROOT)


# -- names -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("id", [1, job_id(1, 1), job_id(123456789, 2**31 - 1)])
def test_names_of_jobs_are_read_as_they_are_written(id: int) -> None:
    assert job_number(job_name(id)) == id


@pytest.mark.parametrize("name", ["", "7", "1-2-3", "-1", "1-", "1-x", "1-2147483648", "1234567890-1", "١-٢"])
def test_what_is_no_name_of_a_job_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="is no job"):
        job_number(name)
