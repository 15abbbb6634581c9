"""Habits of real pipelines that a replacement for the original breaks easily, one test for each."""

from __future__ import annotations

import re
import shutil
import sys
from pathlib import Path

import pytest

from tests.system.legacy_script import IMPORTS, MAIN, Place

SIMPLE = """
class Setup(Target):
    def __init__(self):
        Target.__init__(self)
    def run(self):
        note("setup")
"""


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


# -- resources -------------------------------------------------------------------------------------------


def test_the_largest_integer_means_not_specified(place: Place) -> None:
    source = """
        class Setup(Target):
            def __init__(self):
                Target.__init__(self, time=sys.maxsize, memory=sys.maxsize, cpu=sys.maxsize)
            def run(self):
                note("%s %s" % (self.getMemory(), float(self.getCpu())))
    """
    place.pipeline(source, "--defaultMemory", "80000000", "--defaultCpu", "0.5").succeeded()
    assert place.notes() == ["80000000 0.5"]


def test_options_may_hold_the_largest_integer_too(place: Place) -> None:
    biggest = str(sys.maxsize)
    place.pipeline(
        SIMPLE, "--maxCpus", biggest, "--maxMemory", biggest, "--maxJobDuration", biggest
    ).succeeded()


def test_memory_may_be_a_float_and_above_the_default_and_cpu_a_half(place: Place) -> None:
    source = """
        class Setup(Target):
            def __init__(self):
                Target.__init__(self, time=0.5, memory=2e8, cpu=0.5)
            def run(self):
                note("%s %s" % (self.getMemory(), self.getCpu()))
    """
    place.pipeline(source, "--defaultMemory", "10000000").succeeded()
    assert place.notes() == ["200000000 0.5"]


GREEDY = """
def greedy(target, text):
    note("%s %s %s" % (text, target.getMemory(), float(target.getCpu())))
    if text == "first":
        target.addChildTargetFn(greedy, ("child",), time=1, memory=10**16, cpu=10**6)
        target.setFollowOnTargetFn(greedy, ("last",), memory=10**16)
def Setup():
    return Target.makeTargetFn(greedy, ("first",), memory=10**16, cpu=10**6)
"""


def test_resources_of_function_targets_are_ignored_with_one_warning(place: Place) -> None:
    ran = place.pipeline(GREEDY, "--defaultMemory", "70000000").succeeded()
    assert place.notes() == ["child 70000000 1.0", "first 70000000 1.0", "last 70000000 1.0"]
    assert ran.err.count("are ignored, as the original") == 1


def test_resources_of_function_targets_count_with_the_new_imports(place: Place) -> None:
    imports = """
        from optparse import OptionParser
        from jobtree import Stack, Target
        def note(text):
            raise AssertionError("cannot run: the machine has less")
    """
    place.write("pipeline.py", imports, GREEDY, MAIN.replace("setLoggingFromOptions(options)", "pass"))
    ran = place.run("pipeline.py", "--jobTree", "tree").failed("Got failed jobs")
    assert "are ignored" not in ran.err


# -- what targets hold, and where they run ---------------------------------------------------------------


def test_targets_hold_options_elements_functions_classes_and_targets(place: Place) -> None:
    source = """
        import argparse, collections, xml.etree.ElementTree as ET
        Point = collections.namedtuple("Point", "x y")
        def function():
            return "function"
        class Plain(object):
            pass
        class Setup(Target):
            def __init__(self):
                Target.__init__(self)
                parser = OptionParser()
                Stack.addJobTreeOptions(parser)
                self.options = parser.parse_args(["--retryCount", "3"])[0]
                self.args = argparse.Namespace(names=["a", "b"])
                self.element = ET.fromstring("<a><b c='1'/></a>")
                self.function, self.cls, self.point = function, Plain, Point(1, 2)
                self.next = Last("inner")
            def run(self):
                assert self.point.x == 1 and self.cls is Plain and self.function() == "function"
                self.next.options = self.options
                self.setFollowOnTarget(self.next)
                self.addChildTargetFn(child, (self.args, self.element, self.cls, self.function))
        def child(target, args, element, cls, function):
            note(" ".join(args.names) + element.find("b").get("c") + cls.__name__ + function())
        class Last(Target):
            def __init__(self, text):
                Target.__init__(self)
                self.text = text
            def run(self):
                note("%s %s" % (self.text, int(self.options.retryCount)))
    """
    place.pipeline(source).succeeded()
    assert place.notes() == ["a b1Plainfunction", "inner 3"]


def test_relative_paths_and_a_target_that_changes_the_directory(place: Place) -> None:
    source = """
        class Setup(Target):
            def run(self):
                os.mkdir("sub")
                os.chdir("sub")
                note("inside")
                self.addChildTargetFn(child)
                self.setFollowOnTargetFn(child)
        def child(target):
            assert os.path.isdir("sub"), os.getcwd()
            note("child")
            os.chdir("/")
    """
    place.pipeline(source).succeeded()
    assert place.notes() == ["child", "child"]
    assert (place.directory / "sub" / "notes").read_text() == "inside\n"


def test_temporary_directories(place: Place) -> None:
    source = """
        class Setup(Target):
            def run(self):
                remember(self, "setup")
                shared = self.getGlobalTempDir()
                with open(os.path.join(shared, "file"), "w") as f:
                    f.write("from setup")
                self.addChildTargetFn(child, (shared,))
                self.setFollowOnTargetFn(follow_on, (shared, 2))
        def child(target, shared):
            remember(target, "child")
            target.addChildTargetFn(grandchild, (shared,))
        def grandchild(target, shared):
            remember(target, "grandchild")
            assert open(os.path.join(shared, "file")).read() == "from setup"
        def follow_on(target, shared, steps):
            remember(target, "follow-on %i" % steps)
            assert target.getGlobalTempDir() == shared
            assert os.listdir(shared) == ["file"]
            if steps:
                target.setFollowOnTargetFn(follow_on, (shared, steps - 1))
        def remember(target, name):
            local, shared = target.getLocalTempDir(), target.getGlobalTempDir()
            assert os.listdir(local) == [] and os.path.isdir(shared), (name, local)
            open(os.path.join(local, "left behind"), "w").close()
            with open("directories", "a") as f:
                f.write("%s\\t%s\\t%s\\n" % (name, local, os.path.abspath(shared)))
    """
    place.pipeline(source).succeeded()
    lines = (place.directory / "directories").read_text().splitlines()
    rows = {name: (local, shared) for name, local, shared in (line.split("\t") for line in lines)}
    assert len(rows) == 6
    assert len({shared for _, shared in rows.values()}) == 3
    assert len({shared for name, (_, shared) in rows.items() if "child" not in name}) == 1
    assert not any(Path(path).exists() for row in rows.values() for path in row)


def test_siblings_run_at_the_same_time(place: Place) -> None:
    """A server, a client and a watcher that ends both: each waits for the next (opening a pipe waits)."""
    source = """
        class Setup(Target):
            def run(self):
                for name in ("question", "answer", "stop"):
                    os.mkfifo(name)
                self.addChildTargetFn(server)
                self.addChildTargetFn(client)
                self.addChildTargetFn(watcher)
        def server(target):
            text = open("question").read()
            open("answer", "w").write(text.upper())
            note("server " + open("stop").read())
        def client(target):
            open("question", "w").write("hello")
            note("client " + open("answer").read())
        def watcher(target):
            open("stop", "w").write("stopped")
    """
    place.pipeline(source, "--defaultCpu", "0.1", "--defaultMemory", "10M", "--maxThreads", "1").succeeded()
    assert place.notes() == ["client HELLO", "server stopped"]


def test_a_chain_of_follow_ons_whose_length_is_found_out_at_run_time(place: Place) -> None:
    source = """
        class Setup(Target):
            def __init__(self, step=0, value=100.0):
                Target.__init__(self)
                self.step, self.value = step, value
            def run(self):
                if self.value < 1e-3:
                    note("converged after %i" % self.step)
                else:
                    self.addChildTargetFn(expect, (self.step,))
                    self.setFollowOnTarget(Setup(self.step + 1, self.value / 2))
        def expect(target, step):
            note("step")
    """
    place.pipeline(source).succeeded()
    assert place.notes() == ["converged after 17"] + ["step"] * 17


# -- the job tree's directory ----------------------------------------------------------------------------


def test_the_directory_of_a_finished_run_can_be_moved(place: Place) -> None:
    main = """
        def main():
            options = Stack.getDefaultOptions()
            options.jobTree = "./.jobTree"
            assert Stack(Setup()).startJobTree(options) == 0
            system("mv .jobTree .lastjobTree")
        if __name__ == '__main__':
            from pipeline import *
            main()
    """
    place.write("pipeline.py", IMPORTS, SIMPLE, main)
    place.run("pipeline.py").succeeded()
    place.run("jobTreeStatus", "--jobTree", ".lastjobTree", "--failIfNotComplete").succeeded()
    shutil.rmtree(place.directory / ".lastjobTree")
    place.run("pipeline.py").succeeded()
    assert place.notes() == ["setup", "setup"]


STOPS = """
class Setup(Target):
    def run(self):
        note("setup")
        for name in ("a", "b", "c"):
            self.addChildTargetFn(child, (name,))
        self.setFollowOnTargetFn(last)
def child(target, name):
    if name == "b" and not os.path.exists("fixed"):
        raise ValueError("b is broken")
    note(name)
def last(target):
    note("last")
"""


@pytest.mark.parametrize("resume", ["same command", "jobTreeRun"])
def test_a_failed_run_goes_on_after_the_fix(place: Place, resume: str) -> None:
    place.pipeline(STOPS).failed("ValueError: b is broken", "Got failed jobs")
    assert place.notes() == ["a", "c", "setup"]
    place.run("jobTreeStatus", "--jobTree", "tree", "--failIfNotComplete").failed()
    (place.directory / "fixed").touch()
    if resume == "same command":
        place.again().succeeded()
    else:
        place.run("jobTreeRun", "--jobTree", "tree", "--logDebug").succeeded()
    assert place.notes() == ["a", "b", "c", "last", "setup"]
    place.run("jobTreeStatus", "--jobTree", "tree", "--failIfNotComplete").succeeded()


def test_a_finished_run_is_not_repeated(place: Place) -> None:
    place.pipeline(SIMPLE).succeeded()
    place.again().succeeded()
    assert place.notes() == ["setup"]


# -- what is told ----------------------------------------------------------------------------------------


def test_the_line_of_a_message_to_the_master_is_as_it_ever_was(place: Place) -> None:
    source = """
        class Setup(Target):
            def run(self):
                self.logToMaster("0:00:01.5 begin UP: Anc00")
                self.addChildTargetFn(child)
        def child(target):
            target.logToMaster("hello")
    """
    ran = place.pipeline(source, "--logFile", "log", "--logLevel", "CRITICAL").succeeded()
    for text in (ran.err, (place.directory / "log").read_text()):
        lines = [line for line in text.splitlines() if "Got message" in line]
        assert len(lines) == 2
        for line, message in zip(lines, ["0:00:01.5 begin UP: Anc00", "hello"]):
            assert re.fullmatch(rf"Got message from job at time: \d+\.\d+ : {re.escape(message)}", line)
        assert len(lines[0].split()) == 12


def test_messages_are_shown_without_any_logging_options(place: Place) -> None:
    source = """
        class Setup(Target):
            def run(self):
                self.logToMaster("hello")
    """
    assert " : hello" in place.pipeline(source).succeeded().err


def test_a_failures_output_is_in_the_masters_log(place: Place) -> None:
    source = """
        class Setup(Target):
            def run(self):
                print("printed")
                sys.stderr.write("on standard error\\n")
                system("echo from a command")
                logger.info("logged")
                raise ValueError("the reason")
    """
    ran = place.pipeline(source, "--logInfo", "--logFile", "log").failed("Got failed jobs")
    for text in (ran.err, (place.directory / "log").read_text()):
        assert "The job seems to have left a log file, indicating failure: " in text
        for words in ("printed", "on standard error", "from a command", "logged", "ValueError: the reason"):
            assert words in text


def test_a_failures_output_is_shown_at_the_lowest_level_too(place: Place) -> None:
    source = """
        class Setup(Target):
            def run(self):
                system("echo the command said this; exit 4")
    """
    ran = place.pipeline(source, "--logOff").failed(
        "The job seems to have left a log file", "the command said this"
    )
    assert "Command: echo the command said this; exit 4 exited with non-zero status 4" in ran.err


def test_the_number_of_failed_jobs_is_returned(place: Place) -> None:
    source = """
        class Setup(Target):
            def run(self):
                for i in range(5):
                    self.addChildTargetFn(child, (i,))
        def child(target, i):
            assert i < 2
    """
    main = """
        if __name__ == '__main__':
            from pipeline import *
            options = Stack.getDefaultOptions()
            options.jobTree = "tree"
            sys.exit(10 + Stack(Setup()).startJobTree(options))
    """
    place.write("pipeline.py", IMPORTS, source, main)
    assert place.run("pipeline.py").status == 13


# -- several runs ----------------------------------------------------------------------------------------


def test_several_stacks_with_copied_options_one_after_another(place: Place) -> None:
    source = """
        import argparse
        class HashableNamespace(argparse.Namespace):
            def __hash__(self):
                return hash(str(self.__dict__))
        class Task(Target):
            def __init__(self, number, options):
                Target.__init__(self)
                self.number, self.options = number, options
            def run(self):
                if self.number == 1 and not os.path.exists("second try"):
                    raise ValueError("once")
                note("task %i of %s" % (self.number, self.options.sample))
        def main():
            parser = argparse.ArgumentParser(add_help=False)
            parser.add_argument("--sample")
            Stack.addJobTreeOptions(parser)
            options = parser.parse_known_args(sys.argv[1:], namespace=HashableNamespace())[0]
            options.__dict__.update(batchSystem="singleMachine", parasolCommand="none", jobTree=None)
            for number in range(3):
                mine = argparse.Namespace()
                mine.__dict__ = dict(options.__dict__, number=number)
                mine.jobTree = "tree%i" % number
                try:
                    if Stack(Task(number, options)).startJobTree(mine):
                        raise RuntimeError("Got failed jobs")
                except RuntimeError:
                    open("second try", "w").close()
                    mine.jobTree += ".again"
                    assert Stack(Task(number, options)).startJobTree(mine) == 0
        if __name__ == '__main__':
            from pipeline import *
            main()
    """
    place.write("pipeline.py", IMPORTS, source)
    place.run("pipeline.py", "--sample", "mouse", "--logInfo", "positional").succeeded()
    assert place.notes() == ["task 0 of mouse", "task 1 of mouse", "task 2 of mouse"]
    assert {path.name for path in place.directory.glob("tree*")} == {"tree0", "tree1", "tree1.again", "tree2"}


def test_a_run_inside_a_target(place: Place) -> None:
    source = """
        class Setup(Target):
            def run(self):
                options = Stack.getDefaultOptions()
                options.jobTree = os.path.join(self.getGlobalTempDir(), "inner")
                options.defaultMemory = 10000000
                assert Stack(Inner("inner")).startJobTree(options) == 0
                note("outer")
        class Inner(Target):
            def __init__(self, text):
                Target.__init__(self)
                self.text = text
            def run(self):
                note(self.text)
                if self.text == "inner":
                    self.setFollowOnTarget(Inner("inner follow-on"))
    """
    place.pipeline(source).succeeded()
    assert place.notes() == ["inner", "inner follow-on", "outer"]
