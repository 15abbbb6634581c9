"""Every kind of file of an interrupted tree is damaged in every way, and the same command is given again.

It ends right, or it says what is damaged and what to do: never a traceback of ours, never a wrong result.

The tree is made once by the real program, whose processes are killed in the middle, and copied for each case. Which
bytes are flipped is drawn from a seed, which is the name of the case. JOBTREE_TEST_DAMAGE=all tries every way with
every file; by default about a third.
"""

from __future__ import annotations

import os
import random
import re
import shutil
import signal
from pathlib import Path
from typing import Callable, Optional

import pytest

from tests.crash.killing import processes_of
from tests.system.legacy_script import Ran
from tests.system.pipelines import Pipeline, wait_until
from tests.system.waiting import Bench

pytestmark = pytest.mark.slow

TARGETS = """
class Setup(Target):
    def run(self):
        with open(os.path.join(self.getGlobalTempDir(), "numbers"), "w") as file:
            file.write("1000")
        big = self.addChildTarget(Big(0))
        early = [self.addChildTarget(Early(i)) for i in range(6)]
        self.addChildTarget(Slow())
        end = self.setFollowOnTarget(End([child.rv() for child in early + [big]]))
        return end.rv()
class Early(Target):
    def __init__(self, i):
        Target.__init__(self)
        self.i = i
    def run(self):
        print("a line of", self.i)
        with open(os.path.join(self.getGlobalTempDir(), "mine"), "w") as file:
            file.write(str(self.i))
        self.setFollowOnTarget(Chained(self.i))
        return b"xxx"
class Big(Early):
    def run(self):
        Early.run(self)
        return b"x" * 2000000  # has a file of its own
class Chained(Target):
    def __init__(self, i):
        Target.__init__(self)
        self.i = i
    def run(self):
        with open(os.path.join(self.getGlobalTempDir(), "mine")) as file:
            assert file.read() == str(self.i)
class Slow(Target):
    def run(self):
        note("slow")
        while not os.path.exists(os.path.join(HERE, "proceed")):
            import time
            time.sleep(0.01)
class End(Target):
    def __init__(self, values):
        Target.__init__(self)
        self.values = values
    def run(self):
        with open(os.path.join(self.getGlobalTempDir(), "numbers")) as file:
            return int(file.read()) + sum(len(value) for value in self.values)
"""

RESULT = 1000 + 2_000_000 + 6 * 3


_PIPES = shutil.ignore_patterns("go", "arrived")


class Interrupted:
    """The tree as the kill has left it."""

    def __init__(self, directory: Path) -> None:
        self.pipeline = Pipeline(directory, TARGETS)
        with Bench(directory) as bench:
            options = ["--jobTree", "tree", "--copyEvery", "0.3", "--maxThreads", "1", "--keepLogs"]
            master = bench.start("pipeline.py", *options)
            wait_until(lambda: "slow" in self.pipeline.notes(), "the slow target runs")
            wait_until((self.pipeline.tree / "copy.sqlite").exists, "a copy was made")
            token = self.pipeline.token()
            master.send(signal.SIGKILL)
            master.ended()
        wait_until(lambda: not processes_of(token), "all its processes are gone")
        (directory / "proceed").touch()

    def again(self, directory: Path) -> Pipeline:
        """A copy of it."""
        shutil.copytree(self.pipeline.directory, directory, dirs_exist_ok=True, ignore=_PIPES)
        return Pipeline(directory)


@pytest.fixture(scope="module")
def interrupted(tmp_path_factory: pytest.TempPathFactory) -> Interrupted:
    """One for all cases of this process."""
    return Interrupted(tmp_path_factory.mktemp("interrupted"))


def truncate(size: Callable[[int], int]) -> Callable[[Path, random.Random], None]:
    """Cut a file."""
    return lambda path, _: os.truncate(path, max(0, min(size(path.stat().st_size), path.stat().st_size)))


def zero(path: Path, chance: random.Random) -> None:
    """What file systems leave after a power cut: zeros, from somewhere on or everywhere."""
    content = path.read_bytes()
    start = chance.choice((0, len(content) // 2))
    path.write_bytes(content[:start] + bytes(len(content) - start))


def flip(path: Path, chance: random.Random) -> None:
    """Some bits."""
    content = bytearray(path.read_bytes())
    for _ in range(chance.choice((1, 3, 20)) if content else 0):
        content[chance.randrange(len(content))] ^= 1 << chance.randrange(8)
    path.write_bytes(content)


def remove(path: Path, _: random.Random) -> None:
    """The file is gone."""
    path.unlink()


WAYS: dict[str, Callable[[Path, random.Random], None]] = {
    "empty": truncate(lambda size: 0),
    "half": truncate(lambda size: size // 2),
    "one byte short": truncate(lambda size: size - 1),
    "zeroed": zero,
    "flipped": flip,
    "gone": remove,
}

KINDS = {
    "outcomes": "outcomes/0/*", "bundles": "bundles/0/*", "claims": "claims/0/*", "values": "values/0/*",
    "logs": "logs/0/*", "configuration": "config.json", "environment": "environment.json",
    "settings": "settings.json", "lock": "lock", "owner of the lock": "lock.json", "mark": "synced",
    "copy": "copy.sqlite", "database": "tree.sqlite", "log of the database": "tree.sqlite-wal",
}  # fmt: skip

#: What may be said instead of ending right, by kind of file: exit status, and words.
MAY_SAY: dict[str, tuple[int, str]] = {
    "values": (1, "checksum|of a kept promise is gone"),
    "environment": (5, r"environment\.json.*(damaged|gone)"),
    "settings": (5, r"settings\.json.*damaged"),
    "database": (5, r"tree\.sqlite (is damaged|is gone)(.|\n)*jobTreeRun --restoreCopy"),
    "log of the database": (5, r"tree\.sqlite is damaged(.|\n)*jobTreeRun --restoreCopy"),
}


def carry_on(pipeline: Pipeline, by: str) -> Ran:
    """Give the command again, the script's or jobTreeRun."""
    if by == "jobTreeRun":
        return pipeline.program("jobTreeRun", "--jobTree", str(pipeline.tree))
    return pipeline.run("--maxThreads", "1")


def wrong_with(ran: Ran, pipeline: Pipeline, may_say: Optional[tuple[int, str]]) -> str:
    """What is wrong with how a start on a damaged tree has ended; "" if nothing is."""
    if "Traceback" in ran.err + ran.out:
        return "a traceback"
    if ran.status == 0:
        found = ran if "result:" in ran.out else pipeline.run()
        return "" if f"result: {RESULT}\n" in found.out else f"a wrong result: {found.out}"
    if may_say is None or ran.status != may_say[0] or not re.search(may_say[1], ran.err):
        return f"exit status {ran.status}"
    return ""


@pytest.mark.parametrize(
    ("kind", "by"),
    [(kind, "the script") for kind in KINDS]
    + [(kind, "jobTreeRun") for kind in ("configuration", "environment", "settings", "values", "database")],
)
def test_a_damaged_file_costs_work_or_is_told_of(
    interrupted: Interrupted, tmp_path: Path, kind: str, by: str
) -> None:
    wrong = []
    there = sorted(interrupted.pipeline.tree.glob(KINDS[kind]))
    assert there, f"the interrupted tree has no file of the kind {kind}"
    ways = ["half", "zeroed", "flipped"] if by == "the script" else ["one byte short", "gone", "empty"]
    if os.environ.get("JOBTREE_TEST_DAMAGE") == "all":
        ways = list(WAYS)

    for way in ways:
        seed = f"{kind}, {way}, {by}"
        chance = random.Random(seed)
        pipeline = interrupted.again(tmp_path / way)
        for path in sorted(pipeline.tree.glob(KINDS[kind])):
            WAYS[way](path, chance)
        ran = carry_on(pipeline, by)
        may_say = MAY_SAY.get(kind)
        if kind in ("environment", "settings") and by == "the script":
            may_say = None  # it writes them anew
        fault = wrong_with(ran, pipeline, may_say)
        if fault:
            wrong.append(f"{seed}: {fault}\n{ran.err[-1500:]}")

    assert not wrong, "\n\n".join(wrong)


@pytest.mark.parametrize("way", ["half", "zeroed"])
def test_going_back_to_the_copy_ends_right(interrupted: Interrupted, tmp_path: Path, way: str) -> None:
    pipeline = interrupted.again(tmp_path)
    WAYS[way](pipeline.tree / "tree.sqlite", random.Random(way))
    told = pipeline.run()
    assert told.status == 5, told.err
    assert "jobTreeRun --restoreCopy" in told.err
    assert pipeline.program("jobTreeStatus", "--check", str(pipeline.tree)).status == 1

    back = pipeline.program("jobTreeRun", "--restoreCopy", "--jobTree", str(pipeline.tree))

    if "cannot go on" in back.err:
        # The copy was made before an early chain was done, and its directory is gone since.
        assert back.status == 1
    else:
        assert back.status == 0, back.err
        assert f"result: {RESULT}\n" in pipeline.run().out
        assert pipeline.leftovers() == []
    check = pipeline.program("jobTreeStatus", "--check", str(pipeline.tree))
    assert check.status == 0, check.out
