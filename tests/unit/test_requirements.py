"""A test that needs a program says so where it is absent, and cannot hide there from who requires it."""

from __future__ import annotations

import pytest

from tests.requirements import require


def test_a_program_that_is_there_is_found() -> None:
    assert require("sh").endswith("/sh")


def test_without_the_program_the_test_is_skipped_with_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("JOBTREE_TEST_REQUIRE", raising=False)

    with pytest.raises(pytest.skip.Exception, match="no-such-program is not installed"):
        require("no-such-program")


def test_where_nothing_may_be_missing_the_test_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JOBTREE_TEST_REQUIRE", "1")

    with pytest.raises(pytest.fail.Exception, match=r"no-such-program.*nothing may be missing"):
        require("no-such-program")
