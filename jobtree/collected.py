"""What one turn of the master's loop has collected beside the tree's changes: news, removals, values."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import NamedTuple, Optional

from jobtree.report import message_from_job
from jobtree.values import Returned

log: logging.Logger = logging.getLogger("jobtree")


class News(NamedTuple):
    """A line for the user, told after the commit: a level of logging, or None for a message of a target."""

    level: Optional[int]
    text: str


class Collected:
    """What one turn has collected beside the tree's changes."""

    def __init__(self) -> None:
        self.news: list[News] = []
        self.removals: list[str] = []
        self.returned: list[Returned] = []
        self.sync: set[int] = set()
        self.retry: list[tuple[int, int]] = []


def tell(news: Iterable[News]) -> None:
    """Say what was collected; after the commit."""
    for level, text in news:
        if level is None:
            message_from_job(text)
        else:
            log.log(level, "%s", text)
