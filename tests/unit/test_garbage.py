"""Python's collector is as it was when the loop is over, and rare inside."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Iterator

import pytest

from jobtree.garbage import rare_collections


@pytest.fixture(autouse=True)
def threshold() -> Iterator[None]:
    before = gc.get_threshold()
    yield
    gc.set_threshold(*before)


@pytest.mark.parametrize(("before", "inside"), [(700, 10_000), (0, 0), (50_000, 50_000)])
def test_collections_are_rare_inside_and_afterwards_as_before(before: int, inside: int) -> None:
    gc.set_threshold(before, 11, 12)

    with contextlib.suppress(ZeroDivisionError), rare_collections():
        assert gc.get_threshold() == (inside, 11, 12)
        raise ZeroDivisionError

    assert gc.get_threshold() == (before, 11, 12)
