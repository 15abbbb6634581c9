"""Countable resources: how a request is written, what is refused, what is missing."""

from __future__ import annotations

from typing import Any

import pytest

from jobtree import countable
from jobtree.serialization import pack
from jobtree.target import Target


@pytest.mark.parametrize(
    ("gpus", "resources", "text"),
    [
        (None, None, ""),
        (0, {"licence": 0}, ""),
        (1, None, "gpus=1"),
        ("2", {"licence": 3.0}, "gpus=2,licence=3"),
        (None, {"b": 1, "a": 2}, "a=2,b=1"),
    ],
)
def test_a_request_is_one_text_whatever_the_order(gpus: Any, resources: Any, text: str) -> None:
    assert countable.request(gpus, resources) == text
    assert sum(countable.counts(text).values()) == sum(map(int, text.replace("=", ",").split(",")[1::2]))


@pytest.mark.parametrize(
    ("gpus", "resources", "words"),
    [
        (-1, None, "gpus=-1 makes no sense"),
        (0.5, None, "gpus=0.5 makes no sense"),
        (True, None, "gpus=True makes no sense"),
        (float("inf"), None, "makes no sense"),
        (1, {"gpus": 1}, "give one of them"),
        (None, {"a b": 1}, "'a b' is no name"),
        (None, {"a=1,b": 1}, "is no name"),
        (None, {7: 1}, "7 is no name"),
        (None, {"memory": 1}, "has an option and an argument of its own"),
        (None, {"licence": "many"}, "licence='many' makes no sense"),
    ],
)
def test_what_makes_no_sense_is_refused_with_its_name(gpus: Any, resources: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        countable.request(gpus, resources)


def test_limits_are_read_from_texts_and_mappings() -> None:
    assert countable.limits("licence=4, gpus=2") == {"licence": 4, "gpus": 2}
    assert countable.limits(["a=1", "b=0"]) == countable.limits({"a": 1, "b": 0}) == {"a": 1, "b": 0}
    with pytest.raises(ValueError, match="'licence' is no NAME=NUMBER"):
        countable.limits("licence")


class Plain(Target):
    def __init__(self, **resources: Any) -> None:
        Target.__init__(self, memory="1G", **resources)


def test_targets_carry_their_request_and_others_pay_nothing_for_it() -> None:
    assert pack(Plain(gpus=1, resources={"licence": 2})).countable == "gpus=1,licence=2"
    assert pack(Plain()).countable == ""
    assert len(pack(Plain()).payload) == len(pack(Plain(resources={})).payload)


def test_every_way_to_add_work_takes_them() -> None:
    parent = Target.makeTargetFn(print, gpus=1)
    asked = {"gpus": 1, "resources": {"licence": 1}}

    made = [
        parent.addChildFn(print, **asked),  # type: ignore[arg-type]
        parent.addChildTargetFn(print, **asked),  # type: ignore[arg-type]
        parent.addChildCommand("true", **asked),  # type: ignore[arg-type]
        parent.setFollowOnFn(print, **asked),  # type: ignore[arg-type]
        Target.makeTargetFn(print).setFollowOnTargetFn(print, **asked),  # type: ignore[arg-type]
    ]

    assert {pack(target).countable for target in made} == {"gpus=1,licence=1"}
    assert pack(parent).countable == "gpus=1"
