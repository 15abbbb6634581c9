"""A FUSE file system that behaves like a client of an NFS server; several of them on one store see each other's work as
badly as the rules of NFS allow.

    python tests/crash/nfs_client.py --store DIR [--uses N] [--lose P] [--seed S] [--locks none] [--nocto] [--mmap]
        MOUNTPOINT

The server is the directory DIR of this machine. It mounts and says "ready"; SIGUSR1 makes all that others have done
visible. What holds (nfs(5), open(2), rename(2), link(2); the rules of Linux's client)

  - Names (also that there is none), attributes and contents are remembered. Only opening a file afresh, or a directory,
    asks the server again about it (close-to-open); so does a lock that is granted. What has been used --uses times
    (drawn for each; 0: never) has expired. That is the clock here: it does not depend on how long anything takes.
  - What is written is seen by others after fsync or close, or when the lock is given up.
  - Two that append to one file overwrite each other: the client looks for its end, not the server.
  - With the probability --lose an answer is lost: rename, link, unlink, mkdir and rmdir happen, are sent again, and are
    reported as failed with what the second one met.
  - A file that another client has removed, or has put another in the place of, is ESTALE for those who have it open.
    One that is open at the same client is renamed to .nfs... until it is closed.
  - Locks (flock, fcntl) hold across all clients. --locks none: everybody is granted everything.
  - --nocto: opening asks nobody, as with the mount option of that name.
  - --mmap: what is only read is cached by the kernel, so that it can be mapped; then no reading is ESTALE.
"""

from __future__ import annotations

import argparse
import errno
import fcntl
import os
import random
import signal
import stat
import struct
import sys
from typing import Any, Callable, Optional

import mfusepy

_F_OFD_SETLK = 37
_F_OFD_GETLK = 36
_FLOCK = "hhqqi4x"
_TIMES = ("st_atime", "st_mtime", "st_ctime")
_FIELDS = ("st_ino", "st_mode", "st_nlink", "st_uid", "st_gid", "st_size", "st_blocks")


def refusal(number: int) -> mfusepy.FuseOSError:
    """What an operation raises."""
    return mfusepy.FuseOSError(number)


class Remembered:
    """What the client believes of one file: attributes, contents, and what it has not sent yet."""

    def __init__(self) -> None:
        self.attributes: Optional[dict[str, Any]] = None
        self.uses = 0
        self.mark: tuple[int, ...] = ()
        self.content: Optional[bytearray] = None
        self.unsent: list[tuple[int, int, bytes]] = []
        self.handles: set[int] = set()
        self.silly: Optional[str] = None


class NfsClient(mfusepy.Operations):  # type: ignore[misc]
    """One client; serves one operation after the other."""

    use_ns = True

    def __init__(
        self, store: str, uses: int, lose: float, seed: int, locks: bool, cto: bool, mmap: bool
    ) -> None:
        self._store = store
        self._uses = uses
        self._lose = lose
        self._chance = random.Random(seed)
        self._locks = locks
        self._cto = cto
        self._mmap = mmap
        self._names: dict[str, tuple[Optional[int], int]] = {}
        self._files: dict[int, Remembered] = {}
        self._inode_of: dict[int, int] = {}  # of an open handle, which is a file descriptor of the store
        self._owners: dict[tuple[int, int], int] = {}  # of fcntl locks: a descriptor of the store for each
        self._silly = 0
        signal.signal(signal.SIGUSR1, lambda *_: self._forget_all())

    def init(self, path: str) -> int:
        say("ready")
        return 0

    def _forget_all(self) -> None:
        self._names.clear()
        for file in self._files.values():
            file.attributes = None
            file.mark = ()
            if not file.unsent:
                file.content = None

    # -- what is remembered --------------------------------------------------------------------------------------

    def _at(self, path: str) -> str:
        return self._store + path

    def _lifetime(self) -> int:
        return self._chance.randint(1, self._uses) if self._uses else sys.maxsize

    def _file(self, inode: int) -> Remembered:
        return self._files.setdefault(inode, Remembered())

    def _ask(self, path: str) -> Optional[int]:
        """Ask the server what has this name, and remember it; its inode, None if nothing has."""
        try:
            status = os.lstat(self._at(path))
        except (FileNotFoundError, NotADirectoryError):
            self._names[path] = (None, self._lifetime())
            return None
        self._names[path] = (status.st_ino, self._lifetime())
        self._learn(status)
        return status.st_ino

    def _learn(self, status: os.stat_result) -> None:
        file = self._file(status.st_ino)
        mark = (status.st_size, status.st_mtime_ns, status.st_ctime_ns)
        if mark != file.mark and not file.unsent:
            file.content = None
        file.mark = mark
        file.attributes = {name: getattr(status, name) for name in _FIELDS}
        file.attributes.update({name: getattr(status, f"{name}_ns") for name in _TIMES})
        file.uses = self._lifetime()

    def _find(self, path: str) -> int:
        """The inode that has this name, as far as the client knows."""
        inode, uses = self._names.get(path, (None, 0))
        if uses <= 0:
            inode = self._ask(path)
        else:
            self._names[path] = (inode, uses - 1)
        if inode is None:
            raise refusal(errno.ENOENT)
        return inode

    def getattr(self, path: Optional[str], fi: Any = None) -> dict[str, Any]:
        fh = fi.fh if fi else 0
        inode = self._inode_of[fh] if fh else self._find(path or "")
        file = self._file(inode)
        if file.attributes is None or file.uses <= 0:
            if fh:
                self._learn(self._fstat(fh))
            else:
                inode = self._ask(path or "") or 0
                if not inode:
                    raise refusal(errno.ENOENT)
                file = self._file(inode)
        file.uses -= 1
        assert file.attributes is not None
        size = max([file.attributes["st_size"], *(offset + len(data) for _, offset, data in file.unsent)])
        return {**file.attributes, "st_size": size}

    def _fstat(self, fh: int) -> os.stat_result:
        """The attributes of an open file from the server, which may not know it any more."""
        status = os.fstat(fh)
        if not status.st_nlink:
            raise refusal(errno.ESTALE)
        return status

    # -- directories -------------------------------------------------------------------------------------------

    def opendir(self, path: str) -> int:
        fd = os.open(self._at(path), os.O_RDONLY | os.O_DIRECTORY)
        if self._cto:
            below = path.rstrip("/") + "/"
            for name in [name for name in self._names if name.startswith(below)]:
                del self._names[name]
            self._ask(path)
        self._inode_of[fd] = os.fstat(fd).st_ino
        return fd

    def releasedir(self, path: Optional[str], fh: int) -> int:
        del self._inode_of[fh]
        os.close(fh)
        return 0

    def readdir(self, path: Optional[str], fh: int) -> list[tuple[str, dict[str, int], int]]:
        here = {"st_ino": self._inode_of[fh], "st_mode": stat.S_IFDIR}
        found = [(".", here, 0), ("..", here, 0)]
        with os.scandir(fh) as entries:
            for entry in entries:
                mode = stat.S_IFDIR if entry.is_dir(follow_symlinks=False) else stat.S_IFREG
                found.append((entry.name, {"st_ino": entry.inode(), "st_mode": mode}, 0))
        return found

    def fsyncdir(self, path: Optional[str], datasync: int, fh: int) -> int:
        return 0

    def statfs(self, path: str) -> dict[str, int]:
        found = os.statvfs(self._at(path))
        names = ("f_bsize", "f_frsize", "f_blocks", "f_bfree", "f_bavail", "f_files", "f_ffree", "f_favail")
        return {"f_namemax": 255, **{name: getattr(found, name) for name in names}}

    # -- names -------------------------------------------------------------------------------------------------

    def _sent(self, second: int, *paths: str) -> int:
        """An operation on these names was done; its answer may get lost, and then it is sent again."""
        for path in paths:
            self._ask(path)
            self._ask(os.path.dirname(path))
        if self._lose and self._chance.random() < self._lose:
            raise refusal(second)
        return 0

    def mkdir(self, path: str, mode: int) -> int:
        os.mkdir(self._at(path), mode)
        return self._sent(errno.EEXIST, path)

    def mknod(self, path: str, mode: int, dev: int) -> int:
        os.mknod(self._at(path), mode, dev)
        return self._sent(errno.EEXIST, path)

    def symlink(self, target: str, source: str) -> int:
        # mfusepy names the new link "target".
        os.symlink(source, self._at(target))
        return self._sent(errno.EEXIST, target)

    def readlink(self, path: str) -> str:
        return os.readlink(self._at(path))

    def link(self, target: str, source: str) -> int:
        os.link(self._at(source), self._at(target), follow_symlinks=False)
        return self._sent(errno.EEXIST, target, source)

    def unlink(self, path: str) -> int:
        if not self._make_silly(path):
            os.unlink(self._at(path))
        return self._sent(errno.ENOENT, path)

    def rmdir(self, path: str) -> int:
        os.rmdir(self._at(path))
        return self._sent(errno.ENOENT, path)

    def rename(self, old: str, new: str) -> int:
        os.lstat(self._at(old))
        self._make_silly(new)
        os.rename(self._at(old), self._at(new))
        below = old + "/"
        for name in [name for name in self._names if name.startswith(below)]:
            del self._names[name]
        return self._sent(errno.ENOENT, old, new)

    def _make_silly(self, path: str) -> bool:
        """A file that is open here and is to go gets another name until it is closed."""
        try:
            status = os.lstat(self._at(path))
        except FileNotFoundError:
            return False
        file = self._files.get(status.st_ino)
        if file is None or not file.handles or status.st_nlink > 1 or stat.S_ISDIR(status.st_mode):
            return False
        self._silly += 1
        silly = f"{os.path.dirname(path)}/.nfs{os.getpid():08x}{self._silly:08x}"
        os.rename(self._at(path), self._at(silly))
        file.silly = silly
        return True

    def chmod(self, path: str, mode: int) -> int:
        os.chmod(self._at(path), mode)
        self._ask(path)
        return 0

    def chown(self, path: str, uid: int, gid: int) -> int:
        os.chown(self._at(path), uid, gid, follow_symlinks=False)
        self._ask(path)
        return 0

    def utimens(self, path: str, times: Optional[tuple[int, int]] = None) -> int:
        if times is None:
            os.utime(self._at(path), follow_symlinks=False)
        else:
            os.utime(self._at(path), ns=times, follow_symlinks=False)
        self._ask(path)
        return 0

    # -- content -----------------------------------------------------------------------------------------------

    def _opened(self, path: str, fd: int, fresh: bool) -> int:
        inode = os.fstat(fd).st_ino
        if fresh:
            self._ask(path)
        self._inode_of[fd] = inode
        self._file(inode).handles.add(fd)
        return fd

    def create(self, path: str, mode: int, fi: Any) -> int:
        flags = fi.flags & (os.O_ACCMODE | os.O_CREAT | os.O_EXCL | os.O_TRUNC)
        fi.direct_io = 1
        fi.fh = self._opened(path, os.open(self._at(path), _with_read(flags) | os.O_CREAT, mode), fresh=True)
        self._ask(os.path.dirname(path))
        return 0

    def open(self, path: str, fi: Any) -> int:
        flags = fi.flags & (os.O_ACCMODE | os.O_TRUNC | os.O_NOFOLLOW)
        fi.direct_io = not (self._mmap and flags & os.O_ACCMODE == os.O_RDONLY)
        fi.fh = self._opened(path, os.open(self._at(path), _with_read(flags)), self._cto)
        return 0

    def release(self, path: Optional[str], fi: Any) -> int:
        fd = fi.fh
        file = self._file(self._inode_of[fd])
        try:
            self._send(file)
        finally:
            del self._inode_of[fd]
            file.handles.discard(fd)
            os.close(fd)
            if not file.handles and file.silly is not None:
                os.unlink(self._at(file.silly))
                file.silly = None
        return 0

    def read(self, path: Optional[str], size: int, offset: int, fi: Any) -> bytes:
        file = self._file(self._inode_of[fi.fh])
        status = self._fstat(fi.fh)
        if file.content is None:
            self._send(file)
            status = self._fstat(fi.fh)
            file.content = bytearray(os.pread(fi.fh, status.st_size, 0))
            self._learn_after(file, status)
        return bytes(file.content[offset : offset + size])

    def _learn_after(self, file: Remembered, status: os.stat_result) -> None:
        content = file.content
        self._learn(status)
        file.content = content

    def write(self, path: Optional[str], data: bytes, offset: int, fi: Any) -> int:
        file = self._file(self._inode_of[fi.fh])
        self._fstat(fi.fh)
        file.unsent.append((fi.fh, offset, bytes(data)))
        if file.content is not None:
            end = offset + len(data)
            if len(file.content) < offset:
                file.content.extend(bytes(offset - len(file.content)))
            file.content[offset:end] = data
        return len(data)

    def _send(self, file: Remembered) -> None:
        """Send what was written to the server."""
        unsent, file.unsent = file.unsent, []
        fd = -1
        for fd, offset, data in unsent:
            self._fstat(fd)
            os.pwrite(fd, data, offset)
        if unsent:
            self._learn_after(file, os.fstat(fd))

    def truncate(self, path: str, length: int, fh: Any = None) -> int:
        inode = self._find(path) if fh is None else self._inode_of[fh.fh]
        file = self._file(inode)
        self._send(file)
        if fh is None:
            os.truncate(self._at(path), length)
            self._ask(path)
        else:
            os.ftruncate(fh.fh, length)
            self._learn(self._fstat(fh.fh))
        file.content = None
        return 0

    def flush(self, path: Optional[str], fi: Any) -> int:
        self._send(self._file(self._inode_of[fi.fh]))
        return 0

    def fsync(self, path: Optional[str], datasync: int, fi: Any) -> int:
        self._send(self._file(self._inode_of[fi.fh]))
        self._fstat(fi.fh)
        return 0

    # -- locks -------------------------------------------------------------------------------------------------

    def _locking(self, fh: int, gives_up: bool, lock: Callable[[], Any]) -> int:
        file = self._file(self._inode_of[fh])
        if gives_up:
            self._send(file)
        if self._locks:
            lock()
        if not gives_up:
            self._learn(self._fstat(fh))
        return 0

    def flock(self, path: str, fi: Any, op: int) -> int:
        # With one operation at a time nobody can be waited for.
        return self._locking(fi.fh, bool(op & fcntl.LOCK_UN), lambda: fcntl.flock(fi.fh, op | fcntl.LOCK_NB))

    def lock(self, path: Optional[str], fi: Any, cmd: int, lock: Any) -> int:
        asked = lock.contents
        inode = self._inode_of[fi.fh]
        owner = self._owner(inode, fi)
        packed = struct.pack(_FLOCK, asked.l_type, asked.l_whence, asked.l_start, asked.l_len, 0)
        if cmd == fcntl.F_GETLK:
            if self._locks:
                found = struct.unpack(_FLOCK, fcntl.fcntl(owner, _F_OFD_GETLK, packed))
                asked.l_type, asked.l_whence, asked.l_start, asked.l_len, asked.l_pid = found
            else:
                asked.l_type = fcntl.F_UNLCK
            return 0
        gives_up = asked.l_type == fcntl.F_UNLCK
        self._locking(fi.fh, gives_up, lambda: fcntl.fcntl(owner, _F_OFD_SETLK, packed))
        if gives_up and not asked.l_start and not asked.l_len:
            os.close(self._owners.pop((inode, fi.lock_owner)))
        return 0

    def _owner(self, inode: int, fi: Any) -> int:
        """Locks of one process are kept apart from those of another that has inherited its open file."""
        key = (inode, fi.lock_owner)
        if key not in self._owners:
            self._owners[key] = os.open(f"/proc/self/fd/{fi.fh}", os.O_RDWR)
        return self._owners[key]


def _with_read(flags: int) -> int:
    """What to open a file of the store with: the client reads what it needs, and finds the end of a file by itself."""
    writes = flags & os.O_ACCMODE != os.O_RDONLY
    return (flags & ~os.O_ACCMODE) | (os.O_RDWR if writes else os.O_RDONLY)


def say(word: str) -> None:
    """Tell whoever started this."""
    sys.stdout.write(word + "\n")
    sys.stdout.flush()


def main() -> None:
    """Serve until it is unmounted or killed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("mountpoint")
    parser.add_argument("--store", required=True)
    parser.add_argument("--uses", type=int, default=0)
    parser.add_argument("--lose", type=float, default=0.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--locks", choices=("shared", "none"), default="shared")
    parser.add_argument("--nocto", action="store_true")
    parser.add_argument("--mmap", action="store_true")
    options = parser.parse_args()
    served = NfsClient(
        os.path.abspath(options.store), options.uses, options.lose, options.seed, options.locks == "shared",
        not options.nocto, options.mmap,
    )  # fmt: skip
    # Nothing is kept in the kernel: what is remembered, and for how long, is decided here.
    mfusepy.FUSE(
        served, options.mountpoint, foreground=True, nothreads=True, raw_fi=True, fsname="server:/store",
        subtype="nfsdouble", use_ino=True, hard_remove=True, entry_timeout=0, attr_timeout=0, negative_timeout=0,
    )  # fmt: skip


if __name__ == "__main__":
    main()
