"""Hosts whose network can be cut: each is a network namespace with a host name and an sshd of its own.

A pair of virtual network cards joins each to this machine: `unplug` takes the cable out, and whatever runs there goes
on without noticing; `plug` puts it in again. Disks and processes are those of this machine. Needs root.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator

from tests.requirements import missing
from tests.servers import packages, sshd
from tests.servers.daemons import wait_until
from tests.servers.sshd import SshServer

PACKAGES = ("iproute2", *sshd.PACKAGES)


def install() -> None:
    """Install what is needed, as root."""
    packages.install(PACKAGES)


def require_installed() -> None:
    """Skip the calling test where no network can be made, or fail it (see `tests.requirements.missing`)."""
    sshd.require_installed()
    if shutil.which("ip") is None:
        missing("ip is not installed ('make clusters' does it)")
    name = f"jt{os.getpid()}-try"
    if subprocess.run(["ip", "netns", "add", name], capture_output=True, check=False).returncode:
        missing("network namespaces cannot be made here")
    _ip("netns", "del", name)


class NetHosts(SshServer):
    """Hosts in networks of their own."""

    def address(self, host: str) -> str:
        """Others that test at the same time have other numbers."""
        return f"10.{128 + os.getpid() % 100}.{self.hosts.index(host)}.2"

    def inside(self, host: str) -> list[str]:
        """In its network, under its name."""
        script = f'hostname {host}; exec "$@"'
        return ["ip", "netns", "exec", self._space(host), "unshare", "--uts", "sh", "-c", script, "sh"]

    def prepare(self) -> None:
        """Make the networks too."""
        super().prepare()
        for host in self.hosts:
            space, card, address = self._space(host), self._card(host), self.address(host)
            _ip("netns", "add", space)
            _ip("link", "add", card, "type", "veth", "peer", "name", "eth0", "netns", space)
            _ip("addr", "add", f"{address[:-1]}1/30", "dev", card)
            _ip("-n", space, "addr", "add", f"{address}/30", "dev", "eth0")
            for where in (("-n", space, "link", "set", "lo"), ("-n", space, "link", "set", "eth0")):
                _ip(*where, "up")
            self.plug(host)

    def unplug(self, host: str) -> None:
        """Take the cable out."""
        _ip("link", "set", self._card(host), "down")

    def plug(self, host: str) -> None:
        """Put it in again."""
        _ip("link", "set", self._card(host), "up")

    def crash(self, host: str) -> None:
        """Kill everything that runs there, of which nobody learns: the cable is out."""
        self.unplug(host)
        wait_until(lambda: not self._kill_all(host), "the end of a host")

    def stop(self) -> None:
        """End all, and remove the networks."""
        super().stop()
        for host in self.hosts:
            with contextlib.suppress(subprocess.CalledProcessError):
                wait_until(lambda: not self._kill_all(host), "the end of a host")  # noqa: B023
                _ip("netns", "del", self._space(host))

    def _kill_all(self, host: str) -> bool:
        found = _ip("netns", "pids", self._space(host)).split()
        for pid in found:
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(pid), signal.SIGKILL)
        self.daemons.is_running(host)  # collects it
        return bool(found)

    def _space(self, host: str) -> str:
        return f"jt{os.getpid()}-{host}"

    def _card(self, host: str) -> str:
        return f"jt{os.getpid()}.{self.hosts.index(host)}"


def _ip(*arguments: str) -> str:
    done = subprocess.run(
        ["ip", *arguments], stdin=subprocess.DEVNULL, capture_output=True, text=True, check=True
    )
    return done.stdout


@contextlib.contextmanager
def start(hosts: int = 2) -> Iterator[NetHosts]:
    """Hosts that run inside `with`."""
    with tempfile.TemporaryDirectory(prefix="netns-") as directory, contextlib.ExitStack() as stack:
        server = NetHosts(directory, hosts)
        stack.callback(server.stop)
        server.prepare()
        server.start_all()
        yield server
