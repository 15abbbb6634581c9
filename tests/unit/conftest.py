"""What tests of the master share."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.fakes.cluster_scene import ClusterScene, MakeClusterScene
from tests.fakes.fake_clock import FakeClock
from tests.fakes.master_scene import MakeScene, Scene


@pytest.fixture
def make_scene(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> MakeScene:
    """Makes a tree of one root target; its arguments are settings."""

    def make(**settings: Any) -> Scene:
        scene = Scene(tmp_path / "tree", FakeClock(monkeypatch), **settings)
        scene.make()
        return scene

    return make


@pytest.fixture
def make_cluster_scene(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> MakeClusterScene:
    """The same, with bundles that are run by supervisors elsewhere."""

    def make(**settings: Any) -> ClusterScene:
        scene = ClusterScene(tmp_path / "tree", FakeClock(monkeypatch), **settings)
        scene.make()
        return scene

    return make
