"""Runs in a pool: real Redis, real nodes. Everything is killed, restarted, stopped or forgotten while targets run."""

from __future__ import annotations

import json
import random
import signal
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from batchsystems.abstract import EndKind, NeverFits, Resources, Submission
from batchsystems.pool import Pool
from batchsystems.pool_hub import Hub
from batchsystems.pool_signing import load_key
from tests.servers import redis
from tests.servers.cable import Cable
from tests.servers.pool_nodes import RunningPool, log_of
from tests.servers.redis import RedisServer, Variant
from tests.system.pipelines import IMPORTS, MAIN, wait_until
from tests.system.test_outliving import PIPELINE, complete, counted, leftovers
from tests.system.waiting import PAUSE, Bench, Running, gone

pytestmark = [pytest.mark.servers, pytest.mark.slow, pytest.mark.xdist_group("pool")]

LEASE = ("--lease", "30", "--grace", "1", "--jobTime", "0", "--logInfo")


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    redis.require_installed()
    with redis.start() as started:
        yield started


@pytest.fixture
def pool(server: RedisServer, tmp_path: Path) -> Iterator[RunningPool]:
    server.start()
    server.ask("FLUSHALL")
    with RunningPool(server, tmp_path / "pool") as made:
        yield made


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    with Bench(tmp_path) as made:
        made.write("pipeline.py", IMPORTS, PAUSE, PIPELINE, MAIN)
        yield made


def start(bench: Bench, pool: RunningPool, *options: str) -> Running:
    tree = str(bench.directory / "tree")
    return bench.start(
        "pipeline.py", "--jobTree", tree, *LEASE, *pool.options(), "--defaultMemory", "64M", *options
    )


def ended_once(bench: Bench, children: int = 4) -> None:
    """Each target's effect counts once, although one that was killed has begun more than once."""
    found = {line: n for line, n in counted(bench).items() if "ended" in line or "sum" in line}
    assert found == {line: 1 for line in complete(children) if "ended" in line or "sum" in line}


@pytest.mark.parametrize(
    "variant", [Variant(users=True), Variant(users=True, tls=True)], ids=["password", "password and TLS"]
)
def test_a_run_with_access_control(bench: Bench, tmp_path: Path, variant: Variant) -> None:
    """With the rights of the how-to; and what must not be seen is nowhere to be seen."""
    redis.require_installed()
    (tmp_path / "hub").mkdir()
    with (
        redis.start(str(tmp_path / "hub"), variant) as server,
        RunningPool(server, tmp_path / "pool") as pool,
    ):
        pool.start()
        bench.gate.let_through(4)

        run = start(bench, pool)
        ran = run.ended()

        ran.succeeded()
        assert counted(bench) == complete(4)
        assert leftovers(bench) == []
        seen = ran.out + ran.err + log_of(pool) + (tmp_path / "tree" / "settings.json").read_text()
        assert redis.PASSWORD not in seen
        for what in ("nodes", "runs"):
            shown = bench.run(
                "jobTreePool", *server.options("--"), "--keyFile", str(pool.key_file), "list", what
            )
            assert shown.status == 0, shown.err
        wrong = tmp_path / "wrong"
        wrong.write_text("something else")
        wrong.chmod(0o600)
        refused = start(bench, pool, "--jobTree", "other", "--poolPasswordFile", str(wrong)).ended()
        assert refused.status == 2
        assert "does not let" in refused.err


def test_the_master_is_killed_and_what_runs_is_waited_for(bench: Bench, pool: RunningPool) -> None:
    pool.start(2)
    first = start(bench, pool)
    arrived = [bench.gate.arrival(), bench.gate.arrival()]
    first.send(signal.SIGKILL)
    first.ended()

    second = start(bench, pool)
    wait_until(lambda: "are waited for" in (bench.directory / "err.1").read_text(), "the adoption")
    assert all(psutil.pid_exists(pid) for pid in arrived)
    bench.gate.let_through(4)

    second.ended().succeeded()
    assert counted(bench) == complete(4)
    assert leftovers(bench) == []


def test_a_node_is_killed_and_another_takes_over(bench: Bench, pool: RunningPool) -> None:
    node = pool.start(2)
    run = start(bench, pool)
    arrived = [bench.gate.arrival(), bench.gate.arrival()]

    node.kill()
    assert gone(arrived)
    pool.start(4)
    bench.gate.let_through(8)

    run.ended().succeeded()
    ended_once(bench)
    assert leftovers(bench) == []


def test_a_node_that_is_cut_off_ends_its_jobs_before_others_get_them(bench: Bench, pool: RunningPool) -> None:
    """Its process is stopped, so it is its guard that ends them; and what wakes up later does no harm."""
    node = pool.start(2, "1G", 4)
    run = start(bench, pool)
    arrived = [bench.gate.arrival(), bench.gate.arrival()]
    other = pool.start(4, "1G", 4)

    node.send(signal.SIGSTOP)
    wait_until(
        lambda: "is silent, and is abandoned: 2 jobs go back" in other.log.read_text(), "the other node"
    )
    assert not any(psutil.pid_exists(pid) for pid in arrived), "they were given away while they still ran"
    node.send(signal.SIGCONT)
    bench.gate.let_through(8)

    run.ended().succeeded()
    ended_once(bench)
    wait_until(lambda: leftovers(bench) == [], "the end of those that came too late")


def test_the_network_is_cut_between_a_node_and_the_hub(bench: Bench, pool: RunningPool) -> None:
    """Nobody is told of it. The node ends its jobs before others get them, and works again when it is mended."""
    with Cable(pool.server.port) as cable:
        node = pool.start(2, "1G", 4, "--hub", f"redis://localhost:{cable.port}")
        run = start(bench, pool)
        arrived = [bench.gate.arrival(), bench.gate.arrival()]
        other = pool.start(4, "1G", 4)

        cable.cut()
        wait_until(
            lambda: "is silent, and is abandoned: 2 jobs go back" in other.log.read_text(), "the other node"
        )
        assert not any(psutil.pid_exists(pid) for pid in arrived), "they were given away while they still ran"
        cable.mend()
        wait_until(lambda: pool.row(node), "the node is back")
        bench.gate.let_through(8)

        run.ended().succeeded()
        ended_once(bench)
        wait_until(lambda: leftovers(bench) == [], "the end of those that came too late")


@pytest.mark.parametrize("how", ["from its files", "empty", "paused"])
def test_the_hub_comes_back(bench: Bench, pool: RunningPool, how: str) -> None:
    """What runs goes on, if that takes less than the lease; nothing is run twice."""
    pool.start(2, "1G", 12)
    run = start(bench, pool)
    arrived = [bench.gate.arrival(), bench.gate.arrival()]
    if how == "paused":
        pool.server.pause()
    else:
        pool.server.kill()
    bench.gate.let_through(1)  # the end of one comes while nobody can be told
    wait_until(lambda: "has not answered" in log_of(pool) or "may go on" in log_of(pool), "that it is missed")
    if how == "empty":
        pool.server.forget()
    if how == "paused":
        pool.server.go_on()
    else:
        pool.server.start()
    assert any(psutil.pid_exists(pid) for pid in arrived)
    bench.gate.let_through(3)

    run.ended().succeeded()
    assert counted(bench) == complete(4)
    assert leftovers(bench) == []


def test_the_hub_is_away_for_longer_than_the_lease(bench: Bench, pool: RunningPool) -> None:
    pool.start(2, "1G", 3)
    run = start(bench, pool)
    arrived = [bench.gate.arrival(), bench.gate.arrival()]

    pool.server.pause()
    assert gone(arrived)
    pool.server.go_on()
    bench.gate.let_through(8)

    run.ended().succeeded()
    ended_once(bench)
    assert leftovers(bench) == []


def test_a_run_is_killed_without_its_master(bench: Bench, pool: RunningPool) -> None:
    pool.start(2)
    run = start(bench, pool)
    arrived = [bench.gate.arrival(), bench.gate.arrival()]
    run.send(signal.SIGKILL)
    run.ended()

    killed = bench.run("jobTreeKill", str(bench.directory / "tree"))

    assert killed.status == 0, killed.err
    assert "in pool" in killed.out
    assert gone(arrived)
    assert pool.report("jobs") == []


def test_what_another_has_signed_is_not_run(bench: Bench, pool: RunningPool, tmp_path: Path) -> None:
    """Somebody who can write to the hub, and has no key: neither a command of his own nor a changed one is run."""
    pool.start()
    hub = pool.hub()
    stranger = Hub(pool.server.address, load_key(str(tmp_path / "another")))
    stranger.space, stranger.identity = hub.space, hub.identity

    with Pool(stranger, str(tmp_path / "pool")) as batch:
        batch.issue([Submission("evil.1", ("touch", str(tmp_path / "hit")))])
        wait_until(lambda: "evil.1 is not run: it was not signed" in log_of(pool), "the refusal")
    with Pool(hub, str(tmp_path / "pool")) as batch:
        batch.issue([Submission("good.1", ("true",))])
        ends = batch.poll(60)

    assert [(end.name, end.kind, end.status) for end in ends] == [("good.1", EndKind.FINISHED, 0)]
    assert not (tmp_path / "hit").exists()


def test_a_node_that_is_told_to_end_ends_its_jobs_and_leaves(bench: Bench, pool: RunningPool) -> None:
    node = pool.start(2, "1G", 6, "--grace", "2")
    run = start(bench, pool)
    arrived = [bench.gate.arrival(), bench.gate.arrival()]

    node.send(signal.SIGTERM)
    assert node.ended() == 0
    assert gone(arrived)
    assert pool.report("nodes") == []
    pool.start(2)
    bench.gate.let_through(8)

    run.ended().succeeded()
    ended_once(bench)


def test_what_there_is_can_be_seen_and_a_node_be_drained(bench: Bench, pool: RunningPool) -> None:
    node = pool.start(2)
    run = start(bench, pool)
    arrived = [bench.gate.arrival(), bench.gate.arrival()]
    command = ("jobTreePool", *pool.server.options("--"), "--keyFile", str(pool.key_file))

    nodes = json.loads(bench.run(*command, "list", "nodes", "--json").out)
    assert [(row["cores"], row["jobs"], row["state"]) for row in nodes] == [(2, 2, "up")]
    wait_until(lambda: len(pool.row(node)["health"]["jobs"]) == 2, "that the jobs are measured")
    used = json.loads(bench.run(*command, "list", "jobs", "--json").out)
    assert all(row["used"]["memory"] > 1 << 20 for row in used if row["state"] == "running")
    drained = bench.run(*command, "drain", nodes[0]["host"])
    assert nodes[0]["node"] in drained.out
    assert "drained" in bench.run(*command, "list", "nodes").out
    assert "load" in bench.run(*command, "health", nodes[0]["node"]).out
    assert bench.run(*command, "drain", "nobody").status == 2
    bench.gate.let_through(2)
    assert gone(arrived)
    wait_until(lambda: pool.row(node)["jobs"] == 0, "the end of what it had")
    bench.run(*command, "undrain", nodes[0]["node"])
    bench.gate.let_through(2)

    run.ended().succeeded()
    assert counted(bench) == complete(4)


def test_a_job_that_reserves_a_graphics_card_sees_its_own(pool: RunningPool, tmp_path: Path) -> None:
    pool.start(3, "1G", 6, "--gpus", "2")
    hub = pool.hub()
    with Pool(hub, str(tmp_path)) as batch:
        script = 'echo "$CUDA_VISIBLE_DEVICES" > "$0"; while ! test -e go; do sleep 0.05; done'
        asked = {"a": 1, "b": 1, "none": 0}
        batch.issue(
            [
                Submission(
                    f"r.{name}",
                    ("sh", "-c", script, name),
                    Resources(1, 0, None, {"gpus": gpus}),
                    cwd=str(tmp_path),
                )
                for name, gpus in asked.items()
            ]
        )
        wait_until(lambda: all((tmp_path / name).exists() for name in asked), "all running")
        wait_until(lambda: all((tmp_path / name).read_text() for name in asked), "what they see")
        (tmp_path / "go").touch()
        seen = {name: (tmp_path / name).read_text().strip() for name in asked}
        ended = 0
        while ended < 3:
            ended += len(batch.poll(10))
        with pytest.raises(NeverFits, match="3 gpus"):
            batch.issue([Submission("r.many", ("true",), Resources(1, 0, None, {"gpus": 3}))])

    assert {seen["a"], seen["b"]} == {"0", "1"}
    assert seen["none"] == ""


def test_nodes_that_end_by_themselves(pool: RunningPool) -> None:
    """As jobs of a scheduler should."""
    idle = pool.start(1, "1G", 6, "--idle", "0.1")
    old = pool.start(1, "1G", 6, "--lifetime", "0.1")
    asked = pool.start(1)
    asked.send(signal.SIGUSR1)

    assert [node.ended() for node in (idle, old, asked)] == [0, 0, 0]
    assert pool.report("nodes") == []


def test_a_node_that_cannot_reach_its_hub_says_so(pool: RunningPool, bench: Bench) -> None:
    refused = bench.run("jobTreeNode", "--hub", "redis://localhost:1", "--keyFile", str(pool.key_file))

    assert refused.status == 2
    assert "cannot be reached" in refused.err
    assert "Traceback" not in refused.err
    shown = bench.run("jobTreeNode", "--hub", "redis://ada:tiger@localhost", "--keyFile", str(pool.key_file))
    assert shown.status == 2
    assert "tiger" not in shown.err


def test_the_sort_example_with_everything_killed(bench: Bench, pool: RunningPool, tmp_path: Path) -> None:

    lines = [f"{random.Random(1).random()} {number}" for number in range(4_000)]
    random.Random(2).shuffle(lines)
    (tmp_path / "in").write_text("\n".join(lines) + "\n")
    node = pool.start(4)
    command = (
        "sort.py", "--fileToSort", "in", "--output", "out", "--N", "30000", "--jobTree", "tree", *LEASE,
        *pool.options(), "--defaultMemory", "64M",
    )  # fmt: skip
    bench.write("sort.py", (Path(__file__).parents[2] / "examples" / "sort.py").read_text())

    first = bench.start(*command)
    wait_until(lambda: len(list((tmp_path / "tree").glob("claims/**/*"))) > 3, "some work")
    first.send(signal.SIGKILL)
    first.process.wait()
    pool.server.kill()
    pool.server.start()
    second = bench.start(*command)
    wait_until(lambda: pool.report("jobs"), "more work")
    node.kill()
    pool.start(4)

    second.ended().succeeded()
    assert (tmp_path / "out").read_text().splitlines() == sorted(lines)
