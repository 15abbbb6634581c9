"""The import names of the original jobTree, for scripts that were written for it.

``from jobTree.scriptTree.target import Target``, ``from jobTree.scriptTree.stack
import Stack``, ``from jobTree.src.bioio import system`` and the like go on working. New
scripts write ``from jobtree import Target, Stack``.

The original ignored memory= and cpu= of its function forms (addChildTargetFn and so
on), and pipelines came to ask there for more than a machine has. A process that imports
this module ignores them as well, and says so once.

All modules below are made here, at the first import of any of them, so none of them
needs a file, and nothing depends on whether the file system tells jobTree from jobtree.
"""

from __future__ import annotations

import importlib
import importlib.machinery
import os
import subprocess
import sys
import types
from typing import Any, Final, Optional

from jobtree.errors import UsageError
from jobtree.legacy import use_legacy_function_resources
from jobtree.paths import TreePaths

_ROOT: Final = os.path.dirname(os.path.abspath(__file__))
_GONE: Final = (
    "jobTree's files of jobs do not exist any more: a job tree is one database, tree.sqlite. Whether a tree is "
    "finished is told by the exit status of `jobTreeStatus --jobTree DIR --failIfNotComplete`, and everything "
    "about its jobs by `jobTreeStatus --jobTree DIR --json`."
)


# -- jobTree.src.common and jobTree.src.jobTreeRun -------------------------------------------------------


def runJobTreeStatusAndFailIfNotComplete(jobTreeDir: str) -> None:
    """Show the state of a job tree; RuntimeError unless it is complete."""
    _run("jobTreeStatus", "jobtree.cli.status", "--jobTree", jobTreeDir, "--failIfNotComplete", "--verbose")


def runJobTreeStats(jobTree: str, outputFile: str) -> None:
    """Write the statistics of a job tree that ran with --stats to outputFile; RuntimeError if that fails."""
    _run("jobTreeStats", "jobtree.cli.stats", "--jobTree", jobTree, "--outputFile", outputFile)


def runJobTree(
    command: str,
    jobTreeDir: str,
    logLevel: str = "DEBUG",
    retryCount: int = 0,
    batchSystem: str = "singleMachine",
    rescueJobFrequency: Optional[float] = None,
) -> None:
    """Run a command line as the first job of a job tree; RuntimeError unless all of it succeeds."""
    # The oldest scripts say it with an underscore.
    batch_system = {"single_machine": "singleMachine", "gridengine": "gridEngine"}.get(
        batchSystem, batchSystem
    )
    arguments = ["--command", command, "--jobTree", jobTreeDir, "--logLevel", logLevel]
    arguments += ["--retryCount", str(retryCount), "--batchSystem", batch_system]
    if rescueJobFrequency is not None:
        arguments += ["--rescueJobsFrequency", str(rescueJobFrequency)]
    _run("jobTreeRun", "jobtree.cli.run", *arguments)


def _run(name: str, module: str, *arguments: str) -> None:
    # This interpreter and this copy of the library, whatever PATH has.
    program = f"import sys; sys.argv[0] = {name!r}; from {module} import main; sys.exit(main())"
    search_path = os.pathsep.join(filter(None, [_ROOT, os.environ.get("PYTHONPATH")]))
    status = subprocess.call(
        [sys.executable, "-c", program, *arguments], env={**os.environ, "PYTHONPATH": search_path}
    )
    if status != 0:
        shown = " ".join((name, *arguments))
        raise RuntimeError(f"Command: {shown} exited with non-zero status {status}")


# -- jobTree.src.master and jobTree.src.jobTreeStatus ----------------------------------------------------


def getConfigFileName(jobTreePath: str) -> str:
    """The path of the job tree's configuration, which exists exactly if the job tree does. It is JSON now."""
    return TreePaths(os.path.abspath(jobTreePath)).config


def getJobFileDirName(jobTreePath: str) -> str:
    """Was the directory of job files; there are none, so this raises UsageError, which says what to use."""
    raise UsageError(f"getJobFileDirName({jobTreePath!r}): {_GONE}")


def parseJobFiles(*arguments: object) -> Any:
    """Was a list of job files; there are none, so this raises UsageError, which says what to use."""
    raise UsageError(f"parseJobFiles(): {_GONE}")


# -- the modules -----------------------------------------------------------------------------------------

_TARGET_AND_STACK: Final = {"Target": "jobtree.target", "Stack": "jobtree.stack"}

#: Module -> the names in it -> the module that has them; "*" are all names that a module exports.
_CONTENTS: Final[dict[str, dict[str, str]]] = {
    "scriptTree": {},
    "scriptTree.target": _TARGET_AND_STACK,
    "scriptTree.stack": _TARGET_AND_STACK,
    "src": {},
    "src.bioio": {"*": "jobtree.bioio"},
    "src.common": {"runJobTreeStats": __name__, "runJobTreeStatusAndFailIfNotComplete": __name__},
    "src.master": {"getConfigFileName": __name__, "getJobFileDirName": __name__},
    "src.jobTreeStatus": {"parseJobFiles": __name__},
    "src.jobTreeRun": {"runJobTree": __name__},
    "src.jobTree": {"runJobTree": __name__},
}


class _OldModule(types.ModuleType):
    """A module whose names are fetched when they are used: a worker has no use for the master's code."""

    def __init__(self, name: str, contents: dict[str, str]) -> None:
        super().__init__(name, f"The names of the original's {name}.")
        self.__path__: list[str] = []
        self.__spec__ = importlib.machinery.ModuleSpec(name, None, is_package=True)
        self._contents = contents

    def __getattr__(self, name: str) -> Any:
        if name == "__all__":
            everything = self._contents.get("*")
            value = importlib.import_module(everything).__all__ if everything else sorted(self._contents)
        else:
            # Debuggers and test runners ask every module for names like __warningregistry__.
            source = None if name.startswith("__") else self._contents.get(name) or self._contents.get("*")
            if source is None:
                raise AttributeError(f"{self.__name__} has no {name!r}; what remains of it is {self.__all__}")
            value = getattr(importlib.import_module(source), name)
        setattr(self, name, value)
        return value

    def __dir__(self) -> list[str]:
        return list(self.__all__)


def _make_modules() -> None:
    for path, contents in _CONTENTS.items():
        module = _OldModule(f"{__name__}.{path}", contents)
        sys.modules[module.__name__] = module
        parent, _, name = module.__name__.rpartition(".")
        setattr(sys.modules[parent], name, module)


# A package, so that `import jobTree.other` says that there is no such module instead of "is not a package".
__path__: list[str] = []

_make_modules()
use_legacy_function_resources()
