"""What a target says of its progress: checked, and not more of it than somebody can read.

Targets report as often as they like, in the middle of their loops. What is written down takes space in the outcome
file and a moment of the master's, so
  - each report is written as long as there are few (``_BURST``): where a target names its steps, none is lost;
  - of more, one a second, and of a target that runs for long one in ten: a week of it takes a few megabytes.

A wrong number never fails a target, which may have worked for days when its estimate turns out too small: it is cut to
what makes sense, and said once. What is no number at all is a mistake of the script, and is told at once.
"""

from __future__ import annotations

import math
from typing import NamedTuple, Optional

from jobtree.errors import TargetError

LONGEST = 200
"""Characters of the words that are kept."""

_BURST = 100
_SHORTEST, _LONGEST_PAUSE = 1.0, 10.0
"""Seconds between two reports, once there were many: of a target that has just begun, of one that runs for an hour."""

_AGE = 360.0
"""So much longer than the pause a target has been running."""


class Report(NamedTuple):
    """fraction: from 0 to 1; None: not known. words: one line or none."""

    fraction: Optional[float]
    words: str

    def in_words(self) -> str:
        """For people."""
        share = "" if self.fraction is None else f"{math.floor(100 * self.fraction)} %"
        return ", ".join(part for part in (share, self.words) if part)


def report_of(fraction: object, words: str) -> tuple[Report, str]:
    """What a target said, cut to what makes sense, and what was wrong with it. Raises TargetError for no number."""
    text = str.__str__(words)
    if len(text) > LONGEST:
        text = f"{text[: LONGEST - 3]}..."
    text = " ".join(text.split())
    if fraction is None:
        return Report(None, text), ""
    try:
        if isinstance(fraction, (str, bytes)):
            raise TypeError
        number = float(fraction)  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError):
        raise TargetError(
            f"reportProgress() was given {fraction!r:.200}, and a number from 0 to 1 is expected, or None."
        ) from None
    if 0 <= number <= 1:
        return Report(number, text), ""
    wrong = f"reportProgress() was given {number:g}, and a fraction from 0 to 1 is expected"
    return Report(None if math.isnan(number) else min(max(number, 0.0), 1.0), text), wrong


class ProgressReports:
    """Which of one attempt's reports are written down. now: when it began to report, on ``clock.elapsed``.

    ``complained``: whether it was said that a number made no sense.
    """

    def __init__(self, now: float) -> None:
        self.complained = False
        self._began = self._last = now
        self._left = _BURST

    def is_due(self, now: float) -> bool:
        """Whether a report of this moment is to be written; it counts as written then."""
        pause = min(max(_SHORTEST, (now - self._began) / _AGE), _LONGEST_PAUSE)
        if now - self._last < pause:
            if not self._left:
                return False
            self._left -= 1
        self._last = now
        return True
