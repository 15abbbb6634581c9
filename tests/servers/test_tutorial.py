"""The last line of the tutorial: its script, unchanged, on a real SLURM."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.servers.slurm import SlurmServer
from tests.system.legacy_script import CHECKOUT
from tests.system.pipelines import variables

pytestmark = [
    pytest.mark.servers, pytest.mark.xdist_group("slurm"), pytest.mark.slow, pytest.mark.timeout(400)
]  # fmt: skip


def test_the_line_for_a_cluster(tmp_path: Path, slurm_server: SlurmServer) -> None:
    page = (CHECKOUT / "docs/tutorial/index.md").read_text(encoding="utf-8")
    (line,) = re.findall(r"^\$ python (step6\.py .*--batchSystem slurm.*)$", page, re.MULTILINE)
    (expected,) = set(re.findall(r"^1:\d+ 2:\d+.*$", page, re.MULTILINE))
    script, *words = line.split()
    (tmp_path / "big.txt").write_text("".join(f"{number}\n" for number in range(1, 50001)))

    ran = subprocess.run(
        [sys.executable, str(CHECKOUT / "docs/tutorial" / script), *words],
        cwd=tmp_path, env=variables(), capture_output=True, text=True, timeout=300,
    )  # fmt: skip

    assert (ran.returncode, ran.stdout) == (0, expected + "\n"), ran.stderr
