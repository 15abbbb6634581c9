"""Nodes of a pool, as processes of this machine, for tests."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

from batchsystems.pool_hub import Hub
from batchsystems.pool_report import Report, Row
from batchsystems.pool_signing import load_key
from tests.servers.daemons import wait_until
from tests.servers.redis import RedisServer
from tests.system.legacy_script import CHECKOUT


class RunningNode:
    """A node: the real program."""

    def __init__(self, pool: RunningPool, number: int, options: tuple[str, ...]) -> None:
        self.log = pool.directory / f"node.{number}"
        # It dies with the tests, should they be killed: another test's hub may be at the same port later.
        command = ["setpriv", "--pdeathsig", "KILL", sys.executable, str(CHECKOUT / "bin" / "jobTreeNode")]
        command += pool.server.options("--")
        command += ["--keyFile", str(pool.key_file), *options]
        # In a session of its own, like a service.
        with open(self.log, "wb") as log:
            self.process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )
        # Made from the host's name and the process's number.
        self.beginning = f"-{self.process.pid}-"

    def send(self, number: signal.Signals) -> None:
        """Send it a signal."""
        self.process.send_signal(number)

    def kill(self) -> None:
        """SIGKILL; waits for the end."""
        self.process.kill()
        self.process.wait()

    def ended(self) -> int:
        """Wait for its end; the exit status."""
        return self.process.wait(60)


class RunningPool:
    """A hub and its nodes; use it with `with`. Nodes are killed in the end."""

    def __init__(self, server: RedisServer, directory: Path) -> None:
        self.server = server
        self.directory = directory
        self.key_file = directory / "key"
        self.nodes: list[RunningNode] = []
        directory.mkdir(parents=True, exist_ok=True)

    def __enter__(self) -> RunningPool:
        return self

    def __exit__(self, *_: object) -> None:
        for node in self.nodes:
            node.send(signal.SIGCONT)
            node.kill()

    def hub(self) -> Hub:
        """A connection of ours."""
        return Hub(self.server.address, load_key(str(self.key_file)))

    def report(self, what: str) -> list[Row]:
        """What `jobTreePool list` shows."""
        hub = self.hub()
        try:
            rows: list[Row] = getattr(Report(hub), what)()
            return rows
        finally:
            hub.close()

    def start(self, cpus: float = 3, memory: str = "1G", timeout: float = 6, *options: str) -> RunningNode:
        """Start a node, and wait until the hub has it."""
        given = ("--cpus", str(cpus), "--memory", memory, "--nodeTimeout", str(timeout), *options)
        node = RunningNode(self, len(self.nodes), given)
        self.nodes.append(node)
        wait_until(
            lambda: self.row(node), f"node {node.log.read_text()}", lambda: node.process.poll() is None
        )
        return node

    def row(self, node: RunningNode) -> Row:
        """What the hub knows of a node; nothing if it does not."""
        found = [row for row in self.report("nodes") if node.beginning in row["node"]]
        return found[0] if found else {}

    def options(self) -> list[str]:
        """Options of a run in this pool."""
        return [
            "--batchSystem", "pool", *self.server.options("--pool"), "--poolKeyFile", str(self.key_file),
        ]  # fmt: skip


def log_of(pool: RunningPool) -> str:
    """What all nodes have said."""
    return "\n".join(node.log.read_text() for node in pool.nodes if os.path.exists(node.log))
