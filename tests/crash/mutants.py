"""Are the tests able to fail? Applies each mutant of mutant_table.py to a copy of the checkout and runs its tests.

    python tests/crash/mutants.py                 all: `make mutants`
    python tests/crash/mutants.py --sample 8      some, drawn by --seed
    python tests/crash/mutants.py --match claim   those whose line or reason contains the text

Prints for each by which test it was caught, or SURVIVED: then a test is missing. Exit status 1 if one has survived, 2
if a line of the table does not fit the source any more, or a test could not be run.
"""

from __future__ import annotations

import argparse
import ast
import os
import random
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple, Optional

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tests.crash.mutant_table import MUTANTS, Mutant

CHECKOUT = Path(__file__).resolve().parents[2]
LEFT_OUT = shutil.ignore_patterns(
    ".git", ".venv*", ".*_cache", ".hypothesis", "__pycache__", "*.egg-info", "docs"
)
LONGEST = 900
"""Seconds that a test may take; one that hangs has noticed something."""


class OutOfDate(Exception):
    """A line of the table does not fit the source; in words."""


class Verdict(NamedTuple):
    """What became of a mutant. by: the test that caught it, "" if none has."""

    mutant: Mutant
    by: str
    seconds: float


def mutated(source: str, mutant: Mutant) -> str:
    """The file with the mutant in it. Raises OutOfDate."""
    first, last = _lines_of(source, mutant)
    lines = source.splitlines(keepends=True)
    body = "".join(lines[first - 1 : last])
    times = body.count(mutant.old)
    if times != 1:
        raise OutOfDate(
            f"{mutant.file}: {mutant.function} has {mutant.old!r} {times} times instead of once; bring "
            "tests/crash/mutant_table.py up to date"
        )
    changed = "".join((*lines[: first - 1], body.replace(mutant.old, mutant.new), *lines[last:]))
    ast.parse(changed)
    return changed


def _lines_of(source: str, mutant: Mutant) -> tuple[int, int]:
    """The first and the last line of the mutant's function."""
    nodes: list[ast.AST] = [ast.parse(source)]
    for name in mutant.function.split("."):
        nodes = [
            child
            for node in nodes
            for child in ast.iter_child_nodes(node)
            if isinstance(child, (ast.FunctionDef, ast.ClassDef)) and child.name == name
        ]
    if len(nodes) != 1:
        raise OutOfDate(
            f"{mutant.file} has {len(nodes)} {mutant.function} instead of one; bring tests/crash/mutant_table.py up "
            "to date"
        )
    (found,) = nodes
    assert isinstance(found, (ast.FunctionDef, ast.ClassDef))
    assert found.end_lineno is not None
    return found.lineno, found.end_lineno


def try_one(mutant: Mutant) -> Verdict:
    """Apply it to a copy of the checkout and run its tests there until one fails."""
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="jobtree-mutant-") as name:
        copy = Path(name) / "checkout"
        shutil.copytree(CHECKOUT, copy, ignore=LEFT_OUT, symlinks=True)
        file = copy / mutant.file
        file.write_text(mutated(file.read_text(), mutant))
        by = ""
        for test in mutant.tests:
            by = caught_by(test, copy)
            if by:
                break
    return Verdict(mutant, by, time.monotonic() - began)


def caught_by(test: str, copy: Path) -> str:
    """Run a test in the copy. Returns what failed there, "" if nothing did."""
    words = test.split()
    if words[0] == "points":
        command = [sys.executable, "tests/crash/every_point.py", *words[1:], "--first", "--jobs", "1"]
    else:
        command = [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "-x",
            "-n",
            "0",
            "-m",
            "",
            "-p",
            "no:cacheprovider",
            *words,
        ]
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1", "PYTHONPATH": str(copy)}
    with tempfile.TemporaryFile("w+") as output:
        try:
            # A session of its own: what hangs is ended with everything below it.
            process = subprocess.Popen(
                command,
                cwd=copy,
                env=environment,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
            status = process.wait(timeout=LONGEST)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, 9)
            process.wait()
            return f"{test} (it hung)"
        output.seek(0)
        text = output.read()
    if status == 0:
        return ""
    if status != 1:
        raise OutOfDate(f"{' '.join(command)} ended with status {status}:\n{text[-2000:]}")
    found = re.search(r"^FAILED (\S+)", text, re.M) or re.search(
        r"^((?:{}): .*)".format("|".join(_KINDS)), text, re.M
    )
    return found[1][:150] if found else test


_KINDS = ("death", "power", "each-file", "second", "lingering", "worker")


def check_table() -> None:
    """Every line of the table fits the source. Raises OutOfDate."""
    for mutant in MUTANTS:
        mutated((CHECKOUT / mutant.file).read_text(), mutant)
        for test in mutant.tests:
            path = test.split()[0]
            if path != "points" and not (CHECKOUT / path.split("::")[0]).exists():
                raise OutOfDate(f"{path}, which should catch '{mutant.why}', is not there")


def chosen(options: argparse.Namespace) -> Sequence[Mutant]:
    """Those that are wanted."""
    found = list(MUTANTS)
    if options.match is not None:
        found = [m for m in found if options.match in " ".join((m.file, m.function, m.old, m.why))]
    if options.quick:
        found = [m for m in found if not m.tests[0].startswith("points")]
    if options.sample is not None and options.sample < len(found):
        found = random.Random(options.seed).sample(found, options.sample)
    return found


def main(arguments: Optional[Sequence[str]] = None) -> int:
    """Entry point."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sample", type=int, help="how many (default: all)")
    parser.add_argument("--seed", type=int, default=1, help="which ones (default: 1)")
    parser.add_argument(
        "--quick", action="store_true", help="only those that a test of a few seconds should catch"
    )
    parser.add_argument("--match", help="only those whose line or reason contains this text")
    parser.add_argument(
        "--jobs", type=int, default=os.cpu_count() or 1, help="how many at once (default: cores)"
    )
    options = parser.parse_args(arguments)
    survived = 0
    try:
        check_table()
        wanted = chosen(options)
        with ThreadPoolExecutor(options.jobs) as pool:
            for mutant, by, seconds in pool.map(try_one, wanted):
                survived += not by
                line = mutant.old.split("\n")[0]
                print(f"{mutant.file} {mutant.function}: {line}\n    {mutant.why}")
                print(f"    {'caught by ' + by if by else 'SURVIVED'} ({seconds:.0f} s)", flush=True)
    except OutOfDate as error:
        print(error)
        return 2
    some = f" of {len(MUTANTS)}, seed {options.seed}" if len(wanted) < len(MUTANTS) else ""
    print(f"{len(wanted)} mutants{some}: {len(wanted) - survived} caught, {survived} survived")
    return 1 if survived else 0


if __name__ == "__main__":
    sys.exit(main())
