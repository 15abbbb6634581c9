"""One master a tree.

The lock is one that the kernel drops when its holder dies (``filelock``), so there is nothing to unlock by hand and no
pid to be mistaken for another process's. Who holds it is written beside it, for the message that refuses a second
master; it is never believed for anything else.
"""

from __future__ import annotations

import os
import socket
from typing import Any, Optional

import filelock

from jobtree import clock, files
from jobtree.errors import AnotherMaster, StorageError
from jobtree.paths import TreePaths


class TreeLock:
    """The lock of one tree; ``acquire`` it before anything in the tree is changed."""

    def __init__(self, paths: TreePaths) -> None:
        self._paths = paths
        # Whoever only looks (jobTreeStatus) holds it for some microseconds; hence not the first refusal counts.
        self._lock = filelock.FileLock(paths.lock, timeout=0.5, mode=0o600)

    def acquire(self) -> None:
        """Take the lock and say who we are. Raises AnotherMaster, which names the one that has it."""
        try:
            self._lock.acquire(poll_interval=0.02)
        except filelock.Timeout:
            raise AnotherMaster(self._explain()) from None
        except OSError as error:
            raise files.refused(error, self._paths.lock) from error
        files.write_json(
            self._paths.lock_owner,
            {
                "host": socket.gethostname(),
                "pid": os.getpid(),
                "started": clock.wall(),
                "started_text": clock.text(clock.wall()),
            },
        )

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
    if not os.path.exists(paths.lock):
        return False
    lock = filelock.FileLock(paths.lock, timeout=0, mode=0o600)
    try:
        with lock:
            return False
    except filelock.Timeout:
        return True
    except OSError:
        return False


def owner(paths: TreePaths) -> Optional[dict[str, Any]]:
    """Who last took the lock: host, pid, started (seconds since 1970), started_text; None if nobody can be named."""
    try:
        who = files.read_json(paths.lock_owner)
    except StorageError:
        return None
    return who if isinstance(who, dict) and {"host", "pid", "started_text"} <= set(who) else None
