"""The exceptions of jobtree, in one tree.

    JobTreeError                     everything that jobtree raises on purpose
     +-- RunFailed             (1)   nothing can progress any more, because jobs have failed
     +-- UsageError            (2)   you asked for something that cannot be; nothing was changed
     |    +-- NotAJobTree            the directory is not a job tree that this version may continue
     |    +-- GuardMissing           the script starts a run while it is being imported
     +-- RunStopped            (3)   the run ended before the tree did; the same command continues
     +-- AnotherMaster         (4)   another master runs this tree
     +-- StorageError          (5)   the disk refused; the tree on it is as of the last commit
     |    +-- SyncFailed             what was written may not be on the disk
     |    +-- DamagedFile            a file of the tree is not as it was written
     |    +-- DamagedTree            the database is, so that the tree cannot be believed
     +-- TargetError                 raised inside a target's code: the target fails with this message
     |    +-- TargetNotInitialised   a subclass did not call Target.__init__
     |    +-- FollowOnExists         a second follow-on was set
     |    +-- CannotPickle           something that must be stored has no stored form
     |    +-- PromiseNotKept         a promise was used before its target had ended
     |    +-- ScriptChanged          a stored target needs a name that the code no longer has
     |    +-- NotRunning             a method that only works inside run() was called elsewhere
     +-- CannotImport                a module that a target needs is not to be found
    BrokenInvariant (AssertionError) our own mistake: stopping is safe, going on is not

The number is the exit status with which a command ends. A message says what was found, what was expected and what
to do; ``jobtree.report.end_with`` is the one place that turns an exception into text and an exit status.
"""

from __future__ import annotations

from typing import Optional


class JobTreeError(Exception):
    """Base of everything that jobtree raises on purpose; never raised itself."""

    exit_status: int = 1


class UsageError(JobTreeError):
    """You asked for something that cannot be; nothing was changed."""

    exit_status: int = 2


class NotAJobTree(UsageError):
    """The directory is not a job tree, belongs to somebody else, or was made by another version."""


class GuardMissing(UsageError):
    """The script called startJobTree while it was being imported."""


class RunFailed(JobTreeError):
    """Jobs have failed for good, and everything that does not wait for them is done. failed: how many."""

    def __init__(self, message: str, failed: int) -> None:
        super().__init__(message)
        self.failed = failed


class RunStopped(JobTreeError):
    """The run ended before the tree did; starting it again continues.

    signal is the number of the signal that stopped it, or None when it was stopped by a request or gave up.
    """

    exit_status: int = 3

    def __init__(self, message: str, signal: Optional[int] = None) -> None:
        super().__init__(message)
        self.signal = signal
        if signal is not None:
            self.exit_status = 128 + signal


class AnotherMaster(JobTreeError):
    """Another master runs this tree."""

    exit_status: int = 4


class StorageError(JobTreeError):
    """The disk refused a write, or what is on it is damaged."""

    exit_status: int = 5


class SyncFailed(StorageError):
    """What was written may not be on the disk, although it can be read; it is never synced a second time."""


class DamagedFile(StorageError):
    """A file of the job tree is not as it was written."""


class DamagedTree(StorageError):
    """The database of a job tree is damaged; nothing in it is believed."""


class TargetError(JobTreeError):
    """Raised inside a target's code; the target fails with this message."""


class TargetNotInitialised(TargetError):
    """A subclass of Target did not call Target.__init__."""


class FollowOnExists(TargetError):
    """A target was given a second follow-on."""


class CannotPickle(TargetError):
    """A target, or the value that it returned, has no stored form."""


class PromiseNotKept(TargetError):
    """A promise was used before the target that makes it had ended."""


class ScriptChanged(TargetError):
    """A stored target needs a class, function or attribute that the code no longer has."""


class NotRunning(TargetError):
    """A method that only works inside run() was called elsewhere."""


class CannotImport(JobTreeError):
    """A module that a target needs cannot be imported where it runs."""


class BrokenInvariant(AssertionError):
    """Our own mistake: the state contradicts itself. Stopping is safe, going on is not."""


WORKING_DIRECTORY_GONE = (
    "the directory in which this was started is not there any more: go to another one (cd), "
    "and start it there."
)
