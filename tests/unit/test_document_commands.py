"""Commands in the documents are those that there are: each line is parsed by the parser of its command.

That goes for lines that are run by tests as well as for those that nobody can run here. What follows "python X.py" is
what a pipeline takes, and options of its own, which stand in the script or on the page.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import importlib
import io
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from jobtree import Stack

CHECKOUT = Path(__file__).resolve().parents[2]
DOCUMENTS = sorted([*CHECKOUT.glob("*.md"), *(CHECKOUT / "docs").rglob("*.md")])
COMMANDS = ("Run", "Status", "Kill", "Stats", "Node", "Pool", "Monitor")
OTHERS = {
    # of ssh, pip, git, SLURM, Grid Engine, Snakemake, Toil, other programs
    "--constraint", "--array", "--job-name", "--comment", "--output", "--requeue", "--no-requeue", "--wait", "--name",
    "--cpus-per-task", "--mem", "--time", "--gres", "--signal", "--dependency", "--open-mode", "--build", "--channel",
    "--resources", "--retries", "--cores", "--executor", "--unlock", "--rerun-incomplete", "--keep-going", "--restart",
    "--all", "--kills", "--recipe", "--user", "--maxCores", "--defaultCores", "--workDir",
    "--bind", "--clean", "--directory", "--maxJobs", "--defaultDisk", "--defaultWalltime", "--stopOnFirstFailure",
    "--caching", "--snakefile", "--rerun-triggers", "--software-deployment-method",
}  # fmt: skip

_BLOCK = re.compile(r"^```[^\n]*\n(.*?)^```$", re.DOTALL | re.MULTILINE)
_SPOKEN_OF = re.compile(r"(?<![\w-])--[a-zA-Z][\w-]*")


def parser_of(command: str) -> argparse.ArgumentParser:
    module = importlib.import_module(f"jobtree.cli.{command.removeprefix('jobTree').lower()}")
    parser: argparse.ArgumentParser = module._parser()
    return parser


def pipeline_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser()
    Stack.addJobTreeOptions(parser)
    return parser


def command_lines(text: str) -> Iterator[str]:
    """What stands in blocks of code and calls one of our commands or a pipeline; a line for each."""
    for block in _BLOCK.findall(text):
        for line in block.replace("\\\n", " ").splitlines():
            typed = re.sub(r"^(\w*\$|exec srun|exec) +", "", line)
            if re.match(rf"(jobTree({'|'.join(COMMANDS)})|python [\w/.]+\.py)( |$)", typed):
                yield typed


def refused(line: str, text: str) -> str:
    """What a command's parser has against it; empty if nothing."""
    lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
    lexer.whitespace_split = True
    words: list[str] = []
    for word in lexer:
        if set(word) <= set(";|&<>"):
            if word == ">" and words[-1] == "2":
                words.pop()
            break
        words.append(word)
    pipeline = words[0] == "python"
    parser = pipeline_parser() if pipeline else parser_of(words[0])
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said), contextlib.redirect_stdout(said):
            _, unknown = parser.parse_known_args(words[1:])
    except SystemExit as end:
        return said.getvalue().splitlines()[-1] if end.code else ""
    if not pipeline:
        return f"unknown: {unknown}" if unknown else ""
    script = CHECKOUT / words[1]
    own = text + (script.read_text(encoding="utf-8") if script.is_file() else "")
    missing = [word for word in unknown if word.startswith("--") and f'add_argument("{word}"' not in own]
    return f"unknown: {missing}" if missing and "file:store" not in line else ""


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.relative_to(CHECKOUT).as_posix())
def test_command_lines_are_understood(document: Path) -> None:
    text = document.read_text(encoding="utf-8")

    complaints = {line: complaint for line in command_lines(text) if (complaint := refused(line, text))}

    assert complaints == {}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.relative_to(CHECKOUT).as_posix())
def test_code_can_be_read(document: Path) -> None:
    """By Python, or what reads YAML; whether it does what it should, those find out that run it."""
    for language, code in re.findall(
        r"^```(python|py|yaml)\n(.*?)^```$", document.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE
    ):
        if language == "yaml":
            yaml.safe_load(code)
        else:
            ast.parse(code)


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.relative_to(CHECKOUT).as_posix())
def test_options_that_are_spoken_of_are_there(document: Path) -> None:
    known = {
        flag
        for parser in [*map(parser_of, (f"jobTree{name}" for name in COMMANDS)), pipeline_parser()]
        for action in every_action(parser)
        for flag in action.option_strings
    }
    for script in (CHECKOUT / "examples").glob("*.py"):
        known.update(re.findall(r'add_argument\("(--\w+)"', script.read_text(encoding="utf-8")))
    text = document.read_text(encoding="utf-8")
    spoken_of = {flag for code in re.findall(r"`[^`]+`", text) for flag in _SPOKEN_OF.findall(code)}

    assert spoken_of - known - OTHERS == set()


def every_action(parser: argparse.ArgumentParser) -> Iterator[argparse.Action]:
    for action in parser._actions:
        yield action
        if isinstance(action, argparse._SubParsersAction):
            for below in action.choices.values():
                yield from every_action(below)


def test_a_command_that_is_wrong_is_found() -> None:
    """The test of the test."""
    typed = [
        "jobTreeStatus --faild tree | head",
        "jobTreeKill tree; echo",
        "python x.py --jobTre --reads 5 2> log",
    ]
    text = "\n".join(["```", *(f"$ {line}" for line in typed), "```", ""])

    lines = list(command_lines(text))

    assert [bool(refused(line, 'add_argument("--reads"')) for line in lines] == [True, False, True]
