"""The supervisor as a batch system starts it: what it refuses, that it runs a bundle once, and what it writes down."""

from __future__ import annotations

import os
import platform
import subprocess
from pathlib import Path
from typing import Any

import pytest

from batchsystems.abstract import EndKind
from jobtree import bundles, files, frames, heartbeat, supervisor
from jobtree.frames import BundleHeader, Supervision
from jobtree.paths import TreePaths
from jobtree.version import VERSION
from tests.fakes.master_scene import ENVIRONMENT, RUN, make_tree
from tests.fakes.scripted_worker import target

PYTHON = platform.python_version()
NAME = f"{RUN}.7"


@pytest.fixture
def paths(tmp_path: Path) -> TreePaths:
    """A tree with a bundle, number 7, that has no job."""
    found = TreePaths(str(tmp_path / "tree"))
    make_tree(found, target("Root"))
    make_bundle(found)
    return found


def make_bundle(paths: TreePaths, **told: Any) -> None:
    supervision = tuple(
        Supervision(
            **{"lease": 60.0, "grace": 1.0, "library": VERSION, "python": PYTHON, "time_limit": 0.0, **told}
        )
    )
    header = BundleHeader(
        frames.VERSION, RUN, 7, 0, 1 << 30, 1, 30, 50_000, False, True, False, False, None, 1 << 30, 1, supervision
    )  # fmt: skip
    bundles.write_bundle(paths, header, [])


def run(paths: TreePaths, name: str = NAME) -> subprocess.CompletedProcess[str]:
    """Start it as a batch system does, in a directory that has nothing to do with it."""
    return subprocess.run(
        supervisor.command(paths.root, name), cwd="/", capture_output=True, text=True, timeout=60, check=False
    )


def end_of(paths: TreePaths) -> Any:
    """What the outcome file and the heartbeat say of the end; they must agree."""
    data = files.read(paths.outcome(7)) or b""
    found = [frame.body for frame in frames.decode(data)]
    assert [body[0] for body in found] == [frames.END]
    beat = heartbeat.read(paths.heartbeat(7), NAME)[1]
    assert beat is not None
    assert beat.end == heartbeat.end_of(NAME, found[0])
    return beat.end


def test_it_runs_a_bundle_signs_off_and_does_nothing_the_second_time(paths: TreePaths) -> None:
    ran = run(paths)
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, "", "")
    end = end_of(paths)
    assert (end.kind, end.status) == (EndKind.FINISHED, 0)
    assert end.host
    assert end.peak_memory > 1 << 20
    assert end.cpu_seconds > 0
    before = files.read(paths.outcome(7))

    again = run(paths)

    assert (again.returncode, again.stderr) == (0, "")
    assert files.read(paths.outcome(7)) == before


def test_the_master_has_claimed_it_first(paths: TreePaths) -> None:
    assert bundles.claim(paths, 7)

    assert run(paths).returncode == 0

    assert files.read(paths.outcome(7)) == b""
    assert not bundles.supervision(paths, 8)


def test_its_bundle_is_over(paths: TreePaths) -> None:
    bundles.remove_bundle(paths, 7, log=True, supervised=True)

    assert run(paths).returncode == 0

    assert not os.path.exists(paths.claim(7))
    assert not os.path.exists(paths.outcome(7))


def test_there_is_no_tree(tmp_path: Path) -> None:
    ran = run(TreePaths(str(tmp_path / "nowhere")))

    assert ran.returncode == supervisor.EX_NOINPUT
    assert "there is no job tree at" in ran.stderr
    assert "shares" in ran.stderr
    assert os.listdir(tmp_path) == []


def test_another_tree_is_there(paths: TreePaths) -> None:
    ran = run(paths, "otherrun.7")

    assert ran.returncode == supervisor.EX_UNAVAILABLE
    assert "is of run run, and this bundle is of run otherrun" in ran.stderr


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a directory away")
def test_the_tree_is_somebody_elses(paths: TreePaths) -> None:
    os.chown(paths.root, 12345, 12345)

    ran = run(paths)

    assert ran.returncode == supervisor.EX_UNAVAILABLE
    assert "belongs to the user with number 12345" in ran.stderr
    assert not os.path.exists(paths.claim(7))


@pytest.mark.parametrize(
    ("told", "why"),
    [
        ({"library": "0.0.1"}, f"jobtree is version {VERSION} here, 0.0.1 where the run was started"),
        ({"python": "2.7.18"}, f"Python is {PYTHON} here"),
    ],
)
def test_something_is_different_here(paths: TreePaths, told: dict[str, Any], why: str) -> None:
    make_bundle(paths, **told)

    ran = run(paths)

    assert ran.returncode == 0, "the master has read why; the batch system need not"
    assert why in ran.stderr
    end = end_of(paths)
    assert end.status == supervisor.EX_UNAVAILABLE
    assert why in end.detail


def test_the_script_or_the_directory_is_not_there(paths: TreePaths) -> None:
    stored = ENVIRONMENT.to_json()
    files.write_json(paths.environment, {**stored, "main": ["pipeline", "/nowhere/pipeline.py"]})

    run(paths)

    assert "the script /nowhere/pipeline.py of the run is not there" in end_of(paths).detail


def test_the_format_is_another_versions(paths: TreePaths) -> None:
    data = frames.NO_RECALL + frames.encode((frames.VERSION + 1, "what", "ever"))
    files.write_new(paths.bundle(7), data)

    ran = run(paths)

    assert ran.returncode == supervisor.EX_UNAVAILABLE
    assert f"is in format {frames.VERSION + 1}" in ran.stderr
    assert not os.path.exists(paths.claim(7))


@pytest.mark.parametrize("arguments", [[], ["tree"], ["tree", "run.x"], ["tree", "run.1", "more"]])
def test_wrong_arguments(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert supervisor.main(arguments) == 2
    assert "usage" in capsys.readouterr().err


def test_a_module_of_the_working_directory_is_not_taken_for_ours(paths: TreePaths, tmp_path: Path) -> None:
    (tmp_path / "jobtree").mkdir()
    (tmp_path / "jobtree" / "__init__.py").write_text("raise SystemExit('the wrong one')")
    (tmp_path / "signal.py").write_text("raise SystemExit('the wrong one')")

    ran = subprocess.run(
        supervisor.command(paths.root, NAME),
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert (ran.returncode, ran.stderr) == (0, "")
