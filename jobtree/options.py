"""Every option of a run: one table, from which the parsers and the checked values are made.

The table `OPTIONS` drives all of it: the options that `add_options` gives to an
argparse or optparse parser, the values that `default_options` starts from, and
`Settings`, the typed and checked form that the rest of the library works with.
Names, attributes ("dest") and group titles of the original's options are kept to
the letter, because pipelines walk ``parser.option_groups`` and re-emit what they find.

Batch systems bring options of their own, of which nothing is known here: `backend_options` makes `Option`s of them,
parsers show them after all others, and `Settings.backend` holds their values by name.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import optparse
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Callable, Final, Optional

from batchsystems.abstract import BackendOption
from jobtree.brief_usage import shorten_usage
from jobtree.option_kinds import (
    COMMAND,
    COUNT,
    CPUS,
    DURABLE,
    FLAG,
    LEASE,
    LEVEL,
    LIMITS,
    LOG_LEVELS,
    LOG_SIZE,
    MAYBE_CPUS,
    MAYBE_MEMORY,
    MAYBE_POSITIVE_COUNT,
    MAYBE_SECONDS,
    MAYBE_SIZE,
    MEMORY,
    OPTIONAL_TEXT,
    PATH,
    PATTERNS,
    POSITIVE_COUNT,
    SECONDS,
    START,
    TEXT,
    Kind,
)
from jobtree.quantities import UNSPECIFIED

CORE: Final = "jobTree core options"
BATCH_SYSTEM: Final = "jobTree options for specifying the batch system"
RESOURCES: Final = "jobTree options for cpu/memory requirements"
RESCUE: Final = "jobTree options for rescuing/killing/restarting jobs"
BIG: Final = "jobTree big batch system options"
MISCELLANEOUS: Final = "jobTree miscellaneous options"
LOGGING: Final = "Logging options"

_IN_USAGE: Final = {"--jobTree", "--batchSystem"}

#: Group titles in the order in which they are shown, each with its introduction.
GROUPS: Final[dict[str, str]] = {
    LOGGING: "What is told, and where.",
    CORE: "Where the job tree is, and what is recorded about it.",
    BATCH_SYSTEM: "What runs the jobs.",
    RESOURCES: "What a job gets that does not say what it needs, and what all jobs get together.",
    RESCUE: "What happens to jobs that fail, get lost or take too long.",
    BIG: "A second batch system, for jobs that need much memory or many cpus.",
    MISCELLANEOUS: "Everything else.",
}


@dataclass(frozen=True)
class Option:
    """One option: its flag, the attribute of `Settings`, and how parsers show it.

    dest is the attribute on the parsed options, by default the flag's name. also is a
    second, shorter attribute that is read when its value makes sense (see `OPTIONS`).
    """

    flag: str
    attribute: str
    default: Any
    kind: Kind
    group: str
    help: str
    dest: str = ""
    also: str = ""

    def __post_init__(self) -> None:
        if not self.dest:
            object.__setattr__(self, "dest", self.flag[2:])

    def parse(self, text: str) -> Any:
        """What a parser stores for *text*; raises ValueError, which says what is expected."""
        value = self.kind.read(text)
        if self.kind.repeats:
            return text
        # Old scripts compare with and calculate from sys.maxsize, so it stays that until Settings are made.
        return self.default if value is None else value

    def check(self, value: object) -> Any:
        """The value for `Settings`; raises ValueError, which names the option too."""
        try:
            return self.kind.read(value)
        except ValueError as error:
            raise ValueError(f"option {self.flag}: {error}") from None


#: All options. --isolateTargets and --startMethod have long names because pipelines that analyse sequences
#: have options like --start and --isolate of their own; parsers take the short forms as abbreviations.
OPTIONS: Final[tuple[Option, ...]] = (
    Option("--logOff", "log_off", False, FLAG, LOGGING, "Tell only what is critical."),
    Option("--logInfo", "log_info", False, FLAG, LOGGING, "Log at level INFO."),
    Option("--logDebug", "log_debug", False, FLAG, LOGGING, "Log at level DEBUG."),
    Option("--logCritical", "log_critical", False, FLAG, LOGGING, "Log at level CRITICAL."),
    Option("--logLevel", "log_level", None, LEVEL, LOGGING,
           "Log at this level: OFF, CRITICAL, ERROR, WARNING, INFO or DEBUG."),
    Option("--logFile", "log_file", None, PATH, LOGGING, "A file to log to as well."),
    Option("--rotatingLogging", "log_rotating", False, FLAG, LOGGING,
           "Start a new log file when the old one gets too big.", dest="logRotating"),
    Option("--jobTree", "job_tree", None, PATH, CORE,
           "The job tree's directory; one that exists is continued."),
    Option("--stats", "stats", False, FLAG, CORE, "Record each target for jobTreeStats: where, when, what it used."),
    Option("--durable", "durable", "full", DURABLE, CORE,
           "Sync the tree and targets' files (full), or only the tree."),
    Option("--shareWith", "share_with", None, OPTIONAL_TEXT, CORE,
           "A group that may look at status and logs, and change nothing."),
    Option("--batchSystem", "batch_system", "singleMachine", TEXT, BATCH_SYSTEM,
           "What runs the jobs; default: singleMachine."),
    Option("--acidTestSeed", "acid_test_seed", None, MAYBE_POSITIVE_COUNT, BATCH_SYSTEM,
           "Which half of the workers acidTest kills; never a job --maxLost times on end."),
    Option("--maxThreads", "max_threads", None, MAYBE_POSITIVE_COUNT, BATCH_SYSTEM,
           "Cores to use on this machine; default: all of them."),
    Option("--parasolCommand", "parasol_command", "parasol", TEXT, BATCH_SYSTEM,
           "The parasol program; default: parasol."),
    Option("--startMethod", "start", None, START, BATCH_SYSTEM,
           "How workers start on this machine; default: what is safe.", also="start"),
    Option("--isolateTargets", "isolate", False, FLAG, BATCH_SYSTEM,
           "A process of its own for every target.", also="isolate"),
    Option("--envAllow", "env_allow", None, PATTERNS, BATCH_SYSTEM,
           "Variables that jobs get although they normally would not (A,B*)."),
    Option("--envDeny", "env_deny", None, PATTERNS, BATCH_SYSTEM,
           "Variables that jobs must not get (A,B*); may be repeated."),
    Option("--defaultMemory", "default_memory", 2**31, MEMORY, RESOURCES,
           "Memory of a job that does not say; default: 2G."),
    Option("--defaultCpu", "default_cpu", 1, CPUS, RESOURCES, "Cpus of a job that does not say; default: 1."),
    Option("--defaultTime", "default_time", None, MAYBE_SECONDS, RESOURCES,
           "Run time of a job that does not say; default: no limit."),
    Option("--maxCpus", "max_cpus", UNSPECIFIED, MAYBE_CPUS, RESOURCES, "Cpus of all running jobs together."),
    Option("--maxMemory", "max_memory", UNSPECIFIED, MAYBE_MEMORY, RESOURCES,
           "Memory of all running jobs together."),
    Option("--limit", "limits", None, LIMITS, RESOURCES,
           "How many there are of what jobs reserve (licence=4); may be repeated."),
    Option("--retryCount", "retry_count", 0, COUNT, RESCUE,
           "How often a failing target is tried again; default: 0."),
    Option("--maxJobDuration", "max_job_duration", UNSPECIFIED, MAYBE_SECONDS, RESCUE,
           "How long a target may run before it is killed."),
    Option("--hungAfter", "hung_after", None, MAYBE_SECONDS, RESCUE,
           "Mark a target as hung that has told and printed nothing for so long."),
    Option("--rescueJobsFrequency", "rescue_jobs_frequency", None, MAYBE_SECONDS, RESCUE,
           "Seconds between searches for lost jobs."),
    Option("--maxLost", "max_lost", 5, POSITIVE_COUNT, RESCUE,
           "Losses in a row after which a job fails; default: 5."),
    Option("--grace", "grace", 10, SECONDS, RESCUE,
           "Seconds between asking a target to end and killing it; default: 10."),
    Option("--doubleMem", "double_mem", False, FLAG, RESCUE,
           "Try what ran out of memory again with twice as much."),
    Option("--doubleTime", "double_time", False, FLAG, RESCUE,
           "Try what ran out of time again with twice as much."),
    Option("--lease", "lease", 60, LEASE, RESCUE,
           "Seconds without contact to the job tree that end a cluster job; default: 60."),
    Option("--copyEvery", "copy_every", 60, SECONDS, RESCUE,
           "Seconds between copies of the tree's database; 0: none; default: 60."),
    Option("--minFree", "min_free", None, MAYBE_SIZE, RESCUE,
           "Pause while the disk has less free; default: 1G or a twentieth of it; 0: never."),
    Option("--failFast", "fail_fast", False, FLAG, RESCUE, "Stop at the first job that has failed for good."),
    Option("--bigBatchSystem", "big_batch_system", None, OPTIONAL_TEXT, BIG,
           "The batch system for big jobs."),
    Option("--bigMemoryThreshold", "big_memory_threshold", UNSPECIFIED, MAYBE_MEMORY, BIG,
           "Jobs that need more memory than this are big."),
    Option("--bigCpuThreshold", "big_cpu_threshold", UNSPECIFIED, MAYBE_CPUS, BIG,
           "Jobs that need more cpus than this are big."),
    Option("--bigMaxCpus", "big_max_cpus", UNSPECIFIED, MAYBE_CPUS, BIG,
           "Cpus of all running big jobs together."),
    Option("--bigMaxMemory", "big_max_memory", UNSPECIFIED, MAYBE_MEMORY, BIG,
           "Memory of all running big jobs together."),
    Option("--jobTime", "job_time", 30, SECONDS, MISCELLANEOUS,
           "Seconds of work that one job of the cluster should hold; default: 30."),
    Option("--maxLogFileSize", "max_log_file_size", 50120, LOG_SIZE, MISCELLANEOUS,
           "Bytes of a failed target's output that are shown; default: 50120."),
    Option("--maxOutput", "max_output", 2**30, MEMORY, MISCELLANEOUS,
           "Bytes a target may print before it fails; default: 1G."),
    Option("--keepLogs", "keep_logs", False, FLAG, MISCELLANEOUS,
           "Keep the output of targets that succeeded."),
    Option("--noProgress", "no_progress", False, FLAG, MISCELLANEOUS,
           "No live progress line on a terminal, and no line every minute elsewhere."),
    Option("--onEnd", "on_end", None, COMMAND, MISCELLANEOUS,
           "A shell command that is told how the run has ended, by JOBTREE_RESULT and more."),
    Option("--command", "command", None, COMMAND, MISCELLANEOUS, "The command line to run as the first job."),
)  # fmt: skip


@functools.cache
def backend_options() -> tuple[Option, ...]:
    """The options of all batch systems; ``attribute`` and ``dest`` are the name under which they are kept."""
    # Imported here: workers, which have no options, import this module for the kinds of its logging.
    from batchsystems import registry

    found = []
    ours = {option.flag for option in OPTIONS}
    for name, options in registry.options().items():
        for option in options:
            if option.flag in ours:
                continue  # the original had it among the others, and there it stays
            if option.metavar:
                kind = Kind(option.convert, option.expected, option.metavar, optional=option.default is None)
            else:
                kind = FLAG
            group = f"jobTree options of the batch system {name}"
            found.append(Option(option.flag, option.name, option.default, kind, group, option.help))
    return tuple(found)


def _all_groups() -> dict[str, str]:
    theirs = {option.group: "Only for jobs that run there." for option in backend_options()}
    return {**GROUPS, **theirs}


@dataclass(frozen=True)
class Settings:
    """Every option of a run, checked: memory in bytes, times in seconds, None for what was not specified.

    >>> Settings(retry_count=3).retry_count
    3

    Raises ValueError when a value makes no sense. Text is taken where a parser
    would take it, so ``Settings(default_memory="2G")`` works, though not for mypy.
    """

    log_off: bool = False
    log_info: bool = False
    log_debug: bool = False
    log_critical: bool = False
    log_level: Optional[str] = None
    log_file: Optional[str] = None
    log_rotating: bool = False
    job_tree: Optional[str] = None
    stats: bool = False
    durable: str = "full"
    share_with: Optional[str] = None
    batch_system: str = "singleMachine"
    acid_test_seed: Optional[int] = None
    max_threads: Optional[int] = None
    parasol_command: str = "parasol"
    start: Optional[str] = None
    isolate: bool = False
    env_allow: tuple[str, ...] = ()
    env_deny: tuple[str, ...] = ()
    default_memory: int = 2**31
    default_cpu: float = 1
    default_time: Optional[float] = None
    max_cpus: Optional[float] = None
    max_memory: Optional[int] = None
    limits: Mapping[str, int] = dataclasses.field(default_factory=dict, hash=False)
    retry_count: int = 0
    max_job_duration: Optional[float] = None
    hung_after: Optional[float] = None
    rescue_jobs_frequency: Optional[float] = None
    max_lost: int = 5
    grace: float = 10
    double_mem: bool = False
    double_time: bool = False
    lease: float = 60
    copy_every: float = 60
    min_free: Optional[int] = None
    fail_fast: bool = False
    big_batch_system: Optional[str] = None
    big_memory_threshold: Optional[int] = None
    big_cpu_threshold: Optional[float] = None
    big_max_cpus: Optional[float] = None
    big_max_memory: Optional[int] = None
    job_time: float = 30
    max_log_file_size: int = 50120
    max_output: int = 2**30
    keep_logs: bool = False
    no_progress: bool = False
    on_end: Optional[str] = None
    command: Optional[str] = None
    backend: Mapping[str, Any] = dataclasses.field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        for option in OPTIONS:
            object.__setattr__(self, option.attribute, option.check(getattr(self, option.attribute)))

    @property
    def effective_log_level(self) -> Optional[str]:
        """The level that the logging options ask for, one of `LOG_LEVELS`; None if they say nothing."""
        for given, level in (
            (self.log_off, "OFF"),
            (self.log_info, "INFO"),
            (self.log_debug, "DEBUG"),
            (self.log_critical, "CRITICAL"),
        ):
            if given:
                return level
        return self.log_level

    def to_dict(self) -> dict[str, Any]:
        """The settings by attribute name, ready for JSON."""
        return {name: list(v) if isinstance(v, tuple) else v for name, v in dataclasses.asdict(self).items()}

    def of_backend(self, option: BackendOption) -> Any:
        """The value of an option that a batch system has."""
        for ours in OPTIONS:
            if ours.flag == option.flag:
                return getattr(self, ours.attribute)
        return self.backend.get(option.name, option.default)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Settings:
        """Settings from what `to_dict` made, here or in another version: missing ones get their
        defaults, unknown ones are left out. Raises ValueError for values that make no sense."""
        known = {o.attribute: values[o.attribute] for o in OPTIONS if o.attribute in values}
        return cls(**known, backend=dict(values.get("backend") or {}))


def settings_from(options: object, groups: Collection[str] = tuple(GROUPS)) -> Settings:
    """Checked settings from an options object, which may be anything with attributes.

    Options of other than the given groups are not looked at and have their defaults.

    An `argparse.Namespace`, `optparse.Values`, a named tuple or an object of the
    user's own will do; further attributes do not matter, and what is missing or None
    has its default. Values may have been set by the script and may be texts.

    Raises ValueError, whose message names the option, what was given and what is expected.
    """
    found: dict[str, Any] = {}
    for option in OPTIONS:
        if option.group not in groups:
            continue
        value = getattr(options, option.dest, None)
        if option.also and value in (None, option.default):
            value = _if_sensible(option, getattr(options, option.also, None))
        if value is not None:
            found[option.attribute] = option.check(value)
    if BATCH_SYSTEM in groups:
        given = {option: getattr(options, option.dest, None) for option in backend_options()}
        found["backend"] = {
            option.dest: option.check(value)
            for option, value in given.items()
            if value is not None and value != option.default
        }
    return Settings(**found)


def _if_sensible(option: Option, value: object) -> Any:
    # The short name may be the script's own attribute: a position, the name of a sample, anything.
    try:
        return option.check(value)
    except ValueError:
        return None


def default_options() -> argparse.Namespace:
    """What a parser with these options returns for an empty command line."""
    return argparse.Namespace(**{option.dest: option.default for option in (*OPTIONS, *backend_options())})


def add_options(parser: object, groups: Optional[Iterable[str]] = None) -> None:
    """Add the options of the given groups (None: all) to a parser of argparse or optparse, or to a group of one.

    A parser gets one option group for each title; a group gets the options themselves,
    because groups cannot be nested. Raises TypeError for anything else, and the parser's own
    error if it has an option of the same name.
    """
    introductions = _all_groups() if groups is None else GROUPS
    for title in introductions if groups is None else groups:
        known = OPTIONS if title in GROUPS else backend_options()
        options = [option for option in known if option.group == title]
        if isinstance(parser, optparse.OptionParser):
            group = optparse.OptionGroup(parser, title, introductions[title])
            group.add_options([_OptparseOption(option) for option in options])
            parser.add_option_group(group)
        elif isinstance(parser, optparse.OptionContainer):
            parser.add_options([_OptparseOption(option) for option in options])
        elif isinstance(parser, argparse.ArgumentParser):
            shorten_usage(parser, {option.flag for option in (*OPTIONS, *backend_options())} - _IN_USAGE)
            _add_arguments(parser.add_argument_group(title, introductions[title]).add_argument, options)
        elif callable(getattr(parser, "add_argument", None)):
            _add_arguments(parser.add_argument, options)  # type: ignore[attr-defined]
        else:
            raise TypeError(
                "options can be added to a parser or a group of argparse or optparse, "
                f"and {parser!r} was given"
            )


def add_logging_options(parser: object) -> None:
    """Add the logging options alone; otherwise like `add_options`."""
    add_options(parser, [LOGGING])


def _add_arguments(add_argument: Callable[..., object], options: Iterable[Option]) -> None:
    for option in options:
        names = {"dest": option.dest, "default": option.default, "help": option.help}
        if option.kind is FLAG:
            add_argument(option.flag, action="store_true", **names)
        else:
            action = _Join if option.kind.repeats else "store"
            add_argument(option.flag, action=action, type=_Type(option), metavar=option.kind.metavar, **names)


class _Type:
    """An option's parse() in the form that argparse wants: its errors are shown as they are."""

    def __init__(self, option: Option) -> None:
        self.option = option

    def __call__(self, text: str) -> Any:
        try:
            return self.option.parse(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from None


class _Join(argparse.Action):
    """Repeated values are joined with commas: the result can be put on a command line again as it is."""

    def __call__(
        self, parser: object, namespace: argparse.Namespace, values: Any, flag: object = None
    ) -> None:
        setattr(namespace, self.dest, _joined(getattr(namespace, self.dest, None), values))


def _joined(earlier: Optional[str], value: str) -> str:
    return f"{earlier},{value}" if earlier else value


def _check_for_optparse(option: Any, flag: str, text: str) -> Any:
    try:
        return option.jobtree_option.parse(text)
    except ValueError as error:
        raise optparse.OptionValueError(f"option {flag}: {error}") from None


class _OptparseOption(optparse.Option):
    """An option of the table for optparse, which knows types and actions only through subclasses."""

    ACTIONS = (*optparse.Option.ACTIONS, "join")
    STORE_ACTIONS = (*optparse.Option.STORE_ACTIONS, "join")
    TYPED_ACTIONS = (*optparse.Option.TYPED_ACTIONS, "join")
    ALWAYS_TYPED_ACTIONS = (*optparse.Option.ALWAYS_TYPED_ACTIONS, "join")
    TYPES = (*optparse.Option.TYPES, "jobtree")
    TYPE_CHECKER = {**optparse.Option.TYPE_CHECKER, "jobtree": _check_for_optparse}

    def __init__(self, option: Option) -> None:
        self.jobtree_option = option
        names = {"dest": option.dest, "default": option.default, "help": option.help}
        if option.kind is FLAG:
            super().__init__(option.flag, action="store_true", **names)
            # Pipelines ask `option.nargs > 0` to learn whether a value follows; None > 0 fails in Python 3.
            self.nargs = 0
        else:
            action = "join" if option.kind.repeats else "store"
            super().__init__(option.flag, action=action, type="jobtree", metavar=option.kind.metavar, **names)

    def take_action(
        self, action: str, dest: str, opt: str, value: Any, values: optparse.Values, parser: Any
    ) -> int:
        if action == "join":
            setattr(values, dest, _joined(getattr(values, dest, None), value))
            return 1
        return super().take_action(action, dest, opt, value, values, parser)


__all__ = [
    "GROUPS",
    "LOGGING",
    "LOG_LEVELS",
    "OPTIONS",
    "Option",
    "Settings",
    "add_logging_options",
    "add_options",
    "backend_options",
    "default_options",
    "settings_from",
]
