"""On what a figure was measured: without that it says nothing."""

from __future__ import annotations

import os
import platform
import sqlite3
import subprocess
import time
from pathlib import Path

from jobtree import files
from jobtree.version import VERSION

CHECKOUT = Path(__file__).resolve().parents[1]


def describe(directory: str, slots: int) -> dict[str, str]:
    """The machine, the versions, the file system that the runs use, and what else was going on."""
    return {
        "date": time.strftime("%Y-%m-%d %H:%M %Z"),
        "processor": f"{_processor()}, {os.cpu_count()} cores, of which {slots} are used",
        "memory": f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30:.0f} GiB",
        "system": f"{platform.system()} {platform.release()}",
        "file system": files.filesystem_type(directory) or "unknown",
        "Python": f"{platform.python_implementation()} {platform.python_version()}",
        "SQLite": sqlite3.sqlite_version,
        "jobtree": f"{VERSION}{_commit()}",
        "load before": f"{os.getloadavg()[0]:.2f}",
    }


def warnings(directory: str) -> list[str]:
    """What makes figures worthless, or at least doubtful."""
    found = []
    kind = files.filesystem_type(directory)
    if kind in ("tmpfs", "ramfs"):
        found.append(
            f"{directory} is in memory ({kind}), where a sync costs nothing: give --directory on a disk"
        )
    if os.getloadavg()[0] > 0.5:
        found.append("other programs are running on this machine: the figures are worse than they should be")
    return found


def environment() -> dict[str, str]:
    """The variables of what is measured: this checkout's modules, and Python keeping what it has compiled, as it does
    unless a user forbids it."""
    variables = {**os.environ, "PYTHONPATH": str(CHECKOUT)}
    variables.pop("PYTHONDONTWRITEBYTECODE", None)
    return variables


def use_cores(number: int) -> int:
    """Keep this process, and all that it starts, to so many cores; how many it got."""
    if not hasattr(os, "sched_setaffinity"):
        return min(number, os.cpu_count() or 1)
    cores = sorted(os.sched_getaffinity(0))[:number]
    os.sched_setaffinity(0, cores)
    return len(cores)


def _processor() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            for line in file:
                name, _, value = line.partition(":")
                if name.strip() in ("model name", "Model"):
                    return " ".join(value.split())
    except OSError:
        pass
    return platform.processor() or platform.machine()


def _commit() -> str:
    command = ["git", "-C", str(CHECKOUT), "describe", "--always", "--dirty"]
    try:
        answer = subprocess.run(command, capture_output=True, text=True)
    except OSError:
        return ""
    return f" ({answer.stdout.strip()})" if answer.returncode == 0 else ""
