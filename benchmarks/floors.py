"""What the machine itself takes for the things that every run is made of: the floor below which no figure can be.

Each function returns seconds for one operation, the median of many.
"""

from __future__ import annotations

import multiprocessing
import os
import pickle
import resource
import sqlite3
import statistics
import time
from collections.abc import Callable

from jobtree import Target, isolation


class Small(Target):
    """A target as small as they come."""

    def __init__(self, number: int) -> None:
        Target.__init__(self)
        self.number = number


def _median(operation: Callable[[], object], times: int, at_once: int = 1) -> float:
    """Seconds of one operation; at_once: how many are timed together, where one is too short to be."""
    found = []
    for _ in range(times):
        began = time.perf_counter()
        for _ in range(at_once):
            operation()
        found.append((time.perf_counter() - began) / at_once)
    return statistics.median(found)


def fork(times: int) -> float:
    """A fork of this process whose child exits at once, and waiting for it."""

    def operation() -> None:
        pid = os.fork()
        if not pid:
            os._exit(0)
        os.waitpid(pid, 0)

    return _median(operation, times)


def sync_of_append(directory: str, size: int, times: int) -> float:
    """Appending so many bytes to a file and fdatasync."""
    path = os.path.join(directory, "floor")
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    data = b"x" * size

    def operation() -> None:
        os.write(fd, data)
        os.fdatasync(fd)

    try:
        return _median(operation, times)
    finally:
        os.close(fd)
        os.unlink(path)


def write(directory: str, size: int, times: int) -> float:
    """Appending so many bytes to a file, without sync."""
    path = os.path.join(directory, "floor")
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    data = b"x" * size
    try:
        return _median(lambda: os.write(fd, data), times, 100)
    finally:
        os.close(fd)
        os.unlink(path)


def small_file(directory: str, times: int) -> float:
    """Making a file with a few bytes in it and removing it again, without sync."""
    path = os.path.join(directory, "floor")

    def operation() -> None:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        os.write(fd, b"x")
        os.close(fd)
        os.unlink(path)

    return _median(operation, times)


def dumps(times: int) -> float:
    """Pickling a small target."""
    target = Small(7)
    return _median(lambda: pickle.dumps(target, 5), times, 100)


def loads(times: int) -> float:
    """Unpickling a small target."""
    data = pickle.dumps(Small(7), 5)
    return _median(lambda: pickle.loads(data), times, 100)


def questions(times: int) -> float:
    """Asking the system, by the cheapest calls that Python has, for what a worker puts back after each target."""
    mask = os.umask(0o077)

    def operation() -> None:
        try:
            os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            pass
        for fd in (0, 1, 2):
            os.fstat(fd)
        os.getcwd()
        os.umask(mask)
        for timer in isolation._TIMERS:
            isolation._setitimer(timer, 0)
        isolation._sigmask(isolation._BLOCK, ())
        isolation._cores()
        for limit in isolation._LIMITS:
            resource.getrlimit(limit)
        resource.getrusage(resource.RUSAGE_CHILDREN)

    try:
        return _median(operation, times, 100)
    finally:
        os.umask(mask)


def _nothing(number: int) -> int:
    return number


def pool(number: int) -> float:
    """One task of a fan-out through bare multiprocessing with two processes: nothing kept, nothing put back."""
    with multiprocessing.get_context("fork").Pool(2) as processes:
        processes.map(_nothing, range(2))
        began = time.perf_counter()
        total = sum(processes.imap_unordered(_nothing, range(number)))
        seconds = time.perf_counter() - began
        processes.close()
        processes.join()
    assert total == number * (number - 1) // 2
    return seconds / number


def _database(directory: str) -> sqlite3.Connection:
    connection = sqlite3.connect(os.path.join(directory, "floor.sqlite"), isolation_level=None)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute(
        "CREATE TABLE IF NOT EXISTS jobs (id INTEGER PRIMARY KEY, state INTEGER, payload BLOB)"
    )
    connection.execute("CREATE INDEX IF NOT EXISTS ready ON jobs (id) WHERE state = 0")
    return connection


def _close(connection: sqlite3.Connection, directory: str) -> None:
    connection.close()
    for suffix in ("", "-wal", "-shm"):
        try:
            os.unlink(os.path.join(directory, "floor.sqlite" + suffix))
        except FileNotFoundError:
            continue


def commit(directory: str, times: int) -> float:
    """A transaction of SQLite that changes one row, durable (write-ahead log, synchronous=FULL)."""
    connection = _database(directory)
    connection.execute("INSERT INTO jobs VALUES (1, 0, NULL)")

    def operation() -> None:
        connection.execute("BEGIN IMMEDIATE")
        connection.execute("UPDATE jobs SET state = state + 1 WHERE id = 1")
        connection.execute("COMMIT")

    try:
        return _median(operation, times)
    finally:
        _close(connection, directory)


def row(directory: str, times: int, rows: int = 5000) -> float:
    """Inserting a row with a small target and an index entry, and deleting it later; in large transactions, the
    commits included."""
    connection = _database(directory)
    payload = pickle.dumps(Small(7), 5)

    def operation() -> None:
        connection.execute("BEGIN IMMEDIATE")
        connection.executemany("INSERT INTO jobs VALUES (?, 0, ?)", ((i, payload) for i in range(rows)))
        connection.execute("COMMIT")
        connection.execute("BEGIN IMMEDIATE")
        connection.executemany("DELETE FROM jobs WHERE id = ?", ((i,) for i in range(rows)))
        connection.execute("COMMIT")

    try:
        return _median(operation, times) / rows
    finally:
        _close(connection, directory)
