"""What pages show of a run that is on, of a damaged tree, of a colleague who looks on: blocks of `console in SCENE`.

The scene of a page is the reader's pipeline, at the point of which the page tells; its commands are run there. What is
another in each run (dates, pids, sizes, how long it took) is not compared: `documents.of_any_run`.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.fakes.parasol import CLIENT, VARIABLE, FakeParasol
from tests.fakes.terminal import Terminal
from tests.requirements import missing, require
from tests.system import documents
from tests.system.legacy_script import CHECKOUT
from tests.system.other_users import BECOME, FRIEND, GROUP
from tests.system.pipelines import variables, wait_until
from tests.system.scenes import HOWTO, PIPELINE, interrupt, program, shown
from tests.system.waiting import PAUSE, Bench, Running

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    """Where the reader of a page is."""
    with Bench(tmp_path) as made:
        made.write("pipeline.py", PAUSE, PIPELINE)
        yield made


def half_way(bench: Bench, *options: str, failed: int = 1) -> Running:
    """A run of which two targets are running, and the others have ended."""
    master = bench.start("pipeline.py", "--jobTree", "tree", "--wait", *options)
    for _ in range(2):
        bench.gate.arrival()
    wait_until(lambda: counts(bench) == (2, 1, failed, 3 - failed), "the others to end")
    return master


def counts(bench: Bench) -> tuple[int, ...]:
    """How many jobs are issued, blocked, failed, done."""
    told = json.loads(bench.run("jobTreeStatus", "--json", "tree").out)["counts"]
    return tuple(told[state] for state in ("issued", "blocked", "failed", "done"))


def test_see_and_steer(bench: Bench) -> None:
    program(bench.directory, "mail", 'printf "%s\\n" "$@" > "$HOME/mail"; cat >> "$HOME/mail"')
    half_way(bench)

    on_a_terminal("see-and-steer.md", bench.directory)
    assert shown("see-and-steer.md", bench.directory, "steering") == 7

    sent = (bench.directory / "mail").read_text().splitlines()
    assert sent[:3] == ["-s", "failed", "ada@example.org"]
    assert sent[3] == f"{bench.directory}/tonight: ended with failed jobs"


def on_a_terminal(page: str, directory: Path) -> None:
    """The command that leads into a debugger: to its prompt, and out of it."""
    (step,) = documents.steps((HOWTO / page).read_text(encoding="utf-8"), "pdb")
    terminal = Terminal(columns=200)
    environment = {
        **variables(),
        "PATH": f"{CHECKOUT / 'bin'}:{Path(sys.executable).parent}:{os.environ['PATH']}",
    }
    process = subprocess.Popen(
        ["bash", "-c", step.script], cwd=directory, env=environment,
        stdin=terminal.slave, stdout=terminal.slave, stderr=terminal.slave,
    )  # fmt: skip
    terminal.close_slave()
    try:
        terminal.wait_for(lambda: terminal.lines[-1:] == ["(Pdb)"], "the debugger's prompt")
        came = "\n".join(terminal.lines).replace(str(directory), documents.HOME)
        os.write(terminal.master, b"q\n")
        terminal.wait_for_end()
    finally:
        process.kill()
        process.wait()
        terminal.close()
    came, expected = (
        documents.of_any_run(re.sub(r"py\(\d+\)", "py(0)", text)) for text in (came, step.expected)
    )
    assert came.strip() == expected.strip()


def test_damaged_tree(bench: Bench) -> None:
    (bench.directory / "mended").touch()
    tree = bench.directory / "tree"
    master = half_way(bench, "--copyEvery", "0.3", failed=0)
    wait_until(
        lambda: "3 jobs done" in bench.run("jobTreeStatus", "--check", "tree").out, "a copy to be made"
    )
    master.send(signal.SIGKILL)
    master.ended()
    with open(tree / "outcomes" / "0" / "5", "r+b") as outcomes:
        frame = outcomes.read()[1:]
        outcomes.write(frame[:10])
    assert shown("damaged-tree.md", bench.directory, "torn") == 1

    with contextlib.closing(sqlite3.connect(tree / "tree.sqlite")) as database:
        database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    with open(tree / "tree.sqlite", "r+b") as file:
        file.seek(4096)
        file.write(bytes(8192))
    bench.gate.let_through(4)
    assert shown("damaged-tree.md", bench.directory, "damage", {documents.HOME: str(bench.directory)}) == 2


def test_weeks(bench: Bench) -> None:
    (bench.directory / "mended").touch()
    master = half_way(bench, failed=0)
    programs = {
        "/usr/bin/python3": str(Path(sys.executable).with_name("python3")),
        "/opt/jobtree": str(CHECKOUT),
    }

    assert shown("weeks.md", bench.directory, "weeks", programs) == 2
    bench.gate.let_through(2)
    master.ended().succeeded()
    assert shown("weeks.md", bench.directory, "finished") == 1


def test_parasol(bench: Bench) -> None:
    (bench.directory / "mended").touch()
    (bench.directory / "shared" / "ada").mkdir(parents=True)
    program(bench.directory, "parasol", f'exec {CLIENT} "$@"')
    here = {"/opt/parasol/bin": str(bench.directory / "bin")}
    with FakeParasol(bench.directory / "hub") as hub:
        environment = {VARIABLE: str(hub.directory)}
        assert shown("parasol.md", bench.directory, "parasol", here, **environment) == 2


# -- two terminals: what one shows goes on while the other is used -----------------------------------------------


@pytest.fixture
def open_bench() -> Iterator[Bench]:
    """The same in a directory through which others may go, as /tmp is and pytest's directories are not."""
    if os.geteuid() != 0:
        missing("only root can be other users")
    require("unshare")
    directory = Path(tempfile.mkdtemp(prefix="jobtree-test-"))
    directory.chmod(0o755)
    try:
        with Bench(directory) as made:
            made.write("pipeline.py", PAUSE, PIPELINE)
            yield made
    finally:
        shutil.rmtree(directory)


def test_share_a_tree(open_bench: Bench) -> None:
    directory = open_bench.directory
    (directory / "shared").mkdir(mode=0o755)
    groups = directory / "group"
    groups.write_text(Path("/etc/group").read_text() + f"lab:x:{GROUP}:\n")
    # Where the group is there: only what is started here sees that file in the place of the other.
    lab = f'mount --bind {groups} /etc/group; exec {sys.executable} "$@"'
    program(directory, "python", f"exec unshare --mount --propagation private sh -c '{lab}' python \"$@\"")

    with ThreadPoolExecutor() as terminals:
        try:
            owner = terminals.submit(shown, "share-a-tree.md", directory, "owner", WAIT="yes")
            arrivals(open_bench, owner)
            become = f'exec {sys.executable} -c "$BECOME" {FRIEND} \'[{GROUP}]\' jobTreeStatus "$@"'
            program(directory, "jobTreeStatus", become)
            assert shown("share-a-tree.md", directory, "colleague", BECOME=BECOME) == 1
        finally:
            open_bench.gate.let_through(2)
        assert owner.result() == 1


def arrivals(bench: Bench, terminal: Future[int]) -> None:
    """Wait until two targets of what a terminal has started are running."""
    for _ in range(2):
        bench.gate.arrival()
    assert not terminal.done()


def test_monitor(bench: Bench) -> None:
    require("curl")
    half_way(bench)
    with ThreadPoolExecutor() as terminals:
        server = terminals.submit(shown, "monitor.md", bench.directory, "watching")
        try:
            token = wait_for_token(bench.directory, server)
            here = {"8765": token.stem.rpartition("-")[2], "TOKENFILE": str(token)}
            assert shown("monitor.md", bench.directory, "asking", here) == 1
        finally:
            interrupt("jobTreeMonitor", bench.directory)
        assert server.result() == 1


def wait_for_token(home: Path, server: Future[int]) -> Path:
    """The file that a monitor has made, which listens by then."""
    wait_until(
        lambda: server.done() or list(home.glob(".local/state/jobtree/*.token")), "the monitor's token"
    )
    assert not server.done(), server.result()
    (token,) = home.glob(".local/state/jobtree/*.token")
    return token
