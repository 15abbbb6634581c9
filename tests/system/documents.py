"""Runs what a document shows.

A block of code that begins with a comment that names a file is that file: ``# count.py``. A block of language
``console`` is a terminal: after ``$`` stands what is typed, ``>`` goes on with it, and the rest is what came of it,
where ``...`` stands for anything. Blocks without a language are not run: they need what not every machine has.

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
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from tests.system.legacy_script import CHECKOUT
from tests.system.pipelines import DEADLINE_SECONDS

HOME = "/home/ada"

_BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
_FILE = re.compile(r"# (\w[\w.-]*\.\w+)\b")
_MARK = "-- command --"
# What a shell without a terminal says of a process in the background, sooner or later.
_KILLED = re.compile(r"^bash: line \d+: +\d+ Killed .*\n", re.MULTILINE)


class Step(NamedTuple):
    """One thing that a document has its reader do; expected is None for files, which say nothing."""

    script: str
    shown: str
    expected: str


def steps(text: str) -> Iterator[Step]:
    """What a document has its reader do, in order."""
    for language, content in _BLOCK.findall(text):
        named = _FILE.match(content)
        if language == "console":
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


def check(document: Path, directory: Path) -> int:
    """Do it all, and compare; returns the number of steps. Raises AssertionError, which shows what differs."""
    found = list(steps(document.read_text(encoding="utf-8")))
    if document.parent != directory:
        for path in document.parent.glob("*.py"):
            shutil.copy(path, directory)
    script = "\n".join(f"echo {shlex.quote(_MARK)}; {step.script}" for step in found)
    said = _run(f"exec 2>&1\n{script}\n", directory)
    answers = _KILLED.sub("", said.replace(str(directory), HOME)).split(f"{_MARK}\n")[1:]
    assert len(answers) == len(found), said
    checker = doctest.OutputChecker()
    for step, answer in zip(found, answers):
        assert checker.check_output(step.expected, answer, doctest.ELLIPSIS), (
            f"{document.name}: {step.shown}\n--- shown\n{step.expected}--- came\n{answer}"
        )
    return len(found)


def _run(script: str, directory: Path) -> str:
    environment = {
        "PATH": os.pathsep.join([str(CHECKOUT / "bin"), os.path.dirname(sys.executable), os.environ["PATH"]]),
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
