"""Tells the user what a run has to say; of failures that are alike the first few, and then how many there were.

A thousand children that miss one file fail for one reason, and whoever reads the terminal wants to be told it once. Two
failures are alike if targets of one class failed, with one reason, on one way through the code, and with messages that
differ only in what differs from job to job: numbers, paths, and what stands in quotes.

What must hold
  - The first failures of a kind are told in full, however many others were told before.
  - What is told is bounded, however many jobs fail: from some number of kinds on all further ones are taken for one.
  - Nothing is lost. What is only counted on a terminal is written to log files all the same, and every failure is in
    the tree, where jobTreeStatus shows it.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable
from typing import NamedTuple

from jobtree.collected import News
from jobtree.logging_setup import FILES_ONLY
from jobtree.report import command, message_from_job
from jobtree.schema import FailureRow
from jobtree.shown import one_line

log: logging.Logger = logging.getLogger("jobtree")

_IN_FULL = 3
"""So many failures of one kind are told."""

_MILESTONES = frozenset(10**exponent for exponent in range(2, 10))
"""After so many of a kind it is said how many there are."""

_MOST_KINDS = 100

_VARIES = re.compile(r"""'[^'\n]*'|"[^"\n]*"|(?<!\S)(?<!exit status )\S*[\d/]\S*""")
"""What differs from job to job in messages that mean the same. An exit status says what has happened."""

_PLACE = re.compile(r'^ *File ".*", line \d+', re.MULTILINE)

_LONGEST = 500
"""Characters of a message that are compared."""

_SHOWN = 160
"""Characters of a message that are shown where failures are counted."""


class _Kind(NamedTuple):
    """What failures that are alike have in common. given_up: whether their jobs were, or are tried again."""

    given_up: bool
    name: str
    reason: str
    message: str
    places: tuple[str, ...]


_OTHERS = (_Kind(False, "", "", "", ()), _Kind(True, "", "", "", ()))
"""All that come after so many kinds."""


class _Counted:
    """How many failures there were of a kind, and what the first was, in a few words."""

    __slots__ = ("number", "words")

    def __init__(self, words: str) -> None:
        self.words = words
        self.number = 0


class Teller:
    """Tells what a run has to say. root: its job tree."""

    def __init__(self, root: str) -> None:
        self._root = root
        self._kinds: dict[_Kind, _Counted] = {}

    def tell(self, news: Iterable[News]) -> None:
        """Say what was collected; after the commit."""
        for level, text, row in news:
            if level is None:
                message_from_job(text)
            elif row is None:
                log.log(level, "%s", text)
            else:
                self._tell_failure(level, text, row)

    def _tell_failure(self, level: int, text: str, row: FailureRow) -> None:
        counted = self._count(level == logging.CRITICAL, row)
        log.log(level, "%s", text, extra={FILES_ONLY: counted.number > _IN_FULL})
        if counted.number == _IN_FULL + 1:
            log.log(level, "More failures like this one are only counted from here on: %s", counted.words)
        elif counted.number in _MILESTONES:
            log.log(level, "%d failures like this one until now: %s", counted.number, counted.words)

    def _count(self, given_up: bool, row: FailureRow) -> _Counted:
        kind = _kind(given_up, row)
        if kind not in self._kinds and len(self._kinds) >= _MOST_KINDS:
            kind = _OTHERS[given_up]
        counted = self._kinds.get(kind)
        if counted is None:
            words = _in_words(row) if kind.name else f"of more than {_MOST_KINDS} kinds"
            counted = self._kinds[kind] = _Counted(words)
        counted.number += 1
        return counted

    def tell_counted(self, failed: int) -> None:
        """At the end: how many were not told, and how to see them. failed: the number of jobs that have failed."""
        for kind, counted in self._kinds.items():
            more = counted.number - _IN_FULL
            if more <= 0:
                continue
            if kind.given_up:
                see = command("jobTreeStatus", "--failed", "--most", str(max(1, failed)), self._root)
                log.critical("and %d more failed alike: %s; %s shows them", more, counted.words, see)
            else:
                log.warning(
                    "and %d more failures alike were tried again: %s; with --logFile FILE each is written down",
                    more, counted.words,
                )  # fmt: skip


def _kind(given_up: bool, row: FailureRow) -> _Kind:
    failure = row.failure
    message = _VARIES.sub("...", failure.message[:_LONGEST])
    return _Kind(given_up, row.name, failure.kind, message, tuple(_PLACE.findall(failure.traceback)))


def _in_words(row: FailureRow) -> str:
    text = one_line(f"{row.name}: {row.failure.message}")
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."
