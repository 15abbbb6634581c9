"""How many cores and how much memory this process may use.

A machine has more than a process may use of it: the process may be tied to some cores (`taskset`, a scheduler),
and a container or a systemd unit has limits that only its control group knows. A group is limited by each of its
ancestors, so all of them are looked at. Inside a container the path in /proc/self/cgroup can be one that only the
host has; walking up then ends at the mount's root, where the container's own limits are.
"""

from __future__ import annotations

import glob
import os
from collections.abc import Iterator, Mapping
from typing import Callable, Optional

VISIBLE_GPUS = "CUDA_VISIBLE_DEVICES"
"""The variable that tells a process which graphics cards it may see, by number or name with commas between."""

CGROUP_FILE = "/proc/self/cgroup"
CGROUP_MOUNT = "/sys/fs/cgroup"


def usable_cores(cgroup_file: str = CGROUP_FILE, cgroup_mount: str = CGROUP_MOUNT) -> float:
    """Cores that this process may keep busy: the lower of its affinity and its groups' quota, but at least 1.

    A quota of half a core is common for small containers; there one ordinary job at a time must still be able to run.
    """
    quota = cgroup_cores(cgroup_file, cgroup_mount)
    cores = float(affinity_cores())
    return max(1.0, cores if quota is None else min(cores, quota))


def usable_memory(cgroup_file: str = CGROUP_FILE, cgroup_mount: str = CGROUP_MOUNT) -> int:
    """Bytes of memory that this process may use: the lower of the machine's and its groups' limit."""
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    limit = cgroup_memory(cgroup_file, cgroup_mount)
    return total if limit is None else min(total, limit)


def usable_gpus(
    variables: Mapping[str, str] = os.environ, devices: str = "/dev/nvidia[0-9]*"
) -> tuple[str, ...]:
    """The graphics cards that this process may use: those that CUDA_VISIBLE_DEVICES names, else all of NVIDIA's.

    They are named as that variable names them. What cannot be found out so is for the user to say.
    """
    named = variables.get(VISIBLE_GPUS)
    if named is None:
        return tuple(str(number) for number in range(len(glob.glob(devices))))
    names = []
    for name in named.split(","):
        if not name.strip() or name.strip() == "-1":  # nothing after it is seen
            break
        names.append(name.strip())
    return tuple(names)


def affinity_cores() -> int:
    """Cores on which this process may be scheduled, at least 1; all of them where there is no affinity (macOS)."""
    if hasattr(os, "sched_getaffinity"):
        return max(1, len(os.sched_getaffinity(0)))
    return max(1, os.cpu_count() or 1)


def cgroup_cores(cgroup_file: str = CGROUP_FILE, cgroup_mount: str = CGROUP_MOUNT) -> Optional[float]:
    """The lowest CPU quota of this process's control group and its ancestors, in cores; None: no quota."""
    return _lowest(cgroup_file, cgroup_mount, "cpu", _cores_v1, _cores_v2)


def cgroup_memory(cgroup_file: str = CGROUP_FILE, cgroup_mount: str = CGROUP_MOUNT) -> Optional[int]:
    """The lowest memory limit of this process's control group and its ancestors, in bytes; None: no limit.

    Version 1 writes "no limit" as a number of about 2**63, which is returned as it is.
    """
    lowest = _lowest(cgroup_file, cgroup_mount, "memory", _memory_v1, _memory_v2)
    return None if lowest is None else int(lowest)


_Reader = Callable[[str], Optional[float]]


def _lowest(cgroup_file: str, mount: str, controller: str, v1: _Reader, v2: _Reader) -> Optional[float]:
    """The lowest limit that a controller sets, in either version: a machine can have both at once."""
    limits = []
    for controllers, path in _groups(cgroup_file).items():
        if controllers == "":
            roots = [(os.path.join(mount, "unified"), v2), (mount, v2)]
        elif controller in controllers.split(","):
            roots = [(os.path.join(mount, controllers), v1), (os.path.join(mount, controller), v1)]
        else:
            continue
        for root, read in roots:
            limits += [limit for limit in map(read, _upwards(root, path)) if limit is not None and limit > 0]
    return min(limits, default=None)


def _groups(cgroup_file: str) -> dict[str, str]:
    """Controllers (comma-separated; empty for version 2) -> path, from lines `number:controllers:path`."""
    try:
        with open(cgroup_file, encoding="utf-8", errors="surrogateescape") as file:
            lines = [line.rstrip("\n").split(":", 2) for line in file]
    except OSError:  # no control groups: not Linux, or hidden by a sandbox
        return {}
    return {fields[1]: fields[2] for fields in lines if len(fields) == 3}


def _upwards(root: str, path: str) -> Iterator[str]:
    """The folder of a group and those of all its ancestors; `..` parts lead out of a container, and are dropped."""
    parts = [part for part in path.split("/") if part not in ("", ".", "..")]
    for depth in range(len(parts), -1, -1):
        yield os.path.join(root, *parts[:depth])


def _cores_v2(folder: str) -> Optional[float]:
    fields = (_read(folder, "cpu.max") or "").split()
    if len(fields) != 2:
        return None
    quota, period = _number(fields[0]), _number(fields[1])
    return quota / period if quota and period else None


def _cores_v1(folder: str) -> Optional[float]:
    quota = _number(_read(folder, "cpu.cfs_quota_us"))  # -1: none
    period = _number(_read(folder, "cpu.cfs_period_us"))
    return quota / period if quota and period else None


def _memory_v2(folder: str) -> Optional[float]:
    return _number(_read(folder, "memory.max"))


def _memory_v1(folder: str) -> Optional[float]:
    return _number(_read(folder, "memory.limit_in_bytes"))


def _read(folder: str, name: str) -> Optional[str]:
    try:
        with open(os.path.join(folder, name), encoding="ascii", errors="replace") as file:
            return file.read().strip()
    except OSError:  # a root group has no such file; a controller need not be switched on
        return None


def _number(text: Optional[str]) -> Optional[int]:
    """The number in `text`; None for "max", which is no limit, and for what is not there."""
    try:
        return int(text) if text else None
    except ValueError:
        return None
