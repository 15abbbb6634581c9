"""Jobs that are taken out of the store with everything below them, in a few statements however many they are.

They may be a million, so their numbers stay in the database: in a list of the moment, which the statements share.
"""

from __future__ import annotations

import sqlite3

from jobtree.events import Below, State
from jobtree.values import Values

_LIST = "CREATE TEMP TABLE IF NOT EXISTS below (id INTEGER PRIMARY KEY)"
# CROSS JOIN has SQLite keep to this order: from each job to those below it, by their index.
_FIND = """
INSERT INTO temp.below WITH RECURSIVE found (id) AS (
    SELECT id FROM jobs WHERE parent = ?
    UNION ALL
    SELECT jobs.id FROM found CROSS JOIN jobs INDEXED BY below ON jobs.parent = found.id
) SELECT id FROM found
"""
_JOINED = "temp.below AS listed CROSS JOIN jobs ON jobs.id = listed.id"
_COUNT = f"SELECT jobs.shape, jobs.state, count(*) FROM {_JOINED} GROUP BY jobs.shape, jobs.state"
_GOING_ON = f"SELECT jobs.id FROM {_JOINED} WHERE jobs.state IN (?, ?)"
_WITH_DIRECTORY = f"SELECT jobs.id FROM {_JOINED} WHERE jobs.has_global"
_HOLDERS = """
SELECT DISTINCT holder FROM mentions
WHERE typeof(holder) = 'integer' AND holder IN (SELECT id FROM temp.below)
"""


def below(connection: sqlite3.Connection, id: int) -> Below:
    """What is below a job, at any depth."""
    _list(connection, id)
    counts: dict[int, list[int]] = {}
    for shape, state, number in connection.execute(_COUNT).fetchall():
        counts.setdefault(shape, [0] * len(State))[state] = number
    going_on = connection.execute(_GOING_ON, (int(State.ISSUED), int(State.BLOCKED))).fetchall()
    with_directory = connection.execute(_WITH_DIRECTORY).fetchall()
    return Below(counts, [row[0] for row in going_on], [row[0] for row in with_directory])


def delete(connection: sqlite3.Connection, values: Values, id: int) -> list[str]:
    """Delete a job and what is below it, with all that is kept for them. Returns the files of values that nobody can
    ask for any more."""
    _list(connection, id)
    connection.execute("INSERT INTO temp.below VALUES (?)", (id,))
    holders = [row[0] for row in connection.execute(_HOLDERS).fetchall()]
    connection.execute("DELETE FROM failures WHERE job IN (SELECT id FROM temp.below)")
    connection.execute("DELETE FROM jobs WHERE id IN (SELECT id FROM temp.below)")
    connection.execute("DELETE FROM temp.below")
    return values.release(holders)


def _list(connection: sqlite3.Connection, id: int) -> None:
    connection.execute(_LIST)
    connection.execute("DELETE FROM temp.below")
    connection.execute(_FIND, (id,))
