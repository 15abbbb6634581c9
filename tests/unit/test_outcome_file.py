"""The outcome file of a worker on a disk that refuses, and removals that cannot be done."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import Any

import pytest

from jobtree import files, frames, workplace
from jobtree.attempt import Attempt
from jobtree.errors import StorageError
from jobtree.paths import TreePaths
from jobtree.removals import Remover
from jobtree.target import Target
from jobtree.workplace import OutcomeFile
from tests.unit.test_scripted_worker import JOB, make_bundle, real_place


@pytest.fixture
def paths(tmp_path: Path) -> TreePaths:
    return TreePaths(str(tmp_path))


@pytest.fixture
def full(tmp_path: Path) -> OutcomeFile:
    """An outcome file on a full disk."""
    (tmp_path / "outcome").symlink_to("/dev/full")
    file = OutcomeFile.__new__(OutcomeFile)
    file._path = str(tmp_path / "outcome")
    file._file = workplace._Held(file._path, os.O_WRONLY | os.O_APPEND)
    file._pending, file.refused = [], None
    return file


def test_refused_frame_names_the_file_and_is_never_followed_by_another(full: OutcomeFile) -> None:
    full.write(frames.STARTED, 1, 1, 0, 0.0)
    with pytest.raises(StorageError, match=r"outcome: No space left on device"):
        full.flush()
    os.dup2(os.open(os.devnull, os.O_WRONLY), full._file._fd)  # there is room again

    with pytest.raises(StorageError, match=r"outcome: No space left on device"):
        full.flush()


def test_target_that_swallows_the_refusal_of_its_message_is_not_believed(paths: TreePaths) -> None:
    """Its outcome would stand behind half a frame, where nobody reads it."""
    make_bundle(paths, 7)
    place = real_place(paths, 7)
    attempt = Attempt(place, JOB, 0)
    place.outcome.refused = StorageError("the disk refused")

    def run_target() -> Any:
        with contextlib.suppress(StorageError):
            attempt.log_to_master("hello")
        return None, Target(), None

    attempt._run_target = run_target  # type: ignore[method-assign]

    with pytest.raises(StorageError, match="the disk refused"):
        attempt.run()
    assert files.read(paths.outcome(7)) == b""


def test_what_cannot_be_removed_is_told_and_stays_noted(
    paths: TreePaths, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    Path(paths.root, "goes").touch()
    Path(paths.root, "stays").mkdir()
    remover = Remover(paths, lambda: None)

    remover.add([(1, "stays"), (2, "goes")])
    remover.close()

    assert remover.take_done() == [2]
    assert "stays" in caplog.text
