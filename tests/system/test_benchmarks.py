"""The benchmarks work, and what a run makes and does for a target does not grow.

How fast anything is, is measured by `make bench` on a quiet machine and not here. Here every line is run once, with
hardly any work in it, and things are counted that do not depend on the machine: forks, commits, syncs, files, bytes.
"""

from __future__ import annotations

import gc
import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from jobtree import filesystems, launcher
from tests.system.legacy_script import CHECKOUT

BENCHMARKS = CHECKOUT / "benchmarks"
CHILDREN = 2000

# Runs the fan-out with counters around the few doors through which a master changes anything.
COUNTING = """
    import json, os, sys
    from benchmarks import fan_out
    from jobtree import Stack, files, starter, store

    counts = {}

    def counted(owner, name):
        inner = getattr(owner, name)

        def wrapper(*args, **kwargs):
            counts[name] = counts.get(name, 0) + 1
            return inner(*args, **kwargs)

        setattr(owner, name, wrapper)

    if __name__ == "__main__":
        for owner, name in (
            (store.Store, "commit"), (store.Store, "new_bundle"), (starter.LauncherStarter, "start"),
            (files, "write_new"), (files, "fsync"), (files, "fdatasync"),
        ):
            counted(owner, name)
        options = Stack.getDefaultOptions()
        options.jobTree = "tree"
        options.maxThreads = 2
        failed = Stack(fan_out.Root(int(sys.argv[1]))).startJobTree(options)
        json.dump(counts, sys.stdout)
        sys.exit(failed)
"""


def run(*command: object, directory: Path) -> str:
    environment = {**os.environ, "PYTHONPATH": str(CHECKOUT)}
    ran = subprocess.run(
        [sys.executable, *map(str, command)], cwd=directory, env=environment, capture_output=True, text=True
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return ran.stdout


@pytest.mark.slow
def test_every_line_of_the_table_runs_and_its_results_are_right(tmp_path: Path) -> None:
    found = tmp_path / "found.json"
    place = tmp_path / "runs"
    place.mkdir()

    output = run(
        BENCHMARKS / "bench.py", "--scale", 0.001, "--directory", place, "--json", found, directory=tmp_path
    )

    lines = json.loads(found.read_text())["lines"]
    help_text = run(BENCHMARKS / "bench.py", "--help", directory=tmp_path)
    names = {line["name"] for line in lines}
    assert names == {
        "one-target", "fan-out", "binary-tree", "chain", "computing", "random-lengths", "mixture", "culprit", "million",
        "flat", "restart", "status",
    }  # fmt: skip
    assert all(name in help_text for name in names)
    assert all(line["what"] in output for line in lines)
    # (Of so few targets, a run takes no longer than its start-up, which "flat" takes off.)
    assert [
        line["what"] for line in lines if line["unit"] not in ("%", "MB", "max/min") and line["value"] <= 0
    ] == []
    assert {line["passed"] for line in lines} == {None}, "a small run says nothing about figures"
    assert list(place.iterdir()) == [], "runs have left something behind"


@pytest.mark.slow
def test_where_time_goes_shows_floors_and_shares(tmp_path: Path) -> None:
    output = run(
        BENCHMARKS / "where_time_goes.py", "--number", 2000, "--directory", tmp_path, directory=tmp_path
    )

    assert "| append 1 KB to a file and fdatasync |" in output
    assert "| unpickling the target |" in output
    assert "| reading and decoding frames |" in output
    assert "A bundle of one target takes" in output
    assert "A worker, alone on the machine, takes" in output
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_engines_that_need_no_installing_are_compared_and_their_sums_are_right(tmp_path: Path) -> None:
    found = tmp_path / "found.json"
    place = tmp_path / "runs"
    place.mkdir()
    engines = ("--only", "jobtree-no-values", "--only", "process-pool", "--only", "dask")

    output = run(
        BENCHMARKS / "peers" / "compare.py", *engines, "--scale", 0.001, "--directory", place, "--json", found,
        directory=tmp_path,
    )  # fmt: skip

    rows = {row["engine"]: row for row in json.loads(found.read_text())["engines"]}
    assert list(rows) == ["jobtree", "jobtree, no values", "ProcessPoolExecutor", "Dask distributed"]
    assert rows["ProcessPoolExecutor"]["ratio"] > 0
    assert "failed" in rows["Dask distributed"], (
        "it is not installed here, and the comparison goes on without it"
    )
    assert all(name in output for name in rows)
    assert list(place.iterdir()) == [], "runs have left something behind"


@pytest.mark.slow
def test_what_a_monitor_costs_is_measured_on_checked_runs(tmp_path: Path) -> None:
    output = run(
        BENCHMARKS / "monitor_cost.py",
        "--number",
        1000,
        "--rounds",
        1,
        "--directory",
        tmp_path,
        directory=tmp_path,
    )

    assert "1,000 targets that do nothing, medians of 1 runs each, in turns:" in output
    (used,) = [line for line in output.splitlines() if "the monitor used" in line]
    looks = int(used.split("; ")[1].split()[0])
    assert looks >= 1, "nobody has looked, so nothing was measured"
    assert "% of the throughput (asked: 95 % at least)" in output
    assert list(tmp_path.iterdir()) == []


@pytest.fixture(scope="module")
def fan_out(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, int], Path]:
    """What a run with CHILDREN children has counted, and where it was."""
    directory = tmp_path_factory.mktemp("fan-out")
    script = directory / "counting.py"
    script.write_text(textwrap.dedent(COUNTING))
    run("-c", f"from benchmarks import witness; witness.make('.', {CHILDREN})", directory=directory)
    counts: dict[str, int] = json.loads(run(script, CHILDREN, directory=directory))
    run("-c", "from benchmarks import witness; assert not witness.read('.').complaint()", directory=directory)
    return counts, directory


def test_small_targets_share_workers(fan_out: tuple[dict[str, int], Path]) -> None:
    counts, _ = fan_out

    # Alone at first, ten times as many in each step, and a quarter of what remains towards the end.
    assert 5 <= counts["new_bundle"] <= CHILDREN // 20
    assert counts["start"] == counts["new_bundle"], "each bundle is one fork"


def test_commits_and_syncs_are_shared(fan_out: tuple[dict[str, int], Path]) -> None:
    counts, _ = fan_out

    # A turn of the master's loop follows from the end of a bundle or from its clock (a few a second), never from a
    # target. So this holds for a run of some ten seconds, which takes a very slow machine.
    assert counts["commit"] <= 3 * counts["new_bundle"] + 60
    assert counts.get("fsync", 0) + counts.get("fdatasync", 0) <= 30, "making a tree, not running targets"


def test_files_are_made_for_bundles_and_not_for_targets(fan_out: tuple[dict[str, int], Path]) -> None:
    counts, directory = fan_out

    # The bundle and its outcome file; a few for the tree. (The worker adds a claim and a log.)
    assert counts["write_new"] <= 2 * counts["new_bundle"] + 5
    left = [path for path in (directory / "tree").rglob("*") if path.is_file()]
    assert len(left) <= 10, left


def test_a_finished_target_leaves_next_to_nothing_on_disk(fan_out: tuple[dict[str, int], Path]) -> None:
    _, directory = fan_out
    tree = directory / "tree"

    size = sum(path.stat().st_blocks * 512 for path in tree.rglob("*"))

    # Its row is gone from the database; what stays is the space that the rows took, once, to be used again.
    assert size / CHILDREN <= 1000


def test_a_look_at_a_tree_imports_little(tmp_path: Path) -> None:
    """Most of what jobTreeStatus takes is what Python takes to import."""
    code = "import sys; from jobtree.cli import status; print(*sys.modules)"

    modules = set(run("-c", code, directory=tmp_path).split())

    for_others = {"filelock", "psutil", "cloudpickle", "dataclasses", "inspect", "random", "subprocess"}
    assert modules & for_others == set()


def test_workers_need_not_find_out_again_what_their_launcher_knows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def type_of(device: int, path: str) -> str:
        asked.append(path)
        return "ext4"

    monkeypatch.setattr(filesystems, "_types", {})
    monkeypatch.setattr(filesystems, "_type_of", type_of)

    launcher.prepare_to_fork(str(tmp_path))
    gc.unfreeze()

    assert not filesystems.is_network(str(tmp_path))
    assert asked == [str(tmp_path)]
