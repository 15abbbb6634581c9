"""Countable things that jobs reserve beside cores and memory: graphics cards, licences, database connections. Pure.

A request is kept as text, "gpus=1,licence=2", names in order and nothing of which none is asked for: so it can be part
of a key, a frame and a row, and two equal requests are equal texts. ``""`` asks for nothing.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable, Mapping
from typing import Optional, Union

GPUS = "gpus"
"""The one name that batch systems know by themselves: a job that reserves some sees these and no others."""

_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_.-]*")
_TAKEN = {"cpu", "cpus", "cores", "memory", "time"}


def request(gpus: object = None, resources: Optional[Mapping[str, object]] = None) -> str:
    """The text of what a target asks for.

    >>> request(gpus=1, resources={"licence": 2})
    'gpus=1,licence=2'

    Raises ValueError for a name or a number that makes no sense, and for ``gpus`` given in both ways.
    """
    asked = dict(resources or {})
    if gpus is not None:
        if GPUS in asked:
            raise ValueError(
                f"gpus={gpus!r} is given, and {GPUS!r} among the resources as well; give one of them"
            )
        asked[GPUS] = gpus
    numbers = {name: _number(name, number) for name, number in asked.items()}
    return ",".join(f"{name}={numbers[name]}" for name in sorted(numbers) if numbers[name])


@functools.cache
def counts(text: str) -> Mapping[str, int]:
    """What a request asks for, by name. Do not change it: it is made once for each text."""
    pairs = (pair.rpartition("=") for pair in text.split(",")) if text else ()
    return {name: int(number) for name, _, number in pairs}


def limits(given: Union[str, Iterable[str], Mapping[str, object]]) -> dict[str, int]:
    """How many there are, from "licence=4", several of those, or a mapping. Raises ValueError."""
    if isinstance(given, Mapping):
        return {_checked(name): _number(name, number) for name, number in given.items()}
    found: dict[str, int] = {}
    for part in given.split(",") if isinstance(given, str) else given:
        name, equals, number = str(part).strip().partition("=")
        if not equals:
            raise ValueError(f"{part!r} is no NAME=NUMBER, such as licence=4")
        found[_checked(name.strip())] = _number(name, number)
    return found


def _checked(name: object) -> str:
    if not isinstance(name, str) or _NAME.fullmatch(name) is None:
        raise ValueError(
            f"{name!r} is no name of a countable resource; expected letters, digits, '_', '.' and '-', a letter first"
        )
    if name.lower() in _TAKEN:
        raise ValueError(f"{name!r} is no countable resource: it has an option and an argument of its own")
    return name


def _number(name: object, number: object) -> int:
    _checked(name)
    wrong = ValueError(f"{name}={number!r} makes no sense; expected a whole number, 0 or more")
    if isinstance(number, bool) or not isinstance(number, (int, float, str)):
        raise wrong
    try:
        whole = int(number)
        if whole < 0 or whole != float(number):
            raise wrong
    except (ValueError, OverflowError):
        raise wrong from None
    return whole
