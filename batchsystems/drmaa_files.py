"""The files between a DRMAA batch system, its later instances, and what it starts on nodes; all in one directory.

    arrays/TOKEN   what the jobs of an array are; nodes read it, and later instances
    numbers/TOKEN  what the scheduler calls them
    output/TOKEN   what went wrong on the nodes, and how jobs have ended there
    cancel/NAME    the seconds of grace with which a job is to be ended
    contact        of the session

How it fails: nothing here need survive a power cut. What is not there any more cannot be run either (its nodes find no
description), or has been over already, or is a hint.
"""

from __future__ import annotations

import json
import os
from collections.abc import Container, Mapping
from typing import Any, Optional

from batchsystems.abstract import Submission
from batchsystems.node_description import describe

_FOLDERS = ("arrays", "numbers", "output", "cancel")


class Files:
    """The files in a directory, which is made. Raises OSError."""

    def __init__(self, directory: str) -> None:
        self._directory = os.path.abspath(directory)
        for folder in _FOLDERS:
            os.makedirs(os.path.join(self._directory, folder), 0o700, exist_ok=True)
        self._names: dict[str, dict[int, str]] = {}

    @property
    def output(self) -> str:
        """The directory of what arrays write."""
        return os.path.join(self._directory, "output")

    def description(self, token: str) -> str:
        """The file that describes an array."""
        return os.path.join(self._directory, "arrays", token)

    def describe(self, token: str, tasks: Mapping[int, Submission]) -> None:
        """Before a submission. Raises OSError."""
        folder = os.path.join(self._directory, "cancel")
        self._write(self.description(token), describe(tasks, (), cancel=folder, tell=True))
        self._names[token] = {index: job.name for index, job in tasks.items()}

    def names(self, token: str) -> dict[int, str]:
        """The jobs of an array, by index, also of an earlier instance; none if that is not known any more."""
        if token not in self._names:
            told = self._read_json(self.description(token)) if token.isalnum() else None
            jobs = told["jobs"] if isinstance(told, dict) else {}
            self._names[token] = {int(index): job["name"] for index, job in jobs.items()}
        return self._names[token]

    def tokens(self) -> list[str]:
        """All arrays that are described."""
        return sorted(os.listdir(os.path.join(self._directory, "arrays")))

    def note_numbers(self, token: str, numbers: Mapping[int, str]) -> None:
        """After a submission. Raises OSError."""
        self._write(os.path.join(self._directory, "numbers", token), json.dumps(numbers))

    def numbers(self, token: str) -> dict[int, str]:
        """What the scheduler calls the jobs of an array, as far as that was noted."""
        found = self._read_json(os.path.join(self._directory, "numbers", token))
        return {int(index): str(number) for index, number in found.items()} if isinstance(found, dict) else {}

    def cancel(self, name: str, grace: float) -> bool:
        """Have the node of a job end it; whether that could be said."""
        try:
            self._write(os.path.join(self._directory, "cancel", name), f"{grace:.3f}")
        except OSError:
            return False
        return True

    def remove(self, token: str) -> None:
        """An array is over."""
        for name in self._names.pop(token, {}).values():
            _remove(os.path.join(self._directory, "cancel", name))
        for folder in ("arrays", "numbers", "output"):
            _remove(os.path.join(self._directory, folder, token))

    def sweep(self, tokens: Container[str]) -> None:
        """Remove what belongs to none of these."""
        for token in self.tokens():
            if token not in tokens:
                self.names(token)
                self.remove(token)

    @property
    def contact(self) -> str:
        """The contact of the last session; empty if there was none."""
        try:
            with open(os.path.join(self._directory, "contact"), encoding="utf-8") as file:
                return file.read().strip()
        except (OSError, ValueError):
            return ""

    def note_contact(self, contact: str) -> None:
        """For a later instance. Raises OSError."""
        self._write(os.path.join(self._directory, "contact"), contact)

    @staticmethod
    def _read_json(path: str) -> Optional[Any]:
        try:
            with open(path, encoding="utf-8", errors="surrogateescape") as file:
                return json.load(file)
        except (OSError, ValueError):
            return None  # gone, or we died while it was written

    @staticmethod
    def _write(path: str, text: str) -> None:
        with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
            file.write(text.encode("utf-8", "surrogateescape"))


def _remove(path: str) -> None:
    try:
        os.unlink(path)
    except OSError:
        pass
