"""Temporary directories: who makes them, and who removes them, whatever happens.

Local ones lie where the machine wants temporary files, in one directory a bundle whose name carries the run's token:
``/tmp/jobtree-RUN-BUNDLE/N``. A target's own is made when it asks for it and removed by its worker when it has ended;
if the worker dies, whoever collects it removes the bundle's directory; if that dies too, the next start does, which
finds them by the token. Global ones lie in the job tree; the store knows which jobs have one.
"""

from __future__ import annotations

import errno
import glob
import os
import stat
from collections.abc import Collection
from typing import Optional

from jobtree import files, removing
from jobtree.errors import StorageError


def local_root() -> str:
    """Where this machine wants temporary files: TMPDIR (or TEMP, TMP) where that can be used, else /tmp.

    Not ``tempfile.gettempdir``: that tries to write, and where /tmp is full it goes elsewhere, in the end into the
    current directory; whoever sweeps later, when there is room again, would look in another place.
    """
    for name in ("TMPDIR", "TEMP", "TMP"):
        path = os.path.abspath(os.environ.get(name) or "/nowhere")
        if os.path.isdir(path) and os.access(path, os.W_OK | os.X_OK):
            return path
    return "/tmp"


def local_base(run: str, bundle: int) -> str:
    """The directory of all local temporary directories of a bundle."""
    return os.path.join(local_root(), f"jobtree-{run}-{bundle}")


def make_local(run: str, bundle: int, n: int) -> str:
    """Make the n-th local temporary directory of a bundle; empty, mode 0700. Raises StorageError."""
    base = local_base(run, bundle)
    try:
        try:
            os.mkdir(base, 0o700)
        except FileExistsError:
            status = os.lstat(base)
            if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.getuid():
                raise StorageError(f"{base} is not a directory of ours; somebody planted it there.") from None
        path = os.path.join(base, str(n))
        removing.remove_tree(path)
        os.mkdir(path, 0o700)
        return path
    except OSError as error:
        raise files.refused(error, base) from error


def remove_local(run: str, bundle: int) -> Optional[str]:
    """Remove a bundle's local temporary directories; says in words what is left over."""
    return removing.remove_tree(local_base(run, bundle))


def local_dirs(run: str) -> list[str]:
    """The directories of local temporary directories that a run has on this machine."""
    return glob.glob(os.path.join(glob.escape(local_root()), f"jobtree-{run}-*"))


def sweep_local(run: str, alive: Collection[int] = ()) -> None:
    """Remove all local temporary directories of a run on this machine, but those of bundles whose workers may live."""
    spared = {local_base(run, bundle) for bundle in alive}
    for path in local_dirs(run):
        if path in spared:
            continue
        try:
            ours = os.lstat(path).st_uid == os.getuid() and not os.path.islink(path)
        except FileNotFoundError:
            continue  # its worker's supervisor was faster
        if ours:
            removing.remove_tree(path)


def make_global(path: str) -> str:
    """Make a chain's global temporary directory if it is not there."""
    for _ in range(100):
        try:
            _make_directories(path)
            return path
        except FileNotFoundError:
            continue  # the directory above was empty and went just now, with the one of another job
        except OSError as error:
            raise files.refused(error, path) from error
    raise StorageError(f"{path} cannot be made: the directories above it keep disappearing.")


def _make_directories(path: str) -> None:
    """Make a directory and those above it. (os.makedirs gives a mode to the last one only.)"""
    try:
        os.mkdir(path, 0o700)
    except FileNotFoundError:
        _make_directories(os.path.dirname(path))
        _make_directories(path)
    except FileExistsError:
        # One that has gone in between with the directory of another job is FileNotFoundError here, as above.
        if not stat.S_ISDIR(os.stat(path).st_mode):
            raise


def remove_empty_groups(top: str) -> None:
    """Remove the directories above chains' ones that hold none: a power cut may keep them and lose what was in them.

    A worker that is about to make one there makes those above it again (``make_global``).
    """
    for thousand in _folders(top):
        for group in _folders(thousand):
            _remove_if_empty(group)
        _remove_if_empty(thousand)


def _folders(path: str) -> list[str]:
    try:
        return [entry.path for entry in os.scandir(path) if entry.is_dir(follow_symlinks=False)]
    except FileNotFoundError:
        return []


def _remove_if_empty(path: str) -> None:
    try:
        os.rmdir(path)
    except OSError:
        pass  # not empty, or gone


def _ask_again(path: str, top: str) -> None:
    """Open the directories from ``top`` to this one, one below the other.

    A client of NFS goes on believing for a while that a name is not there which another machine has made since; opening
    a directory makes it ask the server about what is in there (nfs(5), "Directory entry caching").
    """
    here = top
    for name in ("", *os.path.relpath(path, top).split(os.sep)):
        here = os.path.join(here, name)
        try:
            os.close(os.open(here, os.O_RDONLY | os.O_DIRECTORY))
        except OSError:
            return  # what is below is not there either, or whoever removes it will say why not


def remove_global(path: str, top: str) -> Optional[str]:
    """Remove a chain's global temporary directory, and those above it, below ``top``, that are empty then."""
    above = os.path.dirname(path)
    if not os.path.lexists(path):
        _ask_again(above, top)
    left = removing.remove_tree(path)
    while above != top:
        try:
            os.rmdir(above)
        except FileNotFoundError:
            pass  # an earlier removal was interrupted here
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                left = left or f"{above}: {error.strerror}"
            break
        above = os.path.dirname(above)
    return left
