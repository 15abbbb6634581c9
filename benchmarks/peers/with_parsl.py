"""Parsl's HighThroughputExecutor on one machine: python_apps, two workers. Keeps nothing on disk but logs.

prefetch_capacity is set, as the executor's documentation advises for many short tasks: a worker then need not wait for
the next one.
"""

from __future__ import annotations

import time

import parsl  # type: ignore[import-not-found]
from parsl.config import Config  # type: ignore[import-not-found]
from parsl.executors import HighThroughputExecutor  # type: ignore[import-not-found]
from parsl.providers import LocalProvider  # type: ignore[import-not-found]

from benchmarks.peers.answer import SLOTS, give, number


def task(i: int) -> int:
    """Return what it is given."""
    return i


def main() -> None:
    """Run them."""
    count = number()
    executor = HighThroughputExecutor(
        label="two",
        address="127.0.0.1",
        max_workers_per_node=SLOTS,
        cores_per_worker=1,
        prefetch_capacity=100,
        provider=LocalProvider(init_blocks=1, min_blocks=1, max_blocks=1),
    )
    config = Config(executors=[executor], strategy="none", initialize_logging=False)
    with parsl.load(config):
        app = parsl.python_app(task)
        app(0).result()
        ready = time.monotonic()
        futures = [app(i) for i in range(count)]
        total = sum(future.result() for future in futures)
        done = time.monotonic()
    give(total, ready, done)


if __name__ == "__main__":
    main()
