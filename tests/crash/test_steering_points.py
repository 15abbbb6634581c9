"""A master that is asked to change the run's course is stopped before and after every durable effect that it has,
from when it was asked to its end, and the next one goes on. Each request is obeyed once, whoever died, and the run ends
as if nobody had.

The same for a request that is obeyed without a master.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Optional

import pytest

from jobtree import files, requests, steering_requests, unattended
from jobtree.lock import TreeLock
from jobtree.paths import job_id
from jobtree.removals import Remover
from jobtree.requests import Request
from jobtree.steering_requests import CHANGE, FORGET, GO_ON, KILL_JOB, MARK_DONE, PAUSE, RETRY
from tests.crash.test_crash_points import Effects, Stopped, remove_at_once, sample
from tests.fakes.fake_clock import FakeClock
from tests.fakes.master_scene import Scene, query_rows
from tests.fakes.scripted_worker import ScriptedWorker, target

A, B, C, D, E = (job_id(1, n) for n in (1, 2, 3, 4, 5))
"""The children of the root: A has failed, B runs and is forgotten, C runs and is killed, D waits and is marked as
done, E waits."""

SAMPLE = 40

ASKED = [
    Request(RETRY, "ada", {"job": A, "attempt": 1}), Request(FORGET, "ada", {"job": B}), Request(PAUSE, "ada"),
    Request(KILL_JOB, "ada", {"job": C, "attempt": 1}), Request(MARK_DONE, "ada", {"job": D}), Request(GO_ON, "ada"),
    Request(CHANGE, "ada", {"options": {"max_lost": 7}}),
]  # fmt: skip


class Play:
    """One tree, and what becomes of it. Every job fails but E and the root, so what is tried too often shows."""

    def __init__(self, folder: Path, effects: Effects, clock: FakeClock) -> None:
        self.scene = Scene(folder, clock)
        self.scene.make()
        self.effects = effects
        self.ids: list[str] = []
        self.runs: Counter[int] = Counter()
        self._workers: dict[str, ScriptedWorker] = {}

    def first(self, stop_at: Optional[int]) -> None:
        """The master that is asked. Raises Stopped."""
        self.effects.begin()
        self._play(self._asked(stop_at))

    def rest(self) -> None:
        """The next one, which runs to the end."""
        self.effects.begin()
        self._play(self._all())

    def _play(self, script: Iterator[None]) -> None:
        self._workers.clear()
        self.scene.play(script, cpu=3)

    def _asked(self, stop_at: Optional[int]) -> Iterator[None]:
        yield from self.scene.grow([target("Child")] * 5)
        self._begin()
        self._end(A)
        yield
        self._begin()
        yield
        yield
        self.ids = [steering_requests.send(self.scene.paths, request) for request in ASKED]
        self.effects.begin(stop_at)
        yield from self._all()

    def _all(self) -> Iterator[None]:
        for _ in range(12):  # so that they are obeyed before anything else ends
            yield
        while self.scene.active():
            self._begin()
            yield
            for job in list(self._running()):
                self._end(job)
            yield

    def _running(self) -> dict[int, ScriptedWorker]:
        running = self.scene.batch.running()
        return {w.job.id: w for name, w in self._workers.items() if name in running and w.job is not None}

    def _begin(self) -> None:
        for submission in self.scene.active():
            if submission.name in self._workers:
                continue
            worker = self.scene.worker(int(submission.name.rpartition(".")[2]))
            self._workers[submission.name] = worker
            if not worker.start():
                self.scene.finish(worker)
            elif worker.job is not None:
                self.runs[worker.job.id] += 1

    def _end(self, id: int) -> None:
        worker = self._running()[id]
        if id in (1, E):
            worker.succeed()
        else:
            worker.fail()
        self.scene.finish(worker)

    def ending(self) -> Any:
        """All that must be the same however often the world was stopped."""
        rows = query_rows(self.scene.paths, "SELECT id, state, tries FROM jobs ORDER BY id")
        ended = query_rows(
            self.scene.paths, "SELECT value FROM meta WHERE key IN ('ended', 'paused') ORDER BY key"
        )
        answers = [self._answer(number) for number in range(len(ASKED))]
        left = [name for name in self.scene.left_behind() if not name.startswith(("requests", "logs"))]
        return rows, ended, answers, left, self._max_lost()

    def _max_lost(self) -> Any:
        """As a start with jobTreeRun takes it."""
        return (files.read_json(self.scene.paths.settings) or {}).get("max_lost")

    def _answer(self, number: int) -> tuple[bool, str]:
        """KILL_JOB is about something that a death ends as well; what is to be the same there is the end."""
        found = requests.wait(self.scene.paths, self.ids[number], 0.0, lambda: False)
        assert found is not None, f"nobody has answered {ASKED[number]}"
        return (True, "") if ASKED[number].kind == KILL_JOB else (found.done, found.body)


@pytest.fixture
def effects(monkeypatch: pytest.MonkeyPatch) -> Effects:
    monkeypatch.setattr(Remover, "add", remove_at_once)
    return Effects(monkeypatch)


def undisturbed(tmp_path: Path, effects: Effects, clock: FakeClock) -> tuple[Any, int]:
    """How it ends when nobody dies, and how many points there are."""
    play = Play(tmp_path / "undisturbed", effects, clock)
    play.first(None)
    points = len(effects.names)
    rows, _, answers, left, max_lost = ending = play.ending()
    assert [row[0] for row in rows] == [1, A, C]
    assert all(done for done, _ in answers)
    assert (left, max_lost) == ([], 7)
    return ending, points


@pytest.mark.slow
def test_each_request_is_obeyed_once_wherever_the_master_dies(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, effects: Effects, capsys: pytest.CaptureFixture[str]
) -> None:
    clock = FakeClock(monkeypatch)
    expected, points = undisturbed(tmp_path, effects, clock)
    chosen, how = sample(points, SAMPLE)
    for number in chosen:
        play = Play(tmp_path / f"tree-{number}", effects, clock)
        try:
            play.first(number)
        except Stopped as point:
            what = f"point {number}, {point} ({how})"
        else:
            continue
        play.rest()
        assert play.ending() == expected, what
        assert play.runs[A] <= 3, f"{what}: A is tried twice, and once more if a death has cut that short"
    with capsys.disabled():
        print(f"\n{points} points with requests, {len(chosen)} tried ({how})")


@pytest.mark.slow
def test_what_is_obeyed_without_a_master_is_obeyed_once_wherever_that_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, effects: Effects
) -> None:
    clock = FakeClock(monkeypatch)
    locks: list[TreeLock] = []
    acquire = TreeLock.acquire

    def noted(self: TreeLock) -> None:
        locks.append(self)
        acquire(self)

    monkeypatch.setattr(TreeLock, "acquire", noted)
    endings = set()
    number = 0
    while True:
        play = Play(tmp_path / f"tree-{number}", effects, clock)
        with pytest.raises(Stopped):
            play.first(1)
        effects.begin(number or None)
        try:
            unattended.obey(play.scene.paths)
        except Stopped:
            effects.begin()
            locks.pop().release()  # as the end of a process does
            unattended.obey(play.scene.paths)
        else:
            if number:
                break  # there are no more points
        play.rest()
        endings.add(repr(play.ending()))
        assert len(endings) == 1, f"point {number}: {endings}"
        number += 1
    assert number > 10
