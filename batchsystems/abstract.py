"""What every batch system takes, gives and promises; values and one interface, no I/O.

The docstring of `AbstractBatchSystem` is the contract. Each of its clauses is at least one test in
`tests/conformance/batch_system.py`, which runs against every backend.
"""

from __future__ import annotations

import enum
import math
import re
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Callable, ClassVar, Optional

# What all schedulers take as a job name, and what is safe as a file name and in a space-separated listing.
_NAME = re.compile(r"[A-Za-z0-9_-]+(?:\.[A-Za-z0-9_-]+)+")


class BatchSystemError(Exception):
    """The batch system could not do what it was asked; the message says what, and what to do about it."""


class NeverFits(BatchSystemError):
    """A request is larger than the largest that the batch system can ever run.

    `resource` is "cores", "memory" or the name of a countable thing; `asked` and `available` are in cores, bytes or
    pieces.
    """

    def __init__(self, name: str, resource: str, asked: float, available: float) -> None:
        # The plain arguments go to Exception, so that the error survives pickling; the text is made when asked for.
        super().__init__(name, resource, asked, available)
        self.name = name
        self.resource = resource
        self.asked = asked
        self.available = available

    def __str__(self) -> str:
        if self.resource == "memory":
            asked, available = human_bytes(self.asked), human_bytes(self.available)
            if asked == available:  # too close to differ when rounded
                asked, available = f"{self.asked:.0f} bytes", f"{self.available:.0f} bytes"
            asked += " of memory"
        else:
            asked, available = f"{self.asked:.10g} {self.resource}", f"{self.available:.10g}"
        return (
            f"{self.name} asks for {asked}, but at most {available} can be had here: it would wait for ever. "
            f"Ask for less, or use a batch system with larger machines."
        )


def human_bytes(size: float) -> str:
    """`size` bytes as a person would write it: "512 bytes", "1.5 GiB" (powers of 1024, two decimals at most)."""
    if size < 1024:
        return f"{size:.0f} bytes"
    power = 1 if size < 1024**2 else 2 if size < 1024**3 else 3 if size < 1024**4 else 4
    unit = ("KiB", "MiB", "GiB", "TiB")[power - 1]
    return f"{size / 1024**power:.2f}".rstrip("0").rstrip(".") + f" {unit}"


@dataclass(frozen=True)
class Resources:
    """What one submission needs: `cpu` cores (fractions allowed), `memory` in bytes, `time` in seconds.

    `cpu=0` and `memory=0` take nothing away from others; `time=None` says nothing about how long it runs. `countable`
    has how many of other things it reserves, by name: {"gpus": 1, "licence": 2}.
    Raises ValueError for negative or not finite values.
    """

    cpu: float = 1.0
    memory: int = 0
    time: Optional[float] = None
    countable: Mapping[str, int] = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        if not 0 <= self.cpu < math.inf:
            raise ValueError(f"cpu is {self.cpu!r}; expected a number of cores, 0 or more")
        if not 0 <= self.memory < math.inf:
            raise ValueError(f"memory is {self.memory!r}; expected a number of bytes, 0 or more")
        if self.time is not None and not 0 < self.time < math.inf:
            raise ValueError(f"time is {self.time!r}; expected seconds, more than 0, or None")
        if any(number < 0 for number in self.countable.values()):
            raise ValueError(f"countable is {dict(self.countable)!r}; expected numbers, 0 or more")


@dataclass(frozen=True)
class Capacity:
    """The largest single request that can ever run: `cpu` in cores, `memory` in bytes.

    `countable` has what the batch system counts by itself (`AbstractBatchSystem.counts`), by name.
    """

    cpu: float
    memory: int
    countable: Mapping[str, int] = field(default_factory=dict, hash=False)


@dataclass(frozen=True)
class Submission:
    """One command to run.

    `name`      RUN.BUNDLE; letters, digits, `_`, `-` and at least one `.`
    `command`   the argument list; never seen by a shell
    `resources` what is kept free for it
    `log`       a file to which its standard output and error are appended; None: they go to nobody
    `cwd`       its working directory; None: the caller's
    `env`       its whole environment; None: the caller's

    Raises ValueError for a name of another form or an empty command.
    """

    name: str
    command: tuple[str, ...]
    resources: Resources = Resources()
    log: Optional[str] = None
    cwd: Optional[str] = None
    env: Optional[Mapping[str, str]] = field(default=None, hash=False)

    def __post_init__(self) -> None:
        if _NAME.fullmatch(self.name) is None:
            raise ValueError(
                f"{self.name!r} cannot be the name of a submission; expected RUN.BUNDLE of letters, digits, '_' and '-'"
            )
        if not self.command:
            raise ValueError(f"the command of {self.name} is empty; expected at least a program to run")


class EndKind(enum.Enum):
    """How a job ended. There is no "maybe": a job whose end is not certain has not been reported."""

    FINISHED = "finished"  # the command returned an exit status
    KILLED = "killed"  # somebody or something ended it; `End.reason` says what
    LOST = "lost"  # it is certainly over (or never began), and nobody knows how; not its own fault


class Reason(enum.Enum):
    """Why a job was KILLED; claimed only on evidence, else it is SIGNAL."""

    MEMORY = "memory"  # it used more memory than it was allowed
    TIME = "time"  # it ran for longer than it was allowed
    SIGNAL = "signal"  # it died of a signal, its own or one sent by a stranger
    PREEMPTED = "preempted"  # the batch system took its place away for somebody else
    NODE = "node"  # its machine went down
    CANCELLED = "cancelled"  # `cancel` was called for it
    NEVER_FITS = "never fits"  # the batch system says that it will never start it; `End.detail` has its words


@dataclass(frozen=True)
class End:
    """How the job `name` ended.

    `status`      exit status; always there for FINISHED, there for KILLED if it still exited by itself
    `signal`      number of the signal it died of, if known
    `reason`      for KILLED only, and always then
    `peak_memory` largest resident set of any of its processes, in bytes; None: not measured
    `cpu_seconds` user and system time of its processes; None: not measured
    `detail`      words for a person: what the batch system said, why a command could not be started
    `host`        the machine that it ran on, as `avoid` would take it; "" if that is not known
    """

    name: str
    kind: EndKind
    status: Optional[int] = None
    signal: Optional[int] = None
    reason: Optional[Reason] = None
    peak_memory: Optional[int] = None
    cpu_seconds: Optional[float] = None
    detail: str = ""
    host: str = ""

    def __post_init__(self) -> None:
        if (self.kind is EndKind.KILLED) != (self.reason is not None):
            raise ValueError(
                f"the end of {self.name} is {self.kind.value} with reason {self.reason}; "
                f"expected a reason for a killed job and for no other"
            )
        if self.kind is EndKind.FINISHED and self.status is None:
            raise ValueError(f"the end of {self.name} is finished without an exit status")


@dataclass(frozen=True)
class BackendOption:
    """An option that a batch system adds to the command line; see `AbstractBatchSystem.OPTIONS`.

    `flag`     its spelling, "--slurmPartition": the batch system's name first, so that no two have the same
    `help`     what it is for, in a line or two; names the default
    `default`  its value when it is not given: None, a text, a number, True or False
    `convert`  makes the value of what was given (a text from a command line, perhaps a value already from a script or
               an earlier start, so what it has made it must take again); raises ValueError if that makes no sense.
               What it makes can be written as JSON.
    `expected` what the message for a ValueError says is expected
    `metavar`  what stands for the value in the help; "" makes it a switch, which takes none and is True or False
    """

    flag: str
    help: str
    default: Any = None
    convert: Callable[[Any], Any] = str
    expected: str = "a text"
    metavar: str = "TEXT"

    @property
    def name(self) -> str:
        """The name under which `Setup.options` has the value: the flag without its dashes."""
        return self.flag.lstrip("-")


@dataclass(frozen=True)
class Setup:
    """What a batch system is made with; see `AbstractBatchSystem.create`.

    `run`        the first part of the names of all submissions of this run; stays the same from start to start
    `directory`  a directory of its own, which is there, private, and the same at every start: for what a later
                 instance must know (a session, numbers of jobs). What is there may be out of date or gone.
    `options`    the values of `OPTIONS`, all of them, by name
    `max_cpu`    cores that all running jobs may have together; None: no limit
    `max_memory` bytes that all running jobs may have together; None: no limit
    """

    run: str
    directory: str
    options: Mapping[str, Any] = field(default_factory=dict, hash=False)
    max_cpu: Optional[float] = None
    max_memory: Optional[int] = None


class AbstractBatchSystem(ABC):
    """Runs commands with the resources they need, and tells how each ended.

    The contract. A "job" is what a submission has become.

    Threads
      1. All methods are called from one thread, which lives until `close`; only `wake` may be called from other
         threads and from signal handlers.

    Issue
      2. `issue` returns at once; it waits for no job.
      3. The caller chooses the names, RUN.BUNDLE, and uses each once. A name that is still queued or running, or
         comes twice in one call, is refused with `BatchSystemError`.
      4. A request that is larger than `capacity` is refused with `NeverFits`, which names what was asked and what
         there is. When `issue` raises one of these two, nothing of that call has been or will be started.
      5. Every argument arrives as it is: blanks, quotes, newlines, `;`, `$`, `*`, empty and non-ASCII ones. No
         shell sees it. Standard input is empty, and no other descriptor of the caller's is open.
      6. Environment and working directory are as asked, or the caller's. Output and error are appended to `log`.
      7. A command that cannot be run because of what it is (not found, not executable, no such directory to work
         in) is no error of `issue`: it ends as FINISHED with status 127 (not found) or 126, and `detail` says why.
         If it was the machine that could not (no memory, no descriptors, log not writable), it ends as LOST.

    Ends
      8. An exit status is reported as FINISHED with its value, death by a signal as KILLED with its number and,
         where nothing better is known, reason SIGNAL.
      9. Each job is reported exactly once, however many there are. Nothing is reported that was not issued (by
         this instance or, where jobs outlive the master, by an earlier one).
     10. A job is its whole process group. When its command has ended, what is left of the group is killed.

    Poll
     11. `poll(timeout)` (seconds) returns the ends not yet reported, as soon as there is one; nothing after
         `timeout`, or at once when `wake` is called.
     12. What happens between two calls is not lost.
     13. `wake` makes the current `poll` return at once or, if there is none, the next. It never blocks and never
         raises, not even after `close`.
     14. Queued jobs are started, and grace periods run out, inside `issue`, `cancel` and `poll` only: poll often.

    Limits
     15. Jobs running at one time never ask together for more cores or memory than there are. What is asked for is
         kept free; what is used is not watched here. `Resources.time` is a limit only where a scheduler makes it
         one. The same holds for the countable things of which `counts` says so; others are the caller's affair. A
         job that reserves some `gpus` sees these and no others.
     16. A job that fits is not held up by an earlier one that does not fit now. A scheduler that keeps room for the
         earlier one may want to be told by `Resources.time` that this one is over before that.
     17. A large job is not starved by a stream of small ones: it is overtaken a bounded number of times.
     18. Fractions of a core and `cpu=0` work.
     19. `queue_room()` is how many more submissions are useful now, so that no slot stands idle and little is
         queued. It is advice: more may be issued. It is more than 0 while nothing is queued or running.

    Cancel
     20. `cancel(names, grace)` does not wait. A queued job is removed. A running one gets SIGTERM, and SIGKILL
         after `grace` seconds if it still runs; its whole process group gets both. `grace=0` is SIGKILL at once.
     21. A cancelled job is reported once, as KILLED with reason CANCELLED, even if it then exited by itself;
         unless the batch system knew of its end before.
     22. Unknown and ended names are ignored. Twice is the same as once, but a second call can shorten the grace.

    What is there
     23. `list_issued(run)` gives the names of that run, and of no other, that are queued or running; a name is
         gone from it once its end is reported. `running()` gives those of all runs known to be running now.
     24. `outlives_master` says whether jobs go on when the process that issued them dies. If so, a new instance
         lists them with `list_issued`, and reports their ends. If not, they are dead with it.

    Close
     25. `close` ends everything that this instance started, unless jobs outlive the master. It leaves no process,
         thread, descriptor or temporary file; ends that were not polled are gone. Twice is fine; any other call
         after it, but `wake` and `capacity`, raises `BatchSystemError`.

    Where jobs outlive the master there is a scheduler that others run, and so:

     26. A scheduler that cannot be asked, is slow, or says nothing about a job ends no job and is no error of
         `issue`, `cancel` and `poll`: what could not be submitted or cancelled yet is kept and tried again, inside
         those three, with growing pauses; `queue_room` is 0 while submissions are held back. Only `list_issued`
         raises `BatchSystemError` then, because it cannot give an answer that is complete.
     27. Nobody waits for it: `issue`, `cancel` and `poll` take at most some seconds however slow the scheduler is.
         How rarely it is asked is its own affair; its user learns of results elsewhere.
     28. A submission that it acknowledged and then no longer knows is reported as LOST, after a period of grace that
         covers its being slow to show what it was given. It may run all the same, later or twice: whoever submits
         sees to it that this does no harm.
     29. What it will never start (held, larger than any machine, a limit of the account) is removed from its queue
         and reported as KILLED with reason NEVER_FITS, its own words in `detail`.
     30. `avoid(hosts)` names the machines, as `End.host` has them, on which to start nothing if that can be helped;
         each call replaces the set of the call before. The default does nothing.
     31. `forget(names)` says that these jobs are over, which their user has learned elsewhere: their slots are free,
         and their ends need not be reported any more. The default does nothing.
     32. `create` makes one with the options of a command line, and imports libraries that may be absent; importing its
         module, for `OPTIONS`, needs none of those.
    33. `why_waiting(name)` tells people why a job that was handed over has not started, from what is known already: it
        asks nobody. The default knows nothing.
    34. `set_limits(cpu, memory)` replaces how many cores and bytes all running jobs may have together; None: as many
        as there are. Where less is allowed than is in use, nothing is ended, and nothing starts until it fits again.
        The caller sees to it that what is queued still fits. The default does nothing: its user keeps the limit.
    """

    outlives_master: bool = False

    OPTIONS: ClassVar[tuple[BackendOption, ...]] = ()
    """What it adds to the command line. Read before anybody has chosen a batch system, so never anything costly."""

    @classmethod
    def create(cls, setup: Setup) -> AbstractBatchSystem:
        """Make one. Raises BatchSystemError (a library, program or file is missing; the message says what to do)."""
        raise BatchSystemError(f"{cls.__name__} cannot be made from options")

    @abstractmethod
    def issue(self, submissions: Sequence[Submission]) -> None:
        """Hand over submissions, in this order. Raises NeverFits, BatchSystemError (clauses 2 to 7)."""

    @abstractmethod
    def cancel(self, names: Iterable[str], grace: float = 0.0) -> None:
        """End these jobs; `grace` in seconds between SIGTERM and SIGKILL (clauses 20 to 22)."""

    @abstractmethod
    def poll(self, timeout: float) -> list[End]:
        """The ends not yet reported; waits at most `timeout` seconds for one (clauses 11 to 14)."""

    @abstractmethod
    def wake(self) -> None:
        """Make the current or else the next `poll` return at once; for signal handlers and threads (clause 13)."""

    @abstractmethod
    def list_issued(self, run: str) -> list[str]:
        """Names of queued or running jobs that start with `run` and a dot (clause 23)."""

    @abstractmethod
    def running(self) -> list[str]:
        """Names of the jobs that are known to be running now, of all runs (clause 23)."""

    @abstractmethod
    def capacity(self) -> Optional[Capacity]:
        """The largest single request that can ever run; None if that is not known."""

    @abstractmethod
    def queue_room(self) -> int:
        """How many more submissions it is useful to hand over now; 0 or more (clause 19)."""

    def slots(self, resources: Resources) -> Optional[int]:
        """About how many jobs with these resources can run at once, when nothing else does; None if not known."""
        return None

    def counts(self, name: str) -> bool:
        """Whether it sees to it by itself that no more of a countable thing is promised than there is (clause 15)."""
        return False

    def why_waiting(self, name: str) -> str:
        """What is known of why a job that was handed over has not started, in words; "" if nothing is (clause 33)."""
        return ""

    def avoid(self, hosts: Collection[str]) -> None:  # noqa: B027  # most can do nothing about it
        """Start nothing on these machines if that can be helped; replaces the earlier set (clause 30)."""

    def set_limits(self, cpu: Optional[float], memory: Optional[int]) -> None:  # noqa: B027  # most have none
        """How many cores and bytes all running jobs may have together, from now on (clause 34)."""

    def forget(self, names: Iterable[str]) -> None:  # noqa: B027  # most learn of ends soon enough by themselves
        """These jobs are over, and need not be reported any more (clause 31)."""

    @abstractmethod
    def close(self) -> None:
        """End what must not outlive the master and free everything (clause 25)."""

    def __enter__(self) -> AbstractBatchSystem:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()
