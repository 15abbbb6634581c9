"""What `make share` writes for man: it shows the pages."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest

from docs.generate.commands import Command, commands, exit_statuses
from tests.requirements import require

pytestmark = pytest.mark.slow

COMMANDS = commands()


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.name)
def test_man_shows_the_page_without_complaints(share: Path, command: Command) -> None:
    man = require("man")
    environment = {**os.environ, "MANPATH": str(share / "man"), "MANWIDTH": "80", "LC_ALL": "C.UTF-8"}

    shown = subprocess.run([man, "--warnings", command.name], env=environment, capture_output=True, text=True)

    assert (shown.returncode, shown.stderr) == (0, "")
    text = re.sub("\x1b\\[[0-9;]*m|.\b", "", shown.stdout)
    page = re.sub(r"\s+", "", re.sub(r"‐\s+", "", text))
    for action in command.parser._actions:
        if action.dest != "help":
            assert all(flag in page for flag in action.option_strings)
            assert re.sub(r"\s+", "", action.help or "").replace("%%", "%") in page
    for status in exit_statuses():
        assert re.search(rf"^ +{status} +\w", text, re.MULTILINE)
    assert max(map(len, text.splitlines())) <= 80
    assert f" {command.name} " in text.partition("EXAMPLES")[2]


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.name)
def test_man_knows_what_it_is_about(share: Path, command: Command) -> None:
    """The line that `man -k` and `whatis` show."""
    reader = require("lexgrog")

    ended = subprocess.run(
        [reader, str(share / "man/man1" / f"{command.name}.1")], capture_output=True, text=True
    )

    assert ended.returncode == 0, ended
    assert f'"{command.name} - ' in ended.stdout
