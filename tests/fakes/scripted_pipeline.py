"""A pipeline for tests of recovery: some thirty targets of every kind, and workers that run them one frame at a time.

What a target does is in ``PLANS``, under the name that is its payload. ``Pipeline`` plays all workers of all masters,
one after the other; it remembers over their deaths what has run, and complains about what must not happen: a target
that runs twice at one time, or before what it follows, or without a value that it was promised.
"""

from __future__ import annotations

import itertools
import os
import random
import signal
from collections import Counter
from collections.abc import Iterator
from typing import NamedTuple, Optional

from batchsystems.abstract import Reason
from jobtree.frames import BundleJob, Packed
from jobtree.paths import TreePaths
from tests.fakes.fake_batch_system import FakeBatchSystem
from tests.fakes.scripted_worker import ScriptedWorker, Value, target

RESULT = b"result"


class Plan(NamedTuple):
    """What a target does. fails, dies: how many of its runs end so; mentions: promises in its pickle; slow: how many
    steps it takes beside what else it does; services: what of its children runs beside the others; serves: the promise
    of its address, if it is one."""

    children: tuple[str, ...] = ()
    follow_on: Optional[str] = None
    value: Optional[Value] = None
    mentions: tuple[bytes, ...] = ()
    fails: int = 0
    dies: int = 0
    go_on: bool = False
    global_dir: bool = False
    messages: int = 0
    prints: bool = False
    slow: int = 0
    services: tuple[str, ...] = ()
    serves: Optional[bytes] = None


def plans(fan_out: int) -> dict[str, Plan]:
    """The pipeline: names and what they do. fan_out: how many children one of the targets has."""
    fan = tuple(f"f{n}" for n in range(fan_out))
    found = {
        "root": Plan(
            ("a", "b", "c", "d", "e", "fan", "h", "x"), "report", Value(RESULT, b"see report", (b"report",)),
            global_dir=True, messages=1,
        ),
        "report": Plan((), "end", Value(b"report", b"r" * 50, (), in_file=True), (b"A", b"B", b"E"), messages=2),
        "end": Plan(fails=1, global_dir=True),
        # Children and grandchildren; a small value; a chain below.
        "a": Plan(("a1", "a2", "a3"), "a+", Value(b"A", b"small"), global_dir=True, prints=True),
        "a1": Plan(fails=1, messages=1, prints=True),
        "a2": Plan(("a2x", "a2y"), "a2+"),
        "a2x": Plan(fails=2),
        "a2y": Plan(("a2z",), go_on=True, global_dir=True),
        "a2z": Plan(messages=1),
        "a2+": Plan(mentions=(b"A",)),
        "a3": Plan((), "a3+", go_on=True, global_dir=True),
        "a3+": Plan((), "a3++", go_on=True, messages=1),
        "a3++": Plan(global_dir=True),
        "a+": Plan(("a4",), None, mentions=(b"A",)),
        "a4": Plan(dies=1),
        # A large value, after failures that left its file behind.
        "b": Plan((), None, Value(b"B", b"large" * 9, (), in_file=True), fails=2, messages=1),
        # Straight on to an only child, and with it to its follow-ons.
        "c": Plan(("c1",), "c+", go_on=True, global_dir=True),
        "c1": Plan((), "c1+", go_on=True),
        "c1+": Plan((), "c1++", go_on=True, fails=1),
        "c1++": Plan(),
        "c+": Plan((), None, Value(b"nobody", b"asks", (), in_file=True)),
        # A worker that dies, and a value for its own follow-on alone.
        "d": Plan(("d1", "d2"), "d+", Value(b"D", b"d", (), in_file=True), dies=1, global_dir=True),
        "d1": Plan(), "d2": Plan(dies=1),
        "d+": Plan(mentions=(b"D",)),
        "e": Plan((), "e+", Value(b"E", b"e" * 30, (), in_file=True), go_on=True),
        "e+": Plan((), "e++", mentions=(b"E",), go_on=True, messages=1),
        "e++": Plan(),
        # Two services, of which one dies twice while it is up and the other before that; what needs them fails, dies,
        # and adds more that does, with a service of its own. The follow-on needs none.
        "h": Plan(("h1", "h2", "h3"), "h+", services=("s", "t")),
        "s": Plan(serves=b"S", dies=2, slow=3, messages=1, global_dir=True),
        "t": Plan(serves=b"T", fails=1),
        "h1": Plan(("h1x",), "h1+", mentions=(b"S",), slow=5, messages=1),
        "h1x": Plan(mentions=(b"S", b"T")),
        "h1+": Plan(mentions=(b"T",)),
        "h2": Plan(fails=1, dies=1, mentions=(b"S", b"T"), slow=5),
        "h3": Plan(("h3x", "h3y"), mentions=(b"S",), services=("u",)),
        "u": Plan(serves=b"U", mentions=(b"S",)),
        "h3x": Plan((), "h3x+", mentions=(b"U",), go_on=True),
        "h3x+": Plan(mentions=(b"U",), slow=4),
        "h3y": Plan(mentions=(b"S", b"U"), fails=1),
        "h+": Plan(),
        "fan": Plan(fan, "fan+"),
        "fan+": Plan(global_dir=True),
        "x": Plan(dies=1, fails=1),
    }  # fmt: skip
    # One of the fan is so slow that the rest of its bundle is taken from it.
    found.update(
        (name, Plan(fails=int(n == 1), messages=int(n == 2), slow=80 * (n == 4)))
        for n, name in enumerate(fan)
    )
    return found


class Pipeline:
    """Plays the workers. ``told`` is what targets have sent with logToMaster, each text once."""

    def __init__(self, paths: TreePaths, fan_out: int) -> None:
        self.plans = plans(fan_out)
        self.paths = paths
        self.batch: FakeBatchSystem
        self.runs: Counter[str] = Counter()
        self.succeeded: Counter[str] = Counter()
        self.told: set[str] = set()
        self._values = {p.value.token: p.value.data for p in self.plans.values() if p.value is not None}
        # The addresses of the services that are up; and of those that were when the master last looked, or since.
        self._up: dict[bytes, bytes] = {}
        self._known_up: set[tuple[bytes, bytes]] = set()
        self._addresses = {p.serves for p in self.plans.values() if p.serves is not None}
        self._needs = self._who_needs_whom()
        self._lives: dict[str, tuple[ScriptedWorker, Iterator[None]]] = {}
        self._running: set[str] = set()
        self._chunk = max(10, fan_out // 6)

    def packed(self, name: str) -> Packed:
        """A target as it is stored. Its class is the first letter of its name."""
        plan = self.plans[name]
        return target(name[0], name.encode(), plan.mentions, cpu=None if plan.serves is None else 0.0005)

    def _who_needs_whom(self) -> dict[str, set[str]]:
        """For each target, what must have succeeded before it starts."""
        needs: dict[str, set[str]] = {"root": set()}

        def walk(name: str) -> set[str]:
            plan = self.plans[name]
            all_of_it = {name}
            for child in plan.services + plan.children:
                needs[child] = needs[name] | {name}
                all_of_it |= walk(child)
            if plan.follow_on is not None:
                needs[plan.follow_on] = needs[name] | all_of_it
                all_of_it |= walk(plan.follow_on)
            return all_of_it

        walk("root")
        return needs

    def new_master(self, batch: FakeBatchSystem) -> None:
        """The workers of an earlier master are dead."""
        self.batch = batch
        self._lives.clear()
        self._running.clear()
        self._up.clear()
        self._known_up.clear()

    def step(self, idle: bool = False) -> None:
        """Every worker takes one step: a target begins, or does something, or ends. idle: the master has seen all that
        was done before."""
        names = [submission.name for submission in self.batch.active()]
        for name in [name for name in self._lives if name not in names]:
            self._cancelled(self._lives.pop(name)[0])
        for name in names:
            if name not in self._lives:
                worker = ScriptedWorker(self.paths, int(name.rpartition(".")[2]))
                assert worker.open(), f"nobody else can have claimed {name}"
                self._check_services(worker)
                self._lives[name] = worker, self._life(worker, name)
        for name in names:
            if next(self._lives[name][1], self) is self:
                del self._lives[name]
        self._known_up = set(self._up.items()) | (set() if idle else self._known_up)

    def _cancelled(self, worker: ScriptedWorker) -> None:
        if worker.job is not None:
            name = worker.job.payload.decode()
            self._running.discard(name)
            self._up.pop(self.plans[name].serves or b"", None)

    def _check_services(self, worker: ScriptedWorker) -> None:
        """A bundle is made while the services that its targets need are up, with their addresses of that time."""
        for job in worker.left:
            for token in self._addresses.intersection(self.plans[job.payload.decode()].mentions):
                known = (token, job.values.get(token)) in self._known_up
                assert known, (
                    f"{job.payload!r} was issued with {job.values.get(token)!r}, up: {self._known_up}"
                )

    def die(self, chance: random.Random) -> None:
        """All workers die, some with a part of what they had not handed over yet."""
        for worker, _ in self._lives.values():
            worker.die(chance.randint(0, len(worker.unwritten)))

    def _life(self, worker: ScriptedWorker, name: str) -> Iterator[None]:
        while worker.left:
            next_job: Optional[BundleJob] = worker.left[0]
            del worker.left[0]
            while next_job is not None:
                worker.say_started(next_job)
                if not worker.look_for_recall():
                    self.batch.finish(name)
                    return
                self._begins(worker, next_job)
                plan = self.plans[next_job.payload.decode()]
                if plan != Plan():
                    yield  # the many that do nothing are passed over in one step, or it would take for ever
                for _ in self._does(worker, plan):
                    yield
                if plan.serves is not None and self.runs[next_job.payload.decode()] > plan.fails:
                    for _ in self._serves(worker, plan.serves, plan):
                        yield
                self._running.discard(next_job.payload.decode())
                if worker.job is None:
                    break
                if self.runs[next_job.payload.decode()] <= plan.dies:
                    self.batch.kill(name, Reason.SIGNAL, signal.SIGSEGV)
                    return
                next_job = self._ends(worker, plan)
        worker.flush()
        yield
        self.batch.finish(name)

    def _begins(self, worker: ScriptedWorker, job: BundleJob) -> None:
        name = job.payload.decode()
        assert name not in self._running, f"{name} runs twice at one time"
        missing = [other for other in self._needs[name] if not self.succeeded[other]]
        assert not missing, f"{name} starts before {missing}"
        for token in self.plans[name].mentions:
            if token in self._addresses:
                continue
            held = job.values[token]
            if isinstance(held, str):
                with open(self.paths.absolute(held), "rb") as file:
                    held = file.read()
            assert held == self._values[token], f"{name} is given a wrong value"
        self._running.add(name)
        self.runs[name] += 1

    def _does(self, worker: ScriptedWorker, plan: Plan) -> Iterator[None]:
        assert worker.job is not None
        name = worker.job.payload.decode()
        if plan.global_dir:
            worker.global_dir()
            yield
        for number in range(plan.messages):
            text = f"<{name}, run {self.runs[name]}, line {number}>"
            self.told.add(text)
            worker.message(text)
            yield
        for _ in range(plan.slow):
            yield
        if plan.prints:
            worker.print(name.encode())

    def _serves(self, worker: ScriptedWorker, token: bytes, plan: Plan) -> Iterator[None]:
        """A service is up until it is told to stop, or dies."""
        assert worker.job is not None
        name = worker.job.payload.decode()
        address = self._up[token] = b"%s, run %d" % (token, self.runs[name])
        worker.serve(Value(token, address))
        for number in itertools.count():
            yield
            if self.runs[name] <= plan.fails + plan.dies and number >= plan.slow:
                del self._up[token]
                return
            if worker.recalled():
                del self._up[token]
                self.succeeded[name] += 1
                worker.succeed()
                return
            worker.well()

    def _ends(self, worker: ScriptedWorker, plan: Plan) -> Optional[BundleJob]:
        """The outcome. Returns the job to go straight on with."""
        assert worker.job is not None
        name = worker.job.payload.decode()
        if self.runs[name] <= plan.fails + plan.dies:
            if plan.value is not None:
                worker.keep(plan.value)
            worker.write_children([self.packed(child) for child in plan.children], self._chunk)
            worker.fail()
            return None
        children = [self.packed(child) for child in plan.children]
        follow_on = None if plan.follow_on is None else self.packed(plan.follow_on)
        self.succeeded[name] += 1
        if os.path.getsize(worker.log):
            os.truncate(worker.log, 0)
        services = [self.packed(service) for service in plan.services]
        return worker.succeed(
            children, follow_on, plan.value, plan.go_on, chunk=self._chunk, services=services
        )
