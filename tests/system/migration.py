"""The other side of docs/migrate, run for real: what the pages show of Toil and Snakemake is what these do.

`make migrate-check` runs it in the environment of benchmarks/peers, which has both in exact versions. Of each page

- the terminals of the other engine (``console on toil``) are run, and those of jobtree: each shows what came, and all
  end with the same result;
- what the tables name of the other engine is there: options and commands, methods, arguments and words of its language.

That a name means the same on both sides, nobody can check but who reads.
"""

from __future__ import annotations

import inspect
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from tests.system import documents
from tests.system.legacy_script import CHECKOUT

PAGES = CHECKOUT / "docs" / "migrate"

#: What the tables take as an example where users have names and values of their own, and words of Python.
EXAMPLES = {
    "toil": {
        "class",
        "def",
        "self",
        "True",
        "a",
        "b",
        "c",
        "f",
        "x",
        "y",
        "job",
        "options",
        "text",
        "service",
        "store",
        "Align",
    },  # fmt: skip
    "snakemake": {"file", "licence"},
}
_WORD = re.compile(r"(?<![\w-])[A-Za-z_][\w-]*")
_OPTION = re.compile(r"(?<![\w-])--[A-Za-z][\w-]*")


def main() -> int:
    """Check both pages; 1 if anything is wrong."""
    wrong = []
    for engine, known in (("toil", toil_knows), ("snakemake", snakemake_knows)):
        page = PAGES / f"{engine}.md"
        try:
            number, came = run(page, engine)
        except AssertionError as difference:
            wrong.append(str(difference))
            continue
        if len(came) > 1:
            wrong.append(f"{page.name}: the sides come to different results: {sorted(came)}")
        names = set(named(page.read_text(encoding="utf-8"), 0))
        unknown = sorted(names - known() - EXAMPLES[engine])
        wrong += [f"{page.name}: {engine} has no {name}" for name in unknown]
        print(f"{page.name}: {number} steps show what happens; {len(names)} names looked up", flush=True)
    print(*wrong, sep="\n", end="\n" if wrong else "", file=sys.stderr)
    return 1 if wrong else 0


def run(page: Path, engine: str) -> tuple[int, set[str]]:
    """Run both sides, each in a directory of its own: the number of steps, and the last line of each terminal."""
    number = 0
    for where in (engine, ""):
        with tempfile.TemporaryDirectory() as directory:
            number += documents.check(page, Path(directory).resolve(), where)
    return number, results(page.read_text(encoding="utf-8"))


def results(text: str) -> set[str]:
    """What the terminals of a page end with, of both sides: one thing, if they do the same."""
    terminals = re.findall(r"^```console.*?\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
    return {" ".join(terminal.splitlines()[-1].split()) for terminal in terminals}


def named(text: str, column: int) -> Iterator[str]:
    """What one column of the tables names in code: options, and words."""
    for row in re.findall(r"^\| (.*) \|$", text, re.MULTILINE):
        for code in re.findall(r"`([^`]+)`", row.split(" | ")[column]):
            yield from _OPTION.findall(code)
            yield from _WORD.findall(_OPTION.sub("", re.sub(r'"[^"]*"', "", code)))


def toil_knows() -> set[str]:
    """Options of a workflow and their choices, commands, and what a script imports; nothing that Toil hides."""
    from toil.common import Toil  # type: ignore[import-not-found]
    from toil.fileStores.abstractFileStore import AbstractFileStore  # type: ignore[import-not-found]
    from toil.job import Job  # type: ignore[import-not-found]

    known = {"toil", "Toil", "Job", "fileStore", "file"}
    for action in Job.Runner.getDefaultArgumentParser()._actions:
        if action.help != "==SUPPRESS==":
            known.update(action.option_strings, map(str, action.choices or ()))
    command = Path(sys.executable).with_name("toil")
    told = subprocess.run([command, "--help"], capture_output=True, text=True, check=True).stdout
    known.update(re.findall(r"^([\w-]+) - ", told, re.MULTILINE))
    for cls in (Toil, Job, AbstractFileStore):
        known.update(name for name in dir(cls) if not name.startswith("_") or name == "__init__")
    known.update(inspect.signature(Job.__init__).parameters)
    return known


def snakemake_knows() -> set[str]:
    """Options and what stands in a Snakefile."""
    from snakemake import cli, io, parser  # type: ignore[import-not-found]

    known = {"slurm", "mem_mb", "runtime"}  # an executor is a plugin; of resources any name will do
    for action in cli.get_argument_parser()._actions:
        known.update(action.option_strings)
    known.update(parser.Rule.subautomata, parser.Python.subautomata)
    known.update(name for name in ("expand", "temp") if hasattr(io, name))
    return known


if __name__ == "__main__":
    sys.exit(main())
