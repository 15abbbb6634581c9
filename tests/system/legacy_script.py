"""Writes and runs scripts in the style of the original, each in a process and a directory of its own."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import NamedTuple

CHECKOUT = Path(__file__).resolve().parents[2]

#: What nearly all scripts of the time begin with.
IMPORTS = """
import os, sys
from optparse import OptionParser
from jobTree.scriptTree.target import Target
from jobTree.scriptTree.stack import Stack
from jobTree.src.bioio import logger, system, setLoggingFromOptions

def note(text):
    with open("notes", "a") as f:
        f.write(text + "\\n")
"""

#: What nearly all end with: the first target is called Setup, the script pipeline.py.
MAIN = """
def main():
    parser = OptionParser()
    Stack.addJobTreeOptions(parser)
    options, args = parser.parse_args()
    setLoggingFromOptions(options)
    i = Stack(Setup()).startJobTree(options)
    if i:
        raise RuntimeError("Got failed jobs")

if __name__ == '__main__':
    from pipeline import *
    main()
"""


class Ran(NamedTuple):
    """How a process ended and what it printed."""

    status: int
    out: str
    err: str

    def succeeded(self) -> Ran:
        """This, after checking that the exit status was 0."""
        assert self.status == 0, f"exit status {self.status}\n{self.out}\n{self.err}"
        return self

    def failed(self, *words: str) -> Ran:
        """This, after checking that the exit status was not 0 and that the words are on standard error."""
        assert self.status != 0, f"exit status {self.status}\n{self.out}\n{self.err}"
        for word in words:
            assert word in self.err
        return self


class Place:
    """A directory with scripts in it."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def write(self, name: str, *sources: str) -> None:
        """Write a script made of these parts; the indentation that a part's lines share is taken away."""
        (self.directory / name).write_text("\n".join(map(textwrap.dedent, sources)))

    def run(self, *command: str) -> Ran:
        """Run a script of this directory, or one of the checkout's commands, and wait for its end."""
        program = self.directory / command[0]
        if not program.exists():
            program = CHECKOUT / "bin" / command[0]
        ended = subprocess.run(
            [sys.executable, str(program), *command[1:]],
            cwd=self.directory,
            env={**os.environ, "PYTHONPATH": str(CHECKOUT), "PYTHONUNBUFFERED": "1"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
        )
        return Ran(ended.returncode, ended.stdout, ended.stderr)

    def pipeline(self, source: str, *arguments: str) -> Ran:
        """Run a pipeline whose targets are given, in the form that nearly all pipelines have."""
        self.write("pipeline.py", IMPORTS, source, MAIN)
        return self.run("pipeline.py", "--jobTree", "tree", *arguments)

    def again(self, *arguments: str) -> Ran:
        """Run the same command line again."""
        return self.run("pipeline.py", "--jobTree", "tree", *arguments)

    def notes(self) -> list[str]:
        """The lines that targets have written with note(), sorted."""
        path = self.directory / "notes"
        return sorted(path.read_text().splitlines()) if path.exists() else []
