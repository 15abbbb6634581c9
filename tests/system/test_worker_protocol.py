"""What a worker owes the master, seen from outside: the real program is started on a bundle that the test has made."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any, Callable

import pytest

from jobtree import bundles, environment, files, frames, launcher, serialization, workplace
from jobtree.frames import BundleHeader, BundleJob, Supervision
from jobtree.paths import TreePaths
from jobtree.target import FunctionTarget
from jobtree.version import VERSION
from tests.fakes.master_scene import RUN, make_tree
from tests.fakes.scripted_worker import target

BUNDLE = 1
PYTHON = platform.python_version()


@pytest.fixture
def paths(tmp_path: Path) -> TreePaths:
    """A tree whose workers have this process's environment."""
    found = TreePaths(str(tmp_path / "tree"))
    make_tree(found, target("Root"))
    files.write_json(found.environment, environment.of_this_process().to_json())
    return found


def write(paths: TreePaths, *calls: tuple[Callable[..., Any], tuple[Any, ...]], **told: Any) -> None:
    """Make a bundle whose jobs call these functions; told: what else its header says."""
    jobs = [
        BundleJob(
            number, 1, 0, 1 << 30, 1.0, 0.0,
            serialization.pack(FunctionTarget(fn, arguments, None, None, None, None, False)).payload, {},
        )
        for number, (fn, arguments) in enumerate(calls, 1)
    ]  # fmt: skip
    header = BundleHeader(
        frames.VERSION, RUN, BUNDLE, len(jobs), 1 << 30, 1.0, 30.0, 1000, False, True, False, False, None, 1 << 30, 1.0
    )  # fmt: skip
    bundles.write_bundle(paths, header._replace(**told), jobs)


def decoded(paths: TreePaths) -> tuple[BundleHeader, list[BundleJob]]:
    """What was written."""
    found = frames.decode_bundle(files.read(paths.bundle(BUNDLE)) or b"")
    assert found is not None
    return found


def start(paths: TreePaths) -> int:
    """Run the bundle's worker to its end. Returns its exit status."""
    command = launcher.command("worker", paths.root, str(os.getpid()), str(BUNDLE))
    return subprocess.run(command, timeout=60).returncode


def said(path: str) -> list[Any]:
    """The frames in an outcome file, kind and job."""
    return [frame.body[:2] for frame in frames.decode(files.read(path) or b"")]


def test_worker_runs_its_bundle_and_says_so(paths: TreePaths, tmp_path: Path) -> None:
    write(paths, (os.mkdir, (str(tmp_path / "one"),)), (os.mkdir, (str(tmp_path / "two"),)))

    assert start(paths) == 0

    assert (tmp_path / "one").is_dir()
    assert (tmp_path / "two").is_dir()
    assert said(paths.outcome(BUNDLE)) == [
        (frames.STARTED, 1), (frames.SUCCEEDED, 1), (frames.STARTED, 2), (frames.SUCCEEDED, 2),
    ]  # fmt: skip


def test_bundle_that_somebody_has_claimed_is_left_alone(paths: TreePaths, tmp_path: Path) -> None:
    write(paths, (os.mkdir, (str(tmp_path / "one"),)))
    bundles.claim(paths, BUNDLE)

    assert start(paths) == 0

    assert not (tmp_path / "one").exists()
    assert said(paths.outcome(BUNDLE)) == []
    assert files.read(paths.claim(BUNDLE)) == b"master\n"


def test_bundle_that_is_started_twice_runs_once(paths: TreePaths, tmp_path: Path) -> None:
    write(paths, (os.mkdir, (str(tmp_path / "one"),)))

    assert start(paths) == start(paths) == 0

    assert said(paths.outcome(BUNDLE)) == [(frames.STARTED, 1), (frames.SUCCEEDED, 1)]


def test_worker_that_claims_a_bundle_that_was_just_removed_takes_its_claim_back(
    paths: TreePaths, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(paths, (os.mkdir, (str(tmp_path / "one"),)))
    make_once = files.make_once

    def too_late(path: str, data: bytes) -> bool:
        bundles.remove_bundle(paths, BUNDLE, log=True)
        return make_once(path, data)

    monkeypatch.setattr(files, "make_once", too_late)

    assert workplace.open_workplace(paths, BUNDLE, str(tmp_path)) is None

    assert not os.path.exists(paths.claim(BUNDLE))


def test_recalled_bundle_is_given_back_by_its_first_job(paths: TreePaths, tmp_path: Path) -> None:
    write(paths, (os.mkdir, (str(tmp_path / "one"),)), (os.mkdir, (str(tmp_path / "two"),)))
    bundles.recall(paths, BUNDLE)

    assert start(paths) == 0

    assert not (tmp_path / "one").exists()
    assert not (tmp_path / "two").exists()
    assert said(paths.outcome(BUNDLE)) == [(frames.STARTED, 1), (frames.GAVE_BACK, 1)]


@pytest.mark.parametrize("on_a_cluster", [True, False])
def test_bundle_that_takes_far_too_long_is_left_to_others_on_a_cluster(
    paths: TreePaths, on_a_cluster: bool
) -> None:
    supervision = tuple(Supervision(60.0, 1.0, VERSION, PYTHON, 0.0)) if on_a_cluster else None
    too_long = (time.sleep, (0.01 * frames.OVERTIME + 0.01,))
    write(paths, too_long, too_long, job_time=0.01, supervision=supervision)

    assert start(paths) == 0

    first, second = [(frames.STARTED, 1), (frames.SUCCEEDED, 1)], [(frames.STARTED, 2), (frames.SUCCEEDED, 2)]
    assert said(paths.outcome(BUNDLE)) == (first if on_a_cluster else first + second)


def test_job_that_would_not_end_before_the_batch_system_ends_it_is_left_to_others(paths: TreePaths) -> None:
    """It says that it takes 100 s, and the bundle is ended after 50."""
    supervision = tuple(Supervision(60.0, 1.0, VERSION, PYTHON, 50.0))
    short = (time.sleep, (0.0,))
    write(paths, short, short, supervision=supervision)
    header, jobs = decoded(paths)
    bundles.write_bundle(paths, header, [jobs[0], jobs[1]._replace(time=100.0)])

    assert start(paths) == 0

    assert said(paths.outcome(BUNDLE)) == [(frames.STARTED, 1), (frames.SUCCEEDED, 1)]


def test_bundle_that_is_recalled_while_it_runs_ends_after_the_target_that_runs(
    paths: TreePaths, tmp_path: Path
) -> None:
    write(paths, (bundles.recall, (paths, BUNDLE)), (os.mkdir, (str(tmp_path / "two"),)))

    assert start(paths) == 0

    assert not (tmp_path / "two").exists()
    assert said(paths.outcome(BUNDLE)) == [
        (frames.STARTED, 1), (frames.SUCCEEDED, 1), (frames.STARTED, 2), (frames.GAVE_BACK, 2),
    ]  # fmt: skip


def test_what_a_target_follows_from_is_in_the_file_when_it_runs(paths: TreePaths, tmp_path: Path) -> None:
    outcome, seen = paths.outcome(BUNDLE), [str(tmp_path / "one"), str(tmp_path / "two")]
    write(paths, *((shutil.copyfile, (outcome, copy)) for copy in seen))

    assert start(paths) == 0

    assert said(seen[0]) == [(frames.STARTED, 1)]
    assert said(seen[1]) == [(frames.STARTED, 1), (frames.SUCCEEDED, 1), (frames.STARTED, 2)]
