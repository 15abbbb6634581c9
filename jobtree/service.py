"""What users write for something that runs beside their targets: a database, a server, a cluster of another kind.

    class Redis(Service):
        def start(self):
            self.process = self.startProcess(["redis-server", "--port", "0", ...])
            ...                                  # until it answers
            return "unix:/..."
        def check(self):
            return self.process.poll() is None
        def stop(self):
            self.process.terminate()

    def run(self):
        redis = self.addService(Redis())
        self.addChildTarget(Client(redis.rv()))

A service is a target whose run() is here: it starts, says that it is up, and goes on until nobody depends on it any
more. How the master holds back, and brings back, those that depend on it is in ``jobtree.services``.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Optional, Protocol, TypeVar, cast

from jobtree.errors import TargetError
from jobtree.processtree import die_with_parent
from jobtree.promise import Address, Promise
from jobtree.target import Memory, Resources, Target, surroundings_of

if TYPE_CHECKING:
    import subprocess  # which who starts no service need not wait for

V = TypeVar("V")
V_co = TypeVar("V_co", covariant=True)
T = TypeVar("T", bound=Target)

CHECK_SECONDS = 0.5
"""How often a service is asked whether it is well."""

CPU = 0.0005
MEMORY = "100M"
"""What a service gets that does not say: it mostly waits. On one machine so little of a core is nothing."""


class ServiceSurroundings(Protocol):
    """What a worker gives to a service besides (implemented in jobtree.attempt)."""

    def serve(self, target: Target, value: Any) -> None: ...

    def is_recalled_within(self, seconds: float) -> bool: ...

    def is_well(self) -> None: ...


class Starts(Protocol[V_co]):
    """Something whose start() returns a value of that type: a service, for type checkers."""

    def start(self) -> V_co: ...


class Service(Target):
    """Something that is up while the children of a target, and all that grows from them, are run.

    time, memory, cpu, gpus, resources: as of a target; not said: 100 MB and, on one machine, no core of its own,
    because most services mostly wait. A child must fit beside it.

    It may be started any number of times: it is started again when it, its machine or the master has died. Those who
    were running then are run again, with the new address. What it is to remember belongs into getGlobalTempDir(),
    which is the same each time.
    """

    _jobtree_is_service = True

    def __init__(
        self,
        time: Optional[float] = None,
        memory: Memory = MEMORY,
        cpu: Optional[float] = CPU,
        *,
        gpus: Optional[int] = None,
        resources: Resources = None,
    ) -> None:
        Target.__init__(self, time, memory, cpu, gpus=gpus, resources=resources)

    def startProcess(self, command: Sequence[str], **options: Any) -> subprocess.Popen[Any]:
        """Start a program, with what subprocess.Popen takes and returns; for start().

        On Linux the kernel kills it when the worker of this service dies. A server that writes over its environment to
        show a title, as Redis and PostgreSQL do, would not be found as what a killed run has left, and would go on
        beside the one that is started in its place.
        """
        worker = os.getpid()
        import subprocess

        return subprocess.Popen(command, preexec_fn=lambda: die_with_parent(worker), **options)

    def start(self) -> Any:
        """Start it, and return when it is up; override this. What it returns (an address) is what rv() promises."""
        raise NotImplementedError(f"{type(self).__qualname__} has no start()")

    def check(self) -> Optional[bool]:
        """Whether it is well; asked twice a second. False, or an exception, means that it is not. Override this.

        It must not take long: a target that fails is charged with that only when its services have been found well.
        """
        return True

    def stop(self) -> None:
        """Nobody depends on it any more, or it was found unwell: end it. Override this.

        The follow-on of the target that added it starts when this has returned. Not called when the service's worker
        is killed, or its machine dies.
        """

    def run(self) -> None:
        """Be up for as long as it is needed; not to be overridden."""
        around = cast(ServiceSurroundings, surroundings_of(self, "run"))
        address = self.start()
        try:
            around.serve(self, address)
            while not around.is_recalled_within(CHECK_SECONDS):
                if self.check() is False:
                    raise TargetError(f"{type(self).__qualname__}.check() says that the service is not well")
                around.is_well()
        finally:
            self.stop()

    def addChildTarget(self, target: T) -> T:
        """Refused: a service adds nothing to the tree."""
        raise self._adds_nothing("addChildTarget")

    def addService(self, service: T) -> T:
        """Refused: a service adds nothing to the tree."""
        raise self._adds_nothing("addService")

    def setFollowOnTarget(self, target: T) -> T:
        """Refused: a service adds nothing to the tree."""
        raise self._adds_nothing("setFollowOnTarget")

    def _adds_nothing(self, method: str) -> TargetError:
        return TargetError(
            f"{type(self).__qualname__}.{method}(): a service adds nothing to the tree; that is for the target that "
            "added the service."
        )

    def rv(self: Starts[V], *path: Any) -> Promise[V]:
        """A promise of what start() returned the last time; rv("key") or rv(0) of that item of it.

        Children may hand on what they were given to their own children, unchanged: if the service is started again,
        those are given the new one. So what start() returns, or the items of it that rv() picks, had better be strings,
        numbers or tuples; what can be changed, and what was made from an address, is handed on as it is.
        """
        return Address(*Target.rv(cast(Any, self), *path).__reduce__()[1])
