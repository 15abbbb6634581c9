"""A worker: runs the jobs of one bundle, one after the other, and writes down what became of each.

What must hold
  - It runs nothing unless it, or its supervisor, has won the claim of its bundle: a batch system may start it twice.
  - Before a target it appends a *started* frame, then looks whether the rest was recalled; after it, the outcome. So
    when it dies, the culprit is exactly the job that was started and has no outcome, and what the master takes back
    is never run here.
  - A target's children, follow-on and value are in one outcome: it counts whole or not at all.
  - On a cluster it begins no more jobs of its bundle when that takes far too long, or when the next would not end
    within the time limit; what it has not begun is given back when it is over.
  - When it goes straight on to a follow-on or an only child, the outcome before it is synced first, because what
    comes next may destroy what it was made from.
  - Between targets everything is put back (jobtree.isolation); what cannot be ends the worker, and a fresh one takes
    the rest.
  - A user's ``os.fork()`` that comes back out of ``run()`` must not become a second worker.

How it fails. Whatever ``run()`` raises is an outcome. If the worker itself cannot go on (disk full, its files gone) it
exits with 74 (EX_IOERR) and no blame; any other death is the started target's or nobody's, which the master decides.
"""

from __future__ import annotations

import contextlib
import os
import sys
from typing import NoReturn, Optional

from jobtree import clock, files, frames, tempdirs
from jobtree.attempt import Attempt
from jobtree.errors import StorageError
from jobtree.frames import BundleJob
from jobtree.paths import TreePaths
from jobtree.workplace import WorkerMustEnd, Workplace, open_workplace

EX_IOERR = 74


def run_bundle(root: str, bundle: int, directory: str, recall: Optional[int] = None) -> int:
    """Run a bundle. root: the job tree; directory: the working directory of targets. Returns the exit status.

    recall: the descriptor by which a supervisor, which has claimed the bundle, tells of a recall; None: there is none.
    """
    place: Optional[Workplace] = None
    paths = TreePaths(root)
    try:
        opened = open_workplace(paths, bundle, directory, recall)
        if opened is None:
            return 0
        place, jobs = opened
        try:
            for number, job in enumerate(jobs):
                if number and place.is_overdue(job.time):
                    break  # others take the rest
                _run_job(place, job)
        except WorkerMustEnd:
            pass
        place.outcome.flush()
    except (StorageError, OSError) as error:
        _say(error if isinstance(error, StorageError) else _refused(error, paths.outcome(bundle)))
        return EX_IOERR
    finally:
        if place is not None and os.getpid() == place.pid:
            tempdirs.remove_local(place.header.run, bundle)
    return 0


def _run_job(place: Workplace, job: BundleJob) -> None:
    """Run a job's target, and then those with which this worker goes straight on."""
    next_job: Optional[BundleJob] = job
    while next_job is not None:
        # One write takes the outcome of the target before along. First say "started", then look for the recall.
        log_start = place.log_size()
        place.outcome.write(frames.STARTED, next_job.id, next_job.attempt, log_start, clock.wall())
        place.outcome.flush()
        if place.is_recalled():
            place.outcome.write(frames.GAVE_BACK, next_job.id, next_job.attempt)
            raise WorkerMustEnd
        next_job = Attempt(place, next_job, log_start).run()


def _refused(error: OSError, outcome: str) -> StorageError:
    # Not every call says which file it was about; then it was one of ours, and this one says where to look.
    return files.refused(error, error.filename if isinstance(error.filename, str) else outcome)


def _say(error: StorageError) -> None:
    """The log is all that is left to say it in, and may be on the same disk; the master reads the exit status."""
    with contextlib.suppress(OSError):
        os.write(2, f"{frames.LAST_WORDS}{error}\n".encode("utf-8", "backslashreplace"))


def exit_now(status: int) -> NoReturn:
    """End this process without running what the user's modules registered with atexit."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except Exception:  # it may be an object of the user's
            pass
    os._exit(status)
