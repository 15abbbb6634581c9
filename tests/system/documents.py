"""Runs what a document shows.

A block of code that begins with a comment that names a file is that file: ``# count.py``. A block of language
``console`` is a terminal: after ``$`` stands what is typed, ``>`` goes on with it, and the rest is what came of it,
where ``...`` stands for anything. ``console on slurm`` is a terminal where there is a SLURM: tests/servers runs these.
Blocks without a language are not run: they need what not every machine has.

``/shared`` is a directory below that of the document.

All commands of a document go to one shell, one after the other, in a directory of their own: ``/home/ada``.
"""

from __future__ import annotations

import doctest
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple, Optional

from tests.system.legacy_script import CHECKOUT
from tests.system.pipelines import DEADLINE_SECONDS

HOME = "/home/ada"
SHARED = "/shared"

_BLOCK = re.compile(r"^```(\w+(?: on \w+)?)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
_FILE = re.compile(r"(?:#!.*\n)?# (\w[\w.-]*\.\w+)\b")
_MARK = "-- command --"
# What a shell without a terminal says of a process in the background, sooner or later.
_KILLED = re.compile(r"^bash: line \d+: +\d+ Killed .*\n", re.MULTILINE)


class Step(NamedTuple):
    """One thing that a document has its reader do; expected is None for files, which say nothing."""

    script: str
    shown: str
    expected: str


def steps(text: str, where: str = "") -> Iterator[Step]:
    """What a document has its reader do, in order; where: in terminals on that system, and no others."""
    for language, content in _BLOCK.findall(text):
        named = _FILE.match(content)
        if language == (f"console on {where}" if where else "console"):
            yield from _commands(content)
        elif named:
            yield Step(f"cat > {named[1]} <<'END OF FILE'\n{content}END OF FILE", f"write {named[1]}", "")


def _commands(content: str) -> Iterator[Step]:
    typed, shown = "", ""
    for line in [*content.splitlines(), "$ "]:
        if line.startswith("$ "):
            if typed:
                yield Step(typed, typed, shown)
            typed, shown = line[2:], ""
        elif line.startswith("> ") and not shown:
            typed += "\n" + line[2:]
        else:
            shown += line + "\n"


def check(
    document: Path,
    directory: Path,
    where: str = "",
    environment: Optional[Mapping[str, str]] = None,
    numbers: bool = True,
) -> int:
    """Do it all, and compare; returns the number of steps. Raises AssertionError, which shows what differs.

    where: see `steps`; environment: variables that are needed there; numbers: False: they are those of another run.
    """
    found = list(steps(document.read_text(encoding="utf-8"), where))
    if document.parent != directory:
        for path in document.parent.glob("*.py"):
            shutil.copy(path, directory)
    script = "\n".join(f"echo {shlex.quote(_MARK)}; {step.script}" for step in found)
    script = script.replace(f"{SHARED}/", f"{directory}{SHARED}/")
    said = _run(f"exec 2>&1\n{script}\n", directory, environment or {})
    said = said.replace(f"{directory}{SHARED}", SHARED).replace(str(directory), HOME)
    answers = _KILLED.sub("", said).split(f"{_MARK}\n")[1:]
    assert len(answers) == len(found), said
    checker = doctest.OutputChecker()
    as_compared = str if numbers else without_numbers
    for step, answer in zip(found, answers):
        assert checker.check_output(as_compared(step.expected), as_compared(answer), doctest.ELLIPSIS), (
            f"{document.name}: {step.shown}\n--- shown\n{step.expected}--- came\n{answer}"
        )
    return len(found)


def without_numbers(text: str) -> str:
    """A text in which every number is the same one; how wide they were does not matter."""
    return re.sub(r" +", " ", re.sub(r"\d+(?:[.,]\d+)*", "0", text))


def _run(script: str, directory: Path, more: Mapping[str, str]) -> str:
    commands = [
        str(directory / "bin"),
        str(CHECKOUT / "bin"),
        os.path.dirname(sys.executable),
        os.environ["PATH"],
    ]
    environment = {
        **more,
        "PATH": os.pathsep.join(commands),
        "PYTHONPATH": str(CHECKOUT),
        "PYTHONDONTWRITEBYTECODE": "1",
        "HOME": str(directory),
        "USER": "ada",
        "LC_ALL": "C.UTF-8",
        "COLUMNS": "100",
    }
    ended = subprocess.run(
        ["bash", "-c", script],
        cwd=directory, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
        text=True, timeout=5 * DEADLINE_SECONDS,
    )  # fmt: skip
    return ended.stdout
