"""Stops the world before every durable effect of master and workers, and continues from what may be on the disk then.

    python tests/crash/every_point.py                    a sample, a minute or so; --seed draws another
    python tests/crash/every_point.py --all              every one: `make crash`
    python tests/crash/every_point.py --match "point 17"  those whose name contains the text, with all that they say

The undisturbed run of ``tests.crash.scenario`` is recorded, effect by effect (``tests.crash.world``). For each effect
this asks ``tests.crash.disk`` what may be on the disk if the world stops just before it, lays that out in a new
directory, and continues there as a user would, to the end, which must be that of the undisturbed run. Kinds of case:

  death      the processes die, all of them; a write is also cut after 1 byte, in the middle, before its last byte
  power      a power cut: what was not synced is lost, kept without what came before it, or kept in any part and order
  each-file  a power cut where syncfs does not flush, so that each file is synced: what was not synced is lost
  second     what a first crash left is continued, and the world stops again at every effect of that recovery
  lingering  the master dies, and each of its workers still has a few effects before it too is gone
  worker     one worker is killed, at every effect of the workers, writes cut as above; the master goes on

Two cases that leave the same bytes, and the same memory of what has happened, are one; it is tried once.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import random
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Callable, NamedTuple, Optional

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from jobtree import frames
from tests.crash import disk
from tests.crash.disk import Disk, Effect, Image
from tests.crash.effects import Stopped
from tests.crash.pool import Failed, Pool, default_size
from tests.crash.scenario import PLANS
from tests.crash.world import Ending, Event, World, check_undisturbed, compare

KINDS = ("death", "power", "each-file", "second", "lingering", "worker")
SECONDS = 6
"""How many first crashes the second ones follow, when all are tried."""


_SYNCS = ("fsync", "syncfs", "sqlite", "act")


class Trace(NamedTuple):
    """A recorded life: what it did to the disk, what was seen, how many effects its recovery had, how it ended."""

    disk: Disk
    events: list[Event]
    recovered_at: int
    worker_effects: list[Effect]
    ending: Ending


class Case(NamedTuple):
    """One crash: its kind, its name, what is on the disk then, and what has been seen by then."""

    kind: str
    name: str
    image: Image
    events: Sequence[Event]


# -- what is done in a process of its own ----------------------------------------------------------------------


FOLDER = ""
"""Where the directories are made; one that goes at the end, whatever was cut off before."""


def in_new_directory(act: Callable[[str], Any]) -> Any:
    """Call it with the path of a directory that goes afterwards."""
    path = tempfile.mkdtemp(dir=FOLDER)
    try:
        return act(path)
    finally:
        shutil.rmtree(path, ignore_errors=True)


def record(image: Image, events: Sequence[Event], wanted: Optional[Ending], syncfs: bool = True) -> Trace:
    """Live from an image, and record it. wanted: how it must end; None: it is undisturbed."""

    def act(path: str) -> Trace:
        world = World(path, image, events, record=True, syncfs=syncfs)
        world.live()
        ending = world.ending()
        if wanted is None:
            check_undisturbed(world, ending)
        else:
            compare(ending, wanted)
        assert world.disk is not None
        return Trace(world.disk, world.observer.events, world.recovered_at, world.worker_effects, ending)

    result: Trace = in_new_directory(act)
    return result


def go_on(
    image: Image, events: Sequence[Event], wanted: Ending, power_cut: bool = False, syncfs: bool = True
) -> None:
    """Continue from an image; raises Wrong if it does not end as wanted."""

    def act(path: str) -> None:
        world = World(path, image, events, syncfs=syncfs, kernel="next" if power_cut else "first")
        world.live()
        compare(world.ending(), wanted)

    in_new_directory(act)


def linger(number: int, steps: int) -> tuple[Image, list[Event]]:
    """Live until the master dies before its first effect from this number on. Returns what there is then."""

    def act(path: str) -> tuple[Image, list[Event]]:
        world = World(path, stop_at=number, linger=steps)
        try:
            world.live()
        except Stopped:
            pass
        return world.image, world.observer.events

    result: tuple[Image, list[Event]] = in_new_directory(act)
    return result


def kill_worker(number: int, cut: int, wanted: Ending) -> None:
    """Live, and kill a worker at this effect of the workers, cut short; raises Wrong if it does not end as wanted."""

    def act(path: str) -> None:
        world = World(path, kill_at=(number, cut))
        world.live()
        compare(world.ending(), wanted)

    in_new_directory(act)


# -- which cases there are -------------------------------------------------------------------------------------


def crashes(trace: Trace, last: int, earlier: str = "", seed: int = 1) -> Iterator[Case]:
    """Every crash before the effects up to ``last`` of a recorded life: death and power cuts."""
    record_of = trace.disk
    events = trace.events
    known = len([event for event in events if event.after < 0])
    for n in range(last + 1):
        effect = record_of.effects[n] if n < len(record_of.effects) else None
        while known < len(events) and events[known].after <= n:
            known += 1
        seen = events[:known]
        name = f"{earlier}point {n}, before {effect}"
        parts = [] if effect is None else list(disk.cuts(effect))
        chance = random.Random(f"{seed} {earlier} {n}")
        yield Case("death", f"{name}", record_of.image(n), seen)
        for what, part in parts:
            yield Case("death", f"{name}, {what}", record_of.image(n, None, part), seen)
        yield Case("power", f"{name}, the unsynced lost", record_of.image(n, disk.nothing), seen)
        for what, part in parts:
            yield Case(
                "power", f"{name}, {what}, the unsynced lost", record_of.image(n, disk.nothing, part), seen
            )
        unsynced = record_of.unsynced(n)
        if len(unsynced) > 1:
            newest = disk.only(frozenset(unsynced[-1:]))
            yield Case("power", f"{name}, the newest kept", record_of.image(n, newest), seen)
        if len(unsynced) > 1 and effect is not None and effect.kind in _SYNCS:
            younger = disk.only(frozenset(unsynced[1:]))
            yield Case("power", f"{name}, the oldest lost", record_of.image(n, younger), seen)
        torn = effect and disk.scattered(effect, chance)
        image = record_of.image(n, disk.any_part(chance), torn)
        yield Case("power", f"{name}, the unsynced kept in part", image, seen)


def is_recall(effect: Effect) -> bool:
    """Whether the master takes back what a bundle has not started."""
    return effect.kind == "write" and effect.who == "master" and effect.data == frames.RECALL


def losses(trace: Trace) -> Iterator[Case]:
    """Every power cut that loses all that was not synced."""
    for n in range(len(trace.disk.effects) + 1):
        effect = trace.disk.effects[n] if n < len(trace.disk.effects) else None
        seen = [event for event in trace.events if event.after <= n]
        name = f"point {n}, before {effect}, each file synced by itself, the unsynced lost"
        yield Case("power", name, trace.disk.image(n, disk.nothing), seen)


def digest(case: Case) -> bytes:
    """The same for two cases that cannot be told apart from then on."""
    # After a power cut the machine has been started anew, which the next start asks.
    found = hashlib.blake2b(b"power" if case.kind == "power" else b"", digest_size=16)
    for path in sorted(case.image):
        content = case.image[path]
        found.update(path.encode() + (b"/" if content is None else b"\0%d\0" % len(content) + content))
    # What has happened decides what a target does in its next run, and what must not happen any more.
    for event in case.events:
        found.update(f"{event.kind} {event.what}\n".encode())
    return found.digest()


# -- trying them -----------------------------------------------------------------------------------------------


Task = tuple[str, Callable[..., Any], tuple[Any, ...]]
"""A crash to try: its name, what to run in a process of its own, and with which arguments."""


class Enough(Exception):
    """The first wrong one was found, and only that was asked for."""


class Enumeration:
    """Tries cases and keeps account: by kind, how many there are, how many distinct ones were tried, what was wrong."""

    def __init__(self, pool: Pool, options: argparse.Namespace) -> None:
        self.pool = pool
        self.options = options
        self.possible: Counter[str] = Counter()
        self.distinct: Counter[str] = Counter()
        self.tried: Counter[str] = Counter()
        self.wrong: list[str] = []
        self.spent: Counter[str] = Counter()
        self._seen: set[bytes] = set()

    def sample(self, kind: str, found: list[Task], most: int) -> list[Task]:
        """So many of those whose name matches, drawn by the seed; all of them if all are wanted."""
        match = self.options.match
        if match is not None:
            found = [task for task in found if match in task[0]]
        if self.options.all or len(found) <= most:
            return found
        chance = random.Random(f"{self.options.seed} {kind}")
        return [found[index] for index in sorted(chance.sample(range(len(found)), most))]

    def run(self) -> None:
        """Record the undisturbed run, and try every kind that is wanted."""
        self.trace: Trace = self.pool.run(record, {}, (), None)
        self.wanted = self.trace.ending
        if not any(map(is_recall, self.trace.disk.effects)):
            raise Failed("nothing was recalled: the scenario has lost what it is for")
        kinds = self.options.only
        if {"death", "power", "second"} & set(kinds):
            found = list(
                self._distinct(crashes(self.trace, len(self.trace.disk.effects), seed=self.options.seed))
            )
            for kind in ("death", "power"):
                if kind in kinds:
                    tasks = [self._task(case) for case in found if case.kind == kind]
                    self._try(kind, self.sample(kind, tasks, self.options.sample))
            if "second" in kinds:
                self._second(found)
        if "each-file" in kinds:
            self._each_file()
        if "lingering" in kinds:
            self._lingering()
        if "worker" in kinds:
            self._workers()

    def _distinct(self, cases: Iterable[Case], kind: Optional[str] = None) -> Iterator[Case]:
        """Those that have not come up before, counted under the kind."""
        for case in cases:
            self.possible[kind or case.kind] += 1
            mark = digest(case)
            if mark not in self._seen:
                self._seen.add(mark)
                self.distinct[kind or case.kind] += 1
                yield case

    def _each_file(self) -> None:
        trace: Trace = self.pool.run(record, {}, (), self.wanted, False)
        found = self._distinct(losses(trace), "each-file")
        tasks = [(case.name, go_on, (case.image, case.events, self.wanted, True, False)) for case in found]
        self._try("each-file", self.sample("each-file", tasks, self.options.sample))

    def _second(self, found: list[Case]) -> None:
        chance = random.Random(f"{self.options.seed} second")
        firsts = chance.sample(found, SECONDS if self.options.all else 2)
        lives = [(case, record, (case.image, case.events, self.wanted)) for case in firsts]
        for first, trace in list(self.pool.run_all(lives)):
            if isinstance(trace, Failed):
                self._note("second", f"{first.name} (recorded)", trace)
                continue
            # Of what was seen before, only its order counts; all of it is over when this life begins.
            before = len(first.events)
            trace = trace._replace(
                events=[event._replace(after=-1) for event in trace.events[:before]] + trace.events[before:]
            )
            tasks = [
                self._task(case)
                for case in self._distinct(
                    crashes(trace, trace.recovered_at, f"{first.name}; then ", self.options.seed), "second"
                )
            ]
            self._try("second", self.sample(f"second {first.name}", tasks, self.options.sample // 2))

    def _lingering(self) -> None:
        tasks: list[Task] = []
        for n, effect in enumerate(self.trace.disk.effects):
            if effect.who == "master" and n > self.trace.recovered_at:
                steps = 1 + n % 5
                name = f"master dead at point {n}, before {effect}, each worker has {steps} more"
                tasks.append((name, linger, (n, steps)))
        self.possible["lingering"] += len(tasks)
        found: list[Task] = []
        for name, result in self.pool.run_all(self.sample("lingering", tasks, self.options.sample // 3)):
            if isinstance(result, Failed):
                self._note("lingering", name, result)
            else:
                found.append((name, go_on, (*result, self.wanted)))
        self._try("lingering", found)

    def _workers(self) -> None:
        tasks: list[Task] = []
        for number, effect in enumerate(self.trace.worker_effects):
            lengths = [len(part.data) for _, part in disk.cuts(effect)]
            for cut in (0, *lengths):
                name = f"worker killed at its effect {number}, {effect}, {cut} bytes of it written"
                tasks.append((name, kill_worker, (number, cut, self.wanted)))
        self.possible["worker"] += len(tasks)
        self._try("worker", self.sample("worker", tasks, self.options.sample // 2))

    def _task(self, case: Case) -> Task:
        return case.name, go_on, (case.image, case.events, self.wanted, case.kind == "power")

    def _try(self, kind: str, tasks: Sequence[Task]) -> None:
        began = time.monotonic()
        for name, result in self.pool.run_all(tasks):
            self._note(kind, name, result)
            if sys.stderr.isatty() and self.tried[kind] % 20 == 0:
                print(f"\r{kind}: {self.tried[kind]} of {len(tasks)}", end="\r", file=sys.stderr)
            if self.wrong and self.options.first:
                raise Enough
        self.spent[kind] += round(time.monotonic() - began)

    def _note(self, kind: str, name: str, result: Any) -> None:
        self.tried[kind] += 1
        if isinstance(result, Failed):
            self.wrong.append(f"{kind}: {name}\n    {result}")
            print(f"{kind}: {name}\n    {str(result).partition(chr(10))[0]}", file=sys.stderr, flush=True)

    def report(self) -> int:
        """Print the figures. Returns the exit status."""
        effects = self.trace.disk.effects
        of_workers = len(self.trace.worker_effects)
        print(
            f"{len(PLANS)} targets, {len(effects)} durable effects: {len(effects) - of_workers} of the master, "
            f"{of_workers} of workers"
        )
        print(f"{'crash':10} {'possible':>9} {'distinct':>9} {'tried':>6} {'wrong':>6} {'seconds':>8}")
        for kind in KINDS:
            if self.possible[kind]:
                wrong = sum(text.startswith(f"{kind}:") for text in self.wrong)
                print(
                    f"{kind:10} {self.possible[kind]:9} {self.distinct[kind] or self.possible[kind]:9} "
                    f"{self.tried[kind]:6} {wrong:6} {self.spent[kind]:8.0f}"
                )
        print(
            f"{sum(self.tried.values())} of {sum(self.possible.values())} crash points tried "
            f"({'all distinct ones' if self.options.all else f'seed {self.options.seed}'}), {len(self.wrong)} wrong"
        )
        for text in self.wrong[: None if self.options.match else 10]:
            print(text if self.options.match else f"{text[:700]}\n    ...")
        return 1 if self.wrong else 0


def main(arguments: Optional[Sequence[str]] = None) -> int:
    """Entry point; exit status 1 if anything ended wrongly."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--all", action="store_true", help="try every distinct case")
    parser.add_argument(
        "--sample", type=int, help="how many cases of a kind, about (default: 30; with --match all)"
    )
    parser.add_argument(
        "--seed", type=int, default=1, help="which sample, and which parts are kept (default: 1)"
    )
    parser.add_argument("--only", nargs="+", choices=KINDS, default=list(KINDS), help="kinds of case")
    parser.add_argument("--match", help="only cases whose name contains this text, and all that they say")
    parser.add_argument("--first", action="store_true", help="stop at the first wrong one")
    parser.add_argument("--jobs", type=int, default=default_size(), help="how many at once (default: cores)")
    options = parser.parse_args(arguments)
    options.all = options.all or (options.match is not None and options.sample is None)
    options.sample = options.sample or 30
    memory = "/dev/shm"
    with tempfile.TemporaryDirectory(
        prefix="jobtree-crash-", dir=memory if os.path.isdir(memory) else None
    ) as name:
        global FOLDER
        FOLDER = name
        pool = Pool(options.jobs)
        try:
            enumeration = Enumeration(pool, options)
            try:
                enumeration.run()
            except Enough:
                pass
            return enumeration.report()
        finally:
            pool.close()


if __name__ == "__main__":
    sys.exit(main())
