"""What there is to say about the jobs of any scheduler: names, requests, refusals, lists of tasks, machines. Pure."""

from __future__ import annotations

import enum
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple, Optional

from batchsystems.abstract import Capacity, Resources

GPUS = "gpus"


# -- names -----------------------------------------------------------------------------------------------------


def split_name(name: str) -> tuple[str, str]:
    """The run of a name, and the rest."""
    run, _, rest = name.partition(".")
    return run, rest


def is_name(name: str) -> bool:
    """Whether it may be the name of a job."""
    return re.fullmatch(r"[A-Za-z0-9_-]+(?:\.[A-Za-z0-9_-]+)+", name) is not None


def number_of(name: str) -> Optional[int]:
    """The number that makes the rest of a name, if it is one, written as numbers are."""
    rest = split_name(name)[1]
    return int(rest) if rest.isascii() and rest.isdigit() and (rest == "0" or rest[0] != "0") else None


# -- what is asked for, and why it is refused ------------------------------------------------------------------


class Request(NamedTuple):
    """What is asked for a job as schedulers count: whole cores, MiB (0: not said), minutes (None: not said), GPUs."""

    cpus: int
    mebibytes: int
    minutes: Optional[int]
    gpus: int = 0

    @classmethod
    def of(cls, resources: Resources, default_minutes: Optional[int]) -> Request:
        """Rounded up."""
        time = resources.time
        minutes = default_minutes if time is None else int(-(-time // 60))
        mebibytes = -(-resources.memory // (1 << 20))
        return cls(max(1, int(-(-resources.cpu // 1))), mebibytes, minutes, resources.countable.get(GPUS, 0))


class Refusal(enum.Enum):
    """Why something was not done."""

    AWAY = "away"  # nobody was there to ask; nothing has happened
    UNKNOWN = "unknown"  # there was no answer, and it may have happened
    LIMIT = "limit"  # too much for now
    NEVER = "never"  # it will never be taken as it is
    OTHER = "other"  # it was not taken, and may be later


def why_refused(status: Optional[int], words: str, known: Iterable[tuple[Refusal, Sequence[str]]]) -> Refusal:
    """What kind of refusal an answer is. status: None if there was none; known: marks of each kind, lower case."""
    if status is None:
        return Refusal.UNKNOWN
    low = words.lower()
    for kind, marks in known:
        if any(mark in low for mark in marks):
            return kind
    return Refusal.OTHER


# -- lists of tasks --------------------------------------------------------------------------------------------


def write_tasks(indices: Iterable[int]) -> str:
    """ "0-3,7" for 0, 1, 2, 3, 7."""
    parts: list[list[int]] = []
    for index in sorted(indices):
        if parts and parts[-1][1] == index - 1:
            parts[-1][1] = index
        else:
            parts.append([index, index])
    return ",".join(str(first) if first == last else f"{first}-{last}" for first, last in parts)


def read_tasks(text: str) -> list[int]:
    """The indices of a list as schedulers print it: "0-3,7", "31-69:2", "1-5%2"; none for anything else ("N/A")."""
    found: list[int] = []
    for part in text.partition("%")[0].strip("[]").split(","):
        match = re.fullmatch(r"(\d+)(?:-(\d+)(?::(\d+))?)?", part.strip())
        if match is None:
            return []
        first, last, step = match.groups()
        found += range(int(first), int(last or first) + 1, int(step or 1))
    return found


class Line(NamedTuple):
    """What a scheduler says of one task of an array, or of several.

    `array`, `job` numbers; `tasks` None: it does not say which tasks; `jobs` their names, as far as they are known, by
    index. `wait_status` as of wait(2).
    """

    array: str
    tasks: Optional[list[int]]
    job: str
    state: str
    reason: str
    wait_status: Optional[int]
    submitted: str
    host: str
    token: str
    jobs: Mapping[int, str]
    run: str


# -- machines --------------------------------------------------------------------------------------------------


class Node(NamedTuple):
    """A machine. `usable`: it may start jobs now."""

    name: str
    cpus: int
    memory: int
    usable: bool
    gpus: int = 0


def capacity_of(nodes: Sequence[Node]) -> Optional[Capacity]:
    """The most cores, and the most memory, of a machine; None if none is known."""
    if not nodes:
        return None
    cpus, memory = max(node.cpus for node in nodes), max(node.memory for node in nodes)
    return Capacity(cpus, memory, {GPUS: max(node.gpus for node in nodes)})


def slots_of(nodes: Iterable[Node], request: Request) -> int:
    """How many jobs that ask for this can run at one time on these machines if nobody else's do."""
    memory = request.mebibytes << 20
    fits = (
        min(
            node.cpus // request.cpus,
            node.memory // memory if memory else node.cpus,
            node.gpus // request.gpus if request.gpus else node.cpus,
        )
        for node in nodes
        if node.usable
    )
    return sum(fits)
