"""What targets see of the process that started the run, and how their code is found again."""

from __future__ import annotations

import ast
import os
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.system.legacy_script import CHECKOUT, Ran
from tests.system.pipelines import IMPORTS, MAIN, Pipeline, script

# -- variables, directory, search path -----------------------------------------------------------------------------

SEES = """
import random, subprocess

class Setup(Target):
    def __init__(self):
        Target.__init__(self, cpu=2)
    def run(self):
        see("root")
        self.addChildTarget(Child(0.5))
        self.addChildTarget(Child(1))
class Child(Target):
    def __init__(self, cpu):
        Target.__init__(self, cpu=cpu)
        self.cpu = cpu
    def run(self):
        see("child %s" % self.cpu)

def see(who):
    # What a command of a target's sees is what counts: not only what Python believes.
    command = [sys.executable, "-c", "import os; print({k: v for k, v in os.environ.items()})"]
    said = subprocess.run(command, stdout=subprocess.PIPE, check=True, cwd="/").stdout.decode().strip()
    note(repr((who, said, os.getcwd(), sys.path, __name__, random.random())))
"""

VARIABLES = {
    "MINE": "as it was\nin two lines",
    "PASSWORD": "secret",
    "OTHER_SECRET": "secret",
    "DISPLAY": ":7",
    "SSH_AUTH_SOCK": "/tmp/socket",
    "SLURM_JOB_ID": "17",
    "SGE_TASK_ID": "3",
    "PBS_JOBID": "5",
    "CUDA_VISIBLE_DEVICES": "1",
    "SLURM_WANTED": "yes",
    "EMPTY": "",
    "MKL_NUM_THREADS": "7",
}


@pytest.fixture(scope="module", params=["fork", "spawn"])
def seen(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    pipeline = Pipeline(tmp_path_factory.mktemp("seen"), SEES)
    elsewhere = pipeline.directory / "started here"
    elsewhere.mkdir()
    options = ["--startMethod", request.param, "--maxThreads", "2"]
    options += ["--envDeny", "PASS*,OTHER_*", "--envDeny", "SSH_*", "--envAllow", "SLURM_WANTED"]
    env = {**VARIABLES, "OMP_NUM_THREADS": None, "PYTHONPATH": f"{CHECKOUT}:relative/path"}
    ran = pipeline.run_command(pipeline.command(*options), env=env, cwd=elsewhere).succeeded()
    found: dict[str, Any] = {}
    for line in pipeline.notes():
        who, said, *rest = ast.literal_eval(line)
        found[who] = (ast.literal_eval(said), *rest)
    assert set(found) == {"root", "child 0.5", "child 1"}
    return {"err": ran.err, "elsewhere": str(elsewhere), "directory": str(pipeline.directory), **found}


def test_variables_of_the_start_are_seen(seen: dict[str, Any]) -> None:
    for who in ("root", "child 0.5", "child 1"):
        variables = seen[who][0]
        assert variables["MINE"] == VARIABLES["MINE"]
        assert variables["EMPTY"] == ""
        assert variables["HOME"] == os.environ["HOME"]
        assert variables["MKL_NUM_THREADS"] == "7"


def test_variables_of_the_masters_own_job_are_not_seen_unless_allowed(seen: dict[str, Any]) -> None:
    variables = seen["child 1"][0]
    assert not {"SLURM_JOB_ID", "SGE_TASK_ID", "PBS_JOBID", "CUDA_VISIBLE_DEVICES"} & set(variables)
    assert variables["SLURM_WANTED"] == "yes"


def test_variables_that_are_denied_are_not_seen(seen: dict[str, Any]) -> None:
    """Not even those that belong to the machine and are not handed on but found again here."""
    assert not {"PASSWORD", "OTHER_SECRET", "SSH_AUTH_SOCK"} & set(seen["child 1"][0])
    assert seen["child 1"][0]["DISPLAY"] == ":7"


def test_threads_follow_the_cores_of_a_target(seen: dict[str, Any]) -> None:
    assert {who: seen[who][0]["OMP_NUM_THREADS"] for who in ("root", "child 0.5", "child 1")} == {
        "root": "2",
        "child 0.5": "1",
        "child 1": "1",
    }


def test_directory_and_search_path_are_those_of_the_start(seen: dict[str, Any]) -> None:
    for who in ("root", "child 1"):
        _, directory, path, name, _ = seen[who]
        assert directory == seen["elsewhere"]
        assert path[0] == seen["directory"]
        assert os.path.join(directory, "relative/path") in path
        assert name == "pipeline"


def test_random_numbers_differ(seen: dict[str, Any]) -> None:
    assert len({seen[who][4] for who in ("root", "child 0.5", "child 1")}) == 3


def test_a_temporary_directory_of_elsewhere_is_not_stored(tmp_path: Path) -> None:
    pipeline = Pipeline(
        tmp_path,
        """
        class Setup(Target):
            def run(self):
                note(self.getLocalTempDir())
                if not os.path.exists(os.path.join(HERE, "fixed")):
                    raise ValueError
        """,
    )
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        pipeline.run(env={"TMPDIR": str(tmp_path / name)})
        (tmp_path / "fixed").touch()
    notes = pipeline.notes()
    assert [Path(note).parent.parent.name for note in notes] == ["first", "second"]
    assert str(tmp_path / "first") not in (pipeline.tree / "environment.json").read_text()


# -- the main script -----------------------------------------------------------------------------------------------

BY_NAME = """
class Outer:
    class Inner(Target):
        def run(self):
            note("inner of " + type(self).__module__)

def function(text):
    note(text)

class Setup(Target):
    def __init__(self):
        Target.__init__(self)
        self.given = [function, Outer, lambda: function("lambda")]
    def run(self):
        import pickle
        assert self.given[0] is function and self.given[1] is Outer
        self.given[2]()
        self.addChildTarget(Outer.Inner())
        self.addChildFn(function, ("function",))
        self.addChildFn(self.given[2])
        more = 5
        self.addChildFn(lambda x: function("closure %d" % (x + more)), (1,))
        class Local(Setup):
            def run(self):
                function("local class")
                self.setFollowOnTarget(Local2())
        class Local2(Target):
            def run(self):
                function("second local class")
        self.addChildTarget(Local())
"""
ALL = {"lambda": 2, "function": 1, "closure 6": 1, "local class": 1, "second local class": 1}


def check_by_name(pipeline: Pipeline, ran: Ran, module: str) -> None:
    ran.succeeded()
    assert pipeline.counted() == {**ALL, f"inner of {module}": 1}, ran.err


@pytest.mark.parametrize(
    ("name", "module", "start"),
    [
        ("pipeline.py", "pipeline", "fork"),
        ("pipeline.py", "pipeline", "spawn"),
        ("my-script.py", "jobtree_main_my_script", "spawn"),
        ("script without suffix", "jobtree_main_script_without_suffix", "fork"),
        ("2nd.try.py", "jobtree_main_2nd_try", "fork"),
    ],
)
def test_names_of_scripts(tmp_path: Path, name: str, module: str, start: str) -> None:
    pipeline = Pipeline(tmp_path, BY_NAME, name)
    check_by_name(pipeline, pipeline.run("--startMethod", start), module)


def test_a_module_of_a_package(tmp_path: Path) -> None:
    pipeline = Pipeline(
        tmp_path, BY_NAME.replace("class Setup", "from . import part\n\nclass Setup"), "package/main.py"
    )
    pipeline.write("package/__init__.py", "")
    pipeline.write("package/part.py", "")
    command = [sys.executable, "-m", "package.main", "--jobTree", "tree"]
    ran = pipeline.run_command(command)
    assert Pipeline(tmp_path / "package").counted() == {**ALL, "inner of package.main": 1}, ran.err
    ran.succeeded()


def test_a_package_that_is_run(tmp_path: Path) -> None:
    pipeline = Pipeline(tmp_path, BY_NAME, "package/__main__.py")
    pipeline.write("package/__init__.py", "")
    pipeline.run_command([sys.executable, "-m", "package", "--jobTree", "tree"]).succeeded()
    assert Pipeline(tmp_path / "package").counted() == {**ALL, "inner of package.__main__": 1}


def test_a_script_that_is_not_on_the_search_path(tmp_path: Path) -> None:
    """Run by a program of its own, as profilers and debuggers do."""
    pipeline = Pipeline(tmp_path, BY_NAME, "sub/pipeline.py")
    profiler = "import runpy, sys\ndel sys.argv[0]\nrunpy.run_path(sys.argv[0], run_name='__main__')"
    pipeline.write("profiler.py", profiler)
    command = [sys.executable, "profiler.py", "sub/pipeline.py", "--jobTree", "tree"]
    ran = pipeline.run_command(command)
    check_by_name(Pipeline(tmp_path / "sub"), ran, "jobtree_main_pipeline")


def test_the_root_target_is_of_another_module_and_uses_what_the_script_defines(tmp_path: Path) -> None:
    pipeline = Pipeline(tmp_path, name="my-script.py")
    pipeline.write(
        "library.py",
        """
        from jobtree import Target
        class Apply(Target):
            def __init__(self, fn):
                Target.__init__(self)
                self.fn = fn
            def run(self):
                self.fn()
                self.addChildFn(self.fn)
                self.addChildFn(self.fn)
        """,
    )
    pipeline.edit(
        """
        from library import Apply
        def Setup():
            return Apply(function)
        def function():
            note("function")
        """
    )
    pipeline.run().succeeded()
    assert pipeline.counted() == {"function": 3}


# -- code that has no file -----------------------------------------------------------------------------------------

NO_FILE = script(
    IMPORTS.replace("os.path.dirname(os.path.abspath(__file__))", "os.getcwd()"),
    BY_NAME,
    """
    class Child(Target):
        def __init__(self, promise):
            Target.__init__(self)
            self.promise = promise
        def run(self):
            note("child got %s" % self.promise)

    class Root(Setup):
        def run(self):
            Setup.run(self)
            self.setFollowOnTarget(Child(self.addChildFn(lambda: "value").rv()))
    """,
)
NO_FILE_MAIN = """
options = Stack.getDefaultOptions()
options.jobTree = "tree"
options.startMethod = sys.argv[-1]
stack = Stack(Root())
assert stack.startJobTree(options) == 0
"""


@pytest.mark.parametrize(
    ("how", "start"), [("stdin", "fork"), ("-c", "fork"), ("notebook", "fork"), ("notebook", "spawn")]
)
def test_classes_of_a_main_module_without_a_file(tmp_path: Path, how: str, start: str) -> None:
    pipeline = Pipeline(tmp_path)
    text = NO_FILE + NO_FILE_MAIN
    if how == "stdin":
        ran = pipeline.run_command([sys.executable, "-", start], text=text)
    elif how == "-c":
        ran = pipeline.run_command([sys.executable, "-c", text, start])
    else:
        # A notebook: code runs in a __main__ that is not the program which runs it.
        kernel = f"""
            import sys, types
            main = types.ModuleType("__main__")
            sys.modules["__main__"] = main
            for cell in ({NO_FILE!r}, {NO_FILE_MAIN!r}):
                exec(compile(cell, "<cell>", "exec"), main.__dict__)
        """
        pipeline.write("kernel.py", kernel)
        ran = pipeline.run_command([sys.executable, "kernel.py", start])
    check = pipeline.counted()
    assert (ran.status, check.pop("child got value", 0)) == (0, 1), ran.err
    assert check == {**ALL, "inner of jobtree_definitions": 1}


# -- scripts that are imported -------------------------------------------------------------------------------------


@pytest.mark.parametrize("start", ["fork", "spawn"])
def test_an_edited_script_takes_effect(tmp_path: Path, start: str) -> None:
    source = """
        class Setup(Target):
            def run(self):
                note("setup")
                for i in range(3):
                    self.addChildTarget(Child(i))
        class Child(Target):
            def __init__(self, i):
                Target.__init__(self)
                self.i = i
            def run(self):
                assert self.i != 1
                note("child %d" % self.i)
    """
    pipeline = Pipeline(tmp_path, source)
    assert pipeline.run("--startMethod", start).status == 1
    pipeline.edit(source.replace("assert self.i != 1", 'note("edited")'))
    pipeline.run("--startMethod", start).succeeded()
    assert pipeline.counted() == {"setup": 1, "child 0": 1, "child 1": 1, "child 2": 1, "edited": 1}


@pytest.mark.parametrize(("name", "start"), [("pipeline.py", "fork"), ("my-pipeline.py", "spawn")])
def test_a_script_without_the_guard_is_told_to_add_it(tmp_path: Path, name: str, start: str) -> None:
    pipeline = Pipeline(tmp_path, name=name)
    target = 'class Setup(Target):\n    def run(self):\n        note("ran")\n'
    pipeline.write(name, IMPORTS, target, MAIN.replace('if __name__ == "__main__":\n    main()', "main()"))
    ran = pipeline.run("--startMethod", start)
    assert ran.status == 3, ran.err
    assert "startJobTree while a worker imports it" in ran.err
    assert 'if __name__ == "__main__":' in ran.err
    assert pipeline.notes() == []
    assert "\nTraceback" not in ran.err


def test_a_script_without_the_guard_starts_no_runs_inside_its_workers(tmp_path: Path) -> None:
    """Each run has a directory of its own, so that no lock keeps them apart."""
    pipeline = Pipeline(tmp_path)
    start = """
        options = Stack.getDefaultOptions()
        options.jobTree = os.path.join(HERE, "tree.%d" % os.getpid())
        if len([name for name in os.listdir(HERE) if name.startswith("tree.")]) < 4:
            sys.exit(Stack(Setup()).startJobTree(options))
    """
    pipeline.write(pipeline.name, IMPORTS, "class Setup(Target):\n    pass\n", start)
    ran = pipeline.run()
    assert len(list(tmp_path.glob("tree.*"))) == 1, ran.err
    assert ran.status == 3


@pytest.mark.parametrize("start", ["fork", "spawn"])
def test_a_script_that_parses_its_arguments_while_it_is_imported(tmp_path: Path, start: str) -> None:
    pipeline = Pipeline(tmp_path)
    source = """
        class Setup(Target):
            def run(self):
                note("ran for " + options.name)
        import argparse
        parser = argparse.ArgumentParser()
        parser.add_argument("--name", required=True)
        Stack.addJobTreeOptions(parser)
        options = parser.parse_args()
        if __name__ == "__main__":
            sys.exit(Stack(Setup()).startJobTree(options))
    """
    pipeline.write(pipeline.name, IMPORTS, source)
    ran = pipeline.run("--name", "me", "--startMethod", start)
    if ran.status == 0:
        assert pipeline.notes() == ["ran for me"]
    else:
        # Workers have other arguments, or none. Then it must be said what to do.
        assert ran.status == 3, ran.err
        assert f"the script {tmp_path / 'pipeline.py'} cannot be imported where targets run" in ran.err
        assert "SystemExit" in ran.err
        assert "if __name__ == '__main__':" in ran.err or 'if __name__ == "__main__":' in ran.err
        assert pipeline.notes() == []


def test_a_script_that_starts_a_thread_while_it_is_imported(tmp_path: Path) -> None:
    pipeline = Pipeline(
        tmp_path,
        """
        import threading
        threading.Thread(target=threading.Event().wait, name="of-the-script", daemon=True).start()
        class Setup(Target):
            def run(self):
                note("setup")
                for i in range(30):
                    self.addChildTarget(Child(i))
        class Child(Target):
            def __init__(self, i):
                Target.__init__(self)
                self.i = i
            def run(self):
                note(self.i)
        """,
    )
    ran = pipeline.run().succeeded()
    assert pipeline.counted() == {"setup": 1, **{str(i): 1 for i in range(30)}}
    assert ran.err.count("left threads running (of-the-script)") == 1
    assert "left the thread" not in ran.err
