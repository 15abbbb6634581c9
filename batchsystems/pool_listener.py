"""A thread that waits for news from a hub and wakes whoever works: one cannot wait for Redis and processes at once."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Sequence
from typing import Callable

from batchsystems.pool_hub import Hub, HubAway

_WAIT_SECONDS = 2
_PAUSE_SECONDS = 1.0


class Listener:
    """who: for whom news is waited for, none or more; news: called, in the thread, when there is some.

    A hub that is away is no news; that it is back is.
    """

    def __init__(self, hub: Hub, who: Callable[[], Sequence[str]], news: Callable[[], None]) -> None:
        self._main = hub
        self._hub = hub.listener(_WAIT_SECONDS)
        self._who = who
        self._news = news
        self._there = threading.Event()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._listen, name="batchsystems-pool", daemon=True)

    def start(self) -> None:
        """Begin to wait."""
        self._thread.start()

    def take(self) -> bool:
        """Whether there was news since the last time."""
        there = self._there.is_set()
        self._there.clear()
        return there

    def stop(self) -> None:
        """End the thread. If the hub does not answer, that takes as long as an answer may."""
        self._stop.set()
        if self._thread.ident is not None:
            with contextlib.suppress(HubAway):
                self._main.wake(self._who())
            self._thread.join()
        self._hub.close()

    def _listen(self) -> None:
        away = False
        while not self._stop.is_set():
            who = self._who()
            if not who:
                self._stop.wait(0.05)
                continue
            try:
                woken = self._hub.wait(who, _WAIT_SECONDS)
            except HubAway:
                away = True
                self._stop.wait(_PAUSE_SECONDS)
                continue
            if woken or away:
                away = False
                self._there.set()
                self._news()
