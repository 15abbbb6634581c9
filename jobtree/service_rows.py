"""Which jobs are services, and of which target: a row for each that is still needed. What follows from it is in
``jobtree.services``. All of this happens inside the transaction that causes it."""

from __future__ import annotations

import sqlite3
from typing import NamedTuple

from jobtree.database import Translated


class ServiceRow(NamedTuple):
    """A job that is a service, the job whose target added it, and the shape of the service."""

    job: int
    gate: int
    shape: int


class ServiceRows:
    """The table, seen through the master's connection. Raises StorageError."""

    def __init__(self, connection: sqlite3.Connection, translated: Translated) -> None:
        self._connection = connection
        self._translated = translated

    def all(self) -> list[tuple[ServiceRow, bool]]:
        """The services whose jobs are in the tree, and whether each has failed for good."""
        with self._translated:
            rows = self._connection.execute(
                "SELECT job, gate, services.shape, state = 3 FROM services JOIN jobs ON jobs.id = job"
            ).fetchall()
        return [(ServiceRow(*row[:3]), bool(row[3])) for row in rows]

    def note(self, row: ServiceRow) -> None:
        """This child of a target is a service."""
        with self._translated:
            self._connection.execute("INSERT OR REPLACE INTO services VALUES (?, ?, ?)", row)

    def forget(self, job: int) -> None:
        """The service is needed no more."""
        with self._translated:
            self._connection.execute("DELETE FROM services WHERE job = ?", (job,))

    def promise_again(self, token: bytes, value: bytes) -> bool:
        """What a service promises now, in place of what it did the last time. False: nothing is kept of that."""
        with self._translated:
            cursor = self._connection.execute("UPDATE promised SET value = ? WHERE token = ?", (value, token))
        return cursor.rowcount > 0
