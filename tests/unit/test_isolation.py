"""Between two targets: each thing that a target may change is put back, or the worker has to end.

Everything happens in a process of its own, because it changes the process.
"""

from __future__ import annotations

import gc
import io
import logging
import os
import resource
import signal
import subprocess
import sys
import tempfile
import threading
import traceback
from pathlib import Path
from typing import Any, Callable, Optional

import pytest

from jobtree.isolation import Baseline
from tests.unit.test_removing import NOBODY

Answer = tuple[Optional[str], list[str]]


class Worker:
    """A process that looks as a worker does when it starts."""

    def __init__(self, directory: Path) -> None:
        os.setpgid(0, 0)
        self.log = str(directory / "log")
        self.directory = str(directory)
        os.chdir(directory)
        for number, name in enumerate((os.devnull, self.log, self.log)):
            flags = os.O_RDONLY if number == 0 else os.O_RDWR | os.O_CREAT | os.O_APPEND
            fd = os.open(name, flags, 0o600)
            os.dup2(fd, number)
            os.close(fd)
        sys.stdin = open(0, closefd=False)  # noqa: SIM115
        sys.stdout = open(1, "w", closefd=False)  # noqa: SIM115
        sys.stderr = open(2, "w", closefd=False, buffering=1)  # noqa: SIM115
        logging.getLogger().handlers[:] = [logging.NullHandler()]
        signal.signal(signal.SIGINT, signal.default_int_handler)
        self.baseline = Baseline(self.directory, self.log)

    def after(self, target: Callable[[], object]) -> Answer:
        """Run something as a target's run(), then put everything back."""
        target()
        return self.baseline.restore()

    def can_print(self) -> bool:
        """Whether print still reaches the log."""
        print("to the output")
        print("to the errors", file=sys.stderr)
        sys.stdout.flush()
        sys.stderr.flush()
        os.system("echo from a command")
        with open(self.log) as file:
            text = file.read()
        return all(line in text for line in ("to the output", "to the errors", "from a command"))


def in_worker(directory: Path, action: Callable[[Worker], None], user: Optional[int] = None) -> None:
    """Do it in a fork; its failed assertion is ours."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        said = b""
        try:
            if user is not None and os.getuid() == 0:
                os.chmod(directory, 0o777)
                os.chdir(directory)
                os.setuid(user)
            action(Worker(directory))
        except BaseException:  # all of it goes to the parent
            said = traceback.format_exc().encode()
        os.write(writing, said)
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        failure = pipe.read().decode()
    os.waitpid(child, 0)
    assert not failure, failure


def is_put_back(directory: Path, change: Callable[[], object], look: Callable[[], Any]) -> None:
    """What is seen before is seen again after, and the worker goes on without a warning."""

    def action(worker: Worker) -> None:
        before = look()
        change()
        assert look() != before, "nothing was changed"
        assert worker.baseline.restore() == (None, [])
        assert look() == before
        assert worker.baseline.restore() == (None, [])
        assert worker.can_print()

    in_worker(directory, action)


def _replace_path() -> None:
    sys.path = ["/other"]


def _replace_environment() -> None:
    os.environ = {"PATH": "/"}  # type: ignore[assignment]  # noqa: B003  # what users do


def _remove_own_directory() -> None:
    os.mkdir("gone")
    os.chdir("gone")
    os.rmdir("../gone")


def _lower_soft_limit() -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (50, hard))


def _block_and_send() -> None:
    """Unblocked, it would end the worker."""
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGALRM])
    os.kill(os.getpid(), signal.SIGALRM)


ROOT = logging.getLogger()
CHANGES: dict[str, tuple[Callable[[], object], Callable[[], Any]]] = {
    "directory": (lambda: os.chdir("/"), os.getcwd),
    "variable added": (lambda: os.environ.update(NEW="1"), lambda: dict(os.environ)),
    "variable changed": (lambda: os.environ.update(PATH="/nowhere"), lambda: dict(os.environ)),
    "variable removed": (lambda: os.environ.pop("PATH"), lambda: dict(os.environ)),
    "environment replaced": (_replace_environment, lambda: dict(os.environ)),
    "handler": (
        lambda: signal.signal(signal.SIGTERM, signal.SIG_IGN),
        lambda: signal.getsignal(signal.SIGTERM),
    ),
    "handler of ctrl-C": (
        lambda: signal.signal(signal.SIGINT, print),
        lambda: signal.getsignal(signal.SIGINT),
    ),
    "alarm": (lambda: signal.alarm(1000), lambda: signal.getitimer(signal.ITIMER_REAL)),
    "timer of CPU time": (
        lambda: signal.setitimer(signal.ITIMER_PROF, 1000),
        lambda: signal.getitimer(signal.ITIMER_PROF),
    ),
    "timer of the user's CPU time": (
        lambda: signal.setitimer(signal.ITIMER_VIRTUAL, 1000),
        lambda: signal.getitimer(signal.ITIMER_VIRTUAL),
    ),
    "signal mask": (
        lambda: signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM, signal.SIGUSR1]),
        lambda: signal.pthread_sigmask(signal.SIG_BLOCK, []),
    ),
    "signal that was blocked": (_block_and_send, lambda: signal.pthread_sigmask(signal.SIG_BLOCK, [])),
    "recursion limit": (lambda: sys.setrecursionlimit(5000), sys.getrecursionlimit),
    "soft limit": (_lower_soft_limit, lambda: resource.getrlimit(resource.RLIMIT_NOFILE)),
    "search path changed": (lambda: sys.path.insert(0, "/other"), lambda: list(sys.path)),
    "search path replaced": (_replace_path, lambda: list(sys.path)),
    "excepthook": (lambda: setattr(sys, "excepthook", print), lambda: sys.excepthook),
    "collector": (gc.disable, gc.isenabled),
    "root logger's level": (lambda: ROOT.setLevel(1), lambda: ROOT.level),
    "root logger's handlers": (lambda: ROOT.addHandler(logging.StreamHandler()), lambda: list(ROOT.handlers)),
    "root logger's filters": (lambda: ROOT.addFilter(lambda record: False), lambda: list(ROOT.filters)),
    "logging disabled": (lambda: logging.disable(50), lambda: logging.root.manager.disable),
}


@pytest.mark.parametrize("what", CHANGES)
def test_what_a_target_changed_is_put_back(tmp_path: Path, what: str) -> None:
    change, look = CHANGES[what]

    is_put_back(tmp_path, change, look)


def test_umask_is_put_back(tmp_path: Path) -> None:
    def action(worker: Worker) -> None:
        before = os.umask(0)
        os.umask(before)
        assert worker.after(lambda: os.umask(0o777)) == (None, [])
        assert os.umask(0) == before

    in_worker(tmp_path, action)


def test_cores_are_put_back(tmp_path: Path) -> None:
    cores = os.sched_getaffinity(0)
    if len(cores) < 2:
        pytest.skip("there is one core")

    is_put_back(tmp_path, lambda: os.sched_setaffinity(0, {min(cores)}), lambda: os.sched_getaffinity(0))


def test_target_that_removed_its_working_directory_is_followed_by_one_that_has_it(tmp_path: Path) -> None:
    def action(worker: Worker) -> None:
        assert worker.after(_remove_own_directory) == (None, [])
        assert os.getcwd() == worker.directory

    in_worker(tmp_path, action)


def _detach() -> None:
    assert isinstance(sys.stdout, io.TextIOWrapper)
    sys.stdout = io.TextIOWrapper(sys.stdout.detach(), encoding="utf-8")


def _wrap() -> None:
    sys.stdout = io.TextIOWrapper(sys.stdout.buffer, encoding="utf-8")


def _redirect() -> None:
    fd = os.open("elsewhere", os.O_WRONLY | os.O_CREAT)
    os.dup2(fd, 1)
    os.dup2(fd, 2)
    os.close(fd)


STREAMS: dict[str, Callable[[], object]] = {
    "replaced": lambda: setattr(sys, "stdout", io.StringIO()),
    "none": lambda: setattr(sys, "stderr", None),
    "closed": lambda: sys.stdout.close(),
    "both closed": lambda: (sys.stdout.close(), sys.stderr.close(), sys.stdin.close()),
    "wrapped anew": _wrap,
    "detached": _detach,
    "descriptor closed": lambda: os.close(1),
    "all descriptors closed": lambda: os.closerange(0, 3),
    "descriptors lead elsewhere": _redirect,
}


@pytest.mark.parametrize("what", STREAMS)
def test_output_reaches_the_log_again(tmp_path: Path, what: str) -> None:
    def action(worker: Worker) -> None:
        for _ in range(2):
            assert worker.after(STREAMS[what]) == (None, [])
            assert worker.can_print()
            assert sys.stdin.read() == ""

    in_worker(tmp_path, action)


def test_nothing_changed_is_nothing_to_say(tmp_path: Path) -> None:
    in_worker(tmp_path, lambda worker: _assert_equal(worker.after(lambda: None), (None, [])))


def _assert_equal(found: object, expected: object) -> None:
    assert found == expected


def test_processes_left_running_are_killed_and_named(tmp_path: Path) -> None:
    def action(worker: Worker) -> None:
        processes: list[subprocess.Popen[bytes]] = []

        def target() -> None:
            processes.append(subprocess.Popen(["cat"], stdin=subprocess.PIPE))

        why, warnings = worker.after(target)
        assert why is None
        assert len(warnings) == 1
        assert "cat" in warnings[0]
        assert not os.path.exists(f"/proc/{processes[0].pid}")
        assert worker.after(lambda: None) == (None, [])

    in_worker(tmp_path, action)


def test_processes_that_have_ended_are_collected_without_a_word(tmp_path: Path) -> None:
    def action(worker: Worker) -> None:
        reading, writing = os.pipe()
        child = os.fork()
        if child == 0:
            os._exit(0)
        os.waitid(os.P_PID, child, os.WEXITED | os.WNOWAIT)
        assert worker.after(lambda: None) == (None, [])
        os.close(reading)
        os.close(writing)

    in_worker(tmp_path, action)


def test_thread_left_running_ends_the_worker_and_is_named(tmp_path: Path) -> None:
    def action(worker: Worker) -> None:
        over = threading.Event()
        why, _ = worker.after(threading.Thread(target=over.wait, name="my-thread", daemon=True).start)
        assert why is not None
        assert "my-thread" in why
        over.set()

    in_worker(tmp_path, action)


def test_thread_that_has_ended_is_no_reason_to_end(tmp_path: Path) -> None:
    def action(worker: Worker) -> None:
        def target() -> None:
            thread = threading.Thread(target=int)
            thread.start()
            thread.join()

        assert worker.after(target) == (None, [])

    in_worker(tmp_path, action)


def test_lowered_hard_limit_ends_the_worker() -> None:
    def action(worker: Worker) -> None:
        why, _ = worker.after(lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (100, 100)))
        assert why == "lowered a hard resource limit"

    with tempfile.TemporaryDirectory() as directory:  # on a path that anybody may walk
        in_worker(Path(directory), action, user=NOBODY)
