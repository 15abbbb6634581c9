"""What all attempts of one bundle share: the bundle's files as its worker sees them.

The claim, the bundle's own file with the control byte, the outcome file, the log that standard output and error go to.
A target may close any descriptor, ours included, and its number may then belong to another file. So before the outcome
file is written, and before the control byte is believed, it is checked that the descriptor still is what it was.
"""

from __future__ import annotations

import fcntl
import logging
import os
import socket
import sys
from collections.abc import Sequence
from typing import Any, Optional

from jobtree import clock, files, frames, isolation
from jobtree.errors import StorageError
from jobtree.frames import BundleHeader, BundleJob, Supervision
from jobtree.logging_setup import set_level
from jobtree.paths import TreePaths


class WorkerMustEnd(Exception):
    """The worker ends here; what it has not started is left to others."""


class _Held:
    """A file that is kept open, and opened again if its descriptor was taken away."""

    def __init__(self, path: str, flags: int, lock: bool = False) -> None:
        self._path = path
        self._flags = flags | os.O_CLOEXEC
        self._lock = lock
        self._open()

    def _open(self) -> None:
        # Never created here: the master made it before it submitted the bundle; without it the bundle is over.
        self._fd = os.open(self._path, self._flags)
        self._is = os.fstat(self._fd)[1:3]  # inode and device; by name they take twice as long
        if self._lock:
            # Held until this process and everything forked from it is gone: a new master waits for that.
            fcntl.flock(self._fd, fcntl.LOCK_SH)

    def fd(self) -> int:
        """The descriptor, checked."""
        try:
            if os.fstat(self._fd)[1:3] == self._is:
                return self._fd
        except OSError:
            pass
        self._open()
        return self._fd


class _RecallPipe:
    """How a supervisor tells of a recall: a byte can be read from a pipe. One that a target has closed counts too."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._is = os.fstat(fd).st_ino
        self._come = False
        os.set_inheritable(fd, False)
        os.set_blocking(fd, False)

    def has_come(self) -> bool:
        """Whether it has; once is for ever."""
        if not self._come:
            try:
                if os.fstat(self._fd).st_ino == self._is:
                    os.read(self._fd, 1)
                self._come = True
            except BlockingIOError:
                pass
            except OSError:
                self._come = True
        return self._come


class OutcomeFile:
    """Where a worker writes down what became of its targets; frames are collected and handed over in one write.

    refused: what the disk said, once it has refused a write or a sync. From then on nothing is written any more: behind
    half a frame it would never be read. Whoever catches the error, as a target's own code may, meets it again.
    """

    def __init__(self, path: str, root: str, lock: bool = True) -> None:
        self._path = path
        self._root = root
        self._named = False
        self._file = _Held(path, os.O_WRONLY | os.O_APPEND, lock)
        self._pending: list[bytes] = []
        self.refused: Optional[StorageError] = None

    def write(self, *body: Any) -> None:
        """Add a frame; it leaves with the next flush."""
        self._pending.append(frames.encode(body))

    def write_at_once(self, *body: Any) -> None:
        """Hand over a frame now, past those that wait. Threads of the target may call this. Raises StorageError."""
        self._hand_over([frames.encode(body)])

    def mark(self) -> int:
        """How many frames wait to be flushed; for ``drop_after``."""
        return len(self._pending)

    def drop_after(self, mark: int) -> None:
        """Forget the frames that were added since; those that have been flushed meanwhile stay."""
        del self._pending[mark:]

    def flush(self, sync: bool = False) -> None:
        """Hand over all frames; sync: and make them durable. Raises StorageError."""
        self._hand_over(self._pending, sync)
        self._pending.clear()

    def _hand_over(self, whole: Sequence[bytes], sync: bool = False) -> None:
        if self.refused is not None:
            raise self.refused
        try:
            fd = self._file.fd()
            if whole:
                files.write_all(fd, b"".join(whole))
            if sync:
                files.fdatasync(fd, self._path)
                if not self._named:
                    # The master made it without a sync: a bundle that nothing has followed from is made again.
                    files.fsync_names(self._path, self._root)
                    self._named = True
        except OSError as error:
            self.refused = files.refused(error, self._path)
            raise self.refused from error
        except StorageError as error:
            self.refused = error
            raise


class Workplace:
    """One bundle in one worker. Made by ``open_workplace``.

    values: the kept promises that the current target can ask for; next_n: the number of the next new job or value;
    local_dirs: how many local temporary directories there have been; synced: what ``files.make_durable`` knows;
    started: when, on ``clock.elapsed``.
    """

    _recall: Optional[_RecallPipe] = None

    def __init__(
        self, paths: TreePaths, header: BundleHeader, directory: str, recall: Optional[int] = None
    ) -> None:
        self.paths = paths
        self.header = header
        self.bundle: int = header.bundle
        self.pid: int = os.getpid()
        self.next_n = 1
        self.local_dirs = 0
        self.values: dict[bytes, Any] = {}
        if recall is not None:
            self._recall = _RecallPipe(recall)
        self._control = _Held(paths.bundle(self.bundle), os.O_RDONLY)
        # A new master waits for the locks of workers that die with the old one.
        self.outcome: OutcomeFile = OutcomeFile(paths.outcome(self.bundle), paths.root, lock=recall is None)
        self.synced: dict[str, tuple[int, ...]] = {}
        self._open_log()
        os.chdir(directory)
        # What targets log goes to their output; the levels are those of the run.
        logging.getLogger().handlers[:] = [_ToStandardError()]
        set_level(header.log_level)
        self.baseline: isolation.Baseline = isolation.Baseline(directory, paths.log(self.bundle))
        self.started: float = clock.elapsed()

    def log_size(self) -> int:
        """Where in the log the output of the next target begins (lseek takes a third of the time of fstat)."""
        return os.lseek(1, 0, os.SEEK_END)

    def is_recalled(self) -> bool:
        """Whether the master takes back what has not been started."""
        if self._recall is not None:
            return self._recall.has_come()
        return os.pread(self._control.fd(), 1, 0) != frames.NO_RECALL

    def is_overdue(self, time: float) -> bool:
        """Whether nothing more is to be begun here: on a cluster, when the bundle takes far longer than it should, or
        the next job would not come to its end before the batch system ends it. time: what that job says, or 0."""
        if self.header.supervision is None:
            return False
        too_long = frames.OVERTIME * self.header.job_time
        return clock.elapsed() - self.started > too_long or not self.has_time_for(time)

    def has_time_for(self, time: Optional[float]) -> bool:
        """Whether the batch system's time limit allows for a target that takes so many seconds; 0, None: who knows."""
        if self.header.supervision is None:
            return True
        limit = Supervision(*self.header.supervision).time_limit
        left = limit - (clock.elapsed() - self.started)
        return not limit or (time or self.header.job_time) <= left

    def _open_log(self) -> None:
        path = self.paths.log(self.bundle)
        os.makedirs(os.path.dirname(path), 0o700, exist_ok=True)
        flags = os.O_RDWR | os.O_CREAT | os.O_APPEND
        for number, name, mode in ((0, os.devnull, os.O_RDONLY), (1, path, flags), (2, path, flags)):
            fd = os.open(name, mode, 0o600)
            os.dup2(fd, number)
            os.close(fd)
        sys.stdin = open(0, closefd=False)  # noqa: SIM115
        sys.stdout = open(1, "w", closefd=False, errors="backslashreplace", buffering=1)  # noqa: SIM115
        sys.stderr = open(2, "w", closefd=False, errors="backslashreplace", buffering=1)  # noqa: SIM115


def open_workplace(
    paths: TreePaths, bundle: int, directory: str, recall: Optional[int] = None
) -> Optional[tuple[Workplace, list[BundleJob]]]:
    """Claim a bundle and open its files; None if it is not ours to run (or not readable: then nothing is lost).

    recall: see ``worker.run_bundle``; the bundle has been claimed then.
    """
    path = paths.bundle(bundle)
    data = files.read(path)
    if data is None:
        return None
    if recall is None and not _claim(paths, bundle):
        return None
    found = frames.decode_bundle(data)
    if found is None:
        return None
    header, jobs = found
    return Workplace(paths, header, directory, recall), jobs


def _claim(paths: TreePaths, bundle: int) -> bool:
    claim = paths.claim(bundle)
    mark = f"{socket.gethostname()} {os.getpid()} {os.urandom(8).hex()}\n".encode()
    if not files.make_once(claim, mark):
        return False
    if not os.path.exists(paths.bundle(bundle)):
        files.remove(claim)  # the bundle was over before we came, and its claim was swept with it
        return False
    return True


class _ToStandardError(logging.StreamHandler):  # type: ignore[type-arg]
    """Writes to what sys.stderr is at the moment: a target may replace it for itself."""

    def __init__(self) -> None:
        logging.Handler.__init__(self)

    @property
    def stream(self) -> Any:
        return sys.stderr
