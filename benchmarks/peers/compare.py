"""`make bench-peers`: the same fan-out of tasks that do nothing, by jobtree and by what people use today.

    .venv-peers/bin/python benchmarks/peers/compare.py                        everything; takes some ten minutes
    .venv-peers/bin/python benchmarks/peers/compare.py --only dask --scale 0.1

Task i returns i; the sum of what came back is compared with what it must be, and a wrong one ends the comparison. Each
engine runs in a process of its own, in a fresh directory, with two workers on two cores, and is used in the way that
its own documentation recommends for many small tasks, as far as that does not mean joining tasks by hand: joining them
is what a user of jobtree need not do. What was chosen, and why, is at the top of each script beside this one.

Two rates are given. *Whole* counts everything from the start of Python to its exit. *Running* leaves the fixed costs
out: for engines that are servers, from when a first task has run to when the last one has returned; for those that
run a pipeline and end (jobtree, Toil, Snakemake), the time of a run with one task is taken off instead (unless hardly
anything would be left: then nothing is). Ratios, and pass or miss, are of the running rates, which favours the engines
that are slow to start; and jobtree's is the one with promises, as only then every value comes back, as it does from the
others.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple, Optional

sys.path[0] = str(Path(__file__).resolve().parents[2])

from benchmarks import machine  # noqa: E402
from benchmarks.peers.answer import SLOTS  # noqa: E402
from benchmarks.running import WrongResult, on_terminate  # noqa: E402

HERE = Path(__file__).resolve().parent
CHECKOUT = HERE.parents[1]
LONGEST = 240
"""Seconds after which a run is given up: some ten times what the slowest of them takes."""


class Engine(NamedTuple):
    """One row. least: how many times faster jobtree must be; 0 where nothing is asked."""

    name: str
    script: str
    arguments: tuple[str, ...]
    package: str
    number: int
    repeat: int
    keeps: str
    least: float


JOBTREE = Engine("jobtree", "with_jobtree.py", ("--promises",), "", 10_000, 3, "yes, synced", 0)

ENGINES = {
    "jobtree": JOBTREE,
    "jobtree-no-values": JOBTREE._replace(name="jobtree, no values", arguments=()),
    "process-pool": Engine("ProcessPoolExecutor", "with_process_pool.py", (), "", 10_000, 3, "no", 1),
    "dask": Engine("Dask distributed", "with_dask.py", (), "distributed", 10_000, 3, "no", 10),
    "ray": Engine("Ray", "with_ray.py", (), "ray", 10_000, 3, "no", 10),
    "parsl": Engine("Parsl", "with_parsl.py", (), "parsl", 10_000, 3, "no", 10),
    "executorlib": Engine("executorlib", "with_executorlib.py", (), "executorlib", 10_000, 3, "no", 10),
    "snakemake": Engine("Snakemake", "with_snakemake.py", (), "snakemake", 300, 1, "yes, not synced", 0),
    "toil": Engine("Toil", "with_toil.py", (), "toil", 100, 1, "yes, not synced", 1000),
}


class Measured(NamedTuple):
    """Medians. Seconds; rates in tasks per second."""

    number: int
    start_up: float
    whole: float
    running: float
    runs: int


def main() -> int:
    """Run it; the exit status is 1 if a sum was wrong."""
    options = _parser().parse_args()
    on_terminate()
    slots = machine.use_cores(SLOTS)
    directory = tempfile.mkdtemp(prefix="jobtree-peers-", dir=options.directory)
    try:
        about = machine.describe(directory, slots)
        for name, value in about.items():
            print(f"{name + ':':13} {value}")
        for warning in machine.warnings(directory):
            print(f"WARNING: {warning}")
        names = list(dict.fromkeys(["jobtree", *(options.only or ENGINES)]))
        rows = compare(names, directory, options.scale)
    except WrongResult as error:
        print(f"WRONG RESULT: {error}")
        return 1
    except KeyboardInterrupt:
        return 130
    finally:
        shutil.rmtree(directory, ignore_errors=True)
    if options.json is not None:
        content = {"machine": about, "scale": options.scale, "engines": rows}
        Path(options.json).write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description="Compare jobtree with other engines.")
    parser.add_argument("--only", metavar="ENGINE", action="append", choices=list(ENGINES),
                        help=f"beside jobtree, only this one; may be repeated: {', '.join(ENGINES)}")  # fmt: skip
    parser.add_argument("--scale", type=float, default=1.0, help="so many of the tasks")
    parser.add_argument("--json", metavar="FILE", help="write the results there, too")
    default = os.environ.get("TMPDIR") or ("/var/tmp" if os.path.isdir("/var/tmp") else None)
    parser.add_argument(
        "--directory", default=default, help="where the runs take place; default: %(default)s"
    )
    return parser


def compare(names: list[str], directory: str, scale: float) -> list[dict[str, Any]]:
    """Measure these engines, and print a row for each as soon as it is known."""
    print(
        f"\n{'engine':22} {'version':11} {'on disk':16} {'tasks':>6} {'start-up s':>10} {'whole/s':>9} "
        f"{'running/s':>9} {'ratio':>8}  {'asked':>6}"
    )
    rows = []
    own: Optional[Measured] = None
    for name in names:
        engine = ENGINES[name]
        row: dict[str, Any] = {"engine": engine.name, "version": _version(engine), "keeps": engine.keeps}
        begin = f"{engine.name:22} {row['version']:11} {engine.keeps:16}"
        try:
            found = measure(engine, directory, scale)
        except EngineFailed as error:
            row["failed"] = str(error)
            print(f"{begin} not measured: {error}")
        else:
            own = own or found
            ratio = own.running / found.running if engine.script != JOBTREE.script else None
            row.update(found._asdict(), ratio=ratio, asked=engine.least or None)
            compared = ""
            if ratio is not None:
                row["passed"] = ratio >= engine.least if engine.least else None
                asked = (
                    f"{engine.least:>6g}  {'pass' if row['passed'] else 'MISS'}"
                    if engine.least
                    else f"{'-':>6}"
                )
                compared = f"{ratio:>8.1f}  {asked}"
            print(f"{begin} {found.number:>6} {found.start_up:>10.2f} {found.whole:>9,.1f} "
                  f"{found.running:>9,.1f} {compared}")  # fmt: skip
        sys.stdout.flush()
        rows.append(row)
    return rows


class EngineFailed(Exception):
    """An engine could not be run here; the reason, in a line."""


def measure(engine: Engine, directory: str, scale: float) -> Measured:
    """The medians of an engine's runs."""
    number = max(10, round(engine.number * scale))
    start_ups, wholes, runnings = [], [], []
    for _ in range(engine.repeat):
        answer, begun, ended = run(engine, directory, number)
        wholes.append(ended - begun)
        if answer["ready"] is None:
            _, first, last = run(engine, directory, 1)
            start_ups.append(last - first)
        else:
            start_ups.append(answer["ready"] - begun)
            runnings.append(answer["done"] - answer["ready"])
    start_up, whole = statistics.median(start_ups), statistics.median(wholes)
    running = statistics.median(runnings) if runnings else whole - start_up
    if running < whole / 10:
        running = whole  # too short beside the fixed cost to be told from it
    return Measured(number, start_up, number / whole, number / running, engine.repeat)


def run(engine: Engine, directory: str, number: int) -> tuple[dict[str, Any], float, float]:
    """One run with its sum checked: what it answered, and when it began and ended."""
    place = tempfile.mkdtemp(dir=directory)
    environment = {
        **machine.environment(),
        "PATH": os.path.dirname(sys.executable) + os.pathsep + os.environ.get("PATH", os.defpath),
    }
    command = [sys.executable, str(HERE / engine.script), "--number", str(number), *engine.arguments]
    os.sync()
    try:
        began = time.monotonic()
        # A session of its own, so that what an engine leaves running when it is given up can be ended with it.
        with open(os.path.join(place, "log"), "wb") as log:
            process = subprocess.Popen(
                command,
                cwd=place,
                env=environment,
                stdout=subprocess.PIPE,
                stderr=log,
                start_new_session=True,
            )
        try:
            output, _ = process.communicate(timeout=LONGEST)
        except subprocess.TimeoutExpired:
            raise EngineFailed(f"{number} tasks took longer than {LONGEST} s") from None
        finally:
            ended = time.monotonic()
            _end_session(process)
        lines = output.decode(errors="replace").strip().splitlines()
        if process.returncode or not lines or not lines[-1].startswith("{"):
            said = Path(place, "log").read_text(errors="replace").strip().splitlines() or ["it said nothing"]
            raise EngineFailed(f"exit status {process.returncode}: {said[-1][:200]}")
        answer: dict[str, Any] = json.loads(lines[-1])
        if answer["sum"] != number * (number - 1) // 2:
            raise WrongResult(f"{engine.name}: the sum of {number} results is {answer['sum']}")
        return answer, began, ended
    finally:
        shutil.rmtree(place, ignore_errors=True)


def _end_session(process: subprocess.Popen[bytes]) -> None:
    try:
        os.killpg(process.pid, 9)
    except (ProcessLookupError, PermissionError):
        pass
    process.wait()


def _version(engine: Engine) -> str:
    if engine.package:
        try:
            return importlib.metadata.version(engine.package)
        except importlib.metadata.PackageNotFoundError:
            return "absent"
    return "" if engine.script == JOBTREE.script else f"Python {sys.version_info[0]}.{sys.version_info[1]}"


if __name__ == "__main__":
    sys.exit(main())
