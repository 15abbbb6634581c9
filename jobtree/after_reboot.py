"""What continues a tree after the machine was started anew: the text of a systemd user unit, and a line of a crontab.

Starting is recovering, so all that is needed is that somebody starts ``jobTreeRun``. The unit does, once the file
systems that it needs are mounted, and again when the master was killed or the disk refused; not when it ended as it
should, was stopped, or another master has the tree. A target that the kernel kills for its memory ends neither the
master nor the unit, and on a stop the master alone is told, which ends its workers itself.

Names of files may hold anything. systemd's rules (systemd.service(5), systemd.syntax(7), and its version 252): ``%``
begins a specifier and is doubled, and so is ``$`` in the arguments of a command, where it begins a variable. Between
double quotes a command knows C's escapes, a path to be mounted only those of quotes and backslashes: of one with other
bytes the part before them is named. The program itself may hold no quotes, backslashes or control characters at all:
there a shell starts it. In a crontab ``%`` ends the command unless a backslash is before it, and no line can hold a
newline.
"""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Mapping, Sequence
from typing import Optional

_VARIABLES = (
    "PATH", "LD_LIBRARY_PATH", "PYTHONPATH", "VIRTUAL_ENV", "CONDA_PREFIX", "TMPDIR", "LANG", "LC_ALL", "TZ"
)  # fmt: skip
"""What decides how programs are found and speak; a service has next to nothing of it by itself."""

_NO_RESTART = "1 2 3 4 129 130 143"
"""Exit statuses: failed jobs remain, misuse, stopped, another master, stopped by a signal."""

_RESTART_SECONDS = 60


def name_of(run: str) -> str:
    """The name of the unit of a tree, by its run token."""
    return f"jobtree-{run}.service"


def variables_of(environment: Mapping[str, str]) -> dict[str, str]:
    """What of an environment goes into the unit; systemd takes no values that are not UTF-8."""
    found = {name: environment.get(name, "") for name in _VARIABLES}
    return {name: value for name, value in found.items() if value and _is_plain(value)}


def unit(
    root: str, command: Sequence[str], places: Sequence[str], variables: Mapping[str, str], grace: float
) -> str:
    """The text of the unit. places: directories that must be mounted; grace: seconds that ending the run may take."""
    lines = [
        "# Written by jobTreeRun --installService; taken away by jobTreeRun --removeService.",
        "[Unit]",
        f"Description=jobtree {_specifiers(_one_line(root))}",
        *(f"RequiresMountsFor={plainly_quoted(_plain_part(place))}" for place in places),
        "",
        "[Service]",
        f"ExecStart={command_line(command)}",
        *(f"Environment={quoted(f'{name}={value}')}" for name, value in variables.items()),
        "Restart=on-failure",
        f"RestartPreventExitStatus={_NO_RESTART}",
        f"RestartSec={_RESTART_SECONDS}",
        "# Only the master is told to stop; it ends its workers, and what it leaves is killed after that.",
        "KillMode=mixed",
        f"TimeoutStopSec={grace:.0f}",
        "# A target that needs too much memory is the run's affair.",
        "OOMPolicy=continue",
        "",
        "[Install]",
        "WantedBy=default.target",
    ]
    return "\n".join(lines) + "\n"


def quoted(text: str) -> str:
    """One word of a unit, whatever is in it."""
    return '"' + _specifiers("".join(map(_escaped, os.fsencode(text).decode("latin-1")))) + '"'


def plainly_quoted(text: str) -> str:
    """The same for the settings that know no escapes but those of quotes and backslashes."""
    return '"' + _specifiers(text.replace("\\", "\\\\").replace('"', '\\"')) + '"'


def _plain_part(path: str) -> str:
    """The path, or the nearest directory above it that can be said without escapes."""
    while not _is_plain(path):
        path = os.path.dirname(path)
    return path


def _is_plain(text: str) -> bool:
    return text.isprintable()  # bytes that are no UTF-8 are not: Python keeps them as surrogates


def command_line(command: Sequence[str]) -> str:
    """A command as ExecStart has it."""
    program, *arguments = command
    if re.search(r"[\"'\\\x00-\x1f\x7f]", program):
        program, arguments = "/bin/sh", ["-c", 'exec "$@"', "sh", *command]
    return " ".join([quoted(program), *(quoted(word).replace("$", "$$") for word in arguments)])


def crontab_line(command: Sequence[str], variables: Mapping[str, str]) -> Optional[str]:
    """A line for a crontab that does the same at each start of the machine; None if a crontab cannot hold it."""
    words = [f"{name}={shlex.quote(value)}" for name, value in variables.items()]
    line = " ".join([*words, shlex.join(command)])
    if not line.isprintable() or "\\%" in line:
        return None
    return "@reboot " + line.replace("%", "\\%")


def _escaped(byte: str) -> str:
    if byte in '"\\':
        return "\\" + byte
    return byte if " " <= byte <= "~" else f"\\x{ord(byte):02x}"


def _specifiers(text: str) -> str:
    return text.replace("%", "%%")


def _one_line(text: str) -> str:
    # A backslash at the end of a line would join it with the next.
    return "".join(c if c.isprintable() and c != "\\" else "?" for c in text)
