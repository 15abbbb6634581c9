"""Whether hosts can be used: what each sees of the shared directory, who we are there, which versions it has.

The master writes a file beside its own; every host reads it, says after how long it saw it, and writes one of its own
back, so that what one host has written is not taken for another's. What is wrong is told in words; a host with problems
still gets jobs, and those will say the same (their supervisor refuses).
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Sequence
from typing import Any, NamedTuple, Optional

SECONDS = 10.0
"""So long a file may take to be seen on the other side."""
LIBRARIES = ("cloudpickle", "filelock", "psutil")


class HostCheck(NamedTuple):
    """What was found of one host. problems: empty if it can be used; facts: for the report."""

    name: str
    facts: str
    problems: tuple[str, ...]


def prepare(directory: str, hosts: int) -> list[dict[str, Any]]:
    """Write the file; what each of the agents is told. Raises OSError."""
    text = os.urandom(16).hex()
    os.makedirs(directory, 0o700, exist_ok=True)
    file = os.path.join(directory, f"check-{text}")
    with open(file, "w", encoding="ascii") as written:
        written.write(text)
    package = os.path.dirname(os.path.abspath(__file__))
    return [
        {
            "file": file, "answer": f"{file}-answer-{number}", "text": text, "seconds": SECONDS,
            "libraries": LIBRARIES, "paths": [package],
        }
        for number in range(hosts)
    ]  # fmt: skip


def clean_up(wanted: Sequence[dict[str, Any]]) -> None:
    """Remove what was written."""
    for name in {told[key] for told in wanted for key in ("file", "answer")}:
        try:
            os.unlink(name)
        except FileNotFoundError:
            pass


def judge(
    name: str,
    about: Optional[dict[str, Any]],
    found: Optional[dict[str, Any]],
    wanted: dict[str, Any],
    trouble: str,
) -> HostCheck:
    """What a host's answers mean."""
    if about is None:
        return HostCheck(name, "", (f"cannot be reached: {trouble or 'no answer yet'}",))
    if found is None:
        return HostCheck(name, about["host"], ("was reached, and then did not answer",))
    problems = []
    directory = os.path.dirname(wanted["file"])
    if not found["read"]:
        why = found.get("error", f"not seen after {SECONDS:g} s")
        problems.append(
            f"does not see what is written here into {directory} ({why}): the job tree must be on a file system that "
            "all hosts share under the same name"
        )
    elif "error" in found:
        problems.append(f"cannot write into {directory}: {found['error']}")
    elif not _is_seen(wanted):
        problems.append(f"what it writes into {directory} is not seen here after {SECONDS:g} s")
    if about["uid"] != os.getuid():
        problems.append(
            f"we are user {about['user'] or '?'} ({about['uid']}) there and {os.getuid()} here: files would belong to "
            "others"
        )
    problems += _versions(found)
    if found["missing"]:
        problems.append(
            f"has no {', '.join(found['missing'])}: install jobtree under the same path on all hosts"
        )
    facts = f"{about['host']}, Python {about['python']}, files are seen after {found['delay']:.2f} s"
    return HostCheck(name, facts, tuple(problems))


def report(checks: Sequence[HostCheck]) -> str:
    """For a person: a line for each host, and one for each of its problems."""
    lines = []
    for check in checks:
        lines.append(f"{check.name}: {check.facts if not check.problems else 'not usable'}")
        lines += [f"    {problem}" for problem in check.problems]
    return "\n".join(lines)


def _is_seen(wanted: dict[str, Any]) -> bool:
    deadline = time.monotonic() + SECONDS
    while True:
        os.listdir(os.path.dirname(wanted["answer"]))
        if os.path.exists(wanted["answer"]):
            return True
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)


def _versions(found: dict[str, Any]) -> list[str]:
    if "python_error" in found:
        return [f"its Python cannot be run: {found['python_error'].strip()}"]
    import importlib.metadata  # takes 10 ms, and only who looks at hosts needs it

    problems = []
    theirs, ours = found["versions"]["Python"], sys.version.split()[0]
    if theirs.split(".")[:2] != ours.split(".")[:2]:
        problems.append(
            f"has Python {theirs}, and here it is {ours} ({sys.executable}): both must be the same"
        )
    for library in LIBRARIES:
        try:
            wanted = importlib.metadata.version(library)
        except importlib.metadata.PackageNotFoundError:
            continue
        if found["versions"][library] != wanted:
            problems.append(
                f"has {library} {found['versions'][library] or '(none)'}, and here it is {wanted}"
            )
    return problems
