"""Write the commands' man pages, and what completes their options in bash, zsh and fish: `make share`.

    python docs/generate/share.py            into share/, where `make dist` and `pip install .` take them from
    python docs/generate/share.py DIRECTORY  anywhere else, as share/ of a prefix

Everything comes from the commands' own parsers, by argparse-manpage and shtab. An installation puts the files under
PREFIX/share, where man and the shells look for them; docs/howto/install.md says what to do where they do not.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

sys.path[0] = str(Path(__file__).resolve().parents[2])

import shtab  # noqa: E402
from argparse_manpage.manpage import Manpage  # noqa: E402

from batchsystems import registry  # noqa: E402
from docs.generate.commands import CHECKOUT, Command, commands, exit_statuses  # noqa: E402
from jobtree.option_kinds import LOG_LEVELS  # noqa: E402
from jobtree.version import VERSION  # noqa: E402

_COMPLETED_AS: dict[str, Any] = {
    "DIR": shtab.DIRECTORY,
    "FILE": shtab.FILE,
    "PATH": shtab.FILE,
}
"""What is offered for a value, by the word that stands for it in --help."""

_OPEN = ("--batchSystem", "--bigBatchSystem")
"""Options that take one of a few names, and others besides."""


def main() -> int:
    """Write everything; the exit status."""
    directory = Path(sys.argv[1]) if len(sys.argv) > 1 else CHECKOUT / "share"
    shutil.rmtree(directory / "man", ignore_errors=True)  # a command may be gone
    for name, text in files():
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return 0


def files() -> Iterator[tuple[str, str]]:
    """The name below share/, and the text, of each file."""
    os.environ["COLUMNS"] = "80"
    for command in commands():
        # Its options first: the pages change the parser.
        _say_what_values_are(command.parser)
        for shell, name in (
            ("bash", f"bash-completion/completions/{command.name}"),
            ("zsh", f"zsh/site-functions/_{command.name}"),
            ("fish", f"fish/vendor_completions.d/{command.name}.fish"),
        ):
            yield name, shtab.complete(command.parser, shell)
        yield f"man/man1/{command.name}.1", man_page(command)


def man_page(command: Command) -> str:
    """The page, in roff."""
    parser: Any = command.parser
    examples = command.examples  # of which the parser is about to know nothing
    # Lines are broken by whoever shows the page.
    parser.formatter_class = lambda prog: argparse.RawDescriptionHelpFormatter(prog, width=100_000)
    parser.epilog = None
    about = {
        "description": command.purpose,
        "project_name": "jobtree",
        "version": VERSION,
        "manual_title": "jobtree",
    }
    page = Manpage(parser, about)
    page.add_section("exit status", "=", _list(exit_statuses()))
    page.add_section("examples", "=", f".nf\n{_roff(examples)}\n.fi")
    others = ", ".join(f"\\fB{other.name}\\fR(1)" for other in commands() if other.name != command.name)
    page.add_section("see also", "=", others)
    return str(page)


def _list(entries: dict[int, str]) -> str:
    return "\n".join(f".TP\n\\fB{number}\\fR\n{_roff(meaning)}" for number, meaning in entries.items())


def _roff(text: str) -> str:
    """The text as it is, for troff: a backslash and a hyphen are themselves, a dot or quote first no request."""
    escaped = text.replace("\\", "\\e").replace("-", "\\-")
    return "\n".join(f"\\&{line}" if line.startswith((".", "'")) else line for line in escaped.splitlines())


def _say_what_values_are(parser: argparse.ArgumentParser) -> None:
    """Tell shtab, in its own way, what is to be offered for the values of arguments."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for below in action.choices.values():
                _say_what_values_are(below)
        elif action.dest in ("jobTree", "directory"):
            action.complete = shtab.DIRECTORY  # type: ignore[attr-defined]
        elif action.metavar in _COMPLETED_AS:
            action.complete = _COMPLETED_AS[str(action.metavar)]  # type: ignore[attr-defined]
        elif set(_OPEN) & set(action.option_strings):
            action.choices = registry.built_names()
        elif action.metavar == "LEVEL":
            action.choices = LOG_LEVELS
        elif isinstance(action.metavar, str) and "|" in action.metavar:
            action.choices = action.metavar.split("|")


if __name__ == "__main__":
    sys.exit(main())
