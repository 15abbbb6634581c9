"""Install what the test servers need: `make clusters`. As root, on Debian 12; nothing is started."""

from __future__ import annotations

from tests.servers import chromium, grid_engine, netns, redis, slurm, sshd

# A server's module has `install`, `require_installed` and `start`.
SERVERS = (slurm, grid_engine, redis, sshd, netns, chromium)


def main() -> None:
    """Install for every server."""
    for server in SERVERS:
        server.install()


if __name__ == "__main__":
    main()
