"""jobTreeStats on trees that are made through the store, against the very text that is expected."""

from __future__ import annotations

import csv
import io
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from jobtree import snapshot
from jobtree.cli import stats
from jobtree.errors import AnotherMaster
from jobtree.frames import Measures
from jobtree.options import Settings
from jobtree.records import TargetRow, WorkerRow
from tests.unit.test_snapshot import Built

GIB, MIB = 1 << 30, 1 << 20
HOSTILE = "=evil\x1b[31m<b>&\n"


@pytest.fixture(autouse=True)
def greenwich(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


@pytest.fixture
def built(tmp_path: Path) -> Iterator[Built]:
    made = Built(tmp_path / "tree")
    yield made
    made.store.close()


def used(
    built: Built, name: str, memory: int, cpu: float, *measures: tuple[float, float, int], failures: int = 0
) -> None:
    """Targets of a class that asked for so much have succeeded, others failed after a second each."""
    stats = built.store.stats[built.store.shape(name, memory, cpu)]
    for one in measures:
        stats.add(Measures(*one, True))
    stats.failures += failures
    stats.in_vain += failures


@pytest.fixture
def run(built: Built) -> str:
    """A finished run of two classes on two hosts; returns its directory."""
    align = [(600.0 + n, 500.0 + 2 * n, GIB + n * 8 * MIB) for n in range(5)]
    used(built, "reads.Align", 8 * GIB, 4.0, *align, failures=2)
    used(built, "reads.merge", 0, 0.0, (0.00002, 0.00001, 30 * MIB), (8.0, 1.5, 40 * MIB))
    workers = [
        (WorkerRow(1, "node1", "slurm", 1, 1000.0, 1010.0, 2000.0, 4, 1, 980.0), 900.0, 2 * GIB),
        (WorkerRow(2, "node2", "slurm", 1, 1000.0, 1020.0, 3000.0, 3, 1, 1960.0), 1700.0, GIB),
    ]
    built.store.write_stats(built.store.stats, workers=workers)
    settings = Settings(batch_system="slurm", default_cpu=2)
    Path(built.paths.settings).write_text(json.dumps(settings.to_dict()))
    built.commit(ended="complete")
    return built.paths.root


def said(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert stats.main(list(arguments)) == 0
    return capsys.readouterr().out


def as_json(capsys: pytest.CaptureFixture[str], *arguments: str) -> Any:
    return json.loads(said(capsys, *arguments, "--json"))


def order(capsys: pytest.CaptureFixture[str], *arguments: str) -> list[str]:
    """The names of the classes as they come."""
    return [kind["name"] for kind in as_json(capsys, *arguments)["classes"]]


PLAIN = """\
TREE: complete
7 targets of 2 classes; 2 attempts failed
2 workers on 2 hosts, 4.5 targets each, from 1970-01-01 00:16:50 to 1970-01-01 00:50:00 (33m 10s)
batch system slurm, default memory 2.0 GiB, default cores 2

time: of the wall clock, in seconds
count  failures       min      med*       ave       max     total
    2         0  0.000020  0.000020     4.000     8.000     8.000  reads.merge
    5         2   600.000   600.000   602.000   604.000  3010.000  reads.Align
    7         2  0.000020   592.000   431.143   604.000  3018.000  all targets
    1         1  1980.000  1980.000  1980.000  1980.000  1980.000  node2 (slurm)
    1         1   990.000   990.000   990.000   990.000   990.000  node1 (slurm)
    2         2   990.000   990.000  1485.000  1980.000  2970.000  all workers

wait: time without CPU (for disks, networks, other programs), in seconds
count  failures       min       med      ave      max    total
    2         0  0.000010  0.000010    3.250    6.500    6.500  reads.merge
    5         2    96.000    98.000   98.000  100.000  490.000  reads.Align
    7         2  0.000010    98.000   70.929  100.000  496.500  all targets
    1         1   280.000   280.000  280.000  280.000  280.000  node2 (slurm)
    1         1    90.000    90.000   90.000   90.000   90.000  node1 (slurm)
    2         2    90.000    90.000  185.000  280.000  370.000  all workers
med, the median, is within 3% of the true one.

asked for by one target, used by one at most, and advised, memory in bytes
memory asked        used     advised  cores asked  used  advised
  2147483648    41943040   109051904            2  0.19      0.5  reads.merge
  8589934592  1107296256  1744830464            4  0.84        1  reads.Align

what to do about it
  of the workers' time 98.9% was in targets that succeeded, 0.1% in attempts that failed, 1.0%
      between targets; 1.5 workers at a time
  reads.Align asks for 8.0 GiB of memory and each of 5 targets used 1.0 GiB at most: ask for
      memory="1664M", and 4.9 times as many fit into the same memory
  reads.Align asks for 4 cores and each of 5 targets used 0.8 at most, 0.8 on average: ask for cpu=1
  and 2 things that matter less (--json)

critical path: start the run with --stats to have it recorded which target waited for which
"""

PRETTY = """\
memory: the largest resident set
count  failures       min       med        ave      max*     total
    5         2   1.0 GiB   1.0 GiB    1.0 GiB   1.0 GiB   5.1 GiB  reads.Align
    2         0  30.0 MiB  30.5 MiB   35.0 MiB  40.0 MiB  70.0 MiB  reads.merge
    7         2  30.0 MiB   1.0 GiB  752.9 MiB   1.0 GiB   5.1 GiB  all targets
    1         1   1.0 GiB   1.0 GiB    1.0 GiB   1.0 GiB   1.0 GiB  node2 (slurm)
    1         1   2.0 GiB   2.0 GiB    2.0 GiB   2.0 GiB   2.0 GiB  node1 (slurm)
    2         2   1.0 GiB   1.0 GiB    1.5 GiB   2.0 GiB   3.0 GiB  all workers
"""


SIZES = """
asked for by one target, used by one at most, and advised
memory asked      used    advised  cores asked  used  advised
     8.0 GiB   1.0 GiB    1.6 GiB            4  0.84        1  reads.Align
     2.0 GiB  40.0 MiB  104.0 MiB            2  0.19      0.5  reads.merge
"""


def test_plain_numbers_smallest_first(run: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert said(capsys, run, "--categories", "time, wait").replace(run, "TREE") == PLAIN


def test_in_words_and_turned_round(run: str, capsys: pytest.CaptureFixture[str]) -> None:
    sort = ("--sortCategory", "memory", "--sortField", "max", "--sortReverse")

    text = said(capsys, run, "--categories", "memory", "--human", *sort)

    assert PRETTY in text
    assert SIZES in text


@pytest.mark.parametrize("category", ["alpha", "time", "clock", "wait", "memory", "count", "failures"])
@pytest.mark.parametrize("field", ["min", "med", "ave", "max", "total"])
def test_by_every_column(category: str, field: str, run: str, capsys: pytest.CaptureFixture[str]) -> None:
    sort = ("--sortCategory", category, "--sortField", field)
    smallest = {"alpha": "reads.Align"}.get(category, "reads.merge")

    names = order(capsys, run, *sort)

    assert names[0] == smallest
    assert order(capsys, run, *sort, "--reverseSort") == names[::-1]


def test_values_for_programs(run: str, capsys: pytest.CaptureFixture[str]) -> None:
    found = as_json(capsys, "--jobTree", run)

    merge, align = found["classes"]
    assert (found["jobTree"], found["state"]) == (run, "complete")
    assert (align["name"], align["count"], align["failures"], align["in_vain"]) == ("reads.Align", 5, 2, 2.0)
    assert align["time"] == {"min": 600.0, "median": 600.0, "mean": 602.0, "max": 604.0, "total": 3010.0}
    assert align["requests"] == [
        {"memory": 8 * GIB, "cpu": 4.0, "countable": "", "count": 5, "memory_max": GIB + 32 * MIB,
         "time_total": 3010.0, "clock_total": 2520.0}
    ]  # fmt: skip
    assert align["right_size"] == {
        "memory": {"requested": 8 * GIB, "used": GIB + 32 * MIB, "recommended": 1664 * MIB},
        "cores": {"requested": 4.0, "used": pytest.approx(508 / 604), "recommended": 1},
    }
    assert (merge["requests"][0]["memory"], merge["requests"][0]["cpu"]) == (None, None)
    assert found["targets"]["count"] == 7
    assert [(host["name"], host["targets"], host["queued_max"]) for host in found["hosts"]] == [
        ("node1", 4, 10.0), ("node2", 3, 20.0),
    ]  # fmt: skip
    assert found["workers"]["memory"]["max"] == 2 * GIB


def test_lines_for_spreadsheets(run: str, capsys: pytest.CaptureFixture[str]) -> None:
    lines = list(csv.DictReader(io.StringIO(said(capsys, run, "--csv"))))

    assert [(line["kind"], line["name"]) for line in lines] == [
        ("class", "reads.merge"), ("class", "reads.Align"), ("targets", "all targets"), ("host", "node2 (slurm)"),
        ("host", "node1 (slurm)"), ("workers", "all workers"),
    ]  # fmt: skip
    assert (lines[1]["count"], lines[1]["time_max"], lines[1]["memory_min"]) == ("5", "604.0", str(GIB))
    assert (lines[1]["in_vain"], lines[3]["in_vain"]) == ("2.0", "")


def test_raw_is_what_the_original_wrote(run: str, capsys: pytest.CaptureFixture[str]) -> None:
    root = ElementTree.fromstring(said(capsys, run, "--raw"))

    assert [child.tag for child in root] == ["slave", "target", "target_types"]
    assert (root.get("batch_system"), root.get("total_run_time")) == ("slurm", "3018.00002")
    align = root.find("target_types/reads.Align")
    assert align is not None
    assert (align.get("total_number"), align.get("median_time")) == ("5", "600.0")


def test_a_hostile_name_is_harmless_everywhere(built: Built, capsys: pytest.CaptureFixture[str]) -> None:
    used(built, HOSTILE, 0, 0.0, (1.0, 1.0, 1))
    built.commit()
    root = built.paths.root

    for text in (said(capsys, root), said(capsys, root, "--csv"), said(capsys, root, "--raw")):
        assert "\x1b" not in text
    (line, *_) = csv.DictReader(io.StringIO(said(capsys, root, "--csv")))
    assert line["name"].startswith("'=evil")
    (kind,) = ElementTree.fromstring(said(capsys, root, "--raw")).findall("target_types/*")
    assert kind.get("name") == "=evil\\x1b[31m<b>&\\n"
    assert as_json(capsys, root)["classes"][0]["name"] == HOSTILE


@pytest.mark.parametrize("form", ["--json", "--csv", "--raw", "--pretty"])
def test_before_anything_has_ended(form: str, built: Built, capsys: pytest.CaptureFixture[str]) -> None:
    built.commit()

    text = said(capsys, built.paths.root, form)

    assert "No target has ended yet" in text or form != "--pretty"
    assert form != "--json" or json.loads(text)["classes"] == []


def test_only_failures_have_no_numbers(built: Built, capsys: pytest.CaptureFixture[str]) -> None:
    used(built, "reads.Bad", 0, 0.0, failures=3)
    built.commit()

    (line,) = [line for line in said(capsys, built.paths.root).splitlines() if "reads.Bad" in line][:1]
    assert line.split() == ["0", "3", *"-----", "reads.Bad"]


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (
            ["--categories", "time,space"],
            "'space' was given, and names of time, clock, wait, memory are expected",
        ),
        (["--sortField", "middle"], "invalid choice: 'middle'"),
        (["--json", "--csv"], "not allowed with argument"),
        (["--targets", "--workers"], "not allowed with argument"),
        (["--targets", "--plot", "run.png"], "--targets and --workers go with --json or --csv only"),
        (["--workers", "--raw"], "--targets and --workers go with --json or --csv only"),
        (["--outputFile", "no/such/file"], "--outputFile no/such/file cannot be written"),
    ],
)
def test_misuse_is_explained(
    arguments: list[str], complaint: str, run: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert stats.main([run, *arguments]) == 2

    assert complaint in " ".join(capsys.readouterr().err.split())


def test_settings_that_are_lost_do_not_matter(
    run: str, built: Built, capsys: pytest.CaptureFixture[str]
) -> None:
    Path(built.paths.settings).write_text("[]")

    assert "batch system singleMachine" in said(capsys, run)


# -- single targets ------------------------------------------------------------------------------------------------


@pytest.fixture
def detailed(built: Built) -> str:
    """A run with --stats: two targets below the first one, and its follow-on; returns its directory."""
    shapes = [built.store.shape(name, 0, 0.0) for name in ("some.Root", "some.Child", "some.Last")]
    plan = [
        (1, 1, 0, 0, 0, 0, 0.0, 1.0, None), (11, 1, 0, 1, 0, 1, 1.0, 2.0, None),
        (12, 1, 0, 1, 0, 1, 1.5, 1.0, "memory"), (12, 2, 0, 1, 0, 1, 3.0, 6.0, None),
        (1, 2, 1, 0, 0, 2, 10.0, 0.5, None),
    ]  # fmt: skip
    rows = []
    for job, attempt, step, parent, parent_step, kind, began, wall, failed in plan:
        rows.append(
            TargetRow(
                job, attempt, step, parent, parent_step, shapes[kind], 7, began, wall, wall / 2, MIB, failed
            )
        )
        if failed is None:
            built.store.stats[shapes[kind]].add(Measures(wall, wall / 2, MIB, True))
        else:
            built.store.stats[shapes[kind]].failures += 1
    worker = WorkerRow(7, "node\x1b1", "slurm", shapes[1], 0.0, 0.0, 10.5, 4, 1, 10.5)
    built.store.write_stats(built.store.stats, rows, [(worker, 5.0, MIB)])
    built.commit(ended="complete")
    return built.paths.root


CRITICAL_PATH = """
critical path: 3 targets, each of which had to wait for the one before; they took 7.50s of 10.5s,
    and 3.00s went by between them, waiting for a place
   80.0%  6.00s in 1 of some.Child
   13.3%  1.00s in 1 of some.Root
    6.7%  0.50s in 1 of some.Last
"""


def test_the_critical_path(detailed: str, capsys: pytest.CaptureFixture[str]) -> None:
    text = said(capsys, detailed)

    assert text.endswith(CRITICAL_PATH)
    assert "med is the median." in text


def test_a_critical_path_of_one(built: Built, capsys: pytest.CaptureFixture[str]) -> None:
    shape = built.store.shape("some.Root", 0, 0.0)
    built.store.stats[shape].add(Measures(2.0, 1.0, MIB, True))
    built.store.write_stats([shape], [TargetRow(1, 1, 0, 0, 0, shape, 7, 0.0, 2.0, 1.0, MIB, None)])
    built.commit(ended="complete")

    text = said(capsys, built.paths.root)

    assert text.endswith(
        "critical path: 1 target; it took 2.00s of 2.00s\n  100.0%  2.00s in 1 of some.Root\n"
    )


def test_the_critical_path_for_programs(detailed: str, capsys: pytest.CaptureFixture[str]) -> None:
    found = as_json(capsys, detailed)

    path = found["critical_path"]
    assert found["median_exact"] is True
    assert (path["working"], path["waiting"]) == (7.5, 3.0)
    assert [(step["job"], step["attempt"], step["name"]) for step in path["targets"]] == [
        ("0-1", 1, "some.Root"), ("0-12", 2, "some.Child"), ("0-1", 2, "some.Last"),
    ]  # fmt: skip
    (child,) = [kind for kind in found["classes"] if kind["name"] == "some.Child"]
    assert child["time"]["median"] == 2.0


def test_without_records_it_is_said_how_to_get_them(run: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert "critical path: start the run with --stats" in said(capsys, run)
    assert as_json(capsys, run)["critical_path"] is None
    for form in ([], ["--json"]):
        assert stats.main([run, "--targets", *form]) == 2
        assert "has no records of single targets: start the run with --stats" in capsys.readouterr().err


def test_a_line_for_each_target(detailed: str, capsys: pytest.CaptureFixture[str]) -> None:
    lines = said(capsys, detailed, "--targets").splitlines()

    assert lines[0] == "job,attempt,step,name,host,began,wall,cpu,memory,failed"
    assert lines[1:] == [
        "0-1,1,0,some.Root,node\\x1b1,0.0,1.0,0.5,1048576,",
        "0-1,2,1,some.Last,node\\x1b1,10.0,0.5,0.25,1048576,",
        "0-11,1,0,some.Child,node\\x1b1,1.0,2.0,1.0,1048576,",
        "0-12,1,0,some.Child,node\\x1b1,1.5,1.0,0.5,1048576,memory",
        "0-12,2,0,some.Child,node\\x1b1,3.0,6.0,3.0,1048576,",
    ]
    objects = [json.loads(line) for line in said(capsys, detailed, "--targets", "--json").splitlines()]
    assert [(one["job"], one["failed"]) for one in objects] == [
        ("0-1", None), ("0-1", None), ("0-11", None), ("0-12", "memory"), ("0-12", None),
    ]  # fmt: skip


def test_a_line_for_each_worker(run: str, capsys: pytest.CaptureFixture[str]) -> None:
    lines = said(capsys, run, "--workers").splitlines()

    assert lines == [
        "worker,host,backend,name,created,first,last,targets,failures,busy,wall,cpu,memory",
        "1,node1,slurm,some.Root,1000.0,1010.0,2000.0,4,1,980.0,990.0,900.0,2147483648",
        "2,node2,slurm,some.Root,1000.0,1020.0,3000.0,3,1,1960.0,1980.0,1700.0,1073741824",
    ]
    objects = [json.loads(line) for line in said(capsys, run, "--workers", "--json").splitlines()]
    assert [(one["worker"], one["host"], one["cpu"], one["memory"]) for one in objects] == [
        (1, "node1", 900.0, 2 * GIB), (2, "node2", 1700.0, GIB),
    ]  # fmt: skip


def test_names_in_lines_are_no_formulas(built: Built, capsys: pytest.CaptureFixture[str]) -> None:
    shape = built.store.shape(HOSTILE, 0, 0.0)
    built.store.stats[shape].add(Measures(1.0, 1.0, 1, True))
    row = TargetRow(1, 1, 0, 0, 0, shape, 7, 0.0, 1.0, 1.0, 1, None)
    worker = WorkerRow(7, "@node", "slurm", shape, 0.0, 0.0, 1.0, 1, 0, 1.0)
    built.store.write_stats([shape], [row], [(worker, 1.0, 1)])
    built.commit()

    for form in ("--targets", "--workers"):
        (line,) = csv.DictReader(io.StringIO(said(capsys, built.paths.root, form)))
        assert (line["name"], line["host"]) == ("'=evil\\x1b[31m<b>&\\n", "'@node")


def test_on_a_network_file_system_single_targets_wait_for_the_end_of_the_run(
    detailed: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(*arguments: Any) -> Any:
        raise AnotherMaster("a master has it for itself")

    monkeypatch.setattr(snapshot, "query", refuse)

    text = said(capsys, detailed)
    assert "critical path: on a network file system it can be told when the run has ended" in text
    assert "is within 3% of the true one" in text
    assert stats.main([detailed, "--targets"]) == AnotherMaster.exit_status
