"""A pipeline whose targets know what must be there, and say when they start: what power cuts are tried on.

    JOBTREE_TEST_WITNESS=FILE python power_cut_pipeline.py --jobTree DIR [options of jobtree]

The witness lies on another disk. Each target appends the line ``start NAME CAUSE`` to it: CAUSE is the target that has
made it, as a child or as a follow-on, and so has ended, and is on disk for good. After that line the cause must never
start again.

With JOBTREE_TEST_LOCAL=1 jobtree takes the tests' file systems for a disk of this machine.
"""

from __future__ import annotations

import argparse
import hashlib
import os
from typing import Any

from jobtree import Stack, Target, filesystems

BRANCHES = 5
LEAVES = 3
LARGE = 1_200_000
"""Bytes of a value that gets a file of its own."""

if os.environ.get("JOBTREE_TEST_LOCAL"):
    filesystems.LOCAL = filesystems.LOCAL | {"fuse.powercut"}


def witness(name: str, cause: str) -> None:
    """Say that a target starts; in one write, on a disk that keeps it."""
    fd = os.open(os.environ["JOBTREE_TEST_WITNESS"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        os.write(fd, f"start {name} {cause}\n".encode())
    finally:
        os.close(fd)


def content(name: str) -> bytes:
    """What the file of a target holds: some kilobytes, of another length for each."""
    block = hashlib.sha256(name.encode()).hexdigest().encode()
    return block * (20 + block[0] % 50)


def leave(directory: str, name: str) -> None:
    """Write a target's file, as a careless user does: no sync, and by renaming it into place."""
    folder = os.path.join(directory, "of", "targets")
    os.makedirs(folder, exist_ok=True)
    path = os.path.join(folder, name.replace("/", "-"))
    with open(path + ".part", "wb") as file:
        file.write(content(name))
    os.replace(path + ".part", path)


def check(directory: str, names: list[str]) -> None:
    """Raise unless the files of these targets are there, and whole."""
    for name in names:
        path = os.path.join(directory, "of", "targets", name.replace("/", "-"))
        with open(path, "rb") as file:
            found = file.read()
        if found != content(name):
            raise ValueError(f"{path} is not what {name} wrote: {len(found)} bytes")


def leaf(target: Target, name: str, cause: str, directory: str, chained: int) -> Any:
    """Writes a file into the directory of the one above; some go on in follow-ons of their own."""
    witness(name, cause)
    leave(directory, name)
    if chained:
        leave(target.getGlobalTempDir(), name)
        target.setFollowOnTargetFn(tail, args=(f"{name}+", name, [name], chained - 1))
    return 1


def tail(target: Target, name: str, cause: str, before: list[str], chained: int) -> None:
    """A follow-on of a leaf: all files of its chain must be there."""
    witness(name, cause)
    check(target.getGlobalTempDir(), before)
    leave(target.getGlobalTempDir(), name)
    if chained:
        target.setFollowOnTargetFn(tail, args=(f"{name}+", name, [*before, name], chained - 1))


def branch(target: Target, name: str, number: int) -> Any:
    """Adds leaves; its follow-on checks what they left and adds up what they returned."""
    witness(name, "root")
    directory = target.getGlobalTempDir()
    leave(directory, name)
    names = [f"{name}/{n}" for n in range(LEAVES)]
    counts = [
        target.addChildTargetFn(leaf, args=(one, name, directory, number % 3 if n == 0 else 0)).rv()
        for n, one in enumerate(names)
    ]
    follow_on = target.setFollowOnTargetFn(
        gather, args=(f"{name}+", name, [name, *names], counts, number == 1)
    )
    return follow_on.rv()


def gather(target: Target, name: str, cause: str, names: list[str], counts: list[int], large: bool) -> Any:
    """After the leaves of a branch."""
    witness(name, cause)
    check(target.getGlobalTempDir(), names)
    return sum(counts), b"x" * LARGE if large else b""


def root(target: Target) -> Any:
    """The first target."""
    witness("root", "nobody")
    leave(target.getGlobalTempDir(), "root")
    names = [f"b{number}" for number in range(BRANCHES)]
    counts = [target.addChildTargetFn(branch, args=(name, number)).rv() for number, name in enumerate(names)]
    return target.setFollowOnTargetFn(report, args=(counts,)).rv()


def report(target: Target, counts: list[tuple[int, bytes]]) -> int:
    """The last target."""
    witness("root+", "root")
    check(target.getGlobalTempDir(), ["root"])
    if sum(len(data) for _, data in counts) != LARGE:
        raise ValueError("the large value is not whole")
    return sum(count for count, _ in counts)


def main() -> int:
    """Run it; exit status 0 if the result is right."""
    parser = argparse.ArgumentParser()
    Stack.addJobTreeOptions(parser)
    options = parser.parse_args()
    stack = Stack(Target.makeTargetFn(root))
    failed = stack.startJobTree(options)
    if failed:
        return 1
    if stack.result() != BRANCHES * LEAVES:
        print(f"the result is {stack.result()!r}")
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
