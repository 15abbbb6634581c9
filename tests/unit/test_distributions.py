"""Distributions in bounded space: what is exact, how far a quantile may be off, and that they can be added."""

from __future__ import annotations

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobtree.distributions import PRECISION, Distribution, edges, total
from jobtree.measured import Measured, together

NUMBERS = st.one_of(st.floats(0, 1e12, allow_subnormal=False), st.integers(0, 1 << 50))
MEASURES = st.tuples(
    st.floats(0, 1e6, allow_subnormal=False), st.floats(0, 1e6, allow_subnormal=False), st.integers(0, 1 << 45),
    st.booleans(),
)  # fmt: skip


def made_of(*numbers: float) -> Distribution:
    found = Distribution()
    found.add(numbers)
    return found


@given(st.lists(NUMBERS, min_size=1, max_size=60), st.floats(0.01, 1))
def test_a_quantile_is_near_the_true_one(numbers: list[float], share: float) -> None:
    found = made_of(*numbers).quantile(share)

    true = sorted(numbers)[math.ceil(share * len(numbers)) - 1]
    assert found is not None
    assert abs(found - true) <= PRECISION * true


@given(st.lists(st.lists(NUMBERS, max_size=20), max_size=6))
def test_in_pieces_or_at_once_is_the_same(pieces: list[list[float]]) -> None:
    at_once = made_of(*(number for piece in pieces for number in piece))
    in_pieces = Distribution()
    for piece in pieces:
        in_pieces.add(piece)
    merged = total(made_of(*piece) for piece in pieces)

    for found in (in_pieces, merged):
        assert (found.count, found.least, found.most) == (at_once.count, at_once.least, at_once.most)
        assert found.buckets == at_once.buckets
        assert found.total == pytest.approx(at_once.total)


@given(st.lists(NUMBERS, max_size=30))
def test_through_json_it_comes_back_as_it_was(numbers: list[float]) -> None:
    found = made_of(*numbers)

    assert Distribution.from_json(json.loads(json.dumps(found.to_json()))) == found


@given(NUMBERS)
def test_every_number_is_in_its_bucket(number: float) -> None:
    (bucket,) = made_of(number).buckets
    low, high = edges(bucket)

    assert low <= number < high
    assert made_of(number).median == number


def test_nothing_has_no_mean_and_no_median() -> None:
    nothing = Distribution()

    assert (nothing.count, nothing.mean, nothing.median, nothing.least) == (0, None, None, None)
    assert total([]) == nothing


def test_there_are_as_many_buckets_as_different_sizes_and_never_very_many() -> None:
    from_microseconds_to_years = made_of(*(1.1**n * 1e-6 for n in range(400)))

    assert len(made_of(*[5.0] * 1000).buckets) == 1
    assert len(from_microseconds_to_years.buckets) <= 400
    assert len(made_of(*range(1_000_000)).buckets) <= 16 * 20 + 1


@given(st.lists(MEASURES, max_size=20), st.lists(MEASURES, max_size=20))
def test_what_was_measured_in_two_parts_is_put_together(
    one: list[tuple[float, float, int, bool]], two: list[tuple[float, float, int, bool]]
) -> None:
    parts = []
    for measures in (one, two):
        parts.append(Measured())
        parts[-1].add(measures)
    found, expected = together(parts), Measured()
    expected.add([*one, *two])

    assert found.count == len(one) + len(two)
    assert (found.cores_most, found.inexact) == (expected.cores_most, expected.inexact)
    assert found.memory.buckets == expected.memory.buckets
    assert Measured.from_json(json.loads(json.dumps(found.to_json()))) == found


def test_waiting_is_the_time_without_cpu_and_never_below_zero() -> None:
    found = Measured()
    found.add([(4.0, 1.0, 100, True), (2.0, 6.0, 300, False)])

    assert (found.wait.least, found.wait.most, found.wait.total) == (0.0, 3.0, 3.0)
    assert (found.cores_most, found.inexact) == (3.0, 1)


def test_very_short_targets_say_nothing_about_cores() -> None:
    found = Measured()
    found.add([(0.0, 0.1, 1, True), (0.001, 0.1, 1, True)])

    assert found.cores_most == 0.0
