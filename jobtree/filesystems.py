"""What file system a path is on, and what can be relied on there."""

from __future__ import annotations

import os
import re
import sys

LOCAL = frozenset(
    ["ext2", "ext3", "ext4", "xfs", "btrfs", "zfs", "f2fs", "jfs", "reiserfs", "nilfs2", "bcachefs", "ubifs",
     "tmpfs", "ramfs", "overlay", "aufs", "vfat", "exfat", "ntfs3", "apfs", "hfs", "hfsplus", "ufs"]
)  # fmt: skip
"""File systems that only this machine sees, with locks and shared memory that work. Any other may be on a network."""

SYNCFS_FLUSHES = frozenset(
    ["ext2", "ext3", "ext4", "xfs", "btrfs", "f2fs", "jfs", "reiserfs", "zfs", "bcachefs", "tmpfs", "ramfs",
     "overlay", "nfs", "nfs4", "lustre", "gpfs"]
)  # fmt: skip
"""File systems on which syncfs(2) is known to flush file data. FUSE is not: it does not hand syncfs on."""

_types: dict[int, str] = {}


def filesystem_type(path: str) -> str:
    """The type of the file system that a path is on ("ext4", "nfs4", "fuse.sshfs" ...); "" if it cannot be told."""
    try:
        device = os.stat(path).st_dev
        if device not in _types:
            _types[device] = _type_of(device, os.path.realpath(path))
        return _types[device]
    except OSError:
        return ""


def mount_options(path: str) -> frozenset[str]:
    """The options with which the file system that a path is on is mounted; nothing where that cannot be told."""
    try:
        number = os.stat(path).st_dev
        wanted = f"{os.major(number)}:{os.minor(number)}"
        found: set[str] = set()
        with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as mounts:
            for line in mounts:
                left, _, right = line.partition(" - ")
                if left.split(" ")[2] == wanted:
                    found.update(left.split(" ")[5].split(","), right.split()[-1].split(","))
        return frozenset(found)
    except (OSError, IndexError):
        return frozenset()


def _type_of(device: int, path: str) -> str:
    """By the number of the device; by the mount point where files have another number than that (btrfs subvolumes)."""
    if not sys.platform.startswith("linux"):
        return _type_by_mount_point(path)
    number = f"{os.major(device)}:{os.minor(device)}"
    nearest, found = "", ""
    try:
        with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as mounts:
            for line in mounts:
                left, _, right = line.partition(" - ")
                fields, kind = left.split(" "), right.split()[0]
                if fields[2] == number:
                    return kind
                point = re.sub(r"\\([0-7]{3})", lambda code: chr(int(code[1], 8)), fields[4])
                if len(point) >= len(nearest) and (path + "/").startswith(point.rstrip("/") + "/"):
                    nearest, found = point, kind
    except (FileNotFoundError, IndexError):
        pass
    return found


def _type_by_mount_point(path: str) -> str:
    """The type where there is no mountinfo, as on macOS: that of the nearest mount point above."""
    import psutil  # only there; importing it takes 15 ms

    nearest, found = "", ""
    for part in psutil.disk_partitions(all=True):
        point = part.mountpoint
        if len(point) >= len(nearest) and (path + "/").startswith(point.rstrip("/") + "/"):
            nearest, found = point, part.fstype
    return found


def is_network(path: str) -> bool:
    """Whether other machines may see what is at a path: so it is unless its file system is known to be local.

    What suits a network file system also works on a local one, only slower; the reverse loses data.
    """
    return filesystem_type(path) not in LOCAL
