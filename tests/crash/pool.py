"""Runs functions, each in a process of its own that is forked from a small one, a few at a time.

A world changes the process that it lives in for good, and what it forks inherits all of its memory; so neither the
process that holds all images nor one that has lived before will do.
"""

from __future__ import annotations

import multiprocessing.connection
import os
import signal
import traceback
from collections.abc import Iterable, Iterator
from multiprocessing.connection import Connection
from typing import Any, Callable, Optional

from jobtree import processtree

LONGEST = 300
"""Seconds after which a task is taken for one that does not end; it needs a few."""


class Failed(Exception):
    """A task raised something, or its process died; in words."""


class Pool:
    """So many servers, made at once; use it while this process is still small."""

    def __init__(self, size: int) -> None:
        self._servers: list[Connection] = []
        self._pids: list[int] = []
        for _ in range(size):
            ours, theirs = multiprocessing.connection.Pipe()
            parent = os.getpid()
            pid = os.fork()
            if pid == 0:
                processtree.die_with_parent(parent)
                ours.close()
                _serve(theirs)
                os._exit(0)
            theirs.close()
            self._servers.append(ours)
            self._pids.append(pid)

    def close(self) -> None:
        """End the servers."""
        for server, pid in zip(self._servers, self._pids):
            server.close()
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)

    def run(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Run one. Raises Failed."""
        ((_, result),) = self.run_all([(None, function, arguments)])
        if isinstance(result, Failed):
            raise result
        return result

    def run_all(
        self, tasks: Iterable[tuple[Any, Callable[..., Any], tuple[Any, ...]]]
    ) -> Iterator[tuple[Any, Any]]:
        """Run (key, function, arguments); yields (key, what it returned or Failed) as they end. Tasks are taken from
        the iterator only when there is a server for them."""
        source = iter(tasks)
        idle = list(self._servers)
        busy: dict[Connection, Any] = {}
        while True:
            while idle:
                task = next(source, None)
                if task is None:
                    break
                key, function, arguments = task
                server = idle.pop()
                server.send((function, arguments))
                busy[server] = key
            if not busy:
                return
            for ready in multiprocessing.connection.wait(list(busy)):
                assert isinstance(ready, Connection)
                yield busy.pop(ready), ready.recv()
                idle.append(ready)


def _serve(connection: Connection) -> None:
    while True:
        try:
            function, arguments = connection.recv()
        except EOFError:
            return
        parent = os.getpid()
        pid = os.fork()
        if pid == 0:
            processtree.die_with_parent(parent)
            signal.alarm(LONGEST)
            connection.send(_outcome(function, arguments))
            os._exit(0)
        _, status = os.waitpid(pid, 0)
        if status:
            how = "does not end" if status == signal.SIGALRM else f"died with wait status {status}"
            connection.send(Failed(how))


def _outcome(function: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
    try:
        return function(*arguments)
    except BaseException as error:  # whatever it is, it is told
        return Failed(f"{type(error).__name__}: {error}\n{traceback.format_exc()}")


def default_size() -> int:
    """As many as there are cores for us."""
    available: Optional[Callable[[int], set[int]]] = getattr(os, "sched_getaffinity", None)
    return len(available(0)) if available is not None else os.cpu_count() or 1
