"""What a tree takes of the disk, in one line and for programs: a part of what ``jobTreeStatus`` shows."""

from __future__ import annotations

import os
import socket

from jobtree import clock, disk_usage
from jobtree.disk_usage import Usage
from jobtree.job_views import View
from jobtree.paths import TreePaths
from jobtree.quantities import format_duration, format_memory
from jobtree.shown import one_line

_FRESH_SECONDS = 2.0


def look(paths: TreePaths, run: str) -> View:
    """What is known of it without looking at every file of a large tree."""
    usage = disk_usage.look(paths, run)
    try:
        there = os.statvfs(paths.root)
    except OSError:
        return View([_line(usage, "")], _value(usage, None, None))
    free, inodes = there.f_bavail * there.f_frsize, there.f_favail if there.f_files else None
    return View([_line(usage, f"; {format_memory(free)} are free there")], _value(usage, free, inodes))


def _line(usage: Usage, free: str) -> str:
    least = "" if usage.whole else "at least "
    line = f"On disk: {least}{format_memory(usage.bytes)} in {usage.files} files"
    if usage.global_dirs:
        line += f", {format_memory(usage.global_dirs)} of it in global temporary directories"
    line += free
    if usage.local_dirs:
        where = "this machine" if usage.host == socket.gethostname() else one_line(usage.host)
        line += f"; local temporary directories on {where}: {format_memory(usage.local_dirs)}"
    age = clock.wall() - usage.moment
    return line + (f" (measured {format_duration(age)} ago)" if age >= _FRESH_SECONDS else "")


def _value(usage: Usage, free: int | None, inodes: int | None) -> dict[str, object]:
    return {
        "bytes": usage.bytes,
        "files": usage.files,
        "globalTempDirs": usage.global_dirs,
        "localTempDirs": usage.local_dirs,
        "host": usage.host,
        "measured": usage.moment,
        "whole": usage.whole,
        "free": free,
        "freeFiles": inodes,
    }
