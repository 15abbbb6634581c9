"""Complete scripts in the style of the original: how they are put together, and the names that they use."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.system.legacy_script import IMPORTS, MAIN, Place

SORT = """
class Setup(Target):
    def __init__(self):
        Target.__init__(self, time=1, memory=100000000, cpu=1)
    def run(self):
        out = [os.path.join(self.getGlobalTempDir(), str(i)) for i in range(3)]
        for i, path in enumerate(out):
            self.addChildTarget(Down(path, range(i, 9, 3)))
        self.setFollowOnTarget(Up(out))

class Down(Target):
    def __init__(self, path, numbers):
        Target.__init__(self)
        self.path = path
        self.numbers = numbers
    def run(self):
        with open(self.path, "w") as f:
            f.write("".join("%i\\n" % n for n in self.numbers))

class Up(Target):
    def __init__(self, paths):
        Target.__init__(self)
        self.paths = paths
    def run(self):
        with open("sorted", "w") as f:
            f.writelines(sorted(line for path in self.paths for line in open(path).readlines()))
"""


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


def sorted_numbers(place: Place) -> str:
    return (place.directory / "sorted").read_text().replace("\n", "")


# -- how scripts are put together ------------------------------------------------------------------------


def test_optparse_and_star_import_under_main(place: Place) -> None:
    place.pipeline(SORT).succeeded()
    assert sorted_numbers(place) == "012345678"


def test_targets_of_main_without_the_star_import(place: Place) -> None:
    main = """
        if __name__ == '__main__':
            parser = OptionParser()
            Stack.addJobTreeOptions(parser)
            options, args = parser.parse_args()
            sys.exit(Stack(Setup()).startJobTree(options))
    """
    place.write("pipeline.py", IMPORTS, SORT, main)
    place.run("pipeline.py", "--jobTree", "tree").succeeded()
    assert sorted_numbers(place) == "012345678"


def test_argparse(place: Place) -> None:
    main = """
        import argparse
        def main():
            parser = argparse.ArgumentParser()
            parser.add_argument("--out", required=True)
            Stack.addJobTreeOptions(parser)
            args = parser.parse_args()
            i = Stack(Setup()).startJobTree(args)
            if i != 0:
                raise RuntimeError("Got failed jobs")
            os.rename("sorted", args.out)
        if __name__ == '__main__':
            from pipeline import *
            main()
    """
    place.write("pipeline.py", IMPORTS, SORT, main)
    place.run(
        "pipeline.py", "--out", "there", "--jobTree", "tree", "--logInfo", "--maxThreads", "2"
    ).succeeded()
    assert (place.directory / "there").exists()


def test_option_groups_of_the_scripts_own(place: Place) -> None:
    main = """
        from optparse import OptionGroup
        def main():
            parser = OptionParser()
            group = OptionGroup(parser, "Sorting", "How to sort")
            group.add_option("--start", dest="start", type="int", default=0)
            parser.add_option_group(group)
            Stack.addJobTreeOptions(parser)
            parser.remove_option("--jobTree")
            options, args = parser.parse_args()
            options.jobTree = os.path.join(args[0], "jobTree")
            assert options.start == 7
            assert Stack(Setup()).startJobTree(options) == 0
        if __name__ == '__main__':
            from pipeline import *
            main()
    """
    place.write("pipeline.py", IMPORTS, SORT, main)
    (place.directory / "work").mkdir()
    place.run("pipeline.py", "--start", "7", "work").succeeded()
    assert (place.directory / "work" / "jobTree").is_dir()


def test_a_parser_class_that_adds_the_options_to_itself(place: Place) -> None:
    main = """
        class Parser(OptionParser):
            def __init__(self):
                OptionParser.__init__(self, usage="%prog [options]")
                Stack.addJobTreeOptions(self)
        def main():
            options, args = Parser().parse_args()
            if not options.jobTree:
                options.jobTree = "./.jobTree"
            assert Stack(Setup()).startJobTree(options) == 0
        if __name__ == '__main__':
            from pipeline import *
            main()
    """
    place.write("pipeline.py", IMPORTS, SORT, main)
    place.run("pipeline.py").succeeded()
    assert (place.directory / ".jobTree").is_dir()


def test_default_options_from_an_instance(place: Place) -> None:
    main = """
        def main():
            stack = Stack(Setup())
            options = stack.getDefaultOptions()
            options.jobTree = "tree"
            options.logLevel = "INFO"
            options.defaultMemory = 100000000
            options.defaultCpu = "1"
            assert stack.startJobTree(options) == 0
        if __name__ == '__main__':
            from pipeline import *
            main()
    """
    place.write("pipeline.py", IMPORTS, SORT, main)
    place.run("pipeline.py").succeeded()


def test_targets_in_a_module_of_their_own_and_a_package(place: Place) -> None:
    (place.directory / "lib").mkdir()
    place.write("lib/__init__.py", "")
    place.write("lib/targets.py", IMPORTS, SORT)
    place.write(
        "pipeline.py",
        IMPORTS,
        "from lib.targets import Setup",
        MAIN.replace("from pipeline import *", "pass"),
    )
    place.run("pipeline.py", "--jobTree", "tree").succeeded()
    assert sorted_numbers(place) == "012345678"


def test_statistics_and_status_by_the_old_functions(place: Place) -> None:
    place.pipeline(SORT, "--stats").succeeded()
    check = """
        from jobTree.src.common import runJobTreeStats, runJobTreeStatusAndFailIfNotComplete
        from jobTree.src.master import getConfigFileName
        import os
        runJobTreeStatusAndFailIfNotComplete("tree")
        runJobTreeStats("tree", "stats.out")
        assert os.path.getsize("stats.out") > 0 and os.path.isfile(getConfigFileName("tree"))
    """
    place.write("check.py", check)
    place.run("check.py").succeeded()


# -- functions -------------------------------------------------------------------------------------------


def test_functions_as_targets(place: Place) -> None:
    source = """
        def first(target, text, n=1):
            note("%s %i" % (text, n))
            target.addChildTargetFn(child, args=[1])
            target.addChildTargetFn(child, (2,))
            target.addChildFn(plain, (3,))
            target.setFollowOnTargetFn(last, args=(4,))
        def child(target, i):
            note("child %i in %s" % (i, os.path.isdir(target.getLocalTempDir())))
        def plain(i):
            note("plain %i" % i)
        def last(target, i):
            note("last %i" % i)
            target.setFollowOnFn(plain, (i + 1,))
        def Setup():
            return Target.makeTargetFn(first, args=("first",), kwargs={"n": 5})
    """
    place.pipeline(source).succeeded()
    assert place.notes() == ["child 1 in True", "child 2 in True", "first 5", "last 4", "plain 3", "plain 5"]


def test_commands_as_targets(place: Place) -> None:
    source = """
        class Setup(Target):
            def __init__(self):
                Target.__init__(self)
            def run(self):
                self.addChildCommand("echo one >> notes")
                self.addChildCommand("echo two | tr a-z A-Z >> notes; exit 3")
    """
    place.pipeline(source).failed("Got failed jobs", "exit status 3")
    assert place.notes() == ["TWO", "one"]


# -- how classes are written -----------------------------------------------------------------------------


def test_constructors_of_all_sorts(place: Place) -> None:
    source = """
        class Setup(Target):
            def run(self):
                for target in (Before(), Twice(), Super(), Derived()):
                    self.addChildTarget(target)
        class Before(Target):
            def __init__(self):
                self.text = "before"
                self.memory = 1
                Target.__init__(self, memory=50000000)
            def run(self):
                note("%s %s %s" % (self.text, self.memory, self.getMemory()))
        class Twice(Target):
            def __init__(self):
                Target.__init__(self)
                self.addChildTargetFn(hello)
                Target.__init__(self, time=5, memory=60000000)
            def run(self):
                note("twice %s" % self.getMemory())
        class Super(Target):
            def __init__(self):
                super(Super, self).__init__(memory=70000000)
            def run(self):
                note("super %s" % self.getMemory())
        class Derived(Super):
            def __init__(self):
                Super.__init__(self)
            def run(self):
                note("derived %s" % self.getMemory())
        def hello(target):
            note("hello")
    """
    place.pipeline(source).succeeded()
    assert place.notes() == [
        "before 1 50000000",
        "derived 70000000",
        "hello",
        "super 70000000",
        "twice 60000000",
    ]


# Attributes and methods that pipelines have put on their targets.
NAMES = """
    options args name index size file output type files cmd func config params time target targets command
    next outputs memory cpu status log version stats cwd key prev children stack followOn globalTempDir
    localTempDir job jobTree parent result id value state data path
"""
METHODS = "output exists name status version start stop finish fail success cleanup reset dir err column"


def test_attributes_of_any_name(place: Place) -> None:
    source = f"""
        names = {NAMES!r}.split()
        class Setup(Target):
            def __init__(self):
                for name in names:
                    setattr(self, name, "mine " + name)
                Target.__init__(self)
            def run(self):
                self.check()
                for name in names:
                    setattr(self, name, None)
                child = self.addChildTarget(Child())
                assert child.name == "mine name"
                self.getLocalTempDir(), self.getGlobalTempDir(), self.logToMaster("x")
                self.setFollowOnTarget(Last(self.args))
            def check(self):
                for name in names:
                    assert getattr(self, name) == "mine " + name, name
        class Child(Setup):
            def run(self):
                self.check()
                note("child")
        class Last(Target):
            def __init__(self, args):
                Target.__init__(self)
                self.args = args
            def run(self):
                note("last %s" % (self.args,))
    """
    place.pipeline(source).succeeded()
    assert place.notes() == ["child", "last None"]


def test_methods_of_any_name(place: Place) -> None:
    source = f"""
        class Setup(Target):
            def run(self):
                for name in {METHODS!r}.split():
                    assert getattr(self, name)() == "mine " + name
                self.setFollowOnTarget(Last())
        for method in {METHODS!r}.split():
            setattr(Setup, method, lambda self, method=method: "mine " + method)
        class Last(Setup):
            def run(self):
                note(self.output() + self.cleanup())
    """
    place.pipeline(source).succeeded()
    assert place.notes() == ["mine outputmine cleanup"]


def test_a_second_follow_on_is_an_error_that_names_both(place: Place) -> None:
    source = """
        class Setup(Target):
            def __init__(self):
                Target.__init__(self)
            def run(self):
                self.addChildTarget(One())
                self.setFollowOnTarget(One())
                self.setFollowOnTarget(Two())
        class One(Target):
            def run(self):
                note("one")
        class Two(One):
            pass
    """
    place.pipeline(source).failed("has the follow-on One", "Two", "Got failed jobs")
    assert place.notes() == []


def test_a_constructor_that_forgets_the_base_class(place: Place) -> None:
    source = """
        class Setup(Target):
            def run(self):
                self.addChildTarget(Forgetful())
        class Forgetful(Target):
            def __init__(self):
                self.x = 1
    """
    place.pipeline(source).failed("Forgetful.__init__ did not call Target.__init__")
    main = """
        if __name__ == '__main__':
            parser = OptionParser()
            Stack.addJobTreeOptions(parser)
            options, args = parser.parse_args()
            Stack(Forgetful()).startJobTree(options)
    """
    place.write("other.py", IMPORTS, source, main)
    place.run("other.py", "--jobTree", "other").failed("Forgetful.__init__ did not call Target.__init__")


def test_no_job_tree_given(place: Place) -> None:
    place.write("pipeline.py", IMPORTS, SORT, MAIN)
    place.run("pipeline.py").failed("Specify --jobTree")


def test_options_without_those_of_a_run(place: Place) -> None:
    main = """
        if __name__ == '__main__':
            options, args = OptionParser().parse_args()
            Stack(Setup()).startJobTree(options)
    """
    place.write("pipeline.py", IMPORTS, SORT, main)
    place.run("pipeline.py").failed("--jobTree")


def test_a_wrong_option_is_a_usage_error(place: Place) -> None:
    place.write("pipeline.py", IMPORTS, SORT, MAIN)
    ran = place.run("pipeline.py", "--jobTree", "tree", "--defaultMemory", "much").failed(
        "--defaultMemory", "'much'"
    )
    assert ran.status == 2
    assert not (place.directory / "tree").exists()
