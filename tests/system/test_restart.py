"""Stopping in every way there is, and going on."""

from __future__ import annotations

import os
import shlex
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.system.pipelines import DEADLINE_SECONDS, Pipeline, failures, variables, wait_until
from tests.system.waiting import PAUSE, Gate, gone

# -- fix and go on -------------------------------------------------------------------------------------------------

BROKEN = """
class Setup(Target):
    def run(self):
        note("setup")
        children = [self.addChildTarget(Child(i)) for i in range(20)]
        self.setFollowOnTarget(Sum([child.rv() for child in children]))
class Child(Target):
    def __init__(self, i):
        Target.__init__(self)
        self.i = i
    def run(self):
        note(self.i)
        if self.i == 7:
            raise ValueError("the bug")
        return self.i
class Sum(Target):
    def __init__(self, values):
        Target.__init__(self)
        self.values = values
    def run(self):
        note("sum %d" % sum(self.values))
"""


@pytest.mark.parametrize("how", ["the same command", "jobTreeRun", "jobTreeRun elsewhere, moved"])
def test_mending_the_script_and_going_on(tmp_path: Path, how: str) -> None:
    pipeline = Pipeline(tmp_path, BROKEN)
    first = pipeline.run("--retryCount", "1")
    assert first.status == 1
    assert "failed: 1\n" in first.out
    assert f"jobTreeRun --jobTree {pipeline.tree}" in first.err
    assert pipeline.counted() == {"setup": 1, **{str(i): 1 + (i == 7) for i in range(20)}}
    # Tries are renewed after an orderly end, as often as one likes, and --retryCount is that of the last start.
    second = pipeline.program("jobTreeRun", "--jobTree", str(pipeline.tree))
    assert second.status == 1
    assert pipeline.counted()["7"] == 4
    pipeline.edit(BROKEN.replace('raise ValueError("the bug")', 'note("mended")'))
    if how == "the same command":
        ran = pipeline.run()
    elif how == "jobTreeRun":
        ran = pipeline.program("jobTreeRun", "--jobTree", str(pipeline.tree))
    else:
        pipeline.tree.rename(tmp_path / "moved")
        pipeline.tree = tmp_path / "moved"
        program = Path(__file__).parents[2] / "bin" / "jobTreeRun"
        ran = pipeline.run_command([sys.executable, str(program), str(pipeline.tree)], cwd=Path("/"))
    ran.succeeded()
    assert pipeline.counted() == {
        "setup": 1,
        **{str(i): 1 + 4 * (i == 7) for i in range(20)},
        "mended": 1,
        "sum 190": 1,
    }
    assert pipeline.leftovers() == []
    # Once it is complete there is nothing to do, and that is said.
    again = pipeline.run().succeeded()
    assert "is complete" in again.err
    assert pipeline.counted()["setup"] == 1


def test_another_root_target_or_other_arguments_are_noticed(tmp_path: Path) -> None:
    source = """
        class Setup(Target):
            def __init__(self, n=ARGUMENT):
                Target.__init__(self)
                self.n = n
            def run(self):
                note("setup %d" % self.n)
                if not os.path.exists(os.path.join(HERE, "fixed")):
                    raise ValueError
        class Other(Setup):
            pass
    """
    pipeline = Pipeline(tmp_path)
    pipeline.edit(source.replace("ARGUMENT", "1"))
    assert "was started with" not in pipeline.run().err
    assert "was started with" not in pipeline.run().err
    pipeline.edit(source.replace("ARGUMENT", "22"))
    ran = pipeline.run()
    assert "was started with other arguments of " in ran.err
    assert "goes on with those" in ran.err
    pipeline.write(
        pipeline.name, (tmp_path / pipeline.name).read_text().replace("Stack(Setup())", "Stack(Other())")
    )
    ran = pipeline.run()
    assert "the new one is not run" in ran.err
    assert "Other" in ran.err
    assert pipeline.counted() == {"setup 1": 4}


# -- signals, two masters, kill -9 ---------------------------------------------------------------------------------

WAITS = (
    PAUSE
    + """
class Setup(Target):
    def run(self):
        note("setup")
        for i in range(4):
            self.addChildTarget(Quick(i))
        for i in range(2):
            self.addChildTarget(Slow(i))
        self.setFollowOnFn(note, ("follow-on",))
class Quick(Target):
    def __init__(self, i):
        Target.__init__(self)
        self.i = i
    def run(self):
        note("quick %d" % self.i)
        if self.i == 0 and not os.path.exists(os.path.join(HERE, "fixed")):
            raise ValueError("not yet")
class Slow(Quick):
    def run(self):
        note("slow %d started" % self.i)
        if os.fork() == 0:
            os.setsid()
            note(os.getpid(), "daemons")
            signal.pause()
        pause()
        note("slow %d" % self.i)
"""
)


class Run:
    """A run of which two targets wait, each with a daemon, while the others are done or have failed."""

    def __init__(self, directory: Path) -> None:
        self.gate = Gate(directory)
        self.pipeline = Pipeline(directory, WAITS)
        self.started: list[subprocess.Popen[bytes]] = []
        self.start()

    def start(self, *options: str) -> subprocess.Popen[bytes]:
        """Start it, or go on with it."""
        out = self.pipeline.directory / f"err.{len(self.started)}"
        options = (
            "--defaultCpu",
            "0.2",
            "--defaultMemory",
            "10M",
            "--maxThreads",
            "2",
            "--grace",
            "0.1",
            *options,
        )
        with out.open("wb") as err:
            process = subprocess.Popen(
                self.pipeline.command(*options),
                cwd=self.pipeline.directory,
                env=variables(),
                stdin=subprocess.DEVNULL,
                stdout=err,
                stderr=err,
            )
        self.started.append(process)
        return process

    def wait_inside(self) -> list[int]:
        """Wait until both wait and the failure of the one that fails is known; their pids and the launcher's."""
        pids = [self.gate.arrival() for _ in range(2)]
        wait_until(self.has_failed, "quick 0 has not failed")
        return [*pids, psutil.Process(pids[0]).ppid()]

    def has_failed(self) -> bool:
        """Whether it was told of the failing target, or it is mended."""
        said = "".join(path.read_text() for path in self.pipeline.directory.glob("err.*"))
        return "is given up" in said or (self.pipeline.directory / "fixed").exists()

    def mend(self) -> None:
        """From now on nothing fails."""
        (self.pipeline.directory / "fixed").touch()

    def ended(self) -> tuple[int, str]:
        """The status of the last start and what it said."""
        status = self.started[-1].wait(DEADLINE_SECONDS)
        return status, (self.pipeline.directory / f"err.{len(self.started) - 1}").read_text()

    def check_end(self) -> None:
        """Let it go on to its end, which must be the right one."""
        self.gate.let_through(1000)
        status, said = self.ended()
        assert status == 0, said
        counted = self.pipeline.counted()
        assert counted["setup"] == counted["follow-on"] == 1
        assert counted["slow 0"] == counted["slow 1"] == 1
        assert counted["quick 0"] == 2
        # One that was just running when it was stopped runs once more.
        assert all(counted[f"quick {i}"] in (1, 2) for i in (1, 2, 3))
        assert self.pipeline.leftovers() == []
        assert self.no_daemons()

    def no_daemons(self) -> bool:
        """Whether all of the targets' own processes are gone."""
        return not [pid for pid in self.pipeline.notes("daemons") if psutil.pid_exists(int(pid))]

    def close(self) -> None:
        """End what still runs."""
        for process in self.started:
            process.kill()
            process.wait()
        self.gate.close()


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Run]:
    made = Run(tmp_path)
    yield made
    made.close()


@pytest.mark.parametrize(
    ("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)]
)
def test_a_signal_stops_it_and_nothing_is_left_running(run: Run, number: signal.Signals, status: int) -> None:
    pids = run.wait_inside()
    run.started[-1].send_signal(number)
    ended, said = run.ended()
    # A shell shows a process that died of a signal as 128 + its number.
    assert ended in (status, -number), said
    alive = [pid for pid in pids if psutil.pid_exists(pid)]
    assert alive == []
    assert run.no_daemons()
    assert f"Continue with: jobTreeRun --jobTree {run.pipeline.tree}" in said
    assert "\nTraceback" not in said
    assert run.pipeline.leftovers() == []
    run.mend()
    run.start()
    run.wait_inside()
    run.check_end()


@pytest.mark.parametrize("place", ["jobtree.summary.lines", "jobtree.recording.record"])
def test_ctrl_c_before_and_after_the_loop_shows_no_traceback(tmp_path: Path, place: str) -> None:
    """As the first one while the run is being made, or once more while its end is told."""
    module, _, name = place.rpartition(".")
    pipeline = Pipeline(
        tmp_path,
        f"""
        import {module}
        if __name__ == "__main__":
            signal.signal(signal.SIGINT, signal.default_int_handler)
            {place} = lambda *arguments: signal.raise_signal(signal.SIGINT)
        class Setup(Target):
            def run(self):
                note("setup")
        """,
    )
    ran = pipeline.run()
    assert ran.status == -signal.SIGINT
    assert "Traceback" not in ran.err
    assert "Stopped by Ctrl-C. The same command again goes on from there.\n" in ran.err
    pipeline.edit("class Setup(Target):\n    def run(self):\n        note('setup')\n")
    pipeline.run().succeeded()
    assert pipeline.notes() == ["setup"]


def test_a_working_directory_that_is_gone_before_the_start(tmp_path: Path) -> None:
    pipeline = Pipeline(tmp_path, "class Setup(Target):\n    def run(self):\n        pass\n")
    (tmp_path / "gone").mkdir()
    start = 'cd gone && rmdir ../gone && exec "$@"'
    ran = pipeline.run_command(["sh", "-c", start, "sh", *pipeline.command()])
    ran.failed("the directory in which this was started is not there any more")
    assert ran.status == 2
    assert "Traceback" not in ran.err
    assert not pipeline.tree.exists()


def test_two_signals_do_no_more_than_one(run: Run) -> None:
    run.wait_inside()
    for _ in range(3):
        run.started[-1].send_signal(signal.SIGINT)
    ended, said = run.ended()
    assert ended in (130, -signal.SIGINT), said
    assert "\nTraceback" not in said
    run.mend()
    run.start()
    run.wait_inside()
    run.check_end()


def test_a_second_master_is_refused(run: Run) -> None:
    run.wait_inside()
    for second in (run.pipeline.run(), run.pipeline.program("jobTreeRun", str(run.pipeline.tree))):
        assert second.status == 4
        assert f"on host {socket.gethostname()} with pid {run.started[0].pid}" in second.err
        assert "jobTreeKill" in second.err
        assert "\nTraceback" not in second.err
    run.gate.let_through(1000)
    assert run.ended()[0] == 1
    run.mend()
    run.start()
    run.check_end()


def test_kill_of_the_master_and_going_on(run: Run) -> None:
    times = 2
    for _ in range(times):
        pids = run.wait_inside()
        run.started[-1].kill()
        run.started[-1].wait()
        assert gone(pids)
        run.start()
    run.wait_inside()
    counted = run.pipeline.counted()
    # Whoever had failed for good has no new tries after a crash; who was killed has lost none.
    assert counted["quick 0"] == 1
    assert {counted[f"slow {i} started"] for i in range(2)} == {times + 1}
    run.gate.let_through(1000)
    status, said = run.ended()
    assert status == 1, said
    assert run.pipeline.counted()["quick 0"] == 1
    run.mend()
    run.start()
    status, said = run.ended()
    assert status == 0, said
    assert run.pipeline.counted()["quick 0"] == 2
    assert run.pipeline.leftovers() == []


def test_a_kill_by_command(run: Run) -> None:
    pids = run.wait_inside()
    killed = run.pipeline.program("jobTreeKill", str(run.pipeline.tree))
    assert killed.status == 0, killed.err
    status, said = run.ended()
    assert status == 3, said
    assert "stopped by jobTreeKill" in said
    assert [pid for pid in pids if psutil.pid_exists(pid)] == []
    run.mend()
    run.start()
    run.wait_inside()
    run.check_end()


@pytest.mark.slow
def test_kill_of_the_master_at_every_commit(tmp_path: Path) -> None:
    """Killed right after its n-th commit, for n = 1, 2, 3 ... until it gets through."""
    pipeline = Pipeline(
        tmp_path,
        BROKEN.replace('raise ValueError("the bug")', 'note("mended")')
        + """
if __name__ == "__main__" and "KILL" in os.environ:
    from jobtree.store import Store
    left = [int(os.environ["KILL"])]
    def commit(store, commit=Store.commit):
        commit(store)
        left[0] -= 1
        if left[0] == 0:
            os.kill(os.getpid(), signal.SIGKILL)
    Store.commit = commit
""",
    )
    for n in range(2, 40):
        ran = pipeline.run("--durable", "tree", env={"KILL": str(n)})
        if ran.status == 0:
            break
        assert ran.status == -signal.SIGKILL, ran.err
    assert ran.status == 0
    pipeline.run().succeeded()
    counted = pipeline.counted()
    assert set(counted) == {"setup", "mended", "sum 190", *map(str, range(20))}
    assert pipeline.leftovers() == []


# -- what is in the way --------------------------------------------------------------------------------------------

TINY = """
class Setup(Target):
    def run(self):
        note("setup")
        open(os.path.join(self.getGlobalTempDir(), "x"), "w").close()
        self.addChildFn(note, ("child",))
        self.addChildFn(note, ("child",))
        if not os.path.exists(os.path.join(HERE, "fixed")):
            raise ValueError("not yet")
"""


def test_a_directory_that_is_not_a_job_tree_is_left_alone(tmp_path: Path) -> None:
    pipeline = Pipeline(tmp_path, TINY)
    pipeline.tree.mkdir(mode=0o755)
    (pipeline.tree / "thesis.tex").write_text("precious")
    before = pipeline.tree.stat()
    for ran in (pipeline.run(), pipeline.program("jobTreeRun", str(pipeline.tree))):
        assert ran.status == 2, ran.err
        assert "exists and is not a job tree: it holds 'thesis.tex'" in ran.err
        assert "\nTraceback" not in ran.err
    assert os.listdir(pipeline.tree) == ["thesis.tex"]
    after = pipeline.tree.stat()
    assert (after.st_mode, after.st_mtime_ns) == (before.st_mode, before.st_mtime_ns)


def test_a_file_in_the_way(tmp_path: Path) -> None:
    pipeline = Pipeline(tmp_path, TINY)
    pipeline.tree.write_text("precious")
    for tree in (pipeline.tree, pipeline.tree / "below"):
        pipeline.tree = tree
        ran = pipeline.run()
        assert ran.status in (2, 5), ran.err
        assert str(tmp_path / "tree") in ran.err
        assert "\nTraceback" not in ran.err
    assert (tmp_path / "tree").read_text() == "precious"


def test_a_tree_that_others_can_write_to_is_refused(tmp_path: Path) -> None:
    pipeline = Pipeline(tmp_path, TINY)
    assert pipeline.run().status == 1
    pipeline.tree.chmod(0o770)
    ran = pipeline.run()
    assert ran.status == 2
    assert "can be written by others (mode 770)" in ran.err
    assert f"chmod go-w {pipeline.tree}" in ran.err
    assert pipeline.counted() == {"setup": 1}
    pipeline.tree.chmod(0o700)
    (tmp_path / "fixed").touch()
    pipeline.run().succeeded()


def test_nobody_else_can_look_into_a_tree(tmp_path: Path) -> None:
    pipeline = Pipeline(tmp_path, TINY)
    old = os.umask(0)
    try:
        pipeline.run()
    finally:
        os.umask(old)
    assert pipeline.tree.stat().st_mode & 0o777 == 0o700
    files = (
        path for path in pipeline.tree.rglob("*") if "globalTempDirs" not in path.parts and path.is_file()
    )
    readable = [path for path in files if path.stat().st_mode & 0o077]
    assert readable == []


def test_an_empty_directory_is_used(tmp_path: Path) -> None:
    pipeline = Pipeline(tmp_path, TINY)
    (tmp_path / "fixed").touch()
    pipeline.tree.mkdir()
    pipeline.run().succeeded()
    assert pipeline.counted() == {"setup": 1, "child": 2}


def test_the_directory_of_the_start_is_gone(tmp_path: Path) -> None:
    """Targets cannot run where they are to run; that is said, and putting the directory back is enough."""
    pipeline = Pipeline(tmp_path, TINY)
    start = tmp_path / "start"
    start.mkdir()
    assert pipeline.run_command(pipeline.command(), cwd=start).status == 1
    start.rename(tmp_path / "elsewhere")
    ran = pipeline.program("jobTreeRun", str(pipeline.tree))
    assert ran.status not in (0, 1), ran.err
    assert str(start) in ran.err
    assert "\nTraceback" not in ran.err
    (tmp_path / "elsewhere").rename(start)
    (tmp_path / "fixed").touch()
    pipeline.program("jobTreeRun", str(pipeline.tree)).succeeded()


def test_no_tree_given_and_none_to_continue(tmp_path: Path) -> None:
    pipeline = Pipeline(tmp_path, TINY)
    ran = pipeline.run_command([sys.executable, pipeline.name])
    assert ran.status == 2
    assert "--jobTree" in ran.err
    ran = pipeline.program("jobTreeRun", str(pipeline.tree))
    assert ran.status == 2
    assert "is not a job tree" in ran.err
    assert not pipeline.tree.exists()


ODD_NAMES = ['it\'s "quoted" %s {0} $HOME *', "two\nlines", "-gr\u00f6\u00dfe \u6811", "caf\udce9"]


@pytest.mark.parametrize("name", ODD_NAMES, ids=ascii)
def test_odd_names_of_trees(tmp_path: Path, name: str) -> None:
    pipeline = Pipeline(tmp_path, TINY)
    pipeline.tree = tmp_path / name
    ran = pipeline.run()
    assert ran.status == 1, ran.err
    assert list(failures(ran.err)) == ["Setup"]
    (tmp_path / "fixed").touch()
    # What is said can be pasted into a shell, except where that would need control characters.
    if name.isprintable():
        (line,) = [line for line in ran.err.splitlines() if "Continue with: jobTreeRun" in line]
        words = shlex.split(line.partition("jobTreeRun")[2])
        assert words == ["--jobTree", str(pipeline.tree)]
        ran = pipeline.program("jobTreeRun", *words)
    else:
        ran = pipeline.run()
    ran.succeeded()
    assert pipeline.counted() == {"setup": 2, "child": 2}
    assert pipeline.leftovers() == []
