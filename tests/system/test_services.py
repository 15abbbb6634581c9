"""Services: up before those that need them, stopped after them, and up again when they, or the master, were killed.

The service is a process that sleeps; its address is how often it has been started. Targets wait at a gate, so that the
test decides who is running when something dies.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fakes.detached import VARIABLE, RunningFarm, on_a_farm
from tests.system.pipelines import IMPORTS, MAIN, wait_until
from tests.system.waiting import PAUSE, Bench, Running

PIPELINE = """
from jobtree import Service

class Sleeper(Service):
    def start(self):
        note("start")
        self.process = self.startProcess(["sleep", "1000"])
        with open("sleeper", "w") as file:
            file.write(str(self.process.pid))
        with open("worker", "w") as file:
            file.write(str(os.getpid()))
        with open("notes") as file:
            return file.read().split("\\n").count("start")
    def check(self):
        return self.process.poll() is None
    def stop(self):
        note("stop")
        self.process.kill()
        self.process.wait()

class Setup(Target):
    def run(self):
        address = self.addService(Sleeper()).rv()
        self.addChildTarget(Child(address, "first"))
        self.setFollowOnTarget(After())

class Child(Target):
    def __init__(self, address, name):
        Target.__init__(self, memory="100M")
        self.address = address
        self.name = name
    def run(self):
        note("%s %s" % (self.name, self.address))
        work(self)

class After(Target):
    def run(self):
        note("after")
        return "all is done"

def alive():
    with open("/proc/%s/stat" % open("sleeper").read()) as file:
        return file.read().rsplit(")", 1)[1].split()[0] not in "ZX"
"""


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    with Bench(tmp_path) as made:
        yield made


def write(bench: Bench, work: str, *more: str) -> None:
    """A pipeline whose children do this."""
    bench.write("pipeline.py", IMPORTS, PAUSE, PIPELINE, work, *more, MAIN)


def start(bench: Bench, *options: str) -> Running:
    return bench.start(
        "pipeline.py", "--jobTree", str(bench.directory / "tree"), "--maxThreads", "2", *options
    )


def notes(bench: Bench) -> list[str]:
    return (bench.directory / "notes").read_text().splitlines()


def pid(bench: Bench, name: str) -> int:
    return int((bench.directory / name).read_text())


# -- when all goes well ----------------------------------------------------------------------------------------


def test_it_is_up_from_the_first_child_to_the_last_descendant(bench: Bench) -> None:
    write(
        bench,
        """
        def work(child):
            assert alive()
            if child.name == "first":
                child.addChildTarget(Child(child.address, "grandchild"))
                child.setFollowOnTarget(Child(child.address, "follow-on"))
        """,
    )

    ran = start(bench).ended().succeeded()

    assert notes(bench) == ["start", "first 1", "grandchild 1", "follow-on 1", "stop", "after"]
    assert "result: None" in ran.out
    assert not Path(f"/proc/{pid(bench, 'sleeper')}").exists()


def test_two_services_and_one_inside(bench: Bench) -> None:
    write(
        bench,
        """
        class Setup(Target):
            def run(self):
                first, second = self.addService(Named("one")), self.addService(Named("two"))
                self.addChildTarget(Inner(first.rv(), second.rv()))
                self.addChildFn(note, ("beside",))

        class Inner(Target):
            def __init__(self, *values):
                Target.__init__(self)
                self.values = values
            def run(self):
                inside = self.addService(Named("of %s and %s" % self.values))
                self.addChildFn(note, (inside.rv(),))

        class Named(Service):
            def __init__(self, name):
                Service.__init__(self)
                self.name = name
            def start(self):
                note("start " + self.name)
                return "address " + self.name
            def stop(self):
                note("stop " + self.name)
        """,
    )

    start(bench).ended().succeeded()

    found = notes(bench)
    assert sorted(found[:2]) == ["start one", "start two"]
    assert sorted(found[-2:]) == ["stop one", "stop two"]
    inner = "of address one and address two"
    assert [line for line in found[2:-2] if line != "beside"] == [
        f"start {inner}",
        f"address {inner}",
        f"stop {inner}",
    ]
    assert "beside" in found[2:-2]


def test_without_children_it_is_not_started(bench: Bench) -> None:
    write(
        bench,
        """
        class Setup(Target):
            def run(self):
                self.addService(Sleeper())
                self.setFollowOnTarget(After())
        """,
    )

    start(bench).ended().succeeded()

    assert notes(bench) == ["after"]


# -- when something dies ---------------------------------------------------------------------------------------

# The address goes past the child that waits, to those that the outermost target has made.
SETUP = """
class Setup(Target):
    def run(self):
        address = self.addService(Sleeper()).rv()
        self.addChildFn(note, ("quick",), memory="100M")
        self.addChildTarget(Child(address, "slow"))
        self.setFollowOnTarget(After())

def work(child):
    pause()
    assert alive()
"""


@pytest.mark.parametrize("victim", ["sleeper", "worker"])
def test_its_death_brings_back_who_was_running_with_the_new_address(bench: Bench, victim: str) -> None:
    write(bench, SETUP)
    running = start(bench)
    bench.gate.arrival()
    wait_until(lambda: "quick" in notes(bench), "the child that does not wait")

    os.kill(pid(bench, victim), signal.SIGKILL)
    bench.gate.arrival()
    bench.gate.let_through(2)

    running.ended().succeeded()
    found = notes(bench)
    assert sorted(found) == sorted(
        ["start", "quick", "slow 1", "start", "slow 2", "stop", "after"]
        + (["stop"] if victim == "sleeper" else [])
    )
    assert found.index("slow 2") > max(i for i, line in enumerate(found) if line == "start")
    assert found[-2:] == ["stop", "after"]


@pytest.mark.parametrize("victim", ["sleeper", "master"])
def test_whoever_was_handed_the_address_on_is_given_the_new_one(bench: Bench, victim: str) -> None:
    """The child that handed it on is done, and is not run again."""
    write(
        bench,
        """
        class Setup(Target):
            def run(self):
                server = self.addService(Server())
                self.addChildTarget(HandsOn(server.rv(), server.rv("port"), lambda text: text))
                self.setFollowOnTarget(After())

        class Server(Sleeper):
            def start(self):
                number = Sleeper.start(self)
                return {"host": "host %d" % number, "port": 5000 + number}

        class HandsOn(Target):
            def __init__(self, all, port, by_value):
                Target.__init__(self, memory="100M")
                self.host, self.port, self.by_value = all["host"] if isinstance(all, dict) else all, port, by_value
            def run(self):
                note("hands on")
                self.addChildTarget(Uses(self.port, None, 1))
                self.addChildTarget(Uses(self.port, lambda: None, 2))
                self.setFollowOnFn(note, ("follow-on",))

        class Uses(Target):
            def __init__(self, *values):
                Target.__init__(self, memory="100M", cpu=0.5)
                self.values = values
            def run(self):
                note("%d at %d" % (self.values[2], self.values[0]))
                pause()
                assert alive()
        """,
    )
    running = start(bench)
    bench.gate.arrival()
    bench.gate.arrival()
    if victim == "sleeper":
        os.kill(pid(bench, "sleeper"), signal.SIGKILL)
    else:
        running.send(signal.SIGKILL)
        running.ended()
        running = start(bench)
    bench.gate.arrival()
    bench.gate.arrival()
    bench.gate.let_through(4)

    running.ended().succeeded()
    found = notes(bench)
    assert found.count("hands on") == 1
    assert sorted(line for line in found if " at " in line) == [
        "1 at 5001",
        "1 at 5002",
        "2 at 5001",
        "2 at 5002",
    ]
    assert found[-3:] == ["follow-on", "stop", "after"]


@pytest.mark.parametrize("times", [1, 3])
def test_master_that_is_killed(bench: Bench, times: int) -> None:
    write(bench, SETUP)
    for number in range(times):
        running = start(bench)
        bench.gate.arrival()
        wait_until(lambda: "quick" in notes(bench), "the child that does not wait")
        running.send(signal.SIGKILL)
        running.ended()
        assert f"slow {number + 1}" in notes(bench)

    running = start(bench)
    bench.gate.arrival()
    bench.gate.let_through(1)

    running.ended().succeeded()
    found = notes(bench)
    assert found.count("quick") == 1, "what is done stays done"
    assert [line for line in found if line.startswith("slow")] == [f"slow {n + 1}" for n in range(times + 1)]
    assert found[-2:] == ["stop", "after"]


def test_failure_because_of_its_death_is_nobodys_fault(bench: Bench) -> None:
    write(
        bench,
        """
        import time
        def work(child):
            if child.address == 1:
                os.kill(int(open("sleeper").read()), signal.SIGKILL)
                raise ConnectionError("the service is gone")
        """,
    )

    ran = start(bench, "--retryCount", "0").ended().succeeded()

    assert [line for line in notes(bench) if line.startswith("first")] == ["first 1", "first 2"]
    assert "ConnectionError" not in ran.err


def test_failure_while_it_is_well_counts(bench: Bench) -> None:
    write(bench, "def work(child):\n    assert os.path.exists('right')\n")

    start(bench).ended().failed("AssertionError", "1 job failed")

    assert notes(bench) == ["start", "first 1", "stop"]
    (bench.directory / "right").touch()
    start(bench).ended().succeeded()
    assert notes(bench)[3:] == ["start", "first 2", "stop", "after"]


def test_interrupted_run_stops_it_and_starts_it_again(bench: Bench) -> None:
    write(bench, SETUP)
    running = start(bench)
    bench.gate.arrival()
    running.send(signal.SIGINT)
    assert running.ended().status != 0
    assert notes(bench)[-1] == "stop"

    running = start(bench)
    bench.gate.arrival()
    bench.gate.let_through(1)

    running.ended().succeeded()
    assert [line for line in notes(bench) if line != "quick"] == [
        "start", "slow 1", "stop", "start", "slow 2", "stop", "after",
    ]  # fmt: skip


@pytest.mark.slow
def test_acid_test(bench: Bench) -> None:
    write(
        bench,
        """
        class Setup(Target):
            def run(self):
                address = self.addService(Sleeper()).rv()
                for number in range(20):
                    self.addChildTarget(Child(address, "child %d" % number))
                self.setFollowOnTarget(After())
        def work(child):
            assert alive()
        """,
    )

    ran = (
        start(bench, "--batchSystem", "acidTest", "--maxLost", "50", "--acidTestSeed", "3")
        .ended()
        .succeeded()
    )

    assert {line.rpartition(" ")[0] for line in notes(bench) if line.startswith("child")} == {
        f"child {number}" for number in range(20)
    }
    assert "acidTest killed" in ran.err


# -- when it cannot be -----------------------------------------------------------------------------------------


def test_it_cannot_be_started(bench: Bench) -> None:
    write(bench, "def work(child): pass\n", "Sleeper.start = lambda self: 1 / 0\n")

    ran = start(bench, "--retryCount", "1").ended()

    ran.failed("ZeroDivisionError", "1 job failed")
    assert not (bench.directory / "notes").exists()


def test_it_dies_again_and_again(bench: Bench) -> None:
    write(bench, "def work(child): pause()\n", "Sleeper.check = lambda self: os.path.exists('right')\n")

    start(bench, "--maxLost", "2").ended().failed("check() says that the service is not well", "1 job failed")

    (bench.directory / "right").touch()
    bench.gate.let_through(10)
    start(bench).ended().succeeded()
    assert notes(bench)[-2:] == ["stop", "after"]


def test_child_that_does_not_fit_beside_it_is_refused(bench: Bench) -> None:
    write(
        bench,
        """
        class Setup(Target):
            def run(self):
                self.addService(Sleeper(cpu=1))
                self.addChildFn(note, ("beside",), cpu=1.5)
        """,
    )

    ran = start(bench).ended()

    ran.failed("1 job failed", "asks for 1.5 cores", "beside")
    assert "beside" not in notes(bench)


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("self.addService(After())", "addService() takes an instance of jobtree.Service"),
        ("self.addService(Sleeper)", "addService() takes an instance of jobtree.Service"),
        ("self.addChildTarget(Sleeper())", "addChildTarget() was given the service Sleeper"),
        ("self.setFollowOnTarget(Sleeper())", "setFollowOnTarget() was given the service Sleeper"),
    ],
)
def test_what_is_no_service_and_what_is_nothing_else(bench: Bench, code: str, words: str) -> None:
    write(bench, f"class Setup(Target):\n    def run(self):\n        {code}\n")

    start(bench).ended().failed(words)


# -- where jobs outlive the master -------------------------------------------------------------------------------


@pytest.mark.slow
def test_it_goes_on_without_a_master(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, str(bench.directory / "farm"))
    options = on_a_farm(lease=30)
    write(bench, SETUP)
    with RunningFarm(bench.directory / "farm"):
        running = start(bench, *options)
        bench.gate.arrival()
        running.send(signal.SIGKILL)
        running.ended()

        running = start(bench, *options)
        wait_until(lambda: "Continuing" in (bench.directory / "err.1").read_text(), "the second master")
        bench.gate.let_through(1)
        running.ended().succeeded()
    assert [line for line in notes(bench) if line != "quick"] == ["start", "slow 1", "stop", "after"]


@pytest.mark.slow
def test_it_dies_on_a_cluster(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, str(bench.directory / "farm"))
    options = on_a_farm(lease=30)
    write(bench, SETUP)
    with RunningFarm(bench.directory / "farm"):
        running = start(bench, *options)
        bench.gate.arrival()
        os.kill(pid(bench, "sleeper"), signal.SIGKILL)
        bench.gate.arrival()
        bench.gate.let_through(2)
        running.ended().succeeded()
    found = [line for line in notes(bench) if line != "quick"]
    assert sorted(found) == sorted(["start", "slow 1", "stop", "start", "slow 2", "stop", "after"])
    assert found[-2:] == ["stop", "after"]
