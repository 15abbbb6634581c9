"""Runs what a document shows.

A block of code that begins with a comment that names a file is that file: ``# count.py``. A block of language
``console`` is a terminal: after ``$`` stands what is typed, ``>`` goes on with it, and the rest is what came of it,
where ``...`` stands for anything. ``console on slurm`` is a terminal where there is a SLURM: tests/servers runs these.
``console in steering`` is one in the midst of something, which test_document_scenes.py makes: a run that is on, a tree
that is damaged, a colleague who looks on. Blocks without a language are not run: tests/unit/test_documents_are_run.py
has each command in them, and why.

A command with a remark behind it (two blanks, ``#``) shows nothing of what comes: the remark says it. It must succeed.

``/shared`` is a directory below that of the document.

All commands of a document go to one shell, one after the other, in a directory of their own: ``/home/ada``.
"""

from __future__ import annotations

import doctest
import os
import re
import shlex
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Callable, NamedTuple, Optional

from tests.system.legacy_script import CHECKOUT
from tests.system.pipelines import DEADLINE_SECONDS

HOME = "/home/ada"
SHARED = "/shared"

_BLOCK = re.compile(r"^```(\w+(?: (?:on|in) \w+)?)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
_FILE = re.compile(r"(?:#!.*\n)?# (\w[\w.-]*\.\w+)\b")
_MARK = "-- command --"
_FAILED = "-- failed --"
_REMARK = re.compile(r" {2,}# .*$")
# What a shell without a terminal says of a process in the background, sooner or later.
_KILLED = re.compile(r"^bash: line \d+: +\d+ Killed .*\n", re.MULTILINE)


class Step(NamedTuple):
    """One thing that a document has its reader do; expected is None for files, which say nothing."""

    script: str
    shown: str
    expected: str


def steps(text: str, where: str = "") -> Iterator[Step]:
    """What a document has its reader do, in order; where: in terminals on that system or in that scene only."""
    terminals = (f"console on {where}", f"console in {where}") if where else ("console",)
    for language, content in _BLOCK.findall(text):
        named = _FILE.match(content)
        if language in terminals:
            yield from _commands(content)
        elif named:
            yield Step(f"cat > {named[1]} <<'END OF FILE'\n{content}END OF FILE", f"write {named[1]}", "")


def _commands(content: str) -> Iterator[Step]:
    typed, shown = "", ""
    for line in [*content.splitlines(), "$ "]:
        if line.startswith("$ "):
            if typed and _REMARK.search(typed) and not shown:
                yield Step(f"{_REMARK.sub('', typed)} || echo {shlex.quote(_FAILED)}", typed, "...\n")
            elif typed:
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
    as_compared: Callable[[str], str] = str,
    here: Optional[Mapping[str, str]] = None,
) -> int:
    """Do it all, and compare; returns the number of steps. Raises AssertionError, which shows what differs.

    where: see `steps`; environment: variables that are needed there; as_compared: what takes out of a text what is not
    compared; here: what names of the document (a path, a port) are called on this machine.
    """
    names = {f"{SHARED}/": f"{directory}{SHARED}/", **(here or {})}
    found = list(steps(document.read_text(encoding="utf-8"), where))
    if document.parent != directory:
        for path in document.parent.glob("*.py"):
            shutil.copy(path, directory)
    script = "\n".join(f"echo {shlex.quote(_MARK)}; {step.script}" for step in found)
    for name, real in names.items():
        script = script.replace(name, real)
    said = _run(f"exec 2>&1\n{script}\n", directory, environment or {})
    for name, real in names.items():
        said = said.replace(real, name)
    said = said.replace(f"{directory}{SHARED}", SHARED).replace(str(directory), HOME)
    answers = _KILLED.sub("", said).split(f"{_MARK}\n")[1:]
    assert len(answers) == len(found), said
    checker = doctest.OutputChecker()
    for step, answer in zip(found, answers):
        assert _FAILED not in answer, f"{document.name}: {step.shown}\n{answer}"
        assert checker.check_output(as_compared(step.expected), as_compared(answer), doctest.ELLIPSIS), (
            f"{document.name}: {step.shown}\n--- shown\n{step.expected}--- came\n{answer}"
        )
    return len(found)


def without_numbers(text: str) -> str:
    """A text in which every number is the same one; how wide they were does not matter."""
    return re.sub(r" +", " ", re.sub(r"\d+(?:[.,]\d+)*", "0", text))


#: What is another in each run, and how it stands on the page as well as in what came.
_OF_A_RUN = (
    # On a busy machine only some of the files are looked at, and the line says so.
    (re.compile(r"\bOn disk: .*(?:\ndirectories .*)?"), "On disk"),
    (re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d(?:,\d{3})?"), "DATE"),
    (re.compile(r"\b(pid|port|byte|line) \d+"), r"\1 0"),
    (re.compile(r"\b127\.0\.0\.1:\d+"), "127.0.0.1:0"),
    (re.compile(r"\bmonitor-[\w.-]+-\d+\.token\b"), "monitor-HOST-0.token"),
    (re.compile(r"\b\d{10}\.\d+\b"), "SECONDS"),
    (re.compile(r"\bin \d+ files\b"), "in 0 files"),
    (re.compile(r"\b[0-9a-f]{12}\b(\.\d+)?"), "TOKEN"),
    (re.compile(r"\b\d+(?:\.\d+)? (?:B|[KMGT]iB)\b"), "SIZE"),
    (re.compile(r"\b(?:\d+d )?(?:\d+h )?(?:\d+(?:\.\d+)?s|\d+m(?: \d+s)?|\d+h)\b"), "TIME"),
    (re.compile(rf"\b(?:node1|{re.escape(socket.gethostname())})(?:-\d+-[0-9a-f]{{4}})?\b"), "HOST"),
)


def of_any_run(text: str) -> str:
    """A text without what differs from run to run: dates, pids, tokens, sizes, how long things took, this host.

    Nor where its lines end: pages break those that are longer than a page is wide.
    """
    for pattern, word in _OF_A_RUN:
        text = pattern.sub(word, text)
    return re.sub(r"\s+", " ", text).strip()


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
