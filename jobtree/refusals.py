"""Workers that could not write down what became of their targets: what the disk refused them, and when to stop for it.

That is nobody's fault: no target loses a try by it, and it runs again. But when it happens to one worker after another,
or to the same job again and again, the disk is full or worse, every target is run for nothing, and the run stops.
"""

from __future__ import annotations

import errno
import os
from typing import Optional

from jobtree import files, frames
from jobtree.errors import StorageError
from jobtree.shown import one_line

MOST = 3
"""So many times in a row, or for the same job, are enough."""

_FULL_BYTES = 1 << 20
"""A file system with less room than this is full: a worker needs little more than that for the frames of a second."""


class Refusals:
    """Counts them."""

    def __init__(self) -> None:
        self._in_a_row = 0
        self._of_job: dict[int, int] = {}

    def count(self, job: int, refusal: str) -> int:
        """One more, while it ran this job. Returns how many of this job; StorageError if that is enough."""
        times = self._of_job[job] = self._of_job.get(job, 0) + 1
        self._in_a_row += 1
        often = max(self._in_a_row, times)
        if often >= MOST:
            raise StorageError(
                f"{one_line(refusal)} (Seen by {often} workers. No target has lost a try by it.)"
            )
        return times

    def none(self) -> None:
        """A worker has written down what became of a target."""
        self._in_a_row = 0


def refusal(path: str, output: str, was_running: bool) -> Optional[str]:
    """What the disk refused a worker that says with its exit status that it could not write; None: no evidence.

    path: its outcome file; output: what it printed last. Any target may end its process with that status, so if one was
    running there must be something else that tells. A worker may be unable to say more.
    """
    for line in output.splitlines():
        if line.startswith(frames.LAST_WORDS):
            return line[len(frames.LAST_WORDS) :]
    try:
        space = os.statvfs(os.path.dirname(path))
    except OSError as error:
        return str(files.refused(error, path))
    if space.f_bavail * space.f_frsize < _FULL_BYTES:
        return str(files.refused(OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), path))
    if was_running:
        return None
    return (
        f"{path}: a worker could not write there. Look at the space left on that file system (df, quota) and at the "
        "system's log; then start the same command again."
    )
