"""The documents quote what was measured: their tables are those that the results file gives."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from benchmarks import figures
from benchmarks.where_time_goes import FLOORS_OF_A_TARGET


@pytest.fixture(scope="module")
def results() -> Any:
    return json.loads(figures.RESULTS.read_text(encoding="utf-8"))


@pytest.mark.parametrize("document", figures.DOCUMENTS, ids=lambda path: path.name)
def test_documents_agree_with_the_results(document: Path, results: Any) -> None:
    text = document.read_text(encoding="utf-8")

    assert "<!-- figures: " in text
    assert figures.filled_in(text, figures.tables(results)) == text, (
        "run: python benchmarks/figures.py, which writes the tables anew from benchmarks/results.json"
    )


def test_every_measured_line_and_engine_is_quoted(results: Any) -> None:
    made = figures.tables(results)

    assert all(f"| {line['what']} |" in made["bench"] for line in results["bench"]["lines"])
    assert all(engine["engine"] in made["peers"] for engine in results["peers"]["engines"])
    assert all(name in made["floors"] for name in results["where"]["floors"])


def test_a_missed_figure_is_said_to_be_missed_and_explained(results: Any) -> None:
    made = figures.tables(results)
    missed = [line for line in results["bench"]["lines"] if line["passed"] is False]
    slower = [engine for engine in results["peers"]["engines"] if engine.get("passed") is False]

    assert made["bench"].count("**missed**") == len(missed)
    assert made["peers"].count("**missed**") == len(slower)
    assert len(re.findall("^- ", made["misses"], re.MULTILINE)) == len(missed) + len(slower)


def test_only_what_is_between_the_marks_is_replaced() -> None:
    text = "a\n<!-- figures: x -->\nold\n<!-- end of figures -->\nb\n"

    assert figures.filled_in(text, {"x": "new\nlines"}) == text.replace("old", "new\nlines")
    with pytest.raises(KeyError):
        figures.filled_in(text, {})


def test_an_engine_that_could_not_be_run_is_named(results: Any) -> None:
    engine = {"engine": "Ray", "version": "absent", "keeps": "no", "failed": "exit status 1: no module"}
    changed = {**results, "peers": {"engines": [results["peers"]["engines"][0], engine]}}

    assert "not measured: exit status 1: no module" in figures.tables(changed)["peers"]
    assert "Ray" not in figures.tables(changed)["peers-short"]


def test_what_a_small_run_found_is_not_judged(results: Any) -> None:
    """As the programs write it: a line without a verdict, and jobtree's own row, which is compared with nothing."""
    line = {**results["bench"]["lines"][0], "passed": None}
    own = {k: v for k, v in results["peers"]["engines"][0].items() if k not in ("asked", "passed", "ratio")}
    own.update(asked=None, ratio=None)
    changed = {**results, "bench": {**results["bench"], "lines": [line]}, "peers": {"engines": [own]}}

    made = figures.tables(changed)

    assert "missed" not in made["bench"] + made["peers"]
    assert made["misses"] == "None is missed."


def test_a_miss_says_what_it_would_leave_beside_the_floors(results: Any) -> None:
    where = {**results["where"], "floors": dict.fromkeys(FLOORS_OF_A_TARGET, 1.0)}
    line = next(line for line in results["bench"]["lines"] if line["name"] == "fan-out")
    own, other = results["peers"]["engines"][0], results["peers"]["engines"][-1]
    bench = {**results["bench"], "lines": [{**line, "value": 10_000, "asked": 20_000, "passed": False}]}
    peers = {"engines": [own, {**other, "running": 10_000, "asked": 2, "passed": False}]}

    made = figures.tables({**results, "where": where, "bench": bench, "peers": peers})["misses"]

    assert "That leaves 100.0 us of both cores for each target." in made
    assert "that is 50.0 us of wall clock" in made
    # A row, a write, a pickle and its reading, the questions; for the value two rows, a pickle and its reading more.
    assert "leaves 91.0 us of CPU" in made


def test_what_cannot_be_measured_here_is_said(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(figures.PROGRAMS, "peers", ("compare.py", "/nowhere/python"))

    assert figures.measure("peers", (), "0.00") == 2
    assert "`make bench-peers` makes it" in capsys.readouterr().out
