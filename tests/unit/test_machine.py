"""Cores and memory that a process may use: affinity and the limits of control groups, from trees built here."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Optional

import psutil
import pytest

from batchsystems.machine import (
    affinity_cores,
    cgroup_cores,
    cgroup_memory,
    usable_cores,
    usable_gpus,
    usable_memory,
)

GIB = 1 << 30


class Groups:
    """A tree of control groups in a scratch folder."""

    def __init__(self, folder: Path) -> None:
        self.file = str(folder / "cgroup")
        self.mount = str(folder / "mount")

    def belongs_to(self, *lines: str) -> None:
        """What /proc/self/cgroup says."""
        Path(self.file).write_text("".join(line + "\n" for line in lines), encoding="utf-8")

    def limit(self, folder: str, **values: object) -> None:
        """Write control files; `__` in a name stands for the dot."""
        place = Path(self.mount, folder)
        place.mkdir(parents=True, exist_ok=True)
        for name, value in values.items():
            (place / name.replace("__", ".")).write_text(f"{value}\n", encoding="ascii")

    @property
    def cores(self) -> object:
        """The quota found."""
        return cgroup_cores(self.file, self.mount)

    @property
    def memory(self) -> object:
        """The memory limit found."""
        return cgroup_memory(self.file, self.mount)


@pytest.fixture
def groups(tmp_path: Path) -> Groups:
    return Groups(tmp_path)


def test_no_control_groups_means_no_limit(groups: Groups) -> None:
    assert groups.cores is None
    assert groups.memory is None
    assert usable_cores(groups.file, groups.mount) == affinity_cores()
    assert usable_memory(groups.file, groups.mount) == psutil.virtual_memory().total


def test_version_2_limits_are_read(groups: Groups) -> None:
    groups.belongs_to("0::/user/job")
    groups.limit("user/job", cpu__max="150000 100000", memory__max=3 * GIB)

    assert groups.cores == 1.5
    assert groups.memory == 3 * GIB


def test_max_is_no_limit(groups: Groups) -> None:
    groups.belongs_to("0::/job")
    groups.limit("job", cpu__max="max 100000", memory__max="max")

    assert groups.cores is None
    assert groups.memory is None


def test_the_lowest_limit_of_all_ancestors_counts(groups: Groups) -> None:
    groups.belongs_to("0::/slice/user/job")
    groups.limit("slice", cpu__max="400000 100000", memory__max=2 * GIB)
    groups.limit("slice/user", cpu__max="50000 25000", memory__max="max")
    groups.limit("slice/user/job", cpu__max="max 100000", memory__max=8 * GIB)
    groups.limit("slice/other", cpu__max="100 100000", memory__max=1)

    assert groups.cores == 2.0
    assert groups.memory == 2 * GIB


def test_version_1_limits_are_read(groups: Groups) -> None:
    groups.belongs_to("4:memory:/job", "1:cpu,cpuacct:/other/job", "0::/")
    groups.limit("memory/job", memory__limit_in_bytes=GIB)
    groups.limit("cpu,cpuacct/other", cpu__cfs_quota_us=300000, cpu__cfs_period_us=100000)
    groups.limit("cpu,cpuacct/other/job", cpu__cfs_quota_us=-1, cpu__cfs_period_us=100000)

    assert groups.cores == 3.0
    assert groups.memory == GIB


def test_version_1_controllers_mounted_one_by_one(groups: Groups) -> None:
    groups.belongs_to("1:cpuacct,cpu:/job")
    groups.limit("cpu/job", cpu__cfs_quota_us=50000, cpu__cfs_period_us=100000)

    assert groups.cores == 0.5


def test_both_versions_at_once(groups: Groups) -> None:
    groups.belongs_to("4:memory:/job", "0::/job")
    groups.limit("memory/job", memory__limit_in_bytes=4 * GIB)
    groups.limit("unified/job", memory__max=2 * GIB)

    assert groups.memory == 2 * GIB


@pytest.mark.parametrize("path", ["/docker/0123", "/../../elsewhere", "/"])
def test_inside_a_container_its_root_has_the_limits(groups: Groups, path: str) -> None:
    groups.belongs_to(f"0::{path}")
    groups.limit("", cpu__max="200000 100000", memory__max=GIB)
    Path(groups.mount, "..", "elsewhere").mkdir()
    Path(groups.mount, "..", "elsewhere", "memory.max").write_text("1", encoding="ascii")

    assert groups.cores == 2.0
    assert groups.memory == GIB


def test_rubbish_is_no_limit(groups: Groups) -> None:
    groups.belongs_to("rubbish", "", "0::/job")
    groups.limit("job", cpu__max="many", memory__max="1.5G")

    assert groups.cores is None
    assert groups.memory is None


def test_the_lower_of_machine_and_group_is_usable(groups: Groups) -> None:
    groups.belongs_to("0::/")
    groups.limit("", cpu__max="100000000 100000", memory__max=1 << 60)
    assert usable_cores(groups.file, groups.mount) == affinity_cores()
    assert usable_memory(groups.file, groups.mount) == psutil.virtual_memory().total

    groups.limit("", cpu__max="100000 100000", memory__max=1 << 20)
    assert usable_cores(groups.file, groups.mount) == 1.0
    assert usable_memory(groups.file, groups.mount) == 1 << 20


def test_at_least_one_core_is_usable_whatever_the_quota(groups: Groups) -> None:
    groups.belongs_to("0::/")
    groups.limit("", cpu__max="50000 100000")

    assert groups.cores == 0.5
    assert usable_cores(groups.file, groups.mount) == 1.0


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="no affinity on this system")
def test_affinity_counts() -> None:
    before = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {min(before)})
        assert affinity_cores() == 1
    finally:
        os.sched_setaffinity(0, before)


def test_this_machine_has_something() -> None:
    assert usable_cores() >= 1
    assert usable_memory() > 0


@pytest.mark.parametrize(
    ("visible", "expected"),
    [
        (None, ("0", "1")),
        ("", ()),
        ("3", ("3",)),
        ("GPU-8, 1", ("GPU-8", "1")),
        ("2,-1,3", ("2",)),
        ("-1", ()),
    ],
)
def test_graphics_cards_are_those_that_a_process_may_see(
    tmp_path: Path, visible: Optional[str], expected: tuple[str, ...]
) -> None:
    for name in ("nvidia0", "nvidia1", "nvidiactl"):
        (tmp_path / name).touch()
    variables = {} if visible is None else {"CUDA_VISIBLE_DEVICES": visible}

    assert usable_gpus(variables, str(tmp_path / "nvidia[0-9]*")) == expected
