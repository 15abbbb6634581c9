"""Whether locks on a network file system keep two processes apart, asked before they are relied upon.

Two masters are kept apart by flock, and SQLite's database by fcntl locks. Some mounts grant both to everybody, or keep
them on each machine. The first is tried: another process asks for what this one holds. The second cannot be seen from
one machine, but the options of the mount say it. Either way the tree is refused, with the option that cures it.
"""

from __future__ import annotations

import fcntl
import os
import sys

from jobtree import files
from jobtree.errors import UsageError
from jobtree.filesystems import filesystem_type, mount_options

_ANSWER_SECONDS = 60.0

_TRIAL = """
import fcntl, sys
granted = 0
for bit, path, lock in ((1, sys.argv[1], fcntl.flock), (2, sys.argv[2], fcntl.lockf)):
    with open(path, "r+b") as file:
        try:
            lock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            granted |= bit
        except OSError:
            pass
print(granted)
"""
"""What the other process runs; it prints which of the two locks it was granted."""

_KINDS = {1: "flock", 2: "fcntl", 3: "flock and fcntl"}

_CURES = {
    "nfs": "mount it with local_lock=none and without nolock; NFSv3 needs lockd and statd on both sides for that",
    "nfs4": "mount it with local_lock=none",
    "lustre": "mount it with -o flock",
    "cifs": "mount it without nobrl",
    "smb3": "mount it without nobrl",
}
_BAD_OPTIONS = {
    "nfs": ("nolock", "local_lock=all", "local_lock=flock", "local_lock=posix"),
    "nfs4": ("nolock", "local_lock=all", "local_lock=flock", "local_lock=posix"),
    "lustre": ("localflock", "noflock"),
    "cifs": ("nobrl",),
    "smb3": ("nobrl",),
}


def check(held: str, trial: str) -> None:
    """Raise UsageError unless locks exclude. held: a file of which this process has the flock; trial: one to make.

    Does nothing where the file system is known to be local. Raises StorageError.
    """
    directory = os.path.dirname(held)
    if not files.is_network(directory):
        return
    kind = filesystem_type(directory)
    options = mount_options(directory)
    for option in _BAD_OPTIONS.get(kind, ()):
        if option in options:
            raise _refusal(
                directory, kind, f"is mounted with {option}, so that its locks hold on one machine only"
            )
    granted = _try_both(held, trial)
    if granted:
        raise _refusal(
            directory, kind, f"grants one lock ({_KINDS.get(granted, granted)}) to two processes at once"
        )


def _try_both(held: str, trial: str) -> int:
    """What another process is granted although we hold it."""
    try:
        fd = os.open(trial, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.lockf(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return _ask_another(held, trial)
        finally:
            os.close(fd)
            files.remove(trial)
    except OSError as error:
        raise files.refused(error, trial) from error


def _ask_another(held: str, trial: str) -> int:
    import subprocess  # only a start on a network file system needs it; whoever looks at a tree imports this module

    command = [sys.executable, "-I", "-S", "-c", _TRIAL, held, trial]
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, timeout=_ANSWER_SECONDS, check=True
        )
        return int(done.stdout)
    except (subprocess.SubprocessError, ValueError) as error:
        said = getattr(error, "stderr", b"") or b""
        raise UsageError(
            f"{os.path.dirname(held)} is on a network file system, and whether its locks keep two processes apart "
            f"could not be found out: {error} {said.decode(errors='replace').strip()}"
        ) from error


def _refusal(directory: str, kind: str, what: str) -> UsageError:
    cure = _CURES.get(kind, "mount it with locks that hold for all machines and processes")
    return UsageError(
        f"{directory}: its file system ({kind or 'of unknown type'}) {what}. Two masters could run the tree at once "
        f"and damage it. Have it mounted otherwise ({cure}), or give a --jobTree on another one."
    )
