"""Requests that change the course of a run, obeyed by a master's loop whose workers do what the test says."""

from __future__ import annotations

import json
import logging
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Optional

import pytest

from jobtree import promise, requests, serialization, steering_requests, unattended
from jobtree.events import State
from jobtree.paths import job_id, job_name
from jobtree.requests import Answer, Request
from jobtree.steering_requests import CHANGE, FORGET, GO_ON, KILL_JOB, MARK_DONE, PAUSE, RETRY
from tests.fakes.master_scene import Died, MakeScene, Scene
from tests.fakes.scripted_worker import ScriptedWorker, Value, target

A, B, C = (job_id(1, n) for n in (1, 2, 3))
"""The children of the root, which is in bundle 1."""

LOOKS = 8
"""Turns of the loop within which it has looked for requests."""


def about(kind: str, job: int, attempt: Optional[int] = None) -> Request:
    """A request about a job, as the functions of ``steering_requests`` make it."""
    with_attempt = kind in (RETRY, KILL_JOB)
    return Request(kind, "ada", {"job": job, "attempt": attempt} if with_attempt else {"job": job})


def ask(scene: Scene, *asked: Request) -> Iterator[None]:
    """Script: ask, and let the loop turn until it has answered. The answers are in ``answers``."""
    ids = [steering_requests.send(scene.paths, request) for request in asked]
    for _ in range(LOOKS):
        yield
    answers[:] = [fetch(scene, id) for id in ids]


answers: list[Answer] = []


def fetch(scene: Scene, id: str) -> Answer:
    """The answer to a request that was sent."""
    answer = requests.wait(scene.paths, id, 0.0, lambda: False, withdraws=False)
    assert answer is not None, "nobody has answered"
    return answer


def alone(scene: Scene, request: Request) -> Answer:
    """Ask where no master runs, and have it done there."""
    id = steering_requests.send(scene.paths, request)
    unattended.obey(scene.paths)
    return fetch(scene, id)


def fails(scene: Scene, bundle: int) -> Iterator[None]:
    """Script: the target of a bundle fails."""
    worker = scene.worker(bundle)
    worker.start()
    worker.fail()
    scene.finish(worker)
    yield


def states(scene: Scene) -> dict[int, State]:
    """Of the jobs that are in the store."""
    return {id: State(state) for id, state in scene.rows("SELECT id, state FROM jobs ORDER BY id")}


def begun(scene: Scene, bundle: int) -> ScriptedWorker:
    """The worker of a bundle, which has begun its first job and said so."""
    worker = scene.worker(bundle)
    assert worker.start()
    worker.flush()
    return worker


# -- retry -----------------------------------------------------------------------------------------------------


def test_a_failed_job_is_tried_again_while_the_run_is_on(
    make_scene: MakeScene, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    scene = make_scene()

    def script() -> Iterator[None]:
        yield from scene.grow([target("Child")] * 2)
        worker = begun(scene, 2)
        yield from fails(scene, 3)
        yield from ask(scene, about(RETRY, B))
        assert answers == [Answer(True, "Job 1-2 (Child) is tried again.")]
        assert scene.rows("SELECT state, tries FROM jobs WHERE id = ?", B) == [(State.ISSUED, 0)]
        assert scene.rows("SELECT * FROM failures") == []
        worker.succeed()
        scene.finish(worker)
        yield
        yield from scene.play_rest()

    assert scene.play(script(), cpu=8).tree.totals == [0, 0, 0, 0, 3]
    assert "ada: Job 1-2 (Child) is tried again." in caplog.text
    assert scene.left_behind() == []


def test_all_that_have_failed_are_tried_again(make_scene: MakeScene) -> None:
    scene = make_scene()

    def script() -> Iterator[None]:
        yield from scene.grow([target("Child")] * 3)
        worker = begun(scene, 2)
        yield from fails(scene, 3)
        yield from fails(scene, 4)
        yield from ask(scene, Request(RETRY, "ada"), Request(RETRY, "eve"))
        assert [answer.body for answer in answers] == [
            "2 jobs that had failed are tried again.",
            "No job has failed that is not to be tried again anyway.",
        ]
        worker.succeed()
        scene.finish(worker)
        yield
        yield from scene.play_rest()

    assert scene.play(script(), cpu=8).tree.totals == [0, 0, 0, 0, 4]


def test_what_is_not_failed_is_not_tried_again_and_why_is_said(make_scene: MakeScene) -> None:
    scene = make_scene()

    def script() -> Iterator[None]:
        yield from scene.grow([target("Child")] * 2)
        worker = begun(scene, 2)
        yield from fails(scene, 3)
        yield from ask(
            scene,
            about(RETRY, A),
            about(RETRY, 1),
            about(RETRY, C),
            about(RETRY, B, 7),
            Request(RETRY, "a", {"job": "x"}),
        )
        assert [answer.done for answer in answers] == [False] * 5
        assert [answer.body for answer in answers[:4]] == [
            "Job 1-1 (Child) has not failed: it is issued.",
            "Job 0-1 (Root) has not failed: it is blocked.",
            "Job 1-3 is not in the tree: it is done, or was forgotten, or never was.",
            "Job 1-2 (Child) failed in attempt 7; it has been tried again since, and attempt 1 has failed too. Ask "
            "for that.",
        ]
        assert answers[4].body == "The request makes no sense: job is 'x', and a number is expected."
        worker.succeed()
        scene.finish(worker)
        yield

    assert scene.play(script(), cpu=8).tree.totals == [0, 0, 1, 1, 1]


def test_a_job_that_waits_before_it_is_tried_again_need_not_wait_any_longer(make_scene: MakeScene) -> None:
    scene = make_scene(retry_count=9)

    def script() -> Iterator[None]:
        for bundle in (1, 2, 3, 4, 5, 6, 7):
            while scene.name(bundle) not in scene.batch.running():
                yield
            yield from fails(scene, bundle)
        before = scene.clock.now
        yield from ask(scene, about(RETRY, 1))
        assert answers == [Answer(True, "Job 0-1 (Root) is ready, and is tried as it is.")]
        assert scene.clock.now - before < 5
        yield from scene.play_rest()

    assert scene.play(script(), cpu=8).tree.totals == [0, 0, 0, 0, 1]


# -- forget ----------------------------------------------------------------------------------------------------


def test_what_is_forgotten_holds_nothing_up_any_more(make_scene: MakeScene) -> None:
    scene = make_scene()

    def script() -> Iterator[None]:
        yield from scene.grow([target("Child")] * 2, target("Next"))
        worker = begun(scene, 2)
        yield from fails(scene, 3)
        yield from ask(scene, about(FORGET, B))
        assert answers == [Answer(True, "Job 1-2 (Child) is forgotten.")]
        assert scene.rows("SELECT * FROM failures") == []
        worker.succeed()
        scene.finish(worker)
        yield
        yield from scene.play_rest()

    assert scene.play(script(), cpu=8).tree.totals == [0, 0, 0, 0, 2]


def test_a_running_job_that_is_forgotten_is_ended_and_what_it_still_says_counts_for_nothing(
    make_scene: MakeScene,
) -> None:
    scene = make_scene()

    def script() -> Iterator[None]:
        yield from scene.grow([target("Child"), target("Other")], target("Next"))
        worker = begun(scene, 2)
        other = begun(scene, 3)
        other.global_dir()
        other.flush()
        yield from ask(scene, about(FORGET, B))
        assert answers == [Answer(True, "Job 1-2 (Other) is forgotten.")]
        assert scene.batch.cancelled == [(scene.name(3), 10)]
        assert scene.left_behind() == ["bundles/0/2", "claims/0/2", "outcomes/0/2"]
        worker.succeed()
        scene.finish(worker)
        yield
        yield from scene.play_rest()

    scene.play(script(), cpu=8)

    assert scene.master.tree.totals == [0, 0, 0, 0, 2]
    assert scene.left_behind() == []


def test_an_outcome_that_comes_after_its_job_was_forgotten_is_dropped(make_scene: MakeScene) -> None:
    scene = make_scene()

    def script() -> Iterator[None]:
        yield from scene.grow([target("Child"), target("Other")])
        other = begun(scene, 3)
        yield from ask(scene, about(FORGET, B))
        other.succeed([target("Grandchild")] * 3, value=Value(b"token", b"value", in_file=True))
        scene.finish(other)
        yield
        assert scene.master.tree.stale >= 1
        yield from scene.play_rest()

    scene.play(script(), cpu=8, obeys_cancel=False)

    assert scene.master.tree.totals == [0, 0, 0, 0, 2]
    assert scene.left_behind() == []


def test_everything_below_is_forgotten_and_those_in_the_same_bundle_are_not(make_scene: MakeScene) -> None:
    scene = make_scene()

    def script() -> Iterator[None]:
        yield from scene.grow([target("Parent"), target("Child")], target("Next"))
        worker = begun(scene, 2)
        worker.succeed([target("Deep")] * 5)
        scene.finish(worker)
        yield
        yield from ask(scene, about(FORGET, A))
        assert answers == [Answer(True, "Job 1-1 (Parent) is forgotten, and with it 5 jobs below it.")]
        assert states(scene) == {1: State.BLOCKED, B: State.ISSUED}
        yield from scene.play_rest()

    assert scene.play(script(), cpu=8).tree.totals == [0, 0, 0, 0, 2]


def test_what_waits_in_a_bundle_and_is_forgotten_is_not_begun(make_scene: MakeScene) -> None:
    scene = make_scene()
    names: list[str] = []

    def script() -> Iterator[None]:
        yield from scene.grow_bundle(3)
        worker = begun(scene, 3)
        behind = worker.left[0].id
        yield from ask(scene, about(FORGET, behind))
        assert answers[0].body == f"Job {job_name(behind)} (Child) is forgotten."
        assert worker.recalled()
        worker.succeed()
        assert not worker.start()
        scene.finish(worker)
        names.append(job_name(behind))
        yield
        yield from scene.play_rest()

    assert scene.play(script(), room=1).tree.totals == [0, 0, 0, 0, 7]
    assert names
    assert scene.left_behind() == []


def test_a_bundle_in_the_queue_that_holds_nothing_else_is_cancelled(make_scene: MakeScene) -> None:
    scene = make_scene()

    def script() -> Iterator[None]:
        yield from scene.grow([target("Child"), target("Other")])
        yield from ask(scene, about(FORGET, B))
        assert scene.batch.cancelled == [(scene.name(3), 10)]
        yield from scene.play_rest()

    assert scene.play(script(), cpu=8).tree.totals == [0, 0, 0, 0, 2]


def test_the_first_job_is_not_forgotten(make_scene: MakeScene) -> None:
    scene = make_scene()

    def script() -> Iterator[None]:
        yield from ask(scene, about(FORGET, 1))
        assert not answers[0].done
        assert "to forget it is to remove the directory of the job tree" in answers[0].body
        yield from scene.play_rest()

    assert scene.play(script(), cpu=8).tree.totals == [0, 0, 0, 0, 1]


# -- mark as done ----------------------------------------------------------------------------------------------


def test_what_is_marked_as_done_is_counted_as_done_and_its_worker_ended(make_scene: MakeScene) -> None:
    scene = make_scene()

    def script() -> Iterator[None]:
        yield from scene.grow([target("Child"), target("Other")], target("Next"))
        yield from fails(scene, 2)
        begun(scene, 3)
        yield from ask(
            scene, about(MARK_DONE, A), about(MARK_DONE, B), about(MARK_DONE, B), about(MARK_DONE, 1)
        )
        assert [answer.done for answer in answers] == [True, True, False, False]
        assert answers[0].body == "Job 1-1 (Child) is taken as done."
        assert scene.batch.cancelled == [(scene.name(3), 10)]
        yield from scene.play_rest()

    assert scene.play(script(), cpu=8).tree.totals == [0, 0, 0, 0, 3]


def test_a_job_that_waits_for_its_children_is_not_marked_as_done(make_scene: MakeScene) -> None:
    scene = make_scene()

    def script() -> Iterator[None]:
        yield from scene.grow([target("Child")])
        yield from ask(scene, about(MARK_DONE, 1))
        assert answers[0].body == (
            "Job 0-1 (Root) has run, and waits for 1 of its children. Mark those as done, or forget them."
        )
        yield from scene.play_rest()

    scene.play(script(), cpu=8)


def promising(token: bytes) -> bytes:
    """The pickle of a target whose value was promised."""
    return serialization.sealed(pickle.dumps(("a target", {"_jobtree_token": token}), serialization.PROTOCOL))


def test_what_others_were_promised_is_not_marked_as_done_until_they_are_gone(make_scene: MakeScene) -> None:
    scene = make_scene()
    token, other = promise.new_token(), promise.new_token()
    children = [
        target("Child", promising(token)),
        target("Heir", b"of it", mentions=(token,)),
        target("Other", promising(other)),
    ]

    def script() -> Iterator[None]:
        yield from scene.grow(children)
        yield from ask(scene, about(MARK_DONE, A), about(MARK_DONE, C), about(FORGET, B), about(MARK_DONE, A))
        assert answers[0] == Answer(
            False,
            "Job 1-1 (Child) is not marked as done: its value was promised to job 1-2, and what is marked as done has "
            "none. Retry it, or forget it.",
        )
        assert [answer.done for answer in answers[1:]] == [True, True, True]

    assert scene.play(script(), cpu=8).tree.totals == [0, 0, 0, 0, 3]


# -- kill ------------------------------------------------------------------------------------------------------


def test_a_job_that_is_killed_has_failed_once_and_says_by_whom(make_scene: MakeScene) -> None:
    scene = make_scene(retry_count=1)

    def script() -> Iterator[None]:
        for bundle in (1, 2):
            begun(scene, bundle)
            for _ in range(LOOKS):
                yield
            yield from ask(scene, about(KILL_JOB, 1))
            assert answers[0].done, answers
            (message,) = scene.rows("SELECT message FROM failures")[0]
            assert message.startswith("the target was killed by ada (jobTreeRun --killJob) after")
        assert scene.batch.cancelled == [(scene.name(1), 10), (scene.name(2), 10)]

    assert scene.play(script(), cpu=8).tree.totals == [0, 0, 0, 1, 0]
    assert scene.rows("SELECT attempt, tries, losses FROM jobs") == [(2, 2, 0)]
    assert scene.rows("SELECT kind FROM failures") == [("killed",)]


def test_only_the_attempt_that_was_meant_is_killed(make_scene: MakeScene) -> None:
    scene = make_scene()

    def script() -> Iterator[None]:
        yield from ask(scene, about(KILL_JOB, 1))
        assert answers == [Answer(False, "Job 0-1 is not running. See: jobTreeStatus --why 0-1")]
        worker = begun(scene, 1)
        for _ in range(LOOKS):
            yield
        yield from ask(scene, about(KILL_JOB, 1, 7), Request(KILL_JOB, "ada"))
        assert [answer.body for answer in answers] == [
            "Attempt 7 of job 0-1 is over; 1 is running now.",
                "The request makes no sense: job is None, and a number is expected.",
        ]  # fmt: skip
        assert scene.batch.cancelled == []
        worker.succeed()
        scene.finish(worker)
        yield

    assert scene.play(script(), cpu=8).tree.totals == [0, 0, 0, 0, 1]


# -- pause -----------------------------------------------------------------------------------------------------


def test_nothing_is_issued_during_a_pause_which_outlives_the_master(
    make_scene: MakeScene, caplog: pytest.LogCaptureFixture
) -> None:
    scene = make_scene()

    def pauses() -> Iterator[None]:
        worker = begun(scene, 1)
        yield from ask(scene, Request(PAUSE, "ada"), Request(PAUSE, "eve"))
        assert [answer.body for answer in answers] == [
            "The run is paused: nothing is begun any more; what runs goes on to its end.",
            "It was paused already, by ada.",
        ]
        worker.succeed([target("Child")] * 2)
        scene.finish(worker)
        for _ in range(LOOKS):
            yield
        assert len(scene.batch.issued) == 1
        assert "paused by ada" in " ".join(scene.master._steering._explainer.why(A))
        scene.master.stop(15)
        yield

    def goes_on() -> Iterator[None]:
        for _ in range(LOOKS):
            yield
        assert scene.batch.issued == []
        yield from ask(scene, Request(GO_ON, "eve"), Request(GO_ON, "eve"))
        assert [answer.body for answer in answers] == ["The run goes on.", "It was not paused."]
        yield from scene.play_rest()

    scene.play(pauses(), cpu=8)
    scene.play(goes_on(), cpu=8)

    assert scene.master.tree.totals == [0, 0, 0, 0, 3]
    assert "the run is paused, by ada: nothing is issued until" in caplog.text


# -- change ----------------------------------------------------------------------------------------------------


def change(**options: Any) -> Request:
    return Request(CHANGE, "ada", {"options": options})


def test_limits_are_changed_while_the_run_is_on_and_for_later_starts(make_scene: MakeScene) -> None:
    scene = make_scene(limits={"licence": 1})
    child = target("Child", countable="licence=1")

    def script() -> Iterator[None]:
        yield from scene.grow([child] * 3)
        assert len(scene.active()) == 1
        yield from ask(scene, change(limits={"licence": 2}, retry_count="3"))
        assert answers == [Answer(True, "From now on: --limit licence=2, --retryCount 3.")]
        assert len(scene.active()) == 2
        assert scene.master.tree.retry_count == 3
        yield from scene.play_rest()

    scene.play(script(), cpu=8)
    stored = json.loads(Path(scene.paths.settings).read_text())
    assert (stored["limits"], stored["retry_count"]) == ({"licence": 2}, 3)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"max_cpus": 1}, "Nothing is changed: jobs of Child that are to run ask for 4 cores."),
        ({"max_memory": "1G"}, "Nothing is changed: jobs of Child that are to run ask for 3.0 GiB."),
        ({"limits": {"licence": 1}}, "Nothing is changed: jobs of Child that are to run ask for 2 licence."),
        ({"max_cpus": "many"}, "option --maxCpus: 'many' was given, and a number above 0 is expected."),
        ({"durable": "tree"}, "what can be changed is max_cpus"),
        ({}, "what can be changed is max_cpus"),
    ],
)
def test_a_limit_that_makes_no_sense_or_would_have_jobs_given_up_is_refused(
    make_scene: MakeScene, options: dict[str, Any], words: str
) -> None:
    scene = make_scene(limits={"licence": 2})

    def script() -> Iterator[None]:
        yield from scene.grow([target("Child", cpu=4, memory=3 << 30, countable="licence=2")] * 2)
        yield from ask(scene, change(**options))
        assert not answers[0].done
        assert answers[0].body.startswith(words)
        yield from scene.play_rest()

    assert scene.play(script(), cpu=8).tree.totals == [0, 0, 0, 0, 3]


# -- masters that die ------------------------------------------------------------------------------------------


def test_a_master_that_dies_before_it_has_looked_leaves_the_request_for_the_next(
    make_scene: MakeScene,
) -> None:
    scene = make_scene()
    ids: list[str] = []

    def dies() -> Iterator[None]:
        yield from scene.grow([target("Child")] * 2)
        yield from fails(scene, 2)
        ids.append(steering_requests.send(scene.paths, about(RETRY, A)))
        ids.append(steering_requests.send(scene.paths, about(FORGET, B)))
        raise Died

    scene.play_until_death(dies(), cpu=8)
    scene.play(scene.play_rest(), cpu=8)

    assert [fetch(scene, id).body for id in ids] == [
        "Job 1-1 (Child) is tried again.", "Job 1-2 (Child) is forgotten.",
    ]  # fmt: skip
    assert scene.master.tree.totals == [0, 0, 0, 0, 2]


def test_what_a_dead_master_had_done_and_not_answered_is_done_once(make_scene: MakeScene) -> None:
    scene = make_scene()
    ids: list[str] = []

    def die(*_: Any) -> None:
        raise Died

    def dies() -> Iterator[None]:
        yield from scene.grow([target("Child")] * 3)
        yield from fails(scene, 2)
        begun(scene, 4)
        ids.append(steering_requests.send(scene.paths, Request(RETRY, "ada")))
        ids.append(steering_requests.send(scene.paths, about(FORGET, B)))
        while True:
            yield

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(requests.Requests, "answer", die)
        scene.play_until_death(dies(), cpu=8)
    assert sorted(states(scene)) == [1, A, C]

    def rest() -> Iterator[None]:
        yield from fails(scene, max(scene.batch.sizes))
        yield from scene.play_rest()

    scene.play(rest(), cpu=8)

    assert [fetch(scene, id).body for id in ids] == [
        "1 job that had failed is tried again.", "Job 1-2 (Child) is forgotten.",
    ]  # fmt: skip
    assert scene.master.tree.totals == [0, 0, 1, 1, 1]


# -- without a master ------------------------------------------------------------------------------------------


def failed_tree(scene: Scene) -> None:
    """A tree whose master has died; of three children one has failed."""

    def script() -> Iterator[None]:
        yield from scene.grow([target("Child")] * 3, target("Next"))
        yield from fails(scene, 2)
        raise Died

    scene.play_until_death(script(), cpu=8)


def test_without_a_master_it_is_done_under_the_lock_and_nothing_is_run(make_scene: MakeScene) -> None:
    scene = make_scene()
    failed_tree(scene)

    assert alone(scene, about(FORGET, B)).body == "Job 1-2 (Child) is forgotten."
    assert alone(scene, about(MARK_DONE, C)).body == "Job 1-3 (Child) is taken as done."
    assert alone(scene, change(max_lost=9)).done
    assert alone(scene, Request(PAUSE, "ada")).done
    assert alone(scene, Request(GO_ON, "ada")).done
    assert states(scene) == {1: State.BLOCKED, A: State.FAILED}
    assert alone(scene, about(MARK_DONE, A)).done
    assert states(scene) == {1: State.READY}

    assert scene.play(scene.play_rest(), cpu=8).tree.totals == [0, 0, 0, 0, 3]
    assert scene.left_behind() == []


def test_a_tree_that_is_complete_by_it_says_so(make_scene: MakeScene) -> None:
    scene = make_scene()

    def script() -> Iterator[None]:
        yield from scene.grow([target("Child")])
        yield from fails(scene, 2)

    scene.play(script(), cpu=8)
    assert alone(scene, about(FORGET, A)).done
    assert scene.rows("SELECT value FROM meta WHERE key = 'ended'") == [("complete",)]


def test_killing_is_left_for_a_master(make_scene: MakeScene) -> None:
    scene = make_scene()
    failed_tree(scene)
    steering_requests.send(scene.paths, about(KILL_JOB, B))
    unattended.obey(scene.paths)
    assert [name for name in scene.left_behind() if "killJob" in name and name.endswith(".json")]


def test_whoever_asks_where_nobody_is_learns_that_it_is_noted(make_scene: MakeScene) -> None:
    scene = make_scene()
    failed_tree(scene)

    answer = steering_requests.retry(scene.paths, "ada", A)

    assert answer == Answer(
        False, "It is noted and not done yet: no master runs the tree now. The next one does this first."
    )
    scene.play(scene.play_rest(), cpu=8)
    assert scene.master.tree.totals == [0, 0, 0, 0, 4]
