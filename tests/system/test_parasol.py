"""Runs on a fake Parasol: from beginning to end, killed and continued, a hub that dies, batches that get sick."""

from __future__ import annotations

import random
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from batchsystems.abstract import BatchSystemError, End, EndKind, Resources, Submission
from batchsystems.parasol import Parasol
from batchsystems.parasol_commands import Result, read_results
from tests.fakes.parasol import CLIENT, FakeParasol
from tests.system.legacy_script import CHECKOUT
from tests.system.pipelines import IMPORTS, MAIN, Pipeline, wait_until
from tests.system.waiting import PAUSE, Bench

pytestmark = pytest.mark.slow

OPTIONS = (
    "--batchSystem",
    "parasol",
    "--parasolCommand",
    CLIENT,
    "--lease",
    "30",
    "--grace",
    "1",
    "--logInfo",
)

PIPELINE = """
class Setup(Target):
    def run(self):
        children = [self.addChildTarget(Child(i)) for i in range(int(os.environ.get("CHILDREN", "8")))]
        return self.setFollowOnTarget(Sum([child.rv() for child in children])).rv()
class Child(Target):
    def __init__(self, i):
        Target.__init__(self)
        self.i = i
    def run(self):
        note(self.i)
        pause()
        return self.i
class Sum(Target):
    def __init__(self, values):
        Target.__init__(self)
        self.values = values
    def run(self):
        return sum(self.values)
"""


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[FakeParasol]:
    with FakeParasol(tmp_path / "hub") as made:
        yield made


@pytest.fixture
def bench(tmp_path: Path, hub: FakeParasol) -> Iterator[Bench]:
    with Bench(tmp_path) as made:
        made.write("pipeline.py", IMPORTS, PAUSE, PIPELINE, MAIN)
        yield made


def test_the_sort_runs_on_it(tmp_path: Path, hub: FakeParasol) -> None:
    seed = 20261127
    print("seed", seed)
    chance = random.Random(seed)
    lines = [str(chance.random()) for _ in range(3000)]
    (tmp_path / "lines").write_text("".join(f"{line}\n" for line in lines))
    pipeline = Pipeline(tmp_path, name=str(CHECKOUT / "examples" / "sort.py"))

    ran = pipeline.run(
        "--fileToSort", "lines", "--output", "sorted", "--N", "10000", "--jobTime", "1", *OPTIONS
    )

    ran.succeeded()
    assert (tmp_path / "sorted").read_text().splitlines() == sorted(lines)
    assert len(hub.submitted()) == len(set(hub.submitted())), "something was submitted twice"
    assert pipeline.leftovers() == []


def test_the_master_is_killed_and_what_the_hub_has_is_waited_for(bench: Bench, hub: FakeParasol) -> None:
    tree = str(bench.directory / "tree")
    master = bench.start("pipeline.py", "--jobTree", tree, *OPTIONS, "--jobTime", "0")
    for _ in range(4):
        bench.gate.arrival()
    master.send(signal.SIGKILL)
    master.ended()
    before = hub.submitted()

    again = bench.start("pipeline.py", "--jobTree", tree, *OPTIONS, "--jobTime", "0")
    bench.gate.let_through(8)
    ran = again.ended()

    ran.succeeded()
    assert "result: 28" in ran.out
    assert sorted(bench.lines("notes")) == sorted(map(str, range(8))), "each child ran once"
    assert hub.submitted()[: len(before)] == before
    assert len(hub.submitted()) == len(set(hub.submitted()))


def test_a_hub_that_is_killed_and_started_again_ends_nothing_that_runs(
    bench: Bench, hub: FakeParasol, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CHILDREN", "4")
    master = bench.start(
        "pipeline.py", "--jobTree", str(bench.directory / "tree"), *OPTIONS, "--jobTime", "0"
    )
    for _ in range(4):
        bench.gate.arrival()

    hub.kill()  # numbers go on elsewhere, and results are written elsewhere
    bench.gate.let_through(4)
    hub.start()
    ran = master.ended()

    ran.succeeded()
    assert "result: 6" in ran.out
    assert sorted(bench.lines("notes")) == sorted(map(str, range(4)))


def test_while_the_network_to_the_hub_is_cut_what_runs_ends_and_what_follows_waits(
    bench: Bench, hub: FakeParasol, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CHILDREN", "4")
    tree = bench.directory / "tree"
    master = bench.start("pipeline.py", "--jobTree", str(tree), *OPTIONS, "--jobTime", "0")
    for _ in range(4):
        bench.gate.arrival()

    with hub.trick("down"):
        before = len(hub.submitted())
        bench.gate.let_through(4)
        status = Pipeline(bench.directory)
        wait_until(
            lambda: '"done": 4' in status.program("jobTreeStatus", "--json", str(tree)).out,
            "four that are done",
        )
        assert len(hub.submitted()) == before
    ran = master.ended()

    ran.succeeded()
    assert "result: 6" in ran.out
    assert sorted(bench.lines("notes")) == sorted(map(str, range(4)))


def test_the_commands_without_a_master_end_what_runs(bench: Bench, hub: FakeParasol) -> None:
    tree = bench.directory / "tree"
    master = bench.start("pipeline.py", "--jobTree", str(tree), *OPTIONS, "--jobTime", "0")
    bench.gate.arrival()
    master.send(signal.SIGKILL)
    master.ended()

    killed = Pipeline(bench.directory).program("jobTreeKill", str(tree))

    killed.succeeded()
    wait_until(
        lambda: not list((hub.directory / "running").glob("*.json")), "the end of everything on the nodes"
    )


# -- the backend alone -------------------------------------------------------------------------------------------


def submission(name: str, script: str, cpu: float = 1.0) -> Submission:
    return Submission(f"run.{name}", ("/bin/sh", "-c", script), Resources(cpu))


def test_a_sick_batch_that_dropped_its_jobs_is_cleared_and_they_are_lost_not_forgotten(
    tmp_path: Path, hub: FakeParasol
) -> None:
    with Parasol(CLIENT, str(tmp_path / "jobs"), interval=0.05, patience=0.5) as batch:
        bad = [submission(f"bad{n}", "exit 1") for n in range(40)]
        batch.issue([*bad, *(submission(f"good{n}", "exit 0") for n in range(5))])
        found: dict[str, End] = {}
        while len(found) < 45:
            found.update({end.name: end for end in batch.poll(10.0)})
            assert len(hub.calls()) < 5000

        kinds = {end.kind for name, end in found.items() if "good" in name}
        assert kinds <= {EndKind.FINISHED, EndKind.LOST}
        assert any(call.startswith("clear sick") for call in hub.calls())

        batch.issue([submission("later", "exit 0")])
        assert [end.status for end in batch.poll(60.0)] == [0]


def test_what_was_taken_and_is_over_although_the_answer_was_lost_is_not_submitted_again(
    tmp_path: Path, hub: FakeParasol
) -> None:
    batch = Parasol(CLIENT, str(tmp_path / "jobs"), interval=0.05)
    with batch:
        with hub.trick("mute"):
            batch.issue([submission("once", f"echo ran >> {tmp_path}/ran")])
            assert batch.queue_room() == 0
            wait_until(lambda: list((tmp_path / "jobs").rglob("para.results")), "the result")

        batch._pause.until = 0.0  # it is time to try again, before anything else is looked at
        assert [end.status for end in batch.poll(60.0)] == [0]

    assert (tmp_path / "ran").read_text() == "ran\n"
    assert len(hub.submitted()) == 1


def test_each_shape_of_request_is_a_batch_of_its_own(tmp_path: Path, hub: FakeParasol) -> None:
    with Parasol(CLIENT, str(tmp_path / "jobs"), interval=0.05) as batch:
        batch.issue(
            [submission("one", "exit 0"), submission("half", "exit 0", 0.5), submission("two", "exit 0", 2)]
        )
        ended = 0
        while ended < 3:
            ended += len(batch.poll(60.0))

    assert {path.parent.name for path in (tmp_path / "jobs").rglob("para.results")} == {"c1m0", "c2m0"}


def test_the_hub_is_asked_once_an_interval_and_more_rarely_while_nothing_changes(
    tmp_path: Path, hub: FakeParasol, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [1000.0]
    monkeypatch.setattr("batchsystems.parasol.time.monotonic", lambda: now[0])
    with Parasol(CLIENT, str(tmp_path / "jobs"), interval=5.0) as batch, hub.trick("hold"):
        batch.issue([submission("waits", "exit 0")])
        for _ in range(600):
            batch.poll(0.0)
            now[0] += 1.0

        assert 10 < hub.calls().count("list jobs") < 25


@pytest.mark.parametrize("name", ["a b", "tab\tin", "new\nline", "x" * 400])
def test_directories_that_parasol_cannot_take_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(BatchSystemError, match="Parasol cannot take the directory"):
        Parasol(CLIENT, str(tmp_path / name))


def test_a_parasol_that_is_not_there_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with Parasol("/nonexistent/parasol", str(tmp_path / "jobs")) as batch:
        batch.issue([submission("a", "exit 0")])
        assert batch.queue_room() == 0
        with pytest.raises(BatchSystemError, match="--parasolCommand says what it is called"):
            batch.list_issued("run")
    assert "Parasol cannot be asked: the command '/nonexistent/parasol' cannot be run" in caplog.text


def test_results_are_read_by_whole_lines_and_commands_keep_their_blanks() -> None:
    whole = "1792 pn2 7 e7.sh 0 0 17 18 19 root /t/para7.err '/data/w/e7.sh a  b'\n"
    data = ("not a result\n" + whole + "0 pn1 8 half").encode()

    lines, size = read_results(data)

    assert lines == [Result(1792, "pn2", 7, "/data/w/e7.sh a  b")]
    assert data[size:] == b"0 pn1 8 half"
