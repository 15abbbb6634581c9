"""Names of batch systems: those that there are, those to come, and typing errors."""

from __future__ import annotations

import subprocess
import sys

import pytest

from batchsystems.abstract import BatchSystemError
from batchsystems.registry import (
    UnknownBatchSystem,
    batch_system_class,
    built_names,
)
from batchsystems.single_machine import SingleMachine


@pytest.mark.parametrize("name", ["singleMachine", "single_machine"])
def test_the_single_machine_has_two_spellings(name: str) -> None:
    assert batch_system_class(name) is SingleMachine


def test_every_built_name_has_its_class() -> None:
    assert "singleMachine" in built_names()
    for name in built_names():
        assert not getattr(batch_system_class(name), "__abstractmethods__", None), name


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("singelMachine", "singleMachine"),
        ("SINGLEMACHINE", "singleMachine"),
        ("SLURM", "slurm"),
        ("gridengine", "gridEngine"),
        ("parasoll", "parasol"),
    ],
)
def test_a_typing_error_is_told_the_nearest_name(typed: str, meant: str) -> None:
    with pytest.raises(UnknownBatchSystem, match=f"'{typed}'. Did you mean '{meant}'?"):
        batch_system_class(typed)


def test_an_unknown_name_is_told_all_names() -> None:
    with pytest.raises(BatchSystemError) as caught:
        batch_system_class("kubernetes")

    assert "Did you mean" not in str(caught.value)
    for name in built_names():
        assert name in str(caught.value)


def test_no_backend_is_imported_before_it_is_chosen() -> None:
    program = "import sys, batchsystems.registry; sys.exit('batchsystems.single_machine' in sys.modules)"

    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


def test_a_batch_system_of_ones_own_is_named_by_where_it_is() -> None:
    found = batch_system_class("tests.fakes.fake_batch_system:FakeBatchSystem")
    assert found.__name__ == "FakeBatchSystem"


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("no.such.module:Class", "No module named 'no'"),
        ("batchsystems.abstract:Nothing", "has no attribute 'Nothing'"),
        ("batchsystems.abstract:Submission", "must be a subclass of AbstractBatchSystem"),
        (":", "cannot be loaded"),
    ],
)
def test_what_is_none_is_refused(name: str, why: str) -> None:
    with pytest.raises(UnknownBatchSystem, match=why):
        batch_system_class(name)


def test_looking_at_all_options_needs_no_library_that_may_be_absent() -> None:
    program = (
        "import sys, batchsystems.registry as r; r.options(); "
        "sys.exit(', '.join({'drmaa', 'redis', 'jobtree'} & set(sys.modules)) or 0)"
    )
    ran = subprocess.run([sys.executable, "-c", program], check=False, capture_output=True, text=True)
    assert (ran.returncode, ran.stderr) == (0, "")
