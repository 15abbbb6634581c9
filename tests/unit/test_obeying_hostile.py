"""Requests that were never meant to be: nonsense in them, several at once that contradict each other, jobs that are on
their way somewhere else at that moment. The run goes on, and each is answered."""

from __future__ import annotations

import itertools
import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from jobtree import requests
from jobtree.events import State
from jobtree.paths import job_id
from jobtree.requests import Answer, Request
from jobtree.steering_requests import CHANGE, FORGET, GO_ON, KILL_JOB, KINDS, MARK_DONE, PAUSE, RETRY
from tests.fakes.master_scene import MakeScene, Scene
from tests.fakes.scripted_worker import ScriptedWorker, target

A, B, C = (job_id(1, n) for n in (1, 2, 3))
"""The children of the root, which is in bundle 1."""

NONSENSE: list[Any] = [
    None, True, -1, 0, 1.5, 1 << 62, 1 << 63, 1 << 200, "1-1", "\ud800", [], [1], {}, {"job": 1}, float("nan"),
    float("inf"), "x" * 20_000,
]  # fmt: skip


def put(scene: Scene, name: str, body: Any) -> str:
    """A request as somebody else than our own functions might write it. Returns its number."""
    path = Path(scene.paths.requests, name)
    path.with_suffix(".answer").touch()
    path.with_suffix(".json").write_text(json.dumps(body))
    return name


def answer(scene: Scene, id: str) -> Answer:
    found = requests.wait(scene.paths, id, 0.0, lambda: False, withdraws=False)
    assert found is not None, f"nobody has answered {id}"
    return found


def looks(scene: Scene) -> Iterator[None]:
    """Script: the master looks for requests, and answers them."""
    for _ in range(8):
        yield


def one_runs(scene: Scene) -> Iterator[None]:
    """Script: of three children A runs, in bundle 2, and B has failed."""
    yield from scene.grow([target("Child")] * 3)
    scene.runs_a = scene.worker(2)  # type: ignore[attr-defined]
    assert runs_a(scene).start()
    fails = scene.worker(3)
    fails.start()
    fails.fail()
    scene.finish(fails)
    yield


def rest(scene: Scene) -> Iterator[None]:
    """Script: everything that is issued succeeds, but for what is taken back."""
    while scene.active():
        for submission in scene.active():
            worker = scene.worker(int(submission.name.rpartition(".")[2]))
            while worker.left and worker.start():
                worker.succeed()
            scene.finish(worker)
        yield


def runs_a(scene: Scene) -> ScriptedWorker:
    found: ScriptedWorker = scene.runs_a  # type: ignore[attr-defined]
    return found


@pytest.mark.parametrize("kind", sorted(KINDS) + ["why", "look", "running", "status", "dance"])
def test_nonsense_is_answered_and_the_run_goes_on(make_scene: MakeScene, kind: str) -> None:
    scene = make_scene()
    arguments: list[dict[str, Any]] = [
        *({name: value} for name in ("job", "options") for value in NONSENSE),
        *({"job": A, "attempt": value} for value in NONSENSE[2:] if value not in (0, 1 << 62)),
        *({"options": {name: value}} for name in ("max_cpus", "limits", "hung_after") for value in NONSENSE[4:]),
        {"options": {"job_tree": "/elsewhere"}}, {"options": {"limits": {"gpus": "many"}}},
        {"question": "details", "arguments": {"id": [7]}}, {"question": [], "arguments": []},
    ]  # fmt: skip
    if kind in (PAUSE, GO_ON):
        arguments = []  # these need nothing, so nothing is wrong
    elif kind in (RETRY, FORGET, MARK_DONE):
        arguments = [one for one in arguments if "job" in one and (kind == RETRY or "attempt" not in one)]

    def script() -> Iterator[None]:
        yield from one_runs(scene)
        ids = [
            put(scene, f"{kind}-{number}", {"kind": kind, "by": "eve\n\x1b[2J", "arguments": one})
            for number, one in enumerate(arguments)
        ]
        yield from looks(scene)
        for id, one in zip(ids, arguments):
            found = answer(scene, id)
            harmless = kind in ("running",) or (kind == CHANGE and _changes_something_sensible(one))
            assert not found.done or harmless or kind == "why", (one, found)
            assert len(str(found.body)) < 2000
        runs_a(scene).succeed()
        scene.finish(runs_a(scene))
        yield
        yield from rest(scene)

    assert scene.play(script(), cpu=8).tree.totals == [0, 0, 1, 1, 2]


def _changes_something_sensible(arguments: dict[str, Any]) -> bool:
    return isinstance(arguments.get("options"), dict)


def test_what_is_paused_by_nonsense_can_go_on(make_scene: MakeScene) -> None:
    """A pause by somebody with a strange name, which is kept in the store."""
    scene = make_scene()

    def script() -> Iterator[None]:
        yield from one_runs(scene)
        put(scene, "pause-1", {"kind": PAUSE, "by": "\ud800\n" * 500, "arguments": {"job": {}}})
        yield from looks(scene)
        ((by,),) = scene.rows("SELECT value FROM meta WHERE key = 'paused'")
        assert by.startswith("\\ud800\\n")
        put(scene, "goOn-1", {"kind": GO_ON, "by": ""})
        yield from looks(scene)
        runs_a(scene).succeed()
        scene.finish(runs_a(scene))
        yield
        yield from rest(scene)

    assert scene.play(script(), cpu=8).tree.totals == [0, 0, 1, 1, 2]


PAIRS = [
    (RETRY, B), (FORGET, B), (MARK_DONE, B), (FORGET, A), (MARK_DONE, A), (KILL_JOB, A), (FORGET, C), (RETRY, C),
    (MARK_DONE, 1), (KILL_JOB, B), (PAUSE, 0), (GO_ON, 0),
]  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize(("first", "second"), itertools.combinations_with_replacement(PAIRS, 2))
def test_two_at_once(make_scene: MakeScene, first: tuple[str, int], second: tuple[str, int]) -> None:
    """Whatever they are, the tree stays sound (the scene checks it after every turn) and the run comes to its end."""
    scene = make_scene()

    def script() -> Iterator[None]:
        yield from one_runs(scene)
        ids = []
        for number, (kind, job) in enumerate((first, second)):
            arguments = {"job": job} if job else {}
            ids.append(put(scene, f"{kind}-{number}", {"kind": kind, "by": "ada", "arguments": arguments}))
        yield from looks(scene)
        answers = [answer(scene, id) for id in ids]
        if first == second and first[0] in (FORGET, MARK_DONE) and answers[0].done:
            assert not answers[1].done
        worker = runs_a(scene)
        if scene.name(2) in scene.batch.running():
            worker.succeed()
            scene.finish(worker)
        put(scene, "goOn-9", {"kind": GO_ON, "by": "ada"})
        yield from looks(scene)
        yield from rest(scene)

    master = scene.play(script(), cpu=8)
    assert master.tree.totals[State.READY] == master.tree.totals[State.ISSUED] == 0
    assert not [name for name in scene.left_behind() if "requests" in name and name.endswith(".json")]


# -- jobs that are just on their way ----------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [FORGET, MARK_DONE])
@pytest.mark.parametrize("with_child", [True, False])
def test_a_worker_that_has_gone_straight_on_is_ended(
    make_scene: MakeScene, monkeypatch: pytest.MonkeyPatch, kind: str, with_child: bool
) -> None:
    """Between the master's look at outcomes and its look at requests a worker writes that the job has succeeded, and
    that its only child or its follow-on has begun."""
    scene = make_scene()
    take = requests.Requests.take

    def take_late(self: requests.Requests) -> list[Request]:
        found = take(self)
        if found:
            worker = runs_a(scene)
            next_job = worker.succeed(
                [target("Next")] if with_child else [], None if with_child else target("Next"), go_on=True
            )
            assert next_job is not None
            assert worker.start(next_job)
        return found

    def script() -> Iterator[None]:
        yield from one_runs(scene)
        monkeypatch.setattr(requests.Requests, "take", take_late)
        id = put(scene, f"{kind}-1", {"kind": kind, "by": "ada", "arguments": {"job": A}})
        while not scene.batch.cancelled:
            yield
        monkeypatch.setattr(requests.Requests, "take", take)
        assert answer(scene, id).done
        assert scene.batch.cancelled[0][0] == scene.name(2)
        yield
        yield from rest(scene)

    done = 1 + (kind == MARK_DONE)
    assert scene.play(script(), cpu=8).tree.totals == [0, 0, 1, 1, done]
    assert scene.rows("SELECT count(*) FROM jobs WHERE id = ?", A) == [(0,)]


def test_a_job_that_has_children_by_now_is_not_marked_as_done(make_scene: MakeScene) -> None:
    """Whoever asked saw it running; meanwhile it has succeeded and left children."""
    scene = make_scene()

    def script() -> Iterator[None]:
        yield from one_runs(scene)
        runs_a(scene).succeed([target("Child")] * 2)
        scene.finish(runs_a(scene))
        id = put(scene, "markDone-1", {"kind": MARK_DONE, "by": "ada", "arguments": {"job": A}})
        yield from looks(scene)
        assert answer(scene, id) == Answer(
            False,
            "Job 1-1 (Child) has run, and waits for 2 of its children. Mark those as done, or forget them.",
        )
        yield from rest(scene)

    assert scene.play(script(), cpu=8).tree.totals == [0, 0, 1, 1, 4]


@pytest.mark.slow
def test_whatever_is_asked_at_random_and_whenever_a_run_comes_to_its_end(make_scene: MakeScene) -> None:
    for seed in range(8):
        chance = random.Random(seed)
        scene = make_scene(retry_count=1)
        asked: list[str] = []

        def ask(scene: Scene = scene, chance: random.Random = chance, asked: list[str] = asked) -> None:
            ids = [id for (id,) in scene.rows("SELECT id FROM jobs WHERE parent != 0")] or [A]
            kind = chance.choice([RETRY, RETRY, FORGET, MARK_DONE, KILL_JOB, PAUSE, GO_ON])
            arguments = {} if kind in (PAUSE, GO_ON) else {"job": chance.choice(ids)}
            body = {"kind": kind, "by": "ada", "arguments": arguments}
            asked.append(put(scene, f"{kind}-{len(asked)}", body))

        def script(
            scene: Scene = scene, chance: random.Random = chance, asked: list[str] = asked
        ) -> Iterator[None]:
            yield from scene.grow([target("Child")] * 12, target("Next"))
            workers: dict[str, ScriptedWorker] = {}
            # A job that waits for its next try is in no bundle.
            while (
                scene.active() or len(asked) <= 60 or scene.rows("SELECT 1 FROM jobs WHERE state = 0 LIMIT 1")
            ):
                if len(asked) < 60:
                    ask()
                elif len(asked) == 60:
                    asked.append(put(scene, "goOn-60", {"kind": GO_ON, "by": "ada"}))
                for submission in scene.active():
                    name = submission.name
                    if name not in workers:
                        workers[name] = scene.worker(int(name.rpartition(".")[2]))
                    elif chance.random() < 0.3:
                        step(scene, workers[name], chance)
                yield
            yield from looks(scene)

        master = scene.play(script(), cpu=3)
        totals = master.tree.totals
        assert totals[State.ISSUED] == totals[State.READY] == 0, f"seed {seed}: {totals}"
        assert all(answer(scene, id) is not None for id in asked if exists(scene, id))


def exists(scene: Scene, id: str) -> bool:
    return Path(scene.paths.requests, f"{id}.answer").exists()


def step(scene: Scene, worker: ScriptedWorker, chance: random.Random) -> None:
    """A worker begins a job, or one ends, or it exits."""
    if worker.job is None:
        if not worker.left or not worker.start():
            scene.finish(worker)
        return
    if chance.random() < 0.3:
        worker.fail()
    else:
        worker.succeed([target("Child")] * chance.choice([0, 0, 0, 1, 2]))
    worker.flush()
