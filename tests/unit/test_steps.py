"""Files of steps: what they say, what is wrong with them and where, and that nothing starts before what it needs."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobtree import steps
from jobtree.errors import UsageError
from jobtree.steps import Node, Step, plan, read


def write(tmp_path: Path, text: str) -> str:
    path = tmp_path / "steps.yaml"
    path.write_text(text)
    return str(path)


def test_everything_that_a_step_may_say(tmp_path: Path) -> None:
    text = """
steps:
  last: {call: 'pack.mod:Class.method', with: {n: 1}, needs: first, log: last.log}
  first:
    command: "echo 1"
    inputs: [a, b]
    outputs: c
    cpu: 0.5
    memory: 2G
    time: 1h30m
    gpus: 1
    resources: {licence: 2}
"""
    first, last = read(write(tmp_path, text))

    assert first == Step(
        "first", "echo 1", None, {}, (), ("a", "b"), ("c",), 0.5, 2**31, 5400.0, 1, {"licence": 2}, None
    )
    assert (last.call, last.arguments, last.needs, last.log) == (
        "pack.mod:Class.method", {"n": 1}, ("first",), "last.log"
    )  # fmt: skip


def test_who_reads_what_another_writes_needs_it(tmp_path: Path) -> None:
    text = "steps:\n  b: {command: x, inputs: ./out}\n  a: {command: y, outputs: [out, other]}\n"
    assert [(step.name, step.needs) for step in read(write(tmp_path, text))] == [("a", ()), ("b", ("a",))]


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ("", None, "is empty; expected steps:"),
        ("steps:\n", 1, "names and values are expected of steps:"),
        ("steps: {}\n", 1, "no step stands below steps:"),
        ("- a\n", 1, "names and values are expected at the top"),
        ("a: 1\n", 1, "unknown key 'a'"),
        ("steps:\n  a: 1\n", 2, "names and values are expected of step 'a'"),
        ("steps:\n  a:\n    comand: x\n", 3, "unknown key 'comand'; did you mean 'command'?"),
        ("steps:\n  a: {zzz: x}\n", 2, "unknown key 'zzz'; known are: command, call"),
        ("steps:\n  a:\n    command: x\n  a:\n    command: y\n", 4, "'a' stands of steps: twice"),
        ("steps:\n  7: {command: x}\n", 2, "7 is no name"),
        ("steps:\n  a: {needs: b}\n", 2, "has none of command: and call:"),
        ("steps:\n  a: {command: x, call: 'a:b'}\n", 2, "has both of command: and call:"),
        ("steps:\n  a: {command: x, with: {b: 1}}\n", 2, "has with: and no call:"),
        ("steps:\n  a:\n    command: [x]\n", 3, "key 'command': ['x'] was given; expected a command line"),
        ("steps:\n  a:\n    call: nothing\n", 3, "'nothing' names no function in a module"),
        ("steps:\n  a:\n    call: 'a b:c'\n", 3, "names no function"),
        ("steps:\n  a:\n    command: x\n    memory: much\n", 4, "key 'memory'"),
        ("steps:\n  a:\n    command: x\n    cpu: 0\n", 4, "expected a number of cores"),
        ("steps:\n  a:\n    command: x\n    time: soon\n", 4, "expected a time such as 15m"),
        ("steps:\n  a:\n    command: x\n    gpus: -1\n", 4, "expected a number of graphics cards"),
        ("steps:\n  a:\n    command: x\n    resources: [many]\n", 4, "expected names and numbers"),
        (
            "steps:\n  a: {command: x}\n  b: {command: x, needs: aa}\n",
            3,
            "needs 'aa', and there is no such step; did",
        ),
        (
            "steps:\n  a: {command: x, needs: b}\n  b: {command: x, needs: a}\n",
            2,
            "waits for itself: a needs b needs a",
        ),
        (
            "steps:\n  a: {command: x, outputs: f}\n  b: {command: x, outputs: ./f}\n",
            3,
            "which step 'a' writes as well",
        ),
        ("steps:\n  a: {command: x\n", 3, "this is no YAML"),
        ("steps:\n  a: {command: !!python/name:os.system x}\n", 2, "this is no YAML"),
    ],
)
def test_what_is_wrong_is_said_with_its_line(tmp_path: Path, text: str, line: int | None, words: str) -> None:
    path = write(tmp_path, text)

    with pytest.raises(UsageError) as caught:
        read(path)

    assert words in str(caught.value)
    assert str(caught.value).startswith(path if line is None else f"{path}, line {line}: ")


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot be read"):
        read(str(tmp_path / "none.yaml"))


# -- plans -------------------------------------------------------------------------------------------------------


def graph(needs: dict[str, tuple[str, ...]]) -> list[Step]:
    return [
        Step(name, "x", None, {}, before, (), (), None, None, None, None, {}, None)
        for name, before in needs.items()
    ]


def drawn(node: Node) -> str:
    """A plan as text: a(b c; d) is a with the children b and c, and d after both."""
    waves = "; ".join(" ".join(drawn(child) for child in wave) for wave in node.waves)
    return (node.step.name if node.step is not None else "") + (f"({waves})" if waves else "")


@pytest.mark.parametrize(
    ("needs", "expected"),
    [
        ({"a": (), "b": ()}, "(a b)"),
        ({"a": (), "b": ("a",), "c": ("b",)}, "(a(b(c)))"),
        ({"a": (), "b": ("a",), "c": ("a", "b")}, "(a(b(c)))"),
        ({"a": (), "b": (), "c": ("a", "b")}, "(a b; c)"),
        ({"a": (), "b": ("a",), "c": ("a",), "d": ("b", "c"), "e": ("d",)}, "(a(b c; d(e)))"),
        ({"a": (), "b": (), "c": ("a", "b"), "d": ("c", "a")}, "(a b; c(d))"),
        ({"a": (), "b": (), "c": ("a",), "d": ("b", "c"), "e": ("a", "d")}, "(a(c) b; d(e))"),
    ],
)
def test_a_step_is_placed_where_it_waits_for_no_more_than_a_tree_must(
    needs: dict[str, tuple[str, ...]], expected: str
) -> None:
    assert drawn(plan(graph(needs))) == expected


@st.composite
def graphs(draw: st.DrawFn) -> dict[str, tuple[str, ...]]:
    names = [f"s{number}" for number in range(draw(st.integers(1, 14)))]
    needs = {}
    for number, name in enumerate(names):
        before = st.lists(st.sampled_from(names[:number]), unique=True, max_size=4) if number else st.just([])
        needs[name] = tuple(draw(before))
    return needs


@given(graphs())
def test_every_step_is_there_once_and_starts_after_all_that_it_needs(
    needs: dict[str, tuple[str, ...]],
) -> None:
    """Walk the plan as a run would: what is in the same wave may run at the same time and can rely on nothing there."""

    def run(node: Node, done: frozenset[str]) -> list[str]:
        found = []
        if node.step is not None:
            assert done.issuperset(node.step.needs)
            found.append(node.step.name)
        for wave in node.waves:
            before = done.union(found)
            for child in wave:
                found += run(child, before)
        return found

    assert sorted(run(plan(graph(needs)), frozenset())) == sorted(needs)


def test_the_keys_are_those_of_the_documents() -> None:
    page = (Path(__file__).parents[2] / "docs" / "howto" / "steps.md").read_text()
    assert all(f"| `{key}` |" in page for key in steps.KEYS)
