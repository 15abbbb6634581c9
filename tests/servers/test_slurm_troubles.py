"""Pipelines on a real SLURM with accounting and control groups: what runs out gets more, and long outages."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import psutil
import pytest

from tests.servers.slurm import SlurmServer
from tests.servers.test_slurm_runs import OPTIONS, SHIM, queue, token
from tests.system import pipelines
from tests.system.pipelines import IMPORTS, MAIN
from tests.system.test_outliving import PIPELINE, complete, counted, leftovers
from tests.system.waiting import PAUSE, SERVER_SECONDS, Bench, Running

pytestmark = [
    pytest.mark.servers, pytest.mark.xdist_group("slurm"), pytest.mark.slow, pytest.mark.timeout(900)
]  # fmt: skip

wait_until = partial(pipelines.wait_until, seconds=SERVER_SECONDS)

EATER = """
class Setup(Target):
    def run(self):
        eaten = bytearray(320 << 20)
        note("fed")
"""


@pytest.fixture
def server(slurm_server_with_accounting: SlurmServer) -> SlurmServer:
    return slurm_server_with_accounting


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, server: SlurmServer) -> Iterator[Bench]:
    bin_ = tmp_path / "bin"
    bin_.mkdir()
    for name in ("sbatch", "squeue", "sacct"):
        (bin_ / name).write_text(SHIM.format(name=name, directory=tmp_path))
        (bin_ / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{bin_}:{os.environ['PATH']}")
    with Bench(tmp_path, SERVER_SECONDS) as made:
        yield made


def start(bench: Bench, *options: str) -> Running:
    return bench.start("pipeline.py", "--jobTree", str(bench.directory / "tree"), *OPTIONS, *options)


def test_what_ran_out_of_memory_gets_more(bench: Bench) -> None:
    bench.write("pipeline.py", IMPORTS, EATER, MAIN)

    ran = start(bench, "--defaultMemory", "256M", "--doubleMem", "--retryCount", "0").ended()

    ran.succeeded()
    assert "OUT_OF_MEMORY" in ran.err
    assert "--doubleMem gives it 512 MiB now" in ran.err
    assert bench.lines("notes") == ["fed"]


def test_what_ran_out_of_time_gets_more(
    bench: Bench, server: SlurmServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SLURM's limits are whole minutes, and it looks at them twice a minute; the operator shortens the first one."""
    monkeypatch.setenv("CHILDREN", "1")
    bench.write("pipeline.py", IMPORTS, PAUSE, PIPELINE, MAIN)
    run = start(bench, "--defaultTime", "4m", "--doubleTime", "--retryCount", "0")
    first = bench.gate.arrival()
    limited = jobs(bench, server)
    assert len(limited) == 1
    server.run("scontrol", "update", f"JobId={next(iter(limited))}", "EndTime=now+1")

    bench.gate.arrival()
    assert not psutil.pid_exists(first)
    again = jobs(bench, server)
    bench.gate.let_through(1)
    ran = run.ended()

    ran.succeeded()
    assert "--doubleTime gives it 8m 0s now" in ran.err
    assert (*limited.values(), *again.values()) == ("6:00", "11:00"), "a quarter and a minute more"
    assert bench.lines("notes") == ["0", "0", "0 ended", "sum 0"]


def jobs(bench: Bench, server: SlurmServer) -> dict[str, str]:
    """The jobs of a run that are running, and their time limits."""
    told = server.run(
        "squeue", "--noheader", "--array", "--states=RUNNING", f"--name={token(bench)}", "--format=%i %l"
    ).split()
    return dict(zip(told[::2], told[1::2]))


def test_controller_and_accounts_are_away_for_long(
    bench: Bench, server: SlurmServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For several questions, over the death of the master too: running work goes on and is taken over, new waits."""
    monkeypatch.setenv("CHILDREN", "6")
    bench.write("pipeline.py", IMPORTS, PAUSE, PIPELINE, MAIN)
    master = start(bench)
    running = [bench.gate.arrival() for _ in range(6)]
    before = set(queue(bench, server))
    for name in ("slurmctld", "slurmdbd"):
        server.daemons.stop(name)
    try:
        bench.gate.let_through(2)
        wait_until(lambda: ends(bench) == 2, "the end of two without a controller")
        questions = asked(bench)
        wait_until(lambda: asked(bench) >= questions + 2, "questions in vain")
        assert "SLURM cannot be asked now" in (bench.directory / "err.0").read_text()
        master.send(signal.SIGKILL)
        master.ended()

        second = start(bench)
        err = bench.directory / "err.1"
        wait_until(lambda: "cannot be asked now" in err.read_text(), "that it knows of nothing")
        bench.gate.let_through(4)
        wait_until(lambda: ends(bench) == 6, "the end of the others")
        wait_until(lambda: "SLURM does not take 1 jobs now" in err.read_text(), "that the follow-on is kept")
        assert second.process.poll() is None
    finally:
        server.start()

    second.ended().succeeded()

    assert counted(bench) == complete(6)
    assert not any(psutil.pid_exists(pid) for pid in running)
    assert leftovers(bench) == []
    after = set(queue(bench, server))
    assert before <= after
    assert len(after) == 8, "the root, its children, their follow-on: nothing was submitted twice"


def asked(bench: Bench) -> int:
    return (bench.directory / "calls").read_text().split().count("squeue")


def ends(bench: Bench) -> int:
    return sum("ended" in line for line in bench.lines("notes"))
