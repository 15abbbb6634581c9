"""jobTreeKill: stop a run and everything that it has started.

A master that is asked stops in order, from whatever host the request comes. One that does not answer is killed, if it
runs here, and only if the process with its pid is proved to be the one that holds the tree's lock.
"""

from __future__ import annotations

import argparse
import getpass
import os
import signal
import socket
import sys
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Optional

from jobtree import clock, lock, report, requests, snapshot
from jobtree.cli import program
from jobtree.errors import AnotherMaster, StorageError
from jobtree.lock import TreeLock
from jobtree.paths import TreePaths
from jobtree.quantities import format_duration, parse_duration
from jobtree.requests import Request
from jobtree.shown import shown

if TYPE_CHECKING:
    import psutil

_NAME = "jobTreeKill"
_LOOK_EVERY = 0.05
_ASK_EVERY = 2.0
"""A master that is just starting throws away what lay in its tray before; hence it is asked again."""
_AFTER_SIGTERM = 10.0
_AFTER_SIGKILL = 10.0


def main(argv: Optional[Sequence[str]] = None) -> int:
    """Run the command; returns its exit status."""
    return program.run(_NAME, _command, argv)


def _seconds(text: str) -> float:
    try:
        return parse_duration(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _parser() -> argparse.ArgumentParser:
    parser = program.parser(
        _NAME,
        "Stop a run: its master, and its jobs wherever they are. What is done stays done, and the tree can be "
        "continued.",
        "  jobTreeKill ./tree",
    )
    program.add_tree(parser)
    parser.add_argument(
        "--timeout",
        metavar="TIME",
        type=_seconds,
        default=30.0,
        help="how long the master may take to stop in order before it is killed, if it runs here; default: 30 s",
    )
    return parser


def _command(argv: Sequence[str]) -> int:
    arguments = _parser().parse_args(argv)
    paths, config = snapshot.find(program.tree_of(arguments))
    if not lock.is_held(paths):
        _say(f"No master runs {paths.root}.")
    elif _asked(paths, arguments.timeout):
        _say(f"The master of {paths.root} has stopped.")
    elif not _forced(paths, arguments.timeout):
        return 1
    _kill_strays(paths, config.run)
    return 0


def _kill_strays(paths: TreePaths, run: str) -> None:
    """Kill what an ended master has left here, and say how to go on."""
    from jobtree import processtree
    from jobtree.run import kill_without_master

    holder = TreeLock(paths)
    try:
        # Otherwise a master that starts at this moment would lose its workers, which carry the same mark.
        holder.acquire()
    except AnotherMaster:
        _say("Another master has just started on it. To stop that one, give the same command again.")
        return
    try:
        pids = processtree.kill_strays(run)
        killed = kill_without_master(paths, run)
    finally:
        holder.release()
    for one in killed:
        _say(f"Ended {one.cancelled} bundles in {one.backend}.")
        if one.left:
            why = f" ({one.trouble})" if one.trouble else ""
            _say(
                f"{one.left} more have been told to end and are still there{why}. They end by themselves as soon as "
                "they see it; give the same command again to look."
            )
    if pids:
        _say(f"Killed {len(pids)} processes that an earlier run had left here: {', '.join(map(str, pids))}")
    if snapshot.take(paths).state != snapshot.COMPLETE:
        _say(report.how_to_continue(paths.root))


# -- asking ----------------------------------------------------------------------------------------------------


def _asked(paths: TreePaths, timeout: float) -> bool:
    """Ask the master to stop, and wait for it. False if it has not, in that time."""
    request = Request("kill", f"{getpass.getuser()}@{socket.gethostname()} with pid {os.getpid()}")
    now = clock.elapsed()
    deadline = now + timeout
    while now < deadline:
        try:
            requests.send(paths, request)
        except StorageError as error:
            # A full disk must not keep anybody from stopping the run.
            _say(f"The master could not be asked: {error}")
            return False
        if _ended(paths, min(_ASK_EVERY, deadline - now)):
            return True
        now = clock.elapsed()
    return False


def _ended(paths: TreePaths, seconds: float) -> bool:
    """Whether the lock gets free within that time."""
    deadline = clock.elapsed() + seconds
    while lock.is_held(paths):
        if clock.elapsed() >= deadline:
            return False
        time.sleep(_LOOK_EVERY)
    return True


# -- forcing ---------------------------------------------------------------------------------------------------


def _forced(paths: TreePaths, timeout: float) -> bool:
    """Kill a master that does not answer. False if that cannot be done from here."""
    unanswered = f"The master has not stopped within {format_duration(timeout)}"
    who = lock.owner(paths)
    if who is None:
        _say(f"{unanswered}, and nothing tells where it runs. Find what has {paths.lock} open (lsof, fuser).")
        return False
    if not lock.is_here(who):
        _say(f"{unanswered}. It runs on host {who['host']} with pid {who['pid']}. Give this command there.")
        return False
    process = _holder(paths, who)
    if process is None:
        _say(
            f"{unanswered}, and the process with pid {who['pid']}, which it says it is, is not the one that holds the "
            f"lock. Find what has {paths.lock} open (lsof, fuser)."
        )
        return False
    for number, seconds in ((signal.SIGTERM, _AFTER_SIGTERM), (signal.SIGKILL, _AFTER_SIGKILL)):
        _say(f"{unanswered}: sending {number.name} to pid {process.pid}.")
        if _killed(paths, process, number, seconds):
            return True
        unanswered = "It is still there"
    _say(f"{unanswered}: the system cannot end it now (a disk that does not answer?). Try again later.")
    return False


def _killed(paths: TreePaths, process: psutil.Process, number: signal.Signals, seconds: float) -> bool:
    import psutil

    try:
        # psutil compares the start time once more, so that even now nobody else gets the signal.
        process.send_signal(number)
    except psutil.NoSuchProcess:
        pass
    return _ended(paths, seconds)


def _holder(paths: TreePaths, who: dict[str, Any]) -> Optional[psutil.Process]:
    """The process that says it is the master, if it is: then it has the lock open. (When it was started says nothing:
    told in seconds since 1970 that changes with the clock.)"""
    import psutil

    try:
        process = psutil.Process(int(who["pid"]))
        opened = {os.path.realpath(file.path) for file in process.open_files()}
    except (psutil.Error, OSError, KeyError, ValueError):
        return None
    return process if os.path.realpath(paths.lock) in opened else None


def _say(text: str) -> None:
    print(shown(text), file=sys.stdout, flush=True)
