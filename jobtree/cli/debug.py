"""jobTreeRun --debug JOB: run the target of one job here, to find out why it fails (jobtree.debugging)."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile

from jobtree import debugging, environment, files, job_views, launcher, lock, removing, snapshot
from jobtree.environment import Environment
from jobtree.errors import DamagedFile, UsageError
from jobtree.frames import BundleJob
from jobtree.options import Settings
from jobtree.paths import TreePaths
from jobtree.queries import StoredTarget
from jobtree.shown import one_line


def debug(root: str, name: str) -> int:
    """Run it; returns the exit status: that of the target's process. Raises UsageError."""
    paths, config = snapshot.find(root)
    number = job_views.number_of(name)
    stored = _stored(paths, number, name)
    recorded = _recorded(paths)
    settings = Settings.from_dict(files.read_json(paths.settings) or {})
    memory, cpu = stored.memory or settings.default_memory, stored.cpu or settings.default_cpu
    job = BundleJob(
        number, stored.attempt, stored.step, memory, cpu, stored.time, stored.payload, stored.values
    )
    print(
        f"jobtree: job {name} ({one_line(stored.name)}) runs here, without any effect on the tree",
        file=sys.stderr,
    )
    directory = tempfile.mkdtemp(prefix="jobtree-debug-")
    try:
        debugging.write(directory, job)
        variables = environment.for_worker(recorded.variables, os.environ, config.run, deny=recorded.deny)
        # That mark is by which processes of the run are found and ended.
        del variables["JOBTREE_RUN"]
        variables.update(environment.thread_variables(recorded.variables, cpu))
        if "TERM" in os.environ:
            variables["TERM"] = os.environ["TERM"]
        return _wait(subprocess.Popen(launcher.command("debug", paths.root, directory), env=variables))
    finally:
        removing.remove_tree(directory)


def _wait(process: subprocess.Popen[bytes]) -> int:
    """Ctrl-C is for the target, and for its debugger."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        status = process.wait()
    finally:
        signal.signal(signal.SIGINT, before)
    return status if status >= 0 else 128 - status


def _stored(paths: TreePaths, number: int, name: str) -> StoredTarget:
    found = snapshot.look(paths, "target", id=number)
    if found is None:
        raise UsageError(f"job {name} is not in the tree: it is done, or was forgotten, or never was.")
    assert isinstance(found, StoredTarget)
    if found.state == "blocked":
        raise UsageError(
            f"job {name} has run, and waits for its children; what can be debugged is a job that has failed or is "
            f"ready. See: jobTreeStatus --tree --below {name}"
        )
    if found.state == "issued" and lock.is_held(paths):
        raise UsageError(f"job {name} is running, or about to. See: jobTreeStatus --why {name}")
    return found


def _recorded(paths: TreePaths) -> Environment:
    try:
        recorded = Environment.from_json(files.read_json(paths.environment))
    except (DamagedFile, AttributeError, KeyError, TypeError, ValueError) as error:
        raise DamagedFile(
            f"{paths.environment} is damaged or gone. Start the script itself, with the same --jobTree and in the same "
            "directory: that writes it again."
        ) from error
    if not os.path.isdir(recorded.directory):
        raise UsageError(f"{recorded.directory} is gone, the directory in which targets run. Make it again.")
    return recorded
