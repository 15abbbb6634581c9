"""How large bundles are: the rules of the module, as properties."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobtree.bundling import AROUND, GROWTH, MOST, MOST_BYTES, Bundler, within_bytes

SECONDS = st.floats(0, 1e6, allow_nan=False)
MEASURED = st.lists(st.tuples(st.integers(1, 500), SECONDS), min_size=1, max_size=10)


def measured(goal: float, history: list[tuple[int, float]], isolate: bool = False) -> Bundler:
    bundler = Bundler(goal, isolate)
    for targets, seconds in history:
        bundler.issued("c")
        bundler.over("c", targets, seconds)
    return bundler


@given(slots=st.integers(1, 50), waiting=st.integers(1, 10**6))
def test_class_that_was_not_measured_starts_alone_at_most_one_bundle_a_slot(slots: int, waiting: int) -> None:
    bundler = Bundler(0.1)
    sizes = []
    for _ in range(slots + 3):
        sizes.append(bundler.size("c", waiting, slots))
        if sizes[-1]:
            bundler.issued("c")

    assert sizes == [1] * slots + [0] * 3


@given(slots=st.integers(1, 50), waiting=st.integers(1, 10**6))
def test_where_bundles_are_bounded_half_of_an_unknown_class_is_divided_at_once(
    slots: int, waiting: int
) -> None:
    bundler = Bundler(30.0, bounded=True)
    sizes: list[int] = []
    left = waiting
    while left and len(sizes) < slots + 3:
        size = min(left, bundler.size("c", left, slots))
        sizes.append(size)
        left -= size
        if size:
            bundler.issued("c", size)

    each = min(MOST, math.ceil(waiting / (2 * slots)))
    assert set(sizes[: slots - 1]) <= {each}
    assert sum(sizes) <= slots * each
    assert set(sizes[slots:]) <= {0}


@pytest.mark.parametrize("bundler", [Bundler(0.0, bounded=True), Bundler(30.0, True, bounded=True)])
def test_a_bundle_for_every_target_is_one_where_they_are_bounded_too(bundler: Bundler) -> None:
    assert bundler.size("c", 1000, 4) == 1
    bundler.issued("c")
    bundler.over("c", 1, 0.001)
    assert bundler.size("c", 1000, 4) == 1


def test_a_guess_is_forgotten_when_a_running_bundle_has_shown_what_a_target_takes() -> None:
    bundler = Bundler(30.0, shortest=25.0, bounded=True)
    assert bundler.size("c", 20_000, 16) == 625
    for _ in range(16):
        bundler.issued("c", 625)
    assert not bundler.is_known("c")
    assert bundler.size("c", 10_000, 16) == 0

    bundler.learn("c", 3, 60.0)

    assert bundler.is_known("c")
    assert bundler.size("c", 10_000, 16) == 1


def test_where_bundles_are_bounded_they_do_not_grow_in_steps() -> None:
    bundler = Bundler(30.0, shortest=25.0, bounded=True)
    bundler.over("c", 1, 0.001)

    assert bundler.size("c", 10**6, 4) == MOST


def test_bundle_that_measured_nothing_makes_room_for_another() -> None:
    bundler = Bundler(0.1)
    bundler.issued("c")
    assert bundler.size("c", 100, 1) == 0

    bundler.over("c", 0, 0.0)

    assert bundler.size("c", 100, 1) == 1


@given(history=MEASURED, waiting=st.integers(1, 10**7), slots=st.integers(1, 200), goal=st.floats(1e-3, 1e5))
def test_bundle_keeps_every_bound(
    history: list[tuple[int, float]], waiting: int, slots: int, goal: float
) -> None:
    bundler = measured(goal, history)
    size = bundler.size("c", waiting, slots)
    mean = bundler.expected("c", 0.0)

    assert size >= 1
    assert size <= GROWTH * max(targets for targets, _ in history)
    assert size <= max(1, math.ceil(waiting / (2 * slots)))
    assert size <= MOST
    assert size == 1 or size * mean <= goal * 1.001


@given(history=MEASURED, waiting=st.integers(1, 10**6))
def test_isolated_targets_are_alone_whatever_was_measured(
    history: list[tuple[int, float]], waiting: int
) -> None:
    assert measured(60.0, history, isolate=True).size("c", waiting, 1) == 1


@given(history=MEASURED)
def test_expectation_stays_between_the_shortest_and_the_longest_mean(
    history: list[tuple[int, float]],
) -> None:
    means = [seconds / targets for targets, seconds in history]

    expected = measured(1.0, history).expected("c", 0.0)

    assert min(means) * 0.999 - 1e-9 <= expected <= max(means) * 1.001 + 1e-9


@given(history=MEASURED, said=SECONDS)
def test_expectation_is_the_larger_of_what_was_said_and_measured(
    history: list[tuple[int, float]], said: float
) -> None:
    bundler = measured(1.0, history)

    assert bundler.expected("c", said) == max(said, bundler.expected("c", 0.0))
    assert bundler.expected("never seen", said) == said


def test_mean_counts_targets_and_not_bundles_and_forgets_half_after_seven_bundles() -> None:
    assert measured(1.0, [(1, 1.0), (999, 1.0)]).expected("c", 0.0) == pytest.approx(0.002, rel=0.1)

    bundler = measured(1.0, [(1, 1.0)] * 100 + [(1, 0.0)] * 7)
    assert bundler.expected("c", 0.0) == pytest.approx(0.5, abs=0.03)


def grown(goal: float, mean: float, shortest: float = 0.0) -> list[int]:
    """The sizes of the first six bundles, one after the other."""
    bundler = Bundler(goal, shortest=shortest)
    sizes = []
    for _ in range(6):
        sizes.append(bundler.size("c", 10**9, 1))
        bundler.issued("c")
        bundler.over("c", sizes[-1], sizes[-1] * mean)
    return sizes


def test_bundles_grow_tenfold_a_step_until_the_goal_is_reached() -> None:
    goal = [pytest.approx(4000, abs=1)] * 2

    assert grown(goal=100.0, mean=0.025) == [1, 10, 100, 1000, *goal]


def test_bundles_grow_at_once_to_what_is_worth_the_cost_of_one() -> None:
    first = int(0.02 / (0.0005 + AROUND))
    assert first > GROWTH
    goal = [pytest.approx(2000, abs=1)] * 3

    assert grown(goal=1.0, mean=0.0005, shortest=0.02) == [1, first, GROWTH * first, *goal]


def test_targets_that_take_no_time_at_all_are_bounded_too() -> None:
    assert measured(1.0, [(5000, 0.0)]).size("c", 10**9, 1) == MOST


@given(times=st.lists(SECONDS, min_size=1, max_size=50), most=st.integers(1, 60), goal=st.floats(1e-3, 1e4))
def test_cut_takes_at_least_one_and_no_more_than_reach_the_goal(
    times: list[float], most: int, goal: float
) -> None:
    count = Bundler(goal).cut("c", times, most)

    assert 1 <= count <= min(most, len(times))
    assert count == 1 or sum(times[:count]) <= goal
    assert count == min(most, len(times)) or sum(times[: count + 1]) > goal


def test_cut_expects_what_was_measured_of_targets_that_say_less() -> None:
    assert measured(1.0, [(10, 2.0)]).cut("c", iter([0.0, 0.0, 0.5, 0.0]), 100) == 3


def test_what_an_earlier_run_measured_counts() -> None:
    bundler = Bundler(1.0)
    bundler.learn("c", 100, 0.01)
    bundler.learn("nothing measured", 0, 0.0)

    assert bundler.size("c", 10**6, 1) == 100
    assert bundler.expected("c", 0.0) == 0.01
    assert bundler.size("nothing measured", 10**6, 1) == 1


def test_classes_are_measured_apart() -> None:
    bundler = measured(1.0, [(10, 2.0)])

    assert bundler.expected("d", 0.0) == 0.0
    assert bundler.size("d", 10**6, 1) == 1


@given(
    history=MEASURED,
    waiting=st.integers(1, 10**7),
    slots=st.integers(1, 200),
    goal=st.floats(1e-3, 1e3),
    times=st.integers(1, 20),
)
def test_longer_bundles_are_a_small_part_of_what_remains(
    history: list[tuple[int, float]], waiting: int, slots: int, goal: float, times: int
) -> None:
    bundler = Bundler(goal, longest=goal * times)
    for targets, seconds in history:
        bundler.issued("c")
        bundler.over("c", targets, seconds)
    mean = bundler.expected("c", 0.0)

    size = bundler.size("c", waiting, slots)

    assert size >= measured(goal, history).size("c", waiting, slots)
    assert size == 1 or size * mean <= goal * times * 1.001
    assert size == 1 or size * mean <= max(goal, mean * waiting / slots / 8) * 1.001
    assert size - bundler.cut("c", [0.0] * size, size) <= 1, "what may be is made"


def test_bundles_shrink_to_the_goal_as_less_remains() -> None:
    bundler = Bundler(0.1, longest=0.5)
    bundler.issued("c")
    bundler.over("c", 5000, 5.0)

    assert [bundler.size("c", waiting, 2) for waiting in (20_000, 8_000, 3_200, 1_600, 400, 100)] == [
        pytest.approx(size, abs=1) for size in (500, 500, 200, 100, 100, 25)
    ]


@given(
    history=MEASURED,
    waiting=st.integers(1, 10**6),
    slots=st.integers(1, 200),
    shortest=st.floats(0, 0.1),
)
def test_end_of_a_line_is_not_cut_into_ever_smaller_bundles(
    history: list[tuple[int, float]], waiting: int, slots: int, shortest: float
) -> None:
    bundler = Bundler(0.1, shortest=shortest)
    for targets, seconds in history:
        bundler.issued("c")
        bundler.over("c", targets, seconds)

    size = bundler.size("c", waiting, slots)

    assert size >= measured(0.1, history).size("c", waiting, slots)
    if size > max(1, math.ceil(waiting / (2 * slots))):
        mean = bundler.expected("c", 0.0)
        assert size * mean <= 1.5 * shortest + mean
        assert size <= waiting
        if waiting * mean > shortest:
            assert size <= math.ceil(waiting / slots), "every slot gets some"


def test_last_thousand_tiny_targets_are_a_few_bundles() -> None:
    bundler = Bundler(0.1, longest=0.5, shortest=0.02)
    bundler.issued("c")
    bundler.over("c", 5000, 0.05)
    waiting, sizes = 1000, []
    while waiting:
        sizes.append(bundler.size("c", waiting, 2))
        bundler.issued("c", sizes[-1])
        waiting -= sizes[-1]

    assert sizes == [250, 250, 250, 250]
    assert bundler.size("c", 100, 2) == 50, "what comes later is shared anew"


@given(st.lists(st.integers(0, 2 * MOST_BYTES)))
def test_jobs_fit_into_a_bundle_together_or_are_alone(sizes: list[int]) -> None:
    count = within_bytes(sizes)

    assert count == min(1, len(sizes)) or sum(sizes[:count]) <= MOST_BYTES
    assert count == len(sizes) or count == 0 or sum(sizes[: count + 1]) > MOST_BYTES
