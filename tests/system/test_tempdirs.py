"""Temporary directories: there when they are promised, and gone afterwards, whoever was killed."""

from __future__ import annotations

import os
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.system.legacy_script import Ran
from tests.system.pipelines import DEADLINE_SECONDS, Pipeline, variables
from tests.system.waiting import PAUSE, Gate, gone

CHAIN = """
import stat

def find(target, who):
    local, shared = target.getLocalTempDir(), target.getGlobalTempDir()
    assert os.listdir(local) == [] and target.getLocalTempDir() == local
    assert stat.S_IMODE(os.stat(local).st_mode) == stat.S_IMODE(os.stat(shared).st_mode) == 0o700
    note("%s|%s|%s|%s" % (who, local, shared, ",".join(sorted(os.listdir(shared)))))
    for directory in (local, shared):
        # Removed it must be whatever its mode. What an earlier try has left in the chain's directory is still there.
        within = os.path.join(directory, who + ".d")
        open(os.path.join(directory, who), "w").close()
        os.makedirs(os.path.join(within, "deep"), exist_ok=True)
        os.chmod(within, 0o700)
        open(os.path.join(within, "deep", "file"), "w").close()
        os.chmod(within, 0o500)
    return shared

class Setup(Target):
    def run(self):
        shared = find(self, "founder")
        for i in range(3):
            self.addChildTarget(Child(shared, i))
        self.setFollowOnTarget(FollowOn())

class Child(Target):
    def __init__(self, shared, i):
        Target.__init__(self)
        self.shared, self.i = shared, i
    def run(self):
        assert find(self, "child%d" % self.i) != self.shared
        assert os.path.exists(os.path.join(self.shared, "founder"))
        open(os.path.join(self.shared, "from.child%d" % self.i), "w").close()
        if self.i == 0:
            raise ValueError("this fails, and its directory goes too")
        if self.i == 1 and not os.path.exists(os.path.join(HERE, "again")):
            open(os.path.join(HERE, "again"), "w").close()
            os._exit(0)

class FollowOn(Target):
    def run(self):
        find(self, "follow-on")
        self.setFollowOnTarget(Closer())

class Closer(Target):
    def run(self):
        find(self, "closer")
"""


@pytest.fixture(scope="module")
def chain(tmp_path_factory: pytest.TempPathFactory) -> tuple[Pipeline, Ran, Ran]:
    """A run in which a child fails, and the one in which it does not any more."""
    pipeline = Pipeline(tmp_path_factory.mktemp("chain"), CHAIN)
    first = pipeline.run("--retryCount", "1", "--maxThreads", "1")
    pipeline.edit(CHAIN.replace("raise ValueError", "note"))
    return pipeline, first, pipeline.run("--maxThreads", "1")


def test_local_directories_are_empty_and_of_one_target_each(chain: tuple[Pipeline, Ran, Ran]) -> None:
    pipeline, first, second = chain
    assert (first.status, second.status) == (1, 0), first.err + second.err
    notes = [line.split("|") for line in pipeline.notes() if "|" in line]
    assert len({local for _, local, _, _ in notes}) == len(notes) == 9
    assert not any(os.path.exists(local) for _, local, _, _ in notes)
    assert all(local.startswith(tempfile.gettempdir()) for _, local, _, _ in notes)


def test_a_global_directory_is_of_one_chain_and_gone_at_the_end(chain: tuple[Pipeline, Ran, Ran]) -> None:
    pipeline, _, second = chain
    found = {
        who: (shared, names) for who, _, shared, names in (s.split("|") for s in pipeline.notes() if "|" in s)
    }
    assert len({found[who][0] for who in ("founder", "follow-on", "closer")}) == 1
    assert len({shared for shared, _ in found.values()}) == 4
    children = "founder,founder.d,from.child0,from.child1,from.child2"
    assert set(found["follow-on"][1].split(",")) == set(children.split(","))
    assert "follow-on" in found["closer"][1].split(",")
    assert not any(os.path.exists(shared) for shared, _ in found.values())
    assert "left over" not in second.err


def test_nothing_is_left(chain: tuple[Pipeline, Ran, Ran]) -> None:
    assert chain[0].leftovers() == []


# -- kill -9 -----------------------------------------------------------------------------------------------------

PAUSES = (
    PAUSE
    + """
class Setup(Target):
    def run(self):
        open(os.path.join(self.getGlobalTempDir(), "shared"), "w").close()
        for i in range(2):
            self.addChildTarget(Child())

class Child(Target):
    def run(self):
        open(os.path.join(self.getLocalTempDir(), "file"), "w").close()
        open(os.path.join(self.getGlobalTempDir(), "file"), "w").close()
        note(os.path.dirname(self.getLocalTempDir()))
        pause()
"""
)


class Paused:
    """A run whose two workers wait inside their targets, with temporary directories of their own."""

    def __init__(self, directory: Path) -> None:
        self.gate = Gate(directory)
        self.pipeline = Pipeline(directory, PAUSES)
        self.temporary = directory / "temporary"
        self.temporary.mkdir()
        self.master = self.start()
        self.workers = [self.gate.arrival(), self.gate.arrival()]
        self.launcher = psutil.Process(self.workers[0]).ppid()

    def start(self) -> subprocess.Popen[bytes]:
        """Start it, or go on with it."""
        with open(self.pipeline.directory / "err", "ab") as err:
            return subprocess.Popen(
                self.pipeline.command("--defaultCpu", "0.5", "--defaultMemory", "10M"),
                cwd=self.pipeline.directory,
                env=variables({"TMPDIR": str(self.temporary)}),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=err,
            )

    def finish(self) -> str:
        """Let everything through; what was said."""
        self.gate.let_through(100)
        status = self.master.wait(DEADLINE_SECONDS)
        said = (self.pipeline.directory / "err").read_text()
        assert status == 0, said
        return said


@pytest.fixture
def paused(tmp_path: Path) -> Iterator[Paused]:
    run = Paused(tmp_path)
    yield run
    run.master.kill()
    run.master.wait()
    run.gate.close()


def test_kill_of_a_worker(paused: Paused) -> None:
    killed = paused.workers[0]
    os.kill(killed, signal.SIGKILL)
    again = paused.gate.arrival()  # its target runs again, when what it left is gone
    assert again not in paused.workers
    directories = [path.name for path in paused.temporary.iterdir()]
    assert len(directories) == 2
    said = paused.finish()
    assert "killed from outside by SIGKILL" in said
    assert list(paused.temporary.iterdir()) == []
    assert paused.pipeline.leftovers(str(paused.temporary)) == []


def test_kill_of_the_launcher(paused: Paused) -> None:
    os.kill(paused.launcher, signal.SIGKILL)
    assert gone(paused.workers)
    paused.gate.arrival()
    paused.gate.arrival()
    said = paused.finish()
    assert "the launcher died (SIGKILL)" in said
    assert list(paused.temporary.iterdir()) == []
    assert paused.pipeline.leftovers(str(paused.temporary)) == []


@pytest.mark.parametrize("whom", ["the master", "all"])
def test_kill_of_the_master(paused: Paused, whom: str) -> None:
    below = [paused.launcher, *paused.workers]
    paused.master.kill()
    if whom == "all":
        for pid in below:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue  # it has died with the master
    paused.master.wait()
    assert gone(below)
    assert len(list(paused.temporary.iterdir())) <= 2
    paused.master = paused.start()
    paused.gate.arrival()
    paused.gate.arrival()
    paused.finish()
    assert list(paused.temporary.iterdir()) == []
    assert paused.pipeline.leftovers(str(paused.temporary)) == []


@pytest.mark.parametrize("where", ["_end", "_finish"])
def test_kill_of_the_master_after_the_last_commit(tmp_path: Path, where: str) -> None:
    """The tree is complete then, and what is to be removed is still to be removed by the next start."""
    pipeline = Pipeline(
        tmp_path,
        """
        class Setup(Target):
            def run(self):
                open(os.path.join(self.getGlobalTempDir(), "file"), "w").close()
                self.addChildFn(note, ("child",))

        if __name__ == "__main__" and os.environ.get("KILL"):
            from jobtree.master import Master
            from jobtree.removals import Remover
            def die(*_):
                os.kill(os.getpid(), signal.SIGKILL)
            Remover.add = lambda *_: None
            if os.environ["KILL"] == "_end":
                Master._end = die
            else:
                finish = Master._finish
                def finish_and_die(master, *rest):
                    if not master.tree.complete:
                        return finish(master, *rest)
                    master.teller.tell = die  # the first act after the commit
                    finish(master, *rest)
                Master._finish = finish_and_die
        """,
    )
    ran = pipeline.run(env={"KILL": where})
    assert ran.status == -signal.SIGKILL, ran.err
    pipeline.run().succeeded()
    assert pipeline.counted() == {"child": 1}
    assert pipeline.leftovers() == []


def test_a_target_that_ends_its_process_as_if_all_were_well(tmp_path: Path) -> None:
    pipeline = Pipeline(
        tmp_path,
        """
        class Setup(Target):
            def run(self):
                note(self.getLocalTempDir())
                os._exit(0)
        """,
    )
    assert pipeline.run().status == 1
    (directory,) = pipeline.notes()
    assert not os.path.exists(directory)
    assert pipeline.leftovers() == []
