"""Removes files and directories beside the master's loop: a chain's directory may hold a million files.

What is to go was noted in the store before it comes here, and is struck there after it has gone; a crash in between
means that it is removed again, which is nothing. What cannot be removed is told, and stays noted: that is no reason to
stop a run, and the next start tries again.
"""

from __future__ import annotations

import logging
import os
import queue
import threading
from collections.abc import Iterable
from typing import Callable, Optional

from jobtree import files, tempdirs
from jobtree.errors import StorageError
from jobtree.paths import TreePaths

log: logging.Logger = logging.getLogger("jobtree")


class Remover:
    """One thread, started when there is something to remove. wake: called when something has gone."""

    def __init__(self, paths: TreePaths, wake: Callable[[], None]) -> None:
        self._paths = paths
        self._wake = wake
        self._queue: queue.SimpleQueue[Optional[tuple[int, str]]] = queue.SimpleQueue()
        self._done: queue.SimpleQueue[int] = queue.SimpleQueue()
        self._thread: Optional[threading.Thread] = None

    def add(self, removals: Iterable[tuple[int, str]]) -> None:
        """Have these removed: (row of the store, path relative to the tree)."""
        for removal in removals:
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name="jobtree-remover", daemon=True)
                self._thread.start()
            self._queue.put(removal)

    def take_done(self) -> list[int]:
        """The rows of what has gone since the last call."""
        rows = []
        while not self._done.empty():
            rows.append(self._done.get())
        return rows

    def close(self) -> None:
        """Wait until everything has gone."""
        if self._thread is not None:
            self._queue.put(None)
            self._thread.join()
            self._thread = None

    def _work(self) -> None:
        while True:
            removal = self._queue.get()
            if removal is None:
                return
            row, relative = removal
            left = self._remove(self._paths.absolute(relative))
            if left:
                log.warning("left over, until the next start tries again to remove it: %s", left)
            else:
                self._done.put(row)

    def _remove(self, path: str) -> Optional[str]:
        try:
            if path.startswith(self._paths.global_dirs + os.sep):
                return tempdirs.remove_global(path, self._paths.global_dirs)
            files.remove(path)
            return None
        except (OSError, StorageError) as error:
            return str(error)
