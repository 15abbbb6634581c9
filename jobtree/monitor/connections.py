"""A connection to the monitor, whose client may be slow, but not for long.

Only so many connections are served at once, and one that never finishes its request would keep somebody else out for as
long as it likes. uvicorn closes those that are idle between two requests, and waits for ever for the rest of one.
"""

from __future__ import annotations

import asyncio
from typing import Optional, cast

from uvicorn.protocols.http.h11_impl import H11Protocol, RequestResponseCycle

REQUEST_SECONDS = 5.0
"""So long a request may take to come whole, and a connection may be idle."""


class Connection(H11Protocol):
    """One that is closed when a request takes too long to come."""

    _deadline: Optional[asyncio.TimerHandle] = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Somebody has connected."""
        super().connection_made(transport)
        self._watch()

    def data_received(self, data: bytes) -> None:
        """More of a request has come, or the beginning of the next."""
        super().data_received(data)
        self._watch()

    def connection_lost(self, exc: Optional[Exception]) -> None:
        """It is closed."""
        super().connection_lost(exc)
        self._forget_deadline()

    def _watch(self) -> None:
        if not self._is_incomplete():
            self._forget_deadline()
        elif self._deadline is None:
            self._deadline = self.loop.call_later(REQUEST_SECONDS, self.transport.abort)

    def _is_incomplete(self) -> bool:
        """Whether the client still has to send something before it can be answered."""
        cycle = cast("Optional[RequestResponseCycle]", self.cycle)  # None before the first request
        return cycle is None or cycle.response_complete or cycle.more_body

    def _forget_deadline(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None
