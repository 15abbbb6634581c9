"""The targets of a file of steps (``jobtree.steps``).

What a target of a step carries is the step itself and what stands below it, so a changed file takes effect on what has
not been stored yet, and a run that goes on keeps what it has.
"""

from __future__ import annotations

import contextlib
import importlib
import os
from collections.abc import Iterator
from typing import IO, Any, Optional

from jobtree import steps
from jobtree.errors import TargetError
from jobtree.steps import Node, Step
from jobtree.target import CommandTarget, Target

Waves = list[list["tuple[Step, Any]"]]
"""Waves of steps, each with the waves below it: plain data, because it is stored with a target."""


def make(path: str) -> Target:
    """The first target of a file of steps. Raises UsageError."""
    return Stage(_plain(steps.plan(steps.read(path))))


def _plain(node: Node) -> Waves:
    return [[(child.step, _plain(child)) for child in wave if child.step is not None] for wave in node.waves]


class Stage(Target):
    """Starts one wave of steps, and when all of it is done the next one."""

    def __init__(self, waves: Waves) -> None:
        Target.__init__(self, memory="64M")
        self.waves = waves

    def run(self) -> None:
        """Add the first wave's steps, and the rest as a follow-on."""
        _start(self, self.waves)


def _start(target: Target, waves: Waves) -> None:
    if waves:
        for step, below in waves[0]:
            target.addChildTarget(_target_of(step, below))
    if len(waves) > 1:
        target.setFollowOnTarget(Stage(waves[1:]))


def _target_of(step: Step, below: Waves) -> Target:
    return CommandStep(step, below) if step.command is not None else CallStep(step, below)


class CommandStep(CommandTarget):
    """A step that is a command line."""

    def __init__(self, step: Step, below: Waves) -> None:
        assert step.command is not None
        CommandTarget.__init__(
            self, step.command, step.time, step.memory, step.cpu, gpus=step.gpus, resources=step.resources
        )
        self.step = step
        self.below = below

    def run(self) -> None:
        """Run the command between the checks of its files."""
        with _files_of(self.step), _log(self.step.log) as output:
            self._jobtree_call(output)
        _start(self, self.below)


class CallStep(Target):
    """A step that is a function."""

    def __init__(self, step: Step, below: Waves) -> None:
        Target.__init__(self, step.time, step.memory, step.cpu, gpus=step.gpus, resources=step.resources)
        self.step = step
        self.below = below

    def run(self) -> Any:
        """Call the function between the checks of its files."""
        assert self.step.call is not None
        module, _, name = self.step.call.partition(":")
        with _files_of(self.step), _log(self.step.log) as output:
            function: Any = importlib.import_module(module)
            for part in name.split("."):
                function = getattr(function, part)
            with contextlib.redirect_stdout(output) if output is not None else contextlib.nullcontext():
                result = function(**self.step.arguments)
        _start(self, self.below)
        return result


@contextlib.contextmanager
def _files_of(step: Step) -> Iterator[None]:
    """Inputs must be there before, and outputs afterwards."""
    missing = [path for path in step.inputs if not os.path.exists(path)]
    if missing:
        raise TargetError(
            f"step {step.name!r} needs {missing[0]!r} in {os.getcwd()}, which is not there. Is it the output of a step?"
        )
    for path in filter(None, (os.path.dirname(output) for output in (*step.outputs, step.log or ""))):
        os.makedirs(path, exist_ok=True)
    yield
    missing = [path for path in step.outputs if not os.path.exists(path)]
    if missing:
        raise TargetError(f"step {step.name!r} has ended well and {missing[0]!r} is not in {os.getcwd()}.")


@contextlib.contextmanager
def _log(path: Optional[str]) -> Iterator[Optional[IO[str]]]:
    """The file for a step's output; a new one at every try."""
    if path is None:
        yield None
        return
    with open(path, "w", encoding="utf-8") as file:
        yield file
