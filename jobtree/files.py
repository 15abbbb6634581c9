"""The door to the disk: how jobtree makes a file durable, replaces it, reads it and removes it.

No other module calls fsync or replaces a file. Three rules:

  - What is replaced is written whole under another name in the same directory, synced, renamed, and the directory is
    synced: a reader sees the old file or the new one, also after a power cut.
  - A failed fsync is final. After one, Linux marks the pages clean and a second call "succeeds" with the data lost
    (USENIX ATC 2020, "Can Applications Recover from fsync Failures?"). It becomes a StorageError, which stops the
    process; the next start believes only what is on disk.
  - Whatever the disk refuses becomes a StorageError that names the file and says what to do.
"""

from __future__ import annotations

import ctypes
import errno
import json
import os
import re
import stat
import sys
import time
import zlib
from collections.abc import Iterable
from typing import Any, Callable, Optional

from jobtree.errors import DamagedFile, StorageError, SyncFailed
from jobtree.filesystems import SYNCFS_FLUSHES
from jobtree.filesystems import filesystem_type as filesystem_type
from jobtree.filesystems import is_network as is_network

_NO_LINKS = frozenset(
    [errno.EPERM, errno.EOPNOTSUPP, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK, errno.EACCES]
)

_COARSE_SECONDS = 3.0
"""Some file systems keep times in steps of two seconds."""

_CHECKSUM = "crc32"
"""The name of the checksum in a JSON object; files without one are read, too."""


def refused(error: OSError, path: str, kind: type[StorageError] = StorageError) -> StorageError:
    """The StorageError (or a more special one, ``kind``) for what the system said about a path."""
    what = error.strerror or str(error)
    advice = {
        errno.ENOSPC: "Free some space there and start the same command again; nothing that was finished is lost.",
        errno.EDQUOT: "Your quota is used up: free some space and start the same command again; nothing is lost.",
        errno.EROFS: "The file system is mounted read-only; make it writable and start the same command again.",
        errno.EACCES: "Check who owns it and its mode; a job tree belongs to the user who made it.",
        errno.EIO: "The disk or the network file system failed. Once it is well, start the same command again: "
        "it goes on from what is safely on disk.",
    }.get(error.errno or 0, "Once that is mended, start the same command again: it goes on from there.")
    return kind(f"{path}: {what}. {advice}")


def is_refusal(error: StorageError) -> bool:
    """Whether it was the disk (full, broken, read-only), and not that something is in the way or not allowed."""
    cause = error.__cause__
    return isinstance(cause, OSError) and cause.errno in _REFUSALS


_REFUSALS = frozenset([errno.EIO, errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.ESTALE])


def fsync(fd: int, path: str) -> None:
    """Make an open file durable, or raise SyncFailed; never tried again."""
    try:
        os.fsync(fd)
    except OSError as error:
        if error.errno == errno.EINVAL:
            return  # some network file systems cannot sync a directory, and say so with EINVAL
        raise refused(error, path, SyncFailed) from error


def fdatasync(fd: int, path: str) -> None:
    """Make the content of an open file durable, or raise SyncFailed."""
    try:
        getattr(os, "fdatasync", os.fsync)(fd)
    except OSError as error:
        raise refused(error, path, SyncFailed) from error


def fsync_directory(path: str) -> None:
    """Make the names in a directory durable. Raises StorageError, also where there is no such directory."""
    try:
        _fsync_open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise refused(error, path) from error


def fsync_names(path: str, top: str) -> None:
    """Make durable the names under which a file or directory is found: those of the directories between ``top`` and it,
    and its own. A sync of a file or directory does that for what it holds, not for what it is called."""
    while path != top:
        path = os.path.dirname(path)
        fsync_directory(path)


def fsync_way_to(path: str) -> None:
    """The same as far up as the file system goes and we may read: for a directory that users gave us."""
    path = os.path.abspath(path)
    try:
        device = os.stat(path).st_dev
        while path != os.path.dirname(path):
            path = os.path.dirname(path)
            if os.stat(path).st_dev != device:
                return
            _fsync_open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except PermissionError:
        return  # a directory that we may not read is none that we made
    except OSError as error:
        raise refused(error, path) from error


def _fsync_open(path: str, flags: int) -> None:
    """Open and fsync. OSError: it could not be opened; StorageError: it could not be synced."""
    fd = os.open(path, flags)
    try:
        fsync(fd, path)
    finally:
        os.close(fd)


def replace_durably(path: str, data: bytes) -> None:
    """Write a file so that there is always the old or the new one; mode 0600."""
    temporary = f"{path}.{os.getpid()}.new"
    try:
        write_durably(temporary, data)
        _rename(temporary, path)
        fsync_directory(os.path.dirname(path))
    except OSError as error:
        raise refused(error, path) from error


def replace(path: str, data: bytes, mode: int = 0o600, group: int = -1) -> None:
    """The same for what need not survive a power cut. group: its number, -1 for our own. Raises StorageError."""
    temporary = f"{path}.{os.getpid()}.new"
    write_new(temporary, data)
    try:
        if (mode, group) != (0o600, -1):
            os.chown(temporary, -1, group)
            os.chmod(temporary, mode)
        _rename(temporary, path)
    except OSError as error:
        raise refused(error, path) from error


def install(temporary: str, path: str) -> None:
    """Put a finished file, which nobody has open, durably in the place of another. Raises StorageError."""
    try:
        _fsync_open(temporary, os.O_RDONLY | os.O_CLOEXEC)
        _rename(temporary, path)
    except OSError as error:
        raise refused(error, path) from error
    fsync_directory(os.path.dirname(path))


def rename(path: str, to: str) -> None:
    """Give a file another name in its directory, durably; one that is not there is ignored. Raises StorageError."""
    try:
        _rename(path, to)
    except FileNotFoundError:
        return
    except OSError as error:
        raise refused(error, path) from error
    fsync_directory(os.path.dirname(to))


def _rename(path: str, to: str) -> None:
    """Rename a file; OSError if that has not happened. On a network file system the answer can be lost, and the second
    try finds nothing to rename: then the file that has the new name now tells."""
    inode = os.stat(path).st_ino
    try:
        os.replace(path, to)
    except OSError:
        if _inode(to) != inode:
            raise


def _inode(path: str) -> Optional[int]:
    """The inode that has a name, by a fresh open; None if that cannot be told."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        return os.fstat(fd).st_ino
    finally:
        os.close(fd)


def final_name(name: str) -> str:
    """The name that a file gets in the end: what ``replace_durably`` was interrupted in has another one."""
    return re.sub(r"\.\d+\.new$", "", name)


def write_durably(path: str, data: bytes) -> None:
    """Write a file and sync it; nobody may look for it before it is mentioned somewhere durable."""
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            write_all(fd, data)
            fsync(fd, path)
        finally:
            os.close(fd)
    except OSError as error:
        raise refused(error, path) from error


def write_all(fd: int, data: bytes) -> None:
    """os.write until all is written; a full disk shows as OSError and may leave a part."""
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


def write_new(path: str, data: bytes = b"") -> None:
    """Write a file that need not survive a power cut (it would be made again), making its directory if needed."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC
    try:
        try:
            fd = os.open(path, flags, 0o600)
        except FileNotFoundError:
            os.makedirs(os.path.dirname(path), 0o700, exist_ok=True)
            fd = os.open(path, flags, 0o600)
        try:
            write_all(fd, data)
        finally:
            os.close(fd)
    except OSError as error:
        raise refused(error, path) from error


def make_once(path: str, data: bytes, directories: bool = True) -> bool:
    """Make a file if it is not there, in one operation that the file system decides. False: somebody else did.

    data must be different for everybody who tries: on a network file system the answer to the one who made it can be
    lost, and then what is in the file tells. directories: make the one that it is in, if that is not there.
    Raises StorageError.
    """
    try:
        try:
            return _make_once(path, data)
        except FileNotFoundError:
            if not directories:
                raise
            os.makedirs(os.path.dirname(path), 0o700, exist_ok=True)
            return _make_once(path, data)
    except OSError as error:
        raise refused(error, path) from error


def _make_once(path: str, data: bytes) -> bool:
    # An exclusive creation can succeed on the server and be reported as refused when it is asked again after a lost
    # answer; the file is empty then, and nobody has won. A link brings its content along.
    if is_network(os.path.dirname(path)):
        linked = _link_once(path, data)
        if linked is not None:
            return linked
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except FileExistsError:
        return read(path) == data
    try:
        write_all(fd, data)
    finally:
        os.close(fd)
    return True


def _link_once(path: str, data: bytes) -> Optional[bool]:
    """The same by a hard link to a file of our own; None where there are none (FUSE, CIFS, some parallel systems)."""
    own = f"{path}.{os.urandom(8).hex()}"
    fd = os.open(own, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        try:
            write_all(fd, data)
        finally:
            os.close(fd)
        try:
            os.link(own, path)
            return True
        except FileExistsError:
            return read(path) == data
        except OSError as error:
            if error.errno in _NO_LINKS:
                return None
            raise
    finally:
        remove(own)


def read(path: str) -> Optional[bytes]:
    """The content of a file, None if there is none; OSError for all else."""

    def look() -> bytes:
        with open(path, "rb") as file:
            return file.read()

    try:
        return _unless_stale(look)
    except FileNotFoundError:
        return None


def _unless_stale(look: Callable[[], bytes]) -> bytes:
    """What ``look`` opens and reads. On a network file system the open file is stale if another machine has replaced it
    meanwhile; then the new one is opened. (Not for ever: so is what a server has lost.)"""
    for _ in range(10):
        try:
            return look()
        except OSError as error:
            if error.errno != errno.ESTALE:
                raise
    return look()


def read_from(path: str, offset: int, limit: int) -> bytes:
    """Up to limit bytes of a file from offset on, by a fresh open (network file systems cache open files).

    Nothing if there is no such file; StorageError for all else.
    """

    def look() -> bytes:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            return os.pread(fd, limit, offset)
        finally:
            os.close(fd)

    try:
        return _unless_stale(look)
    except FileNotFoundError:
        return b""
    except OSError as error:
        raise refused(error, path) from error


def open_afresh(path: str, flags: int) -> int:
    """os.open for a file that another machine may have made just now: a network file system remembers for a while that
    there was none, unless the directory is opened afresh."""
    try:
        return os.open(path, flags)
    except FileNotFoundError:
        os.close(os.open(os.path.dirname(path), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC))
        return os.open(path, flags)


def write_byte(path: str, offset: int, byte: bytes) -> None:
    """Overwrite one byte of a file that exists; a file that is gone is ignored. Raises StorageError."""
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.pwrite(fd, byte, offset)
        finally:
            os.close(fd)
    except FileNotFoundError:
        return
    except OSError as error:
        raise refused(error, path) from error


def write_json(path: str, value: Any) -> None:
    """Replace a file by a JSON text, durably; an object with a checksum, so that no changed letter is believed."""
    if isinstance(value, dict):
        value = {**value, _CHECKSUM: _checksum(json.loads(json.dumps(value)))}
    replace_durably(path, json.dumps(value, indent=1, sort_keys=True).encode() + b"\n")


def _checksum(value: dict[str, Any]) -> int:
    return zlib.crc32(json.dumps(value, sort_keys=True).encode())


def read_json(path: str) -> Any:
    """What a JSON file holds; None if it is not there. Raises DamagedFile if it holds something else."""
    try:
        data = read(path)
        value = None if data is None else json.loads(data)
        if isinstance(value, dict) and value.pop(_CHECKSUM, None) not in (None, _checksum(value)):
            raise ValueError("its checksum is not that of its content, or somebody has edited it")
        return value
    except OSError as error:
        raise refused(error, path) from error
    except ValueError as error:
        raise DamagedFile(
            f"{path} is damaged: {error}. It was written whole, so the disk lost something."
        ) from error


def remove(path: str) -> None:
    """Remove a file that may be gone already."""
    try:
        os.unlink(path)
    except FileNotFoundError:
        pass
    except OSError as error:
        raise refused(error, path) from error


def make_durable(
    directories: Iterable[str],
    known: Optional[dict[str, tuple[int, ...]]] = None,
    top: Optional[str] = None,
) -> None:
    """Make all that is in these directories durable: file contents and names, also their own below ``top``.

    Where syncfs(2) flushes, one call does for all of them; elsewhere each file is synced that differs from what
    ``known`` says of it (inode, size, times; updated).
    """
    present = [path for path in directories if os.path.isdir(path)]
    if not present:
        return
    if filesystem_type(present[0]) in SYNCFS_FLUSHES and _syncfs is not None:
        fd = os.open(present[0], os.O_RDONLY | os.O_DIRECTORY)
        try:
            if _syncfs(fd) == 0:
                return
            number = ctypes.get_errno()
            raise refused(OSError(number, os.strerror(number)), present[0], SyncFailed)
        finally:
            os.close(fd)
    above = set()
    for path in present:
        sync_tree(path, known if known is not None else {})
        while top is not None and path != top:
            path = os.path.dirname(path)
            above.add(path)
    for path in above:
        fsync_directory(path)


def sync_tree(path: str, known: Optional[dict[str, tuple[int, ...]]] = None) -> None:
    """fsync a file, or a directory and all that is in it; what ``known`` has seen unchanged is passed over.

    A file that its owner has made unreadable is made readable for the moment it takes to open it. What is not ours to
    open, and a directory that is closed to us, is passed over: to whoever made it so it is nobody else's affair.
    Raises StorageError.
    """
    known = {} if known is None else known
    if not os.path.isdir(path):
        _sync_file(path, known)
        return
    for folder, _, names in os.walk(path):
        for name in names:
            _sync_file(os.path.join(folder, name), known)
        try:
            _fsync_open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except (FileNotFoundError, PermissionError):
            continue  # removed while we walk: nothing to keep
        except OSError as error:
            raise refused(error, folder) from error


def _sync_file(path: str, known: dict[str, tuple[int, ...]]) -> None:
    try:
        status = os.lstat(path)
        if not stat.S_ISREG(status.st_mode):
            return
        mark = (status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
        if known.get(path) == mark:
            return
        fd = _open_despite_mode(path, stat.S_IMODE(status.st_mode))
    except (FileNotFoundError, PermissionError):
        return
    except OSError as error:
        raise refused(error, path) from error
    try:
        fsync(fd, path)
    finally:
        os.close(fd)
    # A file may be written again within one tick of the clock that its times are taken from: then nothing would show.
    if abs(time.time() - status.st_mtime) > _COARSE_SECONDS:
        known[path] = mark


def _open_despite_mode(path: str, mode: int) -> int:
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        return os.open(path, flags)
    except PermissionError:
        os.chmod(path, mode | stat.S_IRUSR)
        try:
            return os.open(path, flags)
        finally:
            os.chmod(path, mode)


def _find_syncfs() -> Optional[Callable[[int], int]]:
    if not sys.platform.startswith("linux"):
        return None
    try:
        function = ctypes.CDLL(None, use_errno=True).syncfs
    except (OSError, AttributeError):
        return None
    return lambda fd: int(function(ctypes.c_int(fd)))


_syncfs = _find_syncfs()
