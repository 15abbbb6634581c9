"""What a start looks like from outside, so that every target, on whatever machine, sees the same.

Recorded at each start of the script: the environment variables, the working directory, ``sys.path`` and how to import
the script. The latest start counts. Not handed on: what belongs to a machine rather than to the user (TMPDIR,
HOSTNAME ...), and what a scheduler told the master about the master's own job (SLURM_*, SGE_* ...). OMP_NUM_THREADS and
its kin follow the target's cores unless the user has set them, because a numerical library that starts as many threads
as the machine has cores, once in every worker, brings the machine down.
"""

from __future__ import annotations

import fnmatch
import importlib
import importlib.util
import os
import re
import socket
import sys
import types
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Optional

from jobtree import definitions
from jobtree.errors import WORKING_DIRECTORY_GONE, CannotImport, GuardMissing, UsageError

OF_THE_MACHINE = (
    "TMPDIR", "TMP", "TEMP", "HOSTNAME", "HOSTTYPE", "HOST", "MACHTYPE", "OSTYPE", "XDG_RUNTIME_DIR", "SSH_*",
    "DISPLAY", "WINDOWID", "TERM_SESSION_ID", "_", "SHLVL",
)  # fmt: skip
OF_THE_JOB = (
    "SLURM_*", "SLURMD_*", "SBATCH_*", "SGE_*", "JOB_ID", "JOB_NAME", "JOB_SCRIPT", "NSLOTS", "NHOSTS", "NQUEUES",
    "QUEUE", "PE", "PE_HOSTFILE", "PBS_*", "LSB_*", "LS_*", "CUDA_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES",
    "JOBTREE_RUN",
)  # fmt: skip
THREADS = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "NUMEXPR_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
)


importing: bool = False
"""True while a launcher or worker imports the user's code: a script that starts a run then lacks the guard."""


_script: Optional[MainModule] = None  # the script of the run, in a launcher or worker


class MainModule(NamedTuple):
    """How to import the user's script. name: under which it is imported in workers; path: its file."""

    name: str
    path: str


class Environment(NamedTuple):
    """What every target sees. main is None when ``__main__`` has no file and nothing of it was kept either."""

    variables: dict[str, str]
    directory: str
    path: list[str]
    main: Optional[MainModule]
    preload: list[str]
    deny: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """As it is written to environment.json."""
        return {**self._asdict(), "main": list(self.main) if self.main else None}

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> Environment:
        """What ``to_json`` wrote."""
        main = MainModule(*stored["main"]) if stored["main"] else None
        return cls(
            dict(stored["variables"]),
            stored["directory"],
            list(stored["path"]),
            main,
            list(stored["preload"]),
            tuple(stored["deny"]),
        )


def of_this_process(allow: Sequence[str] = (), deny: Sequence[str] = ()) -> Environment:
    """The environment of the process that starts a run.

    allow, deny: patterns of variable names (``FOO_*``) that are handed on, or not, whatever the lists above say.
    """
    directory = working_directory()
    path = [os.path.abspath(entry) if entry else directory for entry in sys.path]
    return Environment(variables(os.environ, allow, deny), directory, path, main_module(), [], tuple(deny))


def working_directory() -> str:
    """The directory in which a run is started. Raises UsageError if somebody has removed it."""
    try:
        return os.getcwd()
    except FileNotFoundError:
        raise UsageError(WORKING_DIRECTORY_GONE) from None


def variables(given: Mapping[str, str], allow: Sequence[str], deny: Sequence[str]) -> dict[str, str]:
    """Those of the given variables that targets are to see."""
    withheld = [*OF_THE_MACHINE, *OF_THE_JOB]
    kept = {}
    for name, value in given.items():
        if _matches(name, deny):
            continue
        if _matches(name, allow) or not _matches(name, withheld):
            kept[name] = value
    return kept


def for_worker(
    recorded: Mapping[str, str],
    own: Mapping[str, str],
    run: str,
    own_job: bool = False,
    deny: Sequence[str] = (),
) -> dict[str, str]:
    """The variables of a worker: the recorded ones, those of its own machine, and the mark of the run.

    deny: patterns of names that it must not see, wherever they come from.
    own_job: a scheduler has started the worker in a job of its own (so that ``own`` does not speak of the master's).
    Then what it says of that job, the devices and cores that may be used, is the worker's too.
    """
    kept = [*OF_THE_MACHINE, *OF_THE_JOB] if own_job else OF_THE_MACHINE
    result = {name: value for name, value in own.items() if _matches(name, kept) and not _matches(name, deny)}
    result.update(recorded)
    result["JOBTREE_RUN"] = run
    return result


def node_name() -> str:
    """The name of this machine: the one by which its scheduler knows it, in a job of a scheduler that tells."""
    return os.environ.get("SLURMD_NODENAME") or socket.gethostname()


def thread_variables(recorded: Mapping[str, str], cpu: float) -> dict[str, str]:
    """OMP_NUM_THREADS and its kin for a target with so many cores; nothing for those that the user has set."""
    threads = str(max(1, int(cpu)))
    return {name: threads for name in THREADS if name not in recorded}


def _matches(name: str, patterns: Sequence[str]) -> bool:
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)


def main_module() -> Optional[MainModule]:
    """How to import ``__main__`` elsewhere; None if it has no file."""
    main = sys.modules.get("__main__")
    file = getattr(main, "__file__", None)
    if main is None or file is None or not os.path.isfile(file):
        return None
    path = os.path.abspath(file)
    if main.__spec__ is not None and main.__spec__.name != "__main__":
        return MainModule(main.__spec__.name, path)  # python -m package.module
    stem = os.path.splitext(os.path.basename(path))[0]
    if stem == "__main__":
        # A directory was started (python dir/). A worker has a __main__ of its own, so it goes by the directory's name.
        stem = os.path.basename(os.path.dirname(path))
    elif stem.isidentifier() and _is_importable_as(stem, path):
        return MainModule(stem, path)
    return MainModule("jobtree_main_" + re.sub(r"\W", "_", stem), path)


def _is_importable_as(name: str, path: str) -> bool:
    module = sys.modules.get(name)
    if module is not None:
        file = getattr(module, "__file__", None)
        return file is not None and os.path.realpath(file) == os.path.realpath(path)
    try:
        spec = importlib.util.find_spec(name)
    except (ImportError, ValueError):
        return False
    return (
        spec is not None
        and spec.origin is not None
        and os.path.realpath(spec.origin) == os.path.realpath(path)
    )


def refuse_while_importing(what: str) -> None:
    """Raise GuardMissing if a worker is just importing the script, which wants to start a run by calling this."""
    if importing:
        raise GuardMissing(
            f"the script calls {what} while a worker imports it to find its targets. Put what starts the run "
            "below this line, and the run of the script itself is the only one that starts it:\n"
            '    if __name__ == "__main__":'
        )


def take_over(recorded: Environment) -> None:
    """Make this process look as the start of the run did: sys.path, sys.argv. (Variables came with the exec.)"""
    global _script
    _script = recorded.main
    sys.path[:] = recorded.path
    sys.argv[:] = [recorded.main.path if recorded.main else ""]


def import_module(name: str) -> types.ModuleType:
    """Import one of the user's modules where targets run. Raises CannotImport, or whatever the module raises.

    A script that starts a run while it is imported is told so, also when this is not the first attempt.
    """
    global importing
    before, importing = importing, True
    try:
        if _script is not None and name == _script.name:
            return import_main(_script)
        if name == definitions.NAME:
            return sys.modules["__main__"]  # the process that starts the run, which has defined it
        return importlib.import_module(name)
    finally:
        importing = before


def import_main(main: MainModule) -> types.ModuleType:
    """Import the user's script under its own name, never as ``__main__``: its guarded part does not run.

    Raises CannotImport with what went wrong.
    """
    if main.name in sys.modules:
        return sys.modules[main.name]
    try:
        if main.name == definitions.NAME:
            with open(main.path, "rb") as file:
                return definitions.load(file.read())
        if not main.name.startswith("jobtree_main_"):
            return importlib.import_module(main.name)
        from importlib.machinery import SourceFileLoader

        # A script need not end in .py, which the usual finder insists on.
        spec = importlib.util.spec_from_file_location(
            main.name, main.path, loader=SourceFileLoader(main.name, main.path)
        )
        if spec is None or spec.loader is None:
            raise ImportError(f"{main.path} cannot be loaded")
        module = importlib.util.module_from_spec(spec)
        sys.modules[main.name] = module
        spec.loader.exec_module(module)
        return module
    except Exception as error:  # the script may raise anything while it is imported
        sys.modules.pop(main.name, None)
        raise CannotImport(_explain(main, error)) from error
    except SystemExit as error:
        sys.modules.pop(main.name, None)
        raise CannotImport(_explain(main, error)) from error


def _explain(main: MainModule, error: BaseException) -> str:
    where = ""
    frame = error.__traceback__
    while frame is not None:
        if os.path.realpath(frame.tb_frame.f_code.co_filename) == os.path.realpath(main.path):
            where = f" (line {frame.tb_lineno})"
        frame = frame.tb_next
    if isinstance(error, GuardMissing):
        return f"{main.path}{where}: {error}"
    return (
        f"the script {main.path} cannot be imported where targets run: {type(error).__name__}: {error}{where}. "
        f"Workers import it as the module {main.name!r} to find its classes and functions; what only the start needs "
        f"belongs below: if __name__ == '__main__':"
    )
