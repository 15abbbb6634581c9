"""A connection that can be cut without either side being told, as when somebody pulls a cable out."""

from __future__ import annotations

import select
import socket
import threading
from types import TracebackType
from typing import Optional

_TICK_SECONDS = 0.05


class Cable:
    """Carries connections from a port of its own to another one of this machine; use it with `with`.

    While it is cut nothing arrives and nothing is refused: what is sent waits, and comes late when it is mended.
    """

    def __init__(self, port: int) -> None:
        self._to = port
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listening.getsockname()[1]
        self._cut = threading.Event()
        self._over = threading.Event()
        self._other: dict[socket.socket, socket.socket] = {}
        self._thread = threading.Thread(target=self._carry, name="cable", daemon=True)

    def __enter__(self) -> Cable:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: Optional[type[BaseException]],
        error: Optional[BaseException],
        trace: Optional[TracebackType],
    ) -> None:
        self._over.set()
        self._thread.join()
        for each in (self._listening, *self._other):
            each.close()

    def cut(self) -> None:
        """From now on nothing gets through."""
        self._cut.set()

    def mend(self) -> None:
        """It does again."""
        self._cut.clear()

    def _carry(self) -> None:
        while not self._over.is_set():
            if self._cut.is_set():
                self._over.wait(_TICK_SECONDS)
                continue
            ready, _, _ = select.select([self._listening, *self._other], [], [], _TICK_SECONDS)
            for each in ready:
                if self._cut.is_set():
                    break
                if each is self._listening:
                    near, _ = each.accept()
                    far = socket.create_connection(("127.0.0.1", self._to))
                    self._other.update({near: far, far: near})
                elif each in self._other:
                    self._move(each)

    def _move(self, source: socket.socket) -> None:
        target = self._other[source]
        try:
            data = source.recv(65536)
            if data:
                target.sendall(data)
                return
        except OSError:
            pass  # one of them is gone, so both are
        for each in (source, target):
            del self._other[each]
            each.close()
