"""Dask distributed on one machine: a LocalCluster of processes, client.map for many tasks of one function, gather.

client.map hands all tasks over in one call, which is what its documentation recommends; its batch_size, which would
join tasks, is left alone. Keeps nothing on disk.
"""

from __future__ import annotations

import logging
import time

from dask.distributed import Client, LocalCluster  # type: ignore[import-not-found]

from benchmarks.peers.answer import SLOTS, give, number


def task(i: int) -> int:
    """Return what it is given."""
    return i


def main() -> None:
    """Run them."""
    count = number()
    with (
        LocalCluster(
            n_workers=SLOTS,
            threads_per_worker=1,
            processes=True,
            dashboard_address=None,
            silence_logs=logging.ERROR,
        ) as cluster,
        Client(cluster) as client,
    ):
        client.submit(task, -1).result()
        ready = time.monotonic()
        futures = client.map(task, range(count))
        total = sum(client.gather(futures))
        done = time.monotonic()
    give(total, ready, done)


if __name__ == "__main__":
    main()
