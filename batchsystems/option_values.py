"""Values of options that several schedulers have."""

from __future__ import annotations


def minutes(given: object) -> int:
    """A time limit: minutes, or also "hours:minutes:seconds" and "days-hours"."""
    text = str(given)
    days, dash, rest = text.rpartition("-")
    numbers = [int(part) for part in rest.split(":")]
    if dash:
        hours, minutes, seconds = (*numbers, 0, 0)[:3]
        total = int(days) * 1440 + hours * 60 + minutes + (seconds > 0)
    elif len(numbers) == 3:
        total = numbers[0] * 60 + numbers[1] + (numbers[2] > 0)
    else:
        total = numbers[0] + (len(numbers) == 2 and numbers[1] > 0)
    if total < 1 or min(numbers) < 0 or len(numbers) > 3:
        raise ValueError(text)
    return total


def positive(given: object) -> float:
    """A number of seconds."""
    value = float(str(given))
    if not 0 < value < 1e6:
        raise ValueError(str(given))
    return value


def count(given: object) -> int:
    """How many."""
    value = int(str(given))
    if value < 1:
        raise ValueError(str(given))
    return value
