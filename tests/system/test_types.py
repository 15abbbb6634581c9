"""What users touch has types that every checker understands the same way, and values keep theirs through promises."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

TYPED = """
from __future__ import annotations

from typing_extensions import assert_type

import jobtree
from jobtree import Promise, Target


class Number(Target):
    def run(self) -> int:
        return 1


class Later(Target):
    def run(self) -> Promise[int]:
        return self.setFollowOnTarget(Number()).rv()


def text(number: int) -> str:
    return str(number)


def inside(target: Target) -> None:
    assert_type(target.addChildTarget(Number()).rv(), Promise[int])
    assert_type(target.addChildTarget(Later()).rv(), Promise[int])
    assert_type(target.addChildFn(text, args=(1,)).rv(), Promise[str])
    assert_type(target.setFollowOnFn(text, args=(1,)).rv(), Promise[str])
    assert_type(Target.makeTargetFn(text).rv(), Promise[str])


def outside() -> None:
    with jobtree.open("tree", retryCount=2) as tree:
        assert_type(tree.run(Number()), int)
        assert_type(tree.run(Later()), int)
"""

WRONG = """
from jobtree import Target

class Number(Target):
    def run(self) -> int:
        return 1

print(Number().rv() + 1)
"""


def variables() -> dict[str, str]:
    """The environment of pyright: it asks the python that it finds first where packages are, and nobody for news."""
    directory = str(Path(sys.executable).parent)
    return {
        **os.environ,
        "PATH": f"{directory}{os.pathsep}{os.environ['PATH']}",
        "PYRIGHT_PYTHON_IGNORE_WARNINGS": "1",
        "PYRIGHT_PYTHON_GLOBAL_NODE": "0",
    }


def pyright(directory: Path, *arguments: str) -> dict[str, Any]:
    """What pyright finds."""
    ran = subprocess.run(
        [str(Path(sys.executable).parent / "pyright"), "--outputjson", *arguments],
        cwd=directory,
        env=variables(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.stdout, ran.stderr
    found: dict[str, Any] = json.loads(ran.stdout)
    return found


@pytest.mark.slow
def test_all_types_are_known(tmp_path: Path) -> None:
    found = pyright(tmp_path, "--verifytypes", "jobtree", "--ignoreexternal")["typeCompleteness"]

    incomplete = [
        f"{symbol['name']}: {diagnostic['message']}"
        for symbol in found["symbols"]
        for diagnostic in symbol["diagnostics"]
        if diagnostic["severity"] == "error"
    ]
    assert found["pyTypedPath"]
    assert incomplete == []
    assert found["completenessScore"] == 1


@pytest.mark.slow
@pytest.mark.timeout(600)  # mypy begins without what it has found out before
def test_promises_are_of_what_run_returns(tmp_path: Path) -> None:
    (tmp_path / "typed.py").write_text(TYPED)

    found = pyright(tmp_path, "typed.py")
    checked = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", "typed.py"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )

    assert found["generalDiagnostics"] == []
    assert found["summary"]["filesAnalyzed"] == 1
    assert checked.returncode == 0, checked.stdout


@pytest.mark.slow
def test_promise_that_is_used_as_its_value_is_refused(tmp_path: Path) -> None:
    (tmp_path / "wrong.py").write_text(WRONG)

    (problem,) = pyright(tmp_path, "wrong.py")["generalDiagnostics"]

    assert 'Operator "+" not supported' in problem["message"]
