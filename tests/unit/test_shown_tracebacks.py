"""A traceback is shown from the first to the last line of the user's code that has to do with it."""

from __future__ import annotations

from typing import Callable

import pytest

from jobtree import bioio
from jobtree.attempt import lines_of, users_part
from tests.unit.targets_in_a_module import Plain, add


def shown(failing: Callable[[], object]) -> str:
    with pytest.raises(Exception) as caught:  # noqa: PT011
        failing()
    trace = users_part(caught.value)
    assert trace is not None
    return "".join(lines_of(caught.value, trace))


def test_what_we_refuse_ends_with_the_line_that_asked() -> None:
    def mistaken() -> None:
        Plain().addChildTargetFn(add, (1, 2))

    text = shown(mistaken)

    assert "in mistaken" in text
    assert "in addChildTargetFn" not in text
    assert "TargetError: tests.unit.targets_in_a_module.add(" in text


def test_command_that_fails_ends_with_the_line_that_called_it() -> None:
    def calling() -> None:
        bioio.system("false")

    text = shown(calling)

    assert "in calling" in text
    assert "in system" not in text
    assert "RuntimeError: Command: false exited with non-zero status 1" in text


def test_any_other_error_is_shown_whole() -> None:
    text = shown(lambda: list(bioio.fastaRead(3.5)))  # type: ignore[arg-type]

    assert "sequences.py" in text
