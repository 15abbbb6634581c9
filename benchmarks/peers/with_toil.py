"""Toil on one machine: children of one job, their returned values promised to its follow-on. Job store on disk.

The children are as small as a Toil job can be: no files, no cache, no more memory and disk asked for than lets two run.
"""

from __future__ import annotations

import sys
from typing import Any

from toil.common import Toil  # type: ignore[import-not-found]
from toil.job import Job  # type: ignore[import-not-found]

from benchmarks.peers.answer import SLOTS, give, number

SMALL = {"cores": 1, "memory": "200M", "disk": "10M"}


def task(job: Any, i: int) -> int:
    """Return what it is given."""
    return i


def add_up(job: Any, values: list[int]) -> int:
    """The sum of what the children returned."""
    return sum(values)


def root(job: Any, count: int) -> Any:
    """Make all the children."""
    values = [job.addChildJobFn(task, i, **SMALL).rv() for i in range(count)]
    return job.addFollowOnJobFn(add_up, values, **SMALL).rv()


def main() -> None:
    """Run them."""
    count = number()
    sys.argv[1:] = []
    options = Job.Runner.getDefaultOptions("store")
    options.batchSystem = "single_machine"
    options.maxCores = SLOTS
    options.logLevel = "ERROR"
    options.disableProgress = True
    options.clean = "always"
    with Toil(options) as toil:
        total = toil.start(Job.wrapJobFn(root, count, **SMALL))
    give(total)


if __name__ == "__main__":
    main()
