"""What commands ask of a running master: files, so that it works from any host and survives the death of either.

A command writes its request under another name and renames it into ``requests/``; the master takes it, acts, and
removes it. What lies there when a master starts was meant for an earlier one and is discarded.
"""

from __future__ import annotations

import json
import os
from typing import NamedTuple

from jobtree import files
from jobtree.paths import TreePaths


class Request(NamedTuple):
    """What is asked ("kill"), and by whom, for the log."""

    kind: str
    by: str


class Requests:
    """The master's side."""

    def __init__(self, paths: TreePaths) -> None:
        self._directory = paths.requests
        self._seen: tuple[int, int] = (0, 0)

    def take(self) -> list[Request]:
        """The requests that have come since the last call, removed."""
        try:
            status = os.stat(self._directory)
        except FileNotFoundError:
            return []
        mark = (status.st_mtime_ns, status.st_ctime_ns)
        if mark == self._seen:
            return []
        self._seen = mark
        found = []
        for name in sorted(os.listdir(self._directory)):
            if not name.endswith(".json"):
                continue
            path = os.path.join(self._directory, name)
            try:
                body = json.loads(files.read(path) or b"")
                found.append(Request(str(body["kind"]), str(body["by"])))
            except (ValueError, KeyError, TypeError):
                pass  # not written by us; it is removed like the others
            files.remove(path)
        return found

    def discard(self) -> None:
        """Remove requests that were meant for an earlier master."""
        try:
            names = os.listdir(self._directory)
        except FileNotFoundError:
            return
        for name in names:
            files.remove(os.path.join(self._directory, name))


def send(paths: TreePaths, request: Request) -> None:
    """Ask the running master for something. Raises StorageError."""
    path = os.path.join(paths.requests, f"{request.kind}-{os.getpid()}-{os.urandom(4).hex()}.json")
    files.replace_durably(path, json.dumps(request._asdict()).encode())
