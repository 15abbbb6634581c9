"""Services in trouble: that never come up, that do not fit beside one another, that are killed with all that there is.

As in test_services.py a service is a process that sleeps, and its address is how often it has been started.
"""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.fakes.detached import VARIABLE, RunningFarm, on_a_farm
from tests.system.pipelines import wait_until
from tests.system.test_services import SETUP, notes, pid, start, write
from tests.system.waiting import Bench, gone


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    with Bench(tmp_path) as made:
        yield made


# -- starting ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("death", ["raise OSError('not this time')", "os.kill(os.getpid(), signal.SIGSEGV)"])
def test_it_dies_while_it_starts_and_is_tried_again(bench: Bench, death: str) -> None:
    write(
        bench,
        f"""
        import signal
        def work(child):
            assert alive()
        start = Sleeper.start
        def start_at_last(self):
            note("try")
            if open("notes").read().count("try") < 3:
                {death}
            return start(self)
        Sleeper.start = start_at_last
        """,
    )

    start(bench, "--retryCount", "2").ended().succeeded()

    assert notes(bench) == ["try", "try", "try", "start", "first 1", "stop", "after"]


def test_it_dies_while_it_starts_more_often_than_it_may(bench: Bench) -> None:
    write(
        bench,
        """
        import signal
        def work(child): pass
        Sleeper.start = lambda self: os.kill(os.getpid(), signal.SIGKILL)
        """,
    )

    start(bench, "--maxLost", "2").ended().failed("SIGKILL", "1 job failed")

    assert not (bench.directory / "notes").exists()


def test_it_never_comes_up(bench: Bench) -> None:
    """Its children wait, and say for what; --maxJobDuration is for its start, and not for the time that it is up."""
    write(
        bench,
        """
        def work(child):
            pause()
            assert alive()
        start = Sleeper.start
        def start_once(self):
            if not os.path.exists("right"):
                note("hangs")
                pause()
            return start(self)
        Sleeper.start = start_once
        """,
    )
    tree = str(bench.directory / "tree")
    running = start(bench)
    bench.gate.arrival()

    why = bench.run("jobTreeStatus", tree, "--why", "1-2").out

    assert "needs service 1-1" in why
    running.send(signal.SIGINT)
    running.ended()
    start(bench, "--maxJobDuration", "1").ended().failed("--maxJobDuration", "1 job failed")
    (bench.directory / "right").touch()
    running = start(bench, "--maxJobDuration", "10000")
    bench.gate.arrival()
    bench.gate.let_through(1)
    running.ended().succeeded()
    assert [line for line in notes(bench) if line != "hangs"] == ["start", "first 1", "stop", "after"]


def test_failure_of_one_keeps_from_running_only_what_needs_it(bench: Bench) -> None:
    write(
        bench,
        """
        def work(child):
            note(child.name)
        class Broken(Sleeper):
            def start(self):
                raise OSError("no")
        class Setup(Target):
            def run(self):
                for cls in Broken, Sleeper:
                    self.addChildTarget(One(cls))
                self.addChildFn(note, ("beside",))
        class One(Target):
            def __init__(self, cls):
                Target.__init__(self)
                self.cls = cls
            def run(self):
                address = self.addService(self.cls()).rv()
                self.addChildTarget(Child(address, self.cls.__name__))
        """,
    )

    start(bench).ended().failed("OSError", "1 job failed")

    assert sorted(notes(bench)) == ["Sleeper", "Sleeper 1", "beside", "start", "stop"]


# -- room ----------------------------------------------------------------------------------------------------------

MANY = """
import threading

class Setup(Target):
    def run(self):
        for number in range(6):
            self.addChildTarget(Outer(number))

class Named(Service):
    def __init__(self, name):
        Service.__init__(self, cpu=1)
        self.name = name
    def start(self):
        return self.name

class Outer(Target):
    def __init__(self, number):
        Target.__init__(self, memory="100M")
        self.number = number
    def run(self):
        address = self.addService(Named("outer %d" % self.number)).rv()
        for number in range(2):
            self.addChildTarget(Inner(address, number))

class Inner(Target):
    def __init__(self, address, number):
        Target.__init__(self, memory="100M", cpu=1)
        self.address, self.number = address, number
    def run(self):
        address = self.addService(Named("inner of %s" % self.address)).rv()
        self.addChildFn(note, ("%s, %d" % (self.address, self.number),), memory="100M", cpu=1)
        self.addChildFn(note, (address,), memory="100M", cpu=1)
"""


def test_more_of_them_than_fit_at_once_take_turns(bench: Bench) -> None:
    """Three cores are enough for one of them, one inside, and one target: not for another."""
    write(bench, MANY)

    start(bench, "--maxThreads", "3").ended().succeeded()

    expected = [f"outer {n}, {m}" for n in range(6) for m in range(2)]
    expected += [f"inner of outer {n}" for n in range(6)] * 2
    assert sorted(notes(bench)) == sorted(expected)


def test_what_can_never_fit_beside_those_that_it_needs_is_refused(bench: Bench) -> None:
    write(bench, MANY)

    start(bench, "--maxThreads", "2").ended().failed("beside the services that it needs", "jobs failed")


def test_a_target_that_needs_the_whole_machine_is_not_kept_waiting_for_ever(bench: Bench) -> None:
    """The service's own children have failed, so nobody would ever tell it to stop."""
    write(
        bench,
        """
        class Setup(Target):
            def run(self):
                self.addChildTarget(One())
                self.addChildTarget(Gated())
        class One(Target):
            def run(self):
                address = self.addService(Sleeper(cpu=0.5)).rv()
                self.addChildTarget(Child(address, "fails"))
        class Gated(Target):
            def __init__(self):
                Target.__init__(self, memory="100M", cpu=0.1)
            def run(self):
                pause()
                self.addChildFn(note, ("large",), memory="100M", cpu=2)
        def work(child):
            pause()
            raise ValueError("always")
        """,
    )
    running = start(bench)
    bench.gate.arrival()
    bench.gate.arrival()
    bench.gate.let_through(2)

    running.ended().failed("ValueError: always", "1 job failed")
    assert sorted(set(notes(bench))) == ["fails 1", "large", "start", "stop"]


def test_one_core_is_enough(bench: Bench) -> None:
    write(bench, "def work(child):\n    assert alive()\n")

    bench.start(
        "pipeline.py", "--jobTree", str(bench.directory / "tree"), "--maxThreads", "1"
    ).ended().succeeded()

    assert notes(bench) == ["start", "first 1", "stop", "after"]


def test_a_service_and_its_child_that_ask_for_the_same_last_thing(bench: Bench) -> None:
    write(
        bench,
        """
        class Setup(Target):
            def run(self):
                self.addService(Sleeper(resources={"licence": 1}))
                self.addChildFn(note, ("beside",), resources={"licence": 1})
        """,
    )

    ran = start(bench, "--limit", "licence=1").ended()

    ran.failed("cannot run beside the services that it needs", "licence", "1 job failed")
    assert notes(bench) == ["start", "stop"]


# -- ending --------------------------------------------------------------------------------------------------------


def test_its_stop_has_succeeded_before_the_follow_on_starts(bench: Bench) -> None:
    write(
        bench,
        """
        def work(child): pass
        stop = Sleeper.stop
        def stop_at_last(self):
            stop(self)
            if open("notes").read().count("stop") == 1:
                raise OSError("not yet")
        Sleeper.stop = stop_at_last
        """,
    )

    start(bench).ended().succeeded()

    assert notes(bench) == ["start", "first 1", "stop", "start", "stop", "after"]


def test_master_that_is_killed_while_it_stops(bench: Bench) -> None:
    write(
        bench,
        """
        def work(child): pass
        stop = Sleeper.stop
        def stop_slowly(self):
            pause()
            stop(self)
        Sleeper.stop = stop_slowly
        """,
    )
    running = start(bench)
    bench.gate.arrival()
    running.send(signal.SIGKILL)
    running.ended()

    running = start(bench)
    bench.gate.arrival()
    bench.gate.let_through(1)

    running.ended().succeeded()
    assert notes(bench) == ["start", "first 1", "start", "stop", "after"]


def test_follow_on_with_a_service_of_its_own(bench: Bench) -> None:
    write(
        bench,
        """
        def work(child): pass
        class After(Target):
            def run(self):
                self.addChildTarget(Child(self.addService(Sleeper()).rv(), "second"))
                self.setFollowOnFn(note, ("after",))
        """,
    )

    start(bench).ended().succeeded()

    assert notes(bench) == ["start", "first 1", "stop", "start", "second 2", "stop", "after"]


# -- what makes no sense -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("self.setFollowOnFn(note, (service.rv(),))", "was given what the service Sleeper promises"),
        ("self.addService(Other(service.rv()))", "was given what the service Sleeper promises"),
        ("self.addService(Adding())", "a service adds nothing to the tree"),
    ],
)
def test_an_address_where_it_is_of_no_use(bench: Bench, code: str, words: str) -> None:
    write(
        bench,
        f"""
        class Other(Sleeper):
            def __init__(self, address):
                Service.__init__(self)
                self.address = address
        class Adding(Sleeper):
            def start(self):
                self.addChildFn(note, ("never",))
        class Setup(Target):
            def run(self):
                service = self.addService(Sleeper())
                self.addChildFn(note, ("child",))
                {code}
        """,
    )

    start(bench).ended().failed(words)


# -- everything at once --------------------------------------------------------------------------------------------


def test_all_processes_are_killed_at_once(bench: Bench) -> None:
    write(bench, SETUP)
    running = start(bench)
    bench.gate.arrival()
    wait_until(lambda: "quick" in notes(bench), "the child that does not wait")
    master = psutil.Process(running.pid)
    everybody = [*master.children(recursive=True), master]
    assert pid(bench, "sleeper") in {process.pid for process in everybody}
    for process in everybody:
        process.suspend()  # so that nobody sees another one die first
    for process in everybody:
        process.kill()
    running.ended()
    assert gone(process.pid for process in everybody)

    running = start(bench)
    bench.gate.arrival()
    bench.gate.let_through(1)

    running.ended().succeeded()
    found = notes(bench)
    assert sorted(found) == sorted(["start", "slow 1", "quick", "start", "slow 2", "stop", "after"])
    assert found[-2:] == ["stop", "after"]


def test_a_thousand_failures_at_once_wait_for_one_look_at_the_service(bench: Bench) -> None:
    write(
        bench,
        """
        class Setup(Target):
            def run(self):
                self.addService(Sleeper())
                for number in range(1000):
                    self.addChildFn(fail, memory="100M")
        def fail():
            raise ValueError("always")
        """,
    )

    start(bench).ended().failed("1000 jobs failed")

    assert notes(bench) == ["start", "stop"]
    # None was taken back for not having begun while what its worker had said of it was still unread.
    told = bench.run("jobTreeStatus", "--failed", "--json", str(bench.directory / "tree"))
    assert {job["attempt"] for job in json.loads(told.out)} == {1}


def test_forgetting_what_added_it_ends_it(bench: Bench) -> None:
    write(
        bench,
        """
        class Setup(Target):
            def run(self):
                self.addChildTarget(One())
                self.setFollowOnTarget(After())
        class One(Target):
            def run(self):
                self.addChildTarget(Child(self.addService(Sleeper()).rv(), "first"))
        def work(child):
            pause()
        """,
    )
    running = start(bench)
    bench.gate.arrival()

    bench.run("jobTreeRun", "--forget", "1-1", str(bench.directory / "tree")).succeeded()

    running.ended().succeeded()
    assert notes(bench) == ["start", "first 1", "after"]
    assert gone([pid(bench, "sleeper")])


# -- on a cluster ----------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_its_node_is_lost(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """The supervisor, its guard and what they run are gone without a word; the lease says so in the end."""
    monkeypatch.setenv(VARIABLE, str(bench.directory / "farm"))
    options = on_a_farm(lease=2)
    write(bench, SETUP)
    with RunningFarm(bench.directory / "farm"):
        running = start(bench, *options)
        bench.gate.arrival()
        worker = psutil.Process(pid(bench, "worker"))
        supervisor = worker.parent()
        assert supervisor is not None
        node = [*supervisor.children(recursive=True), supervisor]
        for process in node:
            process.suspend()
        for process in node:
            process.kill()

        bench.gate.arrival()
        bench.gate.let_through(2)
        running.ended().succeeded()

    found = [line for line in notes(bench) if line != "quick"]
    assert sorted(found) == sorted(["start", "slow 1", "start", "slow 2", "stop", "after"])
    assert found[-2:] == ["stop", "after"]


@pytest.mark.slow
def test_failure_on_a_cluster_counts_only_when_it_is_well(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(VARIABLE, str(bench.directory / "farm"))
    options = on_a_farm(lease=30)
    write(
        bench,
        """
        import signal
        def work(child):
            if child.address == 1:
                os.kill(int(open("sleeper").read()), signal.SIGKILL)
                raise ConnectionError("the service is gone")
            if child.address == 2:
                raise ValueError("its own fault")
        """,
    )
    with RunningFarm(bench.directory / "farm"):
        start(bench, *options).ended().failed("its own fault", "1 job failed")
        start(bench, *options).ended().succeeded()

    assert [line for line in notes(bench) if line.startswith("first")] == ["first 1", "first 2", "first 3"]
