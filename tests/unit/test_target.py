"""What users write: recording children and a follow-on, and what is said when it is done wrongly."""

from __future__ import annotations

import functools
import os
import pickle
import sys
import warnings
from collections.abc import Iterator
from typing import Any, Callable, Optional

import pytest

from jobtree import legacy
from jobtree.errors import FollowOnExists, NotRunning, TargetError, TargetNotInitialised
from jobtree.promise import Promise
from jobtree.recorded import Recorded, set_surroundings
from jobtree.target import (  # fmt: skip
    CommandTarget,
    FunctionTarget,
    Target,
    check_target,
    class_name,
    describe,
)  # fmt: skip
from tests.unit.targets_in_a_module import (
    Data,
    Forgetful,
    Outer,
    Plain,
    WithoutInit,
    add,
    give_target,
    only_named,
)  # fmt: skip


class Surroundings:
    """What a worker gives."""

    memory = 77
    cpu = 2.5

    def __init__(self) -> None:
        self.messages: list[str] = []

    def local_temp_dir(self) -> str:
        return "/local"

    def global_temp_dir(self) -> str:
        return "/global"

    def log_to_master(self, message: str) -> None:
        self.messages.append(message)

    def report_progress(self, fraction: Optional[float], words: str) -> None:
        self.messages.append(f"{fraction} {words}")


def test_children_are_recorded_in_order_and_given_back() -> None:
    parent = Plain()
    children = [Plain(n) for n in range(3)]

    assert [parent.addChildTarget(child) for child in children] == children

    assert Recorded(parent).children == children
    assert Recorded(parent).follow_on is None


def test_follow_on_is_recorded_and_given_back() -> None:
    parent, following = Plain(), Plain()
    assert parent.getFollowOn() is None

    assert parent.setFollowOnTarget(following) is following

    assert parent.getFollowOn() is following
    assert Recorded(parent).follow_on is following


def test_second_follow_on_is_refused_and_names_both() -> None:
    parent = Plain()
    first = parent.setFollowOnTarget(WithoutInit())

    with pytest.raises(FollowOnExists, match=r"Plain has the follow-on WithoutInit .* Data"):
        parent.setFollowOnTarget(Data())

    assert parent.getFollowOn() is first


METHODS: list[Callable[[Target], Callable[[Any], Any]]] = [
    lambda target: target.addChildTarget,
    lambda target: target.setFollowOnTarget,
]


@pytest.mark.parametrize("method", METHODS, ids=["child", "follow-on"])
def test_class_instead_of_an_instance_is_refused_with_the_brackets_to_add(
    method: Callable[[Target], Any],
) -> None:
    with pytest.raises(TargetError, match=r"Write Plain\(\.\.\.\), with brackets"):
        method(Plain())(Plain)


@pytest.mark.parametrize("method", METHODS, ids=["child", "follow-on"])
def test_function_instead_of_a_target_is_refused_with_the_method_to_use(
    method: Callable[[Target], Any],
) -> None:
    with pytest.raises(TargetError, match="addChildFn"):
        method(Plain())(add)


@pytest.mark.parametrize("method", METHODS, ids=["child", "follow-on"])
@pytest.mark.parametrize("nonsense", [None, 7, "target", object(), Plain().rv()])
def test_anything_else_is_refused(method: Callable[[Target], Any], nonsense: object) -> None:
    with pytest.raises(TargetError, match="takes an instance of Target"):
        method(Plain())(nonsense)


@pytest.mark.parametrize("method", METHODS, ids=["child", "follow-on"])
def test_target_whose_init_was_not_called_is_refused_by_name(method: Callable[[Target], Any]) -> None:
    with pytest.raises(TargetNotInitialised, match=r"Forgetful.__init__ did not call Target.__init__"):
        method(Plain())(Forgetful())


USES: dict[str, Callable[[Target], object]] = {
    "addChildTarget": lambda t: t.addChildTarget(Plain()),
    "setFollowOnTarget": lambda t: t.setFollowOnTarget(Plain()),
    "addChildFn": lambda t: t.addChildFn(add, (1,)),
    "addChildCommand": lambda t: t.addChildCommand("true"),
    "rv": lambda t: t.rv(),
    "getLocalTempDir": lambda t: t.getLocalTempDir(),
    "getMemory": lambda t: t.getMemory(),
    "getCpu": lambda t: t.getCpu(),
    "getRunTime": lambda t: t.getRunTime(),
    "getFollowOn": lambda t: t.getFollowOn(),
}


@pytest.mark.parametrize("use", USES)
def test_every_method_of_a_target_whose_init_was_not_called_says_what_is_missing(use: str) -> None:
    with pytest.raises(TargetNotInitialised, match=r"Forgetful.__init__ did not call Target.__init__"):
        USES[use](Forgetful())


def test_subclass_without_init_is_a_target() -> None:
    target = WithoutInit(memory="1K", cpu=2, time=3)

    check_target(target, "run")
    assert (target.getMemory(), target.getCpu(), target.getRunTime()) == (1024, 2.0, 3.0)


def test_init_twice_keeps_what_was_added_and_takes_the_later_request() -> None:
    target = Plain(memory=5)
    child, following = target.addChildTarget(Plain()), target.setFollowOnTarget(Plain())
    token = target.rv()._token

    Target.__init__(target, memory=6)

    recorded = Recorded(target)
    assert (recorded.children, recorded.follow_on, recorded.token) == ([child], following, token)
    assert recorded.request[1] == 6


COLLISIONS = [
    "options", "memory", "cpu", "time", "children", "follow_on", "followOn", "token", "surroundings", "state",
    "__children", "_children", "rv_", "name", "id", "fn", "args", "kwargs", "command",
]  # fmt: skip


class Collides(Target):
    """Has its own ideas of nearly every name."""

    def __init__(self) -> None:
        Target.__init__(self, memory=5)
        for name in COLLISIONS:
            setattr(self, name, f"my {name}")

    def describe(self) -> str:
        return "mine"

    def __eq__(self, other: object) -> bool:
        return True

    def __len__(self) -> int:
        return 0

    def __hash__(self) -> int:
        return 0

    def __getattr__(self, name: str) -> Any:
        raise RuntimeError(f"asked for {name}")


def test_attributes_and_methods_of_users_do_not_meet_ours() -> None:
    target, child, following = Collides(), Collides(), Collides()

    target.addChildTarget(child)
    target.setFollowOnTarget(following)

    recorded = Recorded(target)
    assert len(recorded.children) == 1
    assert recorded.children[0] is child
    assert recorded.follow_on is following
    assert recorded.request[1] == 5
    assert vars(target)["memory"] == "my memory"
    assert describe(target) == "Collides"


def test_private_names_of_a_subclass_that_is_called_target_too_do_not_meet_ours() -> None:
    namespace: dict[str, Any] = {"base": Target}
    exec(  # the name of the class counts: private names are mangled with it
        "class Target(base):\n"
        "    def __init__(self):\n"
        "        base.__init__(self, memory=5)\n"
        "        self.__children = 'mine'\n"
        "        self.__memory = 'mine'\n",
        namespace,
    )
    target = namespace["Target"]()

    target.addChildTarget(Plain())

    assert len(Recorded(target).children) == 1
    assert Recorded(target).request[1] == 5


def test_frozen_dataclass_can_be_a_target() -> None:
    from dataclasses import dataclass

    @dataclass(frozen=True)
    class Frozen(Target):
        path: str

        def __post_init__(self) -> None:
            Target.__init__(self, memory=5)

    target = Frozen("x")
    child = target.addChildTarget(Plain())

    assert Recorded(target).children == [child]
    assert isinstance(target.rv(), Promise)


@pytest.mark.parametrize("unspecified", [None, sys.maxsize, 2**63 - 1])
def test_unspecified_requests_are_none(unspecified: Any) -> None:
    target = Plain(time=unspecified, memory=unspecified, cpu=unspecified)

    assert (target.getRunTime(), target.getMemory(), target.getCpu()) == (None, None, None)


@pytest.mark.parametrize("name", ["time", "cpu"])
@pytest.mark.parametrize("value", [-1, float("nan"), float("inf"), "many", [], object()])
def test_requests_that_make_no_sense_are_refused_by_name(name: str, value: Any) -> None:
    with pytest.raises(ValueError, match=f"{name}="):
        Plain(**{name: value})


@pytest.mark.parametrize("value", [-1, float("nan"), "2 cows", True])
def test_memory_that_makes_no_sense_is_refused(value: Any) -> None:
    with pytest.raises(ValueError, match="memory"):
        Plain(memory=value)


def test_what_is_given_while_it_runs_replaces_what_was_asked_for() -> None:
    target, around = Plain(memory=5, cpu=1), Surroundings()

    set_surroundings(target, around)
    target.logToMaster(42)
    target.reportProgress(0.5, 42)

    assert (target.getMemory(), target.getCpu()) == (77, 2.5)
    assert (target.getLocalTempDir(), target.getGlobalTempDir(), around.messages) == (
        "/local",
        "/global",
        ["42", "0.5 42"],
    )
    set_surroundings(target, None)
    assert (target.getMemory(), target.getCpu()) == (5, 1.0)


def test_what_a_target_has_left_is_its_outcome_and_no_longer_a_part_of_it() -> None:
    parent = Plain()
    set_surroundings(parent, Surroundings())
    children = [parent.addChildTarget(Plain(parent, n)) for n in range(3)]
    following = parent.setFollowOnTarget(parent)
    set_surroundings(parent, None)

    assert Recorded(parent).children == children
    assert Recorded(parent).follow_on is following
    stored = pickle.loads(pickle.dumps(children[0], 5)).values[0]
    assert (Recorded(stored).children, Recorded(stored).follow_on) == ([], None)
    assert stored.getFollowOn() is None
    assert len(pickle.dumps(children[0], 5)) == len(pickle.dumps(children[-1], 5))


@pytest.mark.parametrize("method", ["getLocalTempDir", "getGlobalTempDir", "logToMaster", "reportProgress"])
def test_services_of_the_worker_are_refused_outside_run(method: str) -> None:
    arguments = ["x"] if method in ("logToMaster", "reportProgress") else []

    with pytest.raises(NotRunning, match=rf"Plain\.{method}\(\)"):
        getattr(Plain(), method)(*arguments)


# -- functions and commands ------------------------------------------------------------------------------------


def test_function_forms_run_the_function() -> None:
    parent = Plain()
    plain = parent.addChildFn(add, (1,), {"y": 5})
    with_target = parent.addChildTargetFn(give_target, ["v"])
    following = parent.setFollowOnTargetFn(give_target, ("w",))

    assert plain.run() == 6
    assert with_target.run() == (with_target, "v")
    assert following.run() == (following, "w")
    assert Recorded(parent).children == [plain, with_target]
    assert Plain().setFollowOnFn(add, (2,)).run() == 3
    made = Target.makeTargetFn(give_target, ("x",))
    assert made.run() == (made, "x")


def test_arguments_are_taken_as_they_are_when_the_target_is_made() -> None:
    arguments, options = [1], {"y": 1}
    target = Plain().addChildFn(add, arguments, options)

    arguments[0], options["y"] = 100, 100

    assert target.run() == 2


def test_text_in_place_of_arguments_is_refused_with_the_comma_to_add() -> None:
    with pytest.raises(TargetError, match=r"write args=\('path',\)"):
        Plain().addChildFn(add, "path")


def test_function_that_cannot_be_called_like_that_is_refused_where_it_is_added() -> None:
    for mistaken, said in (
        (
            lambda: Plain().addChildTargetFn(add, (1, 2)),
            "too many positional arguments.*pass the target itself first",
        ),
        (
            lambda: Plain().addChildFn(give_target, ()),
            "missing a required argument.*pass only args and kwargs",
        ),
        (lambda: Plain().setFollowOnFn(add, (1,), {"z": 2}), "unexpected keyword argument 'z'"),
        (lambda: Target.makeTargetFn(only_named), "missing a required"),
    ):
        with pytest.raises(TargetError, match=f"cannot be called with what it is given: .*{said}"):
            mistaken()


def test_function_is_refused_only_if_it_is_sure_to_fail() -> None:
    for fn, args, options in (
        (add, (1,), None),
        (add, (1, 2), None),
        (add, (), {"x": 1, "y": 2}),
        (only_named, (1,), {"named": 2}),
        (lambda *anything, **more: None, (1, 2, 3), {"z": 1}),
        (max, (1, 2), None),
        (functools.partial(add, 1), (2,), None),
        (Plain().logToMaster, ("a method",), None),
    ):
        Plain().addChildFn(fn, args, options)


def test_result_in_place_of_the_function_is_refused() -> None:
    with pytest.raises(TargetError, match="not its result"):
        Plain().addChildFn(add(1))  # type: ignore[arg-type]


@pytest.mark.parametrize("nothing", ["", " \n ", None, ["ls", "-l"], b"ls"])
def test_command_that_is_empty_or_no_text_is_refused(nothing: Any) -> None:
    with pytest.raises(TargetError, match="command line"):
        Plain().addChildCommand(nothing)


@pytest.mark.parametrize(("command", "how"), [("exit 3", "exit status 3"), ("kill -9 $$", "signal 9")])
def test_command_that_fails_says_how(command: str, how: str) -> None:
    with pytest.raises(TargetError, match=how):
        CommandTarget(command).run()


def test_command_that_ends_well_is_done() -> None:
    CommandTarget("test 1 -lt 2 && true").run()


@pytest.fixture
def legacy_resources() -> Iterator[None]:
    legacy.use_legacy_function_resources()
    yield
    legacy._ignored = False


@pytest.mark.usefixtures("legacy_resources")
def test_scripts_of_the_original_have_memory_and_cpu_of_functions_ignored() -> None:
    with pytest.warns(UserWarning, match="ignored"):
        target = Plain().addChildTargetFn(give_target, (1,), memory=5, cpu=3)

    assert (target.getMemory(), target.getCpu()) == (None, None)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert Plain().addChildFn(add, (1,), memory=5).getMemory() is None  # said once is enough
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Plain().addChildTargetFn(give_target, (1,), memory=sys.maxsize, time=3)


# -- names -----------------------------------------------------------------------------------------------------


class Callable_:
    def __call__(self) -> None: ...


NAMES: list[tuple[Target, str, str]] = [
    (Plain(), "tests.unit.targets_in_a_module.Plain", "Plain"),
    (Outer.Inner(), "tests.unit.targets_in_a_module.Outer.Inner", "Inner"),
    (FunctionTarget(add, (1,), None, None, None, None, False), "tests.unit.targets_in_a_module.add", "add"),
    (FunctionTarget(os.getcwd, (), None, None, None, None, False), "posix.getcwd", "getcwd"),
    (FunctionTarget(Callable_(), (), None, None, None, None, False), f"{__name__}.Callable_", "Callable_"),
    (CommandTarget("/usr/bin/sort -n x"), "command sort", "command sort"),
]


@pytest.mark.parametrize(("target", "name", "short"), NAMES, ids=[short for _, _, short in NAMES])
def test_targets_are_counted_by_class_function_or_first_word(target: Target, name: str, short: str) -> None:
    assert class_name(target) == name
    assert describe(target) == short


def test_promise_is_the_same_every_time_and_another_for_every_target() -> None:
    one, two = Plain(), Plain()

    assert one.rv()._token == one.rv("key")._token == Recorded(one).token
    assert one.rv()._token != two.rv()._token
