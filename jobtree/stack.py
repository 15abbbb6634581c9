"""``Stack``: how a script hands its first target over.

parser = argparse.ArgumentParser()
Stack.addJobTreeOptions(parser)
options = parser.parse_args()
failed = Stack(Setup(options.file)).startJobTree(options)

Every worker imports the user's script and so this module. What only the process needs that starts a run - SQLite, the
batch systems, the parsers - is therefore imported by the methods that start one: that is half of all import time.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any, Optional

from jobtree import environment
from jobtree.errors import UsageError
from jobtree.target import Target, check_target

if TYPE_CHECKING:
    import argparse


class Stack:
    """A pipeline: the target at its root, and everything that grows from it."""

    def __init__(self, target: Target) -> None:
        check_target(target, "Stack")
        self.__target = target
        self.__job_tree: Optional[str] = None

    @staticmethod
    def addJobTreeOptions(parser: Any) -> None:
        """Add the options of jobtree to an argparse or optparse parser, or to one of their groups."""
        from jobtree.options import add_options

        add_options(parser)

    @staticmethod
    def getDefaultOptions() -> argparse.Namespace:
        """An options object with all defaults, for scripts that parse no command line: set ``jobTree`` on it."""
        from jobtree.options import default_options

        return default_options()

    def startJobTree(self, options: Any) -> int:
        """Run the pipeline, or continue it if options.jobTree exists. Returns the number of failed jobs.

        It returns only when the tree is complete (0) or nothing can progress any more (more than 0). Raises
        UsageError (a wrong option, a directory that is not a job tree), AnotherMaster, StorageError, and RunStopped or
        KeyboardInterrupt when the run was stopped. In a script none of these shows a traceback: the message is printed
        and the exit status set (see jobtree.errors).
        """
        environment.refuse_while_importing("startJobTree")
        from jobtree import report

        report.install_excepthook()  # first, because it also tells what is not installed
        from jobtree import run
        from jobtree.logging_setup import set_up_logging
        from jobtree.options import settings_from

        try:
            settings = settings_from(options)
        except ValueError as error:
            raise UsageError(str(error)) from None
        set_up_logging(settings, sys.stderr)
        self.__job_tree = settings.job_tree
        try:
            return run.execute(settings, self.__target).failed
        except report.Interrupted:
            raise
        except KeyboardInterrupt:
            raise report.interrupted() from None

    def result(self) -> Any:
        """What the root target's run() returned. Raises JobTreeError if the tree is not complete."""
        if self.__job_tree is None:
            raise UsageError("result() is there after startJobTree().")
        from jobtree import run

        return run.result(self.__job_tree)
