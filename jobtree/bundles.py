"""The files of a bundle, as the master sees them: made before it is submitted, read while it runs, removed after it.

``bundles/B`` is written by the master and read by the worker; ``outcomes/B`` is made empty by the master, so that no
"no such file" can be cached anywhere, and written by the worker. Neither is synced: after a power cut the workers of
this machine are dead too, and a bundle is simply made again. What has to survive is in the store. It is otherwise
where workers outlive the master: there a bundle has a supervisor with a heartbeat, and all of these files are on the
disk before it is submitted.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
from collections.abc import Iterable, Iterator, Sequence, Set
from typing import Any, Callable, Optional

from batchsystems.abstract import End
from jobtree import clock, files, frames, heartbeat
from jobtree.blame import Judgement
from jobtree.frames import BundleHeader, BundleJob, Frame, Supervision
from jobtree.paths import TreePaths, job_id
from jobtree.progress_reports import Report
from jobtree.schema import ChildRow

log: logging.Logger = logging.getLogger("jobtree")

_PIECE = 4 << 20

ShapeKey = tuple[str, int, Optional[float], str]
"""Class, bytes, cores and countable things."""

ShapeOf = Callable[[str, int, Optional[float], str], int]
"""The number of a shape, by class, memory, cores and countable things."""
_ROWS_IN_MEMORY = 4000


def write_bundle(paths: TreePaths, header: BundleHeader, jobs: Sequence[BundleJob]) -> None:
    """Make the files of a bundle that is about to be submitted. Raises StorageError."""
    body = frames.NO_RECALL + b"".join(frames.encode_bundle(header, jobs))
    bundle = header.bundle
    if header.supervision is None:
        files.write_new(paths.outcome(bundle))
        files.write_new(paths.bundle(bundle), body)
        return
    for path in _files_of(paths, bundle):
        os.makedirs(os.path.dirname(path), 0o700, exist_ok=True)
    files.write_durably(paths.outcome(bundle), b"")
    files.write_durably(paths.heartbeat(bundle), bytes(heartbeat.BLOCK))
    files.write_durably(paths.bundle(bundle), body)


def sync_names(paths: TreePaths, numbers: Iterable[int]) -> None:
    """Make the names of files of supervised bundles durable. Raises StorageError."""
    folders = {os.path.dirname(path) for number in numbers for path in _files_of(paths, number)}
    for folder in sorted(folders | {os.path.dirname(folder) for folder in folders}):
        files.fsync_directory(folder)


def _files_of(paths: TreePaths, bundle: int) -> list[str]:
    return [
        paths.outcome(bundle), paths.heartbeat(bundle), paths.bundle(bundle), paths.claim(bundle), paths.log(bundle)
    ]  # fmt: skip


def supervision(paths: TreePaths, bundle: int) -> Optional[Supervision]:
    """What the supervisor of a bundle was told, if it has one; None too if the bundle's file is gone or damaged."""
    data = files.read_from(paths.bundle(bundle), 0, _PIECE)
    try:
        found = frames.decode(data, 1)
        told = BundleHeader(*found[0].body).supervision if found else None
        return Supervision(*told) if told else None
    except (frames.Damaged, TypeError):
        return None


def recall(paths: TreePaths, bundle: int) -> None:
    """Tell a bundle's worker to start nothing more; what it has started by then is in its outcome file."""
    files.write_byte(paths.bundle(bundle), 0, frames.RECALL)


def cancel(paths: TreePaths, bundle: int) -> None:
    """Tell a bundle's supervisor to end the worker."""
    files.write_byte(paths.bundle(bundle), 0, frames.CANCEL)


def claim(paths: TreePaths, bundle: int) -> bool:
    """Take the claim of a bundle, so that no worker can start it from now on. False: a worker has it."""
    return files.make_once(paths.claim(bundle), b"master\n")


def remove_bundle(paths: TreePaths, bundle: int, log: bool, supervised: bool = False) -> None:
    """Remove the files of a bundle that is over; log: that too, if it is empty or wanted no more.

    The bundle's own file goes first: a worker that starts too late looks for it again after its claim.
    """
    files.remove(paths.bundle(bundle))
    files.remove(paths.claim(bundle))
    files.remove(paths.outcome(bundle))
    if supervised:
        files.remove(paths.heartbeat(bundle))
    if log:
        files.remove(paths.log(bundle))


def wait_for_worker(paths: TreePaths, bundle: int) -> None:
    """Wait until no process on this machine holds the bundle's outcome file: its worker, or what forked from it."""
    path = paths.outcome(bundle)
    try:
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            log.warning(
                "waiting for a process of the earlier run that still has %s open (see: fuser %s)", path, path
            )
            fcntl.flock(fd, fcntl.LOCK_EX)
    finally:
        os.close(fd)


def sweep(paths: TreePaths, known: set[int]) -> None:
    """Remove files of bundles that the store does not know: they were made, and the master died before the commit.

    Called at the start and at the end, when no worker is alive that could need them but those of known bundles.
    Of logs only empty ones go: nothing was printed that somebody could ask for, and the master died before it could
    remove them.
    """
    for kind in ("bundles", "claims", "outcomes", "heartbeats"):
        for folder, name in _entries(os.path.join(paths.root, kind)):
            # A claim that is just being made on a network file system has more than a number for its name.
            number = name.partition(".")[0] if kind == "claims" else name
            if not number.isdigit() or int(number) not in known:
                files.remove(os.path.join(folder, name))
    for folder, name in _entries(os.path.join(paths.root, "logs")):
        number = name[: -len(".log")]
        path = os.path.join(folder, name)
        if number.isdigit() and int(number) not in known and not os.path.getsize(path):
            files.remove(path)
    # Supervisors that come later must find the directories of claims and logs.
    spared = {os.path.dirname(path) for number in known for path in _files_of(paths, number)}
    # Not globalTempDirs: an empty directory there may be a chain's, which its children are about to write to.
    for kind in ("bundles", "claims", "outcomes", "heartbeats", "values", "logs"):
        _remove_empty(os.path.join(paths.root, kind), spared)


def _entries(top: str) -> Iterator[tuple[str, str]]:
    for folder, _, names in os.walk(top):
        for name in names:
            yield folder, name


def _remove_empty(top: str, spared: Set[str]) -> None:
    for folder, _, _ in os.walk(top, topdown=False):
        if folder != top and folder not in spared:
            try:
                os.rmdir(folder)
            except OSError:
                continue  # not empty


class Pending:
    """The children of an attempt that has not ended yet, as they come in: counted, and kept or found again. counts: of
    those that are no services; services: the numbers of those that are, and what they ask for."""

    __slots__ = ("counts", "end", "rows", "services", "start", "total")

    def __init__(self, start: int) -> None:
        self.start: int = start
        self.end: int = start
        self.total: int = 0
        self.counts: dict[ShapeKey, int] = {}
        self.rows: Optional[list[Any]] = []
        self.services: list[tuple[int, ShapeKey]] = []


class Work:
    """What a worker has done so far: when it began and ended, and what its targets used together.

    Moments in seconds since 1970, on the clock of the worker's machine; first is None before the first target.
    """

    __slots__ = ("began", "busy", "cpu", "failures", "first", "last", "memory", "targets")

    def __init__(self) -> None:
        self.first: Optional[float] = None
        self.began: float = 0.0
        self.last: float = 0.0
        self.busy: float = 0.0
        self.cpu: float = 0.0
        self.memory: int = 0
        self.targets: int = 0
        self.failures: int = 0

    def note(self, body: Any) -> None:
        """A frame of the worker's."""
        if body[0] == frames.STARTED:
            self.started(body[4])
        elif body[0] in (frames.SUCCEEDED, frames.FAILED):
            self.ended(body[3], body[0] == frames.FAILED)

    def started(self, moment: float) -> None:
        """A target has begun."""
        self.began = moment
        if self.first is None:
            self.first = moment

    def ended(self, measures: Sequence[Any], failed: bool) -> None:
        """The target that was running is over; ``measures`` as ``frames.Measures`` has them."""
        wall, cpu, memory, _ = measures
        self.last = self.began + wall
        self.busy += wall
        self.cpu += cpu
        if memory > self.memory:
            self.memory = memory
        if failed:
            self.failures += 1
        else:
            self.targets += 1


class Said:
    """What the target that runs in a bundle has said: when it was last heard of, and how far it was by its own word.

    printed: bytes in the log by then; hung: whether it has been silent for too long (jobtree.silence).
    """

    __slots__ = ("hung", "moment", "printed", "report")

    def __init__(self, printed: int) -> None:
        self.moment: float = 0.0
        self.printed: int = printed
        self.report: Optional[Report] = None
        self.hung: bool = False


class RunningBundle:
    """A bundle that is not over: what the master has read of it.

    ``offset`` is how far its outcome file was read; ``safe_offset`` how far it may be called adopted: not beyond the
    first frame that still waits for its outcome. ``end`` and ``host`` are what its supervisor wrote, if it has one.
    ``created``: when it was to be submitted, in seconds since 1970; ``work``: what its worker has done. ``heard``: when
    a target of it last began or ended; ``begun``: when the first did; ``said``: what the one that runs has been heard
    to say, None if nothing.
    """

    __slots__ = (
        "backend", "begun", "created", "current", "current_since", "damaged", "end", "enforced", "expected", "failed",
        "finished", "heard", "host", "id", "issued_at", "log_start", "name", "offset", "orphaned", "path", "pending",
        "recalled", "said", "serves", "shape", "size", "started_any", "supervised", "value_files", "work",
    )  # fmt: skip

    def __init__(self, id: int, name: str, shape: int, size: int, path: str, offset: int, now: float) -> None:
        self.id: int = id
        self.name: str = name
        self.shape: int = shape
        self.size: int = size
        self.path: str = path
        self.offset: int = offset
        self.issued_at: float = now
        self.created: float = clock.wall()
        self.heard: float = now
        self.begun: float = now
        self.expected: float = 0.0
        self.current: Optional[tuple[int, int]] = None
        self.current_since: float = now
        self.started_any: bool = False
        self.finished: int = 0
        self.failed: bool = False
        self.recalled: bool = False
        self.log_start: int = 0
        self.damaged: bool = False
        # What we are ending the worker for, and which attempt: another one may have begun before the signal arrives.
        self.enforced: Optional[tuple[tuple[int, int], Judgement]] = None
        self.pending: Optional[Pending] = None
        self.value_files: list[str] = []
        self.backend: str = ""
        self.supervised: bool = False
        # The job and attempt of a service that is up in it; that a service which jobs in it need has died.
        self.serves: Optional[tuple[int, int]] = None
        self.orphaned: bool = False
        self.host: str = ""
        self.end: Optional[End] = None
        self.work: Work = Work()
        self.said: Optional[Said] = None

    def note_said(self, id: int, attempt: int, now: float, report: Optional[Report] = None) -> None:
        """A target has told something; report: how far it is."""
        if self.current != (id, attempt):
            return
        if self.said is None:
            self.said = Said(self.log_start)
        self.said.moment = now
        if report is not None:
            self.said.report = report

    def replay(self) -> None:
        """Find out again what an earlier master had read: which target is running, and how many have run."""
        if not self.offset:
            return
        try:
            with open(self.path, "rb") as file:
                for body in frames.frames_of(file, 0, self.offset):
                    self._note(body)
                    self.work.note(body)
        except (OSError, frames.Damaged):
            self.started_any = True  # something had been read there

    def recount(self) -> None:
        """Find out again what the worker had done by then; for one that is dead, of which no more matters."""
        with contextlib.suppress(OSError, frames.Damaged), open(self.path, "rb") as file:
            for body in frames.frames_of(file, 0, self.offset):
                self.work.note(body)

    def _note(self, body: Any) -> None:
        kind = body[0]
        if kind == frames.STARTED:
            self.current, self.log_start, self.started_any = (body[1], body[2]), body[3], True
            self.said = None
        elif kind == frames.PROGRESS:
            self.note_said(body[1], body[2], self.current_since, Report(*body[3:]))
        elif kind in (frames.SUCCEEDED, frames.FAILED):
            self.current = None
            self.finished += 1
        elif kind in (frames.CANNOT_IMPORT, frames.GAVE_BACK):
            self.current = None
        elif kind == frames.SERVES:
            self.serves = (body[1], body[2])
        elif kind == frames.RECALLED:
            self.recalled = True
        elif kind == frames.END:
            self.end = heartbeat.end_of(self.name, body)
            self.host = self.end.host

    @property
    def safe_offset(self) -> int:
        """How much of the outcome file needs never be read again once what was read is committed."""
        return self.pending.start if self.pending is not None else self.offset

    def read(self) -> Iterator[Frame]:
        """The frames that have come since, their offsets counted from the beginning of the file."""
        piece = _PIECE
        while True:
            data = files.read_from(self.path, self.offset, piece)
            found = frames.decode(data, 0, self.offset)
            if found:
                for frame in found:
                    self.offset = frame.end
                    yield frame
                piece = _PIECE
            elif len(data) == piece:
                piece *= 2  # one frame is larger than the piece
            else:
                return  # nothing, or a frame that is not written to its end yet

    def damage(self) -> str:
        """What is wrong with the file, once nobody writes any more: bytes that are no whole frame, or too few."""
        if files.read_from(self.path, self.offset, 1):
            return "its last frame is not whole"
        if self.offset and not files.read_from(self.path, self.offset - 1, 1):
            return f"it is shorter than the {self.offset} bytes that were read of it before"
        return ""

    def add_children(self, frame: Frame) -> None:
        """Children have come; they wait for their outcome."""
        shapes, rows = frame.body[4:6]
        pending = self._pending_from(frame)
        for shape, memory, _, _, _ in rows:
            name, cpu, countable = shapes[shape]
            key = (name, memory, cpu, countable)
            pending.counts[key] = pending.counts.get(key, 0) + 1
        self._keep(pending, frame)

    def add_services(self, frame: Frame) -> None:
        """The same of children that are services."""
        first_n, shapes, rows = frame.body[3:6]
        pending = self._pending_from(frame)
        for number, (shape, memory, _, _, _) in enumerate(rows, first_n):
            name, cpu, countable = shapes[shape]
            pending.services.append((job_id(self.id, number), (name, memory, cpu, countable)))
        self._keep(pending, frame)

    def _keep(self, pending: Pending, frame: Frame) -> None:
        pending.total += len(frame.body[5])
        if pending.rows is not None:
            pending.rows.append(_chunk(frame.body))
            if pending.total > _ROWS_IN_MEMORY:
                pending.rows = None  # too many to hold: read again from the file when they are adopted

    def add_value_file(self, frame: Frame) -> None:
        """A file for a large value is about to be made; it waits for its outcome."""
        self._pending_from(frame)
        self.value_files.append(frame.body[1])

    def _pending_from(self, frame: Frame) -> Pending:
        if self.pending is None:
            self.pending = Pending(frame.start)
        self.pending.end = frame.end
        return self.pending

    def take_children(self, shape_of: ShapeOf, shape_of_service: ShapeOf) -> Iterable[ChildRow]:
        """The rows of the children whose outcome has come."""
        pending, self.pending = self.pending, None
        if pending is None:
            return ()
        return self._child_rows(pending, shape_of, shape_of_service)

    def _child_rows(
        self, pending: Pending, shape_of: ShapeOf, shape_of_service: ShapeOf
    ) -> Iterator[ChildRow]:
        if pending.rows is not None:
            chunks: Iterable[Any] = pending.rows
        else:
            chunks = self._chunks_again(pending)
        for services, first_n, shapes, rows in chunks:
            shape_of_these = shape_of_service if services else shape_of
            known: dict[tuple[int, int], int] = {}
            id = job_id(self.id, first_n)
            for shape, memory, time, payload, mentions in rows:
                key = (shape, memory)
                number = known.get(key)
                if number is None:
                    name, cpu, countable = shapes[shape]
                    number = known[key] = shape_of_these(name, memory, cpu, countable)
                yield ChildRow(id, number, memory, time, payload, mentions)
                id += 1

    def _chunks_again(self, pending: Pending) -> Iterator[Any]:
        with open(self.path, "rb") as file:
            for frame in frames.frames_of(file, pending.start, pending.end):
                if frame[0] in (frames.CHILDREN, frames.SERVICES):
                    yield _chunk(frame)


def _chunk(body: Any) -> tuple[bool, int, Any, Any]:
    """Of a frame of children: whether they are services, the number of the first one, their shapes and rows."""
    return (body[0] == frames.SERVICES, *body[3:6])
