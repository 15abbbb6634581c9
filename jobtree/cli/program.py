"""What the commands have in common, and the one place where an exception becomes a text and an exit status.

Exit status: 0 all is well; 1 failed jobs remain, or the answer is no; 2 misuse; 3 stopped, and can be continued;
4 another master runs the tree; 5 the disk refused; 130 and 143 after signals.
"""

from __future__ import annotations

import argparse
import errno
import io
import os
import signal
import sys
import textwrap
from collections.abc import Sequence
from typing import Callable, Optional

from jobtree import report
from jobtree.errors import WORKING_DIRECTORY_GONE, JobTreeError, StorageError, UsageError
from jobtree.version import VERSION

DEFAULT_TREE = "jobTree"
"""The directory that is meant when none is given."""

_REFUSED = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO})


def run(name: str, command: Callable[[Sequence[str]], int], argv: Optional[Sequence[str]]) -> int:
    """Run a command with its arguments (None: those of this process); returns the exit status."""
    if sys.stdout is None:
        # Started without an output (`>&-`): the exit status is what is asked for.
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115
    if isinstance(sys.stdout, io.TextIOWrapper) and sys.stdout.errors == "strict":
        # Letters of names that the terminal's encoding does not have are no reason to say nothing.
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        status = command(sys.argv[1:] if argv is None else argv)
        sys.stdout.flush()
        return status
    except JobTreeError as error:
        return report.end_with(error, name)
    except ModuleNotFoundError as error:
        missing = report.of_missing(error)
        if missing is None:
            raise
        return report.end_with(missing, name)
    except BrokenPipeError:
        # Who read our output has seen enough (`| head`).
        _give_up_output()
        return 128 + signal.SIGPIPE
    except OSError as error:
        # Where a file of the tree is refused, its name is told. Output has none: it goes to a full disk, say.
        if error.errno == errno.ENOENT and error.filename is None:  # os.getcwd names no file
            return report.end_with(UsageError(WORKING_DIRECTORY_GONE), name)
        if error.errno not in _REFUSED or error.filename is not None:
            raise
        _give_up_output()
        return report.end_with(StorageError(f"what it has to say cannot be written: {error.strerror}."), name)
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    except SystemExit as end:
        # How argparse ends after --help, --version and misuse.
        return end.code if isinstance(end.code, int) else 0


def _give_up_output() -> None:
    """Have what is still to be written go nowhere: Python would complain once more when it flushes at exit."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)


def parser(name: str, description: str, example: str) -> argparse.ArgumentParser:
    """A parser with what every command has."""
    made = argparse.ArgumentParser(
        prog=name,
        description=description,
        epilog=f"example:\n{example}",
        formatter_class=_Formatter,
    )
    made.add_argument("--version", action="version", version=f"{name} {VERSION}")
    return made


def add_tree(to: argparse.ArgumentParser, option_too: bool = True) -> None:
    """Add the job tree's directory to a command's arguments, in both of its forms."""
    to.add_argument("directory", nargs="?", metavar="DIR", help=f"the job tree; default: ./{DEFAULT_TREE}")
    if option_too:
        to.add_argument("--jobTree", metavar="DIR", help="the same, as the original had it")


def tree_of(arguments: argparse.Namespace) -> str:
    """The directory that the arguments name. Raises UsageError if it is named twice, or not at all."""
    plain, option = arguments.directory, arguments.jobTree
    if plain and option and os.path.abspath(plain) != os.path.abspath(option):
        raise UsageError(f"two directories were given, {plain} and {option}, and one job tree is expected.")
    given = plain or option
    if given:
        return str(given)
    if os.path.isdir(DEFAULT_TREE):
        return DEFAULT_TREE
    raise UsageError(
        f"no job tree was given, and there is no ./{DEFAULT_TREE}. Give its directory: --jobTree DIR"
    )


class _Formatter(argparse.RawDescriptionHelpFormatter):
    """Descriptions and examples as they are written, in a width that fits everywhere."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=28, width=79)

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        lines = super()._fill_text(text, width, indent).splitlines()
        return "\n".join(textwrap.fill(line, width) for line in lines)
