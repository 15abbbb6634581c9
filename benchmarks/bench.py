"""`make bench`: measures every line of the table, checks each run's result, and says which figures were reached.

    python benchmarks/bench.py                          everything; takes some five minutes
    python benchmarks/bench.py --only chain --repeat 5  one line, the median of five
    python benchmarks/bench.py --scale 0.01             a hundredth of the work, to see that it runs

The exit status is 1 if a run did not do its work, and 0 otherwise, whether or not the figures were reached.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import sys
import tempfile
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Callable

sys.path[0] = str(Path(__file__).resolve().parents[1])

from benchmarks import binary_tree, chain, computing, culprit, fan_out, lengths, machine, one_target, restart  # noqa: E402
from benchmarks.running import Bench, Figure, WrongResult, on_terminate  # noqa: E402

CORES = 2

LINES: dict[str, Callable[[Bench], list[Figure]]] = {
    "one-target": one_target.measure,
    "fan-out": fan_out.measure_rate,
    "binary-tree": binary_tree.measure,
    "chain": chain.measure,
    "computing": computing.measure,
    "random-lengths": lengths.measure_random,
    "mixture": lengths.measure_mixture,
    "culprit": culprit.measure,
    "million": fan_out.measure_million,
    "flat": fan_out.measure_flat,
    "restart": restart.measure_restart,
    "status": restart.measure_status,
}


def main() -> int:
    """Run it; the exit status."""
    options = _parser().parse_args()
    on_terminate()
    names = options.only or list(LINES)
    slots = machine.use_cores(CORES)
    directory = tempfile.mkdtemp(prefix="jobtree-bench-", dir=options.directory)
    try:
        about = machine.describe(directory, slots)
        _introduce(about, machine.warnings(directory), options.scale)
        bench = Bench(directory, options.scale, slots)
        results = measure(bench, names, options.repeat, options.scale == 1)
    except WrongResult as error:
        print(f"\nWRONG RESULT: {error}")
        return 1
    except KeyboardInterrupt:
        return 130
    finally:
        shutil.rmtree(directory, ignore_errors=True)
    if options.json is not None:
        content = {"machine": about, "scale": options.scale, "repeat": options.repeat, "lines": results}
        Path(options.json).write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description="Measure jobtree and compare with the figures asked for.")
    parser.add_argument("--only", metavar="NAME", action="append", choices=list(LINES),
                        help=f"this line; may be repeated: {', '.join(LINES)}")  # fmt: skip
    parser.add_argument(
        "--scale", type=float, default=1.0, help="so much of the work; figures mean nothing but for 1"
    )
    parser.add_argument("--repeat", type=int, default=1, help="measure so often, and take the median")
    parser.add_argument("--json", metavar="FILE", help="write the results there, too")
    parser.add_argument(
        "--directory", default=_a_disk(), help="where the runs take place; default: %(default)s"
    )
    return parser


def _a_disk() -> str:
    """Where temporary files are that survive a restart of the machine: on a disk, which /tmp need not be."""
    return os.environ.get("TMPDIR") or ("/var/tmp" if os.path.isdir("/var/tmp") else tempfile.gettempdir())


def measure(bench: Bench, names: Sequence[str], repeat: int, full: bool) -> list[dict[str, Any]]:
    """Measure these lines and print each as soon as it is known."""
    rounds: list[dict[str, list[Figure]]] = [{} for _ in range(repeat)]
    results = []
    print(f"\n{'reached':>12} {'':10} {'asked':>12}           work")
    # All of a line's repetitions at once, so that it can be printed; what lines share is kept by round.
    benches = [Bench(_folder(bench, index), bench.scale, bench.slots) for index in range(repeat)]
    for name in names:
        for index in range(repeat):
            rounds[index][name] = LINES[name](benches[index])
        for same in zip(*(found[name] for found in rounds)):
            results.append(_summary(name, same, full))
            _show(results[-1], full)
    return results


def _folder(bench: Bench, index: int) -> str:
    path = os.path.join(bench.directory, f"round-{index}")
    os.mkdir(path)
    return path


def _summary(name: str, same: Sequence[Figure], full: bool) -> dict[str, Any]:
    values = [figure.value for figure in same]
    middle = statistics.median(values)
    typical = min(same, key=lambda figure: abs(figure.value - middle))
    judged = typical._replace(value=middle)
    return {
        "name": name, "what": typical.what, "unit": typical.unit, "value": middle, "lowest": min(values),
        "highest": max(values), "values": values, "asked": typical.asked, "at_least": typical.at_least,
        "passed": judged.passed if full else None, "note": typical.note,
    }  # fmt: skip


def _show(result: dict[str, Any], full: bool) -> None:
    sign = ">=" if result["at_least"] else "<="
    verdict = "" if not full else "pass" if result["passed"] else "MISS"
    asked = f"{sign} {_number(result['asked'])}"
    print(f"{_number(result['value']):>12} {result['unit']:10} {asked:>12}  {verdict:6}   {result['what']}")
    details = [result["note"]] if result["note"] else []
    if len(result["values"]) > 1:
        spread = f"{_number(result['lowest'])} to {_number(result['highest'])}"
        details.append(f"median of {len(result['values'])}, {spread}")
    for line in textwrap.wrap("; ".join(details), 76):
        print(f"{'':47}{line}")
    sys.stdout.flush()


def _number(value: float) -> str:
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


def _introduce(about: dict[str, str], warnings: list[str], scale: float) -> None:
    for name, value in about.items():
        print(f"{name + ':':13} {value}")
    for warning in warnings:
        print(f"WARNING: {warning}")
    if scale != 1:
        print(f"{scale:g} of the work: this shows that everything runs, not how fast it is")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
