"""Rows go in whole, in order, and counted, however many there are."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator

import pytest

from jobtree.inserting import insert


@pytest.fixture
def connection() -> Iterator[sqlite3.Connection]:
    connection = sqlite3.connect(":memory:", isolation_level=None)
    connection.execute("CREATE TABLE pairs (number INTEGER PRIMARY KEY, text)")
    yield connection
    connection.close()


@pytest.mark.parametrize("number", [0, 1, 49, 50, 51, 100, 149, 1000])
def test_all_rows_are_inserted_in_order(connection: sqlite3.Connection, number: int) -> None:
    rows = [(n, f"row {n}") for n in range(number)]

    assert insert(connection, "INSERT INTO pairs", "(?, ?)", iter(rows)) == number

    assert connection.execute("SELECT number, text FROM pairs ORDER BY rowid").fetchall() == rows


def test_what_is_there_already_is_not_counted(connection: sqlite3.Connection) -> None:
    insert(connection, "INSERT INTO pairs", "(?, ?)", ((n, "first") for n in range(0, 120, 2)))

    assert (
        insert(connection, "INSERT OR IGNORE INTO pairs", "(?, ?)", ((n, "second") for n in range(120))) == 60
    )


def test_constants_may_stand_in_a_row(connection: sqlite3.Connection) -> None:
    insert(connection, "INSERT INTO pairs", "(?, 'same')", ((n,) for n in range(60)))

    assert connection.execute("SELECT count(*) FROM pairs WHERE text = 'same'").fetchone() == (60,)


def test_what_the_source_of_the_rows_raises_is_passed_on(connection: sqlite3.Connection) -> None:
    def rows() -> Iterator[tuple[int, str]]:
        yield from ((n, "good") for n in range(70))
        raise KeyError("no more")

    with pytest.raises(KeyError, match="no more"):
        insert(connection, "INSERT INTO pairs", "(?, ?)", rows())
