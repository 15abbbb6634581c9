"""The counting double: every durable effect of master and workers passes through here before it happens.

``install`` takes the place of those functions of ``os`` that change a disk, of ``syncfs``, and of the methods of
``Store`` in which SQLite writes. Inside ``ROOT`` each call is first told to the *sink* of this process, which may count
it, record it, hold it up, cut it short, or stop the world by raising; outside of ``ROOT`` nothing is different. In a
forked worker the sink is a pipe to the process that plays the world.

Only what would change something is told: making a directory that is there already is no effect, nor is the removal of
a file that is not there.
"""

from __future__ import annotations

import fcntl
import os
import signal
from typing import Any, Callable, Optional, Protocol

from jobtree import database, files, soundness
from jobtree.store import Store
from jobtree.telling import Teller
from tests.crash.disk import Effect, Image
from tests.fakes.fake_batch_system import FakeBatchSystem


class Sink(Protocol):
    """Who is told of effects."""

    def effect(self, effect: Effect) -> Optional[int]:
        """It happens next. Returns None; or the number of bytes of a write after which this process is to die."""

    def begins(self, name: str) -> int:
        """A target's run() begins. Returns which of its runs it is, from 1."""

    def ends(self, name: str, well: bool) -> None:
        """A target's run() is about to return, or to fail."""


class Stopped(BaseException):
    """The world stops here."""


class _Nobody:
    def effect(self, effect: Effect) -> Optional[int]:
        return None

    def begins(self, name: str) -> int:
        return 1

    def ends(self, name: str, well: bool) -> None:
        pass


sink: Sink = _Nobody()
ROOT = "/nowhere"
"""The directory whose changes are told, without a symbolic link in its path."""

_open, _write, _pwrite, _fsync, _fdatasync = os.open, os.write, os.pwrite, os.fsync, os.fdatasync
_replace, _rename, _unlink, _rmdir, _mkdir = os.replace, os.rename, os.unlink, os.rmdir, os.mkdir
_ftruncate, _truncate = os.ftruncate, os.truncate


def _inside(path: Any, dir_fd: Optional[int] = None) -> Optional[str]:
    """The path relative to ROOT; None if it is elsewhere."""
    if not isinstance(path, str):
        return None
    if dir_fd is not None and not os.path.isabs(path):
        path = os.path.join(os.readlink(f"/proc/self/fd/{dir_fd}"), path)
    if path == ROOT:
        return ""
    return os.path.relpath(path, ROOT) if path.startswith(ROOT + os.sep) else None


def _inside_fd(fd: int) -> Optional[str]:
    """The same of an open file; None for one that has no name any more."""
    path = os.readlink(f"/proc/self/fd/{fd}")
    return None if path.endswith(" (deleted)") else _inside(path)


def _tell(kind: str, path: str, **more: Any) -> Optional[int]:
    return sink.effect(Effect(kind, path, **more))


def _told_open(path: Any, flags: int, mode: int = 0o777, *, dir_fd: Optional[int] = None) -> int:
    if flags & (os.O_CREAT | os.O_TRUNC):
        inside = _inside(path, dir_fd)
        if inside is not None:
            absolute = os.path.join(ROOT, inside)
            if not os.path.lexists(absolute):
                if flags & os.O_CREAT and os.path.isdir(os.path.dirname(absolute)):
                    _tell("create", inside)
            elif flags & os.O_TRUNC and os.path.getsize(absolute):
                _tell("truncate", inside)
    return _open(path, flags, mode, dir_fd=dir_fd)


def _written(fd: int, offset: Optional[int], data: Any) -> Optional[int]:
    """Tell of a write. Returns None, or after how many bytes to die."""
    inside = _inside_fd(fd)
    if inside is None or not len(data):
        return None
    if offset is None:
        appends = fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_APPEND
        offset = os.fstat(fd).st_size if appends else os.lseek(fd, 0, os.SEEK_CUR)
    return _tell("write", inside, offset=offset, data=bytes(data))


def _told_write(fd: int, data: Any) -> int:
    cut = _written(fd, None, data)
    if cut is not None:
        _write(fd, bytes(data)[:cut])
        os.kill(os.getpid(), signal.SIGKILL)
    return _write(fd, data)


def _told_pwrite(fd: int, data: Any, offset: int) -> int:
    _written(fd, offset, data)
    return _pwrite(fd, data, offset)


def _told_fsync(fd: int) -> None:
    inside = _inside_fd(fd)
    if inside is not None:
        _tell("fsync", inside)


def _told_truncate(path: Any, length: int) -> None:
    inside = _inside_fd(path) if isinstance(path, int) else _inside(path)
    if inside is not None:
        _tell("truncate", inside, offset=length)
    _truncate(path, length)


def _told_rename(source: Any, target: Any) -> None:
    inside = _inside(source)
    if inside is not None:
        _tell("rename", inside, to=os.path.relpath(target, ROOT))
    _rename(source, target)


def _told_unlink(path: Any, *, dir_fd: Optional[int] = None) -> None:
    inside = _inside(path, dir_fd)
    if inside is not None and os.path.lexists(os.path.join(ROOT, inside)):
        _tell("unlink", inside)
    _unlink(path, dir_fd=dir_fd)


def _told_rmdir(path: Any, *, dir_fd: Optional[int] = None) -> None:
    inside = _inside(path, dir_fd)
    if inside is not None:
        absolute = os.path.join(ROOT, inside)
        if os.path.isdir(absolute) and not os.listdir(absolute):
            _tell("rmdir", inside)
    _rmdir(path, dir_fd=dir_fd)


def _told_mkdir(path: Any, mode: int = 0o777, *, dir_fd: Optional[int] = None) -> None:
    inside = _inside(path, dir_fd)
    if inside is not None:
        absolute = os.path.join(ROOT, inside)
        if not os.path.lexists(absolute) and os.path.isdir(os.path.dirname(absolute)):
            _tell("mkdir", inside)
    _mkdir(path, mode, dir_fd=dir_fd)


def _told_syncfs(fd: int) -> int:
    if _inside_fd(fd) is not None:
        _tell("syncfs", "")
    return 0


def install(root: str) -> None:
    """Tell of every effect below this directory from now on, for the rest of this process's life."""
    global ROOT
    ROOT = os.path.realpath(root)
    os.open, os.write, os.pwrite = _told_open, _told_write, _told_pwrite
    os.fsync = os.fdatasync = _told_fsync  # type: ignore[assignment]
    os.replace = os.rename = _told_rename  # type: ignore[assignment]
    os.unlink = os.remove = _told_unlink
    os.rmdir, os.mkdir = _told_rmdir, _told_mkdir
    os.truncate = os.ftruncate = _told_truncate
    files._syncfs = _told_syncfs
    for owner, name in ((FakeBatchSystem, "issue"), (FakeBatchSystem, "cancel"), (Teller, "tell")):
        _tell_of_act(owner, name)
    for name in ("_open", "raise_generation", "commit", "close"):
        _tell_of_sqlite(Store, name, lambda store: str(store.path))
    # It closes the last connection, which takes the log into the database.
    _tell_of_sqlite(soundness, "_examine", lambda paths: str(paths.database))
    _tell_of_copies()


def _tell_of_act(owner: Any, name: str) -> None:
    original = getattr(owner, name)

    def told(*arguments: Any) -> Any:
        if arguments[-1]:  # nobody is told nothing
            _tell("act", name)
        return original(*arguments)

    setattr(owner, name, told)


def _tell_of_sqlite(owner: Any, name: str, path_of: Callable[[Any], str]) -> None:
    """What SQLite has done is known when it is done, so it is told afterwards: nothing else happens to these files."""
    original: Callable[..., Any] = getattr(owner, name)

    def told(first: Any, *arguments: Any) -> Any:
        path = path_of(first)
        inside = _inside(path)
        assert inside is not None
        before = _sqlite_files(path)
        result = original(first, *arguments)
        after = _sqlite_files(path)
        if after != before:
            _tell("sqlite", inside, before=before, after=after)
        return result

    setattr(owner, name, told)


def _tell_of_copies() -> None:
    """A copy of the database is written by SQLite without a journal or a sync: one write, told when it is done."""
    original = database.copy

    def told(source: Any, destination: str, *arguments: Any, **more: Any) -> None:
        original(source, destination, *arguments, **more)
        inside = _inside(destination)
        if inside is not None:
            _tell("write", inside, data=files.read(destination) or b"")

    database.copy = told


def _sqlite_files(path: str) -> tuple[Optional[bytes], Optional[bytes]]:
    return files.read(path), files.read(path + "-wal")


def image_of(root: str) -> Image:
    """What is below a directory, but for SQLite's shared memory, which is made anew by whoever opens the database."""
    found: Image = {}
    for folder, folders, names in os.walk(root):
        for name in folders:
            found[os.path.relpath(os.path.join(folder, name), root)] = None
        for name in names:
            if not name.endswith("-shm"):
                path = os.path.join(folder, name)
                found[os.path.relpath(path, root)] = files.read(path) or b""
    return found


def lay_out(root: str, image: Image) -> None:
    """Make a directory hold what an image says, and nothing else."""
    for path in sorted(image):
        content = image[path]
        absolute = os.path.join(root, path)
        if content is None:
            os.makedirs(absolute, 0o700, exist_ok=True)
        else:
            with open(absolute, "wb") as file:
                file.write(content)
