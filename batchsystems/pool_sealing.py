"""How a submission travels through a hub: as a signed command, which a node opens again.

What is signed is small: the command, what it was promised, and the name and digest of a file with the environment. That
may hold secrets and so is not put into the hub; the file is in the run's directory, which nodes share as they share the
job tree, and which only its owner can read.
"""

from __future__ import annotations

import hashlib
import json
import os
import socket
import stat
import time
from contextlib import suppress

from batchsystems.abstract import BatchSystemError, Resources, Submission
from batchsystems.pool_hub import Given
from batchsystems.pool_signing import JOB, Forged, Key

_DAY = 86400.0
_SIGNED_SECONDS = 7 * _DAY
_KEPT_SECONDS = _SIGNED_SECONDS + _DAY


GPUS = "gpus"


def shape(wanted: Resources) -> str:
    """What is asked for as hubs write it: thousandths of a core, bytes, graphics cards."""
    return f"{milli(wanted)} {wanted.memory} {wanted.countable.get(GPUS, 0)}"


def milli(wanted: Resources) -> int:
    """Cores in whole thousandths, as hubs count them; what is less is dropped, so that three thirds fit in one core."""
    return int(wanted.cpu * 1000 + 1e-6)


class Sealer:
    """The master's side: signs for one user, and keeps environments in `directory`."""

    def __init__(self, key: Key, identity: str, directory: str, priority: int) -> None:
        self._key = key
        self._identity = identity
        self._folder = os.path.join(os.path.abspath(directory), "environments")
        self._priority = priority
        self._last: tuple[object, tuple[str, str]] = (None, ("", ""))

    def seal(self, submission: Submission) -> Given:
        """A submission as it is queued. Raises BatchSystemError if its environment cannot be kept."""
        wanted = submission.resources
        run = submission.name.rpartition(".")[0]
        job = {
            "name": submission.name,
            "user": self._identity,
            "command": submission.command,
            "cpu": wanted.cpu,
            "memory": wanted.memory,
            "time": wanted.time,
            "gpus": wanted.countable.get(GPUS, 0),
            "log": submission.log and os.path.abspath(submission.log),
            "cwd": submission.cwd or os.getcwd(),
            "env": self._kept_environment(submission),
            "expires": time.time() + _SIGNED_SECONDS,
        }
        line = f"{self._priority} {shape(wanted)} {run}"
        return Given(submission.name, line, self._key.sign(JOB, job))

    def _kept_environment(self, submission: Submission) -> tuple[str, str]:
        """The file with a submission's environment, and its digest; written if there is none."""
        variables = submission.env
        if variables is not None and variables is self._last[0]:
            return self._last[1]  # most submissions share one mapping
        data = json.dumps(dict(os.environ if variables is None else variables), sort_keys=True).encode()
        digest = hashlib.sha256(data).hexdigest()
        path = os.path.join(self._folder, digest)
        try:
            os.makedirs(self._folder, 0o700, exist_ok=True)
            if _holds(path, data):
                os.utime(path)  # as good as new, to whoever removes old ones
            else:
                _write_private(path, data)
                _remove_old(self._folder)
        except OSError as error:
            raise BatchSystemError(
                f"the environment of jobs cannot be kept in {self._folder}: {error}"
            ) from error
        if variables is not None:
            self._last = (variables, (path, digest))
        return path, digest


def open_sealed(key: Key, identity: str, given: Given) -> Submission:
    """The node's side: what was submitted, if all is as it was signed. Raises Forged, which says what is not."""
    job = key.read(JOB, given.payload)
    wanted = Resources(job["cpu"], job["memory"], job["time"], {GPUS: job["gpus"]})
    if (job["name"], job["user"]) != (given.name, identity):
        raise Forged(f"what was signed is {job['name']} of {job['user']}")
    asked = f"{shape(wanted)} {given.name.rpartition('.')[0]}"
    if given.line.partition(" ")[2] != asked:
        raise Forged(f"it was queued as {given.line!r}, and signed for {asked!r}")
    if job["expires"] < time.time():
        raise Forged("what was signed has expired (or the clocks of the machines differ by days)")
    environment = _environment(*job["env"])
    return Submission(given.name, tuple(job["command"]), wanted, job["log"], job["cwd"], environment)


def _environment(path: str, digest: str) -> dict[str, str]:
    try:
        with open(path, "rb") as file:
            data = file.read()
    except OSError as error:
        raise Forged(f"the file with its environment, which all nodes must share: {error}") from error
    if hashlib.sha256(data).hexdigest() != digest:
        raise Forged(f"{path} has changed since it was signed")
    found: dict[str, str] = json.loads(data)
    return found


def _holds(path: str, data: bytes) -> bool:
    try:
        with open(path, "rb") as file:
            return file.read() == data
    except FileNotFoundError:
        return False


def _write_private(path: str, data: bytes) -> None:
    """Write a file that is whole as soon as it has its name."""
    new = f"{path}.{socket.gethostname()}.{os.getpid()}.{os.urandom(4).hex()}"
    with open(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), "wb") as file:
        file.write(data)
    with suppress(FileNotFoundError):
        os.unlink(path)  # it was damaged
    with suppress(FileExistsError):
        os.link(new, path)  # else somebody was faster, with the same
    os.unlink(new)


def _remove_old(folder: str) -> None:
    """Remove environments that nothing which still holds can name."""
    before = time.time() - _KEPT_SECONDS
    for name in os.listdir(folder):
        path = os.path.join(folder, name)
        with suppress(OSError):
            found = os.stat(path)
            if stat.S_ISREG(found.st_mode) and found.st_mtime < before:
                os.unlink(path)
