"""Which machines of a cluster to avoid for a while. Pure.

A machine with a full disk, a missing mount or another Python ends every bundle in a moment, is free again in a moment,
and so draws in and ruins one bundle after the other. It is known by bundles that end before they have started their
first target. After the first that says why itself (its supervisor refused), or the second that just died, the machine
is avoided for ten minutes, then for twice as long each time, until a target has ended there.
"""

from __future__ import annotations

from typing import Optional

DEATHS = 2
FIRST_SECONDS = 600.0
_MOST_SECONDS = 24 * 3600.0


class _Node:
    __slots__ = ("deaths", "rest", "until")

    def __init__(self) -> None:
        self.deaths = 0
        self.rest = FIRST_SECONDS
        self.until: Optional[float] = None


class Nodes:
    """What is known of the machines of one batch system. now: seconds on a clock that only goes forward."""

    def __init__(self) -> None:
        self._nodes: dict[str, _Node] = {}

    def died_early(self, host: str, now: float, refused: bool) -> Optional[float]:
        """A bundle ended there before its first target. Seconds for which the host is avoided from now on, if it is."""
        if not host:
            return None
        node = self._nodes.setdefault(host, _Node())
        node.deaths += DEATHS if refused else 1
        if node.deaths < DEATHS or (node.until is not None and now < node.until):
            return None
        rest, node.rest = node.rest, min(2 * node.rest, _MOST_SECONDS)
        node.until = now + rest
        node.deaths = DEATHS - 1  # one more after the rest, and it is avoided again
        return rest

    def worked(self, host: str) -> None:
        """A target has ended there."""
        self._nodes.pop(host, None)

    def avoided(self, now: float) -> frozenset[str]:
        """The hosts to avoid now."""
        return frozenset(
            host for host, node in self._nodes.items() if node.until is not None and now < node.until
        )
