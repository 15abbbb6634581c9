"""What the monitor tells of trees, on trees that are made through the store."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families
from starlette.testclient import TestClient

from jobtree import lock
from jobtree.errors import UsageError
from jobtree.lock import TreeLock
from jobtree.monitor.trees import WatchedTree, watched
from jobtree.paths import job_id, job_name
from jobtree.records import WorkerRow
from tests.unit.monitor_scene import client, told
from tests.unit.test_snapshot import Built

HOSTILE = "<script>alert(1)</script>\x1b[2J\u202e\"'&\udc80"


@pytest.fixture
def built(tmp_path: Path) -> Iterator[Built]:
    made = Built(tmp_path / "tree")
    made.grow(*(("some.Child", 0) for _ in range(5)))
    made.issue(2, *(job_id(1, n) for n in range(1, 4)))
    made.succeed(job_id(1, 1), 1, wall=2.0)
    made.fail(job_id(1, 2), 1)
    made.commit()
    made.issue(3, job_id(1, 2))
    made.fail(job_id(1, 2), 2)
    made.commit()
    yield made
    made.store.close()


@pytest.fixture
def asked(built: Built) -> Iterator[TestClient]:
    with client(built.paths.root) as made:
        yield made


def test_all_trees_and_one(built: Built, asked: TestClient) -> None:
    (one,) = told(asked, "")
    assert (one["tree"], one["name"], one["directory"]) == (1, "tree", built.paths.root)
    assert one["state"] == "interrupted"
    assert one["counts"] == {"ready": 2, "issued": 1, "blocked": 1, "failed": 1, "done": 1}
    assert one["trouble"] is None

    tree = told(asked, "/1")
    assert {kind["name"]: kind["succeeded"] for kind in tree["classes"]} == {"some.Child": 1, "some.Root": 0}
    assert tree["running"] is None
    (failed,) = tree["failed"]
    assert (failed["job"], failed["message"], failed["host"]) == ("1-2", "bad 2", "here")
    assert tree["failed_more"] == 0
    assert tree["point"]["succeeded"] == 1
    assert told(asked, "/1/history") == [tree["point"]]
    assert told(asked, "/1/running") is None


def test_the_tree_opens_a_level_at_a_time(asked: TestClient) -> None:
    (root,) = told(asked, "/1/jobs")
    assert (root["job"], root["parent"], root["pending"]) == ("0-1", None, 4)
    names = [job["job"] for job in told(asked, "/1/jobs?parent=0-1")]
    assert names == ["1-2", "1-3", "1-4", "1-5"]
    assert [job["job"] for job in told(asked, "/1/jobs?parent=0-1&limit=2")] == names[:2]
    assert [job["job"] for job in told(asked, "/1/jobs?parent=0-1&limit=2&after=1-3")] == names[2:]
    assert told(asked, "/1/jobs?parent=9-9") == []


def test_one_job_with_its_failure_and_its_log(built: Built, asked: TestClient) -> None:
    job = told(asked, "/1/jobs/1-2")
    assert job["state"] == "failed"
    assert job["why"] == [
        "It was given up after 2 failures of its own. The next start after an orderly end tries it again."
    ]
    assert job["failure"]["traceback"] == "Traceback"
    assert [one["job"] for one in told(asked, "/1/failed")] == ["1-2"]
    assert told(asked, "/1/failed?after=1-2") == []
    # The file is not there: what was kept of it is told.
    assert told(asked, "/1/jobs/1-2/log")["output"] == "said"
    path = Path(built.paths.log(2))
    path.parent.mkdir(parents=True)
    path.write_bytes(b"...yes!..")
    assert told(asked, "/1/jobs/1-2/log")["output"] == "yes!"
    assert told(asked, "/1/jobs/1-2/log?most=2")["output"] == "s!"


@pytest.mark.parametrize(
    ("path", "status", "words"),
    [
        ("/2", 404, "There is no tree of the number '2'"),
        ("/1/jobs/9-9", 404, "Job 9-9 is not in the tree"),
        ("/1/jobs/9-9/log", 404, "Job 9-9 is not in the tree"),
        ("/1/jobs/1-5/log", 404, "has printed nothing yet"),
        ("/1/jobs/me", 400, "'me' is no job"),
        ("/1/jobs?parent=me", 400, "'me' is no job"),
        ("/1/jobs?after=", 400, "'' is no job"),
        ("/1/failed?limit=0", 400, "a whole number from 1 to 200 is expected"),
        ("/1/failed?limit=201", 400, "a whole number from 1 to 200 is expected"),
        ("/1/running?limit=-1", 400, "a whole number from 1 to 200 is expected"),
        ("/1/jobs/1-2/log?most=99999999", 400, "a whole number from 1 to 1048576 is expected"),
    ],
)
def test_questions_that_are_none(path: str, status: int, words: str, asked: TestClient) -> None:
    assert words in told(asked, path, status)["error"]


def test_what_is_hostile_is_told_as_it_is_and_as_json_only(tmp_path: Path) -> None:
    """The page shows it as text; here it must only be JSON, in ASCII, so that nothing can take it for anything else."""
    made = Built(tmp_path / "tr\udcffee<b>")
    name = HOSTILE.replace("\udc80", "")
    made.grow((name, 0))
    made.issue(2, job_id(1, 1))
    made.fail(job_id(1, 1), 1)
    made.commit()
    with client(made.paths.root) as asked:
        for path in ("", "/1", "/1/jobs", "/1/jobs?parent=0-1", "/1/jobs/1-1", "/1/failed"):
            answer = asked.get(f"/api/v1/trees{path}")
            assert answer.headers["content-type"] == "application/json"
            assert answer.content.isascii()
        assert told(asked, "/1/jobs/1-1")["class"] == name
        assert told(asked, "/1")["directory"] == made.paths.root
        families = list(text_string_to_metric_families(asked.get("/metrics").text))
    made.store.close()
    (succeeded,) = [family for family in families if family.name == "jobtree_targets_succeeded"]
    assert name in {sample.labels["class"] for sample in succeeded.samples}


def test_several_trees(tmp_path: Path) -> None:
    trees = [Built(tmp_path / name) for name in ("first", "second")]
    with client(*(tree.paths.root for tree in trees)) as asked:
        assert [one["name"] for one in told(asked, "")] == ["first", "second"]
        assert told(asked, "/2")["directory"] == trees[1].paths.root
        # One of them goes: that is said of it, and the other one is told as ever.
        trees[1].store.close()
        os.rename(trees[1].paths.root, tmp_path / "elsewhere")
        answer = told(asked, "/2/jobs", 503)
        assert "is gone" in answer["error"]
        assert told(asked, "/1/jobs")[0]["job"] == "0-1"
    trees[0].store.close()


def test_trees_whose_directories_end_alike_are_told_apart(tmp_path: Path) -> None:
    places = ["mouse/tree", "fly/tree", "fly/old"]
    (tmp_path / "mouse").mkdir()
    (tmp_path / "fly").mkdir()
    trees = [Built(tmp_path / place) for place in places]
    with client(*(tree.paths.root for tree in trees)) as asked:
        assert [one["name"] for one in told(asked, "")] == ["mouse/tree", "fly/tree", "old"]
    twice = watched([trees[0].paths.root] * 2)
    assert {tree.name for tree in twice} == {trees[0].paths.root}
    for tree in trees:
        tree.store.close()


def test_throughput_by_machine(built: Built, asked: TestClient) -> None:
    def worker(number: int, host: str, targets: int) -> None:
        row = WorkerRow(number, host, "ssh", 1, 1.0, 2.0, 3.0, targets, 0, 1.0)
        built.store.write_stats((), (), [(row, 0.5, 1 << 20)])
        built.commit()

    worker(7, "node<1>", 3)
    worker(8, "node2", 5)
    worker(9, "node<1>", 1)
    with client(built.paths.root) as later:
        assert told(later, "/1")["point"]["hosts"] == {"node<1>": 4, "node2": 5}
        assert told(later, "/1/history")[-1]["hosts"] == {"node<1>": 4, "node2": 5}
    assert told(asked, "/1/history")[0]["hosts"] == {}


def test_five_thousand_failures_are_told_a_page_at_a_time(tmp_path: Path) -> None:
    made = Built(tmp_path / "tree")
    made.grow(*(("some.Child", 0) for _ in range(5000)))
    for first in range(1, 5001, 100):
        ids = [job_id(1, n) for n in range(first, first + 100)]
        for attempt in (1, 2):
            made.issue(attempt * 100_000 + first, *ids)
            for id in ids:
                made.fail(id, attempt)
            made.commit()
    with client(made.paths.root) as asked:
        answer = asked.get("/api/v1/trees/1")
        assert len(answer.content) < 20_000
        tree = answer.json()
        assert (len(tree["failed"]), tree["failed_more"]) == (20, 4980)
        seen = [job["job"] for job in tree["failed"]]
        while page := told(asked, f"/1/failed?after={seen[-1]}&limit=200"):
            seen += [job["job"] for job in page]
        assert seen == [f"1-{n}" for n in range(1, 5001)]
    made.store.close()


def test_what_cannot_be_read_at_a_look_is_said_and_the_rest_stays(built: Built) -> None:
    with client(built.paths.root, every=0.0) as asked:
        before = told(asked, "/1")
        moved = built.paths.database + ".away"
        os.rename(built.paths.database, moved)
        during = told(asked, "/1")
        assert "tree.sqlite is gone" in during["trouble"]
        assert during["counts"] == before["counts"]
        assert "jobtree_up" in asked.get("/metrics").text
        os.rename(moved, built.paths.database)
        assert told(asked, "/1")["trouble"] is None


def test_a_directory_that_is_no_tree(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="does not exist"):
        WatchedTree(1, str(tmp_path / "nothing"))


def test_metrics(built: Built, asked: TestClient) -> None:
    holder = TreeLock(built.paths)
    holder.acquire()
    try:
        assert lock.is_held(built.paths)
        answer = asked.get("/metrics")
    finally:
        holder.release()
    assert answer.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    found = {
        (sample.name, sample.labels.get("state") or sample.labels.get("class")): sample.value
        for family in text_string_to_metric_families(answer.text)
        for sample in family.samples
    }
    assert found["jobtree_up", None] == 1
    assert found["jobtree_jobs", "ready"] == 2
    assert found["jobtree_jobs", "failed"] == 1
    assert found["jobtree_targets_succeeded_total", "some.Child"] == 1
    assert found["jobtree_targets_failures_total", "some.Child"] == 2
    assert found["jobtree_targets_wall_seconds_total", "some.Child"] == 2.0


def test_a_stream_tells_what_there_is_and_then_what_is_new(built: Built) -> None:
    from jobtree.monitor import events
    from jobtree.monitor.watching import Watch

    async def first_and_next() -> list[str]:
        watch = Watch([WatchedTree(1, built.paths.root)], every=0.01)
        await watch.start()
        found = []
        async for text in events.stream(watch, watch.trees[0]):
            found.append(text)
            if len(found) == 2:
                built.succeed(job_id(1, 3), 1)
                built.commit()
            if '"done": 2' in text and text.startswith("event: tree\n"):
                watch.close()
        await watch.stop()
        return found

    import asyncio

    found = asyncio.run(asyncio.wait_for(first_and_next(), 60))
    assert [text.split("\n")[0] for text in found[:2]] == ["event: trees", "event: tree"]
    assert all(text.endswith("\n\n") and text.count("\n") == 3 for text in found)
    assert json.loads(found[1].split("data: ")[1])["counts"]["done"] == 1
    assert json.loads(found[-1].split("data: ")[1])["failed"][0]["job"] == job_name(job_id(1, 2))
