"""The commands and their parsers, as all that is generated finds them: by their entry points in setup.cfg."""

from __future__ import annotations

import argparse
import configparser
import importlib
from pathlib import Path
from typing import NamedTuple

from jobtree import errors
from jobtree.errors import JobTreeError

CHECKOUT = Path(__file__).resolve().parents[2]


class Command(NamedTuple):
    """One command: its name, what it does in a few words, its parser."""

    name: str
    purpose: str
    parser: argparse.ArgumentParser

    @property
    def examples(self) -> str:
        """The examples of its --help, without their heading."""
        return (self.parser.epilog or "").partition("\n")[2]


def commands() -> list[Command]:
    """All of them, by name."""
    return [_command(*each) for each in sorted(_entry_points().items())]


def exit_statuses() -> dict[int, str]:
    """What each exit status means: those of the exceptions come from there."""
    meanings = {0: "all is well", 1: "failed jobs remain, or the answer is no"}
    for kind in vars(errors).values():
        if isinstance(kind, type) and issubclass(kind, JobTreeError) and kind.exit_status not in meanings:
            said = (kind.__doc__ or "").strip().partition("\n")[0].rstrip(".")
            meanings[kind.exit_status] = said[:1].lower() + said[1:]
    meanings[130] = "stopped by Ctrl-C (SIGINT)"
    meanings[141] = "who read its output has gone (SIGPIPE)"
    meanings[143] = "stopped by SIGTERM"
    return meanings


def _entry_points() -> dict[str, str]:
    settings = configparser.ConfigParser(interpolation=None)
    settings.read(CHECKOUT / "setup.cfg", encoding="utf-8")
    lines = settings["options.entry_points"]["console_scripts"].strip().splitlines()
    pairs = (line.partition("=") for line in lines)
    return {name.strip(): where.strip() for name, _, where in pairs}


def _command(name: str, where: str) -> Command:
    module = importlib.import_module(where.partition(":")[0])
    said = (module.__doc__ or "").partition("\n")[0]
    purpose = said.removeprefix(f"{name}: ").rstrip(".")
    return Command(name, purpose, module._parser())
