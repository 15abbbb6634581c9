"""The pipeline whose every crash is tried: some thirty targets of every kind, and a fan-out.

What a target does is in ``PLANS``, under its name. It tells the sink of ``tests.crash.effects`` when it begins and
ends, so that whoever plays the world can see what must not happen. What it writes goes through ``os``, where effects
are counted, and what it reads it checks: a file that was lost is an assertion that fails in the target.

A target returns its name with what it was given: the result of the run is one text that can be computed without it.
"""

from __future__ import annotations

import os
import signal
from typing import Any, NamedTuple, Optional

from jobtree import Target
from tests.crash import effects

FAN_OUT = 18
SLOW = 11
"""Which of the fan is slow: one that is not the last of its bundle."""

TREE = "above/tree"
"""Where the job tree lies below effects.ROOT: in a directory that is not there yet either."""


class Plan(NamedTuple):
    """What a target does. fails, dies: how many of its runs end so.

    takes: whose returned values it is given; gives: whose value it returns instead of its own; large: so large that it
    gets a file. writes: a file of this name in its chain's global temporary directory; reads: names that must be there;
    removes: one that it takes away. shares: all that in the directory of the job above. local: makes a local one.
    slow: how often it writes there, without a word to the master.
    """

    children: tuple[str, ...] = ()
    follow_on: Optional[str] = None
    takes: tuple[str, ...] = ()
    gives: Optional[str] = None
    large: bool = False
    writes: Optional[str] = None
    reads: tuple[str, ...] = ()
    removes: Optional[str] = None
    shares: bool = False
    local: bool = False
    slow: int = 0
    messages: int = 0
    fails: int = 0
    dies: int = 0


FAN = tuple(f"f{n}" for n in range(FAN_OUT))

PLANS = {
    "root": Plan(("b", "d", "e", "fan", "g", "x"), "report", gives="report"),
    # From here on there are files; before it nothing but what jobtree itself does is on the disk.
    "report": Plan(
        ("a", "c"), "end", takes=("b", "d", "e", "fan"), gives="end", fails=1, writes="report's",
    ),
    "end": Plan(
        takes=("a", "b", "c", "d", "e", "fan"), reads=("a's",), removes="report's", large=True, messages=1,
    ),
    # Children and their children; values on the way up; files in the directory of the job above.
    "a": Plan(("a1", "a2", "a3"), "a+", writes="a's", shares=True, messages=1),
    "a1": Plan(fails=1, messages=1, local=True),
    "a2": Plan(("a2x", "a2y"), "a2+", local=True, large=True),
    "a2x": Plan(fails=2), "a2y": Plan(),
    "a2+": Plan(takes=("a2x", "a2y")),
    "a3": Plan(),
    "a+": Plan(("a4",), takes=("a1", "a2", "a3"), reads=("a's",), shares=True),
    "a4": Plan(dies=1, local=True),
    # A large value, after failures that had nothing to leave.
    "b": Plan(large=True, fails=1),
    # Follow-ons in one worker, each free to destroy what led to the one before it.
    "c": Plan((), "c+", writes="c's"),
    "c+": Plan((), "c++", reads=("c's",), writes="c+'s"),
    "c++": Plan((), "c+++", reads=("c+'s",), writes="c++'s", removes="c's", messages=1),
    "c+++": Plan(reads=("c++'s",), removes="c+'s"),
    # A worker that dies; a large value for its own follow-on.
    "d": Plan(("d1", "d2"), "d+", dies=1, large=True),
    "d1": Plan(large=True), "d2": Plan(dies=1),
    "d+": Plan(takes=("d", "d1", "d2")),
    # Straight on to an only child; the value of another target is its own.
    "e": Plan(("e1",), "e+", gives="e1"),
    "e1": Plan((), "e1+", messages=1),
    "e1+": Plan(),
    "e+": Plan(takes=("e1",)),
    "fan": Plan(FAN, "fan+"),
    "fan+": Plan(takes=(FAN[0], FAN[-1])),
    "g": Plan(("g1",), "g+", large=True),
    "g1": Plan(fails=1), "g+": Plan(takes=("g1",)),
    "x": Plan(dies=1, fails=1),
    # So slow that the rest of its bundle is taken from it.
    **{name: Plan(slow=32 if n == SLOW else 0, fails=int(n == 3)) for n, name in enumerate(FAN)},
}  # fmt: skip


def value(name: str) -> str:
    """What a target returns."""
    plan = PLANS[name]
    if plan.gives is not None:
        return value(plan.gives)
    inner = ",".join(value(other) for other in plan.takes)
    return f"{name}({inner})" + "." * (200 if plan.large else 0)


def who_needs_whom() -> dict[str, frozenset[str]]:
    """For each target, what must have ended before it starts."""
    needs: dict[str, frozenset[str]] = {"root": frozenset()}

    def walk(name: str) -> frozenset[str]:
        plan = PLANS[name]
        all_of_it = frozenset([name])
        for child in plan.children:
            needs[child] = needs[name] | {name}
            all_of_it |= walk(child)
        if plan.follow_on is not None:
            needs[plan.follow_on] = needs[name] | all_of_it
            all_of_it |= walk(plan.follow_on)
        return all_of_it

    walk("root")
    return needs


class Step(Target):
    """A target that does what ``PLANS`` says under its name.

    given: the values that it takes. above: the directory of the job above, relative to the tree so that the tree can
    be laid out anywhere. promises: of targets that its follow-on may take.
    """

    def __init__(self, name: str, given: tuple[Any, ...] = (), above: Optional[str] = None) -> None:
        Target.__init__(self)
        self.name = name
        self.given = given
        self.above = above
        self.promises: dict[str, Any] = {}

    def run(self) -> Any:
        """Do as planned."""
        plan = PLANS[self.name]
        run = effects.sink.begins(self.name)
        assert self.given == tuple(value(other) for other in plan.takes), (
            f"{self.name} was given {self.given}"
        )
        self.promises.update(zip(plan.takes, self.given))
        for number in range(plan.messages):
            self.logToMaster(f"<{self.name}, run {run}, line {number}>")
        if plan.local:
            write(os.path.join(self.getLocalTempDir(), "scratch"), b"x")
        for _ in range(plan.slow):
            write(os.path.join(self.getLocalTempDir(), "scratch"), b"x")
        if plan.writes or plan.reads or plan.removes:
            self._use_files(plan)
        if run <= plan.dies:
            self.getGlobalTempDir()  # it will not ask for it when it runs again, and it must go all the same
            os.kill(os.getpid(), signal.SIGKILL)
        for child in plan.children:
            made = self.addChildTarget(self._make(child, self._folder() if PLANS[child].shares else None))
            self.promises[child] = made.rv()
        if plan.follow_on is not None:
            made = self._make(plan.follow_on, self.above)
            made.promises = dict(self.promises)
            self.promises[plan.follow_on] = self.setFollowOnTarget(made).rv()
        fails = run <= plan.fails + plan.dies
        effects.sink.ends(self.name, not fails)
        if fails:
            raise ValueError(f"run {run} of {self.name} fails, as planned")
        return value(self.name) if plan.gives is None else self.promises[plan.gives]

    def _make(self, name: str, above: Optional[str]) -> Step:
        """A child or follow-on."""
        plan = PLANS[name]
        if self.name in plan.takes:
            self.promises[self.name] = self.rv()
        cls = Fan if name in FAN else Chain if name[0] in "ce" else Step
        return cls(name, tuple(self.promises[other] for other in plan.takes), above)

    def _folder(self) -> str:
        """Where its files are, relative to the tree."""
        if self.above is not None:
            return self.above
        return os.path.relpath(self.getGlobalTempDir(), os.path.join(effects.ROOT, TREE))

    def _use_files(self, plan: Plan) -> None:
        folder = os.path.join(effects.ROOT, TREE, self._folder())
        for name in plan.reads:
            with open(os.path.join(folder, name), "rb") as file:
                content = file.read()
            assert content == name.encode() * 20, f"{name} holds {content!r}"
        if plan.removes is not None:
            try:
                os.unlink(os.path.join(folder, plan.removes))
            except FileNotFoundError:
                pass  # an earlier run of this target has done so
        if plan.writes is not None:
            write(os.path.join(folder, plan.writes), plan.writes.encode() * 20)


class Fan(Step):
    """The many."""


class Chain(Step):
    """Those that go straight on."""


def write(path: str, data: bytes) -> None:
    """What a target does with a file, so that it is counted."""
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    try:
        os.write(fd, data)
    finally:
        os.close(fd)
