"""From what workers wrote down to what the tree does: reading outcome files, and judging workers that died.

Everything here happens inside the store's transaction. Frames are taken in order; each becomes an event of the tree, a
line for the user, or both. What is to be told or removed is collected and done after the commit by the master.
"""

from __future__ import annotations

import dataclasses
import logging
import os
import socket
from typing import Any, Optional

from batchsystems.abstract import End, Reason, human_bytes
from jobtree import blame, clock, frames, heartbeat, offspring, refusals, soundness
from jobtree.blame import Judgement, Verdict
from jobtree.bundles import RunningBundle
from jobtree.collected import Collected, News
from jobtree.enlarging import Enlarging
from jobtree.events import Changes, Children, GoesOn, Job, Request, State
from jobtree.frames import Failure, Frame
from jobtree.paths import TreePaths, job_name
from jobtree.progress_reports import Report
from jobtree.quantities import format_duration
from jobtree.recorder import Recorder
from jobtree.refusals import Refusals
from jobtree.report import describe_failure
from jobtree.schema import FailureRow
from jobtree.services import Services
from jobtree.shown import one_line
from jobtree.store import Store
from jobtree.tree import Tree
from jobtree.values import Returned

log: logging.Logger = logging.getLogger("jobtree")

IMPORT_FAILURES = 3
"""After import errors in so many different bundles nothing more is issued: it would fail as well."""


_SAME_WARNINGS = 3


class Adopter:
    """Adopts outcome files into the tree and the store.

    After ``turn`` the caller writes the tree's changes and what was collected, commits, and then acts.
    """

    def __init__(
        self,
        tree: Tree,
        store: Store,
        paths: TreePaths,
        max_log_file_size: int = 50_120,
        enlarging: Optional[Enlarging] = None,
        detailed: bool = False,
        services: Optional[Services] = None,
    ) -> None:
        self.max_log_file_size = max_log_file_size
        self._enlarging = enlarging
        self.tree = tree
        self.store = store
        self.paths = paths
        self.services: Services = services if services is not None else Services(paths, store, tree, {})
        self.collected: Collected = Collected()
        self.import_error: Optional[str] = None
        # What targets left in global temporary directories may not be on the disk, and no sync will tell.
        self._distrust = not soundness.is_trusted(paths)
        self._rebooted = False
        self._import_failures: set[int] = set()
        self._refusals = Refusals()
        self._warned: dict[str, int] = {}
        self._host = socket.gethostname()
        self.recorder: Recorder = Recorder(tree, store, self._host, detailed)

    def take(self) -> tuple[Changes, Collected]:
        """Hand over what has come together."""
        collected, self.collected = self.collected, Collected()
        return self.tree.take_changes(), collected

    def look_for_reboot(self, matters: bool) -> None:
        """In the transaction that adopts what earlier masters left. matters: users' files are to be there too.

        After a power cut an outcome may be on the disk, and the files that it tells of not.
        """
        kernel = soundness.this_kernel()
        self._rebooted = matters and self.store.get("adopted") != kernel
        self.store.set("adopted", kernel)

    def trust(self) -> None:
        """What was left by masters before this one has been adopted, or will be made again, and is committed."""
        self._rebooted = False
        if self._distrust:
            soundness.trust(self.paths)
            self._distrust = False

    # -- while a bundle runs -----------------------------------------------------------------------------------

    def read(self, bundle: RunningBundle) -> bool:
        """Adopt what has come since. True if something has that is to be noted (not that a service is still well)."""
        if bundle.damaged:
            return False
        target, told = (bundle.current, bundle.finished), False
        try:
            for frame in bundle.read():
                if frame.body[0] == frames.FAILED and self.services.is_in_doubt(bundle, frame.start):
                    bundle.offset = frame.start  # once more, when it is known whose fault that is
                    break
                self._frame(bundle, frame)
                told = told or frame.body[0] != frames.WELL
        except frames.Damaged as error:
            # Right checksum, wrong content: nothing after it can be believed. Its jobs run again.
            bundle.damaged = True
            self.warn(f"{bundle.path}: {error}; the targets that it does not tell of run once more")
        if (bundle.current, bundle.finished) != target:  # that it says something does not let others go on
            bundle.heard = clock.elapsed()
        return told or bundle.damaged

    def _frame(self, bundle: RunningBundle, frame: Frame) -> None:
        body = frame.body
        kind = body[0]
        if kind == frames.STARTED:
            bundle.current = (body[1], body[2])
            bundle.log_start = body[3]
            bundle.work.started(body[4])
            bundle.current_since = clock.elapsed()
            bundle.begun = bundle.begun if bundle.started_any else bundle.current_since
            bundle.started_any = True
            bundle.said = None
        elif kind == frames.CHILDREN:
            bundle.add_children(frame)
        elif kind == frames.SERVICES:
            bundle.add_services(frame)
        elif kind == frames.SERVES:
            self._serves(bundle, *body[1:])
        elif kind == frames.WELL:
            self.services.well(frame)
            bundle.note_said(body[1], body[2], clock.elapsed())
        elif kind == frames.SUCCEEDED:
            self._succeeded(bundle, *body[1:])
        elif kind == frames.FAILED:
            self._failed(bundle, body[1], body[2], body[3], Failure(*body[4]))
        elif kind == frames.GLOBAL_DIR:
            self.tree.uses_global_dir(body[1], body[2])
        elif kind == frames.VALUE_FILE:
            bundle.add_value_file(frame)
        elif kind == frames.MESSAGE:
            self.collected.news.append(News(None, body[3]))
            bundle.note_said(body[1], body[2], clock.elapsed())
        elif kind == frames.PROGRESS:
            bundle.note_said(body[1], body[2], clock.elapsed(), Report(*body[3:]))
        elif kind == frames.WARNING:
            self._warn_of_target(body[1], body[3])
        elif kind == frames.CANNOT_IMPORT:
            self._cannot_import(bundle, body[1], body[2], body[3])
        elif kind == frames.GAVE_BACK:
            bundle.current = None
            self.tree.recalled(body[1], body[2])
        elif kind == frames.RECALLED:
            # Whatever was started stands before this frame; the worker will start nothing else.
            bundle.recalled = True
            self.give_back(bundle)
        elif kind == frames.END:
            self._end(bundle, body)

    def _serves(
        self, bundle: RunningBundle, id: int, attempt: int, token: Optional[bytes], value: bytes
    ) -> None:
        if self.tree.current(id, attempt) is None or id not in self.services:
            return
        if token is not None and not self.store.services.promise_again(token, value):
            self.collected.returned.append(Returned(token, value, None, ()))
        self.services.serves(bundle, id, attempt)

    @staticmethod
    def _end(bundle: RunningBundle, body: tuple[Any, ...]) -> None:
        try:
            bundle.end = heartbeat.end_of(bundle.name, body)
        except ValueError as error:
            raise frames.Damaged(f"its end makes no sense: {error}") from error
        bundle.host = bundle.end.host

    def _succeeded(
        self,
        bundle: RunningBundle,
        id: int,
        attempt: int,
        measures: tuple[Any, ...],
        count: int,
        follow_on: Optional[tuple[Any, ...]],
        goes_on: Optional[int],
        kept: Optional[tuple[Any, ...]],
    ) -> None:
        job = self.tree.current(id, attempt)
        pending = bundle.pending
        self._ended(bundle)
        bundle.work.ended(measures, failed=False)
        if job is None or (pending.total if pending is not None else 0) != count:
            self._drop(bundle)
            return
        if self.tree.with_global_dir and not bundle.supervised:
            # Before the commit the master makes durable what the target may have left there, or in those above.
            left = self.tree.ancestors_with_global_dir(id)
            if left and (self._distrust or self._rebooted) and goes_on is None:
                # That it succeeded has reached the disk; what it left there may not have. Where its worker went on to
                # the next target it had synced first, and was not refused.
                self._drop(bundle)
                self.tree.lost(id, attempt, charge=False)
                self.warn(f"job {job_name(id)}: what it left may not be on the disk, so it runs once more")
                return
            self.collected.sync.update(left)
        if id in self.services and not self.services.finished(id):
            self._drop(bundle)
            self.tree.lost(id, attempt, charge=False)
            return
        self.recorder.succeeded(bundle, job, measures)
        gate = self.store.shapes[job.shape].gate
        children: Optional[Children] = None
        child = GoesOn() if goes_on is not None else None
        if pending is not None and count:
            children, services = offspring.children_of(self.store, bundle, pending, id, gate)
            self.services.added(services)
            if goes_on is not None:
                rows = list(children.source)
                children = Children(children.count_by_shape, rows)
                child = GoesOn(goes_on, rows[0].shape, rows[0].memory, rows[0].time)
        bundle.pending = None
        if kept is not None:
            returned = Returned(*kept)
            self.collected.returned.append(returned)
            if returned.file is not None and returned.file in bundle.value_files:
                bundle.value_files.remove(returned.file)
        self.tree.succeeded(id, attempt, children, offspring.spec_of(self.store, follow_on, gate), child)

    def _failed(
        self, bundle: RunningBundle, id: int, attempt: int, measures: tuple[Any, ...], failure: Failure
    ) -> None:
        job = self.tree.current(id, attempt)
        self._ended(bundle)
        bundle.work.ended(measures, failed=True)
        self._drop(bundle)
        if job is None:
            return
        if bundle.orphaned:
            self.tree.lost(id, attempt, charge=False)  # a service that it needed has died
            return
        bundle.failed = True
        name = self._count_failure(bundle, job, failure.kind, measures)
        self._charge(bundle, job, name, failure)

    def _charge(self, bundle: RunningBundle, job: Job, name: str, failure: Failure) -> None:
        """A target failed by its own fault: one try less, or, if it ran out of something, more of that."""
        attempt, tries, losses = job.attempt, job.tries, job.losses
        if self.services.was_up(job.id, attempt):
            self._note(job, name, attempt, failure, bundle, self.tree.lost(job.id, attempt), losses)
            return
        request = self._larger_request(job, failure.kind)
        if request is None:
            state = self.tree.failed(job.id, attempt)
            self._note(job, name, attempt, failure, bundle, state, tries)
            return
        if failure.kind == "memory":
            more = f"--doubleMem gives it {human_bytes(request.memory)} now"
        else:
            more = f"--doubleTime gives it {format_duration(request.time)} now"
        failure = failure._replace(message=f"{failure.message}; {more}")
        state = self.tree.lost(job.id, attempt, request=request)
        self._note(job, name, attempt, failure, bundle, state, losses)

    def _larger_request(self, job: Job, kind: str) -> Optional[Request]:
        larger = self._enlarging.larger(kind, job.memory, job.time) if self._enlarging is not None else None
        if larger is None:
            return None
        known = self.store.shapes[job.shape]
        memory = larger[0] if kind == "memory" else known.memory or None
        shape = self.store.shape(known.name, memory, known.cpu or None, known.countable, known.gate)
        self.services.reshaped(job.id, shape)
        return Request(shape, *larger)

    def _cannot_import(self, bundle: RunningBundle, id: int, attempt: int, text: str) -> None:
        self._ended(bundle, targets=0)
        if self.tree.lost(id, attempt, charge=False) is None:
            return
        self.collected.retry.append((id, 1))
        self._import_failures.add(bundle.id)
        if len(self._import_failures) >= IMPORT_FAILURES:
            self.import_error = text

    def _ended(self, bundle: RunningBundle, targets: int = 1) -> None:
        bundle.current = None
        bundle.finished += targets

    def _drop(self, bundle: RunningBundle) -> None:
        """The children and value files of an attempt that does not count."""
        bundle.pending = None
        self.collected.removals.extend(bundle.value_files)
        bundle.value_files.clear()

    def _count_failure(
        self, bundle: RunningBundle, job: Job, kind: str, measures: Optional[tuple[Any, ...]] = None
    ) -> str:
        name = self.store.shapes[job.shape].name
        self.recorder.failed(bundle, job, kind, measures)
        return name

    # -- when a bundle is over ---------------------------------------------------------------------------------

    def give_back(self, bundle: RunningBundle) -> int:
        """Take back every job that the bundle has not started (it was recalled). Returns how many."""
        number = 0
        for job in self.tree.in_bundle(bundle.id):
            if (job.id, job.attempt) != bundle.current:
                number += self.tree.recalled(job.id, job.attempt)
        return number

    def is_undecided(self, bundle: RunningBundle) -> bool:
        """A bundle has ended: whether a target in it failed, or died, and it is not known yet whose fault that was."""
        self.read(bundle)
        died = bundle.current is not None and self.services.is_in_doubt(bundle, bundle.offset)
        return died or self.services.in_doubt(bundle)

    def settle(self, bundle: RunningBundle, end: End, charge: bool = True) -> None:
        """The bundle is over: read what is left, judge the target that was running, give the rest back.

        charge=False: it was ended for no fault of anybody's (the run stopped, the master died). Raises StorageError
        when that has to stop because workers cannot write.
        """
        self.read(bundle)
        if self.services.settled(bundle):
            self.read(bundle)
        charge = charge and not bundle.damaged and not bundle.orphaned
        damage = "" if bundle.damaged else bundle.damage()
        if damage:
            self.warn(f"{bundle.path}: {damage}; what it told of runs once more")
        suspect = bundle.current
        died = None if suspect is None else self.recorder.died(bundle, end)
        bundle.current = None
        if bundle.finished:
            self._refusals.none()
        refusal = None
        if charge and end.status == blame.EX_IOERR:
            refusal = refusals.refusal(bundle.path, self._last_output(bundle)[0], suspect is not None)
        if refusal is not None:
            self._could_not_write(bundle, suspect, refusal)
        elif suspect is not None:
            self._judge(bundle, suspect, end, charge, died)
        elif end.reason is Reason.NEVER_FITS and not bundle.started_any:
            self._never_fits(bundle, end)
        elif not bundle.started_any and not bundle.recalled and charge and end.reason is not Reason.CANCELLED:
            self._never_started(bundle, end)
        self.give_back(bundle)
        self._drop(bundle)
        self.recorder.over(bundle, end)
        self.tree.bundle_over(bundle.id)
        self.store.bundle_over(bundle.id)

    def _judge(
        self,
        bundle: RunningBundle,
        suspect: tuple[int, int],
        end: End,
        charge: bool,
        died: Optional[tuple[Any, ...]],
    ) -> None:
        job = self.tree.current(*suspect)
        if job is None:
            return
        if not charge:
            self.tree.lost(*suspect, charge=False)
            return
        enforced = None
        if bundle.enforced is not None:
            attempt, enforced = bundle.enforced
            if attempt != suspect:
                # The one that we meant had ended by itself; this one was only in the way.
                self.tree.lost(*suspect, charge=False)
                return
        if end.status == blame.EX_IOERR and not end.detail:
            end = dataclasses.replace(end, detail=bundle.path)
        judgement = blame.judge(end, bundle.finished, enforced)
        if judgement.verdict is Verdict.ALONE:
            self.warn(f"job {job_name(job.id)}: {one_line(judgement.message)}")
            self.tree.lost(*suspect, alone=True, charge=False)
            return
        bundle.failed = True
        name = self._count_failure(bundle, job, judgement.kind, died)
        failure = Failure(judgement.kind, judgement.message, "", *self._last_output(bundle))
        if judgement.verdict is Verdict.CHARGE and enforced is None:
            self._charge(bundle, job, name, failure)
        elif judgement.verdict is Verdict.CHARGE:
            tries = job.tries
            self._note(job, name, suspect[1], failure, bundle, self.tree.failed(*suspect), tries)
        else:
            losses = job.losses
            self._note(job, name, suspect[1], failure, bundle, self.tree.lost(*suspect, alone=True), losses)

    def _never_fits(self, bundle: RunningBundle, end: End) -> None:
        """The batch system will never run it: give up those jobs that asked for the most; the rest may fit."""
        jobs = self.tree.in_bundle(bundle.id)
        most = max((job.memory for job in jobs), default=0)
        failure = Failure("resources", f"the batch system will never start it: {end.detail}", "", "", 0, 0)
        bundle.failed = True
        for job in jobs:
            if job.memory == most:
                name = self._count_failure(bundle, job, "resources")
                attempt, tries = job.attempt, job.tries
                state = self.tree.failed(job.id, attempt, final=True)
                self._note(job, name, attempt, failure, bundle, state, tries)

    def _could_not_write(
        self, bundle: RunningBundle, suspect: Optional[tuple[int, int]], refusal: str
    ) -> None:
        """A worker had to end because the disk refused a file of the job tree. That is nobody's fault, and told."""
        job = self.tree.current(*suspect) if suspect is not None else None
        if job is None:
            job = min(self.tree.in_bundle(bundle.id), key=lambda job: job.id, default=None)
        if job is None:
            return
        times = self._refusals.count(job.id, refusal)
        self.warn(f"job {job_name(job.id)} is run again, through no fault of its own: {one_line(refusal)}")
        self.tree.lost(job.id, job.attempt, charge=False)
        self.collected.retry.append((job.id, 1 + times))

    def _never_started(self, bundle: RunningBundle, end: End) -> None:
        """A worker that ran nothing at all: its first job takes the loss, so that this cannot go on for ever."""
        jobs = self.tree.in_bundle(bundle.id)
        if not jobs:
            return
        job = min(jobs, key=lambda job: job.id)
        how = f"exit status {end.status}" if end.status is not None else f"{end.kind.value}"
        detail = f" ({end.detail})" if end.detail else ""
        if bundle.supervised:
            where = f"; the log of bundle {bundle.name} is {self.paths.log(bundle.id)}"
        else:
            where = f"; see {os.path.join(self.paths.root, 'logs', 'launcher.log')}"
        failure = Failure(
            "worker", f"its worker ended with {how}{detail} before it started anything{where}", "",
            *self._last_output(bundle),
        )  # fmt: skip
        bundle.failed = True
        losses, attempt = job.losses, job.attempt
        name = self._count_failure(bundle, job, "worker")
        self._note(job, name, attempt, failure, bundle, self.tree.lost(job.id, attempt), losses)

    def _last_output(self, bundle: RunningBundle) -> tuple[str, int, int]:
        """What the dead worker printed last: its log holds only the target that was running, and failed ones."""
        path = self.paths.log(bundle.id)
        try:
            with open(path, "rb") as file:
                end = file.seek(0, os.SEEK_END)
                start = min(bundle.log_start, end)
                file.seek(max(start, end - self.max_log_file_size))
                return file.read().decode("utf-8", "backslashreplace"), start, end
        except OSError:
            return "", 0, 0

    def _note(
        self,
        job: Job,
        name: str,
        attempt: int,
        failure: Failure,
        bundle: RunningBundle,
        state: Optional[State],
        before: int,
    ) -> None:
        """Write a failure down, and tell of it: in full when the job is given up, in a line when it is not."""
        path = self.paths.log(bundle.id)
        row = FailureRow(
            job.id, attempt, name, failure, path if failure.log_end > failure.log_start else None,
            bundle.host if bundle.supervised else self._host, bundle.name, clock.wall(),
        )  # fmt: skip
        # Relative to the tree in the store, so that the tree can be moved.
        self.store.note_failure(row._replace(log=row.log and os.path.relpath(row.log, self.paths.root)))
        if state is State.FAILED:
            self.services.failed(job.id)
            text = describe_failure(row, True, self.paths.root)
            self.collected.news.append(News(logging.CRITICAL, text, row))
        else:
            self.collected.retry.append((job.id, before + 1))
            text = f"job {job_name(job.id)} ({name}) failed, attempt {attempt}, and is tried again: {failure.message}"
            self.collected.news.append(News(logging.WARNING, one_line(text), row))

    def warn(self, text: str) -> None:
        """Tell the user after the commit."""
        self.collected.news.append(News(logging.WARNING, text))

    def _warn_of_target(self, id: int, text: str) -> None:
        """What a worker found out about a target; the same thing of thousands of targets is said a few times only."""
        times = self._warned[text] = self._warned.get(text, 0) + 1
        if times <= _SAME_WARNINGS:
            last = " (said no more of other jobs)" if times == _SAME_WARNINGS else ""
            self.warn(f"job {job_name(id)} {one_line(text)}{last}")


def judgement_of_limit(kind: str, message: str) -> Judgement:
    """The judgement of a target that the master ended because it crossed a limit."""
    return Judgement(Verdict.CHARGE, kind, message)
