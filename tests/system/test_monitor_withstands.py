"""What jobTreeMonitor has to stand: clients of every kind, and trees that go, come back and cannot be written to."""

from __future__ import annotations

import contextlib
import os
import resource
import select
import shutil
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from jobtree.paths import job_id
from tests.system.monitoring import Monitor, serving
from tests.system.pipelines import wait_until
from tests.system.waiting import PAUSE, Bench
from tests.unit.test_snapshot import Built

_SECONDS = 60.0
_STREAMS = 100


@pytest.fixture
def built(tmp_path: Path) -> Iterator[Built]:
    """A tree on disk that nothing runs, and of which there is much to tell."""
    made = Built(tmp_path / "tree")
    made.grow(*((f"some.Class{n}{'x' * 400}", 0) for n in range(60)))
    ids = [job_id(1, n) for n in range(1, 61)]
    for attempt in (1, 2):
        made.issue(1 + attempt, *ids)
        for id in ids:
            made.fail(id, attempt)
        made.commit()
    yield made
    made.store.close()


@pytest.fixture
def monitor(tmp_path: Path, built: Built) -> Iterator[Monitor]:
    """It watches that tree; nothing is to be heard of it but the address."""
    with serving(tmp_path / "home", built.paths.root) as made:
        yield made
        if made.process.poll() is None:
            assert made.end() == 130
        assert made.process.stdout is not None
        assert made.process.stdout.read() == ""


def connected(monitor: Monitor, text: str = "") -> socket.socket:
    made = socket.create_connection(("127.0.0.1", monitor.port), _SECONDS)
    made.sendall(text.encode("latin-1"))
    return made


def head(monitor: Monitor, first: str, *more: str) -> str:
    lines = [first, f"Host: 127.0.0.1:{monitor.port}", f"Authorization: Bearer {monitor.token}", *more]
    return "\r\n".join([*lines, "", ""])


def all_that_comes(connection: socket.socket) -> bytes:
    """Until the other side has ended it."""
    parts = []
    with contextlib.suppress(ConnectionResetError):
        while part := connection.recv(1 << 16):
            parts.append(part)
    return b"".join(parts)


def until(connection: socket.socket, end: bytes) -> bytes:
    found = b""
    while end not in found:
        part = connection.recv(1 << 16)
        assert part, found
        found += part
    return found


def test_a_hundred_listen_and_each_hears_of_it(built: Built, monitor: Monitor) -> None:
    with contextlib.ExitStack() as stack:
        streams = [
            stack.enter_context(connected(monitor, head(monitor, "GET /api/v1/events HTTP/1.1")))
            for _ in range(_STREAMS)
        ]
        for stream in streams:
            assert until(stream, b"event: tree\n").startswith(b"HTTP/1.1 200")
        assert monitor.told("/1")["counts"]["failed"] == 60
        built.store.set("paused", "ada")
        built.store.commit()
        built.store.begin()
        for stream in streams:
            until(stream, b'"paused": "ada"')
        # All at once: they are let go, and it ends.
        assert monitor.end() == 130


def test_whoever_never_reads_holds_nobody_up(monitor: Monitor) -> None:
    with contextlib.ExitStack() as stack:
        for _ in range(60):
            deaf = stack.enter_context(socket.socket())
            deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            deaf.connect(("127.0.0.1", monitor.port))
            deaf.sendall(head(monitor, "GET /api/v1/events HTTP/1.1").encode())
        events = monitor.events()
        for _ in range(12):
            next(events)
        before = psutil.Process(monitor.process.pid).memory_info().rss
        told = 0
        while told < 1 << 20:
            told += len(str(next(events)[1]))
        after = psutil.Process(monitor.process.pid).memory_info().rss
        assert after - before < 20 << 20, "of what they do not read, 60 MB, nothing is kept"
        assert monitor.told("/1")["state"] == "interrupted"
        assert monitor.end() == 130


GARBAGE = [
    "\r\n\r\n",
    "\0" * 4096,
    "GET\r\n\r\n",
    "GET / HTTP/9.9\r\n\r\n",
    "GET / HTTP/1.1\r\n\r\n",
    "GET  /  HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n",
    "GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nHost: evil.example\r\n\r\n",
    "GET / HTTP/1.1\r\nHost : 127.0.0.1\r\n\r\n",
    "GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n folded: yes\r\n\r\n",
    "GET / HTTP/1.1\nHost: 127.0.0.1\n\n",
    f"GET /{'a' * 70_000} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n",
    f"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nX: {'a' * 70_000}\r\n\r\n",
    "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + "x" * 200,
    "GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n",
    "CONNECT 127.0.0.1:22 HTTP/1.1\r\nHost: 127.0.0.1:22\r\n\r\n",
    "GET http://127.0.0.1/\0 HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n",
]


def test_garbage_is_refused_or_not_answered(monitor: Monitor) -> None:
    for text in GARBAGE:
        with connected(monitor, text) as connection:
            connection.shutdown(socket.SHUT_WR)
            answer = all_that_comes(connection)
        assert not answer or answer.split(b" ")[1][:1] == b"4", (text[:60], answer[:200])
        assert b"Traceback" not in answer
    assert monitor.told("/1")["state"] == "interrupted"


SMUGGLED = "GET /api/v1/openapi.json HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"


UNCLEAR = [
    ["Content-Length: 0", f"Content-Length: {len(SMUGGLED)}"],
    ["Content-Length: 4", "Transfer-Encoding: chunked"],
    ["Transfer-Encoding: chunked", "Content-Length: 4"],
    ["Transfer-Encoding: identity, chunked"],
    ["Transfer-Encoding : chunked"],
    ["Transfer-Encoding: \x0bchunked"],
    ["Content-Length: +0"],
    ["Content-Length: 0, 0, 5"],
    ["Content-Length: 0x0"],
]


def test_nobody_can_hide_one_request_in_another(built: Built, monitor: Monitor) -> None:
    """What is not clear about where a request ends is refused, and with it all that follows on the connection."""
    for headers in UNCLEAR:
        text = head(monitor, "POST /api/v1/trees/1/pause HTTP/1.1", *headers) + "0\r\n\r\n" + SMUGGLED
        with connected(monitor, text) as connection:
            answer = all_that_comes(connection)
        statuses = [part.split(b" ")[0] for part in answer.split(b"HTTP/1.1 ")[1:]]
        assert statuses in ([b"400"], [b"413"]), (headers, answer[:400])
    assert os.listdir(built.paths.requests) == []


def test_a_request_that_is_never_finished_holds_nobody_up(monitor: Monitor) -> None:
    with contextlib.ExitStack() as stack:
        for _ in range(50):
            stack.enter_context(connected(monitor, "GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Slow: "))
            stack.enter_context(
                connected(monitor, head(monitor, "POST /api/v1/trees/1/pause HTTP/1.1", "Content-Length: 5"))
            )
        assert monitor.told("/1")["state"] == "interrupted"


def nudge(slow: socket.socket) -> bool:
    """Send one more byte, when nothing has come for a moment. False: the connection is closed."""
    try:
        ready, _, _ = select.select([slow], [], [], 0.1)
        if ready:
            return bool(slow.recv(1 << 16))
        slow.sendall(b"x")
    except (ConnectionResetError, BrokenPipeError):
        return False
    return True


@pytest.mark.slow
def test_more_requests_that_are_never_finished_than_are_served_end_by_themselves(
    built: Built, monitor: Monitor
) -> None:
    post = head(monitor, "POST /api/v1/trees/1/pause HTTP/1.1", "Content-Length: 5")
    whole = head(monitor, "GET /api/v1/trees HTTP/1.1")
    begun = ["", "GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Slow: ", post, post + "abc", whole + "GET /api/"]
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(connected(monitor, head(monitor, "GET /api/v1/events HTTP/1.1")))
        until(listener, b"event: tree\n")
        rude = [stack.enter_context(connected(monitor, text)) for text in begun for _ in range(50)]
        slow = stack.enter_context(connected(monitor, begun[1]))
        while nudge(slow):
            pass
        for connection in rude:
            all_that_comes(connection)
        assert monitor.told("/1")["state"] == "interrupted"
        built.store.set("paused", "ada")
        built.store.commit()
        built.store.begin()
        until(listener, b'"paused": "ada"')  # who has asked, and is being answered, is not meant
        assert os.listdir(built.paths.requests) == []


def test_a_tree_that_is_removed_and_made_anew(built: Built, monitor: Monitor, tmp_path: Path) -> None:
    events = monitor.events()
    next(v for k, v in events if k == "tree")
    built.store.close()
    os.rename(
        built.paths.root, tmp_path / "elsewhere"
    )  # whoever removes a tree while it is read may have to try twice
    shutil.rmtree(tmp_path / "elsewhere")
    gone = next(v for k, v in events if k == "tree" and v["trouble"])
    assert gone["counts"]["failed"] == 60, "what was seen last stays"
    assert monitor.client.get("/api/v1/trees/1/jobs").status_code == 503
    assert monitor.client.get("/metrics").text.count("jobtree_up{") == 1
    answer = monitor.client.post("/api/v1/trees/1/pause")
    assert answer.status_code == 404
    assert "does not exist" in answer.json()["error"]
    assert not os.path.exists(built.paths.root), "nothing is written there any more"

    again = Built(Path(built.paths.root))
    new = {"ready": 1, "issued": 0, "blocked": 0, "failed": 0, "done": 0}
    next(v for k, v in events if k == "tree" and not v["trouble"] and v["counts"] == new)
    again.store.close()


def test_a_disk_that_takes_nothing_more(built: Built, monitor: Monitor) -> None:
    resource.prlimit(monitor.process.pid, resource.RLIMIT_FSIZE, (0, 0))
    answer = monitor.client.post("/api/v1/trees/1/retry").json()
    assert not answer["done"]
    assert "File too large" in answer["words"]
    assert monitor.told("/1")["trouble"] is None, "reading goes on"
    assert not [name for name in os.listdir(built.paths.requests) if name.endswith(".json")]


def test_a_master_that_dies_and_is_started_again(tmp_path: Path) -> None:
    script = """
        import sys
        from jobtree import Stack, Target

        def root(target):
            pause()

        if __name__ == "__main__":
            options = Stack.getDefaultOptions()
            options.jobTree = "tree"
            sys.exit(Stack(Target.makeTargetFn(root)).startJobTree(options))
    """
    with Bench(tmp_path) as bench:
        bench.write("script.py", PAUSE, script)
        first = bench.start("script.py")
        bench.gate.arrival()
        with serving(tmp_path / "home", tmp_path / "tree") as monitor:
            events = monitor.events()
            next(v for k, v in events if k == "tree" and v["state"] == "running")
            first.send(signal.SIGKILL)
            first.process.wait()
            next(v for k, v in events if k == "tree" and v["state"] == "interrupted")
            # What is ordered meanwhile is done by the next one, before anything else.
            assert (
                "no master runs the tree now" in monitor.client.post("/api/v1/trees/1/pause").json()["words"]
            )
            second = bench.start("script.py")
            paused = next(v for k, v in events if k == "tree" and v["paused"])
            assert paused["master"]["pid"] == second.pid
            assert monitor.client.post("/api/v1/trees/1/goOn").json()["done"]
            bench.gate.arrival()
            bench.gate.let_through(1)
            second.ended().succeeded()
            next(v for k, v in events if k == "tree" and v["state"] == "complete")


def test_a_gone_listener_is_forgotten(monitor: Monitor) -> None:
    process = psutil.Process(monitor.process.pid)
    before = process.num_fds()
    for _ in range(30):
        with connected(monitor, head(monitor, "GET /api/v1/events HTTP/1.1")) as stream:
            until(stream, b"event: tree\n")
    wait_until(lambda: process.num_fds() <= before + 3, "the connections that are gone to be closed")
