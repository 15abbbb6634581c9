"""Amounts of memory and time, from text to numbers and back."""

from __future__ import annotations

import doctest
import math
import sys

import pytest

from jobtree import quantities
from jobtree.quantities import format_duration, format_memory, is_unspecified, parse_duration, parse_memory


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (0, 0),
        (34359738368, 34359738368),
        (3e9, 3_000_000_000),
        (0.5, 1),
        ("4000000000", 4_000_000_000),
        (" 12 ", 12),
        ("3e9", 3_000_000_000),
        ("1.5e-3k", 2),
        ("12 bytes", 12),
        ("512k", 512 * 1024),
        ("512K", 512 * 1024),
        ("500 MiB", 500 * 1024**2),
        ("1.5 GB", 3 * 2**29),
        ("2G", 2**31),
        ("2 gib", 2**31),
        ("2GB", 2**31),
        (".5g", 2**29),
        ("1T", 2**40),
        ("2 PB", 2**51),
        ("9007199254740993", 9007199254740993),  # one more than a float can hold
        (9007199254740993, 9007199254740993),
    ],
)
def test_memory_is_understood(given: object, expected: int) -> None:
    assert parse_memory(given) == expected
    assert type(parse_memory(given)) is int


@pytest.mark.parametrize(
    "given",
    [
        *(
            "",
            "  ",
            "G",
            "two",
            "2 GG",
            "2 ib",
            "-1",
            "-1G",
            "+2",
            "nan",
            "inf",
            "1e400",
            "0x10",
            "1_000",
            "2G 3M",
        ),
        *(-1, -0.5, math.nan, math.inf, True, False, None, [], b"2G"),
    ],
)
def test_other_memory_is_refused_with_what_was_given_and_what_is_understood(given: object) -> None:
    with pytest.raises(ValueError, match="500 MiB") as caught:
        parse_memory(given)
    assert repr(given) in str(caught.value)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1.0 KiB"),
        (1024**2 - 1, "1.0 MiB"),
        (1536, "1.5 KiB"),
        (2**31, "2.0 GiB"),
        (5 * 2**40, "5.0 TiB"),
        (2**63, "8192.0 PiB"),
        (-2048, "-2.0 KiB"),
    ],
)
def test_memory_in_words(given: int, expected: str) -> None:
    assert format_memory(given) == expected


@pytest.mark.parametrize("number", [0, 1, 1023, 1024, 3 * 2**30, 7 * 2**50])
def test_memory_in_words_is_understood_again(number: int) -> None:
    assert parse_memory(format_memory(number)) == number


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (90, 90.0),
        (0.25, 0.25),
        ("90", 90.0),
        ("1.5", 1.5),
        ("90s", 90.0),
        ("15m", 900.0),
        ("15 min", 900.0),
        ("2h", 7200.0),
        ("1h30m", 5400.0),
        ("1h 30m 5", 5405.0),
        ("2 days", 172800.0),
        ("1:30", 90.0),
        ("90:00", 5400.0),
        ("1:30:00", 5400.0),
        ("1:02:03:04.5", 93784.5),
        ("0:00:30", 30.0),
    ],
)
def test_durations_are_understood(given: object, expected: float) -> None:
    assert parse_duration(given) == expected
    assert type(parse_duration(given)) is float


@pytest.mark.parametrize(
    "given",
    [
        *(
            "",
            "m",
            "soon",
            "-5",
            "1:60",
            "1:24:00:00",
            "1::2",
            "1:2:3:4:5",
            "1.5:30",
            "30m1h",
            "5m5m",
            "nan",
            "1e3",
        ),
        *(-1, math.nan, math.inf, True, None, []),
    ],
)
def test_other_durations_are_refused_with_what_was_given_and_what_is_understood(given: object) -> None:
    with pytest.raises(ValueError, match="1:30:00") as caught:
        parse_duration(given)
    assert repr(given) in str(caught.value)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (0, "0.00s"),
        (9.994, "9.99s"),
        (9.996, "10.0s"),
        (59.94, "59.9s"),
        (59.96, "1m 0s"),
        (60, "1m 0s"),
        (3599.4, "59m 59s"),
        (3600, "1h 0m"),
        (86399.6, "1d 0h"),
        (200000, "2d 7h"),
        (-90, "-1m 30s"),
        (math.inf, "inf"),
    ],
)
def test_durations_in_words(given: float, expected: str) -> None:
    assert format_duration(given) == expected


@pytest.mark.parametrize(
    "value", [None, sys.maxsize, 2**63 - 1, 2**63, float(2**63), 2**100, " 9223372036854775807 ", "9" * 9999]
)
def test_what_old_scripts_pass_for_not_specified(value: object) -> None:
    assert is_unspecified(value)


@pytest.mark.parametrize(
    "value", [0, -1, 1, 2**62, 1e18, math.inf, math.nan, True, False, "", "2G", "12", [], "²"]
)
def test_what_is_specified(value: object) -> None:
    assert not is_unspecified(value)


def test_the_examples_in_the_documentation() -> None:
    assert doctest.testmod(quantities).failed == 0
