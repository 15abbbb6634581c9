"""Nobody else can read, change or steer a run: modes of files, whose tree is taken, shells, and what is shown of texts.

What lies in a job tree is code that runs as whoever continues it. So a tree that others could have changed is refused
before anything in it is believed: the targets here leave a mark as soon as they are unpickled.
"""

from __future__ import annotations

import ast
import os
import re
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Callable

import pytest

from tests.requirements import missing
from tests.system.legacy_script import CHECKOUT
from tests.system.pipelines import Pipeline

# -- modes -----------------------------------------------------------------------------------------------------

EVERYTHING = """
import glob, tempfile
class Setup(Target):
    def run(self):
        print("into the log", flush=True)
        self.getLocalTempDir()
        self.getGlobalTempDir()
        self.logToMaster("a message")
        large = self.addChildTarget(Large())
        self.setFollowOnTarget(After(large.rv()))
        look()
class Large(Target):
    def run(self):
        return "x" * 3000000
class After(Target):
    def __init__(self, value):
        Target.__init__(self)
        self.value = value
    def run(self):
        self.getLocalTempDir()
        look()
def look():
    tree = os.path.join(HERE, "tree")
    local = glob.glob(os.path.join(glob.escape(tempfile.gettempdir()), "jobtree-" + os.environ["JOBTREE_RUN"] + "-*"))
    assert local
    for top in [tree, *local]:
        for folder, _, files in os.walk(top):
            for path in [folder, *(os.path.join(folder, name) for name in files)]:
                try:
                    status = os.lstat(path)
                except FileNotFoundError:
                    continue
                note("%o %s" % (status.st_mode, path))
"""


@pytest.mark.slow
@pytest.mark.parametrize("umask", [0, 0o77])
def test_files_and_directories_are_for_their_owner_alone(tmp_path: Path, umask: int) -> None:
    pipeline = Pipeline(tmp_path, EVERYTHING)
    before = os.umask(umask)
    try:
        pipeline.run("--keepLogs", "--copyEvery", "0.01").succeeded()
    finally:
        os.umask(before)
    seen = dict(line.split(" ", 1)[::-1] for line in pipeline.notes())
    names = {os.path.relpath(path, pipeline.tree).split(os.sep)[0] for path in seen}
    assert {"tree.sqlite", "tree.sqlite-wal", "lock", "lock.json", "config.json", "bundles", "claims", "outcomes",
            "logs", "values", "globalTempDirs"} <= names  # fmt: skip
    for folder, _, files in os.walk(pipeline.tree):
        for path in [folder, *(os.path.join(folder, name) for name in files)]:
            seen[path] = f"{os.lstat(path).st_mode:o}"
    for path, text in seen.items():
        mode = int(text, 8)
        expected = 0o700 if stat.S_ISDIR(mode) else 0o600
        assert stat.S_IMODE(mode) == expected, f"{path} has {stat.S_IMODE(mode):o}"


# -- whose tree ------------------------------------------------------------------------------------------------

MARKED = """
def unpickled():
    note("unpickled", "marks")
    return Setup()
class Setup(Target):
    def run(self):
        os.kill(os.getppid(), signal.SIGKILL) if not os.path.exists(os.path.join(HERE, "continue")) else None
    def __reduce__(self):
        return unpickled, ()
"""
SOMEBODY = 4711


def _owned_by_somebody(pipeline: Pipeline) -> None:
    os.chown(pipeline.tree, SOMEBODY, -1)


def _written_by_its_group(pipeline: Pipeline) -> None:
    pipeline.tree.chmod(0o770)


def _written_by_all(pipeline: Pipeline) -> None:
    pipeline.tree.chmod(0o777)


def _database_written_by_all(pipeline: Pipeline) -> None:
    (pipeline.tree / "tree.sqlite").chmod(0o666)


def _bundles_written_by_all(pipeline: Pipeline) -> None:
    (pipeline.tree / "bundles").chmod(0o777)


def _behind_a_planted_link(pipeline: Pipeline) -> None:
    like_tmp = pipeline.directory / "tmp"
    like_tmp.mkdir()
    like_tmp.chmod(0o1777)
    (like_tmp / "tree").symlink_to(pipeline.tree)
    os.chown(like_tmp / "tree", SOMEBODY, -1, follow_symlinks=False)
    pipeline.tree = like_tmp / "tree"


def _where_all_can_rename(pipeline: Pipeline) -> None:
    pipeline.directory.chmod(0o777)


PLANTED = [
    (_owned_by_somebody, f"belongs to the user with number {SOMEBODY} and you are"),
    (_written_by_its_group, "can be written by others (mode 770)"),
    (_written_by_all, "can be written by others (mode 777)"),
    (_database_written_by_all, "can be written by others (mode 666)"),
    (_bundles_written_by_all, "can be written by others (mode 777)"),
    (_behind_a_planted_link, f"is a symbolic link that the user with number {SOMEBODY} has put"),
    (_where_all_can_rename, "can be written by everybody, without the sticky bit"),
]


@pytest.fixture(scope="module")
def interrupted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of a pipeline whose master has been killed while its first target ran."""
    directory = tmp_path_factory.mktemp("interrupted")
    pipeline = Pipeline(directory, MARKED)
    (directory / "continue").touch()
    pipeline.edit(MARKED.replace("def run(self):", "def run(self):\n        raise ValueError('not yet')"))
    assert pipeline.run("--retryCount", "0").status == 1
    pipeline.edit(MARKED)
    assert pipeline.counted("marks") == {"unpickled": 1}, "it leaves no mark, so this would prove nothing"
    (directory / "marks").unlink()
    return directory


@pytest.mark.slow
@pytest.mark.parametrize(("plant", "said"), PLANTED, ids=[plant.__name__.strip("_") for plant, _ in PLANTED])
def test_a_tree_that_others_could_have_changed_is_refused_before_anything_is_unpickled(
    tmp_path: Path, interrupted: Path, plant: Callable[[Pipeline], None], said: str
) -> None:
    if os.geteuid() != 0:
        missing("giving files to somebody else needs root")
    shutil.copytree(interrupted, tmp_path / "copy", symlinks=True)
    pipeline = Pipeline(tmp_path / "copy")
    real = pipeline.tree
    plant(pipeline)

    for command in (
        ["jobTreeRun"], ["jobTreeStatus", "--verbose"], ["jobTreeStatus", "--check"], ["jobTreeStats"], ["jobTreeKill"],
    ):  # fmt: skip
        ran = pipeline.program(*command, "--jobTree", str(pipeline.tree))
        assert ran.status != 0, command
        # To look at a tree of somebody else is refused with what its owner can do about that.
        looks = plant is _owned_by_somebody and command in (["jobTreeStatus", "--verbose"], ["jobTreeStats"])
        words = "is another user's" if looks else said
        assert words in ran.err + ran.out, (command, ran)
        assert "Traceback" not in ran.err, command
    ran = pipeline.run()
    assert ran.status != 0
    assert said in ran.err
    assert pipeline.notes("marks") == []

    # That it would have been unpickled otherwise:
    os.chown(real, os.geteuid(), -1)
    for path in (real, real / "tree.sqlite", real / "bundles", pipeline.directory):
        path.chmod(0o700)
    pipeline.tree = real
    pipeline.run().succeeded()
    assert pipeline.counted("marks")["unpickled"] >= 1


# -- shells ----------------------------------------------------------------------------------------------------

#: Where a text goes to a shell: the user's own command line, and the original's two functions that promise it.
SHELLS = {
    ("jobtree/target.py", "CommandTarget._jobtree_call"),
    ("jobtree/notifying.py", "tell"),
    ("jobtree/bioio.py", "system"),
    ("jobtree/bioio.py", "popenCatch"),
}
_NAMES = {"system", "popen", "getoutput", "getstatusoutput", "create_subprocess_shell", "spawn_shell"}


def _calls_of_shells(tree: ast.AST, where: str = "") -> Iterator[str]:
    for node in ast.iter_child_nodes(tree):
        inner = where
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            inner = f"{where}.{node.name}".lstrip(".")
        if isinstance(node, ast.Call):
            name = node.func.attr if isinstance(node.func, ast.Attribute) else ""
            shell = any(word.arg == "shell" and getattr(word.value, "value", True) for word in node.keywords)
            if shell or name in _NAMES:
                yield where
        yield from _calls_of_shells(node, inner)


def test_no_text_goes_to_a_shell_but_the_users_own_commands() -> None:
    found = set()
    for top in ("jobtree", "batchsystems", "bin"):
        for path in (CHECKOUT / top).rglob("*"):
            if path.is_file() and (path.suffix == ".py" or top == "bin"):
                name = str(path.relative_to(CHECKOUT))
                found |= {(name, where) for where in _calls_of_shells(ast.parse(path.read_text()))}
    assert found == SHELLS


# -- what is shown ---------------------------------------------------------------------------------------------

HOSTILE = r"""
TITLE, RED, BIDI, CLEAR = "\x1b]0;owned\x07", "\x1b[31m", "\u202e", "\x9b2J"
FORGED = "\nJob 1-1 (pipeline.Forged) failed and is given up: forged"
ALL = TITLE + RED + BIDI + CLEAR + "\r" + FORGED

def act(self):
    print(ALL, flush=True)
    os.write(1, b"\xff\xfe\x1b[31m\n")
    self.logToMaster(ALL)
    if "Fails" in type(self).__name__:
        raise ValueError(ALL)

for name in ("Fails" + ALL, "Works" + ALL):
    globals()[name] = type(name, (Target,), {"__module__": __name__, "run": act})

class Setup(Target):
    def run(self):
        for name in ("Fails" + ALL, "Works" + ALL):
            self.addChildTarget(globals()[name]())
        self.addChildCommand("exit 3 # " + ALL)
"""


@pytest.mark.slow
def test_hostile_names_messages_and_logs_are_shown_escaped_by_everything(tmp_path: Path) -> None:
    pipeline = Pipeline(tmp_path, HOSTILE)
    ran = pipeline.run(
        "--retryCount=0", "--logFile", str(tmp_path / "log"), "--logLevel", "DEBUG", "--keepLogs"
    )
    assert ran.status == 1, ran.err
    assert "failed: 2\n" in ran.out
    texts = {"the run": ran.err, "its log file": (tmp_path / "log").read_text()}
    for command in (
        ["jobTreeStatus"], ["jobTreeStatus", "--verbose"], ["jobTreeStatus", "--check"],
        ["jobTreeStatus", "--json", "--verbose"], ["jobTreeStats"], ["jobTreeStats", "--json"], ["jobTreeKill"],
        ["jobTreeRun", "--retryCount=0"],
    ):  # fmt: skip
        shown = pipeline.program(*command, "--jobTree", str(pipeline.tree))
        texts[" ".join(command)] = shown.out + shown.err

    for who, text in texts.items():
        assert [c for c in text if not c.isprintable() and c not in "\n\t"] == [], who
        assert not re.search(r"^Job 1-1 \(pipeline\.Forged\)", text, re.M), (
            f"{who} shows a line that a target has made up"
        )
    assert "\\x1b]0;owned\\x07\\x1b[31m\\u202e\\x9b2J\\r" in texts["the run"]
    assert "Works\\x1b]0;owned" in texts["jobTreeStats"]
    assert "Fails\\x1b]0;owned" in texts["jobTreeStatus --verbose"]
