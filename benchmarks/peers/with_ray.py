"""Ray on one machine: remote functions, one ray.get for all, as its documentation has it. Keeps nothing on disk.

Its documentation also advises against tasks as small as these and shows how to join them by hand, which no engine here
is helped with.
"""

from __future__ import annotations

import logging
import os
import time

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")

import ray  # type: ignore[import-not-found]

from benchmarks.peers.answer import SLOTS, give, number


def task(i: int) -> int:
    """Return what it is given."""
    return i


def main() -> None:
    """Run them."""
    count = number()
    ray.init(num_cpus=SLOTS, include_dashboard=False, logging_level=logging.ERROR, configure_logging=True)
    remote = ray.remote(task)
    ray.get([remote.remote(0) for _ in range(SLOTS)])
    ready = time.monotonic()
    total = sum(ray.get([remote.remote(i) for i in range(count)]))
    done = time.monotonic()
    ray.shutdown()
    give(total, ready, done)


if __name__ == "__main__":
    main()
