"""When a node has fallen silent, and when every node has had its time, on our own clock.

The clock of a hub may be set, and hubs are down at times. So whoever watches counts only the time that it has watched:
between two looks no more than what usually lies between them, and nothing while there was no answer. What it counts is
never more than what has passed, which is what keeps two nodes from running one job: a node ends its jobs after
`LEASE` of its timeout, and is abandoned after all of it.

One node of each space watches at a time (it holds a key of the hub that runs out), and if it dies another begins anew.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple, Optional

LEASE = 2 / 3
"""The part of its timeout for which a node that cannot reach the hub may run what it has."""

GUARD = 3 / 4
"""The part after which its guard ends that, should the node itself not have done so."""

BEATS = 6
"""Beats of a node in its timeout, at least."""

MOST_BETWEEN_BEATS = 5.0


def period(timeout: float) -> float:
    """Seconds between the beats of a node with this timeout."""
    return min(MOST_BETWEEN_BEATS, timeout / BEATS)


class Verdict(NamedTuple):
    """silent: nodes, with the beat after which they were not heard; recovered: everybody had time since that start."""

    silent: list[tuple[str, str]]
    recovered: Optional[str]


class Watch:
    """usual: seconds between two looks."""

    def __init__(self, usual: float) -> None:
        self._most = 2 * usual
        self._last: Optional[float] = None
        self._beats: dict[str, tuple[str, float]] = {}  # node -> its last beat, seconds watched since
        self._longest = 0.0
        self._boot: Optional[str] = None
        self._since_boot = 0.0

    def look(
        self, now: float, beats: Mapping[str, str], timeouts: Mapping[str, float], recovering: Optional[str]
    ) -> Verdict:
        """One look: the last beat of each node, its timeout in seconds, the start that is being recovered from."""
        passed = 0.0 if self._last is None else min(now - self._last, self._most)
        self._last = now
        self._longest = max(self._longest, *timeouts.values(), 0.0)
        before, self._beats = self._beats, {}
        silent = []
        for node, beat in beats.items():
            same, watched = before.get(node, ("", 0.0))
            watched = watched + passed if same == beat else 0.0
            self._beats[node] = (beat, watched)
            if watched > timeouts.get(node, self._longest):
                silent.append((node, beat))
        self._since_boot = self._since_boot + passed if recovering == self._boot else 0.0
        self._boot = recovering
        # More than the timeout: what the last beat before the restart has allowed is over by then.
        done = recovering is not None and self._since_boot > self._longest
        return Verdict(silent, recovering if done else None)

    def pause(self) -> None:
        """Somebody else watches, or nobody can: count anew."""
        self._last = None
        self._beats.clear()
        self._since_boot = 0.0
