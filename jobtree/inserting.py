"""Many rows into a table of SQLite: fifty with one statement take half of the time of fifty statements."""

from __future__ import annotations

import itertools
import sqlite3
from collections.abc import Iterable, Iterator
from typing import Any

_AT_ONCE = 50
"""Times the parameters of a row, this must stay below 999, the most that a statement has in SQLite before 3.32."""


def insert(connection: sqlite3.Connection, into: str, row: str, rows: Iterable[tuple[Any, ...]]) -> int:
    """Insert rows, which are taken in one by one. Returns how many were: ``into`` may say OR IGNORE.

    into: the beginning of the statement, up to VALUES. row: what stands for one row, in brackets; a question mark for
    each item of ``rows``.

    >>> connection = sqlite3.connect(":memory:")
    >>> _ = connection.execute("CREATE TABLE squares (number, square)")
    >>> insert(connection, "INSERT INTO squares", "(?, ?)", ((n, n * n) for n in range(120)))
    120
    """
    width = row.count("?")
    values = itertools.chain.from_iterable(rows)
    rest = tuple(itertools.islice(values, width * _AT_ONCE))

    def fifties() -> Iterator[tuple[Any, ...]]:
        nonlocal rest
        while len(rest) == width * _AT_ONCE:
            yield rest
            rest = tuple(itertools.islice(values, width * _AT_ONCE))

    number = 0
    if len(rest) == width * _AT_ONCE:
        statement = f"{into} VALUES {', '.join([row] * _AT_ONCE)}"
        number = connection.executemany(statement, fifties()).rowcount
    if rest:
        singles = [rest[start : start + width] for start in range(0, len(rest), width)]
        number += connection.executemany(f"{into} VALUES {row}", singles).rowcount
    return number
