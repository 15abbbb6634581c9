"""What several tests of the whole system share."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.system.legacy_script import CHECKOUT


@pytest.fixture(scope="session")
def share(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `make share` writes, in the place that it has below a prefix."""
    directory = tmp_path_factory.mktemp("prefix") / "share"
    subprocess.run([sys.executable, str(CHECKOUT / "docs/generate/share.py"), str(directory)], check=True)
    return directory
