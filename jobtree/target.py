"""What users write: a subclass of ``Target`` with a ``run()`` method.

A target only *records* what it wants: children and a follow-on are kept on the object until ``run()`` has returned,
and the worker then writes them down in one piece. So a ``run()`` that fails half-way has added nothing.

What the base class keeps is in the instance's dictionary under names that begin with ``_jobtree``: pipelines put names
like ``options``, ``memory``, ``children`` or ``output`` on their targets, as attributes and as methods, some call their
own base class ``Target``, and must never meet ours. ``_jobtree`` itself (time, memory, cpu) is always there once
``Target.__init__`` was called; the others only when there is something to keep, because most targets are leaves, and
each name costs space in every stored target. All are written past ``__setattr__``, which a frozen dataclass refuses.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import IO, Any, Callable, Generic, Optional, Protocol, TypeVar, Union, overload

from jobtree import calls, countable, legacy, storing
from jobtree.errors import FollowOnExists, NotRunning, TargetError, TargetNotInitialised
from jobtree.promise import Promise, new_token
from jobtree.quantities import is_unspecified, parse_memory

T = TypeVar("T", bound="Target")
V = TypeVar("V")
V_co = TypeVar("V_co", covariant=True)
Memory = Union[int, float, str, None]
Resources = Optional[Mapping[str, int]]


class Returns(Protocol[V_co]):
    """Something whose run() returns a value of that type: a target, for type checkers."""

    def run(self) -> V_co: ...


class Surroundings(Protocol):
    """What a worker gives to a target while it runs (implemented in jobtree.worker)."""

    memory: int
    cpu: float

    def local_temp_dir(self) -> str: ...

    def global_temp_dir(self) -> str: ...

    def log_to_master(self, message: str) -> None: ...

    def report_progress(self, fraction: Optional[float], words: str) -> None: ...


class Target:
    """A piece of work that may add more work.

    time: how long it is expected to run, in seconds; lets short targets share a worker from the start.
    memory: bytes, or text such as "2G" or "500 MiB"; not said: --defaultMemory.
    cpu: cores, 0.5 is fine; not said: --defaultCpu.
    gpus: whole graphics cards; while it runs it sees these and no others.
    resources: other countable things that it reserves, {"licence": 1}; how many there are says --limit licence=4.

    >>> class Count(Target):
    ...     def __init__(self, path):
    ...         Target.__init__(self, memory="100M")
    ...         self.path = path
    ...     def run(self):
    ...         return sum(1 for _ in open(self.path))

    Raises ValueError when one of them makes no sense.
    """

    def __init__(
        self,
        time: Optional[float] = None,
        memory: Memory = None,
        cpu: Optional[float] = None,
        *,
        gpus: Optional[int] = None,
        resources: Resources = None,
    ) -> None:
        requests: tuple[Any, ...] = (
            None if is_unspecified(time) else _number("time", time),
            None if is_unspecified(memory) else parse_memory(memory),
            None if is_unspecified(cpu) else _number("cpu", cpu),
        )
        if gpus is not None or resources:
            requests += (countable.request(gpus, resources),)  # few ask, and each stored target pays for it
        # Calling __init__ twice on one object happens in the field; what was added between stays.
        self.__dict__["_jobtree"] = requests
        cls = type(self)
        if storing.has_own_getstate(cls):
            storing.store_ours_too(cls)  # dataclass(slots=True) adds it when the class is there already

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        storing.store_ours_too(cls)

    def run(self) -> Any:
        """Do the work; override this. What it returns is what ``rv()`` promises.

        It may be run any number of times, so it must not alter or remove its own input.
        """

    # -- more work ---------------------------------------------------------------------------------------------

    def addChildTarget(self, target: T) -> T:
        """Add a child, which starts after this run() has ended. Any number may be added. Returns the child."""
        check_target(target, "addChildTarget")
        state = _state_of(self, "addChildTarget")
        children = state.get("_jobtree_children")
        if children is None:
            children = state["_jobtree_children"] = []
        children.append(target)
        return target

    def addService(self, service: T) -> T:
        """Add a service: it is up before the first child starts, until the last child and all below are done.

        service: an object of a subclass of jobtree.Service, whose rv() promises what its start() returns; that is for
        children, and what grows from them, not for the follow-on. Without a child it is not started. Returns it.
        """
        state = _state_of(self, "addService")
        if not is_service(service):
            raise TargetError(
                f"addService() takes an instance of jobtree.Service and was given {service!r}. What has a run() of its "
                "own is a child: addChildTarget()."
            )
        _state_of(service, "addService")
        state.setdefault("_jobtree_services", []).append(service)
        return service

    def setFollowOnTarget(self, target: T) -> T:
        """Set the follow-on: it starts when all children, and all that they led to, are done. Returns it.

        Raises FollowOnExists if there is one already: a follow-on can have a follow-on of its own.
        """
        check_target(target, "setFollowOnTarget")
        state = _state_of(self, "setFollowOnTarget")
        present = state.get("_jobtree_follow_on")
        if present is not None:
            raise FollowOnExists(
                f"{describe(self)} has the follow-on {describe(present)} and was given another one, "
                f"{describe(target)}. A target has at most one; give the first one a follow-on of its own."
            )
        state["_jobtree_follow_on"] = target
        return target

    def addChildFn(
        self,
        fn: Callable[..., V],
        args: Sequence[Any] = (),
        kwargs: Optional[Mapping[str, Any]] = None,
        time: Optional[float] = None,
        memory: Memory = None,
        cpu: Optional[float] = None,
        *,
        gpus: Optional[int] = None,
        resources: Resources = None,
    ) -> FunctionTarget[V]:
        """Add ``fn(*args, **kwargs)`` as a child. Returns the target, whose ``rv()`` is what fn returns."""
        return self.addChildTarget(
            FunctionTarget(fn, args, kwargs, time, memory, cpu, False, gpus, resources)
        )

    def addChildTargetFn(
        self,
        fn: Callable[..., V],
        args: Sequence[Any] = (),
        kwargs: Optional[Mapping[str, Any]] = None,
        time: Optional[float] = None,
        memory: Memory = None,
        cpu: Optional[float] = None,
        *,
        gpus: Optional[int] = None,
        resources: Resources = None,
    ) -> FunctionTarget[V]:
        """Add ``fn(target, *args, **kwargs)`` as a child; the function gets the target as its first argument."""
        return self.addChildTarget(FunctionTarget(fn, args, kwargs, time, memory, cpu, True, gpus, resources))

    def setFollowOnFn(
        self,
        fn: Callable[..., V],
        args: Sequence[Any] = (),
        kwargs: Optional[Mapping[str, Any]] = None,
        time: Optional[float] = None,
        memory: Memory = None,
        cpu: Optional[float] = None,
        *,
        gpus: Optional[int] = None,
        resources: Resources = None,
    ) -> FunctionTarget[V]:
        """Set ``fn(*args, **kwargs)`` as the follow-on. Returns the target."""
        return self.setFollowOnTarget(
            FunctionTarget(fn, args, kwargs, time, memory, cpu, False, gpus, resources)
        )

    def setFollowOnTargetFn(
        self,
        fn: Callable[..., V],
        args: Sequence[Any] = (),
        kwargs: Optional[Mapping[str, Any]] = None,
        time: Optional[float] = None,
        memory: Memory = None,
        cpu: Optional[float] = None,
        *,
        gpus: Optional[int] = None,
        resources: Resources = None,
    ) -> FunctionTarget[V]:
        """Set ``fn(target, *args, **kwargs)`` as the follow-on. Returns the target."""
        return self.setFollowOnTarget(
            FunctionTarget(fn, args, kwargs, time, memory, cpu, True, gpus, resources)
        )

    def addChildCommand(
        self,
        command: str,
        time: Optional[float] = None,
        memory: Memory = None,
        cpu: Optional[float] = None,
        *,
        gpus: Optional[int] = None,
        resources: Resources = None,
    ) -> Target:
        """Add a command line for /bin/sh as a child. It fails when the command's exit status is not 0."""
        return self.addChildTarget(CommandTarget(command, time, memory, cpu, gpus, resources))

    @staticmethod
    def makeTargetFn(
        fn: Callable[..., V],
        args: Sequence[Any] = (),
        kwargs: Optional[Mapping[str, Any]] = None,
        time: Optional[float] = None,
        memory: Memory = None,
        cpu: Optional[float] = None,
        *,
        gpus: Optional[int] = None,
        resources: Resources = None,
    ) -> FunctionTarget[V]:
        """A target that runs ``fn(target, *args, **kwargs)``, for Stack() or addChildTarget()."""
        return FunctionTarget(fn, args, kwargs, time, memory, cpu, True, gpus, resources)

    # -- values ------------------------------------------------------------------------------------------------

    @overload
    def rv(self: Returns[Promise[V]]) -> Promise[V]: ...

    @overload
    def rv(self: Returns[V]) -> Promise[V]: ...

    @overload
    def rv(self, *path: Any) -> Promise[Any]: ...

    def rv(self: Any, *path: Any) -> Promise[Any]:
        """A promise of what this target's run() returns; rv("key") or rv(0) of that item of it."""
        state = _state_of(self, "rv")
        token = state.get("_jobtree_token")
        if token is None:
            token = state["_jobtree_token"] = new_token()
        return Promise(token, path, describe(self))

    # -- while it runs -----------------------------------------------------------------------------------------

    def getLocalTempDir(self) -> str:
        """A directory on this machine: empty when the target starts, removed when it has ended, however it ends."""
        return surroundings_of(self, "getLocalTempDir").local_temp_dir()

    def getGlobalTempDir(self) -> str:
        """The chain's directory: the same for a founder and its follow-ons, readable by everything below.

        It goes when the last follow-on and all that it led to are done. What is in it when run() returns is made
        durable before the target counts as done (--durable).
        """
        return surroundings_of(self, "getGlobalTempDir").global_temp_dir()

    def logToMaster(self, message: object) -> None:
        """Have the master write a line to its log, once, also if this target fails later."""
        surroundings_of(self, "logToMaster").log_to_master(str(message))

    def reportProgress(self, fraction: Optional[float], words: object = "") -> None:
        """Tell how far this run() is, from 0 to 1 (None: not known), and what it is at.

        jobTreeStatus --running shows it. Call it as often as you like: some is left out of what comes too fast to read.
        """
        surroundings_of(self, "reportProgress").report_progress(fraction, str(words))

    def getMemory(self) -> Optional[int]:
        """Bytes of memory that this target may use; before it runs: what was asked for, or None."""
        state = _state_of(self, "getMemory")
        around: Optional[Surroundings] = state.get("_jobtree_surroundings")
        asked: Optional[int] = state["_jobtree"][1]
        return asked if around is None else around.memory

    def getCpu(self) -> Optional[float]:
        """Cores that this target may use; before it runs: what was asked for, or None."""
        state = _state_of(self, "getCpu")
        around: Optional[Surroundings] = state.get("_jobtree_surroundings")
        asked: Optional[float] = state["_jobtree"][2]
        return asked if around is None else around.cpu

    def getRunTime(self) -> Optional[float]:
        """Seconds that this target said it would take, or None."""
        said: Optional[float] = _state_of(self, "getRunTime")["_jobtree"][0]
        return said

    def getFollowOn(self) -> Optional[Target]:
        """The follow-on that has been set, or None."""
        following: Optional[Target] = _state_of(self, "getFollowOn").get("_jobtree_follow_on")
        return following


# -- functions and commands ----------------------------------------------------------------------------------------


class FunctionTarget(Target, Generic[V]):
    """A target that calls a function."""

    def __init__(
        self,
        fn: Callable[..., V],
        args: Sequence[Any],
        kwargs: Optional[Mapping[str, Any]],
        time: Optional[float],
        memory: Memory,
        cpu: Optional[float],
        pass_target: bool,
        gpus: Optional[int] = None,
        resources: Resources = None,
    ) -> None:
        if not callable(fn):
            raise TargetError(
                f"a function is expected and {fn!r} was given. Pass the function, not its result."
            )
        if isinstance(args, (str, bytes)):
            raise TargetError(f"args of {_function_name(fn)} is the text {args!r}; write args=({args!r},).")
        if not (is_unspecified(memory) and is_unspecified(cpu)) and legacy.ignores_function_resources():
            memory = cpu = None
        calls.check(_function_name(fn), fn, args, kwargs, pass_target)
        Target.__init__(self, time, memory, cpu, gpus=gpus, resources=resources)
        self._jobtree_fn = fn
        self._jobtree_args = tuple(args)
        self._jobtree_kwargs = dict(kwargs or {})
        self._jobtree_pass_target = pass_target

    def run(self) -> V:
        """Call the function."""
        first = (self,) if self._jobtree_pass_target else ()
        return self._jobtree_fn(*first, *self._jobtree_args, **self._jobtree_kwargs)


class CommandTarget(Target):
    """A target that runs a command line with /bin/sh; the only place where a text of the user's goes to a shell."""

    def __init__(
        self,
        command: str,
        time: Optional[float] = None,
        memory: Memory = None,
        cpu: Optional[float] = None,
        gpus: Optional[int] = None,
        resources: Resources = None,
    ) -> None:
        given: object = command  # None, a list and a Path happen, whatever the annotation says
        if not isinstance(given, str) or not given.strip():
            raise TargetError(f"a command line, as text, is expected and {given!r} was given.")
        Target.__init__(self, time, memory, cpu, gpus=gpus, resources=resources)
        self._jobtree_command = command

    def run(self) -> None:
        """Run the command; TargetError with its exit status or signal if it does not end with 0."""
        self._jobtree_call()

    def _jobtree_call(self, output: Optional[IO[str]] = None) -> None:
        import subprocess  # only commands need it, and it doubles the start-up time of a worker

        errors = None if output is None else subprocess.STDOUT
        # The one shell: the user asked for it.
        status = subprocess.call(self._jobtree_command, shell=True, stdout=output, stderr=errors)
        if status:
            how = f"exit status {status}" if status > 0 else f"signal {-status}"
            raise TargetError(f"the command ended with {how}: {self._jobtree_command}")


def _state_of(target: Target, method: str) -> dict[str, Any]:
    """Where a target keeps what is ours. Raises TargetNotInitialised if the base class's __init__ was not called."""
    state = target.__dict__
    if "_jobtree" not in state:
        raise TargetNotInitialised(_forgot(target, method))
    return state


def surroundings_of(target: Target, method: str) -> Surroundings:
    around: Optional[Surroundings] = _state_of(target, method).get("_jobtree_surroundings")
    if around is None:
        raise NotRunning(f"{describe(target)}.{method}() works only while its run() is running, in a worker.")
    return around


# -- names and messages ----------------------------------------------------------------------------------------


def check_target(target: object, method: str) -> None:
    """Raise TargetError unless this is an instance of Target whose __init__ was called."""
    if is_service(target) and method != "run":
        raise TargetError(
            f"{method}() was given the service {type(target).__qualname__}; services are for addService()."
        )
    if not isinstance(target, Target):
        hint = ""
        if isinstance(target, type) and issubclass(target, Target):
            hint = f" Write {target.__name__}(...), with brackets."
        elif callable(target):
            hint = " For a function there are addChildFn, setFollowOnFn and makeTargetFn."
        raise TargetError(f"{method}() takes an instance of Target and was given {target!r}.{hint}")
    _state_of(target, method)


def is_service(target: object) -> bool:
    """Whether it is an object of jobtree.Service."""
    return isinstance(target, Target) and getattr(type(target), "_jobtree_is_service", False)


def class_name(target: Target) -> str:
    """The name under which a target is counted: its class, its function, or its command's first word."""
    state = target.__dict__
    if "_jobtree_fn" in state:
        return _function_name(state["_jobtree_fn"])
    if "_jobtree_command" in state:
        command: str = state["_jobtree_command"]
        return "command " + os.path.basename(command.split()[0])
    cls = type(target)
    return f"{cls.__module__}.{cls.__qualname__}"


def describe(target: Target) -> str:
    """The same for people: without the module."""
    name = class_name(target)
    return name if name.startswith("command ") else name.rpartition(".")[2]


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
