"""Machines on which nothing begins, and requests that were too small: two pure decisions."""

from __future__ import annotations

from typing import Optional

import pytest

from jobtree.enlarging import Enlarging
from jobtree.nodes import FIRST_SECONDS, Nodes


def test_a_machine_is_avoided_after_two_early_deaths_and_longer_each_time() -> None:
    nodes = Nodes()
    assert nodes.died_early("a", 0.0, refused=False) is None
    assert nodes.avoided(0.0) == frozenset()
    assert nodes.died_early("a", 1.0, refused=False) == FIRST_SECONDS
    assert nodes.avoided(FIRST_SECONDS) == {"a"}
    assert nodes.died_early("a", 2.0, refused=False) is None, "it is avoided already"
    assert nodes.avoided(FIRST_SECONDS + 1.0) == frozenset()
    assert nodes.died_early("a", FIRST_SECONDS + 2.0, refused=False) == 2 * FIRST_SECONDS


def test_one_refusal_is_enough() -> None:
    assert Nodes().died_early("a", 0.0, refused=True) == FIRST_SECONDS


def test_a_target_that_ended_there_clears_a_machine() -> None:
    nodes = Nodes()
    nodes.died_early("a", 0.0, refused=True)
    nodes.died_early("b", 0.0, refused=True)

    nodes.worked("a")

    assert nodes.avoided(1.0) == {"b"}
    assert nodes.died_early("a", 2.0, refused=False) is None


def test_what_has_no_name_is_not_avoided() -> None:
    nodes = Nodes()
    assert nodes.died_early("", 0.0, refused=True) is None
    assert nodes.avoided(0.0) == frozenset()


@pytest.mark.parametrize(
    ("kind", "memory", "time", "larger"),
    [
        ("memory", 3, 7.0, (6, 7.0)),
        ("memory", 0, 0.0, (20, 0.0)),
        ("memory", 60, 7.0, (100, 7.0)),
        ("memory", 100, 7.0, None),
        ("time", 3, 7.0, (3, 14.0)),
        ("time", 0, 0.0, (0, 10.0)),
        ("exception", 3, 7.0, None),
    ],
)
def test_what_ran_out_gets_twice_as_much(
    kind: str, memory: int, time: float, larger: Optional[tuple[int, float]]
) -> None:
    assert Enlarging(True, True, 10, 5.0, lambda: 100).larger(kind, memory, time) == larger


def test_only_if_that_is_wanted_and_known() -> None:
    assert Enlarging(False, False, 10, 5.0, lambda: None).larger("memory", 3, 7.0) is None
    assert Enlarging(False, False, 10, 5.0, lambda: None).larger("time", 3, 7.0) is None
    assert Enlarging(True, True, 10, None, lambda: None).larger("time", 3, 0.0) is None
    assert Enlarging(True, True, 10, None, lambda: None).larger("memory", 1 << 50, 0.0) == (1 << 51, 0.0)
