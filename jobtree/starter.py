"""The master's side of the launcher: starts workers through it and hears how they ended.

Implements batchsystems.processes.Starter, so that the single-machine batch system needs to know nothing of workers. If
the launcher dies, its workers die with it; when all of them are known to be gone their ends are told as "nobody knows
how", and the next start makes a new launcher.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
from collections.abc import Sequence
from typing import Any, Callable, Optional

from batchsystems.abstract import Submission
from batchsystems.machine import VISIBLE_GPUS
from batchsystems.processes import ProcessEnd
from jobtree import environment, files, frames, launcher, processtree, tempdirs
from jobtree.environment import Environment
from jobtree.paths import TreePaths


class LauncherStarter:
    """One launcher at a time, started when it is first needed.

    notice: is called with what the launcher wants the user to know.
    """

    def __init__(
        self, paths: TreePaths, recorded: Environment, run: str, mode: str, notice: Callable[[str], None]
    ) -> None:
        self._paths = paths
        self._recorded = recorded
        self._run = run
        self._mode = mode
        self._notice = notice
        self._process: Optional[subprocess.Popen[bytes]] = None
        self._names: set[str] = set()
        self._received = b""
        self._told: list[ProcessEnd] = []
        # The descriptor's number is promised to stay the same for life; a new launcher's socket is put in its place.
        self._connection, self._other = socket.socketpair()
        self._fd = self._connection.fileno()

    def warm_up(self) -> None:
        """Start the launcher now, so that it imports while the master still prepares."""
        if self._process is None:
            self._start_launcher()

    def start(self, name: str, submission: Submission, gpus: Optional[Sequence[str]] = None) -> None:
        """Have a worker forked for the bundle that the name ends with."""
        if self._process is None:
            self._start_launcher()
        self._names.add(name)
        bundle = int(name.rpartition(".")[2])
        variables = {} if gpus is None else {VISIBLE_GPUS: ",".join(gpus)}
        self._send(launcher.START, name, bundle, submission.resources.cpu, variables)

    def signal(self, name: str, signum: int) -> None:
        """Send a signal to a worker's whole process group."""
        if name in self._names:
            self._send(launcher.SIGNAL, name, int(signum))

    def fileno(self) -> int:
        """Readable when there is something to tell."""
        return self._fd

    def ended(self) -> list[ProcessEnd]:
        """The ends not told before."""
        while self._process is not None:
            try:
                data = os.read(self._fd, 1 << 16) if self._is_readable() else None
            except ConnectionResetError:
                data = b""
            if data is None:
                break
            if not data:
                self._launcher_died()
                break
            received = self._received + data
            found = frames.decode(received)
            self._received = received[found[-1].end :] if found else received
            for message in (frame.body for frame in found):
                self._hear(message)
        told, self._told = self._told, []
        return told

    def close(self) -> None:
        """End the launcher and with it every worker; waits until all are gone."""
        process, self._process = self._process, None
        if process is not None:
            self._connection.shutdown(socket.SHUT_RDWR)
            try:
                process.wait(timeout=60)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
                processtree.kill_strays(self._run)
        self._names.clear()
        self._connection.close()
        self._other.close()

    def _hear(self, message: Any) -> None:
        if message[0] == launcher.NOTICE:
            self._notice(message[1])
            return
        _, name, status, peak, cpu = message
        self._names.discard(name)
        self._told.append(ProcessEnd(name, status, peak, cpu))

    def _send(self, *body: Any) -> None:
        try:
            self._connection.sendall(frames.encode(body))
        except OSError:
            pass  # it has died: ended() says so, for every name

    def _is_readable(self) -> bool:
        import select

        poll = select.poll()
        poll.register(self._fd, select.POLLIN | select.POLLHUP)
        return bool(poll.poll(0))

    def _start_launcher(self) -> None:
        ours, theirs = socket.socketpair()
        os.dup2(ours.fileno(), self._fd, inheritable=False)
        ours.close()
        log = os.path.join(self._paths.root, "logs", "launcher.log")
        try:
            output = open(log, "ab", opener=lambda path, flags: os.open(path, flags, 0o600))  # noqa: SIM115  # just below
        except OSError as error:
            theirs.close()
            raise files.refused(error, log) from error
        with output, theirs:
            self._process = subprocess.Popen(
                launcher.command(
                    "launcher",
                    self._paths.root,
                    str(os.getpid()),
                    str(theirs.fileno()),
                    self._run,
                    self._mode,
                ),
                env=environment.for_worker(
                    self._recorded.variables, os.environ, self._run, deny=self._recorded.deny
                ),
                cwd=self._recorded.directory,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                pass_fds=[theirs.fileno()],
                start_new_session=True,
            )

    def _launcher_died(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait()
        # Workers ask the kernel to die with it; what a target has hidden from that carries the run's mark.
        processtree.kill_strays(self._run)
        how = ""
        if process is not None and process.returncode:
            code = process.returncode
            how = f" ({signal.Signals(-code).name})" if code < 0 else f" (exit status {code})"
        for name in self._names:
            tempdirs.remove_local(self._run, int(name.rpartition(".")[2]))
        self._told.extend(
            ProcessEnd(name, None, detail=f"the launcher died{how} and its workers with it")
            for name in sorted(self._names)
        )
        self._names.clear()
        self._received = b""
        # A closed socket is readable for ever; a quiet one takes its place until there is a new launcher.
        quiet, other = socket.socketpair()
        os.dup2(quiet.fileno(), self._fd, inheritable=False)
        quiet.close()
        self._other.close()
        self._other = other
