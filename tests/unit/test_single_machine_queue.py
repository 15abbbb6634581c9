"""Which job the single machine starts when; with a starter that starts nothing and ends jobs when told."""

from __future__ import annotations

import os
import random
import signal
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Optional

import pytest

from batchsystems.abstract import (
    BatchSystemError,
    EndKind,
    NeverFits,
    Reason,
    Resources,
    Submission,
    human_bytes,
)
from batchsystems.processes import ProcessEnd
from batchsystems.single_machine import SingleMachine, WaitingJobs

GIB = 1 << 30


class ScriptedStarter:
    """Keeps a list of what was started; `end` makes a job end."""

    def __init__(self) -> None:
        self.started: list[str] = []
        self.active: dict[str, Resources] = {}
        self.signals: list[tuple[str, int]] = []
        self.gpus: dict[str, Optional[Sequence[str]]] = {}
        self._ends: list[ProcessEnd] = []
        self._read, self._write = os.pipe()
        self._closed = False

    def end(self, name: str, wait_status: Optional[int] = 0, detail: str = "") -> None:
        """The job ends with a status as from `os.waitpid`."""
        del self.active[name]
        self._ends.append(ProcessEnd(name, wait_status, detail=detail))
        os.write(self._write, b".")

    def start(self, name: str, submission: Submission, gpus: Optional[Sequence[str]] = None) -> None:
        self.started.append(name)
        self.gpus[name] = gpus
        self.active[name] = submission.resources

    def signal(self, name: str, signum: int) -> None:
        self.signals.append((name, signum))
        if signum == signal.SIGKILL and name in self.active:
            self.end(name, signal.SIGKILL)

    def fileno(self) -> int:
        return self._read

    def ended(self) -> list[ProcessEnd]:
        ends, self._ends = self._ends, []
        if ends:
            os.read(self._read, len(ends))
        return ends

    def close(self) -> None:
        if not self._closed:
            self._closed = True
            os.close(self._read)
            os.close(self._write)


class Bench:
    """A single machine of 4 cores and 8 GiB, and its starter."""

    def __init__(self, cpu: float = 4, memory: int = 8 * GIB) -> None:
        self.starter = ScriptedStarter()
        self.machine = SingleMachine(cpu, memory, self.starter)

    def issue(self, *requests: tuple[str, float]) -> None:
        """Issue jobs by short name and cores."""
        self.machine.issue([job(name, cpu) for name, cpu in requests])

    def end(self, name: str) -> None:
        """The job exits 0, and the machine hears of it."""
        self.starter.end(f"r.{name}")
        assert [end.name for end in self.machine.poll(0.0)] == [f"r.{name}"]

    @property
    def started(self) -> str:
        """Short names in the order of their starts."""
        return " ".join(name[2:] for name in self.starter.started)


def job(name: str, cpu: float = 1.0, memory: int = 0) -> Submission:
    return Submission(f"r.{name}", ("true",), Resources(cpu, memory))


@pytest.fixture
def bench() -> Iterator[Bench]:
    bench = Bench()
    yield bench
    bench.machine.close()


def test_jobs_start_in_the_order_of_issue(bench: Bench) -> None:
    bench.issue(("a", 2), ("b", 2), ("c", 2), ("d", 2))
    assert bench.started == "a b"

    bench.end("b")
    assert bench.started == "a b c"
    bench.end("a")
    assert bench.started == "a b c d"


def test_the_oldest_that_fits_starts_across_shapes(bench: Bench) -> None:
    bench.issue(("all", 4), ("b1", 2), ("c1", 1), ("b2", 2), ("c2", 1))

    bench.end("all")

    assert bench.started == "all b1 c1 c2"
    bench.end("b1")
    assert bench.started == "all b1 c1 c2 b2"


def test_a_job_that_fits_overtakes_one_that_does_not(bench: Bench) -> None:
    bench.issue(("half", 2), ("large", 3), ("small", 1))

    assert bench.started == "half small"


def test_a_large_job_is_overtaken_a_bounded_number_of_times_and_then_the_machine_drains(bench: Bench) -> None:
    limit = bench.machine._waiting.overtake_limit  # what the constructor chose
    bench.issue(("holds", 1), ("large", 4))
    for number in range(limit):
        bench.issue((f"s{number}", 1))
        bench.end(f"s{number}")
    bench.issue(("late", 1))
    assert "late" not in bench.started

    bench.end("holds")
    assert bench.started.endswith("large")
    bench.end("large")
    assert bench.started.endswith("large late")


def test_overtaking_is_counted_for_each_job(bench: Bench) -> None:
    waiting = WaitingJobs(overtake_limit=2)
    for name, cpu in (("big", 4), ("s1", 1), ("bigger", 5), ("s2", 1), ("s3", 1), ("s4", 1)):
        waiting.add(job(name, cpu))

    assert taken(waiting, 1000) == "s1"  # past big only
    assert taken(waiting, 1000) == "s2"  # past big and bigger
    assert taken(waiting, 1000) is None  # big was overtaken twice
    assert taken(waiting, 4000) == "big"
    assert taken(waiting, 1000) == "s3"  # bigger was overtaken once before
    assert taken(waiting, 1000) is None
    assert taken(waiting, 5000) == "bigger"
    assert taken(waiting, 1000) == "s4"
    assert (taken(waiting, 9000), len(waiting)) == (None, 0)


def test_a_cancelled_job_no_longer_holds_the_others_up() -> None:
    waiting = WaitingJobs(overtake_limit=1)
    for name, cpu in (("big", 4), ("s1", 1), ("s2", 1)):
        waiting.add(job(name, cpu))
    assert taken(waiting, 1000) == "s1"
    assert taken(waiting, 1000) is None

    waiting.remove("r.big")

    assert taken(waiting, 1000) == "s2"


def test_random_histories_keep_every_promise() -> None:
    dice = random.Random(20)
    limit = 5
    waiting = WaitingJobs(limit)
    cores = {}
    overtaken: dict[int, int] = {}
    for number in range(3000):
        cores[number] = dice.choice((0, 0.5, 1, 2, 4))
        waiting.add(job(str(number), cores[number]))
        overtaken[number] = 0
        if dice.random() < 0.1:
            victim = dice.choice(list(overtaken))
            waiting.remove(f"r.{victim}")
            del overtaken[victim]
        free = dice.choice((0, 500, 1000, 4000))
        name = taken(waiting, free)
        fitting = [other for other in overtaken if cores[other] * 1000 <= free]
        if name is None:
            assert not fitting or max(overtaken.values()) >= limit
            continue
        assert int(name) == min(fitting)
        del overtaken[int(name)]
        for other in overtaken:
            overtaken[other] += other < int(name)
        assert max(overtaken.values(), default=0) <= limit
    assert waiting.names() == [f"r.{number}" for number in overtaken]


def taken(waiting: WaitingJobs, free_cpu: int) -> Optional[str]:
    """Short name of the job that starts when this many thousandths of a core are free."""
    found = waiting.take_next(free_cpu, GIB)
    return None if found is None else found[1].name[2:]


@pytest.mark.parametrize(("cpu", "fit"), [(1 / 3, 12), (0.1, 40), (0.57, 7), (4 / 7, 7), (1.5, 2), (4.0, 1)])
def test_fractions_of_a_core_add_up_without_drift(bench: Bench, cpu: float, fit: int) -> None:
    names = [f"n{number}" for number in range(fit + 1)]
    bench.issue(*((name, cpu) for name in names))

    for _ in range(50):  # any drift would let one more in, or one less
        assert len(bench.machine.running()) == fit
        oldest = bench.machine.running()[0][2:]
        bench.end(oldest)
        bench.issue((oldest, cpu))
    assert sum(resources.cpu for resources in bench.starter.active.values()) <= 4 + 1e-9


def test_jobs_without_cores_wait_for_nobody_but_are_not_unlimited(bench: Bench) -> None:
    bench.issue(("all", 4), *((f"n{number}", 0) for number in range(1000)))

    assert bench.started.startswith("all n0 n1 ")
    assert 100 <= len(bench.machine.running()) < 1000
    while bench.machine.running():
        bench.end(bench.machine.running()[-1][2:])
    assert len(bench.starter.started) == 1001


def test_memory_is_kept_free_as_well(bench: Bench) -> None:
    bench.machine.issue([job("a", 1, 5 * GIB), job("b", 1, 4 * GIB), job("c", 1, 3 * GIB)])
    assert bench.started == "a c"

    bench.end("a")
    assert bench.started == "a c b"


def test_what_can_never_fit_is_refused_with_both_numbers(bench: Bench) -> None:
    with pytest.raises(NeverFits, match=r"r\.b asks for 4\.5 cores, but at most 4 can"):
        bench.issue(("a", 1), ("b", 4.5))
    with pytest.raises(NeverFits, match=r"r\.b asks for 9 GiB of memory, but at most 8 GiB can"):
        bench.machine.issue([job("a"), job("b", 1, 9 * GIB)])
    with pytest.raises(NeverFits, match=r"asks for 8589934593 bytes of memory, but at most 8589934592 bytes"):
        bench.machine.issue([job("b", 1, 8 * GIB + 1)])

    assert bench.started == ""
    bench.issue(("a", 4))
    assert bench.started == "a"


def test_room_is_what_is_free_and_one_more_for_each_slot(bench: Bench) -> None:
    rooms = [bench.machine.queue_room()]
    for number in range(9):
        bench.issue((f"n{number}", 1))
        rooms.append(bench.machine.queue_room())

    assert rooms == [8, 7, 6, 5, 4, 3, 2, 1, 0, 0]


def test_limits_that_are_raised_start_what_waits_and_those_that_are_lowered_end_nothing(bench: Bench) -> None:
    bench.issue(("a", 2), ("b", 2), ("c", 2), ("d", 2))
    bench.machine.set_limits(6, 8 * GIB)
    assert bench.machine.poll(0.0) == []
    assert bench.started == "a b c"

    bench.machine.set_limits(2, 8 * GIB)
    assert bench.machine.queue_room() == 0
    assert "there are 0 cores" in bench.machine.why_waiting("r.d")
    bench.end("a")
    bench.end("b")
    assert bench.started == "a b c"
    bench.end("c")
    assert bench.started == "a b c d"
    assert bench.machine.capacity().cpu == 2
    with pytest.raises(NeverFits, match="cores"):
        bench.machine.issue([job("e", 3)])
    with pytest.raises(ValueError, match="expected more than 0"):
        bench.machine.set_limits(0, None)


def test_grace_is_sigterm_first_and_sigkill_when_it_is_over(bench: Bench) -> None:
    bench.issue(("a", 1))

    bench.machine.cancel(["r.a"], grace=0.01)
    assert bench.starter.signals == [("r.a", signal.SIGTERM)]
    (end,) = bench.machine.poll(60.0)

    assert bench.starter.signals == [("r.a", signal.SIGTERM), ("r.a", signal.SIGKILL)]
    assert (end.kind, end.reason, end.signal) == (EndKind.KILLED, Reason.CANCELLED, signal.SIGKILL)


def test_a_second_cancel_shortens_the_grace_and_never_lengthens_it(bench: Bench) -> None:
    bench.issue(("a", 1))

    bench.machine.cancel(["r.a"], grace=1000.0)
    bench.machine.cancel(["r.a"], grace=2000.0)
    assert bench.starter.signals == [("r.a", signal.SIGTERM)]
    bench.machine.cancel(["r.a"])

    assert bench.starter.signals == [("r.a", signal.SIGTERM), ("r.a", signal.SIGKILL)]
    assert len(bench.machine.poll(0.0)) == 1


def test_an_end_that_is_known_before_the_cancel_stays_what_it_was(bench: Bench) -> None:
    bench.issue(("a", 1), ("b", 1))
    bench.starter.end("r.a", 5 << 8)

    bench.machine.cancel(["r.a", "r.b"])

    first, second = bench.machine.poll(0.0)
    assert (first.name, first.kind, first.status) == ("r.a", EndKind.FINISHED, 5)
    assert (second.name, second.reason) == ("r.b", Reason.CANCELLED)


@pytest.mark.parametrize(
    ("wait_status", "kind", "status", "signum", "reason"),
    [
        (0, EndKind.FINISHED, 0, None, None),
        (255 << 8, EndKind.FINISHED, 255, None, None),
        (9, EndKind.KILLED, None, 9, Reason.SIGNAL),
        (11 | 0x80, EndKind.KILLED, None, 11, Reason.SIGNAL),  # with a core file
        (None, EndKind.LOST, None, None, None),
    ],
)
def test_a_wait_status_becomes_an_end(
    bench: Bench,
    wait_status: Optional[int],
    kind: EndKind,
    status: Optional[int],
    signum: Optional[int],
    reason: Optional[Reason],
) -> None:
    bench.issue(("a", 1))
    bench.starter.end("r.a", wait_status, "words")

    (end,) = bench.machine.poll(0.0)

    assert (end.kind, end.status, end.signal, end.reason) == (kind, status, signum, reason)
    assert end.detail == "words"


def test_a_name_can_be_used_again_after_its_end_and_not_before(bench: Bench) -> None:
    bench.issue(("a", 4), ("b", 4))
    for name in "ab":
        with pytest.raises(BatchSystemError, match=f"r.{name} is already queued or running"):
            bench.issue(("new", 1), (name, 1))

    bench.end("a")
    bench.issue(("a", 1))
    assert bench.started == "a b"
    assert bench.machine.list_issued("r") == ["r.b", "r.a"]


@pytest.mark.parametrize(("cpu", "memory"), [(0, 1), (-1, 1), (float("inf"), 1), (1, 0)])
def test_a_machine_without_anything_is_refused(cpu: float, memory: int) -> None:
    with pytest.raises(ValueError, match="expected more than 0"):
        SingleMachine(cpu, memory, ScriptedStarter())


@pytest.mark.parametrize("name", ["", "run", "run.", ".b", "run.a b", "run.a/b", "run.ü", "run.a\n"])
def test_names_of_another_form_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match=r"expected RUN\.BUNDLE"):
        Submission(name, ("true",))


def test_requests_of_nonsense_are_refused() -> None:
    for wrong in ({"cpu": -1}, {"cpu": float("nan")}, {"memory": -1}, {"time": 0}, {"time": float("inf")}):
        with pytest.raises(ValueError, match="expected"):
            Resources(**wrong)
    with pytest.raises(ValueError, match="empty"):
        Submission("r.a", ())


@pytest.mark.parametrize(
    ("size", "text"),
    [(0, "0 bytes"), (1023, "1023 bytes"), (1024, "1 KiB"), (1536 << 20, "1.5 GiB"), (5 << 50, "5120 TiB")],
)
def test_sizes_are_written_for_people(size: int, text: str) -> None:
    assert human_bytes(size) == text


# -- graphics cards ----------------------------------------------------------------------------------------------


def with_gpus(name: str, gpus: int) -> Submission:
    return Submission(f"r.{name}", ("true",), Resources(0.0, countable={"gpus": gpus, "licence": 1}))


def test_each_running_job_has_graphics_cards_of_its_own() -> None:
    starter = ScriptedStarter()
    with SingleMachine(4, GIB, starter, gpus=3) as machine:
        machine.issue([with_gpus(name, number) for name, number in (("a", 2), ("b", 2), ("c", 1), ("d", 0))])
        assert starter.gpus == {"r.a": ["0", "1"], "r.c": ["2"], "r.d": []}

        starter.end("r.a")
        machine.poll(0.0)
        assert starter.gpus["r.b"] == ["0", "1"]


def test_more_graphics_cards_than_there_are_never_fit() -> None:
    with SingleMachine(4, GIB, ScriptedStarter(), gpus=1) as machine:
        assert machine.counts("gpus")
        assert not machine.counts("licence")
        with pytest.raises(NeverFits, match=r"asks for 2 gpus, but at most 1"):
            machine.issue([with_gpus("a", 2)])


def test_cards_that_nobody_has_counted_are_hidden_from_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-a,5")
    starter = ScriptedStarter()
    with SingleMachine(4, GIB, starter) as machine:
        machine.issue([with_gpus("a", 1), with_gpus("b", 0)])
        assert starter.gpus == {"r.a": ["GPU-a"], "r.b": None}


def test_a_process_sees_the_cards_that_its_job_was_given(tmp_path: Path) -> None:
    command = ("/bin/sh", "-c", 'echo "$CUDA_VISIBLE_DEVICES $OTHER" > "$1"', "sh", str(tmp_path / "seen"))
    resources = Resources(0.0, countable={"gpus": 2})
    with SingleMachine(1, GIB, gpus=2) as machine:
        machine.issue([Submission("r.1", command, resources, env={"OTHER": "kept"})])
        assert machine.poll(60.0)[0].status == 0

    assert (tmp_path / "seen").read_text() == "0,1 kept\n"


def test_a_job_that_waits_says_for_what() -> None:
    starter = ScriptedStarter()
    with SingleMachine(4, 2 * GIB, starter, gpus=2) as machine:
        machine.issue([with_gpus("a", 2), with_gpus("b", 1)])
        assert machine.why_waiting("r.b") == (
            "it waits for 0 cores, 0 bytes, 1 graphics cards; there are 4 cores, 2 GiB, 0 graphics cards free"
        )
        assert machine.why_waiting("r.a") == machine.why_waiting("r.c") == ""
        starter.end("r.a")
        machine.poll(0.0)
        starter.end("r.b")
