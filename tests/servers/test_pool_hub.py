"""What the scripts of a hub decide, in a real Redis; nodes and masters are played by the test."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Optional

import pytest

from batchsystems.pool_hub import Given, Hub
from batchsystems.pool_report import Report
from batchsystems.pool_signing import Key
from benchmarks import pool_claims
from tests.servers import redis
from tests.servers.redis import RedisServer, Variant

pytestmark = [pytest.mark.servers, pytest.mark.xdist_group("pool")]


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    redis.require_installed()
    with redis.start(variant=Variant(files=False)) as started:
        yield started


@pytest.fixture
def hub(server: RedisServer) -> Iterator[Hub]:
    server.ask("FLUSHALL")
    made = Hub(server.address, Key(b"k" * 32), "ada")
    yield made
    made.close()


class PlayedNode:
    """A node with some cores, that says what the test wants."""

    def __init__(
        self, hub: Hub, name: str, cores: int = 4, place: str = "", overtakings: int = 64, gpus: int = 0
    ) -> None:
        self.hub, self.name, self.cores, self.place = hub, name, cores, place
        self.overtakings = overtakings
        self.gpus = gpus
        self.has: dict[str, float] = {}
        self.with_gpu: set[str] = set()
        self.beats = 0
        self.beat()

    def beat(self, back: tuple[str, ...] = ()) -> dict[str, Any]:
        self.beats += 1
        about = {"place": self.place, "timeout": 60, "started": 0, "pid": 1, "taking": True}
        return self.hub.beat(
            self.name, self.beats, json.dumps(about),
            1000 * self.cores, 1 << 30, self.name, 60000, 5000, json.dumps({"load": [0], "jobs": {}}),
            json.dumps(list(self.has)), json.dumps(back), self.gpus,
        )  # fmt: skip

    def claim(self, most: int = 10, ends: Optional[dict[str, int]] = None) -> list[str]:
        told = [[name, "end", blamed, "why"] for name, blamed in (ends or {}).items()]
        for name in ends or {}:
            self.has.pop(name, None)
        free = round(1000 * (self.cores - sum(self.has.values())))
        _, given = self.hub.claim(
            self.name, self.name, free, 1 << 30, 1000 * self.cores, 1 << 30, most, self.overtakings, 60, self.place,
            json.dumps(told), self.gpus - len(self.with_gpu & set(self.has)), self.gpus,
        )  # fmt: skip
        for one in given:
            self.has[one.name] = int(one.line.split(" ")[1]) / 1000
            if one.line.split(" ")[3] != "0":
                self.with_gpu.add(one.name)
        return [one.name for one in given]


def submit(
    hub: Hub, *jobs: str, cores: float = 1, priority: int = 0, gpus: int = 0, **about: object
) -> list[str]:
    runs = {job.rpartition(".")[0]: about for job in jobs}
    lines = [f"{priority} {round(1000 * cores)} 0 {gpus} {job.rpartition('.')[0]}" for job in jobs]
    return hub.submit(runs, [Given(job, line, f"payload of {job}") for job, line in zip(jobs, lines)])


def test_the_largest_that_fits_goes_first(hub: Hub) -> None:
    node = PlayedNode(hub, "n")
    submit(hub, "r.small", cores=1)
    submit(hub, "r.large", cores=3)
    submit(hub, "r.huge", cores=5)

    assert node.claim() == ["r.large", "r.small"]


def test_graphics_cards_are_counted(hub: Hub) -> None:
    without, node = PlayedNode(hub, "without"), PlayedNode(hub, "with", gpus=1)
    submit(hub, "r.1", "r.2", gpus=1)
    submit(hub, "r.plain")

    assert without.claim(1) == ["r.plain"]
    assert without.claim() == []
    assert node.claim() == ["r.1"]
    assert node.claim(ends={"r.1": 0}) == ["r.2"]


def test_runs_share_the_nodes_and_priority_goes_before(hub: Hub) -> None:
    node = PlayedNode(hub, "n", cores=4)
    submit(hub, *(f"first.{i}" for i in range(10)))
    submit(hub, *(f"second.{i}" for i in range(10)))
    assert sorted(node.claim()) == ["first.0", "first.1", "second.0", "second.1"]

    submit(hub, "urgent.1", priority=5)
    assert node.claim(ends={"first.0": 0}) == ["urgent.1"]


def test_the_limits_of_a_run_are_kept(hub: Hub) -> None:
    node = PlayedNode(hub, "n", cores=4)
    submit(hub, *(f"r.{i}" for i in range(4)), max_cpu=2000)

    assert node.claim() == ["r.0", "r.1"]
    assert node.claim() == []
    assert node.claim(ends={"r.0": 0}) == ["r.2"]


def test_what_was_overtaken_too_often_has_a_node_kept_free(hub: Hub) -> None:
    node = PlayedNode(hub, "n", cores=2, overtakings=3)
    submit(hub, "r.first")
    node.claim()
    submit(hub, "r.large", cores=2)
    submit(hub, *(f"r.{i}" for i in range(9)))
    given = [node.claim(1) for _ in range(1)]
    given += [node.claim(1, {f"r.{i}": 0}) for i in range(2)]
    assert given == [["r.0"], ["r.1"], ["r.2"]]

    assert node.claim(1, {"r.2": 0}) == []
    assert node.claim(1, {"r.first": 0}) == ["r.large"]


def test_a_lost_answer_is_given_again_and_an_end_is_kept_until_it_is_taken(hub: Hub) -> None:
    node = PlayedNode(hub, "n")
    submit(hub, "r.1")
    node.claim()
    node.has.clear()  # it never got the answer
    assert [name for name, _, _ in node.beat()["again"]] == ["r.1"]

    node.claim(ends={"r.1": 0})
    assert hub.news(["r"], [], False)["ends"] == [["r.1", "end"]]
    assert hub.names("r") == ["r.1"]
    assert submit(hub, "r.1") == []  # the answer to the submission was lost as well
    assert node.claim() == []
    hub.news(["r"], ["r.1"], False)
    assert hub.names("r") == []


def test_a_name_that_is_taken_is_refused_with_all_of_its_call(hub: Hub) -> None:
    submit(hub, "r.1")

    assert hub.submit({"r": {}}, [Given("r.2", "0 1 0 0 r", "x"), Given("r.1", "0 1 0 0 r", "another")]) == [
        "r.1"
    ]
    assert hub.names("r") == ["r.1"]


def test_what_was_given_away_is_ended_where_it_was(hub: Hub) -> None:
    first, second = PlayedNode(hub, "first"), PlayedNode(hub, "second")
    submit(hub, "r.1")
    first.claim()
    assert hub.abandon("first", "0") == -1, "it has been heard since"
    assert hub.abandon("first", str(first.beats)) == 1
    assert second.claim() == ["r.1"]

    assert first.beat()["kill"] == ["r.1"]
    first.claim(ends={"r.1": 0})
    assert dict(hub.news(["r"], [], False)["ends"] or {}) == {}, "another's end is not believed"
    assert hub.running() == ["r.1"]


def test_a_hub_that_was_emptied_learns_from_the_nodes_and_gives_nothing_old_meanwhile(hub: Hub) -> None:
    node, other = PlayedNode(hub, "n"), PlayedNode(hub, "other")
    submit(hub, "r.1", "r.2")
    node.claim(1)
    hub.asked("SET", "jobtree:boot", "as if it had been started again")

    assert other.claim() == [], "perhaps it runs somewhere"
    submit(hub, "r.3")
    assert other.claim() == ["r.3"], "this cannot have run"
    watch = node.beat()["watch"]
    hub.recovered(watch["recovering"])
    assert other.claim() == ["r.2"]

    hub.asked("FLUSHALL")
    assert node.claim() == []
    assert node.beat()["unknown"] == ["r.1"]
    hub.claim_running("n", [Given("r.1", "0 1000 0 0 r", "payload of r.1")])
    assert hub.running() == ["r.1"]


def test_users_on_one_machine_share_it(hub: Hub, server: RedisServer) -> None:
    other = Hub(server.address, Key(b"o" * 32), "bob")
    adas, bobs = PlayedNode(hub, "a", 4, "desk"), PlayedNode(other, "b", 4, "desk")
    submit(hub, *(f"r.{i}" for i in range(8)))
    assert len(adas.claim()) == 4
    submit(other, *(f"s.{i}" for i in range(8)))

    assert bobs.claim() == [], "the machine is full"
    assert adas.claim(ends={"r.0": 0}) == [], "now it is bob's turn"
    assert bobs.claim() == ["s.0"]
    adas.claim(ends={"r.1": 0})
    assert bobs.claim() == ["s.1"]
    assert adas.claim(ends={"r.2": 0}) == ["r.4"], "she has less of it now"
    other.close()


def test_a_node_on_which_nothing_can_be_run_is_rested(hub: Hub) -> None:
    node = PlayedNode(hub, "n", cores=1)
    submit(hub, *(f"r.{i}" for i in range(9)))
    node.claim()
    node.claim(ends={"r.0": 1})
    node.claim(ends={"r.1": 1})
    assert node.claim(ends={"r.2": 1}) == []

    (row,) = Report(hub).sick()
    assert (row["node"], row["what"], row["why"]) == ("n", "sick", "why")
    assert Report(hub).nodes()[0]["state"] == "sick"


def test_a_drained_node_takes_nothing_until_it_may(hub: Hub) -> None:
    node = PlayedNode(hub, "n")
    submit(hub, "r.1")

    assert Report(hub).drain("n", True) == ["n"]
    assert node.claim() == []
    assert Report(hub).nodes()[0]["state"] == "drained"
    Report(hub).drain("n", False)
    assert node.claim() == ["r.1"]


def test_hosts_that_a_run_avoids_get_it_only_if_there_are_no_others(hub: Hub) -> None:
    bad = PlayedNode(hub, "bad")
    submit(hub, "r.1", "r.2")
    hub.avoid("r", ["bad"])
    good = PlayedNode(hub, "good", cores=1)

    assert bad.claim() == []
    assert good.claim() == ["r.1"]
    hub.leave("good", "")
    assert len(bad.claim()) == 2


def test_a_cancelled_job_that_waits_is_gone_and_one_that_runs_is_asked(hub: Hub) -> None:
    node = PlayedNode(hub, "n")
    submit(hub, "r.1")
    node.claim()
    submit(hub, "r.2")

    assert hub.cancel(["r.1", "r.2", "unknown"], 5.0) == ["r.2"]
    hub.cancel(["r.1"], 9.0)
    assert hub.cancels("n") == {"r.1": 5.0}
    assert hub.wait(["n"], 1)


def test_history_is_bounded_and_reports_are_readable(hub: Hub) -> None:
    node = PlayedNode(hub, "n")
    submit(hub, "r.1", "r.2")
    node.claim(1)
    for _ in range(3):
        node.beat()

    report = Report(hub)
    assert len(report.health("n")) == 4
    assert [(row["job"], row["state"], row["node"]) for row in report.jobs()] == [
        ("r.1", "running", "n"),
        ("r.2", "waiting", None),
    ]
    (run,) = report.runs()
    assert (run["running"], run["waiting"], run["cores"]) == (1, 1, 1.0)
    (user,) = report.users()
    assert (user["nodes"], user["running"]) == (1, 1)
    assert int(hub.asked("LLEN", f"{hub.space}health:n")) <= 720


def test_many_nodes_take_many_bundles(tmp_path: Path) -> None:
    """The benchmark, small: every bundle goes through once."""
    assert pool_claims.measure(nodes=20, bundles=300, processes=1, runs=3).rate > 0
