"""jobTreeMonitor: serve a web page about job trees, and an API for programs.

It only looks, unless it is told to do something.

What serves the page comes with the extra ``monitor`` and is imported only here.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import socket
import stat
from collections.abc import Iterator, Sequence
from typing import Any, Optional

from jobtree import files
from jobtree.cli import program
from jobtree.errors import UsageError
from jobtree.quantities import parse_duration
from jobtree.shown import one_line

_NAME = "jobTreeMonitor"
_EVERY_SECONDS = 2.0
_LEAST_SECONDS = 0.2


def main(argv: Optional[Sequence[str]] = None) -> int:
    """Run the command; returns its exit status."""
    return program.run(_NAME, _command, argv)


def _parser() -> argparse.ArgumentParser:
    parser = program.parser(
        _NAME,
        "Serve a page about job trees on this machine (127.0.0.1), with an API for programs. It may be ended and "
        "started at any time: runs do not notice. The address that it prints has a token in it, without which it "
        "answers nobody. From elsewhere: ssh -L 8765:127.0.0.1:8765 thisMachine, and open the same address there.",
        "  jobTreeMonitor ./tree\n  jobTreeMonitor --port 8765 ./first ./second",
    )
    parser.add_argument(
        "directories", nargs="*", metavar="DIR", help=f"job trees; default: ./{program.DEFAULT_TREE}"
    )
    parser.add_argument("--jobTree", metavar="DIR", action="append", default=[], help="one more")
    parser.add_argument(
        "--port", type=_port, default=0, metavar="N", help="the port; default: any that is free"
    )
    parser.add_argument(
        "--every",
        type=_seconds,
        default=_EVERY_SECONDS,
        metavar="TIME",
        help=f"how often to look, while somebody has the page open; default: {_EVERY_SECONDS:g} s",
    )
    parser.add_argument(
        "--tokenFile",
        metavar="FILE",
        help="keep the token in this file, and use it again if it is there; default: a file that goes at the end",
    )
    return parser


def _port(text: str) -> int:
    if not text.isdecimal() or int(text) > 65535:
        raise argparse.ArgumentTypeError(f"{text!r} was given, and a number up to 65535 is expected")
    return int(text)


def _seconds(text: str) -> float:
    try:
        seconds = parse_duration(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    if seconds < _LEAST_SECONDS:
        raise argparse.ArgumentTypeError(f"{text!r} was given, and {_LEAST_SECONDS:g} s is the least")
    return seconds


def _command(argv: Sequence[str]) -> int:
    arguments = _parser().parse_args(argv)
    try:
        from jobtree.monitor import server
        from jobtree.monitor.trees import watched
    except ModuleNotFoundError as error:
        raise UsageError(
            f"{error.name} is not installed, which {_NAME} needs. Get it with: pip install 'jobtree[monitor]'"
        ) from error
    trees = watched(list(dict.fromkeys(os.path.abspath(path) for path in _directories(arguments))))
    with contextlib.closing(server.listen(arguments.port)) as listening, _ending_in_order():
        port = listening.getsockname()[1]
        with _token(arguments.tokenFile, port) as (token, path):
            print(f"http://{server.ADDRESS}:{port}/?token={token}")
            print(f"The token is in {one_line(path)} too. End with Ctrl-C.", flush=True)
            server.serve(trees, token, listening, arguments.every)
    return 0


def _directories(arguments: argparse.Namespace) -> list[str]:
    given = [*arguments.directories, *arguments.jobTree]
    return given or [program.tree_of(argparse.Namespace(directory=None, jobTree=None))]


@contextlib.contextmanager
def _ending_in_order() -> Iterator[None]:
    """SIGTERM ends this process as Ctrl-C does, so that nothing is left behind."""

    def end(number: int, _: Any) -> None:
        raise SystemExit(128 + number)

    previous = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)


# -- the token -------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _token(path: Optional[str], port: int) -> Iterator[tuple[str, str]]:
    """The token and the file that it is in; one that was not asked for by name goes at the end. Raises UsageError."""
    from jobtree.monitor import security

    if path is not None:
        known = _read(path)
        token = known or security.new_token()
        if known is None and not files.make_once(path, token.encode(), directories=False):
            raise UsageError(f"{path} was just made by somebody else. Start again.")
        yield token, os.path.abspath(path)
        return
    home = os.environ.get("XDG_STATE_HOME") or os.path.expanduser("~/.local/state")
    path = os.path.join(home, "jobtree", f"monitor-{socket.gethostname()}-{port}.token")
    token = security.new_token()
    files.remove(path)  # of one that was killed: nobody else can have this port now
    files.make_once(path, token.encode())
    try:
        yield token, path
    finally:
        files.remove(path)


def _read(path: str) -> Optional[str]:
    """The token in a file, None if there is no such file. Raises UsageError unless it is ours alone, and a token."""
    from jobtree.monitor import security

    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise UsageError(
            f"--tokenFile {path} cannot be read: {error.strerror}. Name another file."
        ) from error
    try:
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode) or status.st_uid != os.geteuid() or status.st_mode & 0o077:
            raise UsageError(
                f"--tokenFile {path} is not a file that you alone can read, so its token is no secret. Remove it; a "
                "new one is made then."
            )
        text = os.read(fd, 1000).decode("ascii", "replace").strip()
    finally:
        os.close(fd)
    if not security.is_token(text):
        raise UsageError(
            f"--tokenFile {path} holds no token: 32 to 128 letters, digits, - and _ are expected. Remove it; a new one "
            "is made then."
        )
    return text
