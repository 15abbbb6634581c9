"""The first example, on a real scheduler."""

from __future__ import annotations

import sys
from pathlib import Path

from tests.system.legacy_script import CHECKOUT
from tests.system.waiting import SERVER_SECONDS, Running


def sort(directory: Path, *options: str) -> None:
    """Sort a file there, in many jobs, and look at what comes of it."""
    lines = [f"{number * 7919 % 10007} {'x' * (number % 50)}\n" for number in range(4000)]
    (directory / "file").write_text("".join(lines))
    example = str(CHECKOUT / "examples" / "sort.py")

    ran = Running(
        directory,
        [sys.executable, example, "--jobTree", "tree", "--N", "30000", "--fileToSort", "file", *options],
        99,
        SERVER_SECONDS,
    ).ended()

    assert ran.status == 0, ran.err
    assert (directory / "file").read_text() == "".join(sorted(lines))
