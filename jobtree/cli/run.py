"""jobTreeRun: continue a job tree, or make one whose first target is a command line."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Optional

from jobtree import files, options
from jobtree.cli import hosts, program, steer
from jobtree.errors import DamagedFile, UsageError
from jobtree.options import OPTIONS, Settings, backend_options
from jobtree.paths import TreePaths
from jobtree.quantities import format_memory
from jobtree.shown import one_line, shown

if TYPE_CHECKING:
    from jobtree.target import Target

_NAME = "jobTreeRun"


class _NotGiven:
    """Stands for an option that is not on the command line, which none of its values can. False, because options
    that may be repeated add to what is there."""

    def __bool__(self) -> bool:
        return False


_NOT_GIVEN = _NotGiven()


def main(argv: Optional[Sequence[str]] = None) -> int:
    """Run the command; returns its exit status."""
    return program.run(_NAME, _command, argv)


def _parser() -> argparse.ArgumentParser:
    parser = program.parser(
        _NAME,
        "Continue a job tree, or make a new one that starts with a command line. Options that are given replace those "
        "of the last start; the others stay as they were (but for logging).",
        "  jobTreeRun ./tree --retryCount 2            carry on\n"
        "  jobTreeRun --jobTree ./new --command 'make -C data'\n"
        "  jobTreeRun --jobTree ./new --steps steps.yaml",
    )
    program.add_tree(parser, option_too=False)
    parser.add_argument(
        "--restoreCopy",
        action="store_true",
        help="the database is damaged: go back to the copy of it, after a start has said what that means",
    )
    parser.add_argument(
        "--steps", metavar="FILE", help="run the named steps of a YAML file: commands and functions"
    )
    instead = parser.add_mutually_exclusive_group()
    instead.add_argument(
        "--prune",
        action="store_true",
        help="of a finished tree, remove all that does not tell that it is done, and its result",
    )
    instead.add_argument(
        "--installService",
        action="store_true",
        help="write a systemd user unit that continues the tree after a reboot (and show a line for a crontab)",
    )
    instead.add_argument("--removeService", action="store_true", help="take that unit away again")
    parser.add_argument(
        "--checkHosts",
        action="store_true",
        help="run nothing; say of every host of --sshHosts whether it can be used, and what is wrong if not",
    )
    parser.add_argument(
        "--debug",
        metavar="JOB",
        help="run a job that has failed or is ready here, without any effect on the tree; an error leads into pdb",
    )
    steer.add_arguments(parser)
    options.add_options(parser)
    parser.set_defaults(**{option.dest: _NOT_GIVEN for option in (*OPTIONS, *backend_options())})
    return parser


def _command(argv: Sequence[str]) -> int:
    # Only here: they bring nearly everything with them, and neither --help nor a misspelt option should wait for that.
    from jobtree import run
    from jobtree.cli import after_reboot
    from jobtree.logging_setup import set_up_logging

    arguments = _parser().parse_args(argv)
    if arguments.prune:
        return _prune(program.tree_of(arguments))
    if arguments.installService:
        return after_reboot.install(program.tree_of(arguments))
    if arguments.removeService:
        return after_reboot.remove(program.tree_of(arguments))
    given = _given(arguments)
    if arguments.debug is not None:
        from jobtree.cli import debug

        return debug.debug(program.tree_of(arguments), arguments.debug)
    asked = steer.request(arguments, given)
    status = steer.steer(program.tree_of(arguments), asked) if asked is not None else None
    if status is not None:
        return status
    paths = TreePaths(os.path.abspath(program.tree_of(arguments)))
    settings = _settings(paths, given)
    command = given.get("command")
    try:
        set_up_logging(settings, sys.stderr)
    except OSError as error:
        raise UsageError(f"--logFile {settings.log_file} cannot be written: {error.strerror}.") from error
    if arguments.checkHosts:
        return hosts.check(paths, settings)
    ended = run.execute(settings, _first_target(command, arguments.steps), arguments.restoreCopy)
    return 1 if ended.failed else 0


def _prune(root: str) -> int:
    from jobtree import pruning, snapshot

    paths, config = snapshot.find(root)
    pruned = pruning.prune(paths, config)
    print(
        f"{one_line(paths.root)}: pruned. {format_memory(pruned.bytes)} in {pruned.files} files were freed, "
        f"{format_memory(pruned.left)} are left: that it is done, its result, its statistics."
    )
    if pruned.trouble is not None:
        print(f"{_NAME}: not all was possible: {shown(pruned.trouble)}", file=sys.stderr)
    return 0 if pruned.trouble is None else 1


def _first_target(command: Optional[str], steps: Optional[str]) -> Optional[Target]:
    """What a new tree begins with; None to go on with one that is there. Raises UsageError."""
    if steps is not None:
        from jobtree import step_targets

        if command is not None:
            raise UsageError("--command and --steps are given, and a run begins with one of them.")
        # Functions are looked for beside the file first, as Python does for scripts.
        sys.path.insert(0, os.path.dirname(os.path.abspath(steps)))
        return step_targets.make(steps)
    if command is not None:
        from jobtree.target import CommandTarget

        return CommandTarget(command)
    return None


def _given(arguments: argparse.Namespace) -> dict[str, Any]:
    """The options of the command line, by attribute of ``Settings``."""
    values = vars(arguments)
    try:
        given = {o.attribute: o.check(values[o.dest]) for o in OPTIONS if values[o.dest] is not _NOT_GIVEN}
        theirs = [o for o in backend_options() if values[o.dest] is not _NOT_GIVEN]
        return {**given, "backend": {o.dest: o.check(values[o.dest]) for o in theirs}}
    except ValueError as error:
        raise UsageError(str(error)) from error


def _stored(paths: TreePaths) -> dict[str, Any]:
    try:
        found = files.read_json(paths.settings) or {}
        if not isinstance(found, dict):
            raise DamagedFile(f"{paths.settings} is damaged: it holds a {type(found).__name__}.")
    except DamagedFile as error:
        raise DamagedFile(
            f"{error} It holds the options of the last start. Remove it, and give those that you want to keep: the "
            "others are then as if they had not been given. Or start the script itself, which writes it again."
        ) from error
    return found


def _settings(paths: TreePaths, given: dict[str, Any]) -> Settings:
    """The options of the last start, where there was one, with those of this command line over them."""
    # Only here, for the same reason.
    from jobtree import restoring

    stored: dict[str, Any] = {}
    if restoring.is_there(paths):
        kept = {option.attribute for option in OPTIONS if option.group != options.LOGGING} | {"backend"}
        found = _stored(paths)
        stored = {name: value for name, value in found.items() if name in kept}
    backend = {**(stored.get("backend") or {}), **given["backend"]}
    try:
        return Settings.from_dict({**stored, **given, "backend": backend, "job_tree": paths.root})
    except ValueError as error:
        raise UsageError(f"{error} (options of the last start are in {paths.settings})") from error
