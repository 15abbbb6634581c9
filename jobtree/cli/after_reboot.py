"""jobTreeRun --installService and --removeService: a systemd user unit that continues a tree after a reboot."""

from __future__ import annotations

import getpass
import os
import sys

import jobtree
from jobtree import after_reboot, files, snapshot
from jobtree.errors import DamagedFile, StorageError, UsageError
from jobtree.options import Settings
from jobtree.paths import TreePaths
from jobtree.shown import one_line

_MORE_SECONDS = 60.0
"""What ending a run may take beside the grace of its targets."""


def install(root: str) -> int:
    """Write the unit, have it started with the machine, and say what is left to do."""
    paths, config = snapshot.find(root)
    if snapshot.take(paths).state == snapshot.COMPLETE:
        raise UsageError(f"{paths.root} is complete: there is nothing to continue after a reboot.")
    command = [sys.executable, _program(), "--jobTree", paths.root]
    variables = after_reboot.variables_of(os.environ)
    name = after_reboot.name_of(config.run)
    path = os.path.join(_directory(), name)
    text = after_reboot.unit(paths.root, command, _places(paths), variables, _grace(paths) + _MORE_SECONDS)
    link = _link(name)
    try:
        os.makedirs(os.path.dirname(link), exist_ok=True)
        files.replace_durably(path, text.encode())
        if not os.path.islink(link):
            os.symlink(os.path.join("..", name), link)
            files.fsync_directory(os.path.dirname(link))
    except OSError as error:
        raise files.refused(error, path) from error
    print(f"Written: {one_line(path)}")
    print(
        "It continues the tree whenever this machine has been started. systemd learns of it with the next start, or by:"
    )
    print("  systemctl --user daemon-reload")
    if not _lingers():
        print("Without a login of yours it does so only if your services may run then:")
        print("  loginctl enable-linger")
    print(f"What the run says: journalctl --user -u {name}")
    line = after_reboot.crontab_line(command, variables)
    if line is not None:
        print("Where there is no systemd, a line for your crontab (crontab -e) does the same:")
        print(f"  {line}")
    print(f"To take it away: jobTreeRun --removeService --jobTree {one_line(paths.root)}")
    return 0


def remove(root: str) -> int:
    """Take the unit away. What it has started goes on."""
    paths, config = snapshot.find(root)
    name = after_reboot.name_of(config.run)
    path = os.path.join(_directory(), name)
    there = os.path.lexists(path) or os.path.lexists(_link(name))
    files.remove(_link(name))
    files.remove(path)
    if not there:
        print(f"There is no {one_line(path)}: nothing was to be removed.")
        return 0
    print(f"Removed: {one_line(path)}")
    print("A run that it has started goes on; systemd forgets it by: systemctl --user daemon-reload")
    return 0


def _directory() -> str:
    """Where systemd looks for the units of this user."""
    base = os.environ.get("XDG_CONFIG_HOME") or ""
    if not os.path.isabs(base):  # the specification says that a relative one is to be ignored
        base = os.path.join(os.path.expanduser("~"), ".config")
    return os.path.join(base, "systemd", "user")


def _link(name: str) -> str:
    """What `systemctl --user enable` makes."""
    return os.path.join(_directory(), "default.target.wants", name)


def _program() -> str:
    """The file of this command: as it was started, or the checkout's."""
    started = os.path.abspath(sys.argv[0])
    if os.path.basename(started) == "jobTreeRun" and os.path.isfile(started):
        return started
    return os.path.join(
        os.path.dirname(os.path.dirname(os.path.abspath(jobtree.__file__))), "bin", "jobTreeRun"
    )


def _places(paths: TreePaths) -> list[str]:
    """The tree, and the directory in which its targets run."""
    stored = files.read_json(paths.environment)
    directory = stored.get("directory") if isinstance(stored, dict) else None
    return [paths.root, *([directory] if isinstance(directory, str) and os.path.isabs(directory) else [])]


def _grace(paths: TreePaths) -> float:
    try:
        return Settings.from_dict(files.read_json(paths.settings) or {}).grace
    except (DamagedFile, StorageError, ValueError):
        return Settings().grace


def _lingers() -> bool:
    """Whether services of this user run without a login."""
    return os.path.exists(os.path.join("/var/lib/systemd/linger", getpass.getuser()))
