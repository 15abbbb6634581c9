"""What runs when, and what targets hand to one another."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from tests.system.legacy_script import Ran
from tests.system.pipelines import Pipeline, failures

# -- order -----------------------------------------------------------------------------------------------------

TREE = """
class Setup(Target):
    '''At each level two children and two follow-ons, of which the first adds a child too.'''
    def __init__(self, path="r", levels=3):
        Target.__init__(self)
        self.path, self.levels = path, levels
    def run(self):
        note("start " + self.path)
        if self.levels:
            for name in "ab":
                self.addChildTarget(Setup(self.path + "/" + name, self.levels - 1))
            self.setFollowOnTarget(Then(self.path, self.levels - 1, 1))
        note("end " + self.path)

class Then(Target):
    def __init__(self, path, levels, step):
        Target.__init__(self)
        self.path, self.levels, self.step = path, levels, step
    def run(self):
        me = "%s.%d" % (self.path, self.step)
        note("start " + me)
        if self.step == 1:
            self.addChildTarget(Setup(me + "/c", self.levels))
            self.setFollowOnTarget(Then(self.path, self.levels, 2))
        note("end " + me)
"""


@pytest.mark.parametrize("threads", ["1", "2"])
def test_a_follow_on_starts_after_all_that_its_founder_and_the_steps_before_it_led_to(
    tmp_path: Path, threads: str
) -> None:
    pipeline = Pipeline(tmp_path, TREE)
    pipeline.run("--maxThreads", threads, "--defaultCpu", "0.5").succeeded()
    notes = pipeline.notes()
    assert len(notes) == len(set(notes)) == 2 * 66
    at = {note: index for index, note in enumerate(notes)}
    for target in (note[len("start ") :] for note in notes if note.startswith("start ")):
        assert at["start " + target] < at["end " + target]
        path, _, step = target.rpartition(".")
        if step in ("1", "2") and "/" not in step:
            # Everything below the founder, and below the follow-on before this one, has ended.
            below = [f"end {path}"] if step == "1" else [f"end {path}.1"]
            below += [note for note in notes if note.startswith(f"end {path}/")]
            if step == "2":
                below += [note for note in notes if note.startswith(f"end {path}.1/")]
                assert len(below) > 1
            assert max(at[note] for note in below) < at[f"start {target}"]
        elif "/" in target:
            parent = target.rpartition("/")[0]
            assert at["end " + parent] < at["start " + target]


DEEP = """
class Setup(Target):
    def __init__(self, kind=None, n=0):
        Target.__init__(self)
        self.kind, self.n = kind, n
    def run(self):
        if self.kind is None:
            self.addChildTarget(Setup("child", 300))
            self.addChildTarget(Setup("follow-on", 300))
            self.addChildTarget(Setup("both", 100))
            self.setFollowOnTarget(Setup("last"))
            return
        note(self.kind)
        if self.kind in ("child", "both") and self.n:
            self.addChildTarget(Setup(self.kind, self.n - 1))
        if self.kind in ("follow-on", "both") and self.n:
            self.setFollowOnTarget(Setup("follow-on", self.n - 1 if self.kind == "follow-on" else 0))
"""


@pytest.mark.parametrize("job_time", ["30", "0"])
def test_depth_has_no_limit(tmp_path: Path, job_time: str) -> None:
    """job_time 0: nothing goes straight on, each step is a bundle of its own."""
    pipeline = Pipeline(tmp_path, DEEP if job_time == "30" else DEEP.replace("00)", "0)"))
    pipeline.run("--jobTime", job_time).succeeded()
    n = 100 if job_time == "30" else 10
    assert pipeline.counted() == {"child": 3 * n + 1, "follow-on": 3 * n + 1 + n, "both": n + 1, "last": 1}
    assert pipeline.notes()[-1] == "last"


WIDE = """
class Setup(Target):
    def run(self):
        shared = self.getGlobalTempDir()
        for i in range(5000):
            self.addChildTarget(Child(i, shared))
        self.setFollowOnTarget(Closer(shared))
class Child(Target):
    def __init__(self, i, shared):
        Target.__init__(self)
        self.i, self.shared = i, shared
    def run(self):
        open(os.path.join(self.shared, str(self.i)), "x").close()
class Closer(Target):
    def __init__(self, shared):
        Target.__init__(self)
        self.shared = shared
    def run(self):
        assert self.getGlobalTempDir() == self.shared
        note(len(os.listdir(self.shared)))
        for i in range(2):
            self.addChildTarget(Late(self.shared))
class Late(Target):
    def __init__(self, shared):
        Target.__init__(self)
        self.shared = shared
    def run(self):
        note("late %d" % len(os.listdir(self.shared)))
        self.setFollowOnTarget(Latest(self.shared))
class Latest(Late):
    def run(self):
        note("latest %d" % len(os.listdir(self.shared)))
"""


def test_many_children_and_a_closer_whose_children_find_the_chains_directory(tmp_path: Path) -> None:
    pipeline = Pipeline(tmp_path, WIDE)
    pipeline.run("--durable", "tree").succeeded()
    assert pipeline.counted() == {"5000": 1, "late 5000": 2, "latest 5000": 2}
    assert pipeline.leftovers() == []


BARRIER = """
import select

class Setup(Target):
    def run(self):
        os.mkfifo("all are here")
        for i in range(4):
            self.addChildTarget(Meets(i))

class Meets(Target):
    def __init__(self, i):
        Target.__init__(self, cpu=0.25, memory="10M")
        self.i = i
    def run(self):
        fd = os.open("all are here", os.O_RDWR)
        note("here")
        if sum(1 for _ in open(os.path.join(HERE, "notes"))) == 4:
            os.write(fd, b"....")
        assert select.select([fd], [], [], 20)[0], "the others did not come"
        os.read(fd, 1)
"""


def test_siblings_of_one_class_that_fit_and_wait_for_one_another(tmp_path: Path) -> None:
    pipeline = Pipeline(tmp_path, BARRIER)
    pipeline.run("--maxThreads", "1").succeeded()
    assert pipeline.counted() == {"here": 4}


# -- the interface ---------------------------------------------------------------------------------------------

INTERFACE = """
def plain(*args, **kwargs):
    note(("plain", args, sorted(kwargs.items())))
    return 7

def with_target(target, *args, **kwargs):
    note(("target", isinstance(target, Target), args, sorted(kwargs.items())))
    note(("asked", target.getMemory(), target.getCpu(), target.getRunTime()))
    return args

class Setup(Target):
    def run(self):
        assert self.getRunTime() is None and self.getMemory() == 2 * 2**30 and self.getCpu() == 1
        asked = Target(time=5, memory="1 MiB", cpu=0.5)
        assert (asked.getRunTime(), asked.getMemory(), asked.getCpu()) == (5, 2**20, 0.5)
        a = self.addChildFn(plain, (1, 2), {"x": 3})
        b = self.addChildTargetFn(with_target, (4,), {"y": 5}, time=2, memory="50M", cpu=0.5)
        c = self.addChildTarget(Target.makeTargetFn(with_target, ["c"], memory=10_000_000))
        self.addChildCommand("echo from the command >> command.out")
        self.addChildCommand("echo said by the command; exit 3")
        self.addChildCommand("kill -TERM $$")
        self.setFollowOnFn(plain, ("follow-on",))
        big = self.addChildTarget(Big())
        assert big.getFollowOn() is None

class Big(Target):
    def __init__(self):
        Target.__init__(self, cpu=2, memory="300M")
    def run(self):
        note(("big", self.getMemory(), self.getCpu()))
        small = Small()
        assert self.setFollowOnTarget(small) is small is self.getFollowOn()

class Small(Target):
    def __init__(self):
        Target.__init__(self, cpu=1, memory="100M")
    def run(self):
        note(("small", self.getMemory(), self.getCpu()))
        self.setFollowOnTargetFn(with_target, ("last",), cpu=1)
"""


@pytest.fixture(scope="module")
def interface(tmp_path_factory: pytest.TempPathFactory) -> tuple[Pipeline, Ran]:
    pipeline = Pipeline(tmp_path_factory.mktemp("interface"), INTERFACE)
    return pipeline, pipeline.run("--maxThreads", "2")


def test_functions_get_their_arguments_and_the_target(interface: tuple[Pipeline, Ran]) -> None:
    pipeline, ran = interface
    notes = pipeline.notes()
    expected: list[tuple[object, ...]] = [
        ("plain", (1, 2), [("x", 3)]),
        ("target", True, (4,), [("y", 5)]),
        ("target", True, ("c",), []),
        ("target", True, ("last",), []),
    ]
    for said in expected:
        assert notes.count(str(said)) == 1, ran.err
    assert str(("plain", ("follow-on",), [])) not in notes  # two commands have failed
    assert str(("asked", 50_000_000, 0.5, 2.0)) in notes or str(("asked", 50 * 2**20, 0.5, 2.0)) in notes
    assert any(note.startswith("('asked', 10000000, 1") for note in notes)


def test_a_follow_on_has_the_resources_that_it_asked_for_itself(interface: tuple[Pipeline, Ran]) -> None:
    found = {}
    for line in interface[0].notes():
        kind, *values = ast.literal_eval(line)
        found[kind] = values
    assert found["big"] == [300_000_000, 2] or found["big"] == [300 * 2**20, 2]
    assert found["small"] == [100_000_000, 1] or found["small"] == [100 * 2**20, 1]


def test_commands(interface: tuple[Pipeline, Ran]) -> None:
    pipeline, ran = interface
    assert ran.status == 1
    assert "failed: 2" in ran.out
    assert (pipeline.directory / "command.out").read_text() == "from the command\n"
    assert "the command ended with exit status 3: echo said by the command; exit 3" in ran.err
    assert "the command ended with signal 15: kill -TERM $$" in ran.err
    assert "    said by the command" in ran.err.splitlines()


# -- promises --------------------------------------------------------------------------------------------------

PROMISES = """
import collections

class Value(Target):
    def __init__(self, value):
        Target.__init__(self)
        self.value = value
    def run(self):
        return self.value

class Later(Target):
    '''Its own value is there only when its follow-on's is: what it returns is a promise.'''
    def run(self):
        child = self.addChildTarget(Value(20))
        return {"sum": self.setFollowOnTarget(Add(child.rv(), 1)).rv(), "other": [self.addChildTarget(Value("o")).rv()]}

class Add(Target):
    def __init__(self, a, b):
        Target.__init__(self)
        self.a, self.b = a, b
    def run(self):
        return self.a + self.b

class Take(Target):
    def __init__(self, **given):
        Target.__init__(self)
        self.given = given
    def run(self):
        given = self.given
        assert type(given["dict"]) is dict, given
        assert given["big"] == b"x" * 3_000_000
        given["big"] = len(given["big"])
        assert given["again"] is given["dict"]
        note(sorted(given.items()))
        # Passed on once more, and to a grandchild, which is a way for values to go as well.
        child = self.addChildTarget(Value([given["later"], 5]))
        return child.rv(1)

class Setup(Target):
    def run(self):
        mean = self.addChildTarget(Value({"mean": [1, (2, 3)], "n": 0}))
        none = self.addChildTarget(Value(None))
        later = self.addChildTarget(Later())
        big = self.addChildTarget(Value(b"x" * 3_000_000))
        Point = collections.namedtuple("Point", "x y")
        last = self.setFollowOnTarget(Take(
            dict=mean.rv(),
            again=mean.rv(),
            picked=mean.rv("mean", 1, 0),
            nested=[{"a": (mean.rv("n"), none.rv())}, {3: [later.rv("sum")]}],
            later=later.rv("sum"),
            other=later.rv("other"),
            big=big.rv(),
        ))
        return {"last": last.rv(), "n": mean.rv("n")}
"""


@pytest.mark.parametrize("job_time", ["30", "0"])
def test_promises_are_kept_wherever_they_are(tmp_path: Path, job_time: str) -> None:
    pipeline = Pipeline(tmp_path, PROMISES)
    ran = pipeline.run("--jobTime", job_time).succeeded()
    assert "result: {'last': 5, 'n': 0}" in ran.out
    (line,) = pipeline.notes()
    assert dict(ast.literal_eval(line)) == {
        "dict": {"mean": [1, (2, 3)], "n": 0},
        "again": {"mean": [1, (2, 3)], "n": 0},
        "picked": 2,
        "nested": [{"a": (0, None)}, {3: [21]}],
        "later": 21,
        "other": ["o"],
        "big": 3_000_000,
    }
    assert [path for path in (pipeline.tree / "values").rglob("*") if path.is_file()] == []


BROKEN_PROMISES = """
import threading

class Unpicklable(Target):
    def run(self):
        return {"lock": threading.Lock()}

class Early(Target):
    def __init__(self, promise):
        Target.__init__(self)
        self.promise = promise
    def run(self):
        return 1 + self.promise["x"]

class Never(Target):
    def run(self):
        pass

class Short(Target):
    def run(self):
        return [1, 2]

class Picks(Target):
    def __init__(self, value):
        Target.__init__(self)
        self.value = value
    def run(self):
        note("should not have started")

class PicksTooFar(Target):
    def run(self):
        short = self.addChildTarget(Short())
        self.setFollowOnTarget(Picks(short.rv(2)))

class Promises(Target):
    def run(self):
        bad = self.addChildTarget(Unpicklable())
        self.setFollowOnTarget(Picks(bad.rv()))

class NobodyAsked(Target):
    def run(self):
        note("nobody asked for it")
        return threading.Lock()

class Setup(Target):
    def run(self):
        self.addChildTarget(Promises())
        self.addChildTarget(PicksTooFar())
        self.addChildTarget(Early(Never().rv()))
        self.addChildTarget(NobodyAsked())
"""


def test_promises_that_cannot_be_kept(tmp_path: Path) -> None:
    pipeline = Pipeline(tmp_path, BROKEN_PROMISES)
    ran = pipeline.run()
    said = failures(ran.err)
    assert (ran.status, set(said)) == (1, {"Unpicklable", "Early", "Picks"}), ran.err
    assert "Unpicklable.run() returned a dict that cannot be stored" in said["Unpicklable"]
    assert "lock" in said["Unpicklable"]
    assert "the promise of Never.run() was used before that target had ended" in said["Early"]
    assert "Short.run() returned a list, from which rv(2) cannot pick" in said["Picks"]
    assert pipeline.notes() == ["nobody asked for it"]


LARGE = """
class Setup(Target):
    def run(self):
        note("setup")
        self.addChildTarget(Child())
        return b"x" * 3_000_000
class Child(Target):
    def run(self):
        note("child")
        if not os.path.exists(os.path.join(HERE, "fixed")):
            raise ValueError("not yet")
"""


def test_a_target_that_returns_a_large_value_and_leaves_one_child(tmp_path: Path) -> None:
    """The worker goes straight on with the only child, under the very number that the child is stored under."""
    pipeline = Pipeline(tmp_path, LARGE)
    ran = pipeline.run("--retryCount", "1")
    assert ran.status == 1
    assert pipeline.counted() == {"setup": 1, "child": 2}, ran.err
    (tmp_path / "fixed").touch()
    pipeline.run().succeeded()
    assert pipeline.counted() == {"setup": 1, "child": 3}


BOUND = """
class Setup(Target):
    def work(self, i):
        note(i)
    def run(self):
        for i in range(400):
            self.addChildFn(self.work, (i,))
        self.setFollowOnFn(self.work, ("last",))
"""


def test_children_that_are_methods_of_their_parent_do_not_carry_their_siblings_along(tmp_path: Path) -> None:
    pipeline = Pipeline(tmp_path, BOUND)
    pipeline.run().succeeded()
    assert pipeline.counted() == {**{str(i): 1 for i in range(400)}, "last": 1}
    assert (pipeline.tree / "tree.sqlite").stat().st_size < 1_000_000


SELF = """
class Setup(Target):
    n = 0
    def run(self):
        note("run %d" % self.n)
        self.n += 1
        if self.n < 4:
            self.addChildFn(note, ("child of %d" % self.n,))
            self.setFollowOnTarget(self)
        elif self.n == 4:
            self.addChildFn(note, ("child of 4",))
            self.addChildTarget(self)
"""


def test_a_target_may_go_on_with_itself(tmp_path: Path) -> None:
    pipeline = Pipeline(tmp_path, SELF)
    pipeline.run().succeeded()
    assert pipeline.counted() == {
        **{f"run {n}": 1 for n in range(5)},
        **{f"child of {n}": 1 for n in range(1, 5)},
    }


def test_children_added_before_the_parent_is_handed_over(tmp_path: Path) -> None:
    pipeline = Pipeline(
        tmp_path,
        """
        class Setup(Target):
            def __init__(self, depth=2):
                Target.__init__(self)
                self.depth = depth
                if depth:
                    self.addChildTarget(Setup(depth - 1))
                    self.addChildTarget(Setup(depth - 1))
                    self.setFollowOnFn(note, ("after %d" % depth,))
            def run(self):
                note("run %d" % self.depth)
        """,
    )
    pipeline.run().succeeded()
    assert pipeline.counted() == {"run 2": 1, "run 1": 2, "run 0": 4, "after 1": 2, "after 2": 1}
