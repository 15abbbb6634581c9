"""File systems of tests that are mounted through FUSE, and pipelines on them that can be killed at one instant.

Skipped, with the reason, where this user or this machine cannot do it (root, /dev/fuse, libfuse 3, mfusepy).
"""

from __future__ import annotations

import ctypes
import ctypes.util
import importlib.util
import os
import select
import signal
import subprocess
import sys
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Optional

from tests.requirements import missing, require

CHECKOUT = Path(__file__).resolve().parents[2]
DEADLINE_SECONDS = 100.0
_MNT_DETACH = 2


def require_fuse() -> None:
    """Skip the test, or fail it in CI, where nothing can be mounted through FUSE."""
    if not sys.platform.startswith("linux") or os.geteuid() != 0:
        missing("mounting a file system takes Linux and root")
    if not os.path.exists("/dev/fuse"):
        missing("there is no /dev/fuse: the kernel has no FUSE, or this container may not use it")
    if importlib.util.find_spec("mfusepy") is None:
        missing("mfusepy is not installed (pip install mfusepy)")
    if ctypes.util.find_library("fuse3") is None:
        missing("libfuse 3 is not installed (Debian: apt-get install fuse3)")
    require("unshare")


class Mount:
    """A file system that a script of this folder serves; use it with ``with``. log: where it complains."""

    def __init__(self, script: str, mountpoint: Path, log: Path, *arguments: object) -> None:
        mountpoint.mkdir(exist_ok=True)
        self.path = mountpoint
        self.log = log
        with log.open("ab") as complaints:
            self._process = subprocess.Popen(
                [
                    sys.executable,
                    str(Path(__file__).with_name(script)),
                    *map(str, arguments),
                    str(mountpoint),
                ],
                stdout=subprocess.PIPE,
                stderr=complaints,
                env={**os.environ, "FUSE_LIBRARY_NAME": "fuse3", "PYTHONPATH": str(CHECKOUT)},
                start_new_session=True,
            )
        assert self._process.stdout is not None
        self.says = self._process.stdout
        try:
            assert self.hear() == "ready", f"{script} did not mount anything; see {log}: {log.read_text()}"
        except BaseException:
            self.close(kill=True)
            raise

    def hear(self) -> str:
        """The next word that the server says; empty if it has ended."""
        ready, _, _ = select.select([self.says], [], [], DEADLINE_SECONDS)
        assert ready, f"waited in vain for the server of {self.path}; see {self.log}"
        return self.says.readline().decode().strip()

    def send(self, number: signal.Signals) -> None:
        """Send the server a signal."""
        self._process.send_signal(number)

    def close(self, kill: bool = False) -> None:
        """Unmount; kill: end the server first, whatever it is doing."""
        if kill:
            self._process.kill()
        ctypes.CDLL(None).umount2(os.fsencode(self.path), _MNT_DETACH)
        try:
            self._process.wait(DEADLINE_SECONDS)
        finally:
            self._process.kill()
            self._process.wait()
            self.says.close()

    def __enter__(self) -> Mount:
        return self

    def __exit__(self, *_: object) -> None:
        if self._process.poll() is None:
            self.close()


class Machine:
    """Processes with a root of their own (a PID namespace): when that is killed all are, whatever they hide behind.

    Each has its own boot id, as if the kernel had just been started.
    """

    def __init__(
        self, command: Sequence[str], output: Path, directory: Path, variables: dict[str, str]
    ) -> None:
        boot_id = directory / "boot_id"
        boot_id.write_text(f"{uuid.uuid4()}\n")
        # The shell is the machine's init; without the second command it would make way for the first.
        boot = 'mount --bind "$0" /proc/sys/kernel/random/boot_id && "$@"; exit $?'
        shell = ["sh", "-c", boot, str(boot_id), *command]
        with output.open("ab") as file:
            self.process = subprocess.Popen(
                ["unshare", "--pid", "--fork", "--mount-proc", "--kill-child=KILL", *shell],
                cwd=directory,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=file,
                env={**os.environ, "PYTHONPATH": str(CHECKOUT), **variables},
                start_new_session=True,
            )
        self._init: Optional[int] = None

    def pidfd(self) -> int:
        """Readable when the machine's last process is gone."""
        return os.pidfd_open(self.process.pid)

    def kill(self) -> None:
        """End all processes: they are as good as dead when this returns, though some may wait for a file system."""
        pid = self.process.pid
        try:
            children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        except FileNotFoundError:
            children = []
        for child in children:
            self._init = os.pidfd_open(int(child))
            signal.pidfd_send_signal(self._init, signal.SIGKILL)  # the kernel kills the rest of the namespace
        if not children:
            self.process.kill()

    def wait(self) -> int:
        """Wait until all processes are gone; the exit status of the command."""
        if self._init is not None:
            ready, _, _ = select.select([self._init], [], [], DEADLINE_SECONDS)
            assert ready, "killed processes do not end"
            os.close(self._init)
            self._init = None
        return self.process.wait(DEADLINE_SECONDS)
