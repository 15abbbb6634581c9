"""What `make share` writes for shells: the real ones complete with it.

bash and zsh are driven as a person drives them, through a terminal: a key is pressed, and the line that results is
given to a function in place of the command, which shows what it was called with. fish tells its completions itself.
"""

from __future__ import annotations

import os
import pty
import re
import select
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from docs.generate.commands import Command, commands
from tests.requirements import missing, require
from tests.system.pipelines import DEADLINE_SECONDS

pytestmark = pytest.mark.slow

COMMANDS = commands()
BASH_COMPLETION = Path("/usr/share/bash-completion/bash_completion")

# What is typed, and the words that the command is to get.
TYPED = [
    ("jobTreeRun --batchSys\tssh --retryC\t3", ["--batchSystem", "ssh", "--retryCount", "3"]),
    ("jobTreeRun --batchSystem slu\t", ["--batchSystem", "slurm"]),
    ("jobTreeRun --durable tr\t", ["--durable", "tree"]),
    ("jobTreeRun --jobTree direc\t", ["--jobTree", "directory of trees"]),
    ("jobTreeStatus --failIf\tdirec\t", ["--failIfNotComplete", "directory of trees"]),
    ("jobTreeStats --outputFile a\t", ["--outputFile", "a file"]),
    ("jobTreePool --hub redis://h dra\t", ["--hub", "redis://h", "drain"]),
]


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A directory with something to complete."""
    (tmp_path / "directory of trees").mkdir()
    (tmp_path / "a file").touch()
    return tmp_path


@pytest.mark.parametrize(("typed", "words"), TYPED)
def test_bash_completes(share: Path, home: Path, typed: str, words: list[str]) -> None:
    shell = require("bash")
    if not BASH_COMPLETION.exists():
        missing("bash-completion is not installed (Debian: apt-get install bash-completion)")
    # Nothing of ours is sourced: bash-completion finds it when it is wanted, as it does for a user.
    start = f". {BASH_COMPLETION}; {showing(typed)}"

    with terminal([shell, "--norc", "--noprofile", "-i"], home, share) as typing:
        typing.says(start)
        assert typing.line(typed) == words


@pytest.mark.parametrize(("typed", "words"), TYPED)
def test_zsh_completes(share: Path, home: Path, typed: str, words: list[str]) -> None:
    shell = require("zsh")
    start = (
        f"fpath=({share}/zsh/site-functions $fpath); autoload -U compinit; compinit -u -D; {showing(typed)}"
    )

    with terminal([shell, "-f", "-i"], home, share) as typing:
        typing.says(start)
        assert typing.line(typed) == words


@pytest.mark.parametrize(("typed", "words"), TYPED)
def test_fish_completes(share: Path, home: Path, typed: str, words: list[str]) -> None:
    shell = require("fish")
    line = typed[: typed.index("\t")]
    environment = {**os.environ, "HOME": str(home), "XDG_DATA_DIRS": f"{share}:/usr/share"}

    ended = subprocess.run(
        [shell, "--no-config", "-c", f"source {share}/fish/vendor_completions.d/{line.split()[0]}.fish; "
         "complete -C $argv[1]", line],
        cwd=home, env=environment, capture_output=True, text=True, timeout=DEADLINE_SECONDS,
    )  # fmt: skip

    offered = [
        offer.partition("\t")[0].replace("\\ ", " ").rstrip("/") for offer in ended.stdout.splitlines()
    ]
    assert set(words) & set(offered), ended


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.name)
def test_every_option_is_offered(share: Path, home: Path, command: Command) -> None:
    """In fish, which tells all of what it knows."""
    shell = require("fish")
    asked = f"source {share}/fish/vendor_completions.d/{command.name}.fish; complete -C '{command.name} --'"

    ended = subprocess.run(
        [shell, "--no-config", "-c", asked], cwd=home, capture_output=True, text=True, check=True
    )

    actions = command.parser._actions
    flags = {flag for action in actions for flag in action.option_strings if flag.startswith("--")}
    assert {line.partition("\t")[0] for line in ended.stdout.splitlines()} == flags


def showing(typed: str) -> str:
    """A shell function in place of the command that is typed; it shows the words that it gets."""
    return f"{typed.split()[0]}() {{ printf '(%s)' \"$@\"; printf '(end)\\n'; }}"


class Typing:
    """An interactive shell at a terminal."""

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self.seen = ""
        self.told = 0

    def says(self, line: str) -> None:
        """Enter a line, and wait until the shell has done what it says."""
        self.told += 1
        # The echo of the line has the two words apart, what echo prints has them together.
        self.enter(f"{line}; echo done'-'{self.told}\n")
        self.until(rf"done-{self.told}\b")

    def line(self, typed: str) -> list[str]:
        """Type it, a key at a time for those that ask for a completion; the words that came of it."""
        before = len(self.seen)
        for part in re.split(r"(?<=\t)", typed):
            self.enter(part)
            if part.endswith("\t"):
                # The shell answers by adding to the line, of which the last thing is a blank, a slash or a bell.
                shown = len(self.seen)
                self.until(r"(?s).*[ /\a]\Z", shown + len(part) - 1)
        self.enter("\n")
        found = self.until(r"\(.*\)\(end\)", before)
        # zsh takes the slash away again that it has shown.
        return [word.rstrip("/") for word in re.findall(r"\(([^()]*)\)", found)[:-1]]

    def enter(self, keys: str) -> None:
        os.write(self.fd, keys.encode())

    def until(self, pattern: str, start: int = 0) -> str:
        """Wait until this is on the screen."""
        deadline = time.monotonic() + DEADLINE_SECONDS
        while (found := re.search(pattern, self.seen[start:])) is None:
            ready, _, _ = select.select([self.fd], [], [], max(0, deadline - time.monotonic()))
            assert ready, f"{pattern!r} never came: {self.seen!r}"
            self.seen += os.read(self.fd, 4096).decode(errors="replace")
        return found[0]


@contextmanager
def terminal(command: list[str], home: Path, share: Path) -> Iterator[Typing]:
    """A shell at a terminal of its own, in a directory that is its home."""
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(home),
        "TERM": "dumb",
        "LC_ALL": "C.UTF-8",
        "PS1": "> ",
        "XDG_DATA_DIRS": f"{share}:/usr/share",
    }
    pid, fd = pty.fork()
    if not pid:
        os.chdir(home)
        os.execve(command[0], command, environment)
    try:
        yield Typing(fd)
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        os.close(fd)
