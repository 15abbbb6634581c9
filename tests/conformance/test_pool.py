"""The pool keeps the contract: a real Redis, real nodes."""

from __future__ import annotations

import contextlib
import os
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Optional

import pytest

from batchsystems import pool_hub
from batchsystems.abstract import AbstractBatchSystem, Setup
from batchsystems.pool import Pool
from batchsystems.pool_hub import Hub
from batchsystems.pool_report import Report
from batchsystems.pool_signing import load_key
from tests.conformance.batch_system import BatchSystemContract
from tests.conformance.clauses_scheduler import SchedulerContract
from tests.servers import redis
from tests.servers.pool_nodes import RunningPool
from tests.servers.redis import RedisServer

pytestmark = [pytest.mark.servers, pytest.mark.slow, pytest.mark.xdist_group("pool")]

URL, DIRECTORY = "JOBTREE_TEST_POOL_URL", "JOBTREE_TEST_POOL_DIRECTORY"

_pool: Optional[RunningPool] = None
"""The one of this module's tests; only the process that runs them has it."""


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    redis.require_installed()
    with redis.start() as started:
        yield started


@pytest.fixture(autouse=True)
def pool(server: RedisServer) -> Iterator[None]:
    """A hub that knows nothing, and one node: what tests leave running dies with it."""
    global _pool
    server.ask("FLUSHALL")
    with tempfile.TemporaryDirectory(prefix="pool-") as name:
        with RunningPool(server, Path(name)) as _pool:
            # In the environment, where the master that is killed finds it too.
            os.environ.update({URL: server.url, DIRECTORY: name})
            _pool.start(timeout=4)
            yield
        for variable in (URL, DIRECTORY):
            del os.environ[variable]
        _pool = None


LOSE = """
for _, kind in ipairs({'payload', 'line', 'seq', 'lines'}) do redis.call('DEL', ARGV[1] .. kind) end
for _, run in ipairs(redis.call('HKEYS', ARGV[1] .. 'runs')) do redis.call('DEL', ARGV[1] .. 'run:' .. run) end
"""


def lose(hub: Hub, over: threading.Event) -> None:
    """Remove what was submitted, again and again."""
    while not over.wait(0.01):
        hub.asked("EVAL", LOSE, 0, hub.space)


class TestPool(BatchSystemContract, SchedulerContract):
    short_jobs = 300

    def make(self) -> AbstractBatchSystem:
        hub = Hub(pool_hub.address(os.environ[URL]), load_key(f"{os.environ[DIRECTORY]}/key"))
        return Pool(hub, os.environ[DIRECTORY], patience=0.2)

    def setup(self) -> Setup:
        options = {"poolHub": os.environ[URL], "poolKeyFile": f"{os.environ[DIRECTORY]}/key"}
        return Setup("conformance", os.environ[DIRECTORY], options)

    @contextlib.contextmanager
    def down(self) -> Iterator[None]:
        assert _pool is not None
        _pool.server.kill()
        yield
        _pool.server.start()

    @contextlib.contextmanager
    def forgetful(self) -> Iterator[None]:
        """The node does nothing, and what is queued is removed behind everybody's back."""
        assert _pool is not None
        hub = _pool.hub()
        over = threading.Event()
        loses = threading.Thread(target=lose, args=(hub, over))
        Report(hub).drain(_pool.row(_pool.nodes[-1])["node"], True)
        loses.start()
        yield
        over.set()
        loses.join()
        Report(hub).drain(_pool.row(_pool.nodes[-1])["node"], False)
        hub.close()

    @contextlib.contextmanager
    def refusing(self) -> Iterator[None]:
        """There are only nodes that are too small, and nobody remembers others."""
        assert _pool is not None
        _pool.nodes[-1].kill()
        _pool.server.kill()
        _pool.server.forget()
        _pool.server.start()
        small = _pool.start(0.5)
        yield
        small.kill()
