"""jobTreeMonitor as a process, beside runs that go on, end and die."""

from __future__ import annotations

import os
import signal
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Callable

import psutil
import pytest

from jobtree.monitor import security
from tests.system.legacy_script import CHECKOUT
from tests.system.monitoring import Monitor, serving
from tests.system.waiting import PAUSE, Bench, Running
from tests.unit.test_snapshot import Built

SCRIPT = """
import argparse, sys
from jobtree import Stack, Target

def root(target):
    for n in range(6):
        target.addChildFn(leaf, args=(n,))

def leaf(n):
    print("leaf", n, "<b>speaks</b>", flush=True)
    if n == 1:
        raise ValueError("one is <i>no</i> good")
    if n >= 3:
        pause()

if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    Stack.addJobTreeOptions(parser)
    options = parser.parse_args()
    sys.exit(1 if Stack(Target.makeTargetFn(root)).startJobTree(options) else 0)
"""


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    with Bench(tmp_path) as made:
        made.write("script.py", PAUSE + SCRIPT)
        yield made


@pytest.fixture
def built(tmp_path: Path) -> Iterator[Path]:
    """A tree on disk that nothing runs."""
    made = Built(tmp_path / "built")
    yield tmp_path / "built"
    made.store.close()


@pytest.fixture
def running(bench: Bench) -> Running:
    """A run of which one leaf waits at the gate, one has failed and two are done."""
    running = bench.start("script.py", "--jobTree", "tree", "--maxThreads", "1", "--retryCount", "0")
    bench.gate.arrival()
    return running


@pytest.fixture
def monitor(bench: Bench, running: Running) -> Iterator[Monitor]:
    with serving(bench.directory / "home", bench.directory / "tree") as made:
        yield made


def test_a_run_is_seen_to_go_on_and_to_end(bench: Bench, running: Running, monitor: Monitor) -> None:
    events = monitor.events()
    seen = [value for kind, value in (next(events) for _ in range(4)) if kind == "tree"]
    assert seen[0]["state"] == "running"
    assert seen[0]["master"]["pid"] == running.pid
    assert seen[0]["slots"]["most"] == 1
    (at_gate,) = next(v for k, v in events if k == "tree" and v["running"])["running"]
    assert at_gate["name"] == "script.leaf"
    assert monitor.told("/1/running")[0]["job"] == at_gate["job"]
    assert monitor.told(f"/1/jobs/{at_gate['job']}/log")["output"] == "leaf 3 <b>speaks</b>\n"

    bench.gate.let_through(1)
    at_next = next(v for k, v in events if k == "tree" and v["counts"]["done"] == 3 and v["running"])
    assert [job["job"] for job in at_next["running"]] != [at_gate["job"]]
    bench.gate.let_through(2)
    running.ended().failed()
    last = next(v for k, v in events if k == "tree" and v["state"] == "failed")
    assert (last["counts"]["done"], last["counts"]["failed"]) == (5, 1)
    assert last["master"] is None
    (failed,) = last["failed"]
    assert failed["message"] == "ValueError: one is <i>no</i> good"
    assert monitor.told(f"/1/jobs/{failed['job']}/log")["output"] == "leaf 1 <b>speaks</b>\n"
    succeeded = [point["succeeded"] for point in monitor.told("/1/history")]
    assert succeeded == sorted(succeeded)
    assert succeeded[-1] == 6


def test_killing_the_monitor_disturbs_nothing(bench: Bench, running: Running, monitor: Monitor) -> None:
    events = monitor.events()
    next(events)
    monitor.process.kill()
    monitor.process.wait()
    bench.gate.let_through(3)
    running.ended().failed()
    assert "5 done" in " ".join(bench.run("jobTreeStatus", "tree").succeeded().out.split())


def test_killing_the_master_is_seen(running: Running, monitor: Monitor) -> None:
    events = monitor.events()
    next(v for k, v in events if k == "tree" and v["state"] == "running")
    running.send(signal.SIGKILL)
    running.process.wait()
    last = next(v for k, v in events if k == "tree" and v["state"] != "running")
    assert last["state"] == "interrupted"
    assert last["running"] is None


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_it_ends_at_once_and_leaves_nothing(
    number: signal.Signals, status: int, bench: Bench, monitor: Monitor
) -> None:
    (token,) = (bench.directory / "home" / "jobtree").iterdir()
    assert stat.S_IMODE(token.stat().st_mode) == 0o600
    assert stat.S_IMODE(token.parent.stat().st_mode) == 0o700
    assert token.read_text() == monitor.token
    events = monitor.events()  # somebody listens: it must not wait for them
    next(events)
    assert monitor.end(number) == status
    assert monitor.process.stdout is not None
    assert monitor.process.stdout.read() == ""
    assert not token.exists()


def test_it_is_there_for_this_machine_alone(monitor: Monitor) -> None:
    connections = psutil.Process(monitor.process.pid).net_connections("inet")
    assert [each.laddr.ip for each in connections if each.status == psutil.CONN_LISTEN] == ["127.0.0.1"]


def test_paths_that_no_client_sends(monitor: Monitor) -> None:
    """Clients take `..` away before they send a path; these go over the wire as they are."""
    for path in (
        "/static/../../../etc/passwd", "//etc/passwd", "/api/v1/trees/../../x", "http://evil.example/", "*",
        f"/static/{security.folder(monitor.token)}/../../cli/monitor.py",
    ):  # fmt: skip
        head = f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {monitor.token}\r\n"
        with socket.create_connection(("127.0.0.1", monitor.port), 60) as connection:
            connection.sendall(f"{head}Connection: close\r\n\r\n".encode())
            answer = b"".join(iter(lambda: connection.recv(4096), b""))  # noqa: B023
        assert answer.startswith((b"HTTP/1.1 404", b"HTTP/1.1 400", b"HTTP/1.1 401")), path
        assert b"root:" not in answer
        assert b"argparse" not in answer


def test_a_file_with_the_token_that_is_kept(bench: Bench, built: Path) -> None:
    file = bench.directory / "token"
    for _ in range(2):
        with serving(bench.directory / "home", built, "--tokenFile", file) as monitor:
            assert stat.S_IMODE(file.stat().st_mode) == 0o600
            assert file.read_text() == monitor.token
            assert monitor.end() == 130
    assert not (bench.directory / "home").exists()


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (
            lambda path: path.write_text("t" * 43) and path.chmod(0o644),
            "is not a file that you alone can read",
        ),
        (lambda path: path.write_text("short") and path.chmod(0o600), "holds no token"),
        (lambda path: path.symlink_to("/etc/hostname"), "cannot be read"),
        (lambda path: os.mkfifo(path, 0o600), "is not a file that you alone can read"),
    ],
)
def test_files_that_hold_no_secret(
    make: Callable[[Path], object], words: str, bench: Bench, built: Path
) -> None:
    make(bench.directory / "token")
    ran = bench.run("jobTreeMonitor", str(built), "--tokenFile", "token")
    assert ran.status == 2
    assert words in ran.err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["nowhere"], "nowhere does not exist"),
        ([], "no job tree was given"),
        (["--port", "99999", "."], "a number up to 65535 is expected"),
        (["--every", "0", "."], "0.2 s is the least"),
        (["."], "is not a job tree"),
    ],
)
def test_misuse(arguments: list[str], words: str, bench: Bench) -> None:
    ran = bench.run("jobTreeMonitor", *arguments)
    assert ran.status == 2
    assert words in " ".join(ran.err.split())


def test_a_port_that_is_taken(bench: Bench, built: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        ran = bench.run("jobTreeMonitor", str(built), "--port", str(taken.getsockname()[1]))
    assert ran.status == 2
    assert "cannot be used" in ran.err
    assert "Traceback" not in ran.err


def test_without_the_extra_it_says_what_to_install(tmp_path: Path) -> None:
    program = (
        "import sys; sys.modules['uvicorn'] = None\n"
        "from jobtree.cli import monitor\n"
        "sys.exit(monitor.main(['.']))"
    )
    ran = subprocess.run(
        [sys.executable, "-c", program],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(CHECKOUT)},
        capture_output=True,
        text=True,
    )
    assert ran.returncode == 2
    assert "pip install 'jobtree[monitor]'" in ran.stderr
