"""A fake Parasol: a client on PATH and a hub that really runs what it is given."""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Optional

from tests.fakes.parasol import hub

CLIENT = shlex.join([sys.executable, "-S", "-E", os.path.join(os.path.dirname(hub.__file__), "parasol.py")])
"""The command line of the client, as --parasolCommand takes it."""
VARIABLE = "FAKE_PARASOL"
_DEADLINE_SECONDS = 60.0


class FakeParasol:
    """A hub in a directory; use it with ``with``, which also tells the client in this process's environment."""

    def __init__(self, directory: Path, nodes: Optional[Mapping[str, int]] = None) -> None:
        self.directory = directory
        self._nodes = dict(nodes or {"pn1": 2, "pn2": 2})
        self._process: Optional[subprocess.Popen[bytes]] = None
        directory.mkdir(exist_ok=True)

    def __enter__(self) -> FakeParasol:
        os.environ[VARIABLE] = str(self.directory)
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()
        del os.environ[VARIABLE]

    def start(self) -> None:
        """Start the hub, and wait until it answers."""
        with open(self.directory / "log", "ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, hub.__file__, str(self.directory), json.dumps(self._nodes)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        deadline = time.monotonic() + _DEADLINE_SECONDS
        while subprocess.run([*shlex.split(CLIENT), "ping"], capture_output=True, check=False).returncode:
            assert time.monotonic() < deadline, (self.directory / "log").read_text()

    def kill(self) -> None:
        """SIGKILL, as no daemon can prepare for."""
        assert self._process is not None
        self._process.kill()
        self._process.wait()

    @contextlib.contextmanager
    def trick(self, name: str) -> Iterator[None]:
        """Have it misbehave for a while."""
        path = self.directory / "tricks" / name
        path.touch()
        yield
        path.unlink()

    def submitted(self) -> list[str]:
        """The commands of everything that it was ever given."""
        path = self.directory / "submitted"
        return path.read_text().splitlines() if path.exists() else []

    def calls(self) -> list[str]:
        """What it was asked, without options."""
        path = self.directory / "calls"
        return path.read_text().splitlines() if path.exists() else []
