"""What cannot be stored, what has changed since it was stored, and how that is said."""

from __future__ import annotations

import io
import multiprocessing
import pickle
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Optional

import pytest

from jobtree import serialization
from jobtree.errors import CannotImport, CannotPickle, JobTreeError, ScriptChanged, TargetError
from jobtree.target import Target
from tests.unit import targets_in_a_module as module
from tests.unit.targets_in_a_module import Box, Plain, add
from tests.unit.test_serialization import function_target, make_module


@pytest.fixture(autouse=True)
def forget_names() -> Iterator[None]:
    """What was looked up is remembered for the life of a worker; a test is one."""
    serialization._found.clear()
    yield
    serialization._found.clear()


# -- what cannot be stored -------------------------------------------------------------------------------------


def generator() -> Iterator[int]:
    yield 1


class Resists:
    """Raises what it is told to when it is pickled."""

    def __init__(self, error: BaseException) -> None:
        self.error = error

    def __reduce__(self) -> Any:
        raise self.error


CULPRITS: dict[str, tuple[Any, str, str]] = {
    "bare": (generator(), "Plain.thing", "generator"),
    "in a dictionary": ({"a": 1, "gen": generator()}, "Plain.thing['gen']", "generator"),
    "in a list": ([1, [2, generator()]], "Plain.thing[1][1]", "generator"),
    "in a tuple": ((1, generator()), "Plain.thing[1]", "generator"),
    "in an object": ({"log": Box(name="x", stream=generator())}, "Plain.thing['log'].stream", "generator"),
    "lock": (threading.Lock(), "Plain.thing", "lock"),
    "open file": (io.TextIOWrapper(io.BytesIO()), "Plain.thing", "TextIOWrapper"),
    "target": (Plain(Box(x=generator())), "Plain.thing.values[0].x", "generator"),
}


@pytest.mark.parametrize("place", CULPRITS)
def test_refusal_names_the_attribute_however_deep(place: str) -> None:
    thing, where, kind = CULPRITS[place]
    target = Plain()
    target.__dict__.update(good=1, thing=thing, later=2)

    with pytest.raises(CannotPickle) as caught:
        serialization.pack(target)

    assert f"its attribute {where} is a {kind}" in str(caught.value)


def test_refusal_names_the_arguments_of_a_function() -> None:
    with pytest.raises(
        CannotPickle, match=r"add cannot be stored: its attribute add\.args\[1\] is a generator"
    ):
        serialization.pack(function_target(add, 1, generator()))


def test_refusal_names_the_child_that_a_target_already_has() -> None:
    target = Plain()
    target.addChildTarget(Plain(generator()))

    with pytest.raises(CannotPickle, match=r"Plain\.children\[0\]\.values\[0\] is a generator"):
        serialization.pack(target)


def test_refusal_does_not_blame_what_an_object_leaves_out() -> None:
    class Careful(Box):
        def __getstate__(self) -> dict[str, Any]:
            return {key: value for key, value in vars(self).items() if key != "lock"}

    target = Plain()
    target.__dict__["thing"] = Careful(lock=threading.Lock(), stream=generator())

    with pytest.raises(CannotPickle, match=r"Plain\.thing\.stream is a generator"):
        serialization.pack(target)


@pytest.mark.parametrize(
    "error", [RuntimeError("only by inheritance"), OSError("x"), KeyError("k"), AssertionError("a")]
)
def test_whatever_an_object_raises_the_refusal_names_it(error: Exception) -> None:
    target = Plain()
    target.__dict__["thing"] = [Resists(error)]

    with pytest.raises(CannotPickle, match=r"Plain\.thing\[0\] is a Resists"):
        serialization.pack(target)


def test_locks_between_processes_are_refused_by_name() -> None:
    target = Plain()
    target.__dict__["lock"] = multiprocessing.Lock()

    with pytest.raises(CannotPickle, match=r"Plain\.lock is a Lock"):
        serialization.pack(target)


def test_very_deep_nesting_is_refused_and_not_a_crash() -> None:
    deep: list[Any] = []
    for _ in range(100_000):
        deep = [deep]
    target = Plain()
    target.__dict__["deep"] = deep

    with pytest.raises(CannotPickle, match="Plain"):
        serialization.pack(target)


def test_refused_value_names_the_target_that_returned_it() -> None:
    with pytest.raises(CannotPickle, match=r"Plain\.run\(\) returned a generator that cannot be stored"):
        serialization.pack_value(generator(), Plain())


# -- what has changed since ------------------------------------------------------------------------------------

GONE: dict[str, tuple[str, str, str]] = {
    "function": ("target(made.gone)", "gone", "a_script.gone is gone"),
    "class": ("Plain(made.Thing())", "Thing", "a_script.Thing is gone"),
    "class in a class": ("Plain(made.Thing.Inner())", "Thing.Inner", "a_script.Thing.Inner is gone"),
    "method": ("target(made.Thing().method)", "Thing.method", "method"),
    "member of an enumeration": ("Plain(made.Colour.RED)", "Colour", "a_script.Colour is gone"),
}


@pytest.mark.parametrize("what", GONE)
def test_name_that_is_gone_says_that_the_code_has_changed(what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    source = (
        "import enum\ndef gone(): pass\nclass Colour(enum.Enum):\n RED = 1\n"
        "class Thing:\n class Inner: pass\n def method(self): pass\n"
    )
    made = make_module("a_script", source, monkeypatch)
    expression, name, message = GONE[what]
    payload = serialization.pack(
        eval(expression, {"made": made, "Plain": Plain, "target": function_target})
    ).payload
    place: Any = made
    *path, last = name.split(".")
    for part in path:
        place = getattr(place, part)
    delattr(place, last)
    serialization._found.clear()

    with pytest.raises(ScriptChanged) as caught:
        serialization.unpack(payload, {})

    assert message in str(caught.value)
    assert "changed" in str(caught.value)


def test_attribute_that_a_class_has_now_and_a_stored_target_lacks_is_its_own_affair(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    target = Plain(1)
    payload = serialization.pack(target).payload
    monkeypatch.setattr(module.Plain, "added", 5, raising=False)

    assert serialization.unpack(payload, {}).values == (1,)


def stored_name(name: str) -> bytes:
    """A pickle that asks for a name, which need not be there."""
    where, _, what = name.rpartition(".")
    names = b"".join(b"\x8c" + bytes([len(p)]) + p.encode() for p in (where, what))
    return serialization.sealed(b"\x80\x04" + names + b"\x93.")


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (None, "No module named 'broken_module'"),
        ("import not_there_at_all", "No module named 'not_there_at_all'"),
        ("raise RuntimeError('half-way')", "RuntimeError: half-way"),
        ("def f(:", "SyntaxError"),
        ("import sys; sys.exit('no licence')", "no licence"),
    ],
)
def test_module_that_cannot_be_imported_says_why_and_where_it_was_looked_for(
    source: Optional[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if source is not None:
        (tmp_path / "broken_module.py").write_text(source)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "broken_module", raising=False)

    with pytest.raises(CannotImport) as caught:
        serialization.unpack(stored_name("broken_module.f"), {})

    for part in ("module 'broken_module' cannot be imported", message, sys.executable, str(tmp_path)):
        assert part in str(caught.value)


def test_module_of_a_module_that_is_gone_is_an_import_error(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(CannotImport, match="no_such_package"):
        serialization.unpack(stored_name("no_such_package.sub.f"), {})


def test_our_own_errors_keep_their_kind() -> None:
    class Raises:
        def __reduce__(self) -> Any:
            return _raise, ()

    with pytest.raises(JobTreeError, match="on purpose"):
        serialization.unpack(serialization.sealed(pickle.dumps(_Raises())), {})


def _raise() -> None:
    raise ScriptChanged("on purpose")


class _Raises:
    def __reduce__(self) -> Any:
        return _raise, ()


@pytest.mark.parametrize("kind", ["target", "value"])
def test_a_byte_that_has_changed_in_what_is_stored_is_found(kind: str) -> None:
    if kind == "target":
        stored = serialization.pack(Target()).payload
    else:
        stored, _ = serialization.pack_value([1, 2, "three"], Target())
    serialization.unpack(stored, {})

    for place in range(len(stored)):
        changed = bytearray(stored)
        changed[place] ^= 4
        with pytest.raises(TargetError, match="damaged"):
            serialization.unpack(bytes(changed), {})
    for size in range(len(stored)):
        with pytest.raises(TargetError, match="damaged"):
            serialization.unpack(stored[:size], {})
