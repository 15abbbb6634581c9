"""What must hold of the rows of a tree's database after every commit, as questions that find what does not.

Structure is SQLite's affair (``jobtree.database``); this is about what the rows say: counts that are those of the jobs,
children that somebody waits for, bundles that exist. Each question reads every job once at most: together they take
about as long as SQLite's own look at the structure (1 s for a million jobs).
"""

from __future__ import annotations

import sqlite3

_KINDS = {
    "jobs": {
        "integer": "id parent state shape step attempt tries losses pending has_next bundle alone has_global memory",
        "real": "time",
    },
    "shapes": {
        "integer": "id memory gate ready issued blocked failed done succeeded failures memory_max",
        "real": "cpu wall cpu_time wall_max",
        "text": "name",
    },
    "services": {"integer": "job gate shape"},
    "bundles": {"integer": "id shape size offset", "real": "created", "text": "name backend"},
    "removals": {"text": "path"},
    "usage": {"integer": "shape", "real": "in_vain", "text": "measured"},
    "workers": {
        "integer": "bundle shape targets failures",
        "real": "created first last busy",
        "text": "host backend",
    },
}
"""The type of every column that the master reads and calculates with."""


def _mistyped(table: str) -> str:
    wrong = " OR ".join(
        f"typeof({column}) != '{kind}'"
        for kind, columns in _KINDS[table].items()
        for column in columns.split()
    )
    return f"SELECT rowid FROM {table} WHERE {wrong}"


WRONG = {
    **{
        f"a row of {table} with a value of another kind than was written": _mistyped(table)
        for table in _KINDS
    },
    "a job in a state that there is not": """
        SELECT id, state FROM jobs WHERE state NOT BETWEEN 0 AND 3 OR pending < 0 OR attempt < 0 OR step < 0
            OR (payload IS NULL AND (state != 2 OR has_next)) OR (payload IS NOT NULL AND typeof(payload) != 'blob')""",
    "the counts of a shape are not those of its jobs": """
        SELECT shapes.id, name, ready, issued, blocked, failed FROM shapes LEFT JOIN (
            SELECT shape, sum(state = 0) AS r, sum(state = 1) AS i, sum(state = 2) AS b, sum(state = 3) AS f
            FROM jobs GROUP BY shape) AS found ON shape = shapes.id
        WHERE (ready, issued, blocked, failed)
            != (coalesce(r, 0), coalesce(i, 0), coalesce(b, 0), coalesce(f, 0)) OR done < 0""",
    "a job of a shape that there is not": """
        SELECT shape, min(id) FROM jobs WHERE shape NOT IN (SELECT id FROM shapes) GROUP BY shape""",
    "a service that is no child of the target that added it": """
        SELECT job, gate, parent FROM services JOIN jobs ON jobs.id = job WHERE parent != gate""",
    "a job below a target with services that is not there": """
        SELECT id, name, gate FROM shapes WHERE gate AND ready + issued + blocked + failed
            AND NOT EXISTS (SELECT 1 FROM jobs WHERE jobs.id = gate AND state = 2)""",
    "a job waits for another number of children than there are": """
        SELECT jobs.id, pending, n FROM jobs LEFT JOIN (
            SELECT parent, count(*) AS n FROM jobs GROUP BY parent) AS below ON below.parent = jobs.id
        WHERE pending != coalesce(n, 0)""",
    "a job below one that is not blocked": """
        SELECT below.id, above.id, above.state FROM (SELECT parent, min(id) AS id FROM jobs GROUP BY parent) AS below
            LEFT JOIN jobs AS above ON below.parent = above.id
        WHERE below.parent != 0 AND above.state IS NOT 2""",
    "a job that is not in the bundle that it should be in": """
        SELECT jobs.id, state, bundle FROM jobs LEFT JOIN bundles ON jobs.bundle = bundles.id
        WHERE (state = 1) != (bundle > 0) OR (state = 1 AND bundles.id IS NULL)""",
    "more records of targets of a shape that succeeded than there were": """
        SELECT shape, n, succeeded FROM (SELECT shape, count(*) AS n FROM targets WHERE failed IS NULL GROUP BY shape)
            LEFT JOIN shapes ON shapes.id = shape
        WHERE n > coalesce(succeeded, 0)""",
    "a mention by nobody": """
        SELECT holder, token FROM mentions WHERE holder != 0
        AND holder NOT IN (SELECT id FROM jobs) AND holder NOT IN (SELECT token FROM promised)""",
    "a value that nobody mentions": "SELECT token FROM promised WHERE token NOT IN (SELECT token FROM mentions)",
    "a number for the next bundle that is taken already": """
        SELECT id FROM bundles WHERE id >= (SELECT value FROM meta WHERE key = 'next_bundle')
        UNION ALL SELECT max(id) FROM jobs
        HAVING max(id) >> 31 >= (SELECT value FROM meta WHERE key = 'next_bundle')""",
}
"""In words what is wrong, and the rows of which it is true. One read transaction must cover all of them."""


def find_wrong(connection: sqlite3.Connection, most: int = 3) -> list[str]:
    """What does not hold, each with a few of its rows. Raises sqlite3.Error."""
    found = []
    for what, query in WRONG.items():
        rows = connection.execute(f"SELECT * FROM ({query}) LIMIT {int(most)}").fetchall()
        if rows:
            found.append(f"{what}: {', '.join(str(row) for row in rows)}")
    return found
