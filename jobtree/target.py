"""What users write: a subclass of ``Target`` with a ``run()`` method.

A target only *records* what it wants: children and a follow-on are kept on the object until ``run()`` has returned,
and the worker then writes them down in one piece. So a ``run()`` that fails half-way has added nothing.

Everything that the base class keeps is mangled (``_Target__...``): pipelines put names like ``options``, ``memory``,
``children`` or ``output`` on their targets, as attributes and as methods, and must never meet ours.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping, Sequence
from typing import Any, Callable, Optional, Protocol, TypeVar, Union

from jobtree.errors import FollowOnExists, NotRunning, TargetError, TargetNotInitialised
from jobtree.promise import Promise
from jobtree.quantities import is_unspecified, parse_memory

T = TypeVar("T", bound="Target")
Memory = Union[int, float, str, None]

_legacy_function_resources = False


class Surroundings(Protocol):
    """What a worker gives to a target while it runs (implemented in jobtree.worker)."""

    memory: int
    cpu: float

    def local_temp_dir(self) -> str: ...

    def global_temp_dir(self) -> str: ...

    def log_to_master(self, message: str) -> None: ...


class Target:
    """A piece of work that may add more work.

    time: how long it is expected to run, in seconds; lets short targets share a worker from the start.
    memory: bytes, or text such as "2G" or "500 MiB"; not said: --defaultMemory.
    cpu: cores, 0.5 is fine; not said: --defaultCpu.

    >>> class Count(Target):
    ...     def __init__(self, path):
    ...         Target.__init__(self, memory="100M")
    ...         self.path = path
    ...     def run(self):
    ...         return sum(1 for _ in open(self.path))

    Raises ValueError when one of the three makes no sense.
    """

    def __init__(
        self, time: Optional[float] = None, memory: Memory = None, cpu: Optional[float] = None
    ) -> None:
        self.__time = None if is_unspecified(time) else _number("time", time)
        self.__memory = None if is_unspecified(memory) else parse_memory(memory)
        self.__cpu = None if is_unspecified(cpu) else _number("cpu", cpu)
        if "_Target__children" not in self.__dict__:
            # Calling __init__ twice on one object happens in the field; it must not lose what was added between.
            self.__children: list[Target] = []
            self.__follow_on: Optional[Target] = None
            self.__token: Optional[bytes] = None
            self.__surroundings: Optional[Surroundings] = None

    def run(self) -> Any:
        """Do the work; override this. What it returns is what ``rv()`` promises.

        It may be run any number of times, so it must not alter or remove its own input.
        """

    # -- more work ---------------------------------------------------------------------------------------------

    def addChildTarget(self, target: T) -> T:
        """Add a child, which starts after this run() has ended. Any number may be added. Returns the child."""
        check_target(target, "addChildTarget")
        self.__children.append(target)
        return target

    def setFollowOnTarget(self, target: T) -> T:
        """Set the follow-on: it starts when all children, and all that they led to, are done. Returns it.

        Raises FollowOnExists if there is one already: a follow-on can have a follow-on of its own.
        """
        check_target(target, "setFollowOnTarget")
        if self.__follow_on is not None:
            raise FollowOnExists(
                f"{describe(self)} has the follow-on {describe(self.__follow_on)} and was given another one, "
                f"{describe(target)}. A target has at most one; give the first one a follow-on of its own."
            )
        self.__follow_on = target
        return target

    def addChildFn(
        self,
        fn: Callable[..., Any],
        args: Sequence[Any] = (),
        kwargs: Optional[Mapping[str, Any]] = None,
        time: Optional[float] = None,
        memory: Memory = None,
        cpu: Optional[float] = None,
    ) -> Target:
        """Add ``fn(*args, **kwargs)`` as a child. Returns the target, whose ``rv()`` is what fn returns."""
        return self.addChildTarget(FunctionTarget(fn, args, kwargs, time, memory, cpu, False))

    def addChildTargetFn(
        self,
        fn: Callable[..., Any],
        args: Sequence[Any] = (),
        kwargs: Optional[Mapping[str, Any]] = None,
        time: Optional[float] = None,
        memory: Memory = None,
        cpu: Optional[float] = None,
    ) -> Target:
        """Add ``fn(target, *args, **kwargs)`` as a child; the function gets the target as its first argument."""
        return self.addChildTarget(FunctionTarget(fn, args, kwargs, time, memory, cpu, True))

    def setFollowOnFn(
        self,
        fn: Callable[..., Any],
        args: Sequence[Any] = (),
        kwargs: Optional[Mapping[str, Any]] = None,
        time: Optional[float] = None,
        memory: Memory = None,
        cpu: Optional[float] = None,
    ) -> Target:
        """Set ``fn(*args, **kwargs)`` as the follow-on. Returns the target."""
        return self.setFollowOnTarget(FunctionTarget(fn, args, kwargs, time, memory, cpu, False))

    def setFollowOnTargetFn(
        self,
        fn: Callable[..., Any],
        args: Sequence[Any] = (),
        kwargs: Optional[Mapping[str, Any]] = None,
        time: Optional[float] = None,
        memory: Memory = None,
        cpu: Optional[float] = None,
    ) -> Target:
        """Set ``fn(target, *args, **kwargs)`` as the follow-on. Returns the target."""
        return self.setFollowOnTarget(FunctionTarget(fn, args, kwargs, time, memory, cpu, True))

    def addChildCommand(
        self, command: str, time: Optional[float] = None, memory: Memory = None, cpu: Optional[float] = None
    ) -> Target:
        """Add a command line for /bin/sh as a child. It fails when the command's exit status is not 0."""
        return self.addChildTarget(CommandTarget(command, time, memory, cpu))

    @staticmethod
    def makeTargetFn(
        fn: Callable[..., Any],
        args: Sequence[Any] = (),
        kwargs: Optional[Mapping[str, Any]] = None,
        time: Optional[float] = None,
        memory: Memory = None,
        cpu: Optional[float] = None,
    ) -> Target:
        """A target that runs ``fn(target, *args, **kwargs)``, for Stack() or addChildTarget()."""
        return FunctionTarget(fn, args, kwargs, time, memory, cpu, True)

    # -- values ------------------------------------------------------------------------------------------------

    def rv(self, *path: Any) -> Promise[Any]:
        """A promise of what this target's run() returns; rv("key") or rv(0) of that item of it."""
        if self.__token is None:
            self.__token = os.urandom(12)
        return Promise(self.__token, path, describe(self))

    # -- while it runs -----------------------------------------------------------------------------------------

    def getLocalTempDir(self) -> str:
        """A directory on this machine: empty when the target starts, removed when it has ended, however it ends."""
        return self.__running("getLocalTempDir").local_temp_dir()

    def getGlobalTempDir(self) -> str:
        """The chain's directory: the same for a founder and its follow-ons, readable by everything below.

        It goes when the last follow-on and all that it led to are done. What is in it when run() returns is made
        durable before the target counts as done (--durable).
        """
        return self.__running("getGlobalTempDir").global_temp_dir()

    def logToMaster(self, message: object) -> None:
        """Have the master write a line to its log, once, also if this target fails later."""
        self.__running("logToMaster").log_to_master(str(message))

    def getMemory(self) -> Optional[int]:
        """Bytes of memory that this target may use; before it runs: what was asked for, or None."""
        return self.__surroundings.memory if self.__surroundings is not None else self.__memory

    def getCpu(self) -> Optional[float]:
        """Cores that this target may use; before it runs: what was asked for, or None."""
        return self.__surroundings.cpu if self.__surroundings is not None else self.__cpu

    def getRunTime(self) -> Optional[float]:
        """Seconds that this target said it would take, or None."""
        return self.__time

    def getFollowOn(self) -> Optional[Target]:
        """The follow-on that has been set, or None."""
        return self.__follow_on

    def __running(self, method: str) -> Surroundings:
        if "_Target__surroundings" not in self.__dict__:
            raise TargetNotInitialised(_forgot(self, method))
        if self.__surroundings is None:
            raise NotRunning(
                f"{describe(self)}.{method}() works only while its run() is running, in a worker."
            )
        return self.__surroundings


class FunctionTarget(Target):
    """A target that calls a function."""

    def __init__(
        self,
        fn: Callable[..., Any],
        args: Sequence[Any],
        kwargs: Optional[Mapping[str, Any]],
        time: Optional[float],
        memory: Memory,
        cpu: Optional[float],
        pass_target: bool,
    ) -> None:
        if not callable(fn):
            raise TargetError(
                f"a function is expected and {fn!r} was given. Pass the function, not its result."
            )
        if isinstance(args, (str, bytes)):
            raise TargetError(f"args of {_function_name(fn)} is the text {args!r}; write args=({args!r},).")
        if _legacy_function_resources and not (is_unspecified(memory) and is_unspecified(cpu)):
            _warn_of_legacy_resources()
            memory = cpu = None
        Target.__init__(self, time, memory, cpu)
        self.__fn = fn
        self.__args = tuple(args)
        self.__kwargs = dict(kwargs or {})
        self.__pass_target = pass_target

    def run(self) -> Any:
        """Call the function."""
        first = (self,) if self.__pass_target else ()
        return self.__fn(*first, *self.__args, **self.__kwargs)


class CommandTarget(Target):
    """A target that runs a command line with /bin/sh; the only place where a text of the user's goes to a shell."""

    def __init__(
        self, command: str, time: Optional[float] = None, memory: Memory = None, cpu: Optional[float] = None
    ) -> None:
        if not str(command).strip():
            raise TargetError(f"a command line is expected and {command!r} was given.")
        Target.__init__(self, time, memory, cpu)
        self.__command = str(command)

    def run(self) -> None:
        """Run the command; TargetError with its exit status or signal if it does not end with 0."""
        import subprocess  # only commands need it, and it doubles the start-up time of a worker

        status = subprocess.call(self.__command, shell=True)  # the one shell: the user asked for it
        if status:
            how = f"exit status {status}" if status > 0 else f"signal {-status}"
            raise TargetError(f"the command ended with {how}: {self.__command}")


class Recorded:
    """What a target has recorded, for the code that stores it; users have no need of it."""

    __slots__ = ("children", "follow_on", "token", "time", "memory", "cpu")

    def __init__(self, target: Target) -> None:
        state = target.__dict__
        self.children: list[Target] = state["_Target__children"]
        self.follow_on: Optional[Target] = state["_Target__follow_on"]
        self.token: Optional[bytes] = state["_Target__token"]
        self.time: Optional[float] = state["_Target__time"]
        self.memory: Optional[int] = state["_Target__memory"]
        self.cpu: Optional[float] = state["_Target__cpu"]


def set_surroundings(target: Target, surroundings: Optional[Surroundings]) -> None:
    """Give a target the worker's services for the time of its run()."""
    target.__dict__["_Target__surroundings"] = surroundings


def check_target(target: object, method: str) -> None:
    """Raise TargetError unless this is an instance of Target whose __init__ was called."""
    if not isinstance(target, Target):
        hint = ""
        if isinstance(target, type) and issubclass(target, Target):
            hint = f" Write {target.__name__}(...), with brackets."
        elif callable(target):
            hint = " For a function there are addChildFn, setFollowOnFn and makeTargetFn."
        raise TargetError(f"{method}() takes an instance of Target and was given {target!r}.{hint}")
    if "_Target__children" not in target.__dict__:
        raise TargetNotInitialised(_forgot(target, method))


def class_name(target: Target) -> str:
    """The name under which a target is counted: its class, its function, or its command's first word."""
    state = target.__dict__
    if "_FunctionTarget__fn" in state:
        return _function_name(state["_FunctionTarget__fn"])
    if "_CommandTarget__command" in state:
        command: str = state["_CommandTarget__command"]
        return "command " + os.path.basename(command.split()[0])
    cls = type(target)
    return f"{cls.__module__}.{cls.__qualname__}"


def describe(target: Target) -> str:
    """The same for people: without the module."""
    name = class_name(target)
    return name if name.startswith("command ") else name.rpartition(".")[2]


def use_legacy_function_resources() -> None:
    """Ignore memory= and cpu= of the function forms, as the original did (see jobTree.py)."""
    global _legacy_function_resources
    _legacy_function_resources = True


def _warn_of_legacy_resources() -> None:
    warnings.warn(
        "memory= and cpu= of the function forms (addChildTargetFn, makeTargetFn ...) are ignored, as the original "
        "jobTree did, because this script imports it by its old name; import from jobtree to have them honoured",
        stacklevel=4,
    )


def _function_name(fn: Callable[..., Any]) -> str:
    name = getattr(fn, "__qualname__", type(fn).__qualname__)
    return f"{getattr(fn, '__module__', None) or 'builtins'}.{name}"


def _forgot(target: Target, method: str) -> str:
    name = type(target).__qualname__
    return (
        f"{method}() found that {name}.__init__ did not call Target.__init__. Add "
        f"Target.__init__(self) as its first line (with time=, memory=, cpu= if it needs them)."
    )


def _number(name: str, value: object) -> float:
    try:
        number = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        number = -1.0
    if not 0 <= number < float("inf"):
        raise ValueError(
            f"{name}={value!r}: a number of {'seconds' if name == 'time' else 'cores'} is expected"
        )
    return number


__all__: tuple[str, ...] = ("CommandTarget", "FunctionTarget", "Target")
