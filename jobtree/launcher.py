"""The launcher: a process that has imported the user's code already and forks a worker in a millisecond.

What must hold
  - It is a fresh interpreter started by exec, never a fork of the master: no lock, no database handle, no thread of the
    master's is in it. It imports the user's script under its importable name, never as ``__main__``.
  - It is the parent of every worker on this machine: it takes exit status, peak memory and CPU time, kills what a
    worker leaves of its process group, finds its daemons (which come to us as orphans), and removes its local temporary
    directory if it died.
  - It dies with the master, and its workers die with it.
  - If importing the user's code left threads running, or on systems where forking after imports is not safe (macOS), it
    starts each worker as a new interpreter instead, and says so once.

Both directions of the socket to the master carry frames (jobtree.frames).
  master to launcher:  ("start", name, bundle, cpu)   ("signal", name, number)
  launcher to master:  ("ended", name, wait status, peak memory in bytes, CPU seconds)   ("notice", text)
"""

from __future__ import annotations

import gc
import os
import resource
import select
import signal
import socket
import subprocess
import sys
import threading
import traceback
from typing import Any, Optional

from jobtree import environment, files, frames, processtree, tempdirs, worker
from jobtree.blame import EX_SOFTWARE
from jobtree.environment import Environment
from jobtree.paths import TreePaths

START = "start"
SIGNAL = "signal"
ENDED = "ended"
NOTICE = "notice"


def command(role: str, *arguments: str) -> list[str]:
    """The argument list that starts this module in a fresh interpreter: role "launcher", "worker", "supervised" or
    "debug"."""
    here = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    # Not -m: jobtree need not be on the recorded sys.path, and the working directory must not be searched for it.
    code = (
        f"import sys; sys.path[:] = [{here!r}, *filter(None, sys.path)]; "
        "from jobtree.launcher import main; main(sys.argv[1:])"
    )
    return [sys.executable, "-c", code, role, *arguments]


def main(arguments: list[str]) -> None:
    """Entry point of the fresh interpreter."""
    role, root = arguments[:2]
    if role == "launcher":
        parent, fd, run, mode = int(arguments[2]), int(arguments[3]), arguments[4], arguments[5]
        processtree.die_with_parent(parent)
        status = Launcher(root, socket.socket(fileno=fd), run, mode).serve()
    elif role == "debug":
        from jobtree import debugging  # workers are forked without it

        recorded = _take_over(root)
        os.chdir(recorded.directory)
        _import_all(recorded)
        status = debugging.run(root, arguments[2])
    else:
        parent, bundle = int(arguments[2]), int(arguments[3])
        recall = int(arguments[4]) if role == "supervised" else None
        processtree.die_with_parent(parent)
        recorded = _take_over(root)
        _import_all(recorded)
        status = _work(root, bundle, recorded.directory, parent, recall)
    worker.exit_now(status)


def _take_over(root: str) -> Environment:
    recorded = Environment.from_json(files.read_json(TreePaths(root).environment))
    environment.take_over(recorded)
    return recorded


def _import_all(recorded: Environment) -> None:
    """Import the user's code. A failure is told later, by the target that needs it."""
    for name in recorded.preload:
        try:
            environment.import_module(name)
        except (Exception, SystemExit):  # whoever needs the module will say what it raised
            continue


def _work(root: str, bundle: int, directory: str, parent: int, recall: Optional[int] = None) -> int:
    """Be a worker: in a session of its own, dying with its parent, holding on to what it starts.

    recall: the descriptor by which a supervisor says that nothing more is to be started.
    """
    if os.getpid() != os.getsid(0):
        os.setsid()
    processtree.die_with_parent(parent)
    processtree.adopt_orphans()
    return worker.run_bundle(root, bundle, directory, recall)


def prepare_to_fork(root: str) -> None:
    """Do once what every worker would do for itself otherwise. root: the job tree."""
    # It remembers: finding it out takes a worker a sixth of what a bundle costs it.
    files.filesystem_type(root)
    gc.collect()
    gc.freeze()  # what was imported is not looked at again, and so not copied by every fork


class Launcher:
    """Serves one master until that closes the socket."""

    def __init__(self, root: str, connection: socket.socket, run: str, mode: str) -> None:
        self._root = root
        self._connection = connection
        self._run = run
        self._mode = mode
        self._workers: dict[int, tuple[str, int]] = {}
        self._pids: dict[str, int] = {}
        self._received = b""

    def serve(self) -> int:
        """Fork workers as asked until the master is gone; returns the exit status."""
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            # A terminal's signals and a stranger's go to the master, which decides.
            signal.signal(number, signal.SIG_IGN)
        processtree.adopt_orphans()
        self._recorded = _take_over(self._root)
        self._set_threads(os.environ)
        _import_all(self._recorded)
        self._check_threads()
        prepare_to_fork(self._root)
        wakeup = self._watch_children()
        poll = select.poll()
        poll.register(self._connection, select.POLLIN)
        poll.register(wakeup, select.POLLIN)
        while True:
            for fd, _ in poll.poll():
                if fd == wakeup:
                    self._drain(wakeup)
                    self._collect()
                elif not self._receive():
                    self._end()
                    return 0

    def _watch_children(self) -> int:
        read, write = os.pipe()
        os.set_blocking(read, False)
        os.set_blocking(write, False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(write, warn_on_full_buffer=False)
        self._wakeup = (read, write)
        return read

    @staticmethod
    def _drain(fd: int) -> None:
        try:
            while os.read(fd, 4096):
                pass
        except BlockingIOError:
            pass

    def _set_threads(self, variables: Any, cpu: float = 1) -> None:
        variables.update(environment.thread_variables(self._recorded.variables, cpu))

    def _check_threads(self) -> None:
        if self._mode == "":
            self._mode = "fork" if sys.platform.startswith("linux") else "spawn"
            if self._mode == "fork" and threading.active_count() > 1:
                self._mode = "spawn"
                names = ", ".join(t.name for t in threading.enumerate() if t is not threading.main_thread())
                self._send(
                    NOTICE,
                    f"importing the pipeline's modules left threads running ({names}), which a fork would break: each "
                    "worker is a new interpreter, which costs some 50 ms more. --start fork forks all the same.",
                )

    # -- messages ----------------------------------------------------------------------------------------------

    def _send(self, *body: Any) -> None:
        try:
            self._connection.sendall(frames.encode(body))
        except OSError:
            pass  # the master is gone, which the next read says too

    def _receive(self) -> bool:
        """Act on what the master says; False when it is gone."""
        try:
            data = self._connection.recv(1 << 16)
        except OSError:
            return False
        if not data:
            return False
        received = self._received + data
        found = frames.decode(received)
        self._received = received[found[-1].end :] if found else received
        for message in (frame.body for frame in found):
            if message[0] == START:
                self._start(*message[1:])
            else:
                self._signal(*message[1:])
        return True

    def _start(self, name: str, bundle: int, cpu: float, variables: dict[str, str]) -> None:
        start = self._spawn if self._mode == "spawn" else self._fork
        pid = start(bundle, cpu, variables)
        self._workers[pid] = (name, bundle)
        self._pids[name] = pid

    def _fork(self, bundle: int, cpu: float, variables: dict[str, str]) -> int:
        parent = os.getpid()
        pid = os.fork()
        if pid:
            return pid
        status = EX_SOFTWARE
        try:
            signal.set_wakeup_fd(-1)
            self._connection.close()
            for fd in self._wakeup:
                os.close(fd)
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGCHLD):
                signal.signal(
                    number, signal.SIG_DFL if number != signal.SIGINT else signal.default_int_handler
                )
            self._set_threads(os.environ, cpu)
            os.environ.update(variables)
            status = _work(self._root, bundle, self._recorded.directory, parent)
        finally:
            try:
                if sys.exc_info()[0] is not None:
                    traceback.print_exc()  # into the log: an error of ours, or of a target that has changed ours
            finally:
                worker.exit_now(status)

    def _spawn(self, bundle: int, cpu: float, variables: dict[str, str]) -> int:
        env = dict(os.environ)
        self._set_threads(env, cpu)
        process = subprocess.Popen(
            command("worker", self._root, str(os.getpid()), str(bundle)),
            env={**env, **variables},
            stdin=subprocess.DEVNULL,
            start_new_session=True,
        )
        process.returncode = 0  # we collect it ourselves; this keeps Popen from complaining that nobody did
        return process.pid

    def _signal(self, name: str, number: int) -> None:
        pid = self._pids.get(name)
        if pid is not None:
            _signal_group(pid, number)

    # -- ends --------------------------------------------------------------------------------------------------

    def _collect(self) -> None:
        """Collect every child that has ended: workers are reported, orphans just go."""
        while True:
            try:
                pid, status, usage = os.wait4(-1, os.WNOHANG)
            except ChildProcessError:
                break
            if pid == 0:
                break
            if pid in self._workers:
                self._worker_ended(pid, status, usage)
        self._kill_orphans()

    def _worker_ended(self, pid: int, status: int, usage: resource.struct_rusage) -> None:
        name, bundle = self._workers.pop(pid)
        del self._pids[name]
        _signal_group(pid, signal.SIGKILL)
        self._kill_orphans()
        tempdirs.remove_local(
            self._run, bundle
        )  # a worker that ended by itself has done so; os._exit has not
        peak = usage.ru_maxrss * (1024 if sys.platform.startswith("linux") else 1)
        self._send(ENDED, name, status, peak, usage.ru_utime + usage.ru_stime)

    def _kill_orphans(self) -> None:
        """Kill our children that are not workers: daemons that a dead worker's targets left behind."""
        for pid in _children():
            if pid not in self._workers:
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:
                    pass

    def _end(self) -> None:
        """The master is gone or has closed: take everything with us."""
        workers, self._workers = self._workers, {}
        for pid in workers:
            _signal_group(pid, signal.SIGKILL)
        for pid in workers:
            try:
                os.waitpid(pid, 0)
            except ChildProcessError:
                pass
            _signal_group(pid, signal.SIGKILL)
        processtree.kill_descendants()
        for _, bundle in workers.values():
            tempdirs.remove_local(self._run, bundle)


def _signal_group(pid: int, number: int) -> None:
    try:
        os.killpg(pid, number)
    except ProcessLookupError:
        try:
            os.kill(pid, number)  # it has not made its session yet
        except ProcessLookupError:
            pass
    except PermissionError:
        pass  # macOS says so of a group that holds only zombies


def _children() -> list[int]:
    try:
        with open(f"/proc/self/task/{os.getpid()}/children", encoding="ascii") as file:
            return [int(pid) for pid in file.read().split()]
    except OSError:
        return []


def read_mode(setting: Optional[str]) -> str:
    """--start as the launcher takes it: "fork", "spawn", or "" to choose."""
    return setting or ""
