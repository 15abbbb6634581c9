"""Every way for a target to die, at every moment at which its code runs, and what is then said of it.

Moments: while it is loaded (its ``__setstate__``), while it runs, while what it returned is stored (a ``__reduce__``),
and while its outcome is written down: then no code of a target's runs, so it has replaced a function of the library's,
which dies with half a frame in the file. Some ways do not kill: who closes all files, or removes the working directory,
raises afterwards, and what is said must be whole.

All are targets of one run, among others that nothing may happen to. What a user reads of each is in a table of
docs/howto/failures.md, which is held to this one.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import NamedTuple

import psutil
import pytest

from tests.system.legacy_script import CHECKOUT, Ran
from tests.system.pipelines import Pipeline, failures

pytestmark = pytest.mark.slow

TARGETS = '''
import resource, threading
from jobtree import files

class Stubborn(Exception):
    def __init__(self):
        Exception.__init__(self, "cannot be copied")
        self.lock = threading.Lock()
    def __reduce__(self):
        raise TypeError("not me")

def raises():
    raise ValueError("it broke")

def raises_stubborn():
    raise Stubborn()

def sys_exit():
    sys.exit("went home")

def os_exit():
    os._exit(3)

def sigkill():
    os.kill(os.getpid(), signal.SIGKILL)

def sigsegv():
    os.kill(os.getpid(), signal.SIGSEGV)

def no_memory():
    resource.setrlimit(resource.RLIMIT_AS, (1 << 30, resource.RLIM_INFINITY))
    bytearray(1 << 31)

def disk_full():
    with open("/dev/full", "w") as file:
        file.write("x")

def endless_output():
    while True:
        os.write(1, b"again and again\\n" * 1000)

def fork_bomb():
    """Forks and forks until the limit of a user who has few processes; then it raises, and leaves them all."""
    read, write = os.pipe()
    if os.fork() == 0:
        if os.geteuid() == 0:
            os.setuid(65534)  # no limit holds for root
        resource.setrlimit(resource.RLIMIT_NPROC, (30, 30))
        while True:
            try:
                os.fork()
            except BlockingIOError:
                os.write(write, b".")
                while True:
                    signal.pause()
    os.read(read, 1)
    raise BlockingIOError("no more processes")

def closes_files():
    os.closerange(0, 4096)
    raise ValueError("all files are closed")

def removes_directory():
    os.mkdir(os.path.join(HERE, str(os.getpid())))
    os.chdir(os.path.join(HERE, str(os.getpid())))
    os.rmdir(os.getcwd())
    raise ValueError("there is no working directory")

def leaves_daemon():
    read, write = os.pipe()
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            note(os.getpid(), "daemons")
            os.write(write, b".")
            while True:
                signal.pause()
        os._exit(0)
    os.read(read, 1)
    raise ValueError("a daemon is left")

WAYS = [raises, raises_stubborn, sys_exit, os_exit, sigkill, sigsegv, no_memory, disk_full, endless_output, fork_bomb,
        closes_files, removes_directory, leaves_daemon]

class Case(Target):
    """Prints a line, and dies when it is its moment."""
    def run(self):
        self.at("running")
        return Returned(self)
    def at(self, moment):
        if type(self).__name__.endswith("_" + moment):
            print("printed by", type(self).__name__, flush=True)
            note(type(self).__name__, "tries")
            type(self).way()
    def __setstate__(self, state):
        self.__dict__.update(state)
        self.at("loading")

class Returned:
    """Dies while it is stored, or leaves a profiler that does so when the outcome is written."""
    def __init__(self, case):
        self.case = case
    def __reduce__(self):
        self.case.at("storing")
        if type(self.case).__name__.endswith("_writing"):
            write_all = files.write_all
            def half(fd, data):
                files.write_all = write_all
                os.write(fd, data[: len(data) // 2])
                self.case.at("writing")
            files.write_all = half
        return int, ()

for way in WAYS:
    for moment in ("loading", "running", "storing", "writing"):
        name = way.__name__ + "_" + moment
        if CHOSEN(name):
            globals()[name] = type(name, (Case,), {"__module__": __name__, "way": staticmethod(way)})

class Good(Target):
    def __init__(self, i):
        Target.__init__(self)
        self.i = i
    def run(self):
        note("good %d in %s" % (self.i, os.getcwd()))
        print("good", flush=True)
        self.addChildFn(note, ("child of good %d" % self.i,))
        self.setFollowOnFn(note, ("follow-on of good %d" % self.i,))

class Use(Target):
    def __init__(self, values):
        Target.__init__(self)
        self.values = values

class Setup(Target):
    def run(self):
        values = []
        for i, case in enumerate(Case.__subclasses__()):
            values.append(self.addChildTarget(case()).rv())
            self.addChildTarget(Good(i))
        self.setFollowOnTarget(Use(values))
'''

MOMENTS = ("loading", "running", "storing", "writing")


class Said(NamedTuple):
    """What is said of a way to die: the word for the reason, and what the message has in it."""

    reason: str
    message: str


WAYS = {
    "raises": Said("exception", "ValueError: it broke"),
    "raises_stubborn": Said("exception", "Stubborn: cannot be copied"),
    "sys_exit": Said("exit", "the target called sys.exit('went home')"),
    "os_exit": Said("exit", "exit status 3"),
    "sigkill": Said("killed", "SIGKILL"),
    "sigsegv": Said("signal", "SIGSEGV"),
    "no_memory": Said("memory", "MemoryError"),
    "disk_full": Said("exception", "OSError: [Errno 28] No space left on device"),
    "endless_output": Said("output", "--maxOutput"),
    "fork_bomb": Said("exception", "BlockingIOError: no more processes"),
    "closes_files": Said("exception", "ValueError: all files are closed"),
    "removes_directory": Said("exception", "ValueError: there is no working directory"),
    "leaves_daemon": Said("exception", "ValueError: a daemon is left"),
}
OUTCOME_REFUSED = ("disk_full_writing", "fork_bomb_writing")
"""The system refuses the outcome itself: nobody's fault, and it stops the run; not among the others."""

WORDS = {
    "raises": "raises",
    "raises_stubborn": "raises what cannot be pickled",
    "sys_exit": "calls `sys.exit`",
    "os_exit": "calls `os._exit`",
    "sigkill": "is killed with SIGKILL",
    "sigsegv": "dies of SIGSEGV",
    "no_memory": "gets no more memory (`ulimit -v`)",
    "disk_full": "finds the disk full",
    "endless_output": "prints without end",
    "fork_bomb": "forks until it may not",
    "closes_files": "closes all files, then raises",
    "removes_directory": "removes its working directory, then raises",
    "leaves_daemon": "leaves a process behind, then raises",
}
"""The ways as the document has them."""

CASES = [f"{way}_{moment}" for way in WAYS for moment in MOMENTS if f"{way}_{moment}" not in OUTCOME_REFUSED]


def expected(way: str, moment: str) -> Said:
    """What is said of a way to die at a moment."""
    said = WAYS[way]
    if moment == "storing" and said.reason == "exception":
        # Tried once more in another way, with all files closed.
        again = "OSError: [Errno 9] Bad file descriptor" if way == "closes_files" else said.message
        return Said("CannotPickle", f"{way}_storing.run() returned a Returned that cannot be stored, and its value was "
                    f"promised to another target ({again})")  # fmt: skip
    if moment == "writing" and (said.reason in ("exception", "memory") or way == "sys_exit"):
        return Said("exit", "its worker met an error outside of the target's run (exit status 70)")
    return said


class Died(NamedTuple):
    """The run of all of them. said: what jobTreeStatus --verbose has to say of each."""

    pipeline: Pipeline
    ran: Ran
    said: dict[str, str]


@pytest.fixture(scope="module")
def died(tmp_path_factory: pytest.TempPathFactory) -> Died:
    chosen = f"CHOSEN = lambda name: name not in {OUTCOME_REFUSED}\n"
    pipeline = Pipeline(tmp_path_factory.mktemp("ways"), chosen + TARGETS)
    ran = pipeline.run(
        "--retryCount=0", "--maxLost=1", "--maxOutput=1000000", "--grace=0.1", "--defaultMemory=10M"
    )
    status = pipeline.program("jobTreeStatus", "--verbose", str(pipeline.tree))
    return Died(pipeline, ran, failures(status.out))


def test_the_document_says_the_same() -> None:
    text = (CHECKOUT / "docs" / "howto" / "failures.md").read_text()
    found = re.findall(r"^\| ([^|]*) \| `(\w+)` \| `(.*?)` \|$", text, re.M)
    rows = [(what, *said) for way, what in WORDS.items() for said in {expected(way, m) for m in MOMENTS[:2]}]
    assert found[: len(rows)] == rows


def test_every_one_is_told_and_nobody_else(died: Died) -> None:
    assert died.ran.status == 1, died.ran.err[-3000:]
    assert sorted(died.said) == sorted(CASES), died.ran.err[-3000:]


@pytest.mark.parametrize("name", CASES)
def test_a_way_to_die(died: Died, name: str) -> None:
    way, _, moment = name.rpartition("_")
    said, report = expected(way, moment), died.said[name]
    assert f"reason: {said.reason}\n" in report
    assert said.message in report.splitlines()[0], report
    log = re.search(r"The job seems to have left a log file, indicating failure: (.*)", report)
    assert log, report
    assert f"printed by {name}\n" in Path(log.group(1)).read_text()
    if way != "endless_output":
        assert f"    printed by {name}" in report.splitlines()
    if WAYS[way].reason in ("exception", "memory") and name not in (
        "closes_files_storing",
        "closes_files_writing",
    ):
        assert f"in {way}\n" in report, "the line of the target's code"


def test_nobody_is_harmed_or_run_twice(died: Died) -> None:
    here = died.pipeline.directory
    kinds = ("good {} in " + str(here), "child of good {}", "follow-on of good {}")
    assert died.pipeline.counted() == {kind.format(i): 1 for kind in kinds for i in range(len(CASES))}


@pytest.mark.parametrize("name", OUTCOME_REFUSED)
def test_an_outcome_that_the_system_refuses_stops_the_run_and_charges_nobody(
    tmp_path: Path, name: str
) -> None:
    pipeline = Pipeline(tmp_path, f"CHOSEN = lambda name: name == {name!r}\n" + TARGETS)
    stopped = pipeline.run("--retryCount=0", "--maxLost=1")
    assert stopped.status == 5, stopped.err
    assert re.search(rf"jobtree: {re.escape(str(pipeline.tree))}/outcomes/\d+/\d+: ", stopped.err)
    assert "No target has lost a try by it." in stopped.err
    assert failures(stopped.err) == {}
    pipeline.edit(
        f"CHOSEN = lambda name: name == {name!r}\n" + TARGETS.replace("files.write_all = half", "pass")
    )
    pipeline.run("--retryCount=0", "--maxLost=1").succeeded()
    assert pipeline.leftovers() == []


def test_nothing_is_left(died: Died) -> None:
    daemons = died.pipeline.notes("daemons")
    assert len(daemons) >= len(MOMENTS)
    assert [pid for pid in daemons if psutil.pid_exists(int(pid))] == []
    assert died.pipeline.leftovers() == []
    token = died.pipeline.token()
    assert [p for p in psutil.process_iter() if _mark(p) == token] == []


def _mark(process: psutil.Process) -> str:
    try:
        return str(process.environ().get("JOBTREE_RUN"))
    except (psutil.Error, OSError):
        return ""


def test_what_is_changed_while_a_follow_on_is_stored_is_put_back(tmp_path: Path) -> None:
    pipeline = Pipeline(
        tmp_path,
        """
        class Setup(Target):
            def run(self):
                self.setFollowOnTarget(Sloppy(3))
        class Sloppy(Target):
            def __init__(self, left):
                Target.__init__(self)
                self.left = left
            def run(self):
                umask = os.umask(0o22)
                note((os.getpid(), os.getcwd() == HERE, oct(umask), sys.getprofile(), sys.gettrace()))
                if self.left:
                    self.setFollowOnTarget(Sloppy(self.left - 1))
            def __getstate__(self):
                os.chdir("/")
                os.umask(0o777)
                sys.setprofile(lambda *_: None)
                sys.settrace(lambda *_: None)
                return self.__dict__
        """,
    )
    umask = os.umask(0o22)
    os.umask(umask)
    pipeline.run().succeeded()
    (line,) = pipeline.counted()
    assert line.endswith(f", True, '{umask:#o}', None, None)"), line
    assert pipeline.counted()[line] == 4, "all in one worker"
