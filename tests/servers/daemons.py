"""Daemons of a test server: children of this process that stay in the foreground, and end with it whatever happens.

A daemon that puts itself into the background is known by a number in a file only, which may be somebody else's by the
time it is used. As a child it can be waited for, its end cannot be missed, and the kernel kills it should the
tests be killed.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import time
from collections.abc import Mapping
from typing import Callable

_STOP_SECONDS = 10.0


class ServerError(Exception):
    """A server did not start or do what it was told; the message holds the end of its log."""


class Daemons:
    """The daemons of one server by name; their logs are `directory`/NAME.log."""

    def __init__(self, directory: str, env: Mapping[str, str]) -> None:
        self.directory = directory
        self._env = dict(env)
        self._children: dict[str, subprocess.Popen[bytes]] = {}
        os.makedirs(directory, exist_ok=True)

    def log(self, name: str) -> str:
        """The log file of a daemon."""
        return os.path.join(self.directory, f"{name}.log")

    def start(self, name: str, *command: str) -> None:
        """Start a daemon, unless it runs."""
        if self.is_running(name):
            return
        with open(self.log(name), "ab") as log:
            self._children[name] = subprocess.Popen(
                # Sent when this thread ends, hence start servers from the main one.
                ["setpriv", "--pdeathsig", "KILL", *command],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=self._env,
                start_new_session=True,
            )

    def is_running(self, name: str) -> bool:
        """Whether the daemon has been started and has not ended."""
        child = self._children.get(name)
        return child is not None and child.poll() is None

    def pid(self, name: str) -> int:
        """The process id of a daemon that was started."""
        return self._children[name].pid

    def stop(self, name: str) -> None:
        """SIGTERM, and SIGKILL if that does not help; waits for the end."""
        child = self._children.pop(name, None)
        if child is None:
            return
        child.terminate()
        try:
            child.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()

    def kill(self, name: str) -> None:
        """SIGKILL, which no daemon can prepare for; waits for the end."""
        child = self._children.pop(name)
        child.kill()
        child.wait()

    def signal(self, name: str, number: signal.Signals) -> None:
        """Send any other signal, such as SIGSTOP."""
        self._children[name].send_signal(number)

    def stop_all(self) -> None:
        """Stop all of them, the last one started first."""
        for name in reversed(list(self._children)):
            self.stop(name)

    def wait_until(
        self, condition: Callable[[], object], what: str, name: str, seconds: float = 60.0
    ) -> None:
        """Wait for the condition while the daemon runs. Raises ServerError, with the end of its log."""
        try:
            wait_until(condition, what, lambda: self.is_running(name), seconds)
        except ServerError as error:
            raise ServerError(f"{error}; {name} says:\n{tail(self.log(name))}") from None


def wait_until(
    condition: Callable[[], object],
    what: str,
    while_: Callable[[], bool] = lambda: True,
    seconds: float = 60.0,
) -> None:
    """Look again and again until the condition holds. Raises ServerError after `seconds`, or when `while_` fails."""
    deadline = time.monotonic() + seconds
    while not condition():
        if not while_():
            raise ServerError(f"it ended while this was waited for: {what}")
        if time.monotonic() > deadline:
            raise ServerError(f"waited {seconds:g} s in vain for: {what}")
        time.sleep(0.05)


def tail(path: str, lines: int = 20) -> str:
    """The last lines of a log."""
    with contextlib.suppress(OSError), open(path, encoding="utf-8", errors="replace") as file:
        return "".join(file.readlines()[-lines:])
    return f"({path} cannot be read)"


def free_ports(count: int) -> int:
    """The first of `count` consecutive TCP ports that nobody uses on 127.0.0.1; below those that clients are given."""
    # Runs at the same time start looking at different places.
    start = 10000 + os.getpid() % 200 * 100
    for base in range(start, 32000 - count):
        with contextlib.ExitStack() as stack:
            if all(_is_free(stack, base + offset) for offset in range(count)):
                return base
    raise ServerError(f"no {count} consecutive free ports")


def _is_free(stack: contextlib.ExitStack, port: int) -> bool:
    one = stack.enter_context(socket.socket())
    one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        one.bind(("127.0.0.1", port))
    except OSError:
        return False
    return True
