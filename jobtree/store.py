"""The tree on disk: one SQLite database with one writer.

What must hold
  - The master, and it alone, writes, and it holds the tree's lock while the database is open.
  - One transaction for everything that a turn of the master's loop has collected and decided: it is there whole or not
    at all. ``commit`` returns when it is on the disk (write-ahead log, synchronous=FULL). Only then may the master act.
  - Every start raises ``generation``, and every transaction checks it. A master that lost its lock (a suspended
    machine, a network file system) and wakes up refuses to write.
  - Counts by shape and state are kept in the same transaction, so nobody ever has to count.

The table ``jobs`` holds what is not done; a row goes when its job is DONE. ``payload`` is the target that the job is to
run next: the current one while it is READY or ISSUED, the follow-on while it is BLOCKED. READY rows are found by shape
through a partial index, the others (few) through another. A ``shape`` is what may share a worker: class, cores, memory,
countable things and the services that are needed; memory in steps of at most 12 %, so that a pipeline that computes its
requests has dozens of shapes and not millions (each row keeps its exact request).

``removals`` are files and directories that must go: noted in the transaction that makes them superfluous, removed after
it, struck after that. So a crash at any moment leaves nothing behind for ever.

How it fails: every error of SQLite or of the disk becomes a StorageError, which stops the master; then ``abandon``
leaves everything as it is on the disk. SQLite swallows what goes wrong while it carries the log over by itself or
closes, and when it cannot make the log; so the first two are asked for, and the last is checked.
Another format than ours is refused in ``jobtree.treedir`` before anything here is opened.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator, Sequence, Set
from typing import Any, Optional

from jobtree import database, forgetting
from jobtree.database import Translated
from jobtree.errors import StorageError
from jobtree.events import Below, Changes, Job, State
from jobtree.inserting import insert
from jobtree.records import Records, ShapeStats, TargetRow, WorkerRow
from jobtree.schema import SCHEMA, BundleRow, ChildRow, FailureRow, Shape, memory_step
from jobtree.service_rows import ServiceRows
from jobtree.shown import storable
from jobtree.values import RESULT, Returned, Values

_MOST_COMMITS = 400
_MOST_CHANGES = 20_000
"""After so many transactions or changed rows the log is carried over: some 2000 pages, against the 8000 (32 MB) at
which SQLite does it by itself, as it still does when a few rows are very large."""

_COUNTS = "ready = ?, issued = ?, blocked = ?, failed = ?, done = ?"
_JOB = (
    "id, parent, shape, state, step, attempt, tries, losses, pending, has_next, bundle, alone, has_global, memory, "
    "time"
)
_ROW = (
    "UPDATE jobs SET state = ?, shape = ?, step = ?, attempt = ?, tries = ?, losses = ?, pending = ?, has_next = ?, "
    "bundle = ?, alone = ?, has_global = ?, memory = ?, time = ?"
)
_NEW = "(?, ?, 0, ?, 0, 0, 0, 0, 0, 1, 0, 0, 0, ?, ?, ?)"


class Store:
    """The master's connection. Every method but the constructor and ``close`` is called inside ``begin``/``commit``,
    except the loading ones at the start. Raises StorageError."""

    def __init__(self, path: str, new: bool = False, exclusive: bool = False) -> None:
        """Open the database; new: make the tables. exclusive: for file systems without shared memory (network)."""
        self.path = path
        self._translated = Translated(path)
        self._closed = False
        with self._translated:
            self._connection = sqlite3.connect(
                path,
                isolation_level=None,
                timeout=30.0,
                cached_statements=256,
                check_same_thread=not exclusive,
            )
        self.commits: int = 0
        """How often something was committed by this connection."""
        self.only_connection: Optional[sqlite3.Connection] = self._connection if exclusive else None
        """Where nobody else can read the database (network file systems): for reading between transactions."""

        try:
            self._open(new, exclusive)
        except BaseException:
            self.abandon()
            raise

    @property
    def reader(self) -> sqlite3.Connection:
        """For reading between transactions."""
        return self._connection

    def _open(self, new: bool, exclusive: bool) -> None:
        with self._translated:
            execute = self._connection.execute
            if exclusive:
                # Set before the first access, this keeps SQLite from needing shared memory for its log's index.
                execute("PRAGMA locking_mode = EXCLUSIVE")
            mode = database.to_log_mode(self._connection)
            if mode != "wal":
                # It does not raise when the disk refuses, but goes on as it was.
                raise sqlite3.OperationalError(f"its log cannot be made (journal mode {mode})")
            execute("PRAGMA synchronous = FULL")
            execute("PRAGMA wal_autocheckpoint = 8000")
            execute("PRAGMA cache_size = -49152")
            execute("PRAGMA temp_store = MEMORY")
            if new:
                execute("BEGIN IMMEDIATE")
                for statement in SCHEMA.split(";"):
                    execute(statement)
                execute("INSERT INTO meta VALUES ('generation', 0), ('next_bundle', 1)")
                execute("COMMIT")
            self.values: Values = Values(self._connection)
            self.services: ServiceRows = ServiceRows(self._connection, self._translated)
            self._dropped: list[str] = []
            self._shapes: dict[tuple[str, int, float, str, int], int] = {}
            self.shapes: dict[int, Shape] = {}
            self._records = Records(self._connection)
            self.stats: dict[int, ShapeStats] = self._records.stats
            self.generation: int = 0
            self._carried_commits = 0
            self._carried_changes = 0
            for row in execute("SELECT id, name, memory, cpu, countable, gate FROM shapes"):
                self._know_shape(Shape(*row))

    # -- transactions ------------------------------------------------------------------------------------------

    def raise_generation(self) -> int:
        """A new master: from now on earlier ones cannot write. Commits."""
        with self._translated:
            self._connection.execute("BEGIN IMMEDIATE")
            self.generation = int(self.get("generation")) + 1
            self.set("generation", self.generation)
            self._connection.execute("COMMIT")
        return self.generation

    def begin(self) -> None:
        """Start a transaction; StorageError if another master has taken over."""
        with self._translated:
            self._connection.execute("BEGIN IMMEDIATE")
            found = self.get("generation")
            if found != self.generation:
                self._connection.execute("ROLLBACK")
                raise StorageError(
                    f"{self.path} was taken over by another master (start {found}, this one is {self.generation}). "
                    "This one stops without writing; the other one carries on."
                )

    def commit(self) -> None:
        """Make the transaction durable. When this returns, acting on it is safe."""
        with self._translated:
            self._connection.execute("COMMIT")
            self.commits += 1
            changes = self._connection.total_changes
            if (
                self.commits - self._carried_commits >= _MOST_COMMITS
                or changes - self._carried_changes >= _MOST_CHANGES
            ):
                self._carried_commits, self._carried_changes = self.commits, changes
                self._checkpoint()

    def _checkpoint(self) -> None:
        """Carry the log over into the database. SQLite does that by itself too, but then keeps its errors to itself."""
        self._connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()

    def close(self) -> None:
        """Carry the log over and close the connection; an open transaction is rolled back. Raises StorageError.

        After an error it is ``abandon``; twice is fine.
        """
        if self._closed:
            return
        try:
            if not self._translated.refused:
                with self._translated:
                    if self._connection.in_transaction:
                        self._connection.execute("ROLLBACK")
                    self._checkpoint()
        finally:
            if self._translated.refused:
                self.abandon()
            else:
                self._closed = True
                self._connection.close()

    def abandon(self) -> None:
        """Let go of the database without another word to the disk, after it has refused something.

        Closing as usual would write and sync the log and the database once more, and may even succeed with what was
        lost: the log is left to the next start instead. An open transaction is gone.
        """
        if self._closed:
            return
        self._closed = True
        database.let_go(self._connection)

    def get(self, key: str) -> Any:
        """A value of the table ``meta``; None if it is not there."""
        with self._translated:
            row = self._connection.execute("SELECT value FROM meta WHERE key = ?", (key,)).fetchone()
        return row[0] if row else None

    def set(self, key: str, value: Any) -> None:
        """Write a value of the table ``meta``."""
        with self._translated:
            self._connection.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (key, value))

    # -- loading -----------------------------------------------------------------------------------------------

    def held_jobs(self) -> Iterator[Job]:
        """The ISSUED and BLOCKED jobs."""
        with self._translated:
            for row in self._connection.execute(
                f"SELECT {_JOB} FROM jobs INDEXED BY held WHERE state > 0 AND state < 3"
            ):
                yield _job(row)

    def job(self, id: int) -> Optional[Job]:
        """A job that is not done, in whatever state it is; None if there is none of this number."""
        with self._translated:
            row = self._connection.execute(f"SELECT {_JOB} FROM jobs WHERE id = ?", (id,)).fetchone()
        return _job(row) if row is not None else None

    def counts(self) -> dict[int, tuple[int, ...]]:
        """The number of jobs by shape, in the order of ``State``."""
        with self._translated:
            rows = self._connection.execute(
                "SELECT id, ready, issued, blocked, failed, done FROM shapes"
            ).fetchall()
        return {row[0]: tuple(row[1:]) for row in rows}

    def bundles(self) -> list[BundleRow]:
        """The bundles that are not over."""
        with self._translated:
            rows = self._connection.execute(
                "SELECT id, name, backend, shape, size, offset, created, host FROM bundles"
            ).fetchall()
        return [BundleRow(*row) for row in rows]

    def has_failures(self, bundle: str) -> bool:
        """Whether the last failure of some job was in the bundle of this name: then its log is still wanted."""
        with self._translated:
            row = self._connection.execute(
                "SELECT 1 FROM failures WHERE bundle = ? LIMIT 1", (bundle,)
            ).fetchone()
        return row is not None

    def value_files(self) -> Set[str]:
        """The files of all kept values, relative to the tree."""
        with self._translated:
            return self.values.files()

    def payload(self, id: int) -> Optional[bytes]:
        """The target that a job is to run next; None if there is none."""
        with self._translated:
            row = self._connection.execute("SELECT payload FROM jobs WHERE id = ?", (id,)).fetchone()
        return row[0] if row is not None else None

    def who_waits(self, id: int, tokens: Iterable[bytes]) -> list[int]:
        """Jobs other than this one that mention one of these tokens, whose value is not kept yet, directly or by way of
        a kept value; ``RESULT`` for the result of the run."""
        with self._translated:
            return self.values.who_waits(id, tokens)

    def below(self, id: int) -> Below:
        """What is below a job, at any depth."""
        with self._translated:
            return forgetting.below(self._connection, id)

    def note_global_dir(self, job: int) -> bool:
        """A job's global temporary directory exists: note it. False if there is no such job any more."""
        with self._translated:
            cursor = self._connection.execute("UPDATE jobs SET has_global = 1 WHERE id = ?", (job,))
        return cursor.rowcount > 0

    def removals(self) -> list[tuple[int, str]]:
        """What is still to be removed: (row, path relative to the tree)."""
        with self._translated:
            rows = self._connection.execute("SELECT id, path FROM removals").fetchall()
        return [(row[0], row[1]) for row in rows]

    # -- what a turn writes ------------------------------------------------------------------------------------

    def shape(
        self, name: str, memory: Optional[int], cpu: Optional[float], countable: str = "", gate: int = 0
    ) -> int:
        """The number of the shape of a request, made if it is new."""
        key = (storable(name), memory_step(memory or 0), cpu or 0.0, countable, gate)
        number = self._shapes.get(key)
        if number is None:
            with self._translated:
                cursor = self._connection.execute(
                    "INSERT INTO shapes (name, memory, cpu, countable, gate) VALUES (?, ?, ?, ?, ?)", key
                )
            number = int(cursor.lastrowid or 0)
            self._know_shape(Shape(number, *key))
            self.stats[number] = ShapeStats()
        return number

    def write(
        self, changes: Changes, counts: dict[int, list[int]], returned: Sequence[Returned] = ()
    ) -> None:
        """Apply what the tree decided, and keep the promised values that targets returned meanwhile.

        See ``take_dropped`` for the files that this makes superfluous.
        """
        with self._translated:
            executemany = self._connection.executemany
            self._dropped.extend(self.values.take(returned))
            for parent, source in changes.children:
                self._insert_children(parent, source)
            if changes.issued:
                executemany(
                    "UPDATE jobs SET state = 1, bundle = ?, attempt = attempt + 1 WHERE id BETWEEN ? AND ?",
                    _runs(changes.issued),
                )
            if changes.touched:
                self._rewrite(changes)
            if changes.done:
                runs = _runs((0, id) for id in changes.done)
                executemany("DELETE FROM jobs WHERE id BETWEEN ? AND ?", [run[1:] for run in runs])
                self._dropped.extend(self.values.release(changes.done))
            if changes.forgiven:
                executemany("DELETE FROM failures WHERE job = ?", [(id,) for id in changes.forgiven])
            for id in changes.forgotten:
                self._dropped.extend(forgetting.delete(self._connection, self.values, id))
            if changes.shapes:
                executemany(
                    f"UPDATE shapes SET {_COUNTS} WHERE id = ?",
                    [(*counts[shape], shape) for shape in changes.shapes],
                )
            self._dropped.extend(self.values.judge())

    def _insert_children(self, parent: int, source: Iterable[ChildRow]) -> None:
        mentions: list[tuple[int, bytes]] = []

        def rows() -> Iterator[tuple[Any, ...]]:
            for id, shape, memory, time, payload, tokens in source:
                if tokens:
                    mentions.extend((id, token) for token in tokens)
                yield id, parent, shape, memory, time, payload

        insert(self._connection, "INSERT INTO jobs", _NEW, rows())
        self.values.mention_in_new_jobs(mentions)

    def _rewrite(self, changes: Changes) -> None:
        plain, with_payload = [], []
        mentions: list[tuple[int, Sequence[bytes]]] = []
        specs = changes.specs
        for id, job in changes.touched.items():
            row = (
                int(job.state), job.shape, job.step, job.attempt, job.tries, job.losses, job.pending, job.has_next,
                job.bundle, job.alone, job.has_global, job.memory, job.time,
            )  # fmt: skip
            if id in specs:
                spec = specs[id]
                payload, tokens = (None, ()) if spec is None else spec.packed
                with_payload.append((*row, payload, id))
                mentions.append((id, tokens))
            else:
                plain.append((*row, id))
        self._connection.executemany(f"{_ROW} WHERE id = ?", plain)
        self._connection.executemany(f"{_ROW}, payload = ? WHERE id = ?", with_payload)
        for id, tokens in mentions:
            self._dropped.extend(self.values.replace(id, tokens))

    def take_dropped(self) -> list[str]:
        """Files (relative to the tree) of values that nobody can ask for any more, since the last call."""
        dropped, self._dropped = self._dropped, []
        return dropped

    def values_of_jobs(self, jobs: Sequence[int]) -> dict[int, dict[bytes, Any]]:
        """The kept values that these jobs' targets can ask for: bytes, or a file's name. Jobs without are left out."""
        with self._translated:
            return self.values.of_jobs(jobs)

    def keep_result(self, token: bytes) -> None:
        """The run's result is the value of this token."""
        with self._translated:
            self.values.mention(RESULT, [token])

    def renew_failed(self) -> None:
        """FAILED jobs become READY with all their tries (the tree has changed the counts)."""
        with self._translated:
            self._connection.execute(
                "DELETE FROM failures WHERE job IN (SELECT id FROM jobs WHERE state > 0 AND state = 3)"
            )
            self._connection.execute(
                "UPDATE jobs SET state = 0, tries = 0, losses = 0, alone = 0 WHERE state > 0 AND state = 3"
            )

    def write_stats(
        self,
        shapes: Iterable[int],
        targets: Sequence[TargetRow] = (),
        workers: Sequence[tuple[WorkerRow, float, int]] = (),
    ) -> None:
        """Write down what the targets of these shapes used, and these attempts and workers that are over."""
        with self._translated:
            self._records.write_shapes(shapes)
            self._records.write_targets(targets)
            if workers:
                self._records.write_workers(workers)

    def ready(self, shape: int, after: int, limit: int) -> list[tuple[Job, bytes]]:
        """READY jobs of a shape with numbers above ``after``, oldest first, with their targets."""
        with self._translated:
            rows = self._connection.execute(
                f"SELECT {_JOB}, payload FROM jobs INDEXED BY ready WHERE state = 0 AND shape = ? AND id > ? "
                "ORDER BY id LIMIT ?",
                (shape, after, limit),
            ).fetchall()
        return [(_job(row), row[15]) for row in rows]

    def new_bundle(self, row: BundleRow) -> None:
        """A bundle is about to be submitted under this name."""
        with self._translated:
            self._connection.execute("INSERT INTO bundles VALUES (?, ?, ?, ?, ?, ?, ?, ?)", row)

    def take_bundle_number(self) -> int:
        """A number for a new bundle."""
        number = int(self.get("next_bundle"))
        self.set("next_bundle", number + 1)
        return number

    def adopted(self, offsets: Iterable[tuple[int, int]]) -> None:
        """Outcome files have been adopted up to (offset, bundle)."""
        with self._translated:
            self._connection.executemany("UPDATE bundles SET offset = ? WHERE id = ?", offsets)

    def bundle_over(self, bundle: int) -> None:
        """A bundle is over and its outcome file read to the end."""
        with self._translated:
            self._connection.execute("DELETE FROM bundles WHERE id = ?", (bundle,))

    def note_failure(self, row: FailureRow) -> None:
        """The latest failure of a job."""
        f = row.failure
        with self._translated:
            self._connection.execute(
                "INSERT OR REPLACE INTO failures VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (row.job, row.attempt, storable(row.name), f.kind, storable(f.message), storable(f.traceback),
                 storable(f.output), row.log and storable(row.log), f.log_start, f.log_end,
                 row.host and storable(row.host), row.bundle and storable(row.bundle), row.moment),
            )  # fmt: skip

    def note_removals(self, paths: Sequence[str]) -> list[tuple[int, str]]:
        """Paths, relative to the tree, that must go after the commit; struck with ``strike_removals``."""
        noted = []
        with self._translated:
            for path in paths:
                cursor = self._connection.execute("INSERT INTO removals (path) VALUES (?)", (path,))
                noted.append((int(cursor.lastrowid or 0), path))
        return noted

    def strike_removals(self, rows: Iterable[int]) -> None:
        """These have been removed."""
        with self._translated:
            self._connection.executemany("DELETE FROM removals WHERE id = ?", [(row,) for row in rows])

    def _know_shape(self, shape: Shape) -> None:
        self._shapes[(shape.name, shape.memory, shape.cpu, shape.countable, shape.gate)] = shape.id
        self.shapes[shape.id] = shape


_STATES = tuple(State)


def _job(row: Sequence[Any]) -> Job:
    return Job(
        row[0], row[1], row[2], _STATES[row[3]], row[4], row[5], row[6], row[7], row[8], bool(row[9]), row[10],
        bool(row[11]), bool(row[12]), row[13], row[14],
    )  # fmt: skip


def _runs(jobs: Iterable[tuple[int, int]]) -> list[tuple[int, int, int]]:
    """Pairs of bundle and job as (bundle, first, last) of jobs without a gap: siblings are, and one statement for all
    of them takes half the time of one for each."""
    found: list[tuple[int, int, int]] = []
    first = last = bundle = -1
    for of, id in sorted(jobs):
        if of == bundle and id == last + 1:
            last = id
            continue
        if first >= 0:
            found.append((bundle, first, last))
        bundle, first, last = of, id, id
    if first >= 0:
        found.append((bundle, first, last))
    return found
