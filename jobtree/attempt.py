"""One attempt of one job: everything between its *started* frame and its outcome.

It loads the target, runs it, puts everything back, and writes down what the target left: children, follow-on and value
in one outcome, or its failure. It says with which job, if any, the worker may go straight on.
"""

from __future__ import annotations

import os
import sys
import time
import traceback
from collections.abc import Mapping
from types import TracebackType
from typing import Any, Callable, NoReturn, Optional

from jobtree import clock, files, frames, randomness, removing, serialization, tempdirs
from jobtree.errors import CannotImport, CannotPickle, JobTreeError, StorageError, TargetError
from jobtree.frames import BundleJob, Failure, Packed
from jobtree.paths import job_id
from jobtree.progress_reports import ProgressReports, report_of
from jobtree.recorded import Recorded, set_surroundings
from jobtree.target import Target, check_target, describe
from jobtree.usage import Usage
from jobtree.workplace import WorkerMustEnd, Workplace

LARGE_VALUE = 1 << 20
"""A returned value above this many bytes gets a file of its own and is not copied into bundles."""

_OURS = os.path.dirname(os.path.abspath(__file__)) + os.sep
_BIOIO = _OURS + "bioio.py"  # what it raises says that a command of the user's has failed
_CLOUDPICKLE = f"{os.sep}cloudpickle{os.sep}"
_PLAIN = frozenset([type(None), bool, int, float, str, bytes])
_COUNT, _GOES_ON = 4, 6
"""Where in the outcome frame of a success the number of children is, and the job with which the worker goes on."""

_LOOK_SECONDS = 0.05
"""How often a service looks whether it is to stop."""

_CHUNK_ROWS = 1000
_CHUNK_BYTES = 1 << 20


class Attempt:
    """One attempt of one job: everything between its *started* frame and its outcome.

    log_start: where in the log its output begins.
    """

    def __init__(self, place: Workplace, job: BundleJob, log_start: int) -> None:
        self._place = place
        self._job = job
        self._log_start = log_start
        self._local: Optional[str] = None
        self._asked_global = False
        self._reports: Optional[ProgressReports] = None
        self.memory: int = job.memory
        self.cpu: float = job.cpu

    def __reduce__(self) -> tuple[Any, ...]:
        # A target that is passed on inside another one must not carry this along.
        return _nothing, ()

    # -- what targets may ask for (jobtree.target.Surroundings) ------------------------------------------------

    def local_temp_dir(self) -> str:
        """The target's directory on this machine, made when it is first asked for."""
        if self._local is None:
            place = self._place
            place.local_dirs += 1
            try:
                self._local = tempdirs.make_local(place.header.run, place.bundle, place.local_dirs)
            except StorageError as error:
                raise TargetError(str(error)) from None
        return self._local

    def global_temp_dir(self) -> str:
        """The chain's directory, made when it is first asked for."""
        path = self._place.paths.global_dir(self._job.id)
        if not self._asked_global:
            # Written down first, so that it is removed some day even if we die between the two.
            self._place.outcome.write(frames.GLOBAL_DIR, self._job.id, self._job.attempt)
            self._place.outcome.flush()
            try:
                tempdirs.make_global(path)
            except StorageError as error:
                if files.is_refusal(error):
                    self._place.outcome.refused = error  # not the target's fault, whatever it makes of it
                raise TargetError(str(error)) from None
            self._asked_global = True
        return path

    def log_to_master(self, message: str) -> None:
        """Send a line to the master at once."""
        # The text exactly: a subclass of str, which str() may give, would be refused by whoever reads the frame.
        self._place.outcome.write_at_once(
            frames.MESSAGE, self._job.id, self._job.attempt, str.__str__(message)
        )

    def report_progress(self, fraction: Optional[float], words: str) -> None:
        """Tell the master how far the target is, unless it has been told just now."""
        report, wrong = report_of(fraction, words)
        reports = self._reports
        if reports is None:
            reports = self._reports = ProgressReports(clock.elapsed())
        outcome, job = self._place.outcome, self._job
        if wrong and not reports.complained:
            reports.complained = True
            outcome.write_at_once(frames.WARNING, job.id, job.attempt, wrong)
        if reports.is_due(clock.elapsed()):
            outcome.write_at_once(frames.PROGRESS, job.id, job.attempt, *report)

    # -- what a service says (jobtree.service) -----------------------------------------------------------------

    def serve(self, target: Target, value: Any) -> None:
        """The service is up; value: where. On the disk when this returns, because others are started for it."""
        token = Recorded(target).token
        data, mentions = serialization.pack_value(value, target)
        if mentions:
            raise TargetError(f"{describe(target)}.start() returned a promise; return plain data.")
        place = self._place
        place.outcome.write(frames.SERVES, self._job.id, self._job.attempt, token, data)
        place.outcome.flush(sync=True)

    def is_recalled_within(self, seconds: float) -> bool:
        """Wait so long for being told to stop."""
        deadline = clock.elapsed() + seconds
        while not self._place.is_recalled():
            left = deadline - clock.elapsed()
            if left <= 0:
                return False
            time.sleep(min(left, _LOOK_SECONDS))
        return True

    def is_well(self) -> None:
        """The service was found well."""
        self._place.outcome.write(frames.WELL, self._job.id, self._job.attempt)
        self._place.outcome.flush()

    # -- the attempt -------------------------------------------------------------------------------------------

    def run(self) -> Optional[BundleJob]:
        """Run the target and write its outcome. Returns the job with which the worker goes straight on, if any."""
        place, job = self._place, self._job
        randomness.make_fresh()
        usage = Usage()
        outcome: tuple[Any, ...] = ()
        next_job: Optional[BundleJob] = None
        error, target, value = self._run_target()
        if place.outcome.refused is not None:
            raise place.outcome.refused  # the target met it, in logToMaster or the like, and it is not its fault
        why = self._clean_up()
        if target is not None and error is None:
            try:
                outcome, next_job = self._succeed(target, value, usage, may_go_on=why is None)
            except StorageError:
                raise
            except BaseException as caught:  # storing it runs the user's __reduce__ and __getstate__
                error = caught
            if error is not None or _may_have_run_code(outcome, value):
                why = why or self._put_back()
                if why is not None and next_job is not None:
                    outcome, next_job = (*outcome[:_GOES_ON], None, *outcome[_GOES_ON + 1 :]), None
        log_end = self._close_output(keep=error is not None or place.header.keep_logs)
        if error is not None:
            failure = self._explain(error, log_end)
            outcome = (frames.FAILED, job.id, job.attempt, tuple(usage.measures()), tuple(failure))
        if next_job is not None or (place.header.supervision is not None and error is None):
            self._make_durable()
        place.outcome.write(*outcome)
        if next_job is not None:
            place.outcome.flush(sync=True)
        if why is not None:
            raise WorkerMustEnd
        return next_job

    def _make_durable(self) -> None:
        """What targets left in global temporary directories; the master can do that for its own machine only."""
        if self._place.header.durable and (self._asked_global or self._place.header.global_dirs):
            files.make_durable([self._place.paths.global_dirs], self._place.synced)

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
        if os.getpid() != self._place.pid:
            os._exit(0)  # a fork inside run() came back here: one worker is enough
        if target is not None:
            set_surroundings(target, None)
        return error, target, value

    def _refuse_to_import(self, error: CannotImport) -> NoReturn:
        self._place.outcome.write(frames.CANNOT_IMPORT, self._job.id, self._job.attempt, str(error))
        raise WorkerMustEnd from None

    def _load(self) -> Target:
        target = serialization.unpack(self._job.payload, self._readers())
        check_target(target, "run")
        assert isinstance(target, Target)
        return target

    def _readers(self) -> Mapping[bytes, Callable[[], bytes]]:
        values = self._place.values = dict(self._job.values)
        paths = self._place.paths

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
        self, target: Target, value: Any, usage: Usage, may_go_on: bool
    ) -> tuple[tuple[Any, ...], Optional[BundleJob]]:
        """Store what the target left. Returns the outcome frame's body and the job to go on with.

        Frames of children are written before it; they count only if the outcome follows.
        """
        place, job = self._place, self._job
        mark = place.outcome.mark()
        try:
            kept = self._keep(target, value)
            recorded = Recorded(target)
            first_n = place.next_n
            services = self._write_services(recorded)
            count, only = self._write_children(recorded.children)
            count += services
            follow_on = None if recorded.follow_on is None else serialization.pack(recorded.follow_on)
            if follow_on is not None:
                _check_no_address(recorded.services, follow_on, f"the follow-on of {describe(target)}")
        except BaseException:
            # Frames that have left for the file already stay there; without an outcome they count for nothing.
            place.outcome.drop_after(mark)
            raise
        measures = usage.measures()
        next_job = None
        goes_on = None
        if may_go_on and count == 1 and only is not None and self._may_go_on(only):
            goes_on = job_id(place.bundle, first_n)
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
        place = self._place
        data, mentions = serialization.pack_value(value, target)
        if len(data) <= LARGE_VALUE:
            place.values[token] = data
            return token, data, None, mentions
        path = place.paths.value(place.bundle, place.next_n)
        place.next_n += 1
        # Named in a frame first: if we die before the outcome, the master knows what to remove.
        place.outcome.write(frames.VALUE_FILE, path)
        place.outcome.flush()
        absolute = place.paths.absolute(path)
        try:
            os.makedirs(os.path.dirname(absolute), 0o700, exist_ok=True)
        except OSError as error:
            raise files.refused(error, absolute) from error
        files.write_durably(absolute, data)
        files.fsync_names(absolute, place.paths.root)
        place.values[token] = path
        return token, None, path, mentions

    def _write_services(self, recorded: Recorded) -> int:
        """Write the services. Returns how many: none if there are no other children, because nobody would need them."""
        if not recorded.services or not recorded.children:
            return 0
        place, job = self._place, self._job
        shapes: list[tuple[str, Optional[float], str]] = []
        rows: list[tuple[Any, ...]] = []
        for number, service in enumerate(recorded.services):
            packed = serialization.pack(service)
            _check_no_address(recorded.services, packed, f"{describe(service)}, a service beside it,")
            shapes.append((packed.name, packed.cpu, packed.countable))
            rows.append((number, packed.memory or 0, packed.time or 0.0, packed.payload, packed.mentions))
        place.outcome.write(frames.SERVICES, job.id, job.attempt, place.next_n, shapes, rows)
        place.next_n += len(rows)
        return len(rows)

    def _write_children(self, children: list[Target]) -> tuple[int, Optional[Packed]]:
        """Write the children in chunks. Returns how many, and the child if it is the only one."""
        place, job = self._place, self._job
        count = len(children)
        only: Optional[Packed] = None
        children.reverse()  # taken from the end and let go one by one, so that a million is in memory only once
        while children:
            shapes: dict[tuple[str, Optional[float], str], int] = {}
            rows: list[tuple[Any, ...]] = []
            size = 0
            first_n = place.next_n
            while children and len(rows) < _CHUNK_ROWS and size < _CHUNK_BYTES:
                packed = serialization.pack(children.pop())
                shape = shapes.setdefault((packed.name, packed.cpu, packed.countable), len(shapes))
                rows.append((shape, packed.memory or 0, packed.time or 0.0, packed.payload, packed.mentions))
                size += len(packed.payload)
                only = packed
            place.next_n += len(rows)
            place.outcome.write(frames.CHILDREN, job.id, job.attempt, first_n, list(shapes), rows)
            if children:
                place.outcome.flush()
        return count, only if count == 1 else None

    def _may_go_on(self, packed: Packed) -> bool:
        header = self._place.header
        return (
            not header.isolate
            and clock.elapsed() - self._place.started < header.job_time
            and self._place.has_time_for(packed.time)
            and (packed.memory or header.default_memory) <= header.memory
            # Exactly: numerical libraries were told to use so many threads when this worker began.
            and (packed.cpu or header.default_cpu) == header.cpu
            and packed.countable == header.countable
            and all(token in self._place.values for token in packed.mentions)
            and not self._place.is_recalled()
        )

    def _job_of(self, packed: Packed, id: int, attempt: int, step: int) -> BundleJob:
        header, values = self._place.header, self._place.values
        memory = packed.memory or header.default_memory
        return BundleJob(id, attempt, step, memory, header.cpu, packed.time or 0.0, packed.payload, values)

    # -- afterwards --------------------------------------------------------------------------------------------

    def _explain(self, error: BaseException, log_end: int) -> Failure:
        if isinstance(error, SystemExit):
            kind, message = "exit", f"the target called sys.exit({error.code!r})"
        elif isinstance(error, MemoryError):
            kind, message = "memory", f"MemoryError: {_text(error)}"
        elif isinstance(error, JobTreeError):
            kind, message = type(error).__name__, _text(error)
        else:
            kind, message = "exception", f"{type(error).__name__}: {_text(error)}"
        try:
            if isinstance(error, CannotPickle) and error.__cause__ is not None:
                error = error.__cause__  # it may be from a method of the user's
            trace = users_part(error)
            # Without a line of the user's code in it, a traceback says nothing that the message does not.
            shown = "".join(lines_of(error, trace)) if trace is not None else ""
        except BaseException as second:  # a user's exception may refuse to be shown in any way
            shown = f"(the traceback cannot be shown: {type(second).__name__})"
        return Failure(kind, message, shown, self._tail(log_end), self._log_start, log_end)

    def _close_output(self, keep: bool) -> int:
        """Where the target's output ends; a successful target's output is cut off again."""
        end = self._place.log_size()  # it is the log again, now that everything has been put back
        if end > self._log_start and not keep:
            os.ftruncate(1, self._log_start)
        return end

    def _tail(self, end: int) -> str:
        limit = self._place.header.max_log_file_size
        begin = max(self._log_start, end - limit)
        data = files.read_from(self._place.paths.log(self._place.bundle), begin, end - begin)
        return data.decode("utf-8", "backslashreplace")

    def _clean_up(self) -> Optional[str]:
        """Put everything back. Returns why this worker must end after this target, None if it need not."""
        place, job = self._place, self._job
        for stream in (sys.stdout, sys.stderr):
            try:
                stream.flush()
            except Exception:  # closed, or replaced by an object of the user's; put back here
                pass
        why = self._put_back()
        if self._local is not None:
            left = removing.remove_tree(self._local)
            if left:
                warning = f"left files in its local temporary directory that cannot be removed: {left}"
                place.outcome.write(frames.WARNING, job.id, job.attempt, warning)
        return why

    def _put_back(self) -> Optional[str]:
        """What the target's code has changed in this process. Returns why this worker must end, None if it need not."""
        place, job = self._place, self._job
        why, warnings = place.baseline.restore()
        if why is not None:
            warnings.append(f"{why}; its worker ends and a fresh one goes on")
        for warning in warnings:
            place.outcome.write(frames.WARNING, job.id, job.attempt, warning)
        return why


def _may_have_run_code(outcome: tuple[Any, ...], value: Any) -> bool:
    """Whether storing what a target left may have called methods of the user's classes."""
    count, follow_on, _, kept = outcome[_COUNT:]
    return bool(count) or follow_on is not None or (kept is not None and type(value) not in _PLAIN)


def users_part(error: BaseException) -> Optional[TracebackType]:
    """The traceback of an error from the first line of the user's code on; None if there is none of it."""
    trace = error.__traceback__
    while trace is not None and _is_not_the_users(trace):
        trace = trace.tb_next
    return trace


def lines_of(error: BaseException, trace: TracebackType) -> list[str]:
    """A traceback as it is shown. Where we have refused something, it ends with the line of the user's that asked."""
    refused, number, last = isinstance(error, JobTreeError), 0, 0
    frame: Optional[TracebackType] = trace
    while frame is not None:
        number += 1
        if not _is_not_the_users(frame):
            last = number
        refused = refused or (frame.tb_next is None and frame.tb_frame.f_code.co_filename == _BIOIO)
        frame = frame.tb_next
    return traceback.format_exception(type(error), error, trace, limit=last if refused else None)


def _is_not_the_users(trace: TracebackType) -> bool:
    file = trace.tb_frame.f_code.co_filename
    return file.startswith(_OURS) or _CLOUDPICKLE in file


def _nothing() -> None:
    return None


def _text(error: BaseException) -> str:
    try:
        return str.__str__(str(error))
    except BaseException:  # a user's exception may refuse to be shown in any way
        return "(its text cannot be shown)"


def _check_no_address(services: list[Any], packed: Packed, holder: str) -> None:
    """Raise TargetError if a target that is not run while these services are up was given what one of them promises."""
    for service in services:
        if Recorded(service).token in packed.mentions:
            raise TargetError(
                f"{holder} was given what the service {describe(service)} promises, and is not run while that is up. "
                "That is for the children of the target that added the service, and for whatever grows from them."
            )
