"""What every script here prints when it has ended: the sum of what its tasks returned, and two moments.

``ready`` is when the engine had run its first task, so that its processes were up; ``done`` is when the last of the
others had returned. Both are readings of the monotonic clock, which is one for all processes of a machine. An engine
that runs a whole pipeline and ends has no such moments; its fixed cost is found by running it with one task.
"""

from __future__ import annotations

import argparse
import json
from typing import Optional

SLOTS = 2


def number() -> int:
    """How many tasks the command line asks for."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--number", type=int, default=1000)
    return int(parser.parse_args().number)


def give(total: int, ready: Optional[float] = None, done: Optional[float] = None) -> None:
    """Print the answer, as the last line."""
    print("\n" + json.dumps({"sum": total, "ready": ready, "done": done}), flush=True)
