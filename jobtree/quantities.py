"""Amounts of memory and of time: from what people write to numbers, and back.

Nothing here reads or writes anything. Memory is counted in bytes (int), time in
seconds (float).

A script of the original jobTree says "not specified" by passing the largest
native integer; `is_unspecified` knows that value in all its spellings.
"""

from __future__ import annotations

import math
import re
import sys
from typing import Final

#: What an old script passes for "not specified" (Python 2's ``sys.maxint``).
UNSPECIFIED: Final[int] = sys.maxsize

_LARGEST_INT64: Final[int] = 2**63 - 1

_SIZE = re.compile(
    r"([0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:e([+-]?[0-9]{1,3}))?\s*([kmgtp]?)(i?)(b|bytes?)?", re.IGNORECASE
)
_POWERS: Final[dict[str, int]] = {"": 0, "k": 1, "m": 2, "g": 3, "t": 4, "p": 5}
_MEMORY_FORMS: Final[str] = (
    "a number of bytes or a number with a unit, such as 500000000, 3e9, '512k', '500 MiB', '1.5 GB', '2G'"
)

_DURATION = re.compile(r"([0-9]+(?:\.[0-9]*)?|\.[0-9]+)\s*([a-z]*)", re.IGNORECASE)
_UNIT_SECONDS: Final[dict[str, int]] = {
    "": 1, "s": 1, "sec": 1, "second": 1, "seconds": 1,
    "m": 60, "min": 60, "minute": 60, "minutes": 60,
    "h": 3600, "hour": 3600, "hours": 3600,
    "d": 86400, "day": 86400, "days": 86400,
}  # fmt: skip
_DURATION_FORMS: Final[str] = (
    "a number of seconds or a time such as 90, '90s', '15m', '2h', '1h30m', '1:30:00', '2d'"
)


def is_unspecified(value: object) -> bool:
    """Whether *value* means "not specified": None, or a number from ``sys.maxsize`` (or 2**63 - 1) up.

    Old scripts pass ``sys.maxint`` for "use the default". On its way through a
    command line it becomes a string of digits, through arithmetic a float, and
    both are recognised. `True` and `False` are never "not specified".

    >>> is_unspecified(None), is_unspecified("9223372036854775807"), is_unspecified(4)
    (True, True, False)
    """
    if value is None:
        return True
    if isinstance(value, str):
        digits = value.strip().lstrip("0")
        # Python refuses to convert thousands of digits, and 20 are too many already.
        return digits.isascii() and digits.isdigit() and int(digits[:20]) >= _LARGEST_INT64
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return False
    return value >= min(UNSPECIFIED, _LARGEST_INT64) and not math.isinf(value)


def parse_memory(value: object) -> int:
    """The number of bytes that *value* stands for.

    Takes an int, a float (rounded up to a whole byte) or a string. K, M, G, T
    and P are always powers of 1024, whether or not an "i" or a "B" follows:
    "2G", "2GB", "2GiB" and "2 gib" are all 2147483648. Without a unit the number
    is in bytes.

    Raises ValueError, which names what was given and what is understood, for
    anything else, and for what is negative, not a number, infinite or a bool.

    >>> parse_memory("1.5 GB")
    1610612736
    """
    if isinstance(value, str):
        match = _SIZE.fullmatch(value.strip())
        if match is None:
            raise _not_understood("memory", value, _MEMORY_FORMS)
        digits, exponent, prefix, binary, _ = match.groups()
        if binary and not prefix:
            raise _not_understood("memory", value, _MEMORY_FORMS)
        factor: int = 1024 ** _POWERS[prefix.lower()]
        if exponent is None and digits.isdigit():
            return int(digits) * factor
        return _whole_bytes(float(f"{digits}e{exponent or 0}") * factor, value)
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise _not_understood("memory", value, _MEMORY_FORMS)
    if isinstance(value, int):
        if value < 0:
            raise _not_understood("memory", value, _MEMORY_FORMS)
        return int(value)
    return _whole_bytes(value, value)


def _whole_bytes(amount: float, given: object) -> int:
    if not math.isfinite(amount) or amount < 0:
        raise _not_understood("memory", given, _MEMORY_FORMS)
    return math.ceil(amount)


def format_memory(n: float) -> str:
    """*n* bytes in words, with one digit after the point from KiB upwards.

    >>> format_memory(2**31), format_memory(12)
    ('2.0 GiB', '12 B')
    """
    if abs(n) < 1024:
        return f"{int(n)} B"
    amount = n / 1024
    units = ["KiB", "MiB", "GiB", "TiB", "PiB"]
    # 1023.96 would be printed as "1024.0 KiB", so the next unit starts where rounding reaches it.
    while abs(amount) >= 1023.95 and len(units) > 1:
        amount /= 1024
        del units[0]
    return f"{amount:.1f} {units[0]}"


def parse_duration(value: object) -> float:
    """The number of seconds that *value* stands for.

    Takes an int, a float or a string: seconds ("90", "1.5"), a number with a
    unit or several of them ("90s", "15m", "2h", "1h30m", "2 days"), or fields
    with colons, "minutes:seconds", "hours:minutes:seconds" or
    "days:hours:minutes:seconds", of which only the first may pass its limit.

    Raises ValueError, which names what was given and what is understood, for
    anything else, and for what is negative, not a number, infinite or a bool.

    >>> parse_duration("1:30:00")
    5400.0
    """
    if isinstance(value, str):
        seconds = _seconds_of_text(value.strip())
        if seconds is None:
            raise _not_understood("time", value, _DURATION_FORMS)
        return seconds
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise _not_understood("time", value, _DURATION_FORMS)
    if not math.isfinite(value) or value < 0:
        raise _not_understood("time", value, _DURATION_FORMS)
    return float(value)


def _seconds_of_text(text: str) -> float | None:
    if ":" in text:
        return _seconds_of_fields(text.split(":"))
    total = 0.0
    position = 0
    smallest_unit = math.inf
    while True:
        match = _DURATION.match(text, position)
        if match is None or match.group(2).lower() not in _UNIT_SECONDS:
            return None
        unit = _UNIT_SECONDS[match.group(2).lower()]
        # "30m1h" and "5m5m" are slips of the hand rather than times; units go from large to small.
        if unit >= smallest_unit:
            return None
        total += float(match.group(1)) * unit
        smallest_unit = unit
        position = match.end()
        if position == len(text):
            return total
        while text[position].isspace():
            position += 1


def _seconds_of_fields(fields: list[str]) -> float | None:
    if len(fields) > 4:
        return None
    limits = (math.inf, 24.0, 60.0, 60.0)[-len(fields) :]
    factors = (86400, 3600, 60, 1)[-len(fields) :]
    total = 0.0
    for number, (field, limit, factor) in enumerate(zip(fields, limits, factors)):
        last = number == len(fields) - 1
        if not re.fullmatch(r"[0-9]+(\.[0-9]+)?" if last else r"[0-9]+", field):
            return None
        amount = float(field)
        if number > 0 and amount >= limit:
            return None
        total += amount * factor
    return total


def format_duration(seconds: float) -> str:
    """*seconds* in words, with the two largest units that matter.

    >>> format_duration(0.25), format_duration(93), format_duration(5400), format_duration(200000)
    ('0.25s', '1m 33s', '1h 30m', '2d 7h')
    """
    if not math.isfinite(seconds):
        return str(seconds)
    if seconds < 0:
        return "-" + format_duration(-seconds)
    if seconds < 9.995:
        return f"{seconds:.2f}s"
    if seconds < 59.95:
        return f"{seconds:.1f}s"
    whole = round(seconds)
    minutes, rest_seconds = divmod(whole, 60)
    hours, rest_minutes = divmod(minutes, 60)
    days, rest_hours = divmod(hours, 24)
    if days:
        return f"{days}d {rest_hours}h"
    if hours:
        return f"{hours}h {rest_minutes}m"
    return f"{minutes}m {rest_seconds}s"


def _not_understood(what: str, given: object, forms: str) -> ValueError:
    return ValueError(f"{given!r} is not an amount of {what} that is understood: give {forms}")
