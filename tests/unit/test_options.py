"""The options: one table, and what argparse, optparse and scripts make of it."""

from __future__ import annotations

import argparse
import collections
import dataclasses
import json
import optparse
import pathlib
import shlex
import sys
from collections.abc import Callable, Iterator
from typing import Any, Optional, Union

import pytest

import jobtree.cli.run
from batchsystems import registry
from batchsystems.abstract import BackendOption
from jobtree.options import (
    GROUPS,
    LOGGING,
    OPTIONS,
    Settings,
    add_logging_options,
    add_options,
    backend_options,
    default_options,
    settings_from,
)

# Name, attribute, default and group of every option of the original, as pipelines know them. Three defaults differ:
# jobTree has none ("Specify --jobTree" otherwise), maxThreads is this machine's cores, logLevel is not CRITICAL.
ORIGINAL = {
    "--logOff": ("logOff", False, "Logging options"),
    "--logInfo": ("logInfo", False, "Logging options"),
    "--logDebug": ("logDebug", False, "Logging options"),
    "--logCritical": ("logCritical", False, "Logging options"),
    "--logLevel": ("logLevel", None, "Logging options"),
    "--logFile": ("logFile", None, "Logging options"),
    "--rotatingLogging": ("logRotating", False, "Logging options"),
    "--jobTree": ("jobTree", None, "jobTree core options"),
    "--stats": ("stats", False, "jobTree core options"),
    "--batchSystem": ("batchSystem", "singleMachine", "jobTree options for specifying the batch system"),
    "--maxThreads": ("maxThreads", None, "jobTree options for specifying the batch system"),
    "--parasolCommand": ("parasolCommand", "parasol", "jobTree options for specifying the batch system"),
    "--defaultMemory": ("defaultMemory", 2147483648, "jobTree options for cpu/memory requirements"),
    "--defaultCpu": ("defaultCpu", 1, "jobTree options for cpu/memory requirements"),
    "--maxCpus": ("maxCpus", sys.maxsize, "jobTree options for cpu/memory requirements"),
    "--maxMemory": ("maxMemory", sys.maxsize, "jobTree options for cpu/memory requirements"),
    "--retryCount": ("retryCount", 0, "jobTree options for rescuing/killing/restarting jobs"),
    "--maxJobDuration": (
        "maxJobDuration",
        sys.maxsize,
        "jobTree options for rescuing/killing/restarting jobs",
    ),
    "--rescueJobsFrequency": (
        "rescueJobsFrequency",
        None,
        "jobTree options for rescuing/killing/restarting jobs",
    ),
    "--bigBatchSystem": ("bigBatchSystem", None, "jobTree big batch system options"),
    "--bigMemoryThreshold": ("bigMemoryThreshold", sys.maxsize, "jobTree big batch system options"),
    "--bigCpuThreshold": ("bigCpuThreshold", sys.maxsize, "jobTree big batch system options"),
    "--bigMaxCpus": ("bigMaxCpus", sys.maxsize, "jobTree big batch system options"),
    "--bigMaxMemory": ("bigMaxMemory", sys.maxsize, "jobTree big batch system options"),
    "--jobTime": ("jobTime", 30, "jobTree miscellaneous options"),
    "--maxLogFileSize": ("maxLogFileSize", 50120, "jobTree miscellaneous options"),
    "--command": ("command", None, "jobTree miscellaneous options"),
}

# One sensible text for every option that takes one, and what Settings make of it.
SENSIBLE: dict[str, tuple[str, Any]] = {
    "--logLevel": ("debug", "DEBUG"),
    "--logFile": ("a.log", "a.log"),
    "--jobTree": ("./.jobTree", "./.jobTree"),
    "--durable": ("tree", "tree"),
    "--batchSystem": ("gridEngine", "gridEngine"),
    "--acidTestSeed": ("7", 7),
    "--maxThreads": ("4", 4),
    "--parasolCommand": ("/opt/parasol -host=a", "/opt/parasol -host=a"),
    "--startMethod": ("spawn", "spawn"),
    "--envAllow": ("A*,B", ("A*", "B")),
    "--envDeny": ("SECRET_*", ("SECRET_*",)),
    "--defaultMemory": ("1.5 GB", 3 * 2**29),
    "--defaultCpu": ("0.5", 0.5),
    "--maxCpus": ("16", 16),
    "--maxMemory": ("38000000000", 38_000_000_000),
    "--limit": ("licence=4,scanner=1", {"licence": 4, "scanner": 1}),
    "--retryCount": ("3", 3),
    "--maxJobDuration": ("2h", 7200),
    "--hungAfter": ("10m", 600),
    "--rescueJobsFrequency": ("1:30", 90),
    "--maxLost": ("1", 1),
    "--copyEvery": ("0", 0),
    "--grace": ("2.5", 2.5),
    "--lease": ("2m", 120),
    "--defaultTime": ("1h", 3600),
    "--bigBatchSystem": ("parasol", "parasol"),
    "--bigMemoryThreshold": ("8G", 2**33),
    "--bigCpuThreshold": ("1", 1),
    "--bigMaxCpus": ("100", 100),
    "--bigMaxMemory": ("1T", 2**40),
    "--jobTime": ("0", 0),
    "--maxLogFileSize": ("0", 0),
    "--maxOutput": ("10M", 10 * 2**20),
    "--minFree": ("20G", 20 * 2**30),
    "--onEnd": ("mail -s done me", "mail -s done me"),
    "--shareWith": ("lab", "lab"),
    "--command": ("echo 1", "echo 1"),
}


class _SubclassedParser(optparse.OptionParser):
    """A parser that adds the options to itself while it is being made, as one pipeline does."""

    def __init__(self) -> None:
        optparse.OptionParser.__init__(self)
        add_options(self)


def _argparse(arguments: list[str]) -> object:
    parser = argparse.ArgumentParser()
    add_options(parser)
    return parser.parse_args(arguments)


def _argparse_group(arguments: list[str]) -> object:
    parser = argparse.ArgumentParser()
    add_options(parser.add_argument_group("run"))
    return parser.parse_args(arguments)


def _optparse(arguments: list[str]) -> object:
    parser = optparse.OptionParser()
    add_options(parser)
    return parser.parse_args(arguments)[0]


def _optparse_group(arguments: list[str]) -> object:
    parser = optparse.OptionParser()
    group = optparse.OptionGroup(parser, "run")
    add_options(group)
    parser.add_option_group(group)
    return parser.parse_args(arguments)[0]


def _optparse_subclass(arguments: list[str]) -> object:
    return _SubclassedParser().parse_args(arguments)[0]


Parse = Callable[[list[str]], object]
every_parser = pytest.mark.parametrize(
    "parse", [_argparse, _argparse_group, _optparse, _optparse_group, _optparse_subclass]
)


# -- parsers -----------------------------------------------------------------------------------------------


@every_parser
def test_an_empty_command_line_gives_the_defaults(parse: Parse) -> None:
    assert vars(parse([])) == vars(default_options())
    assert settings_from(parse([])) == Settings()


def test_every_option_of_the_original_is_there_by_name_attribute_default_and_group() -> None:
    ours = {option.flag: (option.dest, option.default, option.group) for option in OPTIONS}
    assert {flag: ours.get(flag) for flag in ORIGINAL} == ORIGINAL


@every_parser
def test_every_option_reaches_the_settings(parse: Parse) -> None:
    for option in OPTIONS:
        text, expected = SENSIBLE.get(option.flag, (None, True))
        options = parse([option.flag] if text is None else [option.flag, text])
        assert settings_from(options) == Settings.from_dict({option.attribute: expected}), option


@every_parser
def test_what_means_not_specified_stays_the_default(parse: Parse) -> None:
    options = parse(["--maxCpus", str(2**63 - 1), "--maxJobDuration", str(2**63 - 1), "--bigBatchSystem", ""])
    assert vars(options)["maxCpus"] == sys.maxsize
    assert settings_from(options) == Settings()


@every_parser
def test_variable_patterns_may_be_repeated_and_listed(parse: Parse) -> None:
    options = parse(["--envDeny", "A,B*", "--envDeny=C"])
    assert vars(options)["envDeny"] == "A,B*,C"
    assert settings_from(options).env_deny == ("A", "B*", "C")


@every_parser
@pytest.mark.parametrize(
    ("flag", "text", "expected"),
    [
        ("--defaultMemory", "two", "2 GiB"),
        ("--defaultMemory", "0", "2 GiB"),
        ("--defaultCpu", "0", "above 0"),
        ("--defaultCpu", "nan", "above 0"),
        ("--maxThreads", "0", "1 or more"),
        ("--retryCount", "-1", "0 or more"),
        ("--retryCount", "1.5", "0 or more"),
        ("--maxLost", "0", "1 or more"),
        ("--maxJobDuration", "soon", "1:30:00"),
        ("--durable", "half", "'full' or 'tree'"),
        ("--startMethod", "thread", "'fork' or 'spawn'"),
        ("--logLevel", "LOUD", "CRITICAL"),
        ("--batchSystem", " ", "not empty"),
    ],
)
def test_a_wrong_value_is_a_usage_error_that_says_what_is_expected(
    parse: Parse, flag: str, text: str, expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        parse([f"{flag}={text}"])
    assert caught.value.code == 2
    message = capsys.readouterr().err
    assert flag in message
    assert f"{text!r} was given" in message
    assert expected in message
    assert "Traceback" not in message


@every_parser
def test_short_forms_of_the_options_with_long_names(parse: Parse) -> None:
    settings = settings_from(parse(["--isolate", "--start", "spawn"]))
    assert (settings.isolate, settings.start) == (True, "spawn")


def test_a_script_may_have_start_and_isolate_options_of_its_own() -> None:
    parser = argparse.ArgumentParser()
    add_options(parser)
    parser.add_argument("--start", type=int)
    parser.add_argument("--isolate")
    options = parser.parse_args(["--start", "1000", "--isolate", "sample7"])
    assert (options.start, options.isolate) == (1000, "sample7")
    assert settings_from(options) == Settings()


def test_help_is_short_and_prints_on_80_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    parser = argparse.ArgumentParser(prog="script")
    add_options(parser)
    optparser = optparse.OptionParser()
    add_options(optparser)
    for text in (parser.format_help(), optparser.format_help()):
        assert max(map(len, text.splitlines())) < 80
        assert all(option.flag in text for option in OPTIONS)
    for option in OPTIONS:
        assert option.help.endswith("."), option
        assert len(option.help) < 80, option


def test_groups_have_the_originals_titles_in_both_parsers() -> None:
    parser = optparse.OptionParser()
    add_options(parser)
    titles = [group.title for group in parser.option_groups]
    assert titles == [*GROUPS, *dict.fromkeys(option.group for option in backend_options())]
    assert {group for _, _, group in ORIGINAL.values()} == set(GROUPS)
    assert all(title.startswith("jobTree") for title in titles if title != LOGGING)
    text = argparse.ArgumentParser()
    add_options(text)
    assert all(f"\n{title}:\n" in text.format_help() for title in titles)


def test_removing_an_option_from_an_optparse_parser() -> None:
    parser = optparse.OptionParser()
    add_options(parser)
    parser.remove_option("--jobTree")
    assert not parser.has_option("--jobTree")
    parser.add_option("--jobTree", dest="jobTree", default="work")
    assert settings_from(parser.parse_args([])[0]).job_tree == "work"


def _re_emitted(parser: optparse.OptionParser, options: optparse.Values) -> str:
    """What a wrapper script does: every jobTree option that was set, as text for another command line."""
    words = ""
    for group in parser.option_groups:
        if group.title.startswith("jobTree"):
            for option in group.option_list:
                assert option.dest is not None
                value = getattr(options, option.dest)
                if value != group.defaults[option.dest]:
                    words += f" {option}"
                    if option.nargs > 0:
                        words += f' "{value}"'
    return words


def test_the_walk_over_option_groups_that_hands_options_on() -> None:
    arguments = [
        "--defaultMemory",
        "4G",
        "--stats",
        "--maxCpus",
        "8",
        "--defaultCpu",
        "1.5",
        "--isolateTargets",
    ]
    arguments += ["--maxJobDuration", "2h", "--envDeny", "A", "--envDeny", "B", "--parasolCommand", "p -x"]
    parser = optparse.OptionParser()
    add_options(parser)
    options = parser.parse_args(arguments)[0]
    again = parser.parse_args(shlex.split(_re_emitted(parser, options)))[0]
    assert settings_from(again) == settings_from(options) != Settings()
    assert _re_emitted(parser, parser.parse_args([])[0]) == ""


def test_each_option_says_what_it_does_the_way_optparse_does() -> None:
    parser = optparse.OptionParser()
    add_options(parser)
    for option in OPTIONS:
        found = parser.get_option(option.flag)
        assert found is not None
        assert (found.dest, found.get_opt_string()) == (option.dest, option.flag)
        assert (found.action == "store_true") == (option.default is False)


def test_logging_options_alone() -> None:
    parser = argparse.ArgumentParser()
    add_logging_options(parser)
    assert vars(parser.parse_args(["--logDebug"]))["logDebug"] is True
    with pytest.raises(SystemExit):
        parser.parse_args(["--jobTree", "x"])


def test_only_parsers_are_taken() -> None:
    with pytest.raises(TypeError, match="argparse or optparse.*42"):
        add_options(42)


def test_an_option_of_the_same_name_is_an_error_of_the_parser() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--jobTree")
    with pytest.raises(argparse.ArgumentError):
        add_options(parser)
    optparser = optparse.OptionParser()
    optparser.add_option("--jobTree")
    with pytest.raises(optparse.OptionConflictError):
        add_options(optparser)


# -- settings from odd objects -------------------------------------------------------------------------------


class _HashableNamespace(argparse.Namespace):
    def __hash__(self) -> int:  # type: ignore[override]
        return id(self)


class _Slotted:
    __slots__ = ("jobTree", "retryCount")

    def __init__(self) -> None:
        self.jobTree = "t"
        self.retryCount = "2"


_Tuple = collections.namedtuple("_Tuple", ["jobTree", "retryCount", "samples"])  # noqa: PYI024


class _ClassAttributes:
    jobTree = "t"  # noqa: N815
    retryCount = 2  # noqa: N815


@pytest.mark.parametrize(
    "options",
    [
        argparse.Namespace(jobTree="t", retryCount=2, samples=["a"]),
        _HashableNamespace(jobTree="t", retryCount=2.0),
        optparse.Values({"jobTree": "t", "retryCount": "2", "unknown": object()}),
        _Tuple("t", 2, ()),
        _Slotted(),
        _ClassAttributes,
        _ClassAttributes(),
        argparse.Namespace(jobTree=pathlib.Path("t"), retryCount=2),
    ],
)
def test_settings_from_anything_with_attributes(options: object) -> None:
    assert settings_from(options) == Settings(job_tree="t", retry_count=2)


def test_a_copy_of_a_namespace_by_its_dict_and_no_class_check() -> None:
    parser = argparse.ArgumentParser()
    add_options(parser)
    first = parser.parse_known_args(["--stats", "more"], namespace=_HashableNamespace())[0]
    first.__dict__.update(batchSystem="parasol", parasolCommand="p", jobTree=None)
    second = argparse.Namespace()
    second.__dict__ = first.__dict__
    second.jobTree = "task1"
    assert settings_from(second) == Settings(
        stats=True, batch_system="parasol", parasol_command="p", job_tree="task1"
    )


@pytest.mark.parametrize(
    ("name", "value", "attribute", "expected"),
    [
        ("defaultMemory", 4000000000, "default_memory", 4_000_000_000),
        ("defaultMemory", "4000000000", "default_memory", 4_000_000_000),
        ("defaultMemory", 3e9, "default_memory", 3_000_000_000),
        ("defaultMemory", None, "default_memory", 2**31),
        ("defaultCpu", "2", "default_cpu", 2),
        ("maxMemory", sys.maxsize, "max_memory", None),
        ("maxCpus", str(sys.maxsize), "max_cpus", None),
        ("bigMaxMemory", float(sys.maxsize), "big_max_memory", None),
        ("bigCpuThreshold", sys.maxsize, "big_cpu_threshold", None),
        ("maxJobDuration", str(sys.maxsize), "max_job_duration", None),
        ("jobTree", "", "job_tree", None),
        ("stats", 1, "stats", True),
        ("isolate", True, "isolate", True),
        ("start", "fork", "start", "fork"),
        ("start", 1000, "start", None),
        ("envAllow", ["A", "B"], "env_allow", ("A", "B")),
        ("envAllow", "A, B", "env_allow", ("A", "B")),
        ("envAllow", "", "env_allow", ()),
    ],
)
def test_values_that_a_script_sets_itself(name: str, value: object, attribute: str, expected: object) -> None:
    options = default_options()
    setattr(options, name, value)
    assert getattr(settings_from(options), attribute) == expected


@pytest.mark.parametrize(
    ("name", "value", "flag", "expected"),
    [
        ("defaultMemory", "much", "--defaultMemory", "number of bytes"),
        ("defaultMemory", True, "--defaultMemory", "number of bytes"),
        ("retryCount", "many", "--retryCount", "whole number, 0 or more"),
        ("retryCount", 1.5, "--retryCount", "whole number, 0 or more"),
        ("retryCount", [1], "--retryCount", "whole number, 0 or more"),
        ("retryCount", True, "--retryCount", "whole number, 0 or more"),
        ("maxThreads", -4, "--maxThreads", "whole number, 1 or more"),
        ("defaultCpu", float("nan"), "--defaultCpu", "above 0"),
        ("jobTime", "-1", "--jobTime", "number of seconds"),
        ("stats", "yes", "--stats", "True or False"),
        ("jobTree", 7, "--jobTree", "a path"),
        ("envDeny", 7, "--envDeny", "commas"),
        ("durable", "FULL", "--durable", "'full' or 'tree'"),
    ],
)
def test_a_wrong_value_names_option_value_and_what_is_expected(
    name: str, value: object, flag: str, expected: str
) -> None:
    options = default_options()
    setattr(options, name, value)
    with pytest.raises(ValueError, match="was given") as caught:
        settings_from(options)
    for part in (flag, repr(value), expected):
        assert part in str(caught.value)


def test_only_the_wanted_groups_are_looked_at() -> None:
    options = argparse.Namespace(logInfo=True, retryCount="not ours")
    assert settings_from(options, [LOGGING]) == Settings(log_info=True)


# -- Settings ------------------------------------------------------------------------------------------------


def test_table_and_settings_agree() -> None:
    fields = {field.name for field in dataclasses.fields(Settings)}
    assert fields == {option.attribute for option in OPTIONS} | {"backend"}
    assert len(fields) - 1 == len(OPTIONS) == len({option.dest for option in OPTIONS})
    assert settings_from(default_options()) == settings_from(object()) == Settings()
    assert set(SENSIBLE) == {option.flag for option in OPTIONS if option.default is not False}


def test_settings_are_frozen_hashable_and_checked() -> None:
    settings = Settings(default_memory="2G")  # type: ignore[arg-type]
    assert hash(settings) == hash(Settings())
    with pytest.raises(dataclasses.FrozenInstanceError):
        settings.stats = True  # type: ignore[misc]
    with pytest.raises(ValueError, match="--retryCount"):
        dataclasses.replace(settings, retry_count=-1)


def test_settings_survive_json() -> None:
    settings = settings_from(
        argparse.Namespace(**{o.dest: SENSIBLE.get(o.flag, (True, True))[0] for o in OPTIONS})
    )
    stored = json.loads(json.dumps(settings.to_dict()))
    assert Settings.from_dict(stored) == settings != Settings()


# -- options of batch systems ----------------------------------------------------------------------------------


def _slots(value: object) -> int:
    if int(str(value)) < 1:
        raise ValueError
    return int(str(value))


@pytest.fixture
def farm(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """There is a batch system with options of its own."""
    added = (
        BackendOption("--farmQueue", "The queue; default: the farm's.", metavar="NAME"),
        BackendOption("--farmSlots", "How many; default: 3.", 3, _slots, "a number above 0", "N"),
        BackendOption("--farmPolite", "Ask first.", False, metavar=""),
    )
    monkeypatch.setattr(registry, "options", lambda: {"farm": added})
    backend_options.cache_clear()
    yield
    backend_options.cache_clear()


@pytest.mark.parametrize("kind", ["argparse", "optparse"])
def test_options_of_a_batch_system_come_in_a_group_of_their_own(farm: None, kind: str) -> None:
    given = ["--farmSlots", "5", "--farmPolite"]
    options: Any
    if kind == "argparse":
        parser = argparse.ArgumentParser()
        add_options(parser)
        options, text = parser.parse_args(given), parser.format_help()
    else:
        optparser = optparse.OptionParser()
        add_options(optparser)
        options, text = optparser.parse_args(given)[0], optparser.format_help()
    assert "jobTree options of the batch system farm:" in text
    assert (options.farmQueue, options.farmSlots, options.farmPolite) == (None, 5, True)
    settings = settings_from(options)
    assert settings.backend == {"farmSlots": 5, "farmPolite": True}
    assert Settings.from_dict(json.loads(json.dumps(settings.to_dict()))) == settings != Settings()
    assert settings_from(default_options()) == Settings()


def test_a_wrong_value_for_a_batch_system_names_the_option(farm: None) -> None:
    with pytest.raises(
        ValueError, match="option --farmSlots: '0' was given, and a number above 0 is expected"
    ):
        settings_from(argparse.Namespace(farmSlots="0"))


def test_continuing_keeps_the_options_of_the_batch_system(farm: None) -> None:
    parser = jobtree.cli.run._parser()
    given = jobtree.cli.run._given(parser.parse_args(["--farmQueue", "long"]))
    assert given["backend"] == {"farmQueue": "long"}


def test_stored_settings_of_another_version() -> None:
    assert Settings.from_dict({"retry_count": 2, "unknown": 1}) == Settings(retry_count=2)
    with pytest.raises(ValueError, match="--durable"):
        Settings.from_dict({"durable": "none"})


Given = dict[str, Union[bool, str]]


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, None),
        ({"log_level": "warning"}, "WARNING"),
        ({"log_level": "CRITICAL", "log_info": True}, "INFO"),
        ({"log_debug": True}, "DEBUG"),
        ({"log_critical": True}, "CRITICAL"),
        ({"log_off": True, "log_debug": True}, "OFF"),
    ],
)
def test_the_level_that_is_meant(given: Given, expected: Optional[str]) -> None:
    assert Settings.from_dict(given).effective_log_level == expected
