"""Other users of this machine, whom only root can play.

Each is a process that has imported what it needs and then becomes somebody else, because the interpreter and the
checkout may lie where only their owner can read.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys

from tests.system.legacy_script import CHECKOUT

GROUP, FRIEND, STRANGER = 54321, 54322, 54323

BECOME = """
import contextlib, io, json, os, sys
from jobtree.cli import kill, stats, status
with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
    status.main(["--verbose", sys.argv[-1]])
    stats.main([sys.argv[-1]])  # has everything imported
user, groups = int(sys.argv[1]), json.loads(sys.argv[2])
os.chdir("/")
os.setgroups(groups)
os.setgid(user)
os.setuid(user)
name = sys.argv[3]
if name == "cat":
    sys.stdout.write(open(sys.argv[4]).read())
elif name == "walk":
    for folder, _, files in os.walk(sys.argv[4]):
        for path in (folder, *(os.path.join(folder, file) for file in files)):
            print(f"{os.access(path, os.R_OK):d}{os.access(path, os.W_OK):d} {os.path.relpath(path, sys.argv[4])}")
else:
    sys.exit({"jobTreeStatus": status, "jobTreeStats": stats, "jobTreeKill": kill}[name].main(sys.argv[4:]))
"""


def as_user(user: int, groups: list[int], *command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", BECOME, str(user), json.dumps(groups), *command],
        env={**os.environ, "PYTHONPATH": str(CHECKOUT)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
