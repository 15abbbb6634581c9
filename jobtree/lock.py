"""One master a tree.

The lock is one that the kernel drops when its holder dies (``filelock``), so there is nothing to unlock by hand and no
pid to be mistaken for another process's. Who holds it is written beside it, for the message that refuses a second
master; it is never believed for anything else. That such a lock means anything is tried first (jobtree.exclusion).
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import socket
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Optional

from jobtree import clock, exclusion, files, soundness
from jobtree.errors import AnotherMaster, StorageError, UsageError
from jobtree.paths import TreePaths

if TYPE_CHECKING:
    import filelock


_PATIENCE = 0.5
_PATIENCE_ON_A_NETWORK = 5.0
"""Seconds to wait for the lock: there who looks at a tree without a master holds it while the database is read."""


class TreeLock:
    """The lock of one tree; ``acquire`` it before anything in the tree is changed."""

    def __init__(self, paths: TreePaths) -> None:
        import filelock  # commands that only look need it not, and importing it takes 15 ms

        self._paths = paths
        # Whoever only looks (jobTreeStatus) holds it for some microseconds; hence not the first refusal counts.
        seconds = _PATIENCE_ON_A_NETWORK if files.is_network(paths.root) else _PATIENCE
        self._lock: filelock.BaseFileLock = filelock.FileLock(paths.lock, timeout=seconds, mode=0o600)

    def acquire(self) -> None:
        """Take the lock and say who we are. Raises AnotherMaster, which names the one that has it."""
        import filelock

        self._check_support()
        try:
            self._lock.acquire(poll_interval=0.02)
        except filelock.Timeout:
            raise AnotherMaster(self._explain()) from None
        except OSError as error:
            raise files.refused(error, self._paths.lock) from error
        try:
            exclusion.check(self._paths.lock, self._paths.lock_trial)
        except BaseException:
            self.release()
            raise
        files.write_json(
            self._paths.lock_owner,
            {
                "host": socket.gethostname(),
                "kernel": soundness.this_kernel(),
                "pid": os.getpid(),
                "started": clock.wall(),
                "started_text": clock.text(clock.wall()),
            },
        )

    def _check_support(self) -> None:
        """Where the kernel has no such lock, ``filelock`` falls back on one that outlives its holder: refuse that."""
        try:
            fd = os.open(self._paths.lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise files.refused(error, self._paths.lock) from error
        try:
            fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno not in (errno.EAGAIN, errno.EACCES):
                raise UsageError(
                    f"{self._paths.root}: the file system does not have the locks that keep two masters apart "
                    f"({error.strerror}). Mount it with locks (Lustre: -o flock; NFS: without nolock), or give a "
                    "--jobTree on another one."
                ) from error
        finally:
            os.close(fd)

    def release(self) -> None:
        """Let another master in."""
        self._lock.release()

    def _explain(self) -> str:
        who = owner(self._paths)
        described = (
            f"on host {who['host']} with pid {who['pid']}, started {who['started_text']}"
            if who
            else "which has just started"
        )
        return (
            f"{self._paths.root} is being run by another master, {described}. "
            f"Look at it with: jobTreeStatus {self._paths.root}   Stop it with: jobTreeKill {self._paths.root}"
        )


def is_held(paths: TreePaths) -> bool:
    """Whether a master runs this tree now. Does not disturb one that does."""
    try:
        fd = files.open_afresh(paths.lock, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        # Shared, so that any number may look at once; a master takes it exclusively, and tries for a while.
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
        return False
    except OSError as error:
        return error.errno in (errno.EAGAIN, errno.EACCES)
    finally:
        os.close(fd)


@contextlib.contextmanager
def kept_free(paths: TreePaths) -> Iterator[bool]:
    """Keep masters away, for a moment, while a tree is looked at that has none; False: it has one. Any number may look
    at once. A master that starts just then waits for as long as ``TreeLock`` says."""
    try:
        fd = files.open_afresh(paths.lock, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        yield True  # no master has ever been here, or the tree was copied without it
        return
    except OSError as error:
        raise files.refused(error, paths.lock) from error
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
            free = True
        except OSError as error:
            if error.errno not in (errno.EAGAIN, errno.EACCES):
                raise files.refused(error, paths.lock) from error
            free = False
        yield free
    finally:
        os.close(fd)


def is_here(who: dict[str, Any]) -> bool:
    """Whether the one that ``owner`` names runs on this machine: its name may have changed since."""
    if "kernel" in who:
        return bool(who["kernel"] == soundness.this_kernel())
    return bool(who["host"] == socket.gethostname())


def owner(paths: TreePaths) -> Optional[dict[str, Any]]:
    """Who last took the lock: host, pid, started (seconds since 1970), started_text; None if nobody can be named."""
    try:
        who = files.read_json(paths.lock_owner)
    except StorageError:
        return None
    return who if isinstance(who, dict) and {"host", "pid", "started_text"} <= set(who) else None
