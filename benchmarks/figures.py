"""The figures that the documents quote: measured into one file, and from there into the documents' tables.

    python benchmarks/figures.py                    write the tables anew from results.json
    python benchmarks/figures.py --measure          measure everything first (`make figures`; some 15 minutes)
    python benchmarks/figures.py --measure bench    only that: bench, where or peers; may be repeated

``results.json`` holds what the three programs wrote with ``--json``. In a document a table stands between two comments,
``<!-- figures: NAME -->`` and ``<!-- end of figures -->``; what is between them is made here and nowhere else, and a
test holds the documents to the file. So a figure in a document can be traced to its run, machine and day. The load that
is told is that from before the first program began: during the others it would be that of the programs themselves.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Callable

CHECKOUT = Path(__file__).resolve().parents[1]
sys.path[0] = str(CHECKOUT)

from benchmarks import where_time_goes  # noqa: E402
from benchmarks.where_time_goes import CORES  # noqa: E402

RESULTS = CHECKOUT / "benchmarks" / "results.json"
DOCUMENTS = tuple(
    CHECKOUT / name
    for name in (
        "README.md",
        "benchmarks/README.md",
        "docs/explanation/where-time-goes.md",
        "docs/explanation/peers.md",
    )
)
PROGRAMS = {
    "bench": ("benchmarks/bench.py", sys.executable),
    "where": ("benchmarks/where_time_goes.py", sys.executable),
    "peers": ("benchmarks/peers/compare.py", str(CHECKOUT / ".venv-peers" / "bin" / "python")),
}
_TABLE = re.compile(r"(<!-- figures: ([a-z-]+) -->\n).*?(<!-- end of figures -->)", re.DOTALL)

Results = dict[str, Any]


def main() -> int:
    """Measure if asked to, and write the tables; the exit status of a measurement that failed, or 0."""
    parser = argparse.ArgumentParser(description="Put measured figures into the documents.")
    parser.add_argument("--measure", nargs="*", choices=list(PROGRAMS), help="measure first: these, or all")
    parser.add_argument("arguments", nargs=argparse.REMAINDER, help="after --: passed on to each measurement")
    options = parser.parse_args()
    if options.measure is not None:
        rest = options.arguments[1:] if options.arguments[:1] == ["--"] else options.arguments
        load = f"{os.getloadavg()[0]:.2f}"
        print(
            f"The load of this machine before it begins: {load} (it should be next to nothing).", flush=True
        )
        for name in options.measure or PROGRAMS:
            status = measure(name, rest, load)
            if status:
                print(
                    f"{name}: exit status {status}. What was measured before it is kept; go on with --measure."
                )
                return status
    results = json.loads(RESULTS.read_text(encoding="utf-8"))
    for document in DOCUMENTS:
        document.write_text(
            filled_in(document.read_text(encoding="utf-8"), tables(results)), encoding="utf-8"
        )
    return 0


def measure(name: str, arguments: Iterable[str], load: str) -> int:
    """Run one of the programs and put what it found into the results; its exit status.

    load: that of the machine before the first of them began.
    """
    script, interpreter = PROGRAMS[name]
    if not Path(interpreter).exists():
        print(f"{interpreter} is not there: `make bench-peers` makes it")
        return 2
    with tempfile.TemporaryDirectory() as directory:
        found = Path(directory, "found.json")
        command = [interpreter, str(CHECKOUT / script), "--json", str(found), *arguments]
        print(f"\n== {name}: {script}", flush=True)
        began = time.monotonic()
        status = subprocess.call(command, cwd=CHECKOUT)
        print(f"== {name} took {time.monotonic() - began:.0f} s", flush=True)
        if status == 0:
            results = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else {}
            results[name] = json.loads(found.read_text(encoding="utf-8"))
            results[name]["machine"]["load before"] = load
            RESULTS.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    return status


def filled_in(text: str, made: dict[str, str]) -> str:
    """A document with its tables as they should be. KeyError for a name that is none."""
    return _TABLE.sub(lambda found: f"{found[1]}{made[found[2]]}\n{found[3]}", text)


def tables(results: Results) -> dict[str, str]:
    """Everything that can stand in a document, by name."""
    makers: dict[str, Callable[[Results], str]] = {
        "bench": _bench,
        "bench-short": _bench_short,
        "peers": _peers,
        "peers-short": _peers_short,
        "misses": _misses,
        "machine": lambda results: _machine(results["bench"]["machine"]),
    }
    made = {name: make(results) for name, make in makers.items()}
    made.update(where_time_goes.tables(results["where"]))
    return made


# -- make bench --------------------------------------------------------------------------------------------------


def _machine(about: dict[str, str]) -> str:
    return (
        f"Measured on {about['date']}: {about['processor']}; {about['system']}, {about['file system']}, "
        f"{about['Python']}, SQLite {about['SQLite']}; jobtree {about['jobtree']}; load before it began: "
        f"{about['load before']}."
    )


def _bench(results: Results) -> str:
    rows = ["| work | reached | asked | |", "| --- | ---: | ---: | --- |"]
    for line in results["bench"]["lines"]:
        rows.append(f"| {line['what']} | {_reached(line)} | {_asked(line)} | {_verdict(line)} |")
    return "\n".join(rows)


_SHORT = (
    "one-target",
    "fan-out",
    "binary-tree",
    "chain",
    "computing",
    "random-lengths",
    "million",
    "restart",
)


def _bench_short(results: Results) -> str:
    """For the README: the first figure of the main lines."""
    rows = ["| on two cores, synced to disk | |", "| --- | ---: |"]
    seen = set()
    for line in results["bench"]["lines"]:
        if line["name"] in _SHORT and line["name"] not in seen:
            seen.add(line["name"])
            rows.append(f"| {line['what']} | {_reached(line)} |")
    return "\n".join(rows)


def _reached(line: dict[str, Any]) -> str:
    return f"{_number(line['value'])} {line['unit']}"


def _asked(line: dict[str, Any]) -> str:
    return f"{'≥' if line['at_least'] else '≤'} {_number(line['asked'])}"


def _verdict(line: dict[str, Any]) -> str:
    # None: it was a small run, which says nothing about figures.
    return "**missed**" if line["passed"] is False else ""


def _number(value: float) -> str:
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


# -- make bench-peers ------------------------------------------------------------------------------------------------


def _peers(results: Results) -> str:
    rows = [
        "| engine | tasks | tasks/s, start-up taken off | state on disk | jobtree is faster by | asked | |",
        "| --- | ---: | ---: | --- | ---: | ---: | --- |",
    ]
    for engine in results["peers"]["engines"]:
        name = f"{engine['engine']} {engine['version']}".strip()
        if "failed" in engine:
            rows.append(f"| {name} | | | {engine['keeps']} | not measured: {engine['failed']} | | |")
            continue
        asked = engine["asked"]
        verdict = "**missed**" if engine.get("passed") is False else ""
        rows.append(
            f"| {name} | {engine['number']:,} | {_number(engine['running'])} | {engine['keeps']} "
            f"| {_number(engine['ratio']) if engine['ratio'] else ''} | {f'{asked:,g}' if asked else ''} | {verdict} |"
        )
    return "\n".join(rows)


def _peers_short(results: Results) -> str:
    rows = ["| tasks that do nothing and return a value | tasks/s | state on disk |", "| --- | ---: | --- |"]
    for engine in results["peers"]["engines"]:
        if "failed" not in engine and "no values" not in engine["engine"]:
            name = f"{engine['engine']} {engine['version']}".strip()
            rows.append(f"| {name} | {_number(engine['running'])} | {engine['keeps']} |")
    return "\n".join(rows)


# -- why a figure is missed ------------------------------------------------------------------------------------------


def _misses(results: Results) -> str:
    """Each figure that was missed, with what it would leave for a target beside what the machine takes for it."""
    found = []
    for line in results["bench"]["lines"]:
        if line["passed"] is False:
            found.append(
                f"- {line['what']}: {_reached(line)}, asked {_asked(line)}.{_why_line(line, results['where'])}"
            )
    own = next(e for e in results["peers"]["engines"] if e["engine"] == "jobtree")
    for engine in results["peers"]["engines"]:
        if engine.get("passed") is False:
            found.append(f"- {_why_engine(engine, own, results['where'])}")
    if not found:
        return "None is missed."
    costs, floors = _cpu_of_a_target(results["where"]), results["where"]["floors"]
    found.append(
        f"\nA target that does nothing uses {costs:.1f} us of CPU in all processes, so two cores need at least "
        f"{costs / 2:.1f} us of wall clock for it. Of these {costs:.1f}, {floors_of_a_target(floors):.1f} are what the "
        "machine itself takes for the parts that no design of this kind can do without: pickling and unpickling it, "
        "its row in the database, its write to the outcome file, and asking the system whether it has changed anything "
        "(the table of floors has them one by one). With a value that is kept they are "
        f"{floors_of_a_value(floors):.1f}: one pickle more, and a row for the value and one for who may ask for it. "
        "ProcessPoolExecutor needs of all that the pickles only: it writes nothing down, and what one task leaves "
        "changed the next one finds."
    )
    return "\n".join(found)


def _cpu_of_a_target(where: dict[str, Any]) -> float:
    """Microseconds of CPU in all processes for a target that does nothing."""
    return float((where["run"]["cpu"] + where["run"]["below"]) * 1e6 / where["number"])


def _why_line(line: dict[str, Any], where: dict[str, Any]) -> str:
    """What a line of `make bench` would need, where that can be said in microseconds."""
    costs = _cpu_of_a_target(where)
    if line["name"] == "fan-out":
        idle = CORES * where["run"]["wall"] * 1e6 / where["number"] - costs
        return (
            f" That leaves {CORES * 1e6 / line['asked']:.1f} us of both cores for each target. It uses {costs:.1f} of "
            f"CPU, and for {idle:.1f} a core has nothing to do: one worker alone makes all children, the master alone "
            "stores them, and only then the others begin."
        )
    if line["name"] == "computing":
        held = 1000 * 100 / line["value"]
        found = where.get("after")
        after = (found["computing"] - found["nothing"]) * 1e6 if found is not None else 0.0
        return (
            f" A target has {held:.0f} us of a core, of which 1000 are its own, and {costs:.0f} what one that does "
            f"nothing uses in all processes. {after:.0f} more are what its worker, alone on the machine, takes because "
            "our code is not in the processor's caches any more after a millisecond of other work. The other "
            f"{max(0.0, held - 1000 - costs - after):.0f} are not told apart here: on two cores, two workers, the "
            "master and the launcher wait for one another and push one another out of the caches, and each bundle "
            "has its own cost."
        )
    bundle = where.get("bundle")
    if line["name"] == "flat" and bundle is not None:
        each = (bundle["fork"] + bundle["worker"]) * 1e3
        return (
            f" A bundle takes {each:.1f} ms of CPU however few targets it holds, and the smaller tree has the larger "
            "part of its targets in small ones: a class that has not been measured starts with a single target in a "
            "bundle, and what is left in the end is divided among the slots."
        )
    return ""


def _why_engine(engine: dict[str, Any], own: dict[str, Any], where: dict[str, Any]) -> str:
    """What being so many times faster than another engine would mean for a task whose value comes back."""
    wanted = engine["running"] * engine["asked"]
    each = 1e6 / wanted
    left = CORES * each - floors_of_a_value(where["floors"])
    what = f"leaves {left:.1f} us of CPU" if left > 0 else "leaves nothing"
    return (
        f"{engine['asked']:g} times {engine['engine']} would be {_number(wanted)} targets/s, that is {each:.1f} us of "
        f"wall clock for each, values included; jobtree takes {1e6 / own['running']:.1f}. On two cores that {what} "
        "beside the floors of such a task, for all that master and workers do in Python."
    )


def floors_of_a_target(floors: dict[str, float]) -> float:
    """Microseconds that the floors of one small target add up to."""
    return sum(floors.get(name, 0.0) * times for name, times in where_time_goes.FLOORS_OF_A_TARGET.items())


def floors_of_a_value(floors: dict[str, float]) -> float:
    """The same for one whose value was promised and is kept."""
    more = sum(floors.get(name, 0.0) * times for name, times in where_time_goes.FLOORS_OF_A_VALUE.items())
    return floors_of_a_target(floors) + more


if __name__ == "__main__":
    sys.exit(main())
