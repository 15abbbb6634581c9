"""Writes pipelines of today into a directory and runs them, each in a process of its own.

A pipeline is a script of which only the targets are given; the first one is called ``Setup``. Targets tell what they
have done with ``note()``, which appends a line to a file, so that what ran twice is counted twice.
"""

from __future__ import annotations

import glob
import json
import os
import re
import subprocess
import sys
import tempfile
import textwrap
import time
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Callable, Optional

from tests.system.legacy_script import CHECKOUT, Ran

DEADLINE_SECONDS = 60.0
"""For what takes a moment here, and longer on a machine that is busy; nothing waits for it to pass."""

IMPORTS = """
import os, signal, sys
from jobtree import Stack, Target

HERE = os.path.dirname(os.path.abspath(__file__))

def note(text, name="notes"):
    with open(os.path.join(HERE, name), "a") as file:
        file.write("%s\\n" % (text,))
"""

MAIN = """
def main():
    import argparse
    parser = argparse.ArgumentParser()
    Stack.addJobTreeOptions(parser)
    options = parser.parse_args()
    stack = Stack(Setup())
    failed = stack.startJobTree(options)
    print("failed:", failed)
    if not failed:
        print("result:", repr(stack.result())[:2000])
    sys.exit(1 if failed else 0)

if __name__ == "__main__":
    main()
"""


def script(*sources: str) -> str:
    """The text of a script of these parts; the indentation that a part's lines share is taken away."""
    return "\n".join(map(textwrap.dedent, sources))


def variables(changes: Optional[Mapping[str, Optional[str]]] = None) -> dict[str, str]:
    """The environment of a script: this one, with the checkout to be found. None takes a variable away."""
    changed: dict[str, Optional[str]] = {
        **os.environ,
        "PYTHONPATH": str(CHECKOUT),
        "PYTHONDONTWRITEBYTECODE": "1",
        **(changes or {}),
    }
    return {name: value for name, value in changed.items() if value is not None}


class Pipeline:
    """A directory with one pipeline (or more) in it."""

    def __init__(self, directory: Path, targets: Optional[str] = None, name: str = "pipeline.py") -> None:
        self.directory = directory
        self.name = name
        self.tree = directory / "tree"
        if targets is not None:
            self.edit(targets)

    def edit(self, targets: str) -> None:
        """Write the script, anew if there is one."""
        self.write(self.name, IMPORTS, targets, MAIN)

    def write(self, name: str, *sources: str) -> Path:
        """Write any file made of these parts."""
        path = self.directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(script(*sources))
        return path

    def command(self, *arguments: str) -> list[str]:
        """The command that runs the script."""
        return [sys.executable, str(self.directory / self.name), "--jobTree", str(self.tree), *arguments]

    def run(self, *arguments: str, env: Optional[Mapping[str, Optional[str]]] = None) -> Ran:
        """Run the script to its end, or go on with it."""
        return self.run_command(self.command(*arguments), env=env)

    def run_command(
        self,
        command: list[str],
        env: Optional[Mapping[str, Optional[str]]] = None,
        cwd: Optional[Path] = None,
        text: str = "",
    ) -> Ran:
        """Run any command in the directory to its end. text: what it reads from standard input."""
        ended = subprocess.run(
            command,
            cwd=cwd or self.directory,
            env=variables(env),
            input=text,
            capture_output=True,
            text=True,
            errors="backslashreplace",
            timeout=DEADLINE_SECONDS,
        )
        return Ran(ended.returncode, ended.stdout, ended.stderr)

    def program(self, name: str, *arguments: str) -> Ran:
        """Run one of the checkout's commands to its end."""
        return self.run_command([sys.executable, str(CHECKOUT / "bin" / name), *arguments])

    def notes(self, name: str = "notes") -> list[str]:
        """What targets have noted, in order."""
        path = self.directory / name
        return path.read_text().splitlines() if path.exists() else []

    def counted(self, name: str = "notes") -> Counter[str]:
        """What targets have noted, and how often."""
        return Counter(self.notes(name))

    def token(self) -> str:
        """The run's token, which names its processes and temporary directories."""
        token: str = json.loads((self.tree / "config.json").read_text())["run"]
        return token

    def leftovers(self, temporary: Optional[str] = None) -> list[str]:
        """What lies in the temporary directory and in the job tree that should be there no more after the end."""
        found = glob.glob(os.path.join(temporary or tempfile.gettempdir(), f"jobtree-{self.token()}-*"))
        for name in ("bundles", "claims", "outcomes", "requests"):
            found += [str(path) for path in (self.tree / name).rglob("*") if not path.is_dir()]
        found += [str(path) for path in (self.tree / "globalTempDirs").rglob("*")]
        return found


def wait_until(condition: Callable[[], object], what: str, seconds: float = DEADLINE_SECONDS) -> None:
    """Wait for something that will come, of which nobody tells us."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"waited in vain: {what}"
        time.sleep(0.01)


def failures(err: str) -> dict[str, str]:
    """What a run said of the jobs that it gave up: by name of class or function, without its module."""
    found: dict[str, list[str]] = {}
    lines: Optional[list[str]] = None
    for line in err.splitlines():
        start = re.match(r"Job \S+ \((.*?)\) failed and is given up: ", line)
        if start:
            lines = found.setdefault(start.group(1).rpartition(".")[2], [])
        elif not line.startswith(" "):
            lines = None
        if lines is not None:
            lines.append(line)
    return {name: "\n".join(block) for name, block in found.items()}
