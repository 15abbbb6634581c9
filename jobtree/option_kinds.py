"""How the values of options are read: from a command line, from a script, from a stored run.

A `Kind` turns what it is given into one checked value, or says what it expects.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Callable, Final, Union

from jobtree import countable
from jobtree.quantities import is_unspecified, parse_duration, parse_memory

LOG_LEVELS: Final = ("OFF", "CRITICAL", "ERROR", "WARNING", "INFO", "DEBUG")


@dataclass(frozen=True)
class Kind:
    """How the values of an option are read, and what is said when one makes no sense.

    convert raises ValueError for what it does not take. With optional, None, an
    empty text and `sys.maxsize` mean "not specified" and become None. repeats: the option
    may be given several times, which is the same as once with commas between.
    """

    convert: Callable[[Any], Any]
    expected: str
    metavar: str
    optional: bool = False
    repeats: bool = False

    def read(self, value: object) -> Any:
        """The checked value, None for "not specified"; raises ValueError, which says what is expected."""
        if self.optional and (is_unspecified(value) or value == ""):
            return None
        try:
            return self.convert(value)
        except (ValueError, TypeError, OverflowError):
            raise ValueError(f"{value!r} was given, and {self.expected} is expected") from None


def _whole(value: Any, least: int) -> int:
    number = int(value)
    if isinstance(value, bool) or number < least or (isinstance(value, float) and number != value):
        raise ValueError
    return number


def _cpus(value: Any) -> Union[int, float]:
    number = float(value)
    if isinstance(value, bool) or not 0 < number < float("inf"):
        raise ValueError
    return _without_point(number)


def _seconds(value: Any) -> Union[int, float]:
    return _without_point(parse_duration(value))


def _at_least(number: Union[int, float], least: float) -> Union[int, float]:
    if number < least:
        raise ValueError
    return number


def _without_point(number: float) -> Union[int, float]:
    # Pipelines hand values on to other programs' command lines, where "1.0" is not always understood.
    return int(number) if number.is_integer() else number


def _bytes_from_one(value: Any) -> int:
    return _whole(parse_memory(value), 1)


def _text(value: Any) -> str:
    text = os.fspath(value)
    if not isinstance(text, str) or not text.strip():
        raise ValueError
    return text


def _switch(value: Any) -> bool:
    if value not in (True, False):
        raise ValueError
    return bool(value)


def _level(value: Any) -> str:
    return _one_of(_text(value).upper(), LOG_LEVELS)


def _one_of(value: str, choices: tuple[str, ...]) -> str:
    if value not in choices:
        raise ValueError
    return value


def _patterns(value: Any) -> tuple[str, ...]:
    parts: Iterable[Any] = value.split(",") if isinstance(value, str) else value
    return tuple(_text(part).strip() for part in parts if part != "")


_SIZE = "a number of bytes such as 500000000, '500M' or '2 GiB'"
_TIME = "a number of seconds or a time such as '90s', '15m' or '1:30:00'"
_CORES = "a number above 0"

FLAG = Kind(_switch, "True or False", "")
TEXT = Kind(_text, "a text that is not empty", "NAME")
OPTIONAL_TEXT = Kind(_text, "a text", "NAME", optional=True)
PATH = Kind(_text, "a path", "PATH", optional=True)
COMMAND = Kind(_text, "a command line", "COMMAND", optional=True)
PATTERNS = Kind(
    _patterns, "names or patterns with commas between, such as 'AWS_*,MY_TOKEN'", "NAMES", repeats=True
)
LIMITS = Kind(countable.limits, "names and numbers such as 'licence=4'", "NAME=N", repeats=True)
LEVEL = Kind(_level, "one of " + ", ".join(LOG_LEVELS), "LEVEL", optional=True)
COUNT = Kind(lambda value: _whole(value, 0), "a whole number, 0 or more", "N")
POSITIVE_COUNT = Kind(lambda value: _whole(value, 1), "a whole number, 1 or more", "N")
MAYBE_POSITIVE_COUNT = dataclasses.replace(POSITIVE_COUNT, optional=True)
CPUS = Kind(_cpus, _CORES, "CPUS")
MAYBE_CPUS = dataclasses.replace(CPUS, optional=True)
MEMORY = Kind(_bytes_from_one, _SIZE, "BYTES")
MAYBE_MEMORY = dataclasses.replace(MEMORY, optional=True)
LOG_SIZE = Kind(parse_memory, _SIZE, "BYTES")
MAYBE_SIZE = dataclasses.replace(LOG_SIZE, optional=True)
SECONDS = Kind(_seconds, _TIME, "SECONDS")
LEASE = Kind(
    lambda value: _at_least(_seconds(value), 1), "a time of at least 1 s such as '60' or '5m'", "SECONDS"
)
MAYBE_SECONDS = dataclasses.replace(SECONDS, optional=True)
DURABLE = Kind(lambda value: _one_of(value, ("full", "tree")), "'full' or 'tree'", "full|tree")
START = Kind(
    lambda value: _one_of(value, ("fork", "spawn")), "'fork' or 'spawn'", "fork|spawn", optional=True
)
