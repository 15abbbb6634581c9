"""A real redis-server on this machine: the hub of a pool, for tests.

State is in one directory, and it listens on the loopback only. Variants have a user and a password (an access control
list as docs/howto/pool.md has it), TLS with a certificate authority made here, or both; files that it can be started
again from, or none.

By hand: `python -m tests.servers.redis DIRECTORY` starts one and waits for Ctrl-C.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Optional

from batchsystems import pool_hub
from batchsystems.pool_hub import Address
from tests.requirements import missing
from tests.servers import packages
from tests.servers.daemons import Daemons, free_ports

PACKAGES = ("redis-server", "redis-tools", "openssl")

PASSWORD = "correct horse: battery staple"


def install() -> None:
    """Install what a hub for tests needs, as root."""
    packages.install(PACKAGES)


def require_installed() -> None:
    """Skip the calling test where no hub can be started, or fail it (see `tests.requirements.missing`)."""
    for program in ("redis-server", "openssl"):
        if shutil.which(program) is None:
            missing(f"{program} is not installed ('make clusters' does it)")


@dataclass(frozen=True)
class Variant:
    """What a hub is to have.

    `users`  its default user is off; `user` has the rights of the how-to and the password PASSWORD
    `tls`    TLS, and no other port
    `files`  what it knows is written down, and is there when it is started again
    `sync`   when that is on the disk: "always", before it answers, or "everysec", as Debian has it
    """

    users: bool = False
    tls: bool = False
    files: bool = True
    sync: str = "always"


class RedisServer:
    """A running hub."""

    def __init__(self, directory: str, variant: Variant) -> None:
        self.directory = directory
        self.variant = variant
        self.port = free_ports(1)
        self.daemons = Daemons(self.path("log"), os.environ)

    def path(self, *names: str) -> str:
        """A file in the server's directory."""
        return os.path.join(self.directory, *names)

    @property
    def url(self) -> str:
        """What --poolHub and --hub take."""
        scheme = "rediss" if self.variant.tls else "redis"
        user = f"{pool_hub.user_name()}@" if self.variant.users else ""
        return f"{scheme}://{user}localhost:{self.port}"

    @property
    def address(self) -> Address:
        """Where it is, and how one gets in."""
        password = self.path("password") if self.variant.users else None
        return pool_hub.address(self.url, password, self.path("ca.crt") if self.variant.tls else None)

    def options(self, prefix: str) -> list[str]:
        """The options of a command line; prefix: "--pool" of a run, "--" of a node."""
        given = [f"{prefix}Hub" if prefix != "--" else "--hub", self.url]
        if self.variant.users:
            given += [f"{prefix}PasswordFile" if prefix != "--" else "--passwordFile", self.path("password")]
        if self.variant.tls:
            given += [f"{prefix}CA" if prefix != "--" else "--ca", self.path("ca.crt")]
        return given

    def start(self) -> None:
        """Start it, unless it runs, and wait until it answers."""
        self.write_configuration()
        self.daemons.start("redis", "redis-server", self.path("redis.conf"))
        self.daemons.wait_until(self._answers, "an answer of redis-server", "redis")

    def kill(self) -> None:
        """SIGKILL."""
        self.daemons.kill("redis")

    def pause(self) -> None:
        """Stop its process."""
        self.daemons.signal("redis", signal.SIGSTOP)

    def go_on(self) -> None:
        """Let its process go on."""
        self.daemons.signal("redis", signal.SIGCONT)

    def forget(self) -> None:
        """Remove its files; it does not run."""
        shutil.rmtree(self.path("data"))

    def stop(self) -> None:
        """End it."""
        if self.daemons.is_running("redis"):
            self.go_on()
        self.daemons.stop_all()

    def ask(self, *words: str) -> str:
        """What redis-cli prints for a command, as the administrator."""
        command = ["redis-cli", "-h", "localhost", "-p", str(self.port)]
        if self.variant.tls:
            command += ["--tls", "--cacert", self.path("ca.crt")]
        if self.variant.users:
            command += ["--user", "admin"]
        env = {**os.environ, "REDISCLI_AUTH": "admin"} if self.variant.users else None
        done = subprocess.run([*command, *words], env=env, capture_output=True, text=True, check=False)
        return done.stdout.strip()

    def _answers(self) -> bool:
        return self.ask("PING") == "PONG"

    def write_configuration(self) -> None:
        """Write what it is started with."""
        os.makedirs(self.path("data"), exist_ok=True)
        lines = [
            "bind 127.0.0.1", f"dir {self.path('data')}", "daemonize no", "maxmemory-policy noeviction",
            f"port {0 if self.variant.tls else self.port}", 'save ""',
        ]  # fmt: skip
        if self.variant.files:
            lines += ["appendonly yes", f"appendfsync {self.variant.sync}"]
        if self.variant.tls:
            self.make_certificates()
            lines += [
                f"tls-port {self.port}", f"tls-cert-file {self.path('server.crt')}",
                f"tls-key-file {self.path('server.key')}", f"tls-ca-cert-file {self.path('ca.crt')}",
                "tls-auth-clients no",
            ]  # fmt: skip
        if self.variant.users:
            lines.append(f"aclfile {self.path('users.acl')}")
            _write(self.path("password"), PASSWORD + "\n")
            _write(self.path("users.acl"), "\n".join(access_list(pool_hub.user_name())) + "\n")
        _write(self.path("redis.conf"), "\n".join(lines) + "\n")

    def make_certificates(self) -> None:
        """Make an authority and its server, unless they are there."""
        if os.path.exists(self.path("server.crt")):
            return
        new = ("req", "-newkey", "rsa:2048", "-nodes", "-keyout")
        self._openssl(*new, "ca.key", "-x509", "-days", "2", "-subj", "/CN=test authority", "-out", "ca.crt")
        self._openssl(*new, "server.key", "-subj", "/CN=localhost", "-out", "server.csr")
        _write(self.path("names"), "subjectAltName=DNS:localhost\n")
        self._openssl(
            "x509", "-req", "-in", "server.csr", "-CA", "ca.crt", "-CAkey", "ca.key", "-CAcreateserial", "-days", "2",
            "-extfile", "names", "-out", "server.crt",
        )  # fmt: skip

    def _openssl(self, *arguments: str) -> None:
        subprocess.run(["openssl", *arguments], cwd=self.directory, capture_output=True, check=True)


def access_list(user: str) -> list[str]:
    """The users of a hub: the rights of one user of a pool, as the how-to gives them, and an administrator."""
    import hashlib

    digest = hashlib.sha256(PASSWORD.encode()).hexdigest()
    return [
        "user default off",
        "user admin on >admin ~* &* +@all",
        f"user {user} on #{digest} resetkeys ~jobtree:user:{user}:* ~jobtree:users ~jobtree:boot ~jobtree:place:* "
        "%R~jobtree:* resetchannels -@all +@read +@write +@connection +eval +evalsha +script|load +time -@dangerous",
    ]


@contextlib.contextmanager
def start(directory: Optional[str] = None, variant: Optional[Variant] = None) -> Iterator[RedisServer]:
    """A hub that runs inside `with`; without a directory, in one of its own that is removed."""
    with contextlib.ExitStack() as stack:
        if directory is None:
            directory = stack.enter_context(tempfile.TemporaryDirectory(prefix="redis-"))
        server = RedisServer(os.path.abspath(directory), variant or Variant())
        stack.callback(server.stop)
        server.start()
        yield server


def _write(path: str, text: str) -> None:
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="ascii") as file:
        file.write(text)


def main() -> None:
    """Start a hub by hand."""
    parser = argparse.ArgumentParser(description="Start a hub of a pool on this machine, until Ctrl-C.")
    parser.add_argument("--users", action="store_true", help="with a user, whose password is in DIRECTORY")
    parser.add_argument("--tls", action="store_true", help="with TLS")
    parser.add_argument("directory", help="where its state is kept")
    arguments = parser.parse_args()
    os.makedirs(arguments.directory, exist_ok=True)
    with start(arguments.directory, Variant(users=arguments.users, tls=arguments.tls)) as server:
        print(" ".join(server.options("--pool")), flush=True)
        signal.sigwait({signal.SIGINT, signal.SIGTERM})


if __name__ == "__main__":
    main()
