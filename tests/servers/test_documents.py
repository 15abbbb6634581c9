"""What documents show of batch systems is what happens on real ones: blocks of `console on SYSTEM`."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from batchsystems import pool_hub
from batchsystems.pool_report import Report
from batchsystems.pool_signing import load_key
from tests.servers import redis, sshd
from tests.servers.daemons import wait_until
from tests.servers.grid_engine import GridEngineServer
from tests.servers.redis import RedisServer, Variant
from tests.servers.slurm import SlurmServer
from tests.system import documents, scenes
from tests.system.legacy_script import CHECKOUT
from tests.system.scenes import HOWTO
from tests.system.waiting import PAUSE

pytestmark = [pytest.mark.servers, pytest.mark.slow, pytest.mark.timeout(400)]


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


@pytest.mark.xdist_group("slurm")
def test_readme_on_slurm(home: Path, slurm_server: SlurmServer) -> None:
    for name in ("ape", "bat"):
        (home / f"{name}.txt").write_text("a line\n")
    assert documents.check(CHECKOUT / "README.md", home, "slurm", slurm_server.env) == 4


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


class Hub(RedisServer):
    """A hub with the files that the page says; what is called otherwise here is told by `here`."""

    @property
    def here(self) -> dict[str, str]:
        """Names of the page: the user of a pool is who runs the tests."""
        user = pool_hub.user_name()
        return {
            "ada@hub.example.org": f"{user}@localhost:{self.port}",
            "hub.example.org:6379": f"localhost:{self.port}",
            "for ada:": f"for {user}:",
            "cat > ~": "echo password > ~",
        }

    def write_configuration(self) -> None:
        """Those of the page, and an administrator for the test."""
        page = (HOWTO / "pool.md").read_text(encoding="utf-8")
        texts = [
            text
            for language, text in re.findall(r"^```([^\n]*)\n(.*?)^```$", page, re.DOTALL | re.MULTILINE)
            if not language
        ]
        (settings,) = (text for text in texts if text.startswith("bind "))
        (users,) = (text for text in texts if text.startswith("user default off"))
        if self.variant.tls:
            (tls,) = (text for text in texts if text.startswith("port 0"))
            settings = settings.replace("port 6379\n", tls)
            self.make_certificates()
        names = {
            "bind 0.0.0.0": "bind 127.0.0.1", "port 6379": f"port {self.port}", "/var/lib/redis": self.directory,
            "/etc/redis/hub.": self.path("server."), "/etc/redis": self.directory,
        }  # fmt: skip
        for name, real in names.items():
            assert name in settings or "hub" in name, f"{name} is not in the settings of the page"
            settings = settings.replace(name, real)
        user = pool_hub.user_name()
        users = users.replace("user ada ", f"user {user} ").replace(":ada:", f":{user}:")
        Path(self.path("jobtree.conf")).write_text(settings)
        Path(self.path("jobtree.acl")).write_text(f"{users}user admin on >admin ~* &* +@all\n")
        shutil.copy(self.path("jobtree.conf"), self.path("redis.conf"))


@contextlib.contextmanager
def hub_of_the_page(home: Path, tls: bool = False) -> Iterator[Hub]:
    redis.require_installed()
    (home / "hub").mkdir()
    (home / "pipeline.py").write_text(PAUSE + scenes.PIPELINE)
    (home / "mended").touch()
    hub = Hub(str(home / "hub"), Variant(users=True, tls=tls))
    try:
        hub.start()
        assert scenes.shown("pool.md", home, "password", hub.here) == 2
        yield hub
    finally:
        hub.stop()


@contextlib.contextmanager
def nodes(home: Path, hub: Hub, scene: str, number: int) -> Iterator[None]:
    """The terminal of nodes, of which the first is there; in the end each gets Ctrl-C, and the next one starts."""
    seen: set[str] = set()

    def has_come() -> bool:
        new = names(home, hub) - seen
        seen.update(new)
        return bool(new)

    with ThreadPoolExecutor() as terminals:
        terminal = terminals.submit(scenes.shown, "pool.md", home, scene, hub.here)
        try:
            wait_until(lambda: terminal.done() or has_come(), "a node")
            yield
            for _ in range(number - 1):
                scenes.interrupt("jobTreeNode", home)
                wait_until(lambda: terminal.done() or has_come(), "the next node")
        finally:
            wait_until(
                lambda: terminal.done() or scenes.interrupt("jobTreeNode", home), "the end of all nodes"
            )
        assert terminal.result() == number


def names(home: Path, hub: Hub) -> set[str]:
    """Those of the nodes that the hub knows."""
    key, password = (str(home / ".config" / "jobtree" / name) for name in ("pool-key", "pool-password"))
    if not os.path.exists(key):
        return set()
    url = f"redis{'s' * hub.variant.tls}://{pool_hub.user_name()}@localhost:{hub.port}"
    ours = pool_hub.Hub(
        pool_hub.address(url, password, hub.path("ca.crt") if hub.variant.tls else None), load_key(key)
    )
    with contextlib.closing(ours):
        return {row["node"] for row in Report(ours).nodes()}


def test_pool(home: Path) -> None:
    with hub_of_the_page(home) as hub, nodes(home, hub, "node", 2):
        here = {**hub.here, "NODE": socket.gethostname()}
        assert scenes.shown("pool.md", home, "pool", here) == 4


def test_pool_with_tls(home: Path) -> None:
    with hub_of_the_page(home, tls=True) as hub:
        shutil.copy(hub.path("ca.crt"), home / "shared")
        with nodes(home, hub, "nodeWithTLS", 1):
            assert scenes.shown("pool.md", home, "poolWithTLS", hub.here) == 1
