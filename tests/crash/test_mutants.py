"""A few mutants, and whether the table of all of them still fits the source; `make mutants` tries all."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.crash import mutants
from tests.crash.mutant_table import MUTANTS, Mutant

HERE = Path(__file__).resolve().parent


@pytest.mark.slow
def test_every_line_of_the_table_fits_the_source() -> None:
    mutants.check_table()
    assert len(MUTANTS) >= 40


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_some_mutants_are_caught(capsys: pytest.CaptureFixture[str]) -> None:
    """Those that unit tests catch, because these are quick."""
    done = subprocess.run(
        [sys.executable, str(HERE / "mutants.py"), "--sample", "6", "--quick", "--jobs", "1"],
        capture_output=True,
        text=True,
    )
    with capsys.disabled():
        print("\n" + done.stdout)
    assert done.returncode == 0, done.stdout + done.stderr


SOURCE = "class A:\n    def f(self):\n        sync()\n        sync_all()\n\n\ndef f():\n    sync()\n"


def test_a_mutant_changes_its_function_and_no_other() -> None:
    mutant = Mutant("x.py", "f", "sync()", "pass", "", ())
    assert mutants.mutated(SOURCE, mutant) == SOURCE[: -len("sync()\n")] + "pass\n"


@pytest.mark.parametrize(
    ("function", "old"), [("A.f", "sync"), ("f", "sync_all()"), ("A.g", "sync()"), ("g", "sync()")]
)
def test_a_line_that_does_not_fit_is_out_of_date(function: str, old: str) -> None:
    with pytest.raises(mutants.OutOfDate, match="up to date"):
        mutants.mutated(SOURCE, Mutant("x.py", function, old, "pass", "", ()))


def test_a_mutant_that_no_test_notices_has_survived(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "x.py").write_text("def f():\n    return 1\n\n\ndef g():\n    return 1\n")
    (tmp_path / "test_x.py").write_text("import x\n\n\ndef test_f():\n    assert x.f() == 1\n")
    (tmp_path / "setup.cfg").write_text("[tool:pytest]\npythonpath = .\naddopts = -n 0\n")
    monkeypatch.setattr(mutants, "CHECKOUT", tmp_path)

    caught = mutants.try_one(Mutant("x.py", "f", "1", "2", "", ("test_x.py",)))
    survived = mutants.try_one(Mutant("x.py", "g", "1", "2", "", ("test_x.py",)))

    assert (caught.by, survived.by) == ("test_x.py::test_f", "")
