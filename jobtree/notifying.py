"""``--onEnd COMMAND``: tells the user's own command how a run has ended.

It runs through the shell when everything is over: the tree's lock is free and its database closed, so that the command
may look at the tree, prune it, or start the next one. It gets the result in its environment (``variables``), nothing on
its standard input, and has a minute. Whatever becomes of it changes neither the run nor its exit status.

A start that had nothing to do tells nobody: not one that was refused, nor one that found the tree complete. Nor can a
master that is killed; the next start tells how that has ended.
"""

from __future__ import annotations

import logging
import os
import signal
import subprocess
from types import TracebackType
from typing import NamedTuple, Optional

from jobtree import clock
from jobtree.events import State
from jobtree.paths import TreePaths
from jobtree.shown import one_line
from jobtree.tree import Tree

log: logging.Logger = logging.getLogger("jobtree")

LIMIT_SECONDS = 60.0
"""So long the command may take."""

DONE = "done"
"""Every job is done."""
FAILED = "failed"
"""The run has ended, and some jobs have been given up."""
STOPPED = "stopped"
"""The run has ended before the tree did: by a signal, a request, the disk, a mistake of ours."""


class Ending(NamedTuple):
    """How a run has ended. reason: in words, empty unless it was stopped."""

    result: str
    reason: str
    done: int
    failed: int
    waiting: int
    seconds: float


class OnEnd:
    """Runs the command when it is left, if a run has ``begun`` meanwhile. command: None for none."""

    def __init__(self, paths: TreePaths, command: Optional[str]) -> None:
        self._paths = paths
        self._command = command
        self._tree: Optional[Tree] = None
        self._since = 0.0

    def begun(self, tree: Tree) -> None:
        """The run of this tree begins."""
        self._tree = tree
        self._since = clock.elapsed()

    def __enter__(self) -> OnEnd:
        return self

    def __exit__(
        self,
        kind: Optional[type[BaseException]],
        error: Optional[BaseException],
        trace: Optional[TracebackType],
    ) -> None:
        if self._command is not None and self._tree is not None:
            tell(self._command, self._paths.root, _ending(self._tree, error, clock.elapsed() - self._since))


def _ending(tree: Tree, error: Optional[BaseException], seconds: float) -> Ending:
    done, failed = tree.totals[State.DONE], tree.totals[State.FAILED]
    waiting = tree.totals[State.READY] + tree.totals[State.ISSUED] + tree.totals[State.BLOCKED]
    if error is not None:
        reason = "stopped by SIGINT" if isinstance(error, KeyboardInterrupt) else str(error) or repr(error)
        return Ending(STOPPED, reason, done, failed, waiting, seconds)
    return Ending(FAILED if failed else DONE, "", done, failed, waiting, seconds)


def variables(root: str, ending: Ending) -> dict[str, str]:
    """What the command finds in its environment."""
    return {
        "JOBTREE_DIR": root,
        "JOBTREE_RESULT": ending.result,
        "JOBTREE_REASON": one_line(ending.reason),
        "JOBTREE_DONE": str(ending.done),
        "JOBTREE_FAILED": str(ending.failed),
        "JOBTREE_WAITING": str(ending.waiting),
        "JOBTREE_SECONDS": f"{ending.seconds:.0f}",
    }


def tell(command: str, root: str, ending: Ending) -> None:
    """Run the command, and say what is wrong with it."""
    environment = {**os.environ, **variables(root, ending)}
    try:
        # A session of its own: what does not end in time is killed with all that it has started.
        process = subprocess.Popen(
            command, shell=True, stdin=subprocess.DEVNULL, env=environment, start_new_session=True
        )
    except (OSError, ValueError) as error:
        log.warning("--onEnd %s could not be started: %s", one_line(command), error)
        return
    try:
        status = process.wait(LIMIT_SECONDS)
    except subprocess.TimeoutExpired:
        _kill(process)
        log.warning("--onEnd %s did not end within %g s and was killed", one_line(command), LIMIT_SECONDS)
        return
    except KeyboardInterrupt:
        _kill(process)
        log.warning("--onEnd %s was killed: Ctrl-C", one_line(command))
        return
    if status < 0:
        log.warning("--onEnd %s was killed by %s", one_line(command), signal.Signals(-status).name)
    elif status:
        log.warning("--onEnd %s ended with exit status %d", one_line(command), status)


def _kill(process: subprocess.Popen[bytes]) -> None:
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass  # it has ended just now
    process.wait()
