"""Promises: what they become, and what is said when they are used too early."""

from __future__ import annotations

import copy
import math
import operator
import os
import pickle
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Callable

import pytest

from jobtree import serialization
from jobtree.errors import PromiseNotKept, TargetError
from jobtree.promise import Promise
from jobtree.recorded import Recorded
from jobtree.target import Target
from tests.unit.targets_in_a_module import Box, Data, Plain


def token_of(promise: Any) -> bytes:
    token = promise._token
    assert isinstance(token, bytes)
    return token


def handed_over(target: Target, values: dict[bytes, Any]) -> Any:
    """The target as its worker gets it, with these promises kept; values are raw bytes or what to pickle."""
    payload = serialization.pack(target).payload
    maker = Plain()
    stored = {
        t: v if isinstance(v, bytes) else serialization.pack_value(v, maker)[0] for t, v in values.items()
    }
    readers: dict[bytes, Callable[[], bytes]] = {t: (lambda data=data: data) for t, data in stored.items()}  # type: ignore[misc]
    return serialization.unpack(payload, readers)


def enter(promise: Any) -> None:
    with promise:
        pass


def assign_item(promise: Any) -> None:
    promise[0] = 1


def add_in_place(promise: Any) -> Any:
    promise += 1
    return promise


def left(name: str) -> Callable[[Any], Any]:
    """A use on the left of an operator."""
    return lambda promise: getattr(operator, name)(promise, 2)


def right(name: str) -> Callable[[Any], Any]:
    """A use on the right of an operator."""
    return lambda promise: getattr(operator, name)(2, promise)


OPERATORS = [
    "add",
    "sub",
    "mul",
    "truediv",
    "floordiv",
    "mod",
    "pow",
    "matmul",
    "and_",
    "or_",
    "lt",
    "le",
    "gt",
    "ge",
    "xor",
    "lshift",
    "rshift",
]
EARLY_USES: dict[str, Callable[[Any], Any]] = {
    "iteration": list,
    "for loop": lambda p: [x for x in p],  # noqa: C416
    "unpacking": lambda p: [*p],
    "len": len,
    "bool": bool,
    "not": operator.not_,
    "str": str,
    "format": lambda p: f"{p}",
    "format with a width": lambda p: f"{p:>10}",
    "percent format": lambda p: "%s" % p,  # noqa: UP031
    "join": lambda p: os.path.join("a", p),
    "open": lambda p: open(p),  # noqa: SIM115
    "int": int,
    "float": float,
    "bytes": bytes,
    "index": lambda p: [1, 2][p],
    "item": lambda p: p["key"],
    "assigning an item": assign_item,
    "in": lambda p: 3 in p,
    "call": lambda p: p(),
    "attribute": lambda p: p.shape,
    "method": lambda p: p.keys(),
    "with": enter,
    "in place": add_in_place,
    "negative": operator.neg,
    "positive": operator.pos,
    "inverted": operator.invert,
    "deleting an item": lambda p: operator.delitem(p, 0),
    "abs": abs,
    "round": round,
    "floor": math.floor,
    "sum": lambda p: sum([p]),
    "sorted": lambda p: sorted([p, 1]),
    "max": lambda p: max(p, 1),
    "reversed": reversed,
    "complex": complex,
    "equal": lambda p: p == 1,
    "not equal": lambda p: p != 1,
    **{name: left(name) for name in OPERATORS},
    **{f"{name} from the right": right(name) for name in OPERATORS},
    "divmod": lambda p: divmod(p, 2),
}  # fmt: skip


@pytest.mark.parametrize("use", EARLY_USES)
def test_promise_that_is_used_too_early_names_its_target(use: str) -> None:
    with pytest.raises(PromiseNotKept, match=r"the promise of Plain\.run\(\) was used before"):
        EARLY_USES[use](Plain().rv())


def test_promise_can_be_shown_and_put_into_sets() -> None:
    promise = Plain().rv()

    assert repr(promise) == "<promise of Plain, not kept yet>"
    assert {promise: 1}[promise] == 1
    assert promise in [promise]
    assert len({promise, Plain().rv()}) == 2
    assert len(pickle.loads(pickle.dumps([promise, {promise}, {promise: promise}]))) == 3
    assert isinstance(promise, Promise)


@pytest.mark.parametrize("name", ["__array__", "__deepcopy__", "__wrapped__", "__len_hint__", "__path__"])
def test_names_that_python_itself_asks_for_are_not_there(name: str) -> None:
    assert not hasattr(Plain().rv(), name)


@pytest.mark.parametrize(
    "duplicate",
    [copy.copy, copy.deepcopy, *(lambda p, n=n: pickle.loads(pickle.dumps(p, n)) for n in range(6))],
)
def test_copy_of_a_promise_is_the_same_promise(duplicate: Callable[[Any], Any]) -> None:
    promise = Plain().rv("key", 0)

    other = duplicate(promise)

    assert isinstance(other, Promise)
    assert (token_of(other), other._path, other._name) == (token_of(promise), ("key", 0), "Plain")


@dataclass
class Record:
    left: Any
    right: Any


NESTS: dict[str, tuple[Callable[[Any], Any], Callable[[Any], Any]]] = {
    "bare": (lambda p: p, lambda v: v),
    "list": (lambda p: [1, p], lambda v: v[1]),
    "tuple": (lambda p: (p,), lambda v: v[0]),
    "dict": (lambda p: {"k": {"l": p}}, lambda v: v["k"]["l"]),
    "ordered dict": (lambda p: OrderedDict(k=p), lambda v: v["k"]),
    "object": (lambda p: Box(inner=Box(x=p)), lambda v: v.inner.x),
    "dataclass": (lambda p: Record(p, [p]), lambda v: v.right[0]),
    "target": (lambda p: Data(p, [p]), lambda v: v.right[0]),
    "default of a lambda": (lambda p: lambda x=p: x, lambda v: v()),
    "closure": (lambda p: lambda: p, lambda v: v()),
}


@pytest.mark.parametrize("nest", NESTS)
@pytest.mark.parametrize("value", [{"mean": [1, 2]}, None, 0, "", [], (1, 2)])
def test_kept_promise_becomes_the_value_wherever_it_is(nest: str, value: Any) -> None:
    maker = Plain()
    wrap, unwrap = NESTS[nest]

    target = handed_over(Plain(wrap(maker.rv())), {token_of(maker.rv()): value})

    assert unwrap(target.values[0]) == value
    assert type(unwrap(target.values[0])) is type(value)


@pytest.mark.parametrize("nest", NESTS)
def test_promise_that_is_not_kept_stays_one_wherever_it_is(nest: str) -> None:
    maker = Plain()
    wrap, unwrap = NESTS[nest]

    found = unwrap(handed_over(Plain(wrap(maker.rv())), {}).values[0])

    assert isinstance(found, Promise)
    assert token_of(found) == token_of(maker.rv())


@pytest.mark.parametrize("nest", NESTS)
def test_promises_are_mentioned_wherever_they_are(nest: str) -> None:
    one, two = Plain(), Plain()

    packed = serialization.pack(Plain(NESTS[nest][0](one.rv()), two.rv(3), one.rv("again")))

    assert sorted(packed.mentions) == sorted([token_of(one.rv()), token_of(two.rv())])


def test_part_of_a_value_can_be_promised() -> None:
    maker = Plain()
    user = Plain(maker.rv("sizes"), maker.rv("sizes", 1), maker.rv())
    value = {"sizes": [10, 20]}

    found = handed_over(user, {token_of(maker.rv()): value}).values

    assert found == ([10, 20], 20, value)


def test_first_item_can_be_promised() -> None:
    maker = Plain()

    assert handed_over(Plain(maker.rv(0), maker.rv(-1)), {token_of(maker.rv()): ("a", "b")}).values == (
        "a",
        "b",
    )


@pytest.mark.parametrize(
    ("value", "key", "named"),
    [({"a": 1}, "b", "'b'"), ([1], 5, "5"), (3, 0, "0"), (None, "x", "'x'"), ([1], "x", "'x'")],
)
def test_wrong_key_names_the_target_the_type_and_the_key(value: Any, key: Any, named: str) -> None:
    maker = Plain()

    with pytest.raises(PromiseNotKept) as caught:
        handed_over(Plain(maker.rv(key)), {token_of(maker.rv()): value})

    for part in ("Plain.run() returned", type(value).__name__, f"rv({named})"):
        assert part in str(caught.value)


def test_value_is_loaded_once_and_shared_within_a_target() -> None:
    maker = Plain()

    target = handed_over(Plain(maker.rv(), [maker.rv()]), {token_of(maker.rv()): {"a": 1}})

    assert target.values[0] is target.values[1][0]


def test_value_that_is_not_asked_for_is_not_read() -> None:
    maker = Plain()
    payload = serialization.pack(Plain(1)).payload

    def read() -> bytes:
        raise AssertionError("was read")

    assert serialization.unpack(payload, {token_of(maker.rv()): read}).values == (1,)


def test_returned_value_may_hold_promises_in_turn() -> None:
    outer, inner = Plain(), Plain()
    values = {token_of(outer.rv()): {"x": [inner.rv()]}, token_of(inner.rv()): 5}

    assert handed_over(Plain(outer.rv()), values).values == ({"x": [5]},)
    assert handed_over(Plain(outer.rv("x", 0)), values).values == (5,)
    (half,) = handed_over(Plain(outer.rv()), {token_of(outer.rv()): {"x": [inner.rv()]}}).values
    assert isinstance(half["x"][0], Promise)


def test_promises_in_a_returned_value_are_mentioned() -> None:
    inner = Plain()

    _, mentions = serialization.pack_value({"x": inner.rv()}, Plain())

    assert mentions == (token_of(inner.rv()),)


def test_value_that_leads_back_to_itself_is_refused_by_name() -> None:
    """Two siblings were given each other's promises, and each returned what it was given."""
    one, two = Plain(), Plain()
    values = {token_of(one.rv()): [two.rv()], token_of(two.rv()): [one.rv()]}

    with pytest.raises(TargetError, match="Plain"):
        handed_over(Plain(one.rv()), values)


def test_nothing_is_kept_or_mentioned_outside_of_pack_and_unpack() -> None:
    maker = Plain()
    handed_over(Plain(maker.rv()), {token_of(maker.rv()): 5})

    assert isinstance(pickle.loads(pickle.dumps(maker.rv())), Promise)
    assert serialization.pack(Plain()).mentions == ()


def test_refused_pickle_leaves_no_mentions_behind() -> None:
    def generator() -> Iterator[int]:
        yield 1

    with pytest.raises(TargetError):
        serialization.pack(Plain(Plain().rv(), generator()))

    assert serialization.pack(Plain()).mentions == ()


def test_promise_of_a_target_that_is_stored_keeps_its_token() -> None:
    maker = Plain()
    promise = maker.rv()

    assert Recorded(handed_over(maker, {})).token == token_of(promise)


def test_tokens_differ_also_after_a_fork() -> None:
    before = token_of(Plain().rv())
    read, write = os.pipe()
    pid = os.fork()
    if not pid:
        os.write(write, token_of(Plain().rv()))
        os._exit(0)
    os.close(write)
    with open(read, "rb") as file:
        theirs = file.read()
    os.waitpid(pid, 0)
    ours = token_of(Plain().rv())

    assert len({before, ours, theirs}) == 3
    assert {len(before), len(ours), len(theirs)} == {16}
