"""Removing a directory with all that is in it, as targets leave them. (A single file: ``files.remove``.)"""

from __future__ import annotations

import os
import stat
from typing import Optional


def remove_tree(path: str) -> Optional[str]:
    """Remove a directory with all that is in it, also where targets took permissions away; or a file, or a link.

    Returns None, or in words what could not be removed: left-over files are no reason to stop a run. Nothing outside
    of path is touched, and no link is followed: everything is reached from the directory that it is in.
    """
    trouble: list[str] = []
    _remove_entry(path.rstrip(os.sep), None, path, trouble)
    if not trouble:
        return None
    more = f"; and {len(trouble) - 3} more" if len(trouble) > 3 else ""
    return "; ".join(trouble[:3]) + more


def _remove_entry(name: str, above: Optional[int], shown: str, trouble: list[str]) -> None:
    """Remove what has this name in the directory that is open as ``above``; what cannot be goes into trouble."""
    try:
        status = os.stat(name, dir_fd=above, follow_symlinks=False)
        if not stat.S_ISDIR(status.st_mode):
            os.unlink(name, dir_fd=above)
            return
        if status.st_mode & stat.S_IRWXU != stat.S_IRWXU and status.st_uid == os.geteuid():
            # A directory without write permission keeps its entries, one without read permission hides them.
            os.chmod(name, stat.S_IRWXU, dir_fd=above)
        before = len(trouble)
        fd = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=above)
        try:
            for entry in os.listdir(fd):
                _remove_entry(entry, fd, os.path.join(shown, entry), trouble)
        finally:
            os.close(fd)
        if len(trouble) == before:
            os.rmdir(name, dir_fd=above)
    except FileNotFoundError:
        pass  # that is what we want
    except OSError as error:
        trouble.append(f"{shown}: {error.strerror}")
    except RecursionError:
        trouble.append(f"{shown}: nested too deeply")
