"""Runs over real ssh: connections, hosts and masters end in the middle of jobs, and nothing runs twice.

Hosts are sshd's on loopback addresses, or network namespaces whose cable is taken out.
"""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.conformance.scene import is_alive
from tests.servers import netns, sshd
from tests.servers.netns import NetHosts
from tests.servers.sshd import SshServer
from tests.system.legacy_script import CHECKOUT
from tests.system.pipelines import IMPORTS, MAIN, wait_until
from tests.system.test_outliving import PIPELINE, complete, counted, leftovers
from tests.system.waiting import PAUSE, Bench, Running, gone

pytestmark = [pytest.mark.servers, pytest.mark.slow, pytest.mark.xdist_group("ssh")]

ONE, TWO = "host1 cores=2 memory=2G", "host2 cores=2 memory=2G"


@pytest.fixture(scope="module")
def _loopback() -> Iterator[SshServer]:
    sshd.require_installed()
    with sshd.start(hosts=3) as started:
        yield started


@pytest.fixture
def server(_loopback: SshServer) -> Iterator[SshServer]:
    _loopback.start_all()
    _loopback.write_hosts(ONE, TWO)
    yield _loopback
    _loopback.know()
    _loopback.empty()


@pytest.fixture(scope="module")
def _network() -> Iterator[NetHosts]:
    netns.require_installed()
    with netns.start() as started:
        yield started


@pytest.fixture
def network(_network: NetHosts) -> Iterator[NetHosts]:
    for host in _network.hosts:
        _network.plug(host)
    _network.start_all()
    _network.write_hosts(ONE, TWO)
    yield _network
    _network.empty()


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    with Bench(tmp_path) as made:
        made.write("pipeline.py", IMPORTS, PAUSE, PIPELINE, MAIN)
        yield made


def options(server: SshServer, lease: str = "30") -> list[str]:
    arguments = f"{server.arguments} -o ServerAliveInterval=1 -o ServerAliveCountMax=2 -o ConnectTimeout=2"
    return [
        "--batchSystem", "ssh", "--sshHosts", server.path("hosts"), "--sshArgs", arguments, "--lease", lease, "--grace",
        "1", "--jobTime", "0", "--logInfo", "--defaultMemory", "64M",
    ]  # fmt: skip


def start(bench: Bench, server: SshServer, lease: str = "30", *more: str) -> Running:
    tree = str(bench.directory / "tree")
    return bench.start("pipeline.py", "--jobTree", tree, *options(server, lease), *more)


def arrivals(bench: Bench, number: int) -> list[int]:
    return [bench.gate.arrival() for _ in range(number)]


def said(bench: Bench, words: str, run: int = 0) -> None:
    """Wait until a master has said something."""
    wait_until(lambda: words in (bench.directory / f"err.{run}").read_text(), words)


def test_two_hosts_from_beginning_to_end(bench: Bench, server: SshServer) -> None:
    run = start(bench, server)
    arrivals(bench, 4)  # all at once: two cores of each
    bench.gate.let_through(4)

    run.ended().succeeded()

    assert counted(bench) == complete(4)
    assert leftovers(bench) == []


def test_connections_are_killed_and_no_job_notices(bench: Bench, server: SshServer) -> None:
    run = start(bench, server)
    arrived = arrivals(bench, 4)

    for host in ("host1", "host2"):
        server.cut(host)
    said(bench, "cannot be reached")
    assert all(psutil.pid_exists(pid) for pid in arrived)
    bench.gate.let_through(4)

    run.ended().succeeded()
    assert counted(bench) == complete(4)
    assert leftovers(bench) == []


def test_the_master_is_killed_and_what_runs_is_waited_for(bench: Bench, server: SshServer) -> None:
    first = start(bench, server)
    arrived = arrivals(bench, 4)
    first.send(signal.SIGKILL)
    first.ended()

    second = start(bench, server)
    said(bench, "are waited for", 1)
    assert all(psutil.pid_exists(pid) for pid in arrived)
    bench.gate.let_through(4)

    second.ended().succeeded()
    assert counted(bench) == complete(4)
    assert leftovers(bench) == []


@pytest.mark.parametrize("master", ["lives", "is gone"])
def test_jobtreekill_ends_everything(bench: Bench, server: SshServer, master: str) -> None:
    run = start(bench, server)
    arrived = arrivals(bench, 4)
    if master == "is gone":
        run.send(signal.SIGKILL)
        run.ended()

    killed = bench.run("jobTreeKill", "tree")

    assert killed.status == 0, killed.err
    assert gone(arrived)
    run.ended()
    assert "sum 6" not in counted(bench)


def test_a_host_that_is_gone_at_the_start_is_named_and_done_without(bench: Bench, server: SshServer) -> None:
    server.down("host2")
    bench.gate.let_through(4)

    ran = start(bench, server).ended()

    ran.succeeded()
    assert "host2: not usable" in ran.err
    assert counted(bench) == complete(4)


def test_a_host_with_another_key_is_not_talked_to(bench: Bench, server: SshServer) -> None:
    server.know(keys={"host1": "host3", "host2": "host3"})

    ran = start(bench, server).ended()

    assert ran.status == 2
    assert "Host key verification failed" in ran.err
    assert "Traceback" not in ran.err
    assert bench.lines("notes") == []


def test_one_session_a_host_is_enough(bench: Bench, server: SshServer) -> None:
    for host in ("host1", "host2"):
        server.down(host)
        server.start(host, "MaxSessions 1", "MaxStartups 1")
    try:
        run = start(bench, server)
        arrivals(bench, 4)
        bench.gate.let_through(4)
        run.ended().succeeded()
    finally:
        for host in ("host1", "host2"):
            server.down(host)

    assert counted(bench) == complete(4)


def test_the_hosts_file_is_edited_while_the_run_goes_on(
    bench: Bench, server: SshServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A host is added, another drained, and a third removed: what runs goes on, and nothing new is started there."""
    monkeypatch.setenv("CHILDREN", "8")
    server.write_hosts(ONE)
    run = start(bench, server)
    first = arrivals(bench, 2)
    server.write_hosts(f"{ONE} drain", TWO)
    said(bench, "host2: connected")
    second = arrivals(bench, 2)
    server.write_hosts(f"{ONE} cores", TWO)  # a mistake
    said(bench, "The hosts stay as they were")
    server.write_hosts("host3 cores=4 memory=2G")
    said(bench, "host3: connected")
    third = arrivals(bench, 4)

    assert all(psutil.pid_exists(pid) for pid in (*first, *second, *third))
    bench.gate.let_through(8)

    run.ended().succeeded()
    assert counted(bench) == complete(8)
    assert leftovers(bench) == []


def test_a_host_on_which_bundles_die_at_once_is_named_and_done_without(
    bench: Bench, server: SshServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its Python answers whoever looks at it, and starts no job: a broken installation, as far as anybody can see."""
    monkeypatch.setenv("CHILDREN", "8")
    broken = tmp_path / "broken-python"
    broken.write_text(
        f'#!/bin/sh\ncase "$1" in -I|-c) exec {sys.executable} "$@";; esac\necho no licence >&2\nexit 3\n'
    )
    broken.chmod(0o755)
    server.write_hosts(ONE, f"{TWO} python={broken}")
    bench.gate.let_through(8)

    ran = start(bench, server).ended()

    ran.succeeded()
    assert "bundles die on host2 before they have begun: it is avoided for 10m" in ran.err, ran.err
    assert counted(bench) == complete(8)
    assert leftovers(bench) == []


def test_the_hosts_are_checked(bench: Bench, server: SshServer) -> None:
    server.write_hosts(ONE, TWO, "host3 cores=1 memory=1G python=/nowhere/python")

    checked = bench.run(
        "jobTreeRun", "--jobTree", str(bench.directory / "tree"), "--checkHosts", *options(server)
    )

    assert checked.status == 1, checked.err
    assert "files are seen after" in checked.out
    assert "host3: not usable" in checked.out
    assert "/nowhere/python" in checked.out
    assert not (bench.directory / "tree").exists()
    server.write_hosts(ONE, "host4 cores=x memory=1G")
    mistaken = bench.run("jobTreeRun", "--jobTree", "tree", "--checkHosts", *options(server))
    assert mistaken.status == 2
    assert "line 2: cores=x" in mistaken.err


def test_sorting_on_two_hosts_is_killed_and_goes_on(bench: Bench, server: SshServer) -> None:
    lines = [f"{number * 7919 % 10007}\n" for number in range(10007)]
    (bench.directory / "big").write_text("".join(lines))
    command = [
        str(CHECKOUT / "examples" / "sort.py"), "--fileToSort", "big", "--output", "sorted", "--N", "20000",
        "--jobTree", "tree", *options(server),
    ]  # fmt: skip
    first = bench.start(*command)
    wait_until(lambda: any(Path(server.jobs).rglob("child")), "the first job")
    first.send(signal.SIGKILL)
    first.ended()

    bench.run(*command).succeeded()

    assert (bench.directory / "sorted").read_text() == "".join(sorted(lines))
    assert leftovers(bench) == []


@pytest.mark.skipif(sys.platform != "linux", reason="network namespaces are Linux's")
class TestNetwork:
    def test_a_cable_is_out_for_a_while(self, bench: Bench, network: NetHosts) -> None:
        run = start(bench, network)
        arrived = arrivals(bench, 4)

        network.unplug("host1")
        said(bench, "host1 cannot be reached")
        assert all(psutil.pid_exists(pid) for pid in arrived)
        network.plug("host1")
        bench.gate.let_through(4)

        run.ended().succeeded()
        assert counted(bench) == complete(4)
        assert leftovers(bench) == []

    def test_a_host_that_is_out_of_reach_but_lives_is_waited_for(
        self, bench: Bench, network: NetHosts
    ) -> None:
        """Its jobs count as lost to ssh, and show signs of life in the job tree: they are not run again."""
        run = start(bench, network, "30", "--sshPatience", "1")
        arrived = arrivals(bench, 4)

        network.unplug("host1")
        said(bench, "host1 cannot be reached")
        bench.gate.let_through(4)
        assert gone(arrived)

        run.ended().succeeded()
        assert counted(bench) == complete(4)

    def test_a_host_loses_its_power(self, bench: Bench, network: NetHosts) -> None:
        """Its jobs run elsewhere when their lease has surely run out, and only once."""
        run = start(bench, network, "4", "--sshPatience", "1")
        arrived = arrivals(bench, 4)

        network.crash("host1")
        assert [is_alive(pid) for pid in arrived].count(False) == 2
        bench.gate.let_through(6)

        run.ended().succeeded()
        found = {line: number for line, number in counted(bench).items() if "ended" in line or "sum" in line}
        assert found == {line: 1 for line in complete(4) if "ended" in line or "sum" in line}
        assert leftovers(bench) == []
