"""Settings of the tests that draw their own examples.

The profile "ci", which setup.cfg chooses, draws the same examples in every run. With JOBTREE_TEST_PROFILE=long in the
environment it draws new ones, and many more of them: for a night. A failure prints what reproduces it.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from typing import TYPE_CHECKING, TypeVar

import pytest
from hypothesis import HealthCheck, settings

if TYPE_CHECKING:
    from tests.servers.grid_engine import GridEngineServer
    from tests.servers.slurm import SlurmServer

_SLOW = [HealthCheck.too_slow, HealthCheck.data_too_large]

if os.environ.get("JOBTREE_TEST_PROFILE") == "long":
    settings.register_profile(
        "ci",
        max_examples=5000,
        stateful_step_count=150,
        deadline=None,
        print_blob=True,
        suppress_health_check=_SLOW,
    )
else:
    settings.register_profile(
        "ci", max_examples=60, stateful_step_count=40, deadline=None, print_blob=True, derandomize=True, database=None,
        suppress_health_check=_SLOW,
    )  # fmt: skip


def pytest_configure() -> None:
    """Let what the tests start be stopped by signals: nohup and background shells hand them on as ignored."""
    for number, handler in ((signal.SIGINT, signal.default_int_handler), (signal.SIGHUP, signal.SIG_DFL)):
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, handler)


# -- real servers ------------------------------------------------------------------------------------------------
#
# One of a kind for all tests of a session. Those that use it are marked `servers` and share an `xdist_group`, so that
# they run one after the other in one process. Each of them gets a server that runs, with nothing left of earlier ones.


@pytest.fixture(scope="session")
def _slurm_server() -> Iterator[SlurmServer]:
    from tests.servers import slurm

    slurm.require_installed()
    with slurm.start() as server:
        yield server


@pytest.fixture(scope="session")
def _slurm_server_with_accounting() -> Iterator[SlurmServer]:
    from tests.servers import slurm

    slurm.require_installed(accounting=True, cgroup=True)
    with slurm.start(variant=slurm.Variant(accounting=True, cgroup=True)) as server:
        yield server


@pytest.fixture
def slurm_server(_slurm_server: SlurmServer, monkeypatch: pytest.MonkeyPatch) -> SlurmServer:
    """A real SLURM of four nodes, as plain as can be: no accounting, no control groups."""
    return _for_this_test(_slurm_server, monkeypatch)


@pytest.fixture
def slurm_server_with_accounting(
    _slurm_server_with_accounting: SlurmServer, monkeypatch: pytest.MonkeyPatch
) -> SlurmServer:
    """A real SLURM of four nodes with accounting and control groups."""
    return _for_this_test(_slurm_server_with_accounting, monkeypatch)


@pytest.fixture(scope="session")
def _grid_engine_server() -> Iterator[GridEngineServer]:
    from tests.servers import grid_engine

    grid_engine.require_installed()
    with grid_engine.start() as server:
        yield server


@pytest.fixture
def grid_engine_server(
    _grid_engine_server: GridEngineServer, monkeypatch: pytest.MonkeyPatch
) -> GridEngineServer:
    """A real Grid Engine of one host with eight slots."""
    return _for_this_test(_grid_engine_server, monkeypatch)


_Server = TypeVar("_Server", "SlurmServer", "GridEngineServer")


def _for_this_test(server: _Server, monkeypatch: pytest.MonkeyPatch) -> _Server:
    for name in os.environ:
        if name.startswith(("SLURM", "SBATCH", "SGE_", "DRMAA_")):
            monkeypatch.delenv(name)
    for name, value in server.env.items():
        monkeypatch.setenv(name, value)
    server.start()
    server.clear()
    return server
