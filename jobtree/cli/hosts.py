"""jobTreeRun --checkHosts: whether the hosts of the ssh batch system can be used, without running anything."""

from __future__ import annotations

import os

from batchsystems.abstract import BatchSystemError, Setup
from jobtree.errors import UsageError
from jobtree.options import Settings
from jobtree.paths import TreePaths

_SSH = "ssh"


def check(paths: TreePaths, settings: Settings) -> int:
    """Check them, and print what was found; 0 if all can be used, else 1. Raises UsageError."""
    # Only here: it brings nearly everything of the batch system with it.
    from batchsystems import ssh_check
    from batchsystems.ssh import Ssh

    # What has to be shared is where the tree is, or will be.
    directory = paths.backend(_SSH) if os.path.isdir(paths.root) else os.path.dirname(paths.root)
    given = {option.name: settings.of_backend(option) for option in Ssh.OPTIONS}
    try:
        with Ssh.unchecked(Setup("check", directory, given)) as batch:
            found = batch.check_hosts()
    except (BatchSystemError, OSError) as error:
        raise UsageError(f"The hosts cannot be checked: {error}") from error
    print(ssh_check.report(found))
    return 1 if any(host.problems for host in found) else 0
