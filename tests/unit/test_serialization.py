"""Targets and values as bytes: by reference where a name can be imported, by value where not, and what is refused."""

from __future__ import annotations

import copy
import functools
import subprocess
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from jobtree import serialization
from jobtree.recorded import Recorded
from jobtree.target import FunctionTarget, Target, check_target
from tests.unit.targets_in_a_module import (
    Box,
    Colour,
    Data,
    Drops,
    DropsByGetstate,
    Keeps,
    Outer,
    Plain,
    Rebuilds,
    Slotted,
    WithoutInit,
    add,
)  # fmt: skip

CHECKOUT = Path(__file__).resolve().parents[2]


def through(target: Target) -> Any:
    """A target as its worker gets it."""
    found = serialization.unpack(serialization.pack(target).payload, {})
    check_target(found, "run")
    return found


def function_target(fn: Any, *args: Any) -> FunctionTarget[Any]:
    return FunctionTarget(fn, args, None, None, None, None, False)


@pytest.fixture(autouse=True)
def forget_names() -> Iterator[None]:
    """What was looked up is remembered for the life of a worker; a test is one."""
    serialization._found.clear()
    yield
    serialization._found.clear()


def make_module(name: str, source: str, monkeypatch: pytest.MonkeyPatch) -> types.ModuleType:
    """A module that can be imported in this process."""
    made = types.ModuleType(name)
    monkeypatch.setitem(sys.modules, name, made)
    exec(source, made.__dict__)
    return made


# -- round trips -----------------------------------------------------------------------------------------------


def test_packed_target_says_what_it_is_and_asks_for() -> None:
    packed = serialization.pack(Plain(1, memory="1K", cpu=0.5, time=3))

    assert packed[:4] == ("tests.unit.targets_in_a_module.Plain", 1024, 0.5, 3.0)
    assert packed.mentions == ()


TARGETS: dict[str, Target] = {
    "plain": Plain(1, [2], {"k": b"v"}),
    "without __init__": WithoutInit(),
    "dataclass": Data("left", ["right"]),
    "slots": Slotted("left", ["right"]),
    "class in a class": Outer.Inner(),
    "keeps all but one": Keeps("path"),
    "stores only its own": Drops("path"),
    "stores only its own, no __setstate__": DropsByGetstate("path"),
    "made anew from its arguments": Rebuilds("path"),
    "function": function_target(add, 1),
    "built-in": function_target(len, "abc"),
    "bound method": function_target(Box(x=1).method),
    "partial": function_target(functools.partial(add, 1), 2),
}


@pytest.mark.parametrize("name", TARGETS)
def test_stored_target_is_a_target_that_can_run_and_add_more(name: str) -> None:
    target = through(TARGETS[name])

    assert type(target) is type(TARGETS[name])
    child = target.addChildTarget(Plain())
    following = target.setFollowOnTarget(Plain())
    target.run()
    assert Recorded(target).children == [child]
    assert Recorded(target).follow_on is following


@pytest.mark.parametrize("name", TARGETS)
def test_stored_target_keeps_its_promise(name: str) -> None:
    token = TARGETS[name].rv()._token

    assert Recorded(through(TARGETS[name])).token == token


@pytest.mark.parametrize(
    "name",
    [
        "keeps all but one",
        "stores only its own",
        "stores only its own, no __setstate__",
        "made anew from its arguments",
    ],
)
def test_stored_target_keeps_what_it_asked_for(name: str) -> None:
    target = through(TARGETS[name])

    assert target.path == "path"
    assert target.getMemory() == 5


@pytest.mark.parametrize("cls", [Drops, DropsByGetstate, Keeps, Rebuilds])
def test_target_that_stores_itself_may_have_children_that_hold_it(cls: Any) -> None:
    target = cls("path")
    target.addChildTarget(Plain(target))

    (child,) = Recorded(through(target)).children

    assert child.values[0].path == "path"
    assert Recorded(child.values[0]).children[0] is child


@pytest.mark.parametrize("duplicate", [copy.copy, copy.deepcopy, through])
@pytest.mark.parametrize("cls", [Drops, DropsByGetstate, Rebuilds])
def test_copy_of_a_target_that_stores_itself_is_a_target(cls: Any, duplicate: Any) -> None:
    found = duplicate(through(cls("path")))

    assert found.path == "path"
    assert found.getMemory() == 5


@pytest.mark.skipif(sys.version_info < (3, 10), reason="dataclasses have no slots")
def test_dataclass_with_slots_comes_back(monkeypatch: pytest.MonkeyPatch) -> None:
    made = make_module(
        "a_script",
        "from dataclasses import dataclass\nfrom jobtree.target import Target\n"
        "@dataclass(slots=True, frozen=True)\nclass Record(Target):\n"
        "    path: str\n    def __post_init__(self):\n        Target.__init__(self, memory=5)\n",
        monkeypatch,
    )

    found = through(made.Record("x"))

    assert (found.path, found.getMemory()) == ("x", 5)


def test_slots_and_attributes_both_come_back() -> None:
    target = through(Slotted("left", ["right"]))

    assert (target.left, target.right) == ("left", ["right"])


def test_children_added_before_a_target_runs_come_back_with_it() -> None:
    child = Plain("child")
    child.addChildTarget(Plain("grandchild")).addChildTarget(Plain("below"))
    child.setFollowOnTarget(Plain("following"))

    recorded = Recorded(through(child))

    assert [c.values for c in recorded.children] == [("grandchild",)]
    assert [c.values for c in Recorded(recorded.children[0]).children] == [("below",)]
    assert recorded.follow_on is not None


def test_target_inside_another_one_is_the_same_object_wherever_it_is_mentioned() -> None:
    inner = Plain("inner", memory=7)

    target = through(Plain(inner, [inner]))

    assert target.values[0] is target.values[1][0]
    assert (target.values[0].values, target.values[0].getMemory()) == (("inner",), 7)


def test_target_that_mentions_itself_comes_back() -> None:
    target = Plain()
    target.values = (target,)

    found = through(target)

    assert found.values[0] is found


def test_lambdas_closures_and_local_classes_go_by_value() -> None:
    number = 40

    class Local(Target):
        def run(self) -> int:
            return number + 2

    assert through(Local()).run() == 42
    assert through(function_target(lambda x: x + number, 2)).run() == 42
    assert through(Plain(lambda: number)).values[0]() == 40


def test_names_go_by_reference_and_get_the_code_that_is_there_now(monkeypatch: pytest.MonkeyPatch) -> None:
    made = make_module("a_script", "def answer(): return 'old'", monkeypatch)
    payload = serialization.pack(function_target(made.answer)).payload

    exec("def answer(): return 'mended'", made.__dict__)

    assert serialization.unpack(payload, {}).run() == "mended"


@pytest.mark.parametrize("value", [None, 5, {"a": [1, (2,)]}, Box(x=1), Colour.RED, add, lambda: 5])
def test_returned_values_come_back(value: Any) -> None:
    payload, mentions = serialization.pack_value(value, Plain())

    found = serialization.unpack(payload, {})

    assert mentions == ()
    if isinstance(value, types.FunctionType) and value is not add:
        assert found() == 5
    else:
        assert found == value or vars(found) == vars(value)


# -- __main__ --------------------------------------------------------------------------------------------------

SCRIPT = """
import enum
import functools
import pickle
import sys
from collections import namedtuple
from jobtree import serialization
from jobtree.target import Target

Point = namedtuple("Point", "x y")

class Colour(enum.Enum):
    RED = 1

class Root(Target):
    class Part:
        pass
    def __init__(self, *values):
        Target.__init__(self)
        self.values = values
    def run(self):
        return [type(value).__name__ for value in self.values]

def function(target, *values):
    return "the function"

class Nothing:
    def __reduce__(self):
        return "NOTHING"
NOTHING = Nothing()

def is_nothing(value):
    return "the sentinel" if value is NOTHING else "a copy"

@functools.lru_cache(maxsize=None)
def cached(target):
    return "the cached function"

if __name__ == "__main__":
    roots = {
        "class": Root(1, Root.Part(), Point(1, 2), Colour.RED, function, Root),
        "function": Target.makeTargetFn(function, (Root(),)),
        "lambda": Target.makeTargetFn(lambda target: function(target)),
        "cached": Target.makeTargetFn(cached),
        "sentinel": Target.makeTargetFn(lambda target, value: is_nothing(value), (NOTHING,)),
    }
    sys.stdout.buffer.write(serialization.pack(roots[sys.argv[1]], "the_script").payload)
"""
READER = """
import sys
from jobtree import serialization
assert "the_script" not in sys.modules
print(serialization.unpack(sys.stdin.buffer.read(), {}).run())
"""


@pytest.mark.parametrize(
    ("what", "answer"),
    [
        ("class", "['int', 'Part', 'Point', 'Colour', 'function', 'type']"),
        ("function", "the mended function"),
        ("lambda", "the mended function"),
        ("cached", "the mended cached function"),
        ("sentinel", "the mended sentinel"),
    ],
)
def test_names_of_the_script_are_stored_as_those_of_a_module(tmp_path: Path, what: str, answer: str) -> None:
    script = tmp_path / "the_script.py"
    script.write_text(SCRIPT)
    environment = {"PYTHONPATH": f"{CHECKOUT}:{tmp_path}", "PATH": ""}

    written = subprocess.run(
        [sys.executable, script, what], stdout=subprocess.PIPE, check=True, env=environment
    )
    script.write_text(SCRIPT.replace('"the ', '"the mended '))
    read = subprocess.run(
        [sys.executable, "-c", READER],
        input=written.stdout,
        capture_output=True,
        check=False,
        env=environment,
    )

    assert (read.stdout.decode().strip(), read.stderr.decode()) == (answer, "")
