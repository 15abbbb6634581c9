"""Targets with importable names, for the tests of what is stored and read again."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from typing import Any

from jobtree.target import Target


class Plain(Target):
    """A target that keeps whatever it is given."""

    def __init__(self, *values: Any, **options: Any) -> None:
        Target.__init__(self, **options)
        self.values = values


class WithoutInit(Target):
    """No __init__ of its own."""


class Forgetful(Target):
    """Does not call the base class."""

    def __init__(self) -> None:
        self.x = 1


@dataclass
class Data(Target):
    """A dataclass."""

    left: Any = None
    right: list[Any] = field(default_factory=list)

    def __post_init__(self) -> None:
        Target.__init__(self, memory="1M")


class Drops(Target):
    """Stores only what it thinks is its own, as users write it who do not know of a base class's state."""

    def __init__(self, path: str) -> None:
        Target.__init__(self, memory=5)
        self.path = path
        self.handle = open  # something that is made anew

    def __getstate__(self) -> dict[str, Any]:
        return {"path": self.path}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.path = state["path"]
        self.handle = open


class DropsByGetstate(Target):
    """The same without a __setstate__."""

    def __init__(self, path: str) -> None:
        Target.__init__(self, memory=5)
        self.path = path

    def __getstate__(self) -> dict[str, Any]:
        return {"path": self.path}


class Rebuilds(Target):
    """Is made anew from its arguments."""

    def __init__(self, path: str) -> None:
        Target.__init__(self, memory=5)
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Rebuilds, (self.path,)


class Keeps(Target):
    """Stores everything but one attribute."""

    def __init__(self, path: str) -> None:
        Target.__init__(self, memory=5)
        self.path = path
        self.stream = (n for n in range(3))

    def __getstate__(self) -> dict[str, Any]:
        state = dict(self.__dict__)
        del state["stream"]
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self.stream = (n for n in range(3))


class Slotted(Target):
    """Has slots, and the base class's dictionary."""

    __slots__ = ("left", "right")

    def __init__(self, left: Any, right: Any) -> None:
        Target.__init__(self)
        self.left = left
        self.right = right


class Outer:
    """Holds a class."""

    class Inner(Target):
        """A class in a class."""


class Box:
    """An object with attributes and a method."""

    def __init__(self, **items: Any) -> None:
        self.__dict__.update(items)

    def method(self) -> str:
        """To be promised to somebody."""
        return "from a method"


class Colour(enum.Enum):
    """Members are stored by name."""

    RED = 1


def add(x: int, y: int = 1) -> int:
    """A function."""
    return x + y


def only_named(value: Any, *, named: Any) -> tuple[Any, Any]:
    """A function with an argument that can be given only by its name."""
    return value, named


def give_target(target: Target, value: Any) -> tuple[Target, Any]:
    """A function that takes its target."""
    return target, value
