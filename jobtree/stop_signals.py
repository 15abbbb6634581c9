"""Ctrl-C, SIGTERM and SIGHUP stop a run in order."""

from __future__ import annotations

import signal
import threading
from types import FrameType
from typing import Any, Callable, Optional


class StopSignals:
    """While a run is going on, SIGINT, SIGTERM and SIGHUP stop it in order; afterwards everything is as before."""

    def __init__(self, stop: Callable[[int], None]) -> None:
        self._stop = stop
        self._previous: list[tuple[int, Any]] = []

    def __enter__(self) -> None:
        if threading.current_thread() is not threading.main_thread():
            return  # only the main thread may set handlers; a run in another one is stopped by jobTreeKill
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            if signal.getsignal(number) is not signal.SIG_IGN:  # nohup means what it says
                self._previous.append((number, signal.signal(number, self._handle)))

    def _handle(self, number: int, _: Optional[FrameType]) -> None:
        self._stop(number)

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous:
            signal.signal(number, handler)
