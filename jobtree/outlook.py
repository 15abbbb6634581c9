"""How far a run is, how fast it goes and what is left: from what its master has in memory, for whoever asks.

``Outlook.look`` counts; ``Pace`` turns one look after another into a rate and a time left. Neither changes anything,
both may be called from any thread, and a look costs what there are shapes and running bundles, not jobs.

The time left is measured work against measured speed: the jobs that are ready or running, each for as long as the
targets of its class took on average, and the seconds of work that get done in a second. What a class that has not been
measured will take, what jobs are yet to be added, and follow-ons that wait for children are not known, so it is the
least that is left; it is said whether all of the classes that are ready are in it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from typing import Callable, NamedTuple, Optional

from jobtree import clock
from jobtree.bundles import RunningBundle
from jobtree.events import State
from jobtree.quantities import format_duration
from jobtree.room import Room
from jobtree.store import Store
from jobtree.tree import Tree

_WINDOW = 60.0
"""Seconds over which speed is measured, as long as enough has ended in them."""

_ENOUGH = 10
"""Targets that have to end within the window; with fewer the whole time since the start is taken."""

_MOST_MARKS = 120


class Look(NamedTuple):
    """A run at one moment.

    targets, worked: how many have succeeded, in all starts, and the seconds that they took; left: seconds of work in
    jobs that are ready or running; unmeasured: how many of those are not in it; paused: why nothing is issued;
    hung: how many of the running ones have been silent for too long.
    """

    moment: float
    done: int
    running: int
    waiting: int
    failed: int
    targets: int
    worked: float
    left: float
    unmeasured: int
    paused: str = ""
    hung: int = 0


class Outlook:
    """Looks at what a master has in memory; bundles: those that are not over, by name. paused: by whom, if it is."""

    def __init__(
        self,
        store: Store,
        tree: Tree,
        bundles: Mapping[str, RunningBundle],
        room: Room,
        paused: Callable[[], Optional[str]],
    ) -> None:
        self._room = room
        self._paused = paused
        self._store = store
        self._tree = tree
        self._bundles = bundles

    def look(self) -> Look:
        """The run as it is now."""
        now = clock.elapsed()
        shapes, means = self._store.shapes, self._means()
        left, unmeasured, running, hung = 0.0, 0, 0, 0
        # list() takes a dictionary of the master's in one step, so that nothing can change it meanwhile.
        for shape, numbers in list(self._tree.counts.items()):
            number = numbers[State.READY] + numbers[State.ISSUED]
            mean = means.get(shapes[shape].name)
            if mean is None:
                unmeasured += number
            else:
                left += number * mean
        for bundle in list(self._bundles.values()):
            if bundle.current is not None:
                running += 1
                said = bundle.said  # it may be gone at the next look at it
                hung += said is not None and said.hung
                left -= min(now - bundle.current_since, means.get(shapes[bundle.shape].name, 0.0))
        totals = self._tree.totals
        stats = list(self._store.stats.values())
        waiting = totals[State.READY] + totals[State.ISSUED] + totals[State.BLOCKED] - running
        return Look(
            now,
            totals[State.DONE],
            running,
            max(0, waiting),
            totals[State.FAILED],
            sum(s.succeeded for s in stats),
            sum(s.wall for s in stats),
            max(0.0, left),
            unmeasured,
            self._why_paused(),
            hung,
        )

    def _why_paused(self) -> str:
        by = self._paused()
        if by is not None:
            return f"by {by}, until jobTreeRun --goOn"
        return "no room on the disk" if self._room.lacking else ""

    def _means(self) -> dict[str, float]:
        """Seconds that a target of each class took on average."""
        sums: dict[str, tuple[int, float]] = {}
        for shape, stats in list(self._store.stats.items()):
            if stats.succeeded:
                name = self._store.shapes[shape].name
                number, wall = sums.get(name, (0, 0.0))
                sums[name] = number + stats.succeeded, wall + stats.wall
        return {name: wall / number for name, (number, wall) in sums.items()}


class Pace:
    """How fast it goes, from the looks that it is shown."""

    def __init__(self, start: Look) -> None:
        self._start = start
        self._marks = deque([start], maxlen=_MOST_MARKS)
        self._latest = start

    def add(self, look: Look) -> None:
        """One more look; they come in order."""
        if look.moment - self._marks[-1].moment >= 2 * _WINDOW / _MOST_MARKS:
            self._marks.append(look)
        while len(self._marks) > 1 and look.moment - self._marks[0].moment > _WINDOW:
            self._marks.popleft()
        self._latest = look

    @property
    def rate(self) -> float:
        """Targets that succeed in a second."""
        since, seconds = self._measured()
        return (self._latest.targets - since.targets) / seconds if seconds > 0 else 0.0

    @property
    def seconds_left(self) -> Optional[float]:
        """Seconds until what is known to be left is done; None if nothing is known of it."""
        look = self._latest
        if not look.left:
            return None
        since, seconds = self._measured()
        speed = float(look.running)  # a target that runs gets a second's work done in a second
        if seconds > 0 and look.targets - since.targets >= max(_ENOUGH, look.running):
            speed = (look.worked - since.worked) / seconds
        return look.left / speed if speed > 0 else None

    def _measured(self) -> tuple[Look, float]:
        """The look since which the speed is measured, and the seconds that have passed since."""
        since = self._marks[0]
        if self._latest.targets - since.targets < _ENOUGH:
            since = self._start
        return since, self._latest.moment - since.moment


def in_words(look: Look, pace: Pace) -> str:
    """A look and the pace, in one line."""
    hung = f" ({look.hung} hung)" if look.hung else ""
    text = f"{look.done} done, {look.running} running{hung}, {look.waiting} waiting, {look.failed} failed"
    if pace.rate > 0:
        text += f"; {_rate(pace.rate)}"
    left = pace.seconds_left
    if look.paused:
        text += f"; paused: {look.paused}"
    elif left is not None:
        time = f"{max(left, 1.0):.0f}s" if left < 59.5 else format_duration(left)
        text += f"; {'at least ' if look.unmeasured else ''}{time} left"
    return text


def _rate(rate: float) -> str:
    """Targets per second, or in whichever unit that is a number to read."""
    for factor, unit in ((1.0, "s"), (60.0, "min"), (3600.0, "h")):
        if rate * factor >= 1 or unit == "h":
            break
    number = rate * factor
    return f"{number:.0f}/{unit}" if number >= 10 else f"{number:.1f}/{unit}"
