"""jobTreeStats --plot draws a file that can be read, with names that nobody can misuse."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

import pytest

from jobtree.cli import stats
from jobtree.frames import Measures
from jobtree.records import TargetRow, WorkerRow
from tests.unit.test_snapshot import Built

# The newest that runs on Python 3.9 calls what newer versions of its own dependencies call by other names.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:matplotlib.*")

HOSTILE = [
    "a<script>alert(1)</script>&\"'", "$\\frac{1$", "_hidden", "\x1b[31mred\x00\n\ud83d", "", "long" * 40, "]]>",
    "%s{}", "\u6f22\u5b57",
]  # fmt: skip


@pytest.fixture
def built(tmp_path: Path) -> Iterator[Built]:
    made = Built(tmp_path / "tree")
    yield made
    made.store.close()


@pytest.fixture
def run(built: Built) -> str:
    """A run of classes and on hosts with these names; returns its directory."""
    for n, name in enumerate(["reads.Align", *HOSTILE], 1):
        shape = built.store.shape(name, 1 << 30, 1.0)
        for m in range(5):
            built.store.stats[shape].add(Measures(10.0 + n, 5.0, (100 + 10 * m) << 20, True))
        worker = WorkerRow(n, name, "slurm", shape, 1000.0, 1000.0 + n, 1011.0 + 2 * n, n % 3, 1, 5.0)
        built.store.write_stats([shape], workers=[(worker, 5.0, 1 << 20)])
    built.commit(ended="complete")
    return built.paths.root


def drawn(path: Path) -> str:
    """The text of an SVG file, which must be XML without a script."""
    root = ElementTree.fromstring(path.read_bytes())
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    assert not [element for element in root.iter() if element.tag.endswith("script")]
    return "\n".join(element.text or "" for element in root.iter("{http://www.w3.org/2000/svg}text"))


def test_a_drawing_with_all_names_as_they_are(run: str, tmp_path: Path) -> None:
    assert stats.main([run, "--plot", str(tmp_path / "run.svg"), "--json"]) == 0

    text = drawn(tmp_path / "run.svg")
    assert "reads.Align" in text
    assert "tree: complete" in text
    for name in (*HOSTILE[:3], HOSTILE[-1]):
        assert text.count(name) == 2, "a class and a host"
    assert "\\x1b[31mred\\x00\\n\\ud83d" in text
    assert "When workers ran" in text
    assert "128 MiB" in text
    assert "2 GiB" in text, "the scale goes on to the power of two behind what was asked for"
    assert "reads.Align (5)" in text
    assert "reads.Align, 1 slot" in text
    assert "in each slot (colours: the classes below; hatched: failed)" in text


@pytest.mark.parametrize(("name", "beginning"), [("run.PNG", b"\x89PNG"), ("run.pdf", b"%PDF")])
def test_other_formats(name: str, beginning: bytes, run: str, tmp_path: Path) -> None:
    assert stats.main([run, "--plot", str(tmp_path / name)]) == 0

    assert (tmp_path / name).read_bytes().startswith(beginning)


@pytest.mark.parametrize(
    ("seconds", "ticks"),
    [
        (3.0, {"0s", "1s", "2s"}), (50.0, {"0s", "10s", "40s"}), (300.0, {"0s", "1m", "4m"}),
        (7500.0, {"0s", "30m", "1h", "1h 30m", "2h"}), (300 * 3600.0, {"0s", "2d", "12d"}),
    ],
)  # fmt: skip
def test_ticks_are_at_round_times(seconds: float, ticks: set[str], built: Built, tmp_path: Path) -> None:
    shape = built.store.shape("reads.Align", 1 << 30, 1.0)
    rows = [
        TargetRow(n, 1, 0, 0, 0, shape, 1, 1000.0 + begin, length, 1.0, 1 << 20, None)
        for n, (begin, length) in enumerate([(0.0, 0.001), (1.0, seconds - 1.0)], 1)
    ]
    built.store.stats[shape].add(Measures(seconds, 1.0, 1 << 20, True))
    built.store.write_stats([shape], rows)
    built.commit(ended="complete")

    assert stats.main([built.paths.root, "--plot", str(tmp_path / "run.svg")]) == 0

    assert ticks <= set(drawn(tmp_path / "run.svg").splitlines())


def test_hosts_are_in_the_order_of_their_numbers(built: Built, tmp_path: Path) -> None:
    shape = built.store.shape("reads.Align", 1 << 30, 1.0)
    for n in (10, 9, 100):
        worker = WorkerRow(n, f"node{n}", "slurm", shape, 0.0, 1.0, 2.0, 1, 0, 1.0)
        built.store.write_stats([], workers=[(worker, 1.0, 1)])
    built.commit(ended="complete")

    assert stats.main([built.paths.root, "--plot", str(tmp_path / "run.svg")]) == 0

    lines = [line for line in drawn(tmp_path / "run.svg").splitlines() if line.startswith("node")]
    assert lines == ["node9, 1 slot", "node10, 1 slot", "node100, 1 slot"]


def test_single_targets_where_they_were_recorded(run: str, built: Built, tmp_path: Path) -> None:
    rows = [
        TargetRow(n, 1, 0, 0, 0, 1, 1, 1000.0 + n, 3.0, 1.0, 1, "exception" if n == 2 else None)
        for n in (1, 2, 3)
    ]
    built.store.write_stats([], rows)
    built.commit(ended="complete")

    assert stats.main([run, "--plot", str(tmp_path / "run.svg")]) == 0

    text = drawn(tmp_path / "run.svg")
    assert "When targets ran, in each slot (colours: the classes below; hatched: failed)" in text
    assert "time since " in text
    assert "reads.Align, 3 slots" in text
    assert "hatch" in (tmp_path / "run.svg").read_text()


def test_amounts_within_one_octave_have_a_scale_too(built: Built, tmp_path: Path) -> None:
    shape = built.store.shape("reads.Align", 110 << 20, 1.0)
    built.store.stats[shape].add(Measures(1.0, 1.0, 100 << 20, True))
    built.store.write_stats([shape])
    built.commit(ended="complete")

    assert stats.main([built.paths.root, "--plot", str(tmp_path / "run.svg")]) == 0

    lines = drawn(tmp_path / "run.svg").splitlines()
    assert {"64 MiB", "128 MiB"} <= set(lines)
    assert "tree: complete, 1 target" in lines


def test_a_drawing_of_nothing(built: Built, tmp_path: Path) -> None:
    built.commit()

    assert stats.main([built.paths.root, "--plot", str(tmp_path / "run.svg")]) == 0

    assert "none has ended yet" in drawn(tmp_path / "run.svg")


def test_a_name_that_says_no_format(run: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert stats.main([run, "--plot", "picture.gif"]) == 2

    assert "--plot picture.gif: a name that ends in .svg, .png, .pdf is expected" in capsys.readouterr().err


def test_a_file_that_cannot_be_written(run: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert stats.main([run, "--plot", "no/such/directory/run.svg"]) == 2

    assert "--plot no/such/directory/run.svg cannot be written: No such file" in capsys.readouterr().err


def test_without_matplotlib_it_is_said_how_to_get_it(
    run: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.delitem(sys.modules, "matplotlib.figure", raising=False)

    assert stats.main([run, "--plot", "run.svg"]) == 2

    assert "pip install 'jobtree[plot]'" in capsys.readouterr().err
