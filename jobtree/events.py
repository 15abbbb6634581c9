"""The vocabulary of the tree: the states of a job, what can happen to it, and what then has to be written.

Like ``jobtree.tree`` this does no I/O. Values are immutable but for ``Job``, the record that the tree keeps, and
``Changes``, which it fills and hands over.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Optional

ROOT_PARENT = 0
"""The parent of the root job: no job has this number."""


class State(enum.IntEnum):
    """Where a job stands. The numbers are stored; they never change meaning."""

    READY = 0
    ISSUED = 1
    BLOCKED = 2
    FAILED = 3
    DONE = 4


class Event(enum.Enum):
    """What can happen to a job."""

    if not TYPE_CHECKING:
        # Events are compared by identity too; the enum's own hash takes longer than a step.
        __hash__ = object.__hash__

    ISSUED = "issued"
    SUCCEEDED = "succeeded"
    RECALLED = "recalled before it was started"
    FAILED = "failed by its own fault"
    LOST = "lost without its own fault"
    NEVER_FITS = "can never fit"
    CHILDREN_DONE = "last child done"
    RENEWED = "tries renewed"
    MARKED_DONE = "marked done by request"
    FORGOTTEN = "forgotten by request"


class Job:
    """One job's record. Slots, so that a misspelt attribute is an error and a million blocked jobs stay small."""

    __slots__ = (
        "id", "parent", "state", "shape", "step", "attempt", "tries", "losses", "pending", "has_next", "bundle",
        "alone", "has_global", "memory", "time",
    )  # fmt: skip

    def __init__(
        self,
        id: int,
        parent: int,
        shape: int,
        state: State = State.READY,
        step: int = 0,
        attempt: int = 0,
        tries: int = 0,
        losses: int = 0,
        pending: int = 0,
        has_next: bool = True,
        bundle: int = 0,
        alone: bool = False,
        has_global: bool = False,
        memory: int = 0,
        time: float = 0.0,
    ) -> None:
        self.id: int = id
        self.parent: int = parent
        self.shape: int = shape
        self.state: State = state
        self.step: int = step
        self.attempt: int = attempt
        self.tries: int = tries
        self.losses: int = losses
        self.pending: int = pending
        self.has_next: bool = has_next
        self.bundle: int = bundle
        self.alone: bool = alone
        self.has_global: bool = has_global
        self.memory: int = memory
        self.time: float = time

    def __repr__(self) -> str:
        fields = ", ".join(f"{name}={getattr(self, name)!r}" for name in self.__slots__)
        return f"Job({fields})"


class Spec(NamedTuple):
    """A target that is to run: what the tree must know of it, and what it passes on unread."""

    shape: int
    memory: int
    time: float
    packed: Any


class Request(NamedTuple):
    """What a job asks for from now on, instead of what it had asked for."""

    shape: int
    memory: int
    time: float


class Children(NamedTuple):
    """The children that a target added: how many of each shape, and where their rows come from (passed on unread)."""

    count_by_shape: Mapping[int, int]
    source: Any

    @property
    def total(self) -> int:
        """How many children."""
        return sum(self.count_by_shape.values())


class Below(NamedTuple):
    """What is below a job in the store, at any depth: how many jobs of each shape in each state, in the order of
    ``State``; the numbers of the ISSUED and BLOCKED ones, and of those that have a global temporary directory."""

    counts: Mapping[int, Sequence[int]]
    going_on: Sequence[int]
    global_dirs: Sequence[int]

    @property
    def total(self) -> int:
        """How many jobs."""
        return sum(map(sum, self.counts.values()))


class GoesOn(NamedTuple):
    """The worker did not stop after a success: it has started the follow-on, or the only child, itself."""

    child: Optional[int] = None
    shape: int = 0
    memory: int = 0
    time: float = 0.0


class Changes:
    """What one turn of the loop has to write, in the order in which the store applies it.

    children: (parent, source) of rows to insert as READY;  issued: (bundle, job);  touched: records to rewrite;
    specs: the new next target of a job, or None when it has none;  done: rows to delete;
    forgiven: jobs whose failures count no more (what is stored of those may go);
    global_dirs: jobs whose global temporary directory may go;  shapes: those whose counts differ;
    forgotten: jobs to be deleted with everything below them.
    """

    __slots__ = (
        "children", "issued", "touched", "specs", "done", "forgiven", "global_dirs", "shapes", "forgotten",
    )  # fmt: skip

    def __init__(self) -> None:
        self.children: list[tuple[int, Any]] = []
        self.issued: list[tuple[int, int]] = []
        self.touched: dict[int, Job] = {}
        self.specs: dict[int, Optional[Spec]] = {}
        self.done: list[int] = []
        self.forgiven: list[int] = []
        self.global_dirs: list[int] = []
        self.shapes: set[int] = set()
        self.forgotten: list[int] = []

    def __bool__(self) -> bool:
        return bool(self.children or self.issued or self.touched or self.done or self.shapes)
