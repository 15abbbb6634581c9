"""What the fake commands of SLURM are: they ask the controller, and misbehave as the test says.

python -I -S tests/fakes/slurm/client.py DIRECTORY squeue --noheader ...
"""

from __future__ import annotations

import json
import os
import socket
import sys
import time

_AWAY = "Unable to contact slurm controller (connect failure)"


def main() -> int:
    """One command."""
    directory, command, *arguments = sys.argv[1:]
    with open(os.path.join(directory, "calls"), "a", encoding="utf-8") as calls:
        calls.write(json.dumps([command, *arguments]) + "\n")
    slow = _trick(directory, "slow")
    if slow is not None:
        time.sleep(float(slow))
    answer = None if _trick(directory, "down") is not None else _ask(directory, [command, *arguments])
    if answer is None:
        print(f"{command}: error: {_AWAY}", file=sys.stderr)
        return 1
    status, out, err = answer
    sys.stdout.write(out)
    sys.stderr.write(err)
    return int(status)


def _trick(directory: str, name: str) -> str | None:
    try:
        with open(os.path.join(directory, "tricks", name), encoding="utf-8") as file:
            return file.read()
    except FileNotFoundError:
        return None


def _ask(directory: str, words: list[str]) -> tuple[int, str, str] | None:
    read = "" if words[0] != "sbatch" else sys.stdin.read()
    asked = {"words": words, "read": read, "env": dict(os.environ)}
    try:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(os.path.join(directory, "socket"))
            connection.sendall(json.dumps(asked).encode() + b"\n")
            with connection.makefile("rb") as answer:
                status, out, err = json.loads(answer.readline())
                return status, out, err
    except (OSError, ValueError):
        return None


if __name__ == "__main__":
    sys.exit(main())
