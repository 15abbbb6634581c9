"""The examples run, and come to the right result."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from tests.system.legacy_script import CHECKOUT
from tests.system.pipelines import Pipeline


def example(tmp_path: Path, name: str) -> Pipeline:
    return Pipeline(tmp_path, name=str(CHECKOUT / "examples" / name))


def words_of(paths: list[Path]) -> list[str]:
    counted: Counter[str] = Counter()
    for path in paths:
        counted.update(re.sub("[^a-z\n]+", "\n", path.read_text().lower()).split("\n"))
    return [
        f"{number} {word}" for word, number in sorted(counted.items(), key=lambda item: (-item[1], item[0]))
    ]


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_the_demonstration_shows_what_it_promises() -> None:
    """The master is killed half-way, the same command goes on, and the result is that of sort(1)."""
    shown = subprocess.run(
        [sys.executable, str(CHECKOUT / "examples" / "demo.py")], capture_output=True, text=True, check=False
    )

    assert shown.returncode == 0, shown.stdout + shown.stderr
    assert re.findall(r"^\d", shown.stdout, re.MULTILINE) == ["1", "2", "3", "4", "5"]
    assert re.search(r"^3\. kill -9 \d+: the master is dead", shown.stdout, re.MULTILINE)
    assert "interrupted: its master died" in shown.stdout
    assert shown.stdout.endswith("identical to that of LC_ALL=C sort, byte by byte\n")


def test_commands(tmp_path: Path) -> None:
    paths = []
    for number in range(5):
        path = tmp_path / f"text {number}"
        path.write_text(f"One two{number} three!\nthree THREE one-{number}\n" * (number + 1))
        paths.append(path)

    example(tmp_path, "commands.py").run(*map(str, paths)).succeeded()

    found = (tmp_path / "words.txt").read_text().splitlines()
    assert [line for line in found if line.split()[1:]] == [
        line for line in words_of(paths) if line.split()[1:] and line.split()[1]
    ]


def test_steps_that_do_the_same(tmp_path: Path) -> None:
    (tmp_path / "LICENSE").write_text("to be or not to be\n")

    Pipeline(tmp_path).program(
        "jobTreeRun", "tree", "--steps", str(CHECKOUT / "examples" / "steps.yaml")
    ).succeeded()

    assert (tmp_path / "most-frequent.txt").read_text().split() == [
        "2",
        "be",
        "2",
        "to",
        "1",
        "not",
        "1",
        "or",
    ]


def test_crawl(tmp_path: Path) -> None:
    top = tmp_path / "top"
    expected: Counter[str] = Counter()
    for number in range(20):
        folder = top.joinpath(*(["below"] * (number % 4)), f"folder {number % 5}")
        folder.mkdir(parents=True, exist_ok=True)
        ending = (".py", ".txt", "")[number % 3]
        (folder / f"file{number}{ending}").write_text("x" * number)
        expected[ending or "(none)"] += 1
    os.symlink(top, top / "itself")

    ran = example(tmp_path, "crawl.py").run(str(top))

    ran.succeeded()
    lines = [line.split() for line in ran.out.splitlines()[1:]]
    assert {line[0]: int(line[1]) for line in lines} == expected
    assert sum(int(line[2]) for line in lines) == sum(range(20))
