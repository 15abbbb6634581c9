"""What a scheduler starts on a node for one job: it makes the job what it was asked to be, and tells how it ended.

    python -I -S .../batchsystems/on_node.py KEY < what
    python -I -S .../batchsystems/on_node.py KEY what

KEY may be the name of a variable in which the scheduler has it. What to do is JSON: {"env": {...}, "drop": [...],
"cwd": "...", "jobs": {KEY: {"name", "command", "log"}}}, one text for all jobs of an array. "drop" are variables that
came here with the submission and are not the job's. For schedulers that only know SIGKILL there are two things more:
"cancel", a directory in which a file with the job's name and seconds of grace inside says that the job is to be ended;
and "tell", true if every end is to be told.

What must hold

  - No shell sees the command; environment, directory and log are as asked. What the scheduler says of this job in its
    own variables (which devices, which node) is kept.
  - The job is a process group of its own; what is left of it when its command has ended is killed.
  - It ends as its command has: with the same exit status, or by the same signal. What cannot be told so is said
    in a line on standard error, which the scheduler keeps: "on_node NAME KIND WORDS" with KIND `status` (the command
    could not be run), `lost` (this machine could not; the exit status is 75, EX_TEMPFAIL, then), or, if that was asked
    for, `ended` (the wait status of the command) and `killed` (this process was, and the job with it).
  - Signals by which schedulers announce an end are handed on to the whole group, and it is the job that decides.
  - With "cancel" a second process, the keeper, ends the group when that is asked for, and kills it when this process
    is killed: there are schedulers that kill only the process group that they have started.

Nothing but the standard library is needed, and of this package nothing at all.
"""

from __future__ import annotations

import json
import os
import resource
import select
import signal
import sys
import time
from typing import Any

EX_TEMPFAIL = 75
_HANDED_ON = ("SIGTERM", "SIGINT", "SIGHUP", "SIGUSR1", "SIGUSR2", "SIGXCPU", "SIGCONT")
_CHANGED_BY_PYTHON = ("SIGPIPE", "SIGXFSZ")
_LOOK_SECONDS = 0.5
"""So often the keeper looks whether its job is to be ended."""


def main() -> None:
    """Run the job that the first argument names."""
    try:
        told = _read(sys.argv[2] if len(sys.argv) > 2 else None)
        job = told["jobs"][os.environ.get(sys.argv[1], sys.argv[1])]
    except (OSError, ValueError, KeyError, IndexError) as error:
        print(
            f"on_node {sys.argv[1:]} lost the description of this job cannot be read: {error!r}",
            file=sys.stderr,
        )
        sys.exit(EX_TEMPFAIL)
    name, command, log = job["name"], job["command"], job["log"]
    for variable in told["drop"]:
        os.environ.pop(variable, None)
    for variable, value in told["env"].items():
        os.environ[variable] = value
    cancelled = os.path.join(told["cancel"], name) if told.get("cancel") else None
    if cancelled is not None and _grace(cancelled) is not None:
        _say(
            name, "ended", str(int(signal.SIGTERM))
        )  # it was removed from the queue, and had left it already
        os.kill(os.getpid(), signal.SIGKILL)
    handed_on = [getattr(signal, known) for known in _HANDED_ON]
    signal.pthread_sigmask(signal.SIG_BLOCK, handed_on)  # until there is somebody to hand them on to
    try:
        output = os.open(log or os.devnull, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        read, write = os.pipe()
        child = os.fork()
    except OSError as error:
        _say(name, "lost", str(error))
        sys.exit(EX_TEMPFAIL)
    if child == 0:
        _become(command, told["cwd"], output, write)
    os.close(output)
    os.close(write)
    keeper = _start_keeper(child, name, cancelled) if cancelled is not None else None
    _hand_on(child, handed_on)
    with open(read, "rb") as pipe:
        failure = pipe.read().decode("utf-8", "replace")  # ends when the command has begun, or cannot
    status = _wait(child)
    if failure:
        _say(name, "status", failure)
    if told.get("tell"):
        _say(name, "ended", str(status))
    if keeper is not None:
        os.write(keeper, b".")
    _end_as(status)


def _read(path: str | None) -> dict[str, Any]:
    """What to do, from a file or standard input. That stays open, so that nothing else ever gets its number."""
    descriptor = 0 if path is None else os.open(path, os.O_RDONLY)
    with open(descriptor, encoding="utf-8", errors="surrogateescape", closefd=path is not None) as file:
        told: dict[str, Any] = json.load(file)
    return told


def _become(command: list[str], cwd: str, output: int, write: int) -> None:
    """In the child: become the command. Never returns."""
    os.setpgid(0, 0)
    for number in (*_CHANGED_BY_PYTHON, *_HANDED_ON):
        if hasattr(signal, number):
            signal.signal(getattr(signal, number), signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    null = os.open(os.devnull, os.O_RDONLY)
    what = cwd
    try:
        os.chdir(cwd)
        what = command[0]
        os.dup2(null, 0)
        os.dup2(output, 1)
        os.dup2(output, 2)
        os.execvp(command[0], command)
    except OSError as error:
        os.write(write, f"{what}: {error.strerror}".encode("utf-8", "replace"))
        os._exit(127 if isinstance(error, FileNotFoundError) else 126)


def _hand_on(child: int, numbers: list[signal.Signals]) -> None:
    def handler(number: int, _: object) -> None:
        _signal_group(child, number)

    try:
        os.setpgid(child, child)  # it does so too; whoever comes first
    except OSError:
        pass  # it has come first, and runs the command already
    for number in numbers:
        signal.signal(number, handler)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, numbers)


def _signal_group(child: int, number: int) -> None:
    try:
        os.killpg(child, number)
    except (ProcessLookupError, PermissionError):
        pass


def _start_keeper(child: int, name: str, cancelled: str) -> int | None:
    """Have another process watch over the group, and over this one by a pipe: its end, which only this one has."""
    alive, ours = os.pipe()
    try:
        keeper = os.fork()
    except OSError:
        return None  # no room for one more process: the scheduler's SIGKILL remains
    if keeper:
        os.close(alive)
        return ours
    os.close(ours)
    os.setsid()
    kill_at = None
    while not select.select([alive], [], [], _LOOK_SECONDS)[0]:
        grace = _grace(cancelled)
        if grace is not None and kill_at is None:
            _signal_group(child, signal.SIGTERM)
        if grace is not None:
            until = time.monotonic() + grace
            kill_at = until if kill_at is None else min(kill_at, until)
        if kill_at is not None and time.monotonic() >= kill_at:
            _signal_group(child, signal.SIGKILL)
    _signal_group(child, signal.SIGKILL)
    if not os.read(alive, 1):
        _say(name, "killed", "the scheduler, or somebody else, has killed it")
    os._exit(0)


def _grace(path: str) -> float | None:
    """The seconds of grace with which a job is to be ended; None if it is not."""
    try:
        with open(path, encoding="ascii") as file:
            return float(file.read())
    except (OSError, ValueError):
        return None  # there is none, or it is being written


def _wait(child: int) -> int:
    # It is not reaped before what it has left is killed, so that its number cannot be anybody else's by then.
    os.waitid(os.P_PID, child, os.WEXITED | os.WNOWAIT)
    _signal_group(child, signal.SIGKILL)
    return os.waitpid(child, 0)[1]


def _end_as(status: int) -> None:
    if not os.WIFSIGNALED(status):
        sys.stderr.flush()
        os._exit(os.WEXITSTATUS(status))
    number = os.WTERMSIG(status)
    resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))
    if number != signal.SIGKILL:
        signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)


def _say(name: str, kind: str, words: str) -> None:
    print(f"on_node {name} {kind} {' '.join(words.split())}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
