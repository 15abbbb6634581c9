"""Throughput over time: bounded, exact, from the beginning on."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from jobtree.contents import Counts, TargetClass
from jobtree.monitor.history import OTHERS, History, Point, seconds_left


def point(time: float, succeeded: int, **hosts: int) -> Point:
    return Point(time, succeeded, 0, 1, hosts)


def kind(left: int, succeeded: int, wall: float) -> TargetClass:
    return TargetClass("some.Class", Counts(ready=left), succeeded, 0, wall, 0.0, None, 0.0, 0)


@given(st.lists(st.tuples(st.floats(0.01, 100), st.integers(0, 50)), min_size=1, max_size=300))
def test_however_long_it_is_bounded_and_has_both_ends(steps: list[tuple[float, int]]) -> None:
    history = History(most=16)
    given = []
    time, succeeded = 1000.0, 0
    for seconds, more in steps:
        time, succeeded = time + seconds, succeeded + more
        given.append(point(time, succeeded))
        history.add(given[-1])
    kept = list(history.points)
    assert len(kept) <= 16
    assert (kept[0], kept[-1]) == (given[0], given[-1])
    assert kept == [each for each in given if each in kept], "in order, and as they were"


def test_a_long_run_is_kept_in_even_steps() -> None:
    history = History(most=100)
    for n in range(10_000):
        history.add(point(float(n), n))
    gaps = [b.time - a.time for a, b in zip(history.points, history.points[1:])]
    assert len(history.points) > 40
    assert max(gaps) <= 4 * min(gaps[:-1])


def test_the_rate_is_that_of_the_last_minute() -> None:
    history = History()
    assert history.rate() is None
    history.add(point(0.0, 0))
    assert history.rate() is None
    history.add(point(100.0, 1000))
    history.add(point(130.0, 1060))
    assert history.rate() == 2.0


def test_a_tree_that_was_made_anew_begins_a_new_history() -> None:
    history = History()
    history.add(point(0.0, 5))
    history.add(point(1.0, 2))
    assert [each.succeeded for each in history.points] == [2]


def test_hosts_are_bounded() -> None:
    history = History()
    history.add(Point(0.0, 5, 0, 1, {f"host{n}": n for n in range(100)}))
    (kept,) = history.points
    assert len(kept.hosts) == 41
    assert sum(kept.hosts.values()) == sum(range(100))
    assert OTHERS in kept.hosts


def test_time_left_is_by_the_means_of_the_classes() -> None:
    assert seconds_left([kind(10, 2, 4.0)], 4) == 5.0
    assert seconds_left([kind(10, 2, 4.0), kind(5, 0, 0.0)], 1) == 30.0
    assert seconds_left([kind(10, 0, 0.0)], 1) is None
    assert seconds_left([kind(10, 2, 4.0)], 0) is None
    assert seconds_left([kind(10, 2, 4.0)], None) is None
