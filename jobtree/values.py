"""Kept promises: the returned values that somebody may still ask for.

A value is kept as long as a stored pickle mentions its token: the target that a job is to run next, or another kept
value (a target may return a promise). ``mentions`` has one row for each such (holder, token); a holder is a job's
number, or the token of a value, or ``RESULT`` for the result of the run. When the last mention of a token goes, its
value goes, and with it what that value mentioned. All of this happens inside the transaction that causes it.

A pipeline without promises pays one integer comparison a commit for this.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple, Optional, Union

from jobtree.inserting import insert

SCHEMA = """
CREATE TABLE promised (token BLOB PRIMARY KEY, value BLOB, file TEXT);
CREATE TABLE mentions (holder NOT NULL, token BLOB NOT NULL, PRIMARY KEY (holder, token)) WITHOUT ROWID;
CREATE INDEX mentioned ON mentions (token);
"""

RESULT = 0
"""The holder of the token of the run's result; no job has this number."""

Holder = Union[int, bytes]

_OF_GONE = "FROM mentions WHERE holder IN (SELECT holder FROM temp.gone)"
_OF_LOOSE = "FROM promised WHERE token IN (SELECT token FROM temp.loose)"
_NOBODY = "NOT EXISTS (SELECT 1 FROM mentions WHERE mentions.token = loose.token)"
WITHIN_REACH = """
WITH RECURSIVE reach (token) AS (
    SELECT token FROM mentions WHERE holder = ?
    UNION
    SELECT m.token FROM reach CROSS JOIN mentions AS m ON m.holder = reach.token
)
SELECT p.token, p.value, p.file FROM reach CROSS JOIN promised AS p ON p.token = reach.token
"""


_BY_WHOM = """
WITH RECURSIVE above (holder) AS (
    SELECT holder FROM mentions WHERE token = ?
    UNION
    SELECT m.holder FROM above CROSS JOIN mentions AS m ON m.token = above.holder
)
SELECT holder FROM above WHERE typeof(holder) = 'integer' AND holder != ?
"""

_AT_ONCE = 500
"""How many jobs are asked for in one statement."""


class Returned(NamedTuple):
    """A promised value that a target returned: its bytes or the file they are in, and the promises in it."""

    token: bytes
    value: Optional[bytes]
    file: Optional[str]
    mentions: Sequence[bytes]


class Values:
    """The two tables, seen through the master's connection and inside its transactions."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        # The row behind which values have been taken in and not been judged yet; None: there is none.
        self._newest: Optional[int] = None
        # Lists of the moment: holders that are gone; values that have lost a mention.
        for table in ("gone (holder)", "loose (token BLOB)"):
            connection.execute(f"CREATE TEMP TABLE IF NOT EXISTS {table}")
        # How many mentions there are beside the one of the run's result; with none, nothing needs to be looked up.
        self._mentions: int = connection.execute(
            "SELECT count(*) FROM mentions WHERE holder != ?", (RESULT,)
        ).fetchone()[0]

    def mention(self, holder: Holder, tokens: Iterable[bytes]) -> None:
        """A holder's pickle, about to be stored, mentions these tokens."""
        number = insert(
            self._connection,
            "INSERT OR IGNORE INTO mentions",
            "(?, ?)",
            ((holder, token) for token in tokens),
        )
        self._mentions += number if holder != RESULT else 0

    def mention_in_new_jobs(self, rows: Iterable[tuple[int, bytes]]) -> None:
        """The same for the targets of many jobs, which are new: pairs of a job's number and a token."""
        self._mentions += insert(self._connection, "INSERT INTO mentions", "(?, ?)", rows)

    def replace(self, job: int, tokens: Sequence[bytes]) -> list[str]:
        """A job's next target is stored in the place of the one before, and mentions these. Returns files to remove."""
        if not tokens:
            return self.release([job])
        if not self._mentions or not self._that_mention([job]):
            self.mention(job, tokens)
            return []
        # Noted under a stand-in first, so that a value that both targets mention does not go in between.
        stand_in = b"next of %d" % job
        self.mention(stand_in, tokens)
        dropped = self.release([job])
        self.mention(job, tokens)
        return dropped + self.release([stand_in])

    def take(self, returned: Sequence[Returned]) -> list[str]:
        """Targets returned promised values: take them in, with what they mention. Returns files to remove.

        Called before anything is released in the same transaction, and ``judge`` after it: one value may mention
        another, whichever came first, and a finished target may have been the last to mention what its own value
        passes on. A token is kept once: a second value is ignored.
        """
        if not returned:
            return []
        connection = self._connection
        newest: int = connection.execute("SELECT ifnull(max(rowid), 0) FROM promised").fetchone()[0]
        self._newest = newest if self._newest is None else min(newest, self._newest)
        files = []
        for value in returned:
            if value.file is not None:
                known = connection.execute(
                    "SELECT file FROM promised WHERE token = ?", (value.token,)
                ).fetchone()
                if known is not None and known[0] != value.file:
                    files.append(value.file)
        rows = ((v.token, v.value, v.file) for v in returned)
        insert(connection, "INSERT OR IGNORE INTO promised", "(?, ?, ?)", rows)
        for value in returned:
            if value.mentions:
                self.mention(value.token, value.mentions)
        return files

    def judge(self) -> list[str]:
        """Drop the values taken in since the last call that nobody mentions. Returns files to remove."""
        if self._newest is None:
            return []
        fresh, self._newest = self._newest, None
        loose = self._connection.execute(
            f"INSERT INTO temp.loose SELECT token FROM promised AS loose WHERE rowid > ? AND {_NOBODY}",
            (fresh,),
        )
        files: list[str] = []
        if loose.rowcount:  # mostly there is none
            self._release(self._drop_loose(files), files)
        return files

    def keep(self, returned: Sequence[Returned]) -> list[str]:
        """``take`` and ``judge``, where nothing is released in between."""
        return self.take(returned) + self.judge()

    def files(self) -> set[str]:
        """The files of all kept values."""
        return {
            row[0] for row in self._connection.execute("SELECT file FROM promised WHERE file IS NOT NULL")
        }

    def release(self, holders: Iterable[Holder]) -> list[str]:
        """These holders' pickles are gone. Returns the files of values that nobody can ask for any more."""
        files: list[str] = []
        if self._mentions:
            self._release(self._that_mention(holders), files)
        return files

    def _release(self, holders: Sequence[Holder], files: list[str]) -> None:
        """Strike what these holders mention, and go on with the values that this drops. All of a step at once: a
        follow-on may mention ten thousand values, each of which its own statements would take 20 us."""
        connection = self._connection
        while holders:
            insert(connection, "INSERT INTO temp.gone", "(?)", ((holder,) for holder in holders))
            connection.execute(f"INSERT INTO temp.loose SELECT DISTINCT token {_OF_GONE}")
            struck = connection.execute(f"DELETE {_OF_GONE}").rowcount
            self._mentions = max(0, self._mentions - struck)
            connection.execute("DELETE FROM temp.gone")
            holders = self._drop_loose(files)

    def _drop_loose(self, files: list[str]) -> list[Holder]:
        """Drop those of the loose values that nobody mentions. Returns those of them that mention others."""
        execute = self._connection.execute
        execute(f"DELETE FROM temp.loose WHERE NOT ({_NOBODY})")
        files.extend(row[0] for row in execute(f"SELECT file {_OF_LOOSE} AND file IS NOT NULL"))
        holders = execute(
            "SELECT DISTINCT holder FROM mentions WHERE holder IN (SELECT token FROM temp.loose)"
        ).fetchall()
        execute(f"DELETE {_OF_LOOSE}")
        execute("DELETE FROM temp.loose")
        return [row[0] for row in holders]

    def _that_mention(self, holders: Iterable[Holder]) -> list[Holder]:
        """Those of the holders that mention anything: of a thousand finished jobs usually none, in one question."""
        found: list[Holder] = []
        jobs: list[int] = []
        for holder in holders:
            if isinstance(holder, int):
                jobs.append(holder)
            else:
                found.append(holder)
        for start in range(0, len(jobs), _AT_ONCE):
            numbers = ",".join(map(str, jobs[start : start + _AT_ONCE]))
            rows = self._connection.execute(
                f"SELECT DISTINCT holder FROM mentions WHERE holder IN ({numbers})"
            )
            found.extend(row[0] for row in rows)
        return found

    def of_jobs(self, jobs: Sequence[int]) -> dict[int, dict[bytes, Any]]:
        """``of_job`` of those jobs that have any."""
        if not self._mentions:
            return {}
        return {job: self.of_job(job) for job in self._that_mention(jobs) if isinstance(job, int)}

    def of_job(self, job: int) -> dict[bytes, Any]:
        """The kept values that a job's target can ask for, directly or through another value: bytes or file name."""
        if not self._mentions and job != RESULT:
            return {}
        rows = self._connection.execute(WITHIN_REACH, (job,))
        return {token: value if file is None else file for token, value, file in rows}

    def who_waits(self, job: int, tokens: Iterable[bytes]) -> list[int]:
        """See ``Store.who_waits``."""
        found: set[int] = set()
        known = self._tokens_of(job)
        for token in tokens:
            kept = self._connection.execute("SELECT 1 FROM promised WHERE token = ?", (token,)).fetchone()
            if kept is None and token not in known:
                found.update(row[0] for row in self._connection.execute(_BY_WHOM, (token, job)))
        return sorted(found)

    def _tokens_of(self, job: int) -> set[bytes]:
        return {
            row[0] for row in self._connection.execute("SELECT token FROM mentions WHERE holder = ?", (job,))
        }

    def result(self) -> dict[bytes, Any]:
        """The run's result with all that it mentions, as ``of_job``; empty if the root has not ended."""
        return self.of_job(RESULT)

    def result_token(self) -> Optional[bytes]:
        """The token of the run's result."""
        row: Optional[tuple[bytes]] = self._connection.execute(
            "SELECT token FROM mentions WHERE holder = ?", (RESULT,)
        ).fetchone()
        return row[0] if row else None
