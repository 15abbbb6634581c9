"""A worker that does what the test says, step by step, and leaves exactly what a real one would leave on the disk.

Like ``jobtree.worker`` it keeps frames until it has a reason to hand them to the file: before a target starts, with a
message, a directory or a value file, between chunks of children, when it goes straight on, and at its end. So a test
can let it die between any two frames, with any part of the last ones written. It runs nothing: payloads are any bytes.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any, NamedTuple, Optional

from jobtree import clock, frames
from jobtree.frames import BundleJob, Failure, Measures, Packed
from jobtree.paths import TreePaths, job_id


class Value(NamedTuple):
    """What a target returned and somebody was promised. in_file: as if it were too large for the database."""

    token: bytes
    data: bytes
    mentions: tuple[bytes, ...] = ()
    in_file: bool = False


def target(
    name: str,
    payload: Optional[bytes] = None,
    mentions: tuple[bytes, ...] = (),
    memory: Optional[int] = None,
    cpu: Optional[float] = None,
    time: Optional[float] = None,
    countable: str = "",
) -> Packed:
    """A target as it is stored; its payload is its class's name if nothing else is given."""
    return Packed(name, memory, cpu, time, name.encode() if payload is None else payload, mentions, countable)


class ScriptedWorker:
    """One bundle's worker. ``job`` is the one that was started and has not ended, ``left`` those still to start."""

    def __init__(self, paths: TreePaths, bundle: int, mark: str = "worker") -> None:
        self.bundle = bundle
        self.job: Optional[BundleJob] = None
        self.left: list[BundleJob] = []
        self.values: dict[bytes, Any] = {}
        self._paths = paths
        self._mark = mark
        self._pending: list[bytes] = []
        self._next_n = 1
        self._log_start = 0

    # -- the bundle --------------------------------------------------------------------------------------------

    def open(self) -> bool:
        """Claim the bundle and read it; False if it is not ours to run."""
        path = self._paths.bundle(self.bundle)
        if not os.path.exists(path):
            return False
        claim = self._paths.claim(self.bundle)
        os.makedirs(os.path.dirname(claim), exist_ok=True)
        try:
            fd = os.open(claim, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
        except FileExistsError:
            return False
        os.write(fd, self._mark.encode())
        os.close(fd)
        with open(path, "rb") as file:
            found = frames.decode_bundle(file.read())
        assert found is not None
        self.header, self.left = found
        os.makedirs(os.path.dirname(self.log), exist_ok=True)
        self.print(b"")
        return True

    @property
    def log(self) -> str:
        """The file of what its targets print."""
        return self._paths.log(self.bundle)

    def recalled(self) -> bool:
        """Whether the master has taken back what was not started."""
        with open(self._paths.bundle(self.bundle), "rb") as file:
            return file.read(1) != frames.NO_RECALL

    # -- a target ----------------------------------------------------------------------------------------------

    def say_started(self, job: Optional[BundleJob] = None) -> BundleJob:
        """Write that a job starts, without looking whether it was recalled; without job: the next of the bundle."""
        self.job = self.left.pop(0) if job is None else job
        self.values = dict(self.job.values)
        self._log_start = os.path.getsize(self.log)
        self.write(frames.STARTED, self.job.id, self.job.attempt, self._log_start, clock.wall())
        self.flush()
        return self.job

    def look_for_recall(self) -> bool:
        """What follows ``say_started``: False if the bundle was recalled; then the job is given back."""
        if not self.recalled():
            return True
        job = self._current()
        self.write(frames.GAVE_BACK, job.id, job.attempt)
        self.flush()
        self.job = None
        self.left = []
        return False

    def start(self, job: Optional[BundleJob] = None) -> bool:
        """Start a job. False if the bundle was recalled: the worker is to end."""
        self.say_started(job)
        return self.look_for_recall()

    def message(self, text: str) -> None:
        """The target calls logToMaster."""
        self._write_of_job(frames.MESSAGE, text)
        self.flush()

    def progress(self, fraction: Optional[float], words: str = "") -> None:
        """The target calls reportProgress."""
        self._write_of_job(frames.PROGRESS, fraction, words)
        self.flush()

    def warning(self, text: str) -> None:
        """The worker found something about the target."""
        self._write_of_job(frames.WARNING, text)

    def global_dir(self) -> str:
        """The target asks for its chain's global temporary directory and leaves a file there."""
        self._write_of_job(frames.GLOBAL_DIR)
        self.flush()
        path = self._paths.global_dir(self._current().id)
        os.makedirs(path, exist_ok=True)
        with open(os.path.join(path, "file"), "w"):
            return path

    def print(self, text: bytes) -> None:
        """The target prints."""
        with open(self.log, "ab") as file:
            file.write(text)

    # -- outcomes ----------------------------------------------------------------------------------------------

    def succeed(
        self,
        children: Sequence[Packed] = (),
        follow_on: Optional[Packed] = None,
        value: Optional[Value] = None,
        go_on: bool = False,
        wall: float = 0.01,
        chunk: int = 1000,
        services: Sequence[Packed] = (),
    ) -> Optional[BundleJob]:
        """The target ended well. go_on: straight on to its only child or its follow-on if that is allowed now.

        Returns the job to go on with, which the caller starts.
        """
        job = self._current()
        kept = None if value is None else self.keep(value)
        ids = self.write_children(services, chunk, frames.SERVICES)
        ids += self.write_children(children, chunk)
        stored = None if follow_on is None else tuple(follow_on)
        next_job = self._next_job(children, ids, follow_on) if go_on else None
        goes_on = None if next_job is None else next_job.id if children else 0
        measures = tuple(Measures(wall, wall, 1 << 20, True))
        self.write(frames.SUCCEEDED, job.id, job.attempt, measures, len(ids), stored, goes_on, kept)
        self.job = None
        if next_job is not None:
            self.flush()
        return next_job

    def _next_job(
        self, children: Sequence[Packed], ids: Sequence[int], follow_on: Optional[Packed]
    ) -> Optional[BundleJob]:
        job = self._current()
        if len(children) == 1:
            packed, place = children[0], (ids[0], 1, 0)
        elif not children and follow_on is not None:
            packed, place = follow_on, (job.id, job.attempt + 1, job.step + 1)
        else:
            return None
        if self.recalled() or not set(packed.mentions) <= set(self.values):
            return None
        return BundleJob(*place, packed.memory or 0, job.cpu, packed.time or 0.0, packed.payload, self.values)

    def keep(self, value: Value) -> tuple[bytes, Optional[bytes], Optional[str], tuple[bytes, ...]]:
        """A promised value, as it goes into the outcome; its file is made if it has one."""
        if not value.in_file:
            self.values[value.token] = value.data
            return value.token, value.data, None, value.mentions
        path = self._paths.value(self.bundle, self._next_n)
        self._next_n += 1
        self.write(frames.VALUE_FILE, path)
        self.flush()
        absolute = self._paths.absolute(path)
        os.makedirs(os.path.dirname(absolute), exist_ok=True)
        with open(absolute, "wb") as file:
            file.write(value.data)
        self.values[value.token] = path
        return value.token, None, path, value.mentions

    def write_children(
        self, children: Sequence[Packed], chunk: int = 1000, kind: str = frames.CHILDREN
    ) -> list[int]:
        """The frames of children, so many in each; all but the last reach the file. Returns the children's ids."""
        job = self._current()
        ids = []
        for first in range(0, len(children), chunk):
            if first:
                self.flush()
            some = children[first : first + chunk]
            shapes: dict[tuple[str, Optional[float], str], int] = {}
            rows = []
            for packed in some:
                shape = shapes.setdefault((packed.name, packed.cpu, packed.countable), len(shapes))
                rows.append((shape, packed.memory or 0, packed.time or 0.0, packed.payload, packed.mentions))
            self.write(kind, job.id, job.attempt, self._next_n, list(shapes), rows)
            ids += [job_id(self.bundle, self._next_n + index) for index in range(len(some))]
            self._next_n += len(some)
        return ids

    def serve(self, value: Value) -> None:
        """The target is a service, and is up."""
        self.values[value.token] = value.data
        self._write_of_job(frames.SERVES, value.token, value.data)
        self.flush()

    def well(self) -> None:
        """The service is well."""
        self._write_of_job(frames.WELL)
        self.flush()

    def fail(self, message: str = "ValueError: no", kind: str = "exception", wall: float = 0.01) -> None:
        """The target raised something."""
        failure = tuple(Failure(kind, message, "", "", self._log_start, os.path.getsize(self.log)))
        self._write_of_job(frames.FAILED, tuple(Measures(wall, wall, 1 << 20, True)), failure)
        self.job = None

    def cannot_import(self, text: str = "module 'm' cannot be imported") -> None:
        """What the target needs cannot be imported; the worker is to end."""
        self._write_of_job(frames.CANNOT_IMPORT, text)
        self.job = None
        self.flush()

    # -- frames ------------------------------------------------------------------------------------------------

    def write(self, *body: Any) -> None:
        """Any frame; it stays in memory until ``flush``."""
        self._pending.append(frames.encode(body))

    def flush(self) -> None:
        """Hand what was written to the file."""
        self.append(self.unwritten)
        self._pending.clear()

    def die(self, written: int = 0) -> None:
        """End without another word, but for so many bytes of what was not handed over yet."""
        if os.path.exists(self._paths.outcome(self.bundle)):
            self.append(self.unwritten[:written])
        self._pending.clear()
        self.job = None
        self.left = []

    @property
    def unwritten(self) -> bytes:
        """What is not handed over yet."""
        return b"".join(self._pending)

    def tear(self, size: int) -> None:
        """Cut so many bytes from the end of the outcome file."""
        path = self._paths.outcome(self.bundle)
        os.truncate(path, os.path.getsize(path) - size)

    def append(self, data: bytes) -> None:
        """Write bytes to the outcome file, which must be there: without it the bundle is over."""
        fd = os.open(self._paths.outcome(self.bundle), os.O_WRONLY | os.O_APPEND)
        try:
            os.write(fd, data)
        finally:
            os.close(fd)

    def _write_of_job(self, kind: str, *rest: Any) -> None:
        job = self._current()
        self.write(kind, job.id, job.attempt, *rest)

    def _current(self) -> BundleJob:
        assert self.job is not None, "no target is running in this worker"
        return self.job
