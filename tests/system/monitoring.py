"""A monitor as users start it: a process of its own, that is asked over its port."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Optional

import httpx

from tests.system.legacy_script import CHECKOUT

_SECONDS = 60.0


class Monitor:
    """One that serves. page: the address that it has printed, with the token in it."""

    def __init__(self, process: subprocess.Popen[str], page: str) -> None:
        self.process = process
        self.page = page
        self.base, _, self.token = page.partition("/?token=")
        self.client = httpx.Client(
            base_url=self.base, headers={"authorization": f"Bearer {self.token}"}, timeout=_SECONDS
        )

    @property
    def port(self) -> int:
        """Where it listens."""
        return int(self.base.rpartition(":")[2])

    def told(self, path: str, **query: object) -> Any:
        """What the API answers below /api/v1/trees."""
        answer = self.client.get(f"/api/v1/trees{path}", params={k: str(v) for k, v in query.items()})
        assert answer.status_code == 200, answer.text
        return answer.json()

    def events(self) -> Iterator[tuple[str, Any]]:
        """The stream of events about the first tree; close the iterator to end it."""
        with self.client.stream("GET", "/api/v1/events") as answer:
            assert answer.headers["content-type"].startswith("text/event-stream")
            kind = ""
            for line in answer.iter_lines():
                if line.startswith("event: "):
                    kind = line[len("event: ") :]
                elif line.startswith("data: "):
                    yield kind, json.loads(line[len("data: ") :])

    def end(self, number: signal.Signals = signal.SIGINT) -> int:
        """Have it end; its exit status."""
        self.process.send_signal(number)
        return self.process.wait(_SECONDS)


@contextlib.contextmanager
def serving(home: Path, *arguments: object, every: float = 0.2) -> Iterator[Monitor]:
    """A monitor for the trees that the arguments name; home: where it keeps the file with its token."""
    command = [
        sys.executable,
        str(CHECKOUT / "bin" / "jobTreeMonitor"),
        "--every",
        str(every),
        *map(str, arguments),
    ]
    environment = {**os.environ, "XDG_STATE_HOME": str(home), "PYTHONPATH": str(CHECKOUT)}
    process = subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    monitor: Optional[Monitor] = None
    try:
        assert process.stdout is not None
        page = process.stdout.readline().strip()
        assert page.startswith("http://127.0.0.1:"), page + process.stdout.read()
        process.stdout.readline()
        monitor = Monitor(process, page)
        yield monitor
    finally:
        process.kill()
        process.wait()
        if process.stdout is not None:
            process.stdout.close()
        if monitor is not None:
            monitor.client.close()
