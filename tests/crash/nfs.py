"""Two machines that share an NFS server (nfs_client.py): the master's, which is this one, and a node.

The node is a mount namespace in which another client of the same store is at the same path, so that everything has the
same name for both. The farm (tests/fakes/farm.py) runs there, and with it supervisors and workers.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from tests.crash.mounts import CHECKOUT, Mount
from tests.fakes.detached import VARIABLE, RunningFarm


class Client(Mount):
    """One client of the store."""

    def __init__(self, mountpoint: Path, store: Path, log: Path, *options: object) -> None:
        store.mkdir(exist_ok=True)
        super().__init__("nfs_client.py", mountpoint, log, "--store", store, *options)

    def close(self, kill: bool = True) -> None:
        """The server of a file system ends when nobody has it mounted any more, and other nodes have copies of all
        mounts: it is not waited for."""
        super().close(kill)

    def see_everything(self) -> None:
        """What others have done is visible from now on."""
        self.send(signal.SIGUSR1)


class Site:
    """The two machines. shared: the path at which both see the store."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.shared = directory / "shared"
        self.farm = RunningFarm(directory / "farm", before=on_the_node(directory))

    def start(self, script: str, *arguments: object, **variables: str) -> subprocess.Popen[bytes]:
        """Start a script of this folder as a master."""
        with (self.directory / "output").open("ab") as output:
            return subprocess.Popen(
                [sys.executable, str(Path(__file__).parent / script), *map(str, arguments)],
                cwd=self.directory,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env={
                    **os.environ,
                    "PYTHONPATH": str(CHECKOUT),
                    VARIABLE: str(self.farm.directory),
                    **variables,
                },
            )

    def said(self) -> str:
        """What the masters have printed."""
        return (self.directory / "output").read_text()


def on_the_node(directory: Path) -> Sequence[str]:
    """Words before a command that is to run on the node."""
    bind = 'mount --make-rprivate / && mount --bind "$0" "$1" && shift && exec "$@"'
    return ["unshare", "--mount", "sh", "-c", bind, str(directory / "node"), str(directory / "shared")]


@contextlib.contextmanager
def site(directory: Path, seed: int, *options: object) -> Iterator[Site]:
    """Both clients mounted with these options, and the farm on the node."""
    with contextlib.ExitStack() as stack:
        for number, name in enumerate(("shared", "node")):
            client = Client(
                directory / name,
                directory / "store",
                directory / f"{name}.log",
                "--seed",
                2 * seed + number,
                *options,
            )
            stack.enter_context(client)
        made = Site(directory)
        stack.enter_context(made.farm)
        yield made
