"""The files by which a master and Parasol's nodes know of one job: a directory for each, on the file system they share.

`parasol_job.py` says what is in it. Written by the master: ``job.json``, ``run`` (the script that Parasol is given) and
``cancel``; by the node: ``started`` and ``end``.
"""

from __future__ import annotations

import json
import math
import os
import shlex
import shutil
import sys
from typing import Any, Optional

from batchsystems import parasol_job
from batchsystems.abstract import BatchSystemError, Submission


class Files:
    """All jobs' directories, in one. Names of jobs come from callers and listings, and lead nowhere else."""

    def __init__(self, directory: str) -> None:
        self.directory = directory

    def job(self, name: str) -> str:
        """The directory of a job."""
        return os.path.join(self.directory, "jobs", name)

    def batch(self, name: str) -> str:
        """The directory of a batch: where its jobs run, and its results file is."""
        return os.path.join(self.directory, "batches", name)

    def command(self, name: str) -> str:
        """What Parasol has as a job's command."""
        return f"/bin/sh {self.job(name)}/run"

    def name_of(self, command: str) -> Optional[str]:
        """The name of the job that has this command; None if it is none of ours."""
        prefix, suffix = self.command("\0").split("\0")
        if command.startswith(prefix) and command.endswith(suffix):
            name = command[len(prefix) : -len(suffix)]
            return name if _is_plain(name) else None
        return None

    def knows(self, name: str) -> bool:
        """Whether a job has a directory."""
        return _is_plain(name) and os.path.isdir(self.job(name))

    def write(self, submission: Submission) -> str:
        """Make a job's directory. Returns the name of its batch. Raises BatchSystemError."""
        directory = self.job(submission.name)
        cpu, memory = max(1, math.ceil(submission.resources.cpu)), submission.resources.memory
        batch = f"c{cpu}m{-(-memory // 2**20)}"
        stored = {
            "batch": batch,
            "cpu": cpu,
            "memory": memory,
            "command": submission.command,
            "cwd": submission.cwd or os.getcwd(),
            "env": dict(os.environ if submission.env is None else submission.env),
            "log": submission.log and os.path.abspath(submission.log),
        }
        runner = shlex.join([sys.executable, "-S", "-E", parasol_job.__file__, directory])
        try:
            os.makedirs(self.batch(batch), 0o700, exist_ok=True)
            os.makedirs(directory, 0o700)
            _write(os.path.join(directory, "job.json"), json.dumps(stored))
            _write(os.path.join(directory, "run"), f"exec {runner}\n")
        except OSError as error:
            raise BatchSystemError(f"{directory} cannot be written: {error}") from error
        return batch

    def read(self, name: str) -> dict[str, Any]:
        """What was written of a job; empty if that is gone."""
        try:
            with open(os.path.join(self.job(name), "job.json"), encoding="utf-8") as file:
                stored: dict[str, Any] = json.load(file)
                return stored
        except (OSError, ValueError):
            return {}

    def cancel(self, name: str, grace: float) -> None:
        """Tell the job's node that it is cancelled. Raises BatchSystemError."""
        try:
            _write(os.path.join(self.job(name), "cancel"), repr(float(grace)))
        except OSError as error:
            raise BatchSystemError(f"{self.job(name)} cannot be written: {error}") from error

    def started(self, name: str) -> bool:
        """Whether its node has begun it."""
        return os.path.exists(os.path.join(self.job(name), "started"))

    def end(self, name: str) -> Optional[tuple[int, str]]:
        """Exit status, or minus a signal, and words, as the job's node has written them; None if it has not."""
        try:
            with open(os.path.join(self.job(name), "end"), encoding="utf-8") as file:
                end = json.load(file)
            return int(end["status"]), str(end["detail"])
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def ended(self, run: str) -> list[str]:
        """The jobs of a run that have ended, and were not removed."""
        try:
            names = os.listdir(os.path.join(self.directory, "jobs"))
        except FileNotFoundError:
            return []
        return [name for name in names if name.startswith(run + ".") and self.end(name) is not None]

    def remove(self, name: str) -> None:
        """Remove a job's directory."""
        shutil.rmtree(self.job(name), ignore_errors=True)


def _is_plain(name: str) -> bool:
    return bool(name) and "/" not in name and "\0" not in name and name not in (".", "..")


def _write(path: str, text: str) -> None:
    """Write a file whole or not at all."""
    with open(f"{path}.new", "w", encoding="utf-8", errors="surrogateescape") as file:
        file.write(text)
    os.replace(f"{path}.new", path)
