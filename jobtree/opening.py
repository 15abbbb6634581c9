"""``jobtree.open``: a run from Python, for programs and notebooks.

    import jobtree

    with jobtree.open("sweeping", maxThreads=4) as tree:
        best = tree.run(Sweep(grids))

It is the same run as that of a script: the directory is its job tree, and whatever kills this process, the same lines
continue it. What differs is how it ends. ``run`` returns what the target's run() has returned, at once if the tree is
complete already, and raises RunFailed when jobs have failed; a directory that was made for another target, or for the
same one with other arguments, is refused, because its result would be taken for this one's.
"""

from __future__ import annotations

import difflib
import os
import sys
from collections.abc import Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any, Optional, TypeVar, Union, overload

from jobtree import environment
from jobtree.errors import RunFailed, UsageError
from jobtree.promise import Promise
from jobtree.target import Returns, check_target

if TYPE_CHECKING:
    from jobtree.options import Settings

V = TypeVar("V")

_SHOWN = 3
"""So many failures the exception tells."""


def open(directory: Union[str, os.PathLike[str]], **options: Any) -> JobTree:
    """A job tree to run a target in; use it with ``with``.

    options: those of the command line without their hyphens: ``batchSystem="slurm"``, ``retryCount=2``, ``stats=True``.
    Raises UsageError for an option that does not exist, or whose value makes no sense.
    """
    return JobTree(directory, **options)


class JobTree:
    """A job tree directory, and the options with which targets are run in it."""

    def __init__(self, directory: Union[str, os.PathLike[str]], **options: Any) -> None:
        environment.working_directory()  # targets run there, and the name may be relative to it
        self.directory: str = os.path.abspath(os.fspath(directory))
        try:
            self._settings = _settings_from(self.directory, options)
        except ValueError as error:
            raise UsageError(f"jobtree.open: {error}") from None

    def __enter__(self) -> JobTree:
        return self

    def __exit__(
        self,
        kind: Optional[type[BaseException]],
        error: Optional[BaseException],
        trace: Optional[TracebackType],
    ) -> None:
        from jobtree.logging_setup import take_down_logging

        take_down_logging()

    @overload
    def run(self, target: Returns[Promise[V]]) -> V: ...

    @overload
    def run(self, target: Returns[V]) -> V: ...

    @overload
    def run(self) -> Any: ...

    def run(self, target: Any = None) -> Any:
        """Run the target and all that grows from it, or go on with it. Returns what its run() returned.

        Without a target it goes on with what is in the directory.

        Raises RunFailed when nothing can progress any more because jobs have failed, RunStopped or KeyboardInterrupt
        when it was stopped (the same again continues), UsageError when the directory is not that of this target,
        AnotherMaster when it is being run, StorageError.
        """
        environment.refuse_while_importing("JobTree.run")
        if target is not None:
            check_target(target, "JobTree.run")
        from jobtree import run
        from jobtree.logging_setup import set_up_logging

        set_up_logging(self._settings, sys.stderr)
        ended = run.execute(self._settings, target, same_target=True)
        if ended.failed:
            raise RunFailed(self._what_failed(ended.failed, ended.waiting), ended.failed)
        return run.result(self.directory)

    def _what_failed(self, failed: int, waiting: int) -> str:
        from jobtree import report, snapshot
        from jobtree.paths import TreePaths, job_name

        shown = snapshot.take(TreePaths(self.directory), failures=True).failed[:_SHOWN]
        lines = [f"{report.jobs(failed)} failed, {waiting} waiting for that, in {self.directory}"]
        for row in shown:
            lines.append(f"  job {job_name(row.job)} ({row.name}): {row.failure.message}")
        if failed > len(shown):
            lines.append(f"  and {failed - len(shown)} more")
        lines.append(f"See why: {report.command('jobTreeStatus', '--failed', self.directory)}")
        lines.append("Run it again to try them again; what is done stays done, and corrected code is used.")
        return "\n".join(lines)


def _settings_from(directory: str, given: Mapping[str, Any]) -> Settings:
    """Checked settings. Raises ValueError, which names the option, and a similar one if there is none of that name."""
    # Only the process that starts a run needs the options, and workers import this module too.
    from jobtree.options import OPTIONS, backend_options, default_options, settings_from

    if "\0" in directory:
        raise ValueError(f"{directory!r} is no name of a directory")
    known = {option.flag[2:]: option for option in (*OPTIONS, *backend_options())}
    options = default_options()
    for name, value in given.items():
        if name in ("jobTree", "command"):
            raise ValueError(
                f"{name} is none of the options here: the directory comes first, and run() gets the target"
            )
        if name not in known:
            similar = difflib.get_close_matches(name, known, 1)
            hint = f"; did you mean {similar[0]}?" if similar else ". jobTreeRun --help shows all of them"
            raise ValueError(f"there is no option {name}{hint}")
        setattr(options, known[name].dest, value)
    options.jobTree = directory
    return settings_from(options)
