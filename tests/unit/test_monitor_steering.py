"""What the monitor asks of a master: the very requests of jobTreeRun, and what comes of them."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from jobtree import files, steering_requests
from jobtree.errors import StorageError
from jobtree.lock import TreeLock
from jobtree.paths import TreePaths, job_id
from jobtree.requests import Answer, Request, Requests
from tests.unit.monitor_scene import BEARER, client
from tests.unit.test_snapshot import Built

JOB = job_id(1, 1)
ORDERS: list[tuple[str, dict[str, Any], str, dict[str, Any]]] = [
    ("/retry", {}, steering_requests.RETRY, {}),
    ("/pause", {}, steering_requests.PAUSE, {}),
    ("/goOn", {}, steering_requests.GO_ON, {}),
    ("/jobs/1-1/retry", {"attempt": 1}, steering_requests.RETRY, {"job": JOB, "attempt": 1}),
    ("/jobs/1-1/kill", {"attempt": 7}, steering_requests.KILL_JOB, {"job": JOB, "attempt": 7}),
    ("/jobs/1-1/kill", {}, steering_requests.KILL_JOB, {"job": JOB, "attempt": 1}),
    ("/jobs/1-1/forget", {}, steering_requests.FORGET, {"job": JOB}),
]


@pytest.fixture
def built(tmp_path: Path) -> Iterator[Built]:
    made = Built(tmp_path / "tree")
    made.grow(("some.Child", 0))
    made.issue(2, JOB)
    made.commit()
    yield made
    made.store.close()


@pytest.fixture
def asked(built: Built) -> Iterator[TestClient]:
    with client(built.paths.root) as made:
        yield made


class Master(threading.Thread):
    """Somebody who holds the tree, and says of everything that is asked that it was done."""

    def __init__(self, paths: TreePaths, answer: Answer) -> None:
        threading.Thread.__init__(self)
        self.seen: list[Request] = []
        self._paths = paths
        self._answer = answer
        self._ends = threading.Event()
        self._holds = threading.Event()

    def run(self) -> None:
        holder = TreeLock(self._paths)
        holder.acquire()
        self._holds.set()
        requests = Requests(self._paths, steering_requests.KINDS)
        while not self._ends.wait(0.01):
            for request in requests.take():
                if request.kind in steering_requests.KINDS:
                    self.seen.append(request)
                    requests.answer(request, self._answer)
        holder.release()

    def begin(self) -> None:
        self.start()
        self._holds.wait()

    def end(self) -> None:
        self._ends.set()
        self.join()


@pytest.mark.parametrize(("path", "body", "kind", "arguments"), ORDERS)
def test_a_master_is_asked_as_jobtreerun_asks_it(
    path: str, body: dict[str, Any], kind: str, arguments: dict[str, Any], built: Built, asked: TestClient
) -> None:
    master = Master(built.paths, Answer(True, "It <b>is</b> done."))
    master.begin()
    try:
        answer = asked.post(f"/api/v1/trees/1{path}", json=body)
    finally:
        master.end()
    assert answer.status_code == 200
    assert answer.json() == {"done": True, "words": "It <b>is</b> done."}
    (request,) = master.seen
    assert (request.kind, request.arguments, request.by) == (kind, arguments, steering_requests.whoami())
    assert os.listdir(built.paths.requests) == []


def test_a_master_that_refuses_says_why(built: Built, asked: TestClient) -> None:
    master = Master(built.paths, Answer(False, "Job 1-1 has not failed."))
    master.begin()
    try:
        answer = asked.post("/api/v1/trees/1/jobs/1-1/retry").json()
    finally:
        master.end()
    assert answer == {"done": False, "words": "Job 1-1 has not failed."}


def test_without_a_master_it_is_noted_for_the_next_one(built: Built, asked: TestClient) -> None:
    answer = asked.post("/api/v1/trees/1/jobs/1-1/forget").json()
    assert not answer["done"]
    assert "noted and not done yet: no master runs the tree now" in answer["words"]
    (request,) = Requests(built.paths, steering_requests.KINDS).take()
    assert (request.kind, request.arguments) == (steering_requests.FORGET, {"job": JOB})


def test_a_disk_that_takes_no_request_is_told(
    built: Built, asked: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: str, data: bytes) -> None:
        raise StorageError(f"{path}: No space left on device")

    monkeypatch.setattr(files, "replace_durably", full)
    answer = asked.post("/api/v1/trees/1/pause").json()
    assert not answer["done"]
    assert "No space left on device" in answer["words"]


def test_who_has_paused_a_run_is_told(built: Built, asked: TestClient) -> None:
    assert asked.get("/api/v1/trees/1").json()["paused"] is None
    built.store.set("paused", "ada@<node1>")
    built.store.commit()
    built.store.begin()
    asked.post("/api/v1/trees/1/pause")  # whatever comes of it, the tree is looked at
    assert asked.get("/api/v1/trees/1").json()["paused"] == "ada@<node1>"


@pytest.mark.parametrize(
    ("path", "body", "words"),
    [
        ("/jobs/1-1/retry", b"{", "no JSON"),
        ("/jobs/1-1/retry", b"[" * 16000, "no JSON"),
        ("/jobs/1-1/retry", b"\xff", "no JSON"),
        ("/jobs/1-1/retry", b"[1]", 'an object that may have "attempt"'),
        ("/jobs/1-1/retry", b'{"atempt": 1}', 'an object that may have "attempt"'),
        ("/jobs/1-1/retry", b'{"attempt": -1}', "not the number of an attempt"),
        ("/jobs/1-1/retry", b'{"attempt": 1.0}', "not the number of an attempt"),
        ("/jobs/1-1/retry", b'{"attempt": true}', "not the number of an attempt"),
        ("/jobs/1-1/retry", b'{"attempt": "1"}', "not the number of an attempt"),
        ("/jobs/1-1/kill", b'{"attempt": 9999999999999999999999}', "not the number of an attempt"),
        ("/jobs/1-1/forget", b'{"attempt": 1}', "an empty object"),
        ("/pause", b'{"by": "somebody else"}', "an empty object"),
        ("/jobs/me/kill", b"{}", "'me' is no job"),
        ("/jobs/..%2f..%2fx/kill", b"{}", ""),
        ("/retry?job=1-1", b"{}", "'job' is given"),
        ("/retry?token=x", b"{}", "'token' is given"),
    ],
)
def test_orders_that_are_none_ask_nobody_for_anything(
    path: str, body: bytes, words: str, built: Built, asked: TestClient
) -> None:
    answer = asked.post(f"/api/v1/trees/1{path}", content=body)
    assert answer.status_code in (400, 404)
    assert words in answer.json()["error"]
    assert os.listdir(built.paths.requests) == []


@pytest.mark.parametrize("path", [path for path, *_ in ORDERS])
def test_whoever_may_only_read_or_comes_from_elsewhere_orders_nothing(
    path: str, built: Built, asked: TestClient
) -> None:
    """As a form or a script of another site would: with the address that somebody has seen, and what browsers add."""
    token = BEARER["authorization"].split()[1]
    form = {"content-type": "application/x-www-form-urlencoded", "authorization": ""}
    for headers, status in (
        (form, 401),
        ({**form, "content-type": "text/plain", "origin": "null"}, 403),
        ({"origin": "http://evil.example"}, 403),
        ({"sec-fetch-site": "cross-site", "sec-fetch-mode": "cors"}, 403),
        ({"host": "evil.example"}, 403),
    ):
        answer = asked.post(f"/api/v1/trees/1{path}?token={token}", headers=headers, content=json.dumps({}))
        assert answer.status_code == status, headers
    assert asked.get(f"/api/v1/trees/1{path}").status_code == 405
    assert os.listdir(built.paths.requests) == []
