"""What one turn of the master's loop has collected beside the tree's changes: news, removals, values."""

from __future__ import annotations

from typing import NamedTuple, Optional

from jobtree.schema import FailureRow
from jobtree.values import Returned


class News(NamedTuple):
    """A line for the user, told after the commit (jobtree.telling): a level of logging, or None for a message of a
    target. failure: what it tells of, if it is one."""

    level: Optional[int]
    text: str
    failure: Optional[FailureRow] = None


class Collected:
    """What one turn has collected beside the tree's changes."""

    def __init__(self) -> None:
        self.news: list[News] = []
        self.removals: list[str] = []
        self.returned: list[Returned] = []
        self.sync: set[int] = set()
        self.retry: list[tuple[int, int]] = []
