"""What to do about what a run has used: requests that are too large or too small, time in vain, overhead. No I/O.

How much memory to ask for
    The most that was measured, and a margin: half as much again, or a quarter once ``ENOUGH`` targets were measured,
    but at least ``LEAST_MARGIN``; rounded up to four significant bits. The largest of n similar targets is exceeded by
    the next one with a chance of 1 in n + 1, however they are distributed, so few targets ask for a larger margin. A
    target that needs still more fails and is told apart; --doubleMem then gives it more by itself.

How many cores to ask for
    The most CPU seconds per second that any target used over its whole run, rounded up to whole cores (a tenth of one
    is within the error of the clocks), or to quarters of one for targets that mostly wait. A target that needs more for
    a moment only runs longer. On a machine that is busy with other things targets get less than they could use, and
    nothing here can tell that from waiting; so it is said.

Where the targets of a class asked for different amounts (computed from their input), it is the share of the request
that was used that counts, the largest of all.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Callable, NamedTuple, Optional

from jobtree.measured import Measured
from jobtree.quantities import format_duration, format_memory
from jobtree.statistics import ClassUsage, RequestUsage, Statistics

ENOUGH = 30
_MARGIN, _MARGIN_OF_FEW = 1.25, 1.5
LEAST_MARGIN = 64 << 20
_CORES_ERROR = 0.1
_MOSTLY_WAITS = 0.25

_WORTH_IT = 0.75
"""A smaller request is proposed if it is at most this part of the present one."""
_CLOSE = 0.9
"""A larger one is, if more than this part of it was used."""
_SHARE = 0.05
"""A loss of so much of all time is worth a line."""
_LONG_ENOUGH = 1.0
"""Seconds that all targets of a class must have taken together, or failed attempts, to be judged."""
_SHORT = 0.1
"""Seconds: targets that take less are short."""

MEMORY, CORES, IN_VAIN, OVERHEAD, QUEUE = "memory", "cores", "in vain", "overhead", "queue"


class Advice(NamedTuple):
    """One thing to do. topic: one of the words above; name: the class, "" for the whole run; text: for people, after
    the class's name.

    requested, used, recommended: bytes or cores of one target where it is about those, else None; where the targets of
    the class asked for different amounts, of those of which the largest part was used. weight: how much it matters: the
    share of all targets' time, or of what they reserve, that is concerned.
    """

    topic: str
    name: str
    requested: Optional[float]
    used: Optional[float]
    recommended: Optional[float]
    weight: float
    text: str


class Need(NamedTuple):
    """What one target asked for, the most that any used, and what would have done: bytes or cores."""

    requested: float
    used: float
    recommended: float


class Size(NamedTuple):
    """The right size of the targets of a class; cores is None where they were too short to tell.

    Where they asked for different amounts it is that of those of which the largest part was used.
    """

    name: str
    memory: Need
    cores: Optional[Need]


class Overhead(NamedTuple):
    """Where the time of workers went, in seconds: all of it, in targets that succeeded, in attempts that failed, and
    between targets; and for how long workers were waited for. at_once: how many workers there were on average."""

    workers: float
    targets: float
    in_vain: float
    between: float
    queued: float
    at_once: float


def overhead(found: Statistics) -> Optional[Overhead]:
    """None if no worker is over yet."""
    workers = found.workers
    if not workers.count:
        return None
    time, busy = workers.time.total, sum(host.busy for host in found.hosts)
    in_vain = min(busy, sum(kind.in_vain for kind in found.classes))
    span = max(host.last for host in found.hosts) - min(host.first for host in found.hosts)
    return Overhead(
        time,
        busy - in_vain,
        in_vain,
        max(0.0, time - busy),
        sum(host.queued for host in found.hosts),
        time / span if span > 0 else float(workers.count),
    )


def advice(found: Statistics, default_memory: int, default_cpu: float) -> list[Advice]:
    """What to do, the most useful first. The defaults are what targets got that did not say."""
    given = list(_of_the_run(found))
    of_all = found.targets.time.total
    for kind in found.classes:
        for one in (_memory(kind, default_memory), _cores(kind, default_cpu)):
            if one is not None:
                share = kind.measured.time.total / of_all if of_all else 1.0
                given.append(one._replace(weight=one.weight * share))
        given += _in_vain(kind, of_all + sum(one.in_vain for one in found.classes))
    return sorted(given, key=lambda one: (-one.weight, one.topic, one.name))


def right_sizes(found: Statistics, default_memory: int, default_cpu: float) -> dict[str, Size]:
    """Of each class of which a target has succeeded. The defaults are what targets got that did not say."""
    sizes = {}
    for kind in found.classes:
        if _with_targets(kind):
            cores = _cores_needed(kind, default_cpu)
            sizes[kind.name] = Size(kind.name, _memory_needed(kind, default_memory), cores)
    return sizes


def recommended_memory(most: float, measured: int) -> int:
    """Bytes to ask for, where so many targets used that many at most."""
    margin = _MARGIN if measured >= ENOUGH else _MARGIN_OF_FEW
    wanted = math.ceil(max(most * margin, most + LEAST_MARGIN))
    shift = max(0, wanted.bit_length() - 4)
    return -(-wanted >> shift) << shift


def recommended_cores(most: float) -> float:
    """Cores to ask for, where that many were used at most."""
    if most <= _MOSTLY_WAITS:
        return max(0.25, math.ceil((most + _CORES_ERROR) * 4) / 4)
    return max(1, math.ceil(most - _CORES_ERROR))


# -- memory ----------------------------------------------------------------------------------------------------


def _memory_needed(kind: ClassUsage, default: int) -> Need:
    asked = [(request.memory or default, request.measured.memory.most) for request in _with_targets(kind)]
    # The request of which the largest part was used.
    requested, used = max(asked, key=lambda pair: pair[1] / pair[0])
    return Need(requested, used, recommended_memory(used, kind.measured.count))


def _memory(kind: ClassUsage, default: int) -> Optional[Advice]:
    asked = [(request.memory or default, request) for request in _with_targets(kind)]
    if not asked:
        return None
    requested, used, recommended = _memory_needed(kind, default)
    smaller = recommended <= requested * _WORTH_IT
    if not smaller and used <= requested * _CLOSE:
        return None
    factor = recommended / requested
    text = f"{_asks(asked, 'memory', format_memory)} of memory and {_of(kind)} used "
    text += f"{format_memory(used)} at most" if len(asked) == 1 else f"{used / requested:.0%} of it at most"
    if kind.measured.inexact:
        text += " (or less: some were measured with all before them in their worker)"
    text += ": ask for " + (
        memory_argument(round(recommended)) if len(asked) == 1 else f"{factor:.2g} times that"
    )
    if smaller:
        text += f", and {requested / recommended:.2g} times as many fit into the same memory"
        weight = 1 - factor
    else:
        text += ", before one more does not fit" if used <= requested else ", or batch systems may kill it"
        weight = 1.0
    return Advice(MEMORY, kind.name, requested, used, recommended, weight, text)


def memory_argument(amount: int) -> str:
    """An amount of memory as it is given to a target."""
    for unit, size in (("G", 1 << 30), ("M", 1 << 20)):
        if amount % size == 0:
            return f'memory="{amount // size}{unit}"'
    return f"memory={amount}"


# -- cores -----------------------------------------------------------------------------------------------------


def _cores_needed(kind: ClassUsage, default: float) -> Optional[Need]:
    if kind.measured.time.total < _LONG_ENOUGH or not kind.measured.cores_most:
        return None
    asked = [(request.cpu or default, request.measured.cores_most) for request in _with_targets(kind)]
    requested, used = max(asked, key=lambda pair: pair[1] / pair[0])
    return Need(requested, used, recommended_cores(used))


def _cores(kind: ClassUsage, default: float) -> Optional[Advice]:
    asked = [(request.cpu or default, request) for request in _with_targets(kind)]
    needed = _cores_needed(kind, default)
    if needed is None:
        return None
    requested, used, recommended = needed
    on_average = _cores_on_average(kind.measured)
    larger = used > requested * 1.2 and recommended > requested
    if not larger and recommended > requested * _WORTH_IT:
        return None
    cores = _asks(asked, "cpu", lambda amount: f"{amount:g}")
    plural = "" if cores.endswith(" 1") else "s"
    text = (
        f"{cores} core{plural} and {_of(kind)} used {used:.1f} at most, {on_average:.1f} on average: ask for "
    )
    text += f"cpu={recommended:g}" if len(asked) == 1 else f"{recommended / requested:.2g} times that"
    text += ", or it takes those of others" if larger else ""
    text += ", unless the machine was busy with other things" if recommended < 1 else ""
    weight = 1.0 if larger else 1 - recommended / requested
    return Advice(CORES, kind.name, requested, used, recommended, weight, text)


def _cores_on_average(measured: Measured) -> float:
    return measured.clock.total / measured.time.total if measured.time.total else 0.0


# -- time ------------------------------------------------------------------------------------------------------


def _in_vain(kind: ClassUsage, of_all: float) -> Iterator[Advice]:
    if kind.in_vain <= max(_SHARE * of_all, _LONG_ENOUGH):
        return
    share = kind.in_vain / of_all
    attempts = f"{kind.failures} attempts" if kind.failures != 1 else "an attempt"
    text = (
        f"spent {format_duration(kind.in_vain)} in {attempts} that failed, {share:.0%} of the time of all targets: see "
        "jobTreeStatus --failed and the log of the run"
    )
    yield Advice(IN_VAIN, kind.name, None, None, None, share, text)


def _of_the_run(found: Statistics) -> Iterator[Advice]:
    over, targets = overhead(found), found.targets
    if over is None or not targets.count:
        return
    mean = targets.time.mean or 0.0
    if over.workers > _LONG_ENOUGH and over.between > _SHARE * over.workers and mean < _SHORT:
        share = over.between / over.workers
        text = (
            f"{share:.0%} of the workers' time was between targets, which take {mean * 1e3:.3g} ms on average: have a "
            "target do more at once"
        )
        yield Advice(OVERHEAD, "", None, None, None, share, text)
    outside = [host for host in found.hosts if host.backend != "singleMachine"]
    queued, time = sum(host.queued for host in outside), sum(host.measured.time.total for host in outside)
    workers = sum(host.measured.count for host in outside)
    if workers and queued > time:
        text = (
            f"workers waited {format_duration(queued / workers)} on average for the batch system to start them, and "
            f"then worked for {format_duration(time / workers)}: a larger --jobTime makes fewer and longer ones"
        )
        yield Advice(QUEUE, "", None, None, None, queued / (queued + time), text)


# -- words -----------------------------------------------------------------------------------------------------


def _with_targets(kind: ClassUsage) -> list[RequestUsage]:
    return [request for request in kind.requests if request.measured.count]


def _asks(asked: Sequence[tuple[float, RequestUsage]], what: str, shown: Callable[[float], str]) -> str:
    amounts = [amount for amount, _ in asked]
    least, most = shown(min(amounts)), shown(max(amounts))
    if not any(getattr(request, what) for _, request in asked):
        return f"gets the default of {most}"
    return f"asks for {most}" if least == most else f"asks for {least} to {most}"


def _of(kind: ClassUsage) -> str:
    return f"each of {kind.measured.count:,} targets" if kind.measured.count != 1 else "its only target"
