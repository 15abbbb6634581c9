"""Running the target of one job here, in the foreground and without any effect on the tree: for ``jobTreeRun --debug``.

What must hold
  - The target sees what it would see in a worker: the environment, working directory and search path of the run, the
    promised values, its memory and cores. But standard streams are those of the terminal.
  - The tree is only read. The target's local temporary directory is a new one; its global one is a copy of its chain's.
    What it leaves (children, follow-on, value) is made ready to be stored, because that may be what fails, and dropped.
    A service is started, found well once, and stopped.
  - An error leads into pdb where it was raised, if there is a terminal to ask; else its traceback is printed.

What remains: a target that writes to files by names that it knows from elsewhere (its input, a directory of the job
above) does so here too.

It has a process of its own, a fresh interpreter like a launcher's (jobtree.launcher, role "debug"), which gets what it
needs in a directory: one frame in ``FILE``.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Mapping
from typing import Any, Callable, NamedTuple, Optional

from jobtree import files, frames, serialization
from jobtree.attempt import lines_of, users_part
from jobtree.errors import StorageError, TargetError
from jobtree.frames import BundleJob
from jobtree.paths import TreePaths, job_name
from jobtree.progress_reports import report_of
from jobtree.recorded import Recorded, set_surroundings
from jobtree.shown import one_line
from jobtree.target import Target, check_target, class_name

FILE = "job"
_KIND = "debug"
_MOST_SHOWN = 2000


class _Left(NamedTuple):
    value: str
    children: int
    follow_on: Optional[str]


def write(directory: str, job: BundleJob) -> None:
    """Put a job where the other process looks for it. Raises StorageError."""
    files.write_new(os.path.join(directory, FILE), frames.encode((_KIND, tuple(job))))


def run(root: str, directory: str) -> int:
    """Run the job that ``write`` has put there; returns the exit status of the command."""
    (frame,) = frames.decode(files.read(os.path.join(directory, FILE)) or b"")
    job = BundleJob(*frame.body[1])
    around = _Surroundings(TreePaths(root), directory, job)
    try:
        left = _run(job, around)
    except BaseException as error:  # whatever the target raised is shown to whoever debugs it
        return _explain(error)
    follow_on = f", and the follow-on {left.follow_on}" if left.follow_on is not None else ""
    children = f"{left.children} child" if left.children == 1 else f"{left.children} children"
    _say(f"it succeeded, returned {left.value} and added {children}{follow_on}. Nothing of it is kept.")
    return 0


def _run(job: BundleJob, around: _Surroundings) -> _Left:
    target = serialization.unpack(job.payload, around.readers())
    check_target(target, "run")
    assert isinstance(target, Target)
    set_surroundings(target, around)
    value = target.run()
    set_surroundings(target, None)
    recorded = Recorded(target)
    if recorded.token is not None:
        serialization.pack_value(value, target)
    for child in [*recorded.services, *recorded.children]:
        serialization.pack(child)
    follow_on = recorded.follow_on
    if follow_on is not None:
        serialization.pack(follow_on)
    shown = repr(value)
    if len(shown) > _MOST_SHOWN:
        shown = f"{shown[:_MOST_SHOWN]}..."
    return _Left(
        one_line(shown), len(recorded.children), class_name(follow_on) if follow_on is not None else None
    )


def _explain(error: BaseException) -> int:
    trace = users_part(error)
    sys.stdout.flush()
    if trace is None:
        # It is ours, and its text says all there is.
        print(f"{type(error).__name__}: {error}", file=sys.stderr, flush=True)
    else:
        sys.stderr.writelines(lines_of(error, trace))
    if trace is not None and sys.stdin.isatty():
        import pdb  # noqa: T100  # this is what the command is for

        _say("pdb, where it was raised: w shows where that is, q ends")
        pdb.post_mortem(trace)
    _say("it failed. The tree is as it was.")
    return 1


def _say(text: str) -> None:
    print(f"jobtree: {text}", file=sys.stderr, flush=True)


class _Surroundings:
    """What a target may ask for while it runs (jobtree.target.Surroundings)."""

    def __init__(self, paths: TreePaths, directory: str, job: BundleJob) -> None:
        self.memory = job.memory
        self.cpu = job.cpu
        self._paths = paths
        self._directory = directory
        self._job = job
        self._found_well = False

    def __reduce__(self) -> tuple[Any, ...]:
        # A target that is passed on inside another one must not carry this along.
        return _nothing, ()

    def local_temp_dir(self) -> str:
        """A directory that goes when this process has ended."""
        path = os.path.join(self._directory, "local")
        os.makedirs(path, 0o700, exist_ok=True)
        return path

    def global_temp_dir(self) -> str:
        """A copy of the chain's directory as it is when it is asked for; empty if there is none."""
        path, original = os.path.join(self._directory, "global"), self._paths.global_dir(self._job.id)
        if not os.path.isdir(path):
            if os.path.isdir(original):
                _say(f"a copy of {original} is made: {path}")
                try:
                    shutil.copytree(original, path, symlinks=True)
                except (OSError, shutil.Error) as error:
                    raise TargetError(f"{original} cannot be copied to {path}: {error}") from None
            else:
                os.makedirs(path, 0o700)
        return path

    def log_to_master(self, message: str) -> None:
        """Show it here."""
        _say(f"job {job_name(self._job.id)} says: {one_line(message)}")

    def report_progress(self, fraction: Optional[float], words: str) -> None:
        """Show it here."""
        report, wrong = report_of(fraction, words)
        if wrong:
            _say(wrong)
        _say(f"job {job_name(self._job.id)}: {one_line(report.in_words())}")

    def serve(self, target: Target, value: Any) -> None:
        """A service is up."""
        serialization.pack_value(value, target)
        _say(f"the service is up; what it promises is {one_line(repr(value)[:_MOST_SHOWN])}")

    def is_recalled_within(self, seconds: float) -> bool:
        """It is told to stop when it has been found well."""
        return self._found_well

    def is_well(self) -> None:
        """It was found well."""
        self._found_well = True
        _say("the service is well, and is stopped")

    def readers(self) -> Mapping[bytes, Callable[[], bytes]]:
        """What reads the promised values."""
        return {token: self._reader(value) for token, value in self._job.values.items()}

    def _reader(self, value: Any) -> Callable[[], bytes]:
        def read() -> bytes:
            if isinstance(value, bytes):
                return value
            data = files.read(self._paths.absolute(value))
            if data is None:
                raise StorageError(f"the file {self._paths.absolute(value)} of a kept promise is gone")
            return data

        return read


def _nothing() -> None:
    return None
