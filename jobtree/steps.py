"""Reading a file of steps: named commands and functions, what each needs, and what they ask for.

    steps:
      fetch:
        command: cp /data/reads.txt reads.txt
        outputs: [reads.txt]
      count:
        command: wc -l < reads.txt > count.txt
        inputs: [reads.txt]
        outputs: [count.txt]
        memory: 1G
      report:
        call: report:write
        with: {path: count.txt}
        needs: [count]

A step starts when everything that it ``needs`` is done; who reads (``inputs``) what another step writes (``outputs``)
needs that one without saying so. The file is YAML, so JSON will do as well.

How it fails: UsageError, whose message names the file, the line, the step and the key, and what is expected there.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple, Optional

from jobtree import countable
from jobtree.errors import UsageError
from jobtree.quantities import parse_duration, parse_memory

KEYS = {
    "command": "a command line for /bin/sh",
    "call": "a function, as module:function",
    "with": "names and values, which the function gets as arguments",
    "needs": "names of steps",
    "inputs": "names of files",
    "outputs": "names of files",
    "cpu": "a number of cores",
    "memory": "an amount such as 2G",
    "time": "a time such as 15m",
    "gpus": "a number of graphics cards",
    "resources": "names and numbers such as {licence: 1}",
    "log": "the name of a file",
}


class Step(NamedTuple):
    """One step. needs: names of other steps, those that follow from inputs and outputs included."""

    name: str
    command: Optional[str]
    call: Optional[str]
    arguments: dict[str, Any]
    needs: tuple[str, ...]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    cpu: Optional[float]
    memory: Optional[int]
    time: Optional[float]
    gpus: Optional[int]
    resources: dict[str, int]
    log: Optional[str]


def read(path: str) -> list[Step]:
    """The steps of a file, in an order in which each stands behind what it needs. Raises UsageError."""
    try:
        import yaml
    except ImportError:
        raise UsageError(
            "--steps reads YAML, and the package for that is not installed: pip install 'jobtree[steps]'"
        ) from None
    try:
        with open(path, encoding="utf-8") as file:
            text = file.read()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} cannot be read: {error}") from error
    try:
        node = yaml.compose(text, yaml.SafeLoader)
        return _Reader(path, yaml).steps(node)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f", line {mark.line + 1}" if mark is not None else ""
        problem = getattr(error, "problem", None) or error
        raise UsageError(f"{path}{where}: this is no YAML: {problem}") from error


class _Reader:
    """Turns YAML's nodes, which know their lines, into steps."""

    def __init__(self, path: str, yaml: Any) -> None:
        self._path = path
        self._yaml = yaml
        self._lines: dict[str, int] = {}

    def steps(self, root: Any) -> list[Step]:
        """All steps, sorted."""
        if root is None:
            raise UsageError(f"{self._path} is empty; expected steps:")
        top = self._mapping(root, "at the top")
        for name, (key, _) in top.items():
            if name != "steps":
                raise self._wrong(key, f"unknown key {name!r}; expected steps: and nothing else at the top")
        if "steps" not in top:
            raise self._wrong(root, "there is no steps: at the top")
        found: dict[str, Step] = {}
        for name, (key, value) in self._mapping(top["steps"][1], "of steps:").items():
            self._lines[name] = key.start_mark.line + 1
            found[name] = self._step(name, key, value)
        if not found:
            raise self._wrong(top["steps"][0], "no step stands below steps:")
        return self._sorted(self._with_files(found))

    def _step(self, name: str, key: Any, node: Any) -> Step:
        given = self._mapping(node, f"of step {name!r}")
        values = {}
        for word, (at, value) in given.items():
            if word not in KEYS:
                near = difflib.get_close_matches(word, KEYS, n=1)
                hint = f"did you mean {near[0]!r}?" if near else f"known are: {', '.join(KEYS)}"
                raise self._wrong(at, f"step {name!r} has the unknown key {word!r}; {hint}")
            try:
                values[word] = _value(word, self._plain(value))
            except (ValueError, TypeError) as error:
                what = str(error) or repr(self._plain(value))
                raise self._wrong(
                    at, f"step {name!r}, key {word!r}: {what}; expected {KEYS[word]}"
                ) from error
        if ("command" in values) == ("call" in values):
            both = "both" if "command" in values else "none"
            raise self._wrong(key, f"step {name!r} has {both} of command: and call:; expected one of them")
        if "with" in values and "call" not in values:
            raise self._wrong(given["with"][0], f"step {name!r} has with: and no call: that could take it")
        return Step(
            name, values.get("command"), values.get("call"), values.get("with", {}), values.get("needs", ()),
            values.get("inputs", ()), values.get("outputs", ()), values.get("cpu"), values.get("memory"),
            values.get("time"), values.get("gpus"), values.get("resources", {}), values.get("log"),
        )  # fmt: skip

    def _mapping(self, node: Any, where: str) -> dict[str, tuple[Any, Any]]:
        """Key -> (node of the key, node of the value)."""
        if not isinstance(node, self._yaml.MappingNode):
            raise self._wrong(node, f"names and values are expected {where}")
        found: dict[str, tuple[Any, Any]] = {}
        for key, value in node.value:
            name = self._plain(key)
            if not isinstance(name, str):
                raise self._wrong(key, f"{name!r} is no name {where}; put it in quotes")
            if name in found:
                raise self._wrong(key, f"{name!r} stands {where} twice")
            found[name] = (key, value)
        return found

    def _plain(self, node: Any) -> Any:
        return self._yaml.SafeLoader("").construct_object(node, deep=True)

    def _wrong(self, node: Any, what: str) -> UsageError:
        return UsageError(f"{self._path}, line {node.start_mark.line + 1}: {_sentence(what)}")

    # -- what needs what ---------------------------------------------------------------------------------------

    def _with_files(self, steps: dict[str, Step]) -> dict[str, Step]:
        """Add what follows from files; check that every need has a name."""
        writers: dict[str, str] = {}
        for step in steps.values():
            for output in map(os.path.normpath, step.outputs):
                if output in writers:
                    raise self._wrong_step(
                        step, f"writes {output!r}, which step {writers[output]!r} writes as well"
                    )
                writers[output] = step.name
        found = {}
        for step in steps.values():
            for need in step.needs:
                if need not in steps:
                    near = difflib.get_close_matches(need, steps, n=1)
                    hint = f"; did you mean {near[0]!r}?" if near else ""
                    raise self._wrong_step(step, f"needs {need!r}, and there is no such step{hint}")
            files = [writers[name] for name in map(os.path.normpath, step.inputs) if name in writers]
            found[step.name] = step._replace(needs=tuple(dict.fromkeys((*step.needs, *files))))
        return found

    def _sorted(self, steps: dict[str, Step]) -> list[Step]:
        done: dict[str, Step] = {}
        path: list[str] = []

        def visit(name: str) -> None:
            if name in done:
                return
            if name in path:
                circle = " needs ".join((*path[path.index(name) :], name))
                raise self._wrong_step(steps[name], f"waits for itself: {circle}")
            path.append(name)
            for need in steps[name].needs:
                visit(need)
            path.pop()
            done[name] = steps[name]

        for name in steps:
            visit(name)
        return list(done.values())

    def _wrong_step(self, step: Step, what: str) -> UsageError:
        said = _sentence(f"step {step.name!r} {what}")
        return UsageError(f"{self._path}, line {self._lines[step.name]}: {said}")


def _sentence(what: str) -> str:
    return what if what.endswith("?") else f"{what}."


def _value(key: str, value: Any) -> Any:
    """A key's checked value. Raises ValueError, TypeError."""
    if key in ("command", "call", "log"):
        text = _text(value)
        if key == "call" and not all(part.isidentifier() for part in text.replace(":", ".").split(".")):
            raise ValueError(f"{text!r} names no function")
        if key == "call" and text.count(":") != 1:
            raise ValueError(f"{text!r} names no function in a module")
        return text
    if key in ("needs", "inputs", "outputs"):
        names: Iterable[Any] = [value] if isinstance(value, str) else value
        if not isinstance(names, Sequence):
            raise ValueError(f"{value!r} was given")
        return tuple(_text(name) for name in names)
    if key == "with":
        if not isinstance(value, dict) or not all(
            isinstance(name, str) and name.isidentifier() for name in value
        ):
            raise ValueError(f"{value!r} was given")
        return value
    if key == "memory":
        return parse_memory(value)
    if key == "time":
        return parse_duration(value)
    if key == "cpu":
        cpu = float(value)
        if isinstance(value, bool) or not 0 < cpu < float("inf"):
            raise ValueError(f"{value!r} was given")
        return cpu
    if key == "gpus":
        return countable.limits({"gpus": value})["gpus"]
    return countable.limits(value if isinstance(value, dict) else [value])


def _text(value: Any) -> str:
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f"{value!r} was given")
    return value


# -- from what needs what to children and follow-ons ------------------------------------------------------------------


class Node:
    """A place in the tree of targets. waves: what starts below it, each wave when all of the one before is done.

    step is None for the root, which runs nothing by itself.
    """

    __slots__ = ("depth", "parent", "step", "wave", "waves")

    def __init__(self, step: Optional[Step], parent: Optional[Node], wave: int) -> None:
        self.step: Optional[Step] = step
        self.parent: Optional[Node] = parent
        self.wave: int = wave  # in which of its parent's it is
        self.depth: int = 0 if parent is None else parent.depth + 1
        self.waves: list[list[Node]] = []


def plan(steps: Sequence[Step]) -> Node:
    """Give every step its place below a root. steps: each behind what it needs.

    A step that needs one other (and what that one has waited for) is its child and starts as soon as it has ended. One
    that needs several from different branches starts when all that began below the lowest place above them is done:
    a tree of children and follow-ons can say no less than that.
    """
    root = Node(None, None, 0)
    places: dict[str, Node] = {}
    for step in steps:
        needs = [places[name] for name in step.needs]
        last = [node for node in needs if not any(_is_before(node, other) for other in needs)]
        if len(last) > 1:
            above = _above_all(last)
            wave = 1 + max(_branch(above, node).wave for node in last)
        else:
            above, wave = (last[0] if last else root), 0
        node = places[step.name] = Node(step, above, wave)
        while len(above.waves) <= wave:
            above.waves.append([])
        above.waves[wave].append(node)
    return root


def _is_before(one: Node, other: Node) -> bool:
    """Whether one is surely done before the other starts: above it, or in an earlier wave of a place above both."""
    if one is other:
        return False
    above = _above_all([one, other])
    if above is one or above is other:
        return above is one
    return _branch(above, one).wave < _branch(above, other).wave


def _above_all(nodes: Sequence[Node]) -> Node:
    """The lowest node that is above all of these, or one of them."""
    lowest = nodes[0]
    for node in nodes[1:]:
        while lowest is not node:
            if lowest.depth > node.depth:
                lowest = _parent(lowest)
            elif node.depth > lowest.depth:
                node = _parent(node)
            else:
                lowest, node = _parent(lowest), _parent(node)
    return lowest


def _branch(above: Node, node: Node) -> Node:
    """The child of `above` below which the node is, or which it is."""
    while node.parent is not above:
        node = _parent(node)
    return node


def _parent(node: Node) -> Node:
    assert node.parent is not None
    return node.parent
