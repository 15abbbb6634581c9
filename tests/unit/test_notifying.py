"""The command of --onEnd: what it is told, and that nothing comes of it."""

from __future__ import annotations

import contextlib
import json
import logging
import shlex
import sys
from pathlib import Path
from typing import Any, Optional

import pytest

from jobtree import notifying
from jobtree.errors import RunStopped
from jobtree.notifying import Ending, OnEnd
from jobtree.paths import TreePaths
from jobtree.tree import Tree

ENDING = Ending("failed", "", 7, 2, 3, 61.4)


def command(tmp_path: Path) -> str:
    """A command that writes down what it was told."""
    code = (
        "import json, os, sys; "
        "told = {k: v for k, v in os.environ.items() if k[:8] == 'JOBTREE_' and k[:13] != 'JOBTREE_TEST_'}; "
        "json.dump(told, sys.stdout)"
    )
    return f"{shlex.join([sys.executable, '-c', code])} > {shlex.quote(str(tmp_path / 'told'))}"


def told(tmp_path: Path) -> dict[str, str]:
    found: dict[str, str] = json.loads((tmp_path / "told").read_text())
    return found


@pytest.fixture(autouse=True)
def no_other_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("JOBTREE_RUN", raising=False)


def tree(done: int, failed: int, ready: int) -> Tree:
    made = Tree()
    made.totals = [ready, 0, 0, failed, done]
    return made


def test_what_it_is_told(tmp_path: Path) -> None:
    notifying.tell(command(tmp_path), "/a tree", ENDING)

    assert told(tmp_path) == {
        "JOBTREE_DIR": "/a tree",
        "JOBTREE_RESULT": "failed",
        "JOBTREE_REASON": "",
        "JOBTREE_DONE": "7",
        "JOBTREE_FAILED": "2",
        "JOBTREE_WAITING": "3",
        "JOBTREE_SECONDS": "61",
    }


@pytest.mark.parametrize(
    ("numbers", "error", "result", "reason"),
    [
        ((4, 0, 0), None, "done", ""),
        ((4, 1, 0), None, "failed", ""),
        ((4, 1, 2), RunStopped("stopped by\n\0 jobTreeKill"), "stopped", "stopped by\\n\\x00 jobTreeKill"),
        ((4, 1, 2), KeyboardInterrupt(), "stopped", "stopped by SIGINT"),
        ((4, 0, 0), AssertionError(), "stopped", "AssertionError()"),
    ],
)
def test_how_it_has_ended(
    tmp_path: Path, numbers: tuple[int, int, int], error: Optional[BaseException], result: str, reason: str
) -> None:
    expected: Any = contextlib.nullcontext() if error is None else pytest.raises(type(error))
    with expected, OnEnd(TreePaths("/tree"), command(tmp_path)) as on_end:
        on_end.begun(tree(*numbers))
        if error is not None:
            raise error

    found = told(tmp_path)
    assert (found["JOBTREE_RESULT"], found["JOBTREE_REASON"]) == (result, reason)
    assert [int(found[f"JOBTREE_{name}"]) for name in ("DONE", "FAILED", "WAITING")] == list(numbers)


def test_nothing_has_run_and_nobody_is_told(tmp_path: Path) -> None:
    with OnEnd(TreePaths("/tree"), command(tmp_path)):
        pass
    with OnEnd(TreePaths("/tree"), None) as on_end:
        on_end.begun(tree(1, 0, 0))

    assert not (tmp_path / "told").exists()


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("exit 3", "--onEnd exit 3 ended with exit status 3"),
        ("kill -TERM $$", "--onEnd kill -TERM $$ was killed by SIGTERM"),
        ("/nowhere/mail 2> /dev/null", "--onEnd /nowhere/mail 2> /dev/null ended with exit status 127"),
        ("echo \0", "--onEnd echo \\x00 could not be started: embedded null byte"),
    ],
)
def test_what_is_wrong_with_it_is_said(given: str, said: str, caplog: pytest.LogCaptureFixture) -> None:
    notifying.tell(given, "/tree", ENDING)

    assert caplog.record_tuples == [("jobtree", logging.WARNING, said)]


def test_one_that_hangs_is_killed_with_all_that_it_has_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(notifying, "LIMIT_SECONDS", 0.1)
    held = tmp_path / "held open"
    # What is started in the background holds the file's lock for as long as it lives.
    notifying.tell(f"flock {shlex.quote(str(held))} sleep 1000 & wait", "/tree", ENDING)

    assert "did not end within 0.1 s and was killed" in caplog.messages[0]
    monkeypatch.undo()
    notifying.tell(f"flock {shlex.quote(str(held))} touch {tmp_path}/free", "/tree", ENDING)
    assert (tmp_path / "free").exists()
