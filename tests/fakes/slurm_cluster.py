"""A SLURM of fake commands, for tests: `RunningSlurm` puts them on PATH and starts their controller."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Optional

import pytest

from tests.fakes.slurm import client, controller
from tests.servers.daemons import wait_until

COMMANDS = ("sbatch", "squeue", "scancel", "scontrol", "sacct")


class RunningSlurm:
    """A controller and its commands; use it with ``with``. What still runs is killed in the end."""

    def __init__(self, patch: pytest.MonkeyPatch, cpu: float = 4, memory: int = 1 << 30) -> None:
        # A short path: names of sockets have room for about a hundred characters.
        self._made = tempfile.TemporaryDirectory(prefix="fake-slurm-", dir="/tmp")
        self.directory = Path(self._made.name)
        self._patch = patch
        self._arguments = [str(self.directory), str(cpu), str(memory)]
        self._process: Optional[subprocess.Popen[bytes]] = None

    def __enter__(self) -> RunningSlurm:
        for name in ("bin", "scripts", "tricks"):
            (self.directory / name).mkdir()
        for command in COMMANDS:
            path = self.directory / "bin" / command
            start = f"'{sys.executable}' -I -S '{client.__file__}' '{self.directory}'"
            path.write_text(f'#!/bin/sh\nexec {start} {command} "$@"\n')
            path.chmod(0o755)
        self._patch.setenv("PATH", f"{self.directory / 'bin'}:{os.environ['PATH']}")
        self.start()
        return self

    def start(self) -> None:
        """Start the controller."""
        with open(self.directory / "log", "ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, controller.__file__, *self._arguments],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        wait_until((self.directory / "socket").exists, "the controller of the fake SLURM")

    def __exit__(self, *_: object) -> None:
        assert self._process is not None
        self._process.kill()
        self._process.wait()
        log = (self.directory / "log").read_text()
        self._made.cleanup()
        assert log == "", f"the fake controller has complained:\n{log}"

    def trick(self, name: str, value: str = "") -> None:
        """Have it misbehave from now on."""
        assert name in controller.TRICKS
        new = self.directory / f"new.{name}"
        new.write_text(value)
        new.rename(self.directory / "tricks" / name)

    def behave(self, name: str) -> None:
        """No more of that."""
        (self.directory / "tricks" / name).unlink()

    def calls(self, *commands: str) -> list[list[str]]:
        """The calls of these commands (none: of all) so far, with their arguments."""
        path = self.directory / "calls"
        lines = path.read_text().splitlines() if path.exists() else []
        found = [json.loads(line) for line in lines]
        return [call for call in found if not commands or call[0] in commands]

    def submitted(self) -> list[str]:
        """The names of all jobs that were submitted, each as often as it was."""
        path = self.directory / "submitted"
        names = []
        for line in path.read_text().splitlines() if path.exists() else ():
            run, _, base, index = line.split(" ")
            names.append(f"{run}.{base[1:] if base.startswith('=') else int(base) + int(index)}")
        return names
