"""The ssh batch system keeps the contract: a real sshd, a real ssh."""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
from collections.abc import Iterator
from typing import Optional

import pytest

from batchsystems.abstract import AbstractBatchSystem, Setup
from batchsystems.ssh import Ssh
from tests.conformance.batch_system import BatchSystemContract
from tests.conformance.clauses_scheduler import SchedulerContract
from tests.fakes import forgetful_ssh_host
from tests.servers import sshd
from tests.servers.sshd import SshServer

pytestmark = [pytest.mark.servers, pytest.mark.slow, pytest.mark.xdist_group("ssh")]

HOSTS, ARGUMENTS, DIRECTORY = "JOBTREE_TEST_SSH_HOSTS", "JOBTREE_TEST_SSH_ARGS", "JOBTREE_TEST_SSH_DIRECTORY"
LINE = "host1 cores=4 memory=1G"

_server: Optional[SshServer] = None
"""The one of this module's tests; only the process that runs them has it."""


@pytest.fixture(scope="module")
def server() -> Iterator[SshServer]:
    global _server
    sshd.require_installed()
    with sshd.start(hosts=1) as _server:
        yield _server
    _server = None


@pytest.fixture(autouse=True)
def host(server: SshServer, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """One host that has nothing to do."""
    with tempfile.TemporaryDirectory(prefix="ssh-") as name:
        # In the environment, where the master that is killed finds it too.
        monkeypatch.setenv(DIRECTORY, name)
        monkeypatch.setenv(HOSTS, server.write_hosts(LINE))
        monkeypatch.setenv(ARGUMENTS, server.arguments)
        server.start_all()
        yield
        server.empty()


def running_server() -> SshServer:
    assert _server is not None
    return _server


class TestSsh(BatchSystemContract, SchedulerContract):
    short_jobs = 300

    def make(self) -> AbstractBatchSystem:
        return Ssh(
            os.environ[DIRECTORY], os.environ[HOSTS], ["ssh", *os.environ[ARGUMENTS].split()], unfit=0.2
        )

    def setup(self) -> Setup:
        options = {"sshHosts": os.environ[HOSTS], "sshArgs": os.environ[ARGUMENTS]}
        return Setup("conformance", os.environ[DIRECTORY], options)

    @contextlib.contextmanager
    def down(self) -> Iterator[None]:
        running_server().down("host1")
        yield
        running_server().start("host1")

    @contextlib.contextmanager
    def forgetful(self) -> Iterator[None]:
        running_server().down("host1")
        running_server().start("host1", f"ForceCommand exec {sys.executable} {forgetful_ssh_host.__file__}")
        yield
        running_server().down("host1")
        running_server().start("host1")

    @contextlib.contextmanager
    def refusing(self) -> Iterator[None]:
        """The file is edited: there are only hosts that are too small."""
        running_server().write_hosts("host1 cores=0.5 memory=1G")
        yield
        running_server().write_hosts(LINE)
