"""Which waiting job starts on which host; a pure decision.

A job goes to the host that can hold it and has most cores free, as long as it is not one to avoid. An older job that
fits nowhere now is overtaken; after `OVERTAKES` times a host is kept free for it. Nothing is booked twice: what a host
is known to run counts, whoever has started it.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import NamedTuple, Optional

from batchsystems.abstract import Capacity, NeverFits, Resources, human_bytes
from batchsystems.ssh_file import HostLine

OVERTAKES = 50
GPUS = "gpus"


class Need(NamedTuple):
    """What a job takes: thousandths of a core, bytes, and countable things by name."""

    cpu: int
    memory: int
    countable: tuple[tuple[str, int], ...] = ()

    @classmethod
    def of(cls, resources: Resources, counted: Collection[str]) -> Need:
        """What is asked for; fractions of a thousandth, and things that nobody counts here, are dropped."""
        asked = resources.countable.items()
        things = tuple(sorted((name, number) for name, number in asked if number and name in counted))
        return cls(int(resources.cpu * 1000), int(resources.memory), things)


class Booked(NamedTuple):
    """What a job has on a host. gpus: the numbers of the devices that it was given."""

    need: Need
    gpus: tuple[int, ...] = ()


class Place:
    """A host as far as placing goes: what it has, and what is booked there, by job."""

    def __init__(self, line: HostLine) -> None:
        self.line = line
        self.booked: dict[str, Booked] = {}
        self.open = False
        self.avoided = False

    def free_cpu(self) -> int:
        """Thousandths of a core."""
        return self.line.cores - sum(booked.need.cpu for booked in self.booked.values())

    def can_hold(self, need: Need) -> bool:
        """Whether it could if it were empty."""
        return not self.line.drain and _within(self.line, need, need.cpu, need.memory, dict(need.countable))

    def fits(self, need: Need) -> bool:
        """Whether it can now."""
        cpu, memory = need.cpu, need.memory
        countable = dict(need.countable)
        for booked in self.booked.values():
            cpu += booked.need.cpu
            memory += booked.need.memory
            for name, number in booked.need.countable:
                if name in countable:
                    countable[name] += number
        return not self.line.drain and _within(self.line, need, cpu, memory, countable)

    def book(self, name: str, need: Need) -> Booked:
        """Take what a job needs, and choose its devices."""
        taken = {gpu for booked in self.booked.values() for gpu in booked.gpus}
        free = [gpu for gpu in range(self.line.limits.get(GPUS, 0)) if gpu not in taken]
        booked = self.booked[name] = Booked(need, tuple(free[: dict(need.countable).get(GPUS, 0)]))
        return booked


def _within(line: HostLine, need: Need, cpu: int, memory: int, countable: Mapping[str, int]) -> bool:
    # A job that asks for nothing of a kind is not held up by that kind being overbooked (the file was edited).
    if (need.cpu and cpu > line.cores) or (need.memory and memory > line.memory):
        return False
    return all(number <= line.limits.get(name, 0) for name, number in countable.items())


def capacity(lines: Iterable[HostLine]) -> Capacity:
    """The largest of everything; not necessarily on one host."""
    usable = [line for line in lines if not line.drain] or [HostLine("", 0, 0)]
    names = {name for line in usable for name in line.limits}
    return Capacity(
        max(line.cores for line in usable) / 1000,
        max(line.memory for line in usable),
        {name: max(line.limits.get(name, 0) for line in usable) for name in sorted(names)},
    )


def why_never(name: str, need: Need, lines: Sequence[HostLine]) -> Optional[NeverFits]:
    """Why a job can never start on any of these hosts; None if it can."""
    if any(Place(line).can_hold(need) for line in lines):
        return None
    most = capacity(lines)
    if need.cpu > most.cpu * 1000:
        return NeverFits(name, "cores", need.cpu / 1000, most.cpu)
    large = [line for line in lines if line.cores >= need.cpu and not line.drain]
    memory = max((line.memory for line in large), default=0)
    if need.memory > memory:
        return NeverFits(name, "memory", need.memory, memory)
    for thing, number in need.countable:
        had = max((line.limits.get(thing, 0) for line in large if line.memory >= need.memory), default=0)
        if number > had:
            return NeverFits(name, thing, number, had)
    return NeverFits(name, "cores", need.cpu / 1000, most.cpu)


def why_waiting(need: Need, hosts: Mapping[str, Place]) -> str:
    """Why a job has not started on any of these hosts, by name, in words."""
    asked = f"it asks for {_amount(need.cpu, need.memory)}"
    able = [name for name, place in hosts.items() if place.open and place.can_hold(need)]
    if able:
        return f"{asked}, and waits for room on {', '.join(able)}"
    told = []
    for name, place in hosts.items():
        has = f"{name} has {_amount(place.line.cores, place.line.memory)}"
        drained = ", and gets nothing new (drain)" if place.line.drain else ""
        told.append(has + drained if place.open else f"{has}, and cannot be reached")
    return f"{asked}, and no host that can be reached is large enough: {'; '.join(told) or 'there is none'}"


def _amount(cpu: int, memory: int) -> str:
    return f"{cpu / 1000:g} cores and {human_bytes(memory)}"


class Placement:
    """Decides; remembers who was overtaken. cpu, memory: limits of cores and bytes over all hosts."""

    def __init__(self, cpu: Optional[float] = None, memory: Optional[int] = None) -> None:
        self.set_limits(cpu, memory)
        self._oldest = ""
        self._overtaken = 0
        self._kept: Optional[Place] = None

    def set_limits(self, cpu: Optional[float], memory: Optional[int]) -> None:
        """Other limits from now on; None: none."""
        self._most = (math.inf if cpu is None else cpu * 1000, math.inf if memory is None else memory)

    def place(self, waiting: Mapping[str, Need], places: Sequence[Place]) -> list[tuple[str, Place, Booked]]:
        """What starts now, booked already. waiting: oldest first."""
        chosen = []
        blocked: set[Need] = set()
        first = ""
        for name, need in waiting.items():
            if need in blocked:
                continue
            place = self._best(name, need, places)
            if place is None:
                blocked.add(need)
                if not first:
                    first = name
                    self._note_oldest(name, need, places)
                continue
            if first and not self._may_overtake(need, place, waiting[first], places):
                blocked.add(need)
                continue
            chosen.append((name, place, place.book(name, need)))
        if not first:
            self._oldest, self._kept = "", None
        return chosen

    def _note_oldest(self, name: str, need: Need, places: Sequence[Place]) -> None:
        if name != self._oldest:
            self._oldest, self._overtaken, self._kept = name, 0, None
        if self._kept is not None and not (
            self._kept.open and self._kept in places and self._kept.can_hold(need)
        ):
            self._kept = None

    def _may_overtake(self, need: Need, place: Place, oldest: Need, places: Sequence[Place]) -> bool:
        if self._overtaken >= OVERTAKES and self._kept is None:
            able = [place for place in places if place.open and place.can_hold(oldest)]
            self._kept = max(able, key=Place.free_cpu, default=None)
        if place is self._kept or (self._overtaken >= OVERTAKES and not self._fits_in_most(oldest, places)):
            return False
        self._overtaken += 1
        return True

    def _best(self, name: str, need: Need, places: Sequence[Place]) -> Optional[Place]:
        if not self._fits_in_most(need, places):
            return None
        open_ = [
            place for place in places if place.open and (place is not self._kept or name == self._oldest)
        ]
        if any(not place.avoided and place.can_hold(need) for place in places if place.open):
            open_ = [place for place in open_ if not place.avoided]
        return max((place for place in open_ if place.fits(need)), key=Place.free_cpu, default=None)

    def _fits_in_most(self, need: Need, places: Sequence[Place]) -> bool:
        cpu, memory = self._most
        if cpu == math.inf and memory == math.inf:
            return True
        booked = [booked.need for place in places for booked in place.booked.values()]
        return not (need.cpu and need.cpu + sum(other.cpu for other in booked) > cpu) and not (
            need.memory and need.memory + sum(other.memory for other in booked) > memory
        )
