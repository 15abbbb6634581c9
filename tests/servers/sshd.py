"""Real sshd's on this machine, each a host of its own: for tests of batch systems that use ssh.

Host `hostN` listens on 127.0.0.(N + 1), has a key of its own, and lets nobody in who does not have the one key that is
in the server's directory. Nothing of ~/.ssh and /etc/ssh is read or written: clients are called with `-F ssh_config`.

By hand: `python -m tests.servers.sshd DIRECTORY` starts three and waits for Ctrl-C.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from typing import Optional

import psutil

from tests.requirements import missing
from tests.servers import packages
from tests.servers.daemons import Daemons, ServerError, free_ports, wait_until

PACKAGES = ("openssh-server", "openssh-client")
SSHD = "/usr/sbin/sshd"  # it wants to be called by its whole name


def install() -> None:
    """Install what is needed, as root."""
    packages.install(PACKAGES)


def require_installed() -> None:
    """Skip the calling test where no sshd can be started, or fail it (see `tests.requirements.missing`)."""
    if not os.path.exists(SSHD) or shutil.which("ssh") is None or os.getuid() != 0:
        missing("sshd is not installed, or we are not root ('make clusters' installs it)")


class SshServer:
    """The sshd's of several hosts."""

    def __init__(self, directory: str, hosts: int = 2, settings: Sequence[str] = ()) -> None:
        self.directory = directory
        self.hosts = [f"host{number + 1}" for number in range(hosts)]
        self.port = free_ports(1)
        self.settings = list(settings)
        self.daemons = Daemons(self.path("log"), os.environ)
        self.jobs = self.path("tmp")

    def path(self, *names: str) -> str:
        """A file in the server's directory."""
        return os.path.join(self.directory, *names)

    @property
    def arguments(self) -> str:
        """What --sshArgs takes."""
        return f"-F {self.path('ssh_config')}"

    def write_hosts(self, *lines: str, name: str = "hosts") -> str:
        """Write a hosts file, at once; lines are such as "host1 cores=4 memory=1G"."""
        path = self.path(name)
        with open(f"{path}.new", "w", encoding="utf-8") as file:
            file.writelines(f"{line} tmp={self.jobs}\n" for line in lines)
        os.replace(f"{path}.new", path)
        return path

    def prepare(self) -> None:
        """Make keys and configuration."""
        os.makedirs("/run/sshd", 0o755, exist_ok=True)
        for name in ("home", "tmp"):
            os.makedirs(self.path(name), exist_ok=True)
        for name in ("key", *self.hosts):
            if not os.path.exists(self.path(name)):
                subprocess.run(
                    ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", name, "-f", self.path(name)],
                    check=True,
                )
        self.know()
        blocks = [f"Host {host}\n  HostName {self.address(host)}" for host in self.hosts]
        common = [
            f"Port {self.port}", "User root", f"IdentityFile {self.path('key')}", "IdentitiesOnly yes",
            "IdentityAgent none", f"UserKnownHostsFile {self.path('known_hosts')}", "GlobalKnownHostsFile /dev/null",
            "UpdateHostKeys no", "KexAlgorithms curve25519-sha256",
        ]  # fmt: skip
        _write(self.path("ssh_config"), "\n".join([*blocks, "Host *", *(f"  {line}" for line in common), ""]))

    def address(self, host: str) -> str:
        """Where a host listens."""
        return f"127.0.0.{self.hosts.index(host) + 2}"

    def inside(self, host: str) -> list[str]:
        """What starts a command where the host is."""
        return []

    def know(self, *, keys: Optional[dict[str, str]] = None) -> None:
        """Write known_hosts; keys: other files for some hosts, to have them known under a wrong key."""
        lines = []
        for host in self.hosts:
            with open(self.path(f"{(keys or {}).get(host, host)}.pub"), encoding="ascii") as file:
                lines.append(f"[{self.address(host)}]:{self.port} {file.read()}")
        _write(self.path("known_hosts"), "".join(lines))

    def start(self, host: str, *settings: str) -> None:
        """Start a host's sshd, with more settings than usual, and wait until it answers."""
        lines = [
            f"ListenAddress {self.address(host)}:{self.port}", f"HostKey {self.path(host)}", "PidFile none",
            f"AuthorizedKeysFile {self.path('key.pub')}", "StrictModes no", "UsePAM no", "PasswordAuthentication no",
            "KbdInteractiveAuthentication no", "PermitRootLogin prohibit-password", "PrintMotd no", "UseDNS no",
            f"SetEnv HOME={self.path('home')}", *settings, *self.settings,
        ]  # fmt: skip
        _write(self.path(f"{host}.conf"), "\n".join(lines) + "\n")
        self.daemons.start(host, *self.inside(host), SSHD, "-D", "-e", "-f", self.path(f"{host}.conf"))
        self.daemons.wait_until(lambda: self.answers(host) or settings, f"an answer of {host}", host)

    def answers(self, host: str) -> bool:
        """Whether something can be run there."""
        done = subprocess.run(
            ["ssh", "-F", self.path("ssh_config"), "-o", "BatchMode=yes", host, "true"], stdin=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL, check=False, timeout=20,
        )  # fmt: skip
        return done.returncode == 0

    def start_all(self) -> None:
        """Start all hosts that do not run."""
        for host in self.hosts:
            if not self.daemons.is_running(host):
                self.start(host)

    def sessions(self, host: str) -> list[psutil.Process]:
        """The sshd processes of connections; what runs in them is below."""
        return psutil.Process(self.daemons.pid(host)).children() if self.daemons.is_running(host) else []

    def cut(self, host: str) -> None:
        """End all connections; sshd goes on, and so does what was run."""
        for session in self.sessions(host):
            with contextlib.suppress(psutil.NoSuchProcess):
                session.kill()

    def down(self, host: str) -> None:
        """End sshd and all connections; what was run goes on."""
        sessions = self.sessions(host)
        self.daemons.kill(host)
        for session in sessions:
            with contextlib.suppress(psutil.NoSuchProcess):
                session.kill()

    def empty(self) -> None:
        """Kill every job, and forget it."""
        wait_until(self._kill_jobs, "the end of all jobs")
        shutil.rmtree(self.jobs)
        os.makedirs(self.jobs)

    def _kill_jobs(self) -> bool:
        alive = False
        for folder, _, names in os.walk(self.jobs):
            for name in ("keeper", "child"):
                if name in names:
                    with open(os.path.join(folder, name), encoding="ascii") as file:
                        alive |= _kill(int(file.read().split()[0]), folder)
        return not alive

    def stop(self) -> None:
        """End all."""
        for host in self.hosts:
            self.cut(host)
        self.daemons.stop_all()
        self.empty()


def _kill(pid: int, folder: str) -> bool:
    """Kill a process of a job that has not ended, with its group; whether it was there."""
    if os.path.exists(os.path.join(folder, "end")):
        return False
    try:
        os.killpg(os.getpgid(pid), signal.SIGKILL)
    except ProcessLookupError:
        return False
    return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE


def _write(path: str, text: str) -> None:
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="ascii") as file:
        file.write(text)


@contextlib.contextmanager
def start(
    directory: Optional[str] = None, hosts: int = 2, settings: Sequence[str] = ()
) -> Iterator[SshServer]:
    """Hosts that run inside `with`; without a directory, in one of their own that is removed."""
    with contextlib.ExitStack() as stack:
        if directory is None:
            directory = stack.enter_context(tempfile.TemporaryDirectory(prefix="sshd-"))
        server = SshServer(os.path.abspath(directory), hosts, settings)
        server.prepare()
        stack.callback(server.stop)
        server.start_all()
        yield server


def main() -> None:
    """Start hosts by hand."""
    parser = argparse.ArgumentParser(description="Start three sshd's on this machine, until Ctrl-C.")
    parser.add_argument("directory", help="where their state is kept")
    arguments = parser.parse_args()
    os.makedirs(arguments.directory, exist_ok=True)
    try:
        with start(arguments.directory, 3) as server:
            hosts = server.write_hosts(*(f"{host} cores=2 memory=2G" for host in server.hosts))
            print(f"--sshHosts {hosts} --sshArgs '{server.arguments}'", flush=True)
            signal.sigwait({signal.SIGINT, signal.SIGTERM})
    except ServerError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
