"""What all commands have: --version, and a --help that can be read in any window."""

from __future__ import annotations

import argparse
from typing import Any

import pytest

from docs.generate.commands import Command, commands
from jobtree.version import VERSION

COMMANDS = commands()
MOST_OPTIONS_OF_A_GROUP = 12


def groups(parser: argparse.ArgumentParser) -> list[tuple[str, list[argparse.Action]]]:
    """The groups that --help shows, with what is in them."""
    found: list[Any] = parser._action_groups
    shown = ((group.title, group._group_actions) for group in found)
    return [
        (title, [a for a in actions if a.help != argparse.SUPPRESS]) for title, actions in shown if actions
    ]


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.name)
def test_help_fits_into_80_columns(
    command: Command, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "200")

    with pytest.raises(SystemExit) as ended:
        command.parser.parse_args(["--help"])

    shown = capsys.readouterr().out.splitlines()
    assert ended.value.code == 0
    assert [line for line in shown if len(line) >= 80] == []


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.name)
def test_help_shows_examples_that_the_parser_takes(command: Command) -> None:
    examples = [line.strip() for line in command.examples.splitlines()]

    assert examples
    assert all(line.startswith(f"{command.name} ") for line in examples)


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.name)
def test_every_option_says_what_it_does(command: Command) -> None:
    silent = [
        action.dest
        for title, actions in groups(command.parser)
        for action in actions
        if not action.help and not isinstance(action, argparse._SubParsersAction)
    ]

    assert silent == []


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.name)
def test_many_options_are_shown_in_groups(command: Command) -> None:
    crowded = {title: len(actions) for title, actions in groups(command.parser)}

    assert {title: number for title, number in crowded.items() if number > MOST_OPTIONS_OF_A_GROUP} == {}


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.name)
def test_version(command: Command, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        command.parser.parse_args(["--version"])

    assert ended.value.code == 0
    assert capsys.readouterr().out == f"{command.name} {VERSION}\n"
