"""What Parasol runs on a node for one submission: the command in a session of its own, and how it ended, in a file.

Parasol splits commands at blanks, sends one SIGTERM and forgets the job. So this process stands between: it is started
by a script without blanks in its name, has the submission from a file, and does what a cancelled job needs.

    python parasol_job.py DIRECTORY

The directory is the job's own, on the file system that master and nodes share:

    job.json   command, cwd, env, log
    started    is made when the command is about to start; holds the node's name
    cancel     the grace in seconds, written by the master before it asks Parasol to remove the job
    end        is made when everything is over: exit status or signal, resources, words

It imports nothing of jobtree's, so that it starts quickly. Its own end tells Parasol the same as the file.
"""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import time
from typing import Any, Optional

_LOOK_SECONDS = 5.0
"""Between looks for a cancellation of which no signal tells (a hub that was restarted has forgotten the job)."""
_LOOK_AGAIN_SECONDS = 0.2
"""The same while a grace period runs, which a second cancellation may shorten."""


class Job:
    """One submission on its node."""

    def __init__(self, directory: str) -> None:
        self._directory = directory
        self._kill_at: Optional[float] = None
        self._grace: Optional[float] = None
        self._asked = False

    def run(self) -> int:
        """Run it to its end. Returns the exit status, or minus a signal."""
        read, write = os.pipe()
        os.set_blocking(write, False)
        signal.set_wakeup_fd(write)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.signal(signal.SIGTERM, self._ask)
        with open(self._path("job.json"), encoding="utf-8", errors="surrogateescape") as file:
            job = json.load(file)
        if self._cancelled() is not None:
            return self._end(-signal.SIGTERM, "cancelled before it was started")
        self._write("started", os.environ.get("HOST") or os.uname().nodename)
        try:
            child = _start(job)
        except OSError as error:
            status = 127 if isinstance(error, (FileNotFoundError, NotADirectoryError)) else 126
            return self._end(status, f"cannot start {job['command'][0]!r}: {error}")
        while child.poll() is None:
            self._look(child)
            self._wait(read)
        _kill_group(child.pid, signal.SIGKILL)  # what it has left of its group
        return self._end(child.returncode, "")

    def _ask(self, *_: object) -> None:
        self._asked = True

    def _look(self, child: subprocess.Popen[bytes]) -> None:
        """Pass a cancellation on, and kill whom the grace is over for."""
        grace = self._cancelled()
        if grace is None and self._asked:
            grace = 0.0  # somebody else has removed the job; Parasol's own word is a signal and nothing more
        now = time.monotonic()
        if grace is not None and grace != self._grace:
            first = self._grace is None
            self._grace = grace
            self._kill_at = now + grace if self._kill_at is None else min(self._kill_at, now + grace)
            if first and grace > 0:
                _kill_group(child.pid, signal.SIGTERM)
        if self._kill_at is not None and now >= self._kill_at:
            _kill_group(child.pid, signal.SIGKILL)

    def _wait(self, fd: int) -> None:
        seconds = _LOOK_SECONDS
        if self._kill_at is not None:
            seconds = min(_LOOK_AGAIN_SECONDS, max(0.01, self._kill_at - time.monotonic()))
        if select.select([fd], [], [], seconds)[0]:
            os.read(fd, 4096)

    def _cancelled(self) -> Optional[float]:
        try:
            with open(self._path("cancel"), encoding="ascii") as file:
                return float(file.read())
        except (OSError, ValueError):
            return None

    def _end(self, status: int, detail: str) -> int:
        self._write("end", json.dumps({"status": status, "detail": detail}))
        return status

    def _write(self, name: str, text: str) -> None:
        path = self._path(name)
        try:
            with open(f"{path}.new", "w", encoding="utf-8", errors="surrogateescape") as file:
                file.write(text)
            os.replace(f"{path}.new", path)
        except OSError:
            pass  # the disk is full, or the job tree is gone: Parasol's own word must do

    def _path(self, name: str) -> str:
        return os.path.join(self._directory, name)


def _start(job: dict[str, Any]) -> subprocess.Popen[bytes]:
    log: Any = subprocess.DEVNULL
    if job["log"] is not None:
        log = os.open(job["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    try:
        return subprocess.Popen(
            job["command"], stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=job["cwd"], env=job["env"],
            start_new_session=True,
        )  # fmt: skip
    finally:
        if log != subprocess.DEVNULL:
            os.close(log)


def _kill_group(pid: int, signum: int) -> None:
    try:
        os.killpg(pid, signum)
    except (ProcessLookupError, PermissionError):
        pass


def main() -> None:
    """The process that Parasol starts."""
    status = Job(sys.argv[1]).run()
    if status < 0:
        signal.signal(-status, signal.SIG_DFL) if -status != signal.SIGKILL else None
        os.kill(os.getpid(), -status)
        status = 128 - status
    sys.exit(status)


if __name__ == "__main__":
    main()
