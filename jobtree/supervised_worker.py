"""The worker of one supervised bundle, as its supervisor sees it: a process to start, signal, end and collect.

It is a fresh interpreter in a session of its own, with the environment of the run and the mark of its bundle, so that
even a daemon that has left session and parent can be told to be its. A pipe whose other end only the supervisor holds
is how it learns of a recall: a byte to be read, or the end.
"""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
from typing import NamedTuple, Optional

from jobtree import environment, files, launcher, processtree
from jobtree.environment import Environment
from jobtree.frames import BundleHeader
from jobtree.paths import TreePaths


class Ended(NamedTuple):
    """How a worker ended. peak: bytes; seconds: of CPU; out_of_memory: the evidence for that, in words, if any."""

    status: Optional[int]
    signal: Optional[int]
    peak: Optional[int]
    seconds: Optional[float]
    out_of_memory: str


class SupervisedWorker:
    """Started by the constructor, which raises OSError if that cannot be done."""

    def __init__(self, root: str, name: str, header: BundleHeader) -> None:
        recorded = Environment.from_json(files.read_json(TreePaths(root).environment))
        variables = environment.for_worker(recorded.variables, os.environ, header.run, True, recorded.deny)
        variables.update(environment.thread_variables(recorded.variables, header.cpu))
        variables[processtree.BUNDLE_MARK] = name
        self._name = name
        read, self._recall = os.pipe()
        try:
            arguments = (root, str(os.getpid()), str(header.bundle), str(read))
            process = subprocess.Popen(
                launcher.command("supervised", *arguments),
                env=variables,
                stdin=subprocess.DEVNULL,
                pass_fds=[read],
                start_new_session=True,
            )
        except OSError:
            os.close(self._recall)
            raise
        finally:
            os.close(read)
        process.returncode = 0  # we collect it ourselves; this keeps Popen from complaining that nobody did
        self.pid: int = process.pid

    def has_ended(self) -> bool:
        """Whether it has; it is not reaped by this, so its number belongs to nobody else yet."""
        if not hasattr(os, "waitid"):
            return self._has_ended_and_reap()
        return os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None

    _reaped: Optional[tuple[int, int, resource.struct_rusage]] = None

    def _has_ended_and_reap(self) -> bool:
        if self._reaped is None:
            pid, status, usage = os.wait4(self.pid, os.WNOHANG)
            if pid:
                self._reaped = (pid, status, usage)
        return self._reaped is not None

    def signal(self, number: int) -> None:
        """Send a signal to its whole session."""
        try:
            os.killpg(self.pid, number)
        except (ProcessLookupError, PermissionError):
            pass

    def recall(self) -> None:
        """Let it start nothing more."""
        if self._recall >= 0:
            try:
                os.write(
                    self._recall, b"r"
                )  # the end of the pipe alone would not do: the guard has it open as well
            except BrokenPipeError:
                pass
            os.close(self._recall)
            self._recall = -1

    def kill_rest(self, spare: int) -> bool:
        """Kill what it has left behind: its session, its daemons. spare: a child of ours that is not touched.

        Whether something was still there.
        """
        self.signal(signal.SIGKILL)
        left = processtree.kill_below(spare=(spare, self.pid))
        return processtree.kill_marked(self._name, self.pid) or left

    def reap(self) -> Ended:
        """Collect it. It must have ended."""
        _, status, usage = self._reaped or os.wait4(self.pid, 0)
        self.recall()
        peak = usage.ru_maxrss * (1024 if sys.platform.startswith("linux") else 1)
        seconds = usage.ru_utime + usage.ru_stime
        number = os.WTERMSIG(status) if os.WIFSIGNALED(status) else None
        return Ended(None if number else os.WEXITSTATUS(status), number, peak, seconds, "")
