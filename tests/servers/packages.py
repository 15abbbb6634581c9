"""Debian packages that test servers need: whether they are there, and how to get them without starting anything."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from collections.abc import Iterator, Sequence

_POLICY = "/usr/sbin/policy-rc.d"


def missing(packages: Sequence[str]) -> list[str]:
    """Those of the packages that are not installed."""
    if shutil.which("dpkg-query") is None:
        return list(packages)
    command = ["dpkg-query", "--show", "--showformat", "${Package} ${db:Status-Status}\n", *packages]
    answer = subprocess.run(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, check=False
    )
    installed = {line.split()[0] for line in answer.stdout.splitlines() if line.endswith(" installed")}
    return [package for package in packages if package not in installed]


def install(packages: Sequence[str]) -> None:
    """Install what is missing, as root. Raises subprocess.CalledProcessError; apt has said why."""
    wanted = missing(packages)
    if not wanted:
        return
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    # Somebody else's apt may hold the lock for a while.
    apt = ["apt-get", "--quiet", "--option", "DPkg::Lock::Timeout=600"]
    with _nothing_starts():
        # Some repositories of a machine may be out of reach; then what is known of the others will do.
        subprocess.run([*apt, "update"], env=environment, check=False)
        subprocess.run(
            [*apt, "install", "--yes", "--no-install-recommends", *wanted], env=environment, check=True
        )


def preseed(package: str, question: str, kind: str, value: str) -> None:
    """Answer what a package would ask when it is installed, as root, where that is still to come."""
    if missing([package]):
        answer = f"{package} {question} {kind} {value}\n"
        subprocess.run(["debconf-set-selections"], input=answer, text=True, check=True)


@contextlib.contextmanager
def _nothing_starts() -> Iterator[None]:
    """Packages of daemons start them when they are installed; tests start their own."""
    if os.path.exists(_POLICY):  # somebody has decided this for the machine already
        yield
        return
    with open(_POLICY, "w", encoding="ascii") as file:
        file.write("#!/bin/sh\nexit 101\n")
    os.chmod(_POLICY, 0o755)
    try:
        yield
    finally:
        os.unlink(_POLICY)
