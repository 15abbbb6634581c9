"""The reference: Markdown made of the code's own tables, parsers and docstrings."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable, Sequence
from typing import Any, Callable

from batchsystems.abstract import AbstractBatchSystem
from docs.generate.commands import commands as all_commands
from docs.generate.commands import exit_statuses
from jobtree import environment, errors, notifying, paths, schema
from jobtree import frames as frames_module
from jobtree.option_kinds import FLAG
from jobtree.options import GROUPS as TITLES
from jobtree.options import OPTIONS, Option, backend_options
from jobtree.processtree import BUNDLE_MARK


def options() -> str:
    """Every option of a run, group by group, and then those of each batch system."""
    everything = (*OPTIONS, *backend_options())
    titles = dict.fromkeys(option.group for option in everything)
    parts = []
    for title in titles:
        heading = title.removeprefix("jobTree ").removeprefix("options ").removeprefix("for ")
        parts += [
            f"## {heading[:1].upper()}{heading[1:]}",
            TITLES.get(title, "Only for jobs that run there."),
        ]
        rows = [_row(option) for option in everything if option.group == title]
        parts.append(_table(("option", "value", "default", "what it does"), rows))
    return "\n\n".join(parts)


def _row(option: Option) -> Sequence[str]:
    what = re.sub(r"[;,:] default:? [^;]*$", "", option.help.rstrip(".")).rstrip(".") + "."
    said = re.search(r"[;,:] default:? ([^;]*?)\.?$", option.help)
    default = said[1] if said else _shown(option.default)
    return f"`{option.flag}`", "" if option.kind is FLAG else option.kind.expected, default, what


def _shown(default: Any) -> str:
    return "" if default is None or default is False or default == 2**63 - 1 else str(default)


def commands() -> str:
    """What each command says with --help."""
    parts = []
    for command in all_commands():
        purpose = command.purpose[:1].upper() + command.purpose[1:]
        shown = command.parser.format_help().rstrip()
        parts += [f"## {command.name}", f"{purpose}.", f"```text\n{shown}\n```"]
    return "\n\n".join(parts)


def statuses() -> str:
    """What each exit status means."""
    rows = [(str(number), meaning) for number, meaning in sorted(exit_statuses().items())]
    return _table(("exit status", "meaning"), rows)


def exceptions() -> str:
    """The tree of exceptions, as it is drawn in the module."""
    drawn = (errors.__doc__ or "").split("\n\n")[1]
    return f"```text\n{drawn}\n```"


def raised() -> str:
    """The page of each exception."""
    kinds = [kind.__name__ for kind in vars(errors).values() if isinstance(kind, type)]
    entries = [f".. autoexception:: jobtree.errors.{name}" for name in kinds if name != "BrokenInvariant"]
    return "\n".join(["```{eval-rst}", *entries, "```"])


def contract() -> str:
    """What a batch system must do."""
    said = inspect.cleandoc(AbstractBatchSystem.__doc__ or "").partition("\n\n")[2]
    return f"```text\n{said}\n```"


def files() -> str:
    """What lies in a job tree."""
    rows = []
    for line in (paths.__doc__ or "").split("\n\n")[1].splitlines():
        found = re.match(r" {4}(\S+(?: \(.*?\))?) +(.*?)\s*(?:\((jobtree\.\w+)\))?$", line)
        assert found is not None, line
        rows.append((f"`{found[1]}`", found[2], f"`{found[3]}`" if found[3] else ""))
    return _table(("name", "what it is", "described in"), rows)


def frames() -> str:
    """How bundles and outcomes are laid out."""
    return f"```text\n{frames_module.__doc__}```"


def tables() -> str:
    """The tables of the database."""
    return f"```sql\n{schema.SCHEMA.strip()}\n```"


READ = {
    "TMPDIR": "local temporary directories are below it, on each machine by its own",
    "TERM": "a live line is shown where it is neither empty nor `dumb`",
    "CUDA_VISIBLE_DEVICES": "graphics cards that may be used on this machine; set for each target that reserves some",
    "XDG_STATE_HOME": "where `jobTreeMonitor` keeps what it needs again; otherwise `~/.local/state`",
    "XDG_CONFIG_HOME": "where `--installService` writes its unit; otherwise `~/.config`",
    "USER": "whose jobs `qstat` is asked about",
    "SGE_ROOT": "where Grid Engine is, and its library",
    "DRMAA_LIBRARY_PATH": "the library of `--batchSystem drmaa` and `gridEngine`, if `--drmaaLibrary` does not name it",
    "SLURMD_NODENAME": "what a SLURM node is called in messages",
    "HOST": "what a Parasol node is called in messages",
}
"""Variables of its own environment that jobtree goes by."""


def variables() -> str:
    """The environment variables that jobtree itself has something to do with."""
    told = notifying.variables("", notifying.Ending("", "", 0, 0, 0, 0.0))
    rows = [
        *((f"`{name}`", f"read: {what}") for name, what in READ.items()),
        (
            _names(told),
            "set for the command of `--onEnd`: the job tree, how it ended and why, how many jobs, for how long",
        ),
        (
            _names(("JOBTREE_RUN", BUNDLE_MARK)),
            "set for processes of targets: what is left of a run is found by them",
        ),
        (_names(environment.THREADS), "follow the cores of the target, unless you have set them"),
        (
            _names(environment.OF_THE_MACHINE),
            "are the machine's, and not handed on from the start to targets",
        ),
        (_names(environment.OF_THE_JOB), "are of the master's own job, and not handed on"),
    ]
    return _table(("variables", "what happens to them"), rows)


def _names(names: Iterable[str]) -> str:
    return " ".join(f"`{name}`" for name in names)


def _table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [headings, ["---"] * len(headings), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


MAKERS: tuple[Callable[[], str], ...] = (
    options,
    commands,
    statuses,
    exceptions,
    raised,
    contract,
    files,
    frames,
    tables,
    variables,
)
