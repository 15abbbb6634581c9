"""What documents show of batch systems is what happens on real ones: blocks of `console on SYSTEM`."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.servers import sshd
from tests.servers.grid_engine import GridEngineServer
from tests.servers.slurm import SlurmServer
from tests.system import documents
from tests.system.legacy_script import CHECKOUT

pytestmark = [pytest.mark.servers, pytest.mark.slow, pytest.mark.timeout(400)]

HOWTO = CHECKOUT / "docs" / "howto"

#: The pipeline that the pages say is yours.
PIPELINE = """\
import argparse
from jobtree import Stack, Target

def squares(target, most):
    found = [target.addChildFn(square, args=(number,), memory="100M").rv() for number in range(most)]
    return target.setFollowOnFn(sum, args=(found,), memory="100M").rv()

def square(number):
    return number**2

if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    Stack.addJobTreeOptions(parser)
    options = parser.parse_args()
    failed = Stack(Target.makeTargetFn(squares, (5,), memory="100M")).startJobTree(options)
    raise SystemExit(1 if failed else 0)
"""

#: In place of what ~/.ssh/config would do, which ssh looks for where the password file says.
SSH = """\
#!/bin/sh
for word; do
    case $word in
        *old.example.org)
            echo "ssh: connect to host old.example.org port 22: Connection refused" >&2
            exit 255
    esac
done
exec /usr/bin/ssh -F {directory}/ssh_config "$@"
"""


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """Where the reader of a page is."""
    (tmp_path / "pipeline.py").write_text(PIPELINE)
    (tmp_path / "shared" / "ada").mkdir(parents=True)
    return tmp_path


@pytest.mark.xdist_group("slurm")
def test_slurm(home: Path, slurm_server: SlurmServer) -> None:
    assert documents.check(HOWTO / "slurm.md", home, "slurm", slurm_server.env) >= 4
    assert documents.check(HOWTO / "resources.md", home, "slurm", slurm_server.env) == 1


@pytest.mark.xdist_group("grid_engine")
def test_grid_engine(home: Path, grid_engine_server: GridEngineServer) -> None:
    assert documents.check(HOWTO / "gridengine.md", home, "gridEngine", grid_engine_server.env) >= 4


@pytest.mark.xdist_group("ssh")
def test_ssh(home: Path) -> None:
    sshd.require_installed()
    page = HOWTO / "ssh.md"
    (shown,) = re.findall(r"^```\n(# name .*?)^```$", page.read_text("utf-8"), re.DOTALL | re.MULTILINE)
    (home / "hosts").write_text(shown.replace("/scratch", str(home)))
    (home / "bin").mkdir()
    shim = home / "bin" / "ssh"
    shim.write_text(SSH.format(directory=home))
    shim.chmod(0o755)
    with sshd.start(hosts=1) as server:
        server.start_all()
        address = server.address("host1")
        (home / "ssh_config").write_text(
            f"Include {server.path('ssh_config')}\nHost big\n  HostName {address}\n"
        )
        assert documents.check(page, home, "ssh") == 2
