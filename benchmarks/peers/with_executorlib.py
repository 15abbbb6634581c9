"""executorlib on one machine: SingleNodeExecutor with block allocation, which its documentation recommends for many
short calls, as processes are then used again. Keeps nothing on disk."""

from __future__ import annotations

import time

from executorlib import SingleNodeExecutor  # type: ignore[import-not-found]

from benchmarks.peers.answer import SLOTS, give, number


def task(i: int) -> int:
    """Return what it is given."""
    return i


def main() -> None:
    """Run them."""
    count = number()
    with SingleNodeExecutor(max_workers=SLOTS, block_allocation=True) as executor:
        for warm in [executor.submit(task, 0) for _ in range(SLOTS)]:
            warm.result()
        ready = time.monotonic()
        futures = [executor.submit(task, i) for i in range(count)]
        total = sum(future.result() for future in futures)
        done = time.monotonic()
    give(total, ready, done)


if __name__ == "__main__":
    main()
