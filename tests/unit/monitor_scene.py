"""A monitor without a network: its application is called as the server would call it, by a client in this process."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from starlette.testclient import TestClient

from jobtree.monitor import server
from jobtree.monitor.trees import watched
from jobtree.monitor.watching import Watch

TOKEN = "t" * 43
HOST = "127.0.0.1:8765"
BEARER = {"authorization": f"Bearer {TOKEN}"}


@contextlib.contextmanager
def client(*roots: str, every: float = 60.0, token: bool = True) -> Iterator[TestClient]:
    """A client of a monitor for these trees; token: it sends the token with every request."""
    watch = Watch(watched(roots), every)
    app = server.application(watch, TOKEN)
    with TestClient(app, f"http://{HOST}", headers=BEARER if token else None, follow_redirects=False) as made:
        yield made


def told(client: TestClient, path: str, status: int = 200) -> Any:
    """What the API answers below /api/v1/trees."""
    answer = client.get(f"/api/v1/trees{path}")
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/json"
    return answer.json()
