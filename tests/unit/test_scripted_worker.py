"""The scripted worker writes what the real one writes, so that what is learnt with it about the master is true."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Optional

import pytest

from jobtree import attempt, bundles, clock, files, frames, serialization, workplace
from jobtree.attempt import Attempt
from jobtree.frames import BundleHeader, BundleJob
from jobtree.paths import TreePaths
from jobtree.recorded import Recorded
from jobtree.target import Target
from jobtree.usage import Usage
from jobtree.workplace import Workplace
from tests.fakes.scripted_worker import ScriptedWorker, Value

JOB = BundleJob(1, 1, 0, 1000, 1.0, 0.0, b"", {})


class Child(Target):
    """Some child."""

    def __init__(self, number: int = 0) -> None:
        super().__init__(memory=100 + number % 3)
        self.number = number


def make_bundle(paths: TreePaths, number: int) -> None:
    """A bundle of one job."""
    header = BundleHeader(
        frames.VERSION, "run", number, 1, 1000, 1.0, 30.0, 1000, False, False, False, False, None, 1000, 1.0
    )
    bundles.write_bundle(paths, header, [JOB])


def real_place(paths: TreePaths, number: int) -> Workplace:
    """A worker's place as it is after it has opened its bundle, but without taking over this process's streams."""
    body = frames.decode(files.read(paths.bundle(number)) or b"", 1)[0].body
    place = Workplace.__new__(Workplace)
    place.paths, place.bundle, place.header = paths, number, BundleHeader(*body)
    place.next_n, place.values, place.started = 1, {}, clock.elapsed()
    place._control = workplace._Held(paths.bundle(number), os.O_RDONLY)
    place.outcome = workplace.OutcomeFile(paths.outcome(number), paths.root)
    return place


def written_by_real(paths: TreePaths, target: Target, value: Any) -> tuple[list[Any], Optional[BundleJob]]:
    """What a real worker writes of a target that has run, and with which job it goes on."""
    make_bundle(paths, 7)
    place = real_place(paths, 7)
    outcome, next_job = Attempt(place, JOB, 0)._succeed(target, value, Usage(), may_go_on=True)
    place.outcome.write(*outcome)
    place.outcome.flush()
    os.close(place._control.fd())
    os.close(place.outcome._file.fd())
    return written(paths), next_job


def written_by_fake(paths: TreePaths, target: Target, value: Any) -> tuple[list[Any], Optional[BundleJob]]:
    """The same by a scripted worker."""
    recorded = Recorded(target)
    kept = None
    if recorded.token is not None:
        data, mentions = serialization.pack_value(value, target)
        kept = Value(recorded.token, data, mentions, len(data) > attempt.LARGE_VALUE)
    children = [serialization.pack(child) for child in recorded.children]
    follow_on = None if recorded.follow_on is None else serialization.pack(recorded.follow_on)
    make_bundle(paths, 7)
    fake = ScriptedWorker(paths, 7)
    assert fake.open()
    fake.start()
    os.truncate(paths.outcome(7), 0)
    next_job = fake.succeed(children, follow_on, kept, go_on=True)
    fake.flush()
    return written(paths), next_job


def written(paths: TreePaths) -> list[Any]:
    """The frames of the outcome file; what was measured is left out."""
    found = [frame.body for frame in frames.decode(files.read(paths.outcome(7)) or b"")]
    return [
        (*body[:3], "measures", *body[4:]) if body[0] in (frames.SUCCEEDED, frames.FAILED) else body
        for body in found
    ]


@pytest.mark.parametrize("value", ["", "small", "large" * 1000], ids=["no value", "small", "large"])
@pytest.mark.parametrize("follow_on", [False, True])
@pytest.mark.parametrize("children", [0, 1, 3, 2500])
def test_both_write_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, children: int, follow_on: bool, value: str
) -> None:
    monkeypatch.setattr(attempt, "LARGE_VALUE", 1000)

    def ran() -> Target:
        target = Target()
        for number in range(children):
            target.addChildTarget(Child(number))
        if follow_on:
            target.setFollowOnTarget(Child(7))
        if value:
            target.__dict__["_Target__token"] = b"token"
        return target

    real_frames, real_next = written_by_real(TreePaths(str(tmp_path / "real")), ran(), value)
    fake_frames, fake_next = written_by_fake(TreePaths(str(tmp_path / "fake")), ran(), value)

    assert real_frames == fake_frames
    assert real_next == fake_next
