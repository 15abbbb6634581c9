"""A clock that stands still until the test moves it."""

from __future__ import annotations

import pytest

from jobtree import clock


class FakeClock:
    """Takes the place of ``jobtree.clock.elapsed`` for the time of a test; ``now`` is in seconds."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, now: float = 1000.0) -> None:
        self.now = now
        monkeypatch.setattr(clock, "elapsed", lambda: self.now)

    def advance(self, seconds: float) -> None:
        """Let time pass."""
        self.now += seconds
