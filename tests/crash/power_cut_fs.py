"""A FUSE file system that loses power. What it may lose is in ``power_cut_disk.py``.

    python tests/crash/power_cut_fs.py --image FILE [--cut-at N] [--seed S] [--lose-all] [--lies] MOUNTPOINT

It mounts the disk that is in the image (an empty one if there is no such file) and says "ready". At the N-th operation
that changes anything or syncs, the power goes: what survives is written into the image, "cut" is said, and nobody is
answered any more, so that whoever kills all processes and then this one has stopped all of them at one instant. If it
is unmounted before that, the image is the disk as it is.

Needs root, /dev/fuse, libfuse 3 and mfusepy. Shared memory works on it (mmap); locks are the kernel's.
"""

from __future__ import annotations

import argparse
import errno
import os
import pickle
import random
import signal
import stat
import sys
import time
from typing import Any, Optional

import mfusepy

CHECKOUT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
if CHECKOUT not in sys.path:
    sys.path.insert(0, CHECKOUT)

from tests.crash.power_cut_disk import SECTOR, Disk, Inode, error  # noqa: E402


class PowerCutFS(mfusepy.Operations):  # type: ignore[misc]
    """Serves a disk, one operation after the other, until the power goes."""

    use_ns = True

    def __init__(self, disk: Disk, image: str, cut_at: Optional[int], chance: random.Random, lose_all: bool):
        self.disk = disk
        self._image = image
        self._cut_at = cut_at
        self._chance = chance
        self._lose_all = lose_all
        self._operations = 0
        self._open: dict[int, Inode] = {}
        self._next_handle = 1

    # -- the power ---------------------------------------------------------------------------------------------

    def _count(self) -> None:
        """An operation that changes something, or syncs, has been done and is not answered yet."""
        self._operations += 1
        if self._operations == self._cut_at:
            self._cut()

    def _count_sync(self) -> None:
        """The same before a sync: the power may go before it is done."""
        if self._operations + 1 == self._cut_at and self._chance.random() < 0.5:
            self._cut()

    def _cut(self) -> None:
        self.disk.cut(None if self._lose_all else self._chance)
        self.save()
        say("cut")
        while True:
            signal.pause()

    def save(self) -> None:
        """Write the image."""
        with open(self._image, "wb") as file:
            pickle.dump(self.disk, file)

    # -- what there is -----------------------------------------------------------------------------------------

    def init(self, path: str) -> int:
        say("ready")
        return 0

    def _inode(self, path: Optional[str], handle: Optional[int]) -> Inode:
        if handle:
            return self._open[handle]
        if path is None:
            raise error(errno.ENOENT)
        return self.disk.find(path)

    def getattr(self, path: Optional[str], fh: Optional[int] = None) -> dict[str, Any]:
        inode = self._inode(path, fh)
        size = len(inode.target) if stat.S_ISLNK(inode.mode) else len(inode.data)
        return {
            "st_ino": inode.number,
            "st_mode": inode.mode,
            "st_nlink": 2 if inode.is_directory else inode.links,
            "st_uid": inode.uid,
            "st_gid": inode.gid,
            "st_size": size,
            "st_blocks": -(-size // SECTOR),
            "st_atime": int(inode.times[0] * 1e9),
            "st_mtime": int(inode.times[1] * 1e9),
            "st_ctime": int(inode.times[2] * 1e9),
        }

    def opendir(self, path: str) -> int:
        return self._handle(self.disk.find(path))

    def releasedir(self, path: Optional[str], fh: int) -> int:
        return self.release(path, fh)

    def readdir(self, path: Optional[str], fh: int) -> list[tuple[str, dict[str, int], int]]:
        here = self._open[fh]
        names = {".": here.number, "..": here.number, **here.entries}
        return [(name, {"st_ino": n, "st_mode": self.disk.inodes[n].mode}, 0) for name, n in names.items()]

    def readlink(self, path: str) -> str:
        return self.disk.find(path).target

    def statfs(self, path: str) -> dict[str, int]:
        return {"f_bsize": 4096, "f_frsize": 4096, "f_blocks": 1 << 20, "f_bfree": 1 << 19, "f_bavail": 1 << 19,
                "f_files": 1 << 20, "f_ffree": 1 << 19, "f_favail": 1 << 19, "f_namemax": 255}  # fmt: skip

    # -- names -------------------------------------------------------------------------------------------------

    def mkdir(self, path: str, mode: int) -> int:
        self.disk.make(path, stat.S_IFDIR | stat.S_IMODE(mode), time.time())
        self._count()
        return 0

    def mknod(self, path: str, mode: int, dev: int) -> int:
        if not stat.S_ISREG(mode):
            raise error(errno.EPERM)
        self.disk.make(path, mode, time.time())
        self._count()
        return 0

    def symlink(self, target: str, source: str) -> int:
        # mfusepy names the new link "target".
        self.disk.make(target, stat.S_IFLNK | 0o777, time.time()).target = source
        self._count()
        return 0

    def link(self, target: str, source: str) -> int:
        self.disk.link(source, target, time.time())
        self._count()
        return 0

    def unlink(self, path: str) -> int:
        self.disk.remove(path, time.time())
        self._count()
        return 0

    def rmdir(self, path: str) -> int:
        self.disk.remove(path, time.time())
        self._count()
        return 0

    def rename(self, old: str, new: str) -> int:
        self.disk.rename(old, new, time.time())
        self._count()
        return 0

    def chmod(self, path: str, mode: int) -> int:
        inode = self.disk.find(path)
        inode.mode = stat.S_IFMT(inode.mode) | stat.S_IMODE(mode)
        return 0

    def chown(self, path: str, uid: int, gid: int) -> int:
        inode = self.disk.find(path)
        inode.uid = inode.uid if uid == -1 else uid
        inode.gid = inode.gid if gid == -1 else gid
        return 0

    def utimens(self, path: str, times: Optional[tuple[int, int]] = None) -> int:
        inode = self.disk.find(path)
        moments = [time.time()] * 2 if times is None else [ns / 1e9 for ns in times]
        inode.times[:2] = moments
        return 0

    # -- content -----------------------------------------------------------------------------------------------

    def _handle(self, inode: Inode) -> int:
        handle = self._next_handle
        self._next_handle += 1
        self._open[handle] = inode
        return handle

    def create(self, path: str, mode: int, fi: Any = None) -> int:
        handle = self._handle(self.disk.make(path, stat.S_IFREG | stat.S_IMODE(mode), time.time()))
        self._count()
        return handle

    def open(self, path: str, flags: int) -> int:
        return self._handle(self.disk.find(path))

    def release(self, path: Optional[str], fh: int) -> int:
        del self._open[fh]
        return 0

    def read(self, path: Optional[str], size: int, offset: int, fh: int) -> bytes:
        return bytes(self._open[fh].data[offset : offset + size])

    def write(self, path: Optional[str], data: bytes, offset: int, fh: int) -> int:
        inode = self._open[fh]
        self.disk.write(inode, offset, data)
        inode.times[1] = inode.times[2] = time.time()
        self._count()
        return len(data)

    def truncate(self, path: Optional[str], length: int, fh: Optional[int] = None) -> int:
        inode = self._inode(path, fh)
        self.disk.truncate(inode, length)
        inode.times[1] = inode.times[2] = time.time()
        self._count()
        return 0

    # -- syncs -------------------------------------------------------------------------------------------------

    def flush(self, path: Optional[str], fh: int) -> int:
        return 0

    def fsync(self, path: Optional[str], datasync: int, fh: int) -> int:
        self._count_sync()
        self.disk.sync_file(self._open[fh])
        self._count()
        return 0

    def fsyncdir(self, path: Optional[str], datasync: int, fh: int) -> int:
        self._count_sync()
        self.disk.sync_directory(self._open[fh])
        self._count()
        return 0


def say(word: str) -> None:
    """Tell whoever started this."""
    sys.stdout.write(word + "\n")
    sys.stdout.flush()


def load(image: str) -> Disk:
    """The disk in an image; an empty one if there is none."""
    try:
        with open(image, "rb") as file:
            disk = pickle.load(file)
    except FileNotFoundError:
        return Disk()
    assert isinstance(disk, Disk)
    return disk


def main() -> None:
    """Serve until it is unmounted or killed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("mountpoint")
    parser.add_argument("--image", required=True)
    parser.add_argument("--cut-at", type=int)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--lose-all", action="store_true", help="all that is pending is lost, not a subset of it"
    )
    parser.add_argument("--lies", action="store_true", help="syncs answer and do nothing")
    options = parser.parse_args()
    disk = load(options.image)
    disk.lies = options.lies
    served = PowerCutFS(disk, options.image, options.cut_at, random.Random(options.seed), options.lose_all)
    # The kernel asks about a name each time; contents stay in its cache while a file is open, or mmap would not work.
    mfusepy.FUSE(
        served, options.mountpoint, foreground=True, nothreads=True, fsname="powercut", subtype="powercut",
        use_ino=True, hard_remove=True, entry_timeout=1, attr_timeout=1, default_permissions=True,
    )  # fmt: skip
    served.save()


if __name__ == "__main__":
    main()
