"""Every attempt draws random numbers that no other one has drawn, whatever targets do to the generators."""

from __future__ import annotations

import os
import random
import sys
import types
from collections.abc import Iterator
from typing import Any, Callable

import pytest

from jobtree import randomness


@pytest.fixture(autouse=True)
def generators(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """As in a fresh worker, without NumPy; afterwards as before."""
    monkeypatch.setattr(randomness, "_shadow", None)
    monkeypatch.setattr(randomness, "_numpy_shadow", None)
    monkeypatch.setitem(sys.modules, "numpy.random", None)
    state = random.getstate()
    yield
    random.setstate(state)


TARGETS: dict[str, Callable[[], object]] = {
    "seeds": lambda: random.seed(1),
    "seeds and draws": lambda: (random.seed(1), random.random()),
    "draws": random.random,
    "draws many": lambda: [random.gauss(0, 1) for _ in range(1001)],
    "sets a state": lambda: random.setstate(random.Random(1).getstate()),
    "does nothing": lambda: None,
}


@pytest.mark.parametrize("what", TARGETS)
def test_what_a_target_does_decides_nothing_for_the_next(what: str) -> None:
    drawn = set()
    for _ in range(20):
        randomness.make_fresh()
        drawn.add(random.getrandbits(64))
        TARGETS[what]()

    assert len(drawn) == 20


def test_targets_that_draw_nothing_are_not_paid_for(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    urandom = os.urandom

    def counted(size: int) -> bytes:
        asked.append(size)
        return urandom(size)

    monkeypatch.setattr(os, "urandom", counted)
    for _ in range(100):
        randomness.make_fresh()
    assert len(asked) == 1, "once at the start of the worker"

    random.random()
    randomness.make_fresh()
    assert len(asked) == 2


def test_second_value_of_gauss_is_not_handed_on() -> None:
    randomness.make_fresh()
    random.gauss(0, 1)  # it makes two, and keeps one
    randomness.make_fresh()

    assert random.getstate()[2] is None


def test_two_workers_that_were_forked_draw_different_numbers() -> None:
    drawn = []
    for _ in range(2):
        reading, writing = os.pipe()
        child = os.fork()
        if child == 0:
            randomness.make_fresh()
            os.write(writing, b"%d" % random.getrandbits(64))
            os._exit(0)
        os.waitpid(child, 0)
        drawn.append(os.read(reading, 100))
        os.close(reading)
        os.close(writing)

    assert drawn[0] != drawn[1]


class _Generator:
    """What is used of numpy.random.RandomState."""

    def __init__(self) -> None:
        self._random = random.Random()

    def seed(self, words: list[int]) -> None:
        self._random.seed(repr(words))

    def bytes(self, number: int) -> bytes:
        return self._random.randbytes(number)


def _numpy(monkeypatch: pytest.MonkeyPatch) -> Any:
    module: Any = types.ModuleType("numpy.random")
    generator = _Generator()
    module.RandomState = _Generator
    module.seed = generator.seed
    module.bytes = generator.bytes
    module.generator = generator
    monkeypatch.setitem(sys.modules, "numpy.random", module)
    return module


@pytest.mark.parametrize("seeds", [True, False])
def test_generator_of_numpy_is_treated_the_same(monkeypatch: pytest.MonkeyPatch, seeds: bool) -> None:
    numpy_random = _numpy(monkeypatch)
    drawn = set()
    for _ in range(20):
        randomness.make_fresh()
        drawn.add(numpy_random.bytes(8))
        if seeds:
            numpy_random.seed([1])

    assert len(drawn) == 20
