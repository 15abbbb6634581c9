"""What the ssh batch system adds to the command line."""

from __future__ import annotations

import os
import shlex

from batchsystems.abstract import BackendOption


def _path(given: object) -> str:
    # A restart may be made in another directory.
    return os.path.abspath(os.path.expanduser(str(given)))


def _arguments(given: object) -> str:
    shlex.split(str(given))
    return str(given)


def _seconds(given: object) -> float:
    value = float(str(given))
    if not 0 <= value < 1e9:
        raise ValueError(str(given))
    return value


OPTIONS: tuple[BackendOption, ...] = (
    BackendOption(
        "--sshHosts", "The hosts, one a line: [USER@]HOST cores=8 memory=32G [python=PATH] [tmp=DIRECTORY]. May be "
        "edited while the run goes on.", None, _path, "a file", "FILE",
    ),
    BackendOption(
        "--sshArgs", "More arguments for ssh, such as '-F FILE'; default: none.", "", _arguments,
        "arguments as a shell takes them", "ARGS",
    ),
    BackendOption(
        "--sshPatience", "Seconds for which a host may be out of reach before its jobs count as lost, once their lease "
        "has run out as well; default 60.", 60.0, _seconds, "seconds, 0 or more", "SECONDS",
    ),
)  # fmt: skip
