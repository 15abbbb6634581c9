"""concurrent.futures.ProcessPoolExecutor: submit() for each task, as its documentation has it. Keeps nothing."""

from __future__ import annotations

import time
from concurrent.futures import ProcessPoolExecutor

from benchmarks.peers.answer import SLOTS, give, number


def task(i: int) -> int:
    """Return what it is given."""
    return i


def main() -> None:
    """Run them."""
    count = number()
    with ProcessPoolExecutor(SLOTS) as pool:
        for warm in [pool.submit(task, 0) for _ in range(SLOTS)]:
            warm.result()
        ready = time.monotonic()
        futures = [pool.submit(task, i) for i in range(count)]
        total = sum(future.result() for future in futures)
        done = time.monotonic()
    give(total, ready, done)


if __name__ == "__main__":
    main()
