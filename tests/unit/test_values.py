"""Kept promises: what is kept, for how long, and which files go with it."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator
from typing import Optional

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobtree.values import RESULT, SCHEMA, Holder, Returned, Values

A, B, C, D = b"token-a", b"token-b", b"token-c", b"token-d"


@pytest.fixture
def values() -> Iterator[Values]:
    connection = new_connection()
    yield Values(connection)
    connection.close()


def new_connection() -> sqlite3.Connection:
    connection = sqlite3.connect(":memory:", isolation_level=None)
    connection.executescript(SCHEMA)
    return connection


def returned(token: bytes, *mentions: bytes, file: Optional[str] = None) -> Returned:
    """A value: its bytes say whose it is."""
    return Returned(token, None if file else b"value of " + token, file, mentions)


def kept(values: Values) -> set[bytes]:
    return {row[0] for row in values._connection.execute("SELECT token FROM promised")}


def test_value_is_kept_for_a_job_that_mentions_it(values: Values) -> None:
    values.mention(7, [A])

    assert values.keep([returned(A)]) == []

    assert values.of_job(7) == {A: b"value of token-a"}
    assert values.of_job(8) == {}


def test_value_that_nobody_mentions_is_not_kept(values: Values) -> None:
    values.mention(7, [B])

    assert values.keep([returned(A, file="values/0/1-1")]) == ["values/0/1-1"]

    assert kept(values) == set()


def test_mention_after_the_value_finds_it(values: Values) -> None:
    values.mention(7, [A])
    values.keep([returned(A)])
    values.mention(8, [A])

    assert values.of_job(8) == {A: b"value of token-a"}


def test_value_goes_with_its_last_mention(values: Values) -> None:
    values.mention(7, [A])
    values.mention(8, [A])
    values.keep([returned(A, file="f")])

    assert values.release([7]) == []
    assert kept(values) == {A}
    assert values.release([8]) == ["f"]
    assert kept(values) == set()


def test_releasing_twice_or_a_stranger_changes_nothing(values: Values) -> None:
    values.mention(7, [A])
    values.mention(8, [A])
    values.keep([returned(A, file="f")])

    assert values.release([7, 7, 99]) == []
    assert values.release([7]) == []
    assert kept(values) == {A}


def test_mention_that_is_noted_twice_is_one(values: Values) -> None:
    values.mention(7, [A, A])
    values.mention(7, [A])
    values.keep([returned(A, file="f")])

    assert values.release([7]) == ["f"]


@pytest.mark.parametrize("order", [[0, 1], [1, 0]])
def test_values_that_come_together_may_mention_one_another(values: Values, order: list[int]) -> None:
    values.mention(7, [A])
    both = [returned(A, B), returned(B, file="b")]

    assert values.keep([both[i] for i in order]) == []

    assert values.of_job(7) == {A: b"value of token-a", B: "b"}


def test_value_mentioned_by_a_kept_value_lives_as_long_as_that(values: Values) -> None:
    values.mention(7, [A])
    values.keep([returned(A, B)])
    values.keep([returned(B, file="b")])

    assert values.release([7]) == ["b"]
    assert kept(values) == set()
    assert values.of_job(7) == {}


def test_chain_of_values_is_released_to_its_end(values: Values) -> None:
    tokens = [b"%d" % i for i in range(3000)]
    values.mention(7, [tokens[0]])
    chain = [returned(t, following, file=t.decode()) for t, following in zip(tokens, tokens[1:])]
    assert values.keep(chain) == []

    assert set(values.of_job(7)) == set(tokens[:-1])
    assert sorted(values.release([7])) == sorted(t.decode() for t in tokens[:-1])
    assert kept(values) == set()


def test_chain_that_nobody_mentions_is_dropped_whole(values: Values) -> None:
    values.mention(7, [D])

    files = values.keep([returned(A, B, file="a"), returned(B, C, file="b"), returned(C, file="c")])

    assert sorted(files) == ["a", "b", "c"]
    assert kept(values) == set()


def test_dropped_value_leaves_what_others_mention_too(values: Values) -> None:
    values.mention(7, [A, C])
    values.mention(8, [B])
    values.keep([returned(A, C), returned(B, C), returned(C, file="c")])

    assert values.release([7]) == []
    assert kept(values) == {B, C}
    assert values.release([8]) == ["c"]


def test_token_is_kept_once_and_a_second_file_goes(values: Values) -> None:
    values.mention(7, [A])
    values.keep([returned(A)])

    assert values.keep([returned(A, file="again")]) == ["again"]

    assert values.of_job(7) == {A: b"value of token-a"}


def test_second_report_of_the_same_file_does_not_remove_it(values: Values) -> None:
    """Outcomes are read again after a crash."""
    values.mention(7, [A])
    values.keep([returned(A, file="f")])

    assert values.keep([returned(A, file="f")]) == []


def test_next_target_keeps_what_it_mentions_too(values: Values) -> None:
    values.mention(7, [A, B])
    values.keep([returned(A, file="a"), returned(B, file="b")])

    assert values.replace(7, [B, C]) == ["a"]

    assert values.of_job(7) == {B: "b"}
    assert values.replace(7, []) == ["b"]
    assert kept(values) == set()


def test_result_is_never_released(values: Values) -> None:
    values.mention(RESULT, [A])
    assert values.result() == {}
    values.mention(7, [A])
    values.keep([returned(A, B), returned(B)])

    values.release([7])

    assert values.result() == {A: b"value of token-a", B: b"value of token-b"}
    assert values.result_token() == A


def test_empty_value_is_a_value(values: Values) -> None:
    values.mention(7, [A])
    values.keep([Returned(A, b"", None, ())])

    assert values.of_job(7) == {A: b""}


def test_mentions_are_counted_anew_by_the_next_master(values: Values) -> None:
    connection = values._connection
    values.mention(7, [A])
    values.keep([returned(A, file="f")])

    assert Values(connection).of_job(7) == {A: "f"}
    assert Values(connection).release([7]) == ["f"]


class Reachable:
    """What must be kept, said in the simplest way: what a holder reaches."""

    def __init__(self) -> None:
        self.holders: dict[Holder, set[bytes]] = {}
        self.values: dict[bytes, Returned] = {}

    def from_holders(self, holders: Iterable[Holder]) -> set[bytes]:
        found: set[bytes] = set()
        waiting = [token for holder in holders for token in self.holders.get(holder, ())]
        while waiting:
            token = waiting.pop()
            if token in self.values and token not in found:
                found.add(token)
                waiting.extend(self.values[token].mentions)
        return found

    def forget_unreachable(self) -> set[str]:
        keep = self.from_holders(self.holders)
        gone = {value.file or "" for token, value in self.values.items() if token not in keep}
        self.values = {token: value for token, value in self.values.items() if token in keep}
        return gone


TOKENS = [b"t%d" % i for i in range(8)]
HOLDERS: list[Holder] = [RESULT, 1, 2, 3, 4]
# A value may mention those of later tokens only: what comes back to itself has a test of its own.
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("mention"), st.sampled_from(HOLDERS), st.sets(st.sampled_from(TOKENS), max_size=3)),
        st.tuples(
            st.just("replace"), st.sampled_from(HOLDERS[1:]), st.sets(st.sampled_from(TOKENS), max_size=3)
        ),
        st.tuples(st.just("release"), st.sets(st.sampled_from(HOLDERS[1:]), max_size=3), st.none()),
        st.tuples(
            st.just("keep"),
            st.lists(st.integers(0, 7), max_size=4, unique=True),
            st.lists(st.sets(st.integers(1, 4), max_size=2), min_size=4, max_size=4),
        ),
    ),
    max_size=40,
)


@given(steps=STEPS)
def test_what_is_kept_is_what_holders_can_reach(steps: list[tuple[str, object, object]]) -> None:
    connection = new_connection()
    values, model = Values(connection), Reachable()
    ever: set[bytes] = set()
    for number, (what, first, second) in enumerate(steps):
        files: list[str] = []
        if what == "mention":
            assert isinstance(first, int)
            assert isinstance(second, set)
            values.mention(first, second)
            model.holders.setdefault(first, set()).update(second)
        elif what == "replace":
            assert isinstance(first, int)
            assert isinstance(second, set)
            files = values.replace(first, sorted(second))
            model.holders[first] = set(second)
        elif what == "release":
            assert isinstance(first, set)
            files = values.release(first)
            for holder in first:
                model.holders.pop(holder, None)
        else:
            assert isinstance(first, list)
            assert isinstance(second, list)
            news = []
            for index, steps_on in zip(first, second):
                token = TOKENS[index]
                if token not in ever:  # a token's target ends once
                    ever.add(token)
                    mentions = [TOKENS[index + on] for on in sorted(steps_on) if index + on < len(TOKENS)]
                    news.append(returned(token, *mentions, file=f"{number}-{index}"))
            files = values.keep(news)
            model.values.update((value.token, value) for value in news)

        gone = model.forget_unreachable()
        assert sorted(files) == sorted(gone)
        assert kept(values) == set(model.values)
        for holder in HOLDERS:
            if isinstance(holder, int):
                assert set(values.of_job(holder)) == model.from_holders([holder])
    connection.close()
