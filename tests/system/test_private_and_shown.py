"""All that a whole run makes is private, and nothing that it says reaches a terminal as it is, file names included."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.system.pipelines import IMPORTS, MAIN, Pipeline
from tests.system.waiting import PAUSE, Bench

STRANGER = 54321
"""The number of a user who is not us."""

FAILS = """
class Setup(Target):
    def run(self):
        raise ValueError("on purpose")
"""


def commands(pipeline: Pipeline) -> Iterator[tuple[str, int, str]]:
    """Everything that a person may do with a tree: what it was, its exit status and what it said."""
    tree = str(pipeline.tree)
    for words in (
        ("jobTreeRun", tree), ("jobTreeStatus", tree), ("jobTreeStatus", "--verbose", tree),
        ("jobTreeStatus", "--json", "--verbose", tree), ("jobTreeStatus", "--check", tree), ("jobTreeStats", tree),
        ("jobTreeKill", tree), ("jobTreeRun", "--restoreCopy", tree),
    ):  # fmt: skip
        ran = pipeline.program(words[0], *words[1:])
        yield " ".join(words[:-1]), ran.status, ran.out + ran.err
    ran = pipeline.run()
    yield "the script", ran.status, ran.out + ran.err


@pytest.mark.parametrize("umask", [0o000, 0o077, 0o022])
def test_whatever_the_umask_all_that_a_run_makes_is_private(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, umask: int
) -> None:
    """The whole tree and the temporary directories, looked at while targets run and after they have failed."""
    open_to_others: dict[str, str] = {}

    def look(top: Path) -> None:
        for folder, folders, names in os.walk(top):
            for name in (".", *folders, *names):
                path = os.path.join(folder, name)
                try:
                    mode = os.lstat(path).st_mode
                except FileNotFoundError:
                    continue
                wanted = 0o700 if stat.S_ISDIR(mode) else 0o600
                if stat.S_IMODE(mode) & ~wanted and not stat.S_ISLNK(mode):
                    open_to_others[path] = oct(mode)

    temporary = tmp_path / "tmp"
    temporary.mkdir()
    monkeypatch.setenv("TMPDIR", str(temporary))
    with Bench(tmp_path) as bench:
        bench.write(
            "pipeline.py", IMPORTS, PAUSE,
            """
class Setup(Target):
    def run(self):
        self.getGlobalTempDir()
        for i in range(3):
            self.addChildTarget(Child())
        self.setFollowOnTarget(Last())
class Child(Target):
    def run(self):
        self.getLocalTempDir()
        self.logToMaster("here")
        print("output")
        pause()
        return b"x" * 2000000
class Last(Target):
    def run(self):
        raise ValueError("on purpose")
""", MAIN,
        )  # fmt: skip
        tree = tmp_path / "tree"
        before = os.umask(umask)
        try:
            running = bench.start("pipeline.py", "--jobTree", str(tree), "--keepLogs")
        finally:
            os.umask(before)
        bench.gate.arrival()
        look(tree)
        for made in temporary.iterdir():
            look(made)
        bench.gate.let_through(3)
        assert running.ended().status == 1
        look(tree)

    assert open_to_others == {}


# -- terminals ---------------------------------------------------------------------------------------------------

HOSTILE = """
EVIL = "a\\x1b[31mred\\x1b]0;title\\x07 \\u202eback\\u2066 \\x9b2J \\x7f\\x00 \\r\\nJob 9 is fine"

class Evil(Target):
    def run(self):
        self.logToMaster(EVIL)
        print(EVIL, flush=True)
        os.write(1, b"\\xff\\xfe raw \\x1b[2J\\n")
        raise ValueError(EVIL)
Evil.__qualname__ = "Evil\\x1b[1m\\u202e\\nline"
Evil.__name__ = "Evil"

class Setup(Target):
    def run(self):
        self.addChildFn(fail, (EVIL,))
        self.addChildTarget(Evil())

def fail(text):
    error = ValueError("x")
    error.__traceback__ = None
    sys.stderr.write(text)
    raise type("E\\x1b[5m", (Exception,), {})(text)
"""


def test_nothing_that_a_pipeline_says_reaches_the_terminal_as_it_is(tmp_path: Path) -> None:
    pipeline = Pipeline(tmp_path / "a \x1b[1m\u202e tree", HOSTILE)
    pipeline.directory.mkdir(exist_ok=True)
    pipeline.edit(HOSTILE)
    first = pipeline.run()
    assert first.status == 1, first.err

    said = [("the script", first.out + first.err)]
    said += [(what, text) for what, _, text in commands(pipeline)]

    for what, text in said:
        control = sorted({repr(char) for char in text if not char.isprintable() and char not in "\n\t"})
        assert control == [], what
        assert [line for line in text.splitlines() if line.startswith("Job 9 is fine")] == [], (
            f"{what}: {text}"
        )
