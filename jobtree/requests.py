"""What commands ask of a running master, and its answers: files, so that it works from any host and survives either.

    requests/ID.json     a request, renamed into place when it is whole; removed by the master after it dealt with it
    requests/ID.answer   made empty by whoever asks and wants an answer; the master renames its answer over it

A new kind of request is a branch in ``jobtree.steering``; a command uses ``ask``, or ``send`` where it wants no answer.
Most are for the master that runs while they are made: what lies there when one starts is discarded. Those that change
the tree (jobtree.steering_requests) are *lasting*: the next master obeys what this one has not.

What must hold
  - The master acts, commits, and then answers: an answer tells of what is on the disk. If it dies before, there is no
    answer, and what was asked has been done or not; whoever asked sees that the master is gone and looks.
  - A lasting request stays until it is answered, whoever dies; only who asked may withdraw it. It may be met twice, by
    a master and, if that dies between its commit and its answer, by the next one: who obeys sees to it that this is
    once.
  - Each is dealt with once by a master, in the order in which they came. Whoever takes an answer removes it; what
    nobody has fetched is removed after a while, so nothing piles up. All sizes and numbers are bounded.
  - Nobody waits for a name that is not there yet, which a network file system may go on denying for a minute: the
    answer's file exists before the request does, and the directory is opened afresh for each look.

How it fails: a request that cannot be read, or is none, is removed and has no effect; what cannot even be removed is
passed over. StorageError for what the disk refuses to whoever asks. To a master nothing here is worth its run: whatever
lies in the directory, and whoever has put it there, it goes on.
"""

from __future__ import annotations

import json
import logging
import os
import pwd
import stat
import time
from collections.abc import Collection, Mapping
from typing import Any, Callable, NamedTuple, Optional

from jobtree import clock, files
from jobtree.errors import StorageError
from jobtree.paths import TreePaths
from jobtree.shown import one_line

log: logging.Logger = logging.getLogger("jobtree")

_MOST_BYTES = 64 << 10
"""Of a request. Answers may have more: the master knows what it says."""

_MOST_NAME = 200
"""Characters of who asks."""

_MOST_NUMBER = 1 << 63

_MOST_AT_ONCE = 256
"""Requests that one look takes; the rest waits for the next."""

_KEPT_SECONDS = 600.0
"""So long an answer that nobody fetches is kept, and whatever else nobody deals with."""

_COARSE_SECONDS = 3.0
"""Some file systems keep times in steps of two seconds: so long after a change, another one need not show."""

_LOOK_SECONDS = 0.05

_GONE_LOOKS = 3
"""A name can be missing for a moment while it is replaced on a server; so many looks in a row, and it is gone."""

_REQUEST = ".json"
_ANSWER = ".answer"


class Request(NamedTuple):
    """What is asked ("kill"), by whom, and with what arguments (which JSON can say). id: given by ``send``."""

    kind: str
    by: str
    arguments: Mapping[str, Any] = {}
    id: str = ""

    def number(self, name: str) -> int:
        """An argument that is a number, from 0 on. Raises ValueError, whose text says what was found."""
        found = self.arguments.get(name)
        if type(found) is not int or not 0 <= found < _MOST_NUMBER:
            raise ValueError(f"{name} is {found!r:.100}, and a number is expected")
        return found


class Answer(NamedTuple):
    """done: whether it was; body: what was asked for, or where it was not done the reason, a sentence."""

    done: bool
    body: Any = None


class Requests:
    """The master's side. lasting: the kinds of requests that are not discarded."""

    def __init__(self, paths: TreePaths, lasting: Collection[str] = ()) -> None:
        self._directory = paths.requests
        self._lasting = lasting
        self._seen: tuple[int, ...] = ()
        self._changed = 0.0
        self._taken: set[str] = set()
        self._passed_over: set[str] = set()
        self._cannot_look = False
        self._more = False
        self._since: dict[str, float] = {}

    def take(self) -> list[Request]:
        """The requests that have come since the last call. Each lies there until it is answered."""
        self._more = False
        try:
            fd = os.open(self._directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                found = self._take(fd)
            finally:
                os.close(fd)
        except FileNotFoundError:
            return []
        except OSError as error:
            if not self._cannot_look:
                log.warning("requests cannot be seen: %s; what is asked for is not done until then", error)
            self._cannot_look = True
            return []
        self._cannot_look = False
        return found

    def take_all(self) -> list[Request]:
        """The same for a start, which does first what lies there: all of them, also where they are many."""
        found = self.take()
        while self._more:
            found += self.take()
        return found

    def _take(self, fd: int) -> list[Request]:
        now = clock.elapsed()
        status = os.fstat(fd)
        mark = (status.st_mtime_ns, status.st_ctime_ns)
        if mark != self._seen:
            self._seen, self._changed = mark, now
        elif now - self._changed > _COARSE_SECONDS and not self._forgotten(now):
            return []
        names = os.listdir(fd)
        self._remove_forgotten(names, now)
        self._passed_over.intersection_update(names)
        known = self._taken | self._passed_over
        come = [(name, _status(fd, name)) for name in names if name.endswith(_REQUEST) and name not in known]
        come.sort(key=lambda item: (_moment(item[1]), item[0]))
        found = []
        for name, its_status in come[:_MOST_AT_ONCE]:
            request = self._read(name, its_status)
            if request is not None:
                self._taken.add(name)
                found.append(request)
        self._more = len(come) > _MOST_AT_ONCE
        if self._more:
            self._seen = ()
        return found

    def _read(self, name: str, status: Optional[os.stat_result]) -> Optional[Request]:
        path = os.path.join(self._directory, name)
        try:
            if status is None:
                return None  # withdrawn, or not to be seen yet
            if not stat.S_ISREG(status.st_mode):
                raise ValueError("it is no regular file")
            data = files.read_from(path, 0, _MOST_BYTES + 1)
            if len(data) > _MOST_BYTES:
                raise ValueError(f"more than {_MOST_BYTES} bytes")
            body = json.loads(data)
            kind, by, arguments = str(body["kind"]), str(body["by"]), dict(body.get("arguments", {}))
        except (ValueError, KeyError, TypeError, RecursionError, StorageError) as error:
            log.warning("%s: not a request (%s); it is removed", one_line(path), one_line(str(error)[:500]))
            if not self._remove(name):
                self._passed_over.add(name)
            return None
        return Request(kind, _who(by[:_MOST_NAME], status.st_uid), arguments, name[: -len(_REQUEST)])

    def _remove(self, name: str) -> bool:
        """Whether it is gone."""
        path = os.path.join(self._directory, name)
        try:
            files.remove(path)
        except StorageError as error:
            log.warning("it cannot be removed, and is passed over: %s", one_line(str(error)))
            return False
        return True

    def _remove_forgotten(self, names: list[str], now: float) -> None:
        self._since = {name: self._since.get(name, now) for name in names if name not in self._taken}
        for name in self._forgotten(now):
            if name not in self._passed_over and not self._remove(name):
                self._passed_over.add(name)

    def _forgotten(self, now: float) -> list[str]:
        """What has been lying there for long: answers, and what was being written by somebody who died."""
        return [
            name
            for name, since in self._since.items()
            if now - since > _KEPT_SECONDS and name not in self._passed_over
        ]

    def answer(self, request: Request, answer: Answer) -> bool:
        """A request was dealt with, and what followed is committed: say so to whoever waits for it. Whether the request
        is gone: if it cannot be removed the next master meets it again."""
        path = os.path.join(self._directory, request.id)
        try:
            if os.path.exists(path + _ANSWER):
                files.replace(path + _ANSWER, json.dumps(answer._asdict()).encode())
        except StorageError as error:
            log.warning("the answer to %s could not be written: %s", request.by, error)
        if not self._remove(request.id + _REQUEST):
            return False
        self._taken.discard(request.id + _REQUEST)
        return True

    def discard(self) -> None:
        """At the start: remove what was meant for an earlier master alone. What that has answered just before it died
        stays for a while: whoever asked would take it for not done."""
        names = self._names()
        for name in self._superfluous(names):
            kind = name.partition("-")[0]
            answered = name.endswith(_ANSWER) and kind in self._lasting
            if not answered or not _holds_something(os.path.join(self._directory, name)):
                self._remove(name)

    def close(self) -> None:
        """At the end: remove what comes too late. Answers stay for those who are about to fetch them."""
        for name in self._superfluous(self._names()):
            path = os.path.join(self._directory, name)
            if not name.endswith(_ANSWER) or not _holds_something(path):
                self._remove(name)

    def _superfluous(self, names: list[str]) -> list[str]:
        """All but lasting requests, and where their answers are to go."""
        ids = {name[: -len(_REQUEST)] for name in names if name.endswith(_REQUEST)}
        lasting = {id for id in ids if id.partition("-")[0] in self._lasting}
        return [name for name in names if name.rpartition(".")[0] not in lasting]

    def _names(self) -> list[str]:
        """What is there, but for what is being written at this moment: that is not a request yet."""
        try:
            return [name for name in os.listdir(self._directory) if files.final_name(name) == name]
        except OSError:
            return []


def _status(directory: int, name: str) -> Optional[os.stat_result]:
    try:
        return os.stat(name, dir_fd=directory, follow_symlinks=False)
    except OSError:
        return None


def _moment(status: Optional[os.stat_result]) -> int:
    """When a request was written, by the clock of the file system's server, which is one for all of them."""
    return status.st_mtime_ns if status is not None else 0


def _holds_something(path: str) -> bool:
    try:
        return os.stat(path).st_size > 0
    except OSError:
        return False


def _who(by: str, owner: int) -> str:
    """Who asks, in one line: what is said in a file, and whose it is where that is somebody else than we are."""
    if owner == os.geteuid():
        return one_line(by)
    try:
        name = pwd.getpwuid(owner).pw_name
    except (KeyError, OSError):
        name = str(owner)
    return one_line(f"{by} (in a file of the user {name})")


# -- whoever asks ----------------------------------------------------------------------------------------------


def send(paths: TreePaths, request: Request, wants_answer: bool = False) -> str:
    """Ask the running master for something; returns the number under which it is answered. Raises StorageError."""
    id = f"{request.kind}-{os.getpid()}-{os.urandom(8).hex()}"
    path = os.path.join(paths.requests, id)
    body = {"kind": request.kind, "by": request.by, "arguments": dict(request.arguments)}
    if wants_answer:
        files.write_new(path + _ANSWER)
    try:
        files.replace_durably(path + _REQUEST, json.dumps(body).encode())
    except StorageError:
        _withdraw(path)
        raise
    return id


def wait(
    paths: TreePaths, id: str, seconds: float, is_alive: Callable[[], bool], withdraws: bool = True
) -> Optional[Answer]:
    """The answer to a request that was sent with wants_answer.

    None if there is none in that time, nobody is left to give it, or a master that has just started has thrown the
    request away. It is withdrawn then; unless it was thrown away, it may have been dealt with all the same.
    withdraws=False: it is left there for the next master.
    """
    path = os.path.join(paths.requests, id)
    deadline = clock.elapsed() + seconds
    missing = 0
    answer = None
    try:
        while missing < _GONE_LOOKS:
            # In this order: what was answered just before the end counts.
            last = clock.elapsed() >= deadline or not is_alive()
            try:
                answer = _read_answer(path + _ANSWER)
                missing = 0
            except FileNotFoundError:
                answer = None
                missing += 1
            if answer is not None or last:
                return answer
            time.sleep(_LOOK_SECONDS)
        return None
    finally:
        if withdraws or answer is not None:
            _withdraw(path)


def ask(paths: TreePaths, request: Request, seconds: float, is_alive: Callable[[], bool]) -> Optional[Answer]:
    """Send a request and wait for its answer, as ``wait`` does. Raises StorageError."""
    return wait(paths, send(paths, request, wants_answer=True), seconds, is_alive)


def want_no_answer(paths: TreePaths, id: str) -> None:
    """Whoever asked has gone on to something else: what was asked for stays to be done."""
    try:
        files.remove(os.path.join(paths.requests, id + _ANSWER))
    except StorageError:
        pass  # the master removes it sooner or later


def _withdraw(path: str) -> None:
    """Remove what is left of a request. The answer first: then nobody writes another one."""
    for suffix in (_ANSWER, _REQUEST):
        try:
            files.remove(path + suffix)
        except StorageError:
            pass  # the master removes it sooner or later


def _read_answer(path: str) -> Optional[Answer]:
    """The answer, by a fresh open; None if it is not there yet. FileNotFoundError if nobody can answer any more."""
    try:
        with open(path, "rb") as file:
            body = json.loads(file.read())
        return Answer(bool(body["done"]), body["body"])
    except FileNotFoundError:
        raise
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None  # or replaced at this moment, which some file systems tell as an error
