"""What is advised, and what is not: on statistics that are made up."""

from __future__ import annotations

from typing import Optional

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobtree import advice as advising
from jobtree.advice import CORES, IN_VAIN, MEMORY, OVERHEAD, QUEUE, Advice, overhead, recommended_memory
from jobtree.measured import Measured, together
from jobtree.quantities import parse_memory
from jobtree.statistics import ClassUsage, HostUsage, RequestUsage, Statistics

GIB, MIB = 1 << 30, 1 << 20


def request(
    memory: int = 0, cpu: float = 0.0, *, used: int = MIB, cores: float = 1.0, count: int = 40, seconds: float = 10.0,
    failures: int = 0, in_vain: float = 0.0, exact: bool = True,
) -> RequestUsage:  # fmt: skip
    """So many targets that asked for that, each of which used so much."""
    measured = Measured()
    measured.add([(seconds, seconds * cores, used, exact)] * count)
    return RequestUsage(memory, cpu, "", failures, in_vain, measured)


def statistics(*requests: RequestUsage, hosts: tuple[HostUsage, ...] = ()) -> Statistics:
    """One class, of which targets made these requests."""
    measured = together(one.measured for one in requests)
    return Statistics((ClassUsage("some.Class", tuple(requests), measured),), hosts)


def host(
    time: float,
    busy: float,
    queued: float = 0.0,
    backend: str = "slurm",
    workers: int = 10,
    span: float = 100.0,
) -> HostUsage:
    measured = Measured()
    measured.add([(time / workers, 1.0, MIB, True)] * workers)
    return HostUsage("one", backend, workers, 0, busy, queued, queued, 50.0, 50.0 + span, measured)


def given_for(found: Statistics) -> dict[str, Advice]:
    return {one.topic: one for one in advising.advice(found, 2 * GIB, 1)}


def test_requests_that_fit_need_no_advice() -> None:
    assert given_for(statistics(request(GIB, 2, used=900 * MIB, cores=1.9))) == {}


@pytest.mark.parametrize(
    ("asked", "used", "count", "recommended"),
    [
        (8 * GIB, GIB, 40, 1280 * MIB),
        (8 * GIB, GIB, 5, 1536 * MIB),  # of few targets, a larger margin
        (0, 20 * MIB, 40, 88 * MIB),  # the default; never less than 64 MiB more
        (GIB, 1000 * MIB, 40, 1280 * MIB),  # next to nothing is left
        (GIB, 3 * GIB, 40, 3840 * MIB),  # more than it asked for
        (GIB, 700 * MIB, 40, None),
    ],
)
def test_memory(asked: int, used: int, count: int, recommended: Optional[int]) -> None:
    found = given_for(statistics(request(asked, used=used, count=count))).get(MEMORY)

    assert (found.recommended if found else None) == recommended
    if found is not None:
        assert (found.requested, found.used) == (asked or 2 * GIB, used)


@given(st.integers(0, 1 << 45), st.integers(1, 1000))
def test_what_is_recommended_has_room_and_can_be_given_to_a_target(most: int, count: int) -> None:
    amount = recommended_memory(most, count)

    assert most + 64 * MIB <= amount <= max(most + 64 * MIB, most * 1.5 + 1) * 1.13
    argument = advising.memory_argument(amount)
    assert parse_memory(argument.removeprefix("memory=").strip('"')) == amount


@pytest.mark.parametrize(
    ("asked", "used", "recommended"),
    [(4, 1.0, 1), (4, 1.05, 1), (4, 2.4, 3), (4, 3.0, 3), (4, 3.5, None), (1, 3.6, 4), (1, 1.1, None), (1, 0.02, 0.25),
     (1, 0.2, 0.5), (0, 0.3, None), (0.5, 0.1, 0.25), (0, 0.9, None)],
)  # fmt: skip
def test_cores(asked: float, used: float, recommended: Optional[float]) -> None:
    found = given_for(statistics(request(cpu=asked, used=1900 * MIB, cores=used))).get(CORES)

    assert (found.recommended if found else None) == recommended


def test_short_targets_say_nothing_about_cores() -> None:
    assert CORES not in given_for(statistics(request(cpu=4, used=1900 * MIB, cores=0.1, seconds=0.001)))


def test_where_requests_differ_the_largest_share_that_was_used_counts() -> None:
    found = given_for(statistics(request(4 * GIB, used=GIB), request(8 * GIB, used=3 * GIB)))[MEMORY]

    assert (found.requested, found.used) == (8 * GIB, 3 * GIB)
    assert "asks for 4.0 GiB to 8.0 GiB of memory and each of 80 targets used 38% of it at most" in found.text
    assert "ask for 0.47 times that" in found.text


def test_memory_that_may_be_that_of_others_is_said_to_be() -> None:
    assert "or less" in given_for(statistics(request(8 * GIB, used=GIB, exact=False)))[MEMORY].text


def test_time_in_vain() -> None:
    found = given_for(statistics(request(used=1900 * MIB, failures=7, in_vain=600.0)))[IN_VAIN]

    assert "spent 10m 0s in 7 attempts that failed, 60% of the time of all targets" in found.text
    assert IN_VAIN not in given_for(statistics(request(used=1900 * MIB, failures=7, in_vain=10.0)))


def test_time_between_targets() -> None:
    short = request(used=1900 * MIB, seconds=0.01, count=500)

    found = given_for(statistics(short, hosts=(host(time=10.0, busy=5.0),)))[OVERHEAD]

    assert "50% of the workers' time was between targets, which take 10 ms" in found.text
    assert OVERHEAD not in given_for(statistics(short, hosts=(host(time=10.0, busy=9.9),)))
    long = request(used=1900 * MIB, seconds=1.0)
    assert OVERHEAD not in given_for(statistics(long, hosts=(host(time=10.0, busy=5.0),)))


def test_time_in_a_queue_where_there_is_one() -> None:
    one = request(used=1900 * MIB)

    found = given_for(statistics(one, hosts=(host(time=100.0, busy=100.0, queued=300.0),)))[QUEUE]

    assert (
        "workers waited 30.0s on average for the batch system to start them, and then worked for 10.0s"
        in found.text
    )
    here = host(time=100.0, busy=100.0, queued=300.0, backend="singleMachine")
    assert QUEUE not in given_for(statistics(one, hosts=(here,)))


def test_where_the_time_of_workers_went() -> None:
    one = request(in_vain=20.0)

    found = overhead(statistics(one, hosts=(host(time=150.0, busy=140.0, queued=5.0),)))

    assert found == (150.0, 120.0, 20.0, 10.0, 5.0, 1.5)
    assert overhead(statistics(one)) is None


def test_the_most_useful_comes_first() -> None:
    small, large = request(8 * GIB, used=GIB, seconds=1.0), request(8 * GIB, used=GIB, seconds=100.0)
    classes = tuple(
        ClassUsage(name, (one,), one.measured) for name, one in (("a.Small", small), ("b.Large", large))
    )

    found = advising.advice(Statistics(classes, ()), GIB, 1)

    assert [one.name for one in found] == ["b.Large", "a.Small"]


def test_nothing_at_all_needs_no_advice() -> None:
    assert advising.advice(Statistics((), ()), GIB, 1) == []
    assert given_for(statistics(request(count=0, failures=3))) == {}
