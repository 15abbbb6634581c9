"""A worker: runs the jobs of one bundle, one after the other, and writes down what became of each.

What must hold
  - It runs nothing unless it has won the claim of its bundle: a batch system may start it twice.
  - Before a target it appends a *started* frame, then looks whether the rest was recalled; after it, the outcome. So
    when it dies, the culprit is exactly the job that was started and has no outcome, and what the master takes back
    is never run here.
  - A target's children, follow-on and value are in one outcome: it counts whole or not at all.
  - When it goes straight on to a follow-on or an only child, the outcome before it is synced first, because what
    comes next may destroy what it was made from.
  - Between targets everything is put back (jobtree.isolation); what cannot be ends the worker, and a fresh one takes
    the rest.
  - A user's ``os.fork()`` that comes back out of ``run()`` must not become a second worker.

How it fails. Whatever ``run()`` raises is an outcome. If the worker itself cannot go on (disk full, its files gone) it
exits with 74 (EX_IOERR) and no blame; any other death is the started target's or nobody's, which the master decides.
"""

from __future__ import annotations

import fcntl
import logging
import os
import resource
import socket
import sys
import time
import traceback
from collections.abc import Mapping
from typing import Any, Callable, NoReturn, Optional

from jobtree import clock, files, frames, isolation, serialization, tempdirs
from jobtree.errors import CannotImport, JobTreeError, StorageError, TargetError
from jobtree.frames import BundleHeader, BundleJob, Failure, Measures, Packed
from jobtree.logging_setup import set_level
from jobtree.paths import TreePaths, job_id
from jobtree.target import Recorded, Target, check_target, set_surroundings

EX_IOERR = 74
LARGE_VALUE = 1 << 20
"""A returned value above this many bytes gets a file of its own and is not copied into bundles."""

_OURS = os.path.dirname(os.path.abspath(__file__)) + os.sep
_CHUNK_ROWS = 1000
_CHUNK_BYTES = 1 << 20


class Done(Exception):
    """The worker ends here; what it has not started is left to others."""


class Worker:
    """One bundle's run. root: the job tree directory; directory: the working directory of targets."""

    def __init__(self, root: str, bundle: int, directory: str) -> None:
        self._paths = TreePaths(root)
        self._bundle = bundle
        self._directory = directory
        self._pid = os.getpid()
        self._host = socket.gethostname()
        self._pending: list[bytes] = []
        self._next_n = 1
        self._local_dirs = 0
        self._values: dict[bytes, Any] = {}

    def run(self) -> int:
        """Run the bundle. Returns the exit status of the process."""
        try:
            jobs = self._open()
            if jobs is None:
                return 0
            for job in jobs:
                next_job: Optional[BundleJob] = job
                while next_job is not None:
                    self._write(frames.STARTED, next_job.id, next_job.attempt, clock.wall())
                    self._flush()
                    if self._is_recalled():
                        self._write(frames.GAVE_BACK, next_job.id, next_job.attempt)
                        raise Done
                    next_job = _Attempt(self, next_job).run()
        except Done:
            pass
        except (StorageError, OSError) as error:
            # The log is all that is left to say it in; the master reads the exit status.
            print(f"jobtree worker: {error}", file=sys.stderr, flush=True)
            return EX_IOERR
        try:
            self._flush()
        except (StorageError, OSError):
            return EX_IOERR
        finally:
            tempdirs.remove_local(self.header.run, self._bundle)
        return 0

    # -- the bundle's files ------------------------------------------------------------------------------------

    def _open(self) -> Optional[list[BundleJob]]:
        """Claim the bundle and read it; None if it is not ours to run."""
        path = self._paths.bundle(self._bundle)
        data = files.read(path)
        if data is None:
            return None
        claim = self._paths.claim(self._bundle)
        mark = f"{self._host} {self._pid} {os.urandom(8).hex()}\n".encode()
        if not files.make_once(claim, mark):
            return None
        if not os.path.exists(path):
            files.remove(claim)  # the bundle was over before we came, and its claim was swept with it
            return None
        found = [frame.body for frame in frames.decode(data, 1)]
        if not found or found[0][0] != frames.VERSION:
            return None  # damaged, or of another version: nothing is started, and so nothing is lost
        self.header = BundleHeader(*found[0])
        if len(found) != 1 + self.header.jobs:
            return None
        self._control = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        self._open_outcome()
        self._open_log()
        os.chdir(self._directory)
        self._open_logging()
        self._baseline = isolation.Baseline(self._directory, self._paths.log(self._bundle))
        self._started = clock.elapsed()
        return [BundleJob(*frame) for frame in found[1:]]

    def _open_outcome(self) -> None:
        # Not created here: the master made it before it submitted the bundle; without it the bundle is over.
        path = self._paths.outcome(self._bundle)
        self._outcome = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)
        status = os.fstat(self._outcome)
        self._outcome_is = (status.st_dev, status.st_ino)
        # Held until this process and everything forked from it is gone: a new master waits for it.
        fcntl.flock(self._outcome, fcntl.LOCK_SH)

    def _open_log(self) -> None:
        path = self._paths.log(self._bundle)
        os.makedirs(os.path.dirname(path), 0o700, exist_ok=True)
        flags = os.O_RDWR | os.O_CREAT | os.O_APPEND
        for number, name, mode in ((0, os.devnull, os.O_RDONLY), (1, path, flags), (2, path, flags)):
            fd = os.open(name, mode, 0o600)
            os.dup2(fd, number)
            os.close(fd)
        sys.stdin = open(0, closefd=False)  # noqa: SIM115
        sys.stdout = open(1, "w", closefd=False, errors="backslashreplace", buffering=1)  # noqa: SIM115
        sys.stderr = open(2, "w", closefd=False, errors="backslashreplace", buffering=1)  # noqa: SIM115

    def _open_logging(self) -> None:
        """What targets log goes to their output; the levels are those of the run."""
        logging.getLogger().handlers[:] = [_ToStandardError()]
        set_level(self.header.log_level)

    def _is_recalled(self) -> bool:
        try:
            return os.pread(self._control, 1, 0) != frames.NO_RECALL
        except OSError:
            # The target before has closed it.
            self._control = os.open(self._paths.bundle(self._bundle), os.O_RDONLY | os.O_CLOEXEC)
            return os.pread(self._control, 1, 0) != frames.NO_RECALL

    def _write(self, *body: Any) -> None:
        self._pending.append(frames.encode(body))

    def _flush(self, sync: bool = False) -> None:
        """Hand all pending frames to the file in one write; sync: and make them durable."""
        self._check_outcome()
        if self._pending:
            data = b"".join(self._pending)
            self._pending.clear()
            files.write_all(self._outcome, data)
        if sync:
            files.fdatasync(self._outcome, self._paths.outcome(self._bundle))

    def _check_outcome(self) -> None:
        """A target that closed our descriptor may have had its number given to another file."""
        try:
            status = os.fstat(self._outcome)
        except OSError:
            status = None
        if status is None or (status.st_dev, status.st_ino) != self._outcome_is:
            self._open_outcome()


class _Attempt:
    """One attempt of one job: everything between its *started* frame and its outcome."""

    def __init__(self, worker: Worker, job: BundleJob) -> None:
        self._worker = worker
        self._job = job
        self._local: Optional[str] = None
        self._asked_global = False
        self.memory = job.memory or worker.header.memory
        self.cpu = worker.header.cpu

    def __reduce__(self) -> tuple[Any, ...]:
        # A target that is passed on inside another one must not carry this along.
        return _nothing, ()

    # -- what targets may ask for (jobtree.target.Surroundings) ------------------------------------------------

    def local_temp_dir(self) -> str:
        """The target's directory on this machine, made when it is first asked for."""
        if self._local is None:
            worker = self._worker
            worker._local_dirs += 1
            try:
                self._local = tempdirs.make_local(worker.header.run, worker._bundle, worker._local_dirs)
            except StorageError as error:
                raise TargetError(str(error)) from error
        return self._local

    def global_temp_dir(self) -> str:
        """The chain's directory, made when it is first asked for."""
        path = self._worker._paths.global_dir(self._job.id)
        if not self._asked_global:
            # Written down first, so that it is removed some day even if we die between the two.
            self._worker._write(frames.GLOBAL_DIR, self._job.id, self._job.attempt)
            self._worker._flush()
            try:
                tempdirs.make_global(path)
            except StorageError as error:
                raise TargetError(str(error)) from error
            self._asked_global = True
        return path

    def log_to_master(self, message: str) -> None:
        """Send a line to the master at once."""
        self._worker._write(frames.MESSAGE, self._job.id, self._job.attempt, message)
        self._worker._flush()

    # -- the attempt -------------------------------------------------------------------------------------------

    def run(self) -> Optional[BundleJob]:
        """Run the target and write its outcome. Returns the job with which the worker goes straight on, if any."""
        worker, job = self._worker, self._job
        isolation.reseed()
        log_start = os.fstat(1).st_size
        usage = _Usage()
        outcome: tuple[Any, ...] = ()
        next_job: Optional[BundleJob] = None
        error, target, value = self._run_target()
        why = self._clean_up()
        if target is not None and error is None:
            try:
                outcome, next_job = self._succeed(target, value, usage, may_go_on=why is None)
            except StorageError:
                raise
            except BaseException as caught:  # storing it runs the user's __reduce__ and __getstate__
                error = caught
        log_end = self._close_output(log_start, keep=error is not None or worker.header.keep_logs)
        if error is not None:
            failure = self._explain(error, log_start, log_end)
            outcome = (frames.FAILED, job.id, job.attempt, tuple(usage.measures()), tuple(failure))
        worker._write(*outcome)
        if next_job is not None:
            if worker.header.durable and (self._asked_global or worker.header.global_dirs):
                files.make_durable([worker._paths.global_dirs])
            worker._flush(sync=True)
        if why is not None:
            raise Done
        return next_job

    def _run_target(self) -> tuple[Optional[BaseException], Optional[Target], Any]:
        """Load the target and run it. Returns what it raised, the target, and what it returned."""
        target: Optional[Target] = None
        value: Any = None
        try:
            target = self._load()
            set_surroundings(target, self)
            value = target.run()
            error: Optional[BaseException] = None
        except CannotImport as caught:
            self._refuse_to_import(caught)
        except BaseException as caught:  # the one door through which a target's own errors leave
            error = caught
        if os.getpid() != self._worker._pid:
            os._exit(0)  # a fork inside run() came back here: one worker is enough
        if target is not None:
            set_surroundings(target, None)
        return error, target, value

    def _refuse_to_import(self, error: CannotImport) -> NoReturn:
        self._worker._write(frames.CANNOT_IMPORT, self._job.id, self._job.attempt, str(error))
        raise Done from None

    def _load(self) -> Target:
        target = serialization.unpack(self._job.payload, self._readers())
        check_target(target, "run")
        assert isinstance(target, Target)
        return target

    def _readers(self) -> Mapping[bytes, Callable[[], bytes]]:
        values = self._worker._values = dict(self._job.values)
        paths = self._worker._paths

        def reader(value: Any) -> Callable[[], bytes]:
            def read() -> bytes:
                if isinstance(value, bytes):
                    return value
                data = files.read(paths.absolute(value))
                if data is None:
                    raise TargetError(f"the file {paths.absolute(value)} of a kept promise is gone")
                return data

            return read

        return {token: reader(value) for token, value in values.items()}

    def _succeed(
        self, target: Target, value: Any, usage: _Usage, may_go_on: bool
    ) -> tuple[tuple[Any, ...], Optional[BundleJob]]:
        """Store what the target left. Returns the outcome frame's body and the job to go on with.

        Frames of children are written before it; they count only if the outcome follows.
        """
        worker, job = self._worker, self._job
        mark = len(worker._pending)
        first_n = worker._next_n
        try:
            kept = self._keep(target, value)
            recorded = Recorded(target)
            count, only = self._write_children(recorded.children)
            follow_on = None if recorded.follow_on is None else serialization.pack(recorded.follow_on)
        except BaseException:
            # Frames that have left for the file already stay there; without an outcome they count for nothing.
            del worker._pending[mark:]
            raise
        measures = usage.measures()
        next_job = None
        goes_on = None
        if may_go_on and count == 1 and only is not None and self._may_go_on(only):
            goes_on = job_id(worker._bundle, first_n)
            next_job = self._job_of(only, goes_on, 1, 0)
        elif may_go_on and count == 0 and follow_on is not None and self._may_go_on(follow_on):
            goes_on = 0
            next_job = self._job_of(follow_on, job.id, job.attempt + 1, job.step + 1)
        stored = None if follow_on is None else tuple(follow_on)
        return (
            frames.SUCCEEDED,
            job.id,
            job.attempt,
            tuple(measures),
            count,
            stored,
            goes_on,
            kept,
        ), next_job

    def _keep(
        self, target: Target, value: Any
    ) -> Optional[tuple[bytes, Optional[bytes], Optional[str], Any]]:
        """The value as it goes into the outcome, if somebody was promised it."""
        token = Recorded(target).token
        if token is None:
            return None
        worker = self._worker
        data, mentions = serialization.pack_value(value, target)
        if len(data) <= LARGE_VALUE:
            worker._values[token] = data
            return token, data, None, mentions
        path = worker._paths.value(worker._bundle, worker._next_n)
        worker._next_n += 1
        # Named in a frame first: if we die before the outcome, the master knows what to remove.
        worker._write(frames.VALUE_FILE, path)
        worker._flush()
        absolute = worker._paths.absolute(path)
        os.makedirs(os.path.dirname(absolute), 0o700, exist_ok=True)
        files.write_durably(absolute, data)
        files.fsync_directory(os.path.dirname(absolute))
        worker._values[token] = path
        return token, None, path, mentions

    def _write_children(self, children: list[Target]) -> tuple[int, Optional[Packed]]:
        """Write the children in chunks. Returns how many, and the child if it is the only one."""
        worker, job = self._worker, self._job
        count = len(children)
        only: Optional[Packed] = None
        children.reverse()  # taken from the end and let go one by one, so that a million is in memory only once
        while children:
            shapes: dict[tuple[str, Optional[float]], int] = {}
            rows: list[tuple[Any, ...]] = []
            size = 0
            first_n = worker._next_n
            while children and len(rows) < _CHUNK_ROWS and size < _CHUNK_BYTES:
                packed = serialization.pack(children.pop())
                shape = shapes.setdefault((packed.name, packed.cpu), len(shapes))
                rows.append((shape, packed.memory or 0, packed.time or 0.0, packed.payload, packed.mentions))
                size += len(packed.payload)
                only = packed
            worker._next_n += len(rows)
            worker._write(frames.CHILDREN, job.id, job.attempt, first_n, list(shapes), rows)
            if children:
                worker._flush()
        return count, only if count == 1 else None

    def _may_go_on(self, packed: Packed) -> bool:
        header = self._worker.header
        return (
            not header.isolate
            and clock.elapsed() - self._worker._started < header.job_time
            and (packed.memory or header.default_memory) <= header.memory
            and (packed.cpu if packed.cpu is not None else header.default_cpu) <= header.cpu
            and all(token in self._worker._values for token in packed.mentions)
            and not self._worker._is_recalled()
        )

    def _job_of(self, packed: Packed, id: int, attempt: int, step: int) -> BundleJob:
        return BundleJob(
            id, attempt, step, packed.memory or 0, packed.time or 0.0, packed.payload, self._worker._values
        )

    # -- afterwards --------------------------------------------------------------------------------------------

    def _explain(self, error: BaseException, log_start: int, log_end: int) -> Failure:
        if isinstance(error, SystemExit):
            kind, message = "exit", f"the target called sys.exit({error.code!r})"
        elif isinstance(error, MemoryError):
            kind, message = "memory", f"MemoryError: {_text(error)}"
        elif isinstance(error, JobTreeError):
            kind, message = type(error).__name__, _text(error)
        else:
            kind, message = "exception", f"{type(error).__name__}: {_text(error)}"
        try:
            trace = error.__traceback__
            while trace is not None and trace.tb_frame.f_code.co_filename.startswith(_OURS):
                trace = trace.tb_next
            # Without a line of the user's code in it, a traceback says nothing that the message does not.
            shown = (
                "".join(traceback.format_exception(type(error), error, trace)) if trace is not None else ""
            )
        except Exception as second:  # a user's exception may refuse to be shown
            shown = f"(the traceback cannot be shown: {type(second).__name__})"
        return Failure(kind, message, shown, self._tail(log_start, log_end), log_start, log_end)

    def _close_output(self, start: int, keep: bool) -> int:
        """Where the target's output ends; a successful target's output is cut off again."""
        end = os.fstat(1).st_size  # it is the log again, now that everything has been put back
        if end > start and not keep:
            os.ftruncate(1, start)
        return end

    def _tail(self, start: int, end: int) -> str:
        limit = self._worker.header.max_log_file_size
        begin = max(start, end - limit)
        data = files.read_from(self._worker._paths.log(self._worker._bundle), begin, end - begin)
        return data.decode("utf-8", "backslashreplace")

    def _clean_up(self) -> Optional[str]:
        """Put everything back. Returns why this worker must end after this target, None if it need not."""
        worker, job = self._worker, self._job
        for stream in (sys.stdout, sys.stderr):
            try:
                stream.flush()
            except (OSError, ValueError, AttributeError):
                pass  # closed, or replaced by something else: put back here
        why, warnings = worker._baseline.restore()
        if self._local is not None:
            left = files.remove_tree(self._local)
            if left:
                warnings.append(f"left files in its local temporary directory that cannot be removed: {left}")
        if why is not None:
            warnings.append(f"{why}; its worker ends and a fresh one goes on")
        for warning in warnings:
            worker._write(frames.WARNING, job.id, job.attempt, warning)
        return why


class _Usage:
    """Wall clock, CPU and peak memory from now on, of this process and the children it has waited for."""

    __slots__ = ("_children", "_cpu", "_exact", "_wall")

    _floor = 0
    _last_peak = 1 << 62

    def __init__(self) -> None:
        # Forgetting the high-water mark costs as much as running an empty target; not needed if the target before
        # has hardly raised it.
        if _Usage._last_peak > _Usage._floor + _NEARLY:
            self._exact = _reset_peak()
            _Usage._floor = _peak()
        else:
            self._exact = True
        self._children = _children_seconds()
        self._cpu = time.process_time()
        self._wall = time.perf_counter()

    def measures(self) -> Measures:
        """What was used since the start."""
        wall = time.perf_counter() - self._wall
        cpu = time.process_time() - self._cpu + _children_seconds() - self._children
        peak = _Usage._last_peak = _peak()
        return Measures(wall, cpu, peak, self._exact)


_NEARLY = 1 << 20
"""Bytes by which a peak may be overstated for the sake of speed."""


def _peak() -> int:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak * 1024 if sys.platform.startswith("linux") else peak


def _children_seconds() -> float:
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return children.ru_utime + children.ru_stime


def _reset_peak() -> bool:
    """Forget the memory high-water mark, where Linux allows it; True if it did."""
    try:
        fd = os.open("/proc/self/clear_refs", os.O_WRONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        os.write(fd, b"5")
        return True
    except OSError:
        return False
    finally:
        os.close(fd)


class _ToStandardError(logging.StreamHandler):  # type: ignore[type-arg]
    """Writes to what sys.stderr is at the moment: a target may replace it for itself."""

    def __init__(self) -> None:
        logging.Handler.__init__(self)

    @property
    def stream(self) -> Any:
        return sys.stderr


def _nothing() -> None:
    return None


def _text(error: BaseException) -> str:
    try:
        return str(error)
    except Exception:  # a user's exception may refuse to be shown
        return "(its text cannot be shown)"


def exit_now(status: int) -> NoReturn:
    """End this process without running what the user's modules registered with atexit."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError, AttributeError):
            pass
    os._exit(status)
