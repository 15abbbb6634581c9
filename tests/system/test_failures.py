"""The ways in which a target can fail, what is said of each, and that nobody else is harmed."""

from __future__ import annotations

import re
import signal
import socket
from pathlib import Path

import psutil
import pytest

from tests.system.legacy_script import Ran
from tests.system.pipelines import Pipeline, failures

# -- one run in which every target fails in its own way ----------------------------------------------------------

ZOO = '''
import resource, threading

def leave_daemon():
    """Start a process that has left its parent and its session; return when it runs."""
    read, write = os.pipe()
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            note(os.getpid(), "daemons")
            os.write(write, b".")
            signal.pause()
        os._exit(0)
    os.read(read, 1)

class Case(Target):
    """Counts its tries, prints a line, and fails in its own way."""
    def run(self):
        note(type(self).__name__, "tries")
        print("printed by", type(self).__name__, flush=True)
        open(os.path.join(self.getLocalTempDir(), "file"), "w").close()
        self.fail()
        note(type(self).__name__ + " went on")

class Raises(Case):
    def fail(self):
        try:
            {}["the first"]
        except KeyError:
            raise ValueError("the second \\x1b[31mred")

class Stubborn(Exception):
    def __init__(self):
        self.lock = threading.Lock()
    def __str__(self):
        raise RuntimeError("no text for you")
    __repr__ = __str__

class RaisesStubborn(Case):
    def fail(self):
        raise Stubborn()

class Leaver(Exception):
    def __str__(self):
        sys.exit("from __str__")

class RaisesLeaver(Case):
    def fail(self):
        raise Leaver()

class Interrupts(Case):
    def fail(self):
        raise KeyboardInterrupt

class SysExit(Case):
    def fail(self):
        sys.exit("went home")

class SysExit0(Case):
    def fail(self):
        sys.exit(0)

class OsExit0(Case):
    def fail(self):
        os._exit(0)

class OsExit3(Case):
    def fail(self):
        os._exit(3)

class Segfault(Case):
    def fail(self):
        os.kill(os.getpid(), signal.SIGSEGV)

class Aborts(Case):
    def fail(self):
        os.abort()

class KillsItself(Case):
    def fail(self):
        os.kill(os.getpid(), signal.SIGKILL)

class DiskFull(Case):
    def fail(self):
        with open("/dev/full", "w") as file:
            file.write("x")

class NoMemory(Case):
    def fail(self):
        resource.setrlimit(resource.RLIMIT_AS, (1 << 30, resource.RLIM_INFINITY))
        bytearray(1 << 31)

class PrintsWithoutEnd(Case):
    def fail(self):
        while True:
            os.write(1, b"again and again\\n" * 1000)

class TooLong(Case):
    def fail(self):
        signal.signal(signal.SIGTERM, lambda *_: note("TooLong was asked to end"))
        while True:
            signal.pause()

class TooMuchMemory(Case):
    def __init__(self):
        Target.__init__(self, memory="8000000G")

class TooManyCores(Case):
    def __init__(self):
        Target.__init__(self, cpu=70000)

class AddsUnpicklable(Case):
    def fail(self):
        child = self.addChildFn(note, ("never",))
        child.handles = [{"ok": 1}, {"log": threading.Lock()}]
        self.addChildFn(note, ("never",))
        self.setFollowOnFn(note, ("never",))

class HalfWay(Case):
    def fail(self):
        self.addChildFn(note, ("never",))
        raise ValueError("after a child was added")

class Daemon(Case):
    def fail(self):
        leave_daemon()
        os._exit(5)

class Forgot(Target):
    def __init__(self):
        pass

class GivesForgotten(Case):
    def fail(self):
        self.addChildTarget(Forgot())

class BadFlush(Case):
    def fail(self):
        class Stream:
            encoding = "ascii"
            def write(self, text):
                pass
            def flush(self):
                raise RuntimeError("this stream is special")
        sys.stdout = Stream()
        raise ValueError("with a stream of its own")

class Good(Target):
    def __init__(self, i):
        Target.__init__(self)
        self.i = i
    def run(self):
        note("good %d" % self.i)
        self.addChildFn(note, ("child of good %d" % self.i,))
        self.setFollowOnFn(note, ("follow-on of good %d" % self.i,))

class Setup(Target):
    def run(self):
        for i in range(10):
            self.addChildTarget(Good(i))
        for case in Case.__subclasses__():
            self.addChildTarget(case())
        for i in range(10, 20):
            self.addChildTarget(Good(i))
        self.setFollowOnFn(note, ("never",))
'''

#: Name, how often it is tried (with --retryCount 1 --maxLost 2), the word for the reason, and what else is said.
CASES = [
    (
        "Raises",
        2,
        "exception",
        ["ValueError: the second", "KeyError: 'the first'", "in fail", "\\x1b[31mred"],
    ),
    ("RaisesStubborn", 2, "exception", ["Stubborn", "cannot be shown", "in fail"]),
    ("RaisesLeaver", 2, "exception", ["Leaver"]),
    ("Interrupts", 2, "exception", ["KeyboardInterrupt"]),
    ("SysExit", 2, "exit", ["sys.exit('went home')"]),
    ("SysExit0", 2, "exit", ["sys.exit(0)"]),
    ("OsExit0", 2, "exit", ["exit status 0"]),
    ("OsExit3", 2, "exit", ["exit status 3"]),
    ("Segfault", 2, "signal", ["SIGSEGV"]),
    ("Aborts", 2, "signal", ["SIGABRT"]),
    ("KillsItself", 2, "killed", ["SIGKILL"]),
    ("DiskFull", 2, "exception", ["No space left on device", "in fail"]),
    ("NoMemory", 2, "memory", ["MemoryError", "in fail"]),
    ("PrintsWithoutEnd", 2, "output", ["--maxOutput", "1000000"]),
    ("TooLong", 2, "time", ["--maxJobDuration"]),
    ("TooMuchMemory", 0, "resources", ["7812.5 TiB of memory", " GiB"]),
    ("TooManyCores", 0, "resources", ["70000 cores"]),
    ("AddsUnpicklable", 2, "CannotPickle", ["handles[1]['log']", "lock"]),
    ("HalfWay", 2, "exception", ["after a child was added"]),
    ("Daemon", 2, "exit", ["exit status 5"]),
    ("GivesForgotten", 2, "TargetNotInitialised", ["Forgot.__init__ did not call Target.__init__"]),
    ("BadFlush", 2, "exception", ["with a stream of its own"]),
]
NAMES = [case[0] for case in CASES]
OPTIONS = [
    "--retryCount=1", "--maxLost=2", "--maxOutput=1000000", "--maxJobDuration=1", "--grace=0.1", "--maxThreads=4",
    "--defaultMemory=10M", "--durable=tree",
]  # fmt: skip


@pytest.fixture(scope="module")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> tuple[Pipeline, Ran, dict[str, str]]:
    pipeline = Pipeline(tmp_path_factory.mktemp("zoo"), ZOO)
    ran = pipeline.run(*OPTIONS)
    return pipeline, ran, failures(ran.err)


Zoo = tuple[Pipeline, Ran, dict[str, str]]


def test_every_failing_target_is_reported_and_no_other(zoo: Zoo) -> None:
    pipeline, ran, said = zoo
    assert sorted(said) == sorted(NAMES), ran.err[-3000:]
    assert (ran.status, f"failed: {len(CASES)}" in ran.out) == (1, True)


def test_the_others_and_what_they_lead_to_run_exactly_once(zoo: Zoo) -> None:
    kinds = ("good", "child of good", "follow-on of good")
    expected = {f"{kind} {i}": 1 for kind in kinds for i in range(20)}
    notes = zoo[0].counted()
    assert {name: number for name, number in notes.items() if "good" in name} == expected
    assert "never" not in notes
    assert not [name for name in notes if name.endswith("went on") and name != "AddsUnpicklable went on"]


@pytest.mark.parametrize(("name", "tries", "reason", "words"), CASES, ids=NAMES)
def test_a_way_to_fail(zoo: Zoo, name: str, tries: int, reason: str, words: list[str]) -> None:
    pipeline, ran, said = zoo
    assert name in said, ran.err[-3000:]
    report = said[name]
    assert pipeline.counted("tries")[name] == tries
    for word in words:
        assert word in report
    assert f"reason: {reason}" in report
    assert f"on {socket.gethostname()}" in report or not tries
    if tries:
        assert f"attempt {tries} " in report
        assert name == "PrintsWithoutEnd" or f"    printed by {name}" in report.splitlines()
        found = re.search(r"The job seems to have left a log file, indicating failure: (.*)", report)
        assert found
        assert Path(found.group(1)).is_file()


def test_control_characters_are_shown_and_not_obeyed(zoo: Zoo) -> None:
    assert not [c for c in zoo[1].err if not c.isprintable() and c not in "\n\t"]


def test_who_runs_too_long_is_asked_before_it_is_killed(zoo: Zoo) -> None:
    assert zoo[0].counted()["TooLong was asked to end"] == 2


def test_no_process_and_no_file_is_left(zoo: Zoo) -> None:
    pipeline, _, _ = zoo
    assert len(pipeline.notes("daemons")) == 2
    assert [pid for pid in pipeline.notes("daemons") if psutil.pid_exists(int(pid))] == []
    assert pipeline.leftovers() == []


# -- crashes in a worker that others share -------------------------------------------------------------------------

SHARED = """
class Setup(Target):
    def run(self):
        for i in range(1000):
            self.addChildTarget(NoOp(i))
class NoOp(Target):
    def __init__(self, i):
        Target.__init__(self)
        self.i = i
    def run(self):
        note(self.i)
        if self.i == 777:
            CRASH
"""


@pytest.mark.parametrize(
    ("crash", "tries"),
    [
        # Once in the shared worker, which charges nobody, and then alone, with a retry.
        ("os._exit(9)", 3),
        ("os.kill(os.getpid(), signal.SIGSEGV)", 3),
        # Killed from outside: a loss each time, three in a row.
        ("os.kill(os.getpid(), signal.SIGKILL)", 3),
        # An exception harms nobody's worker.
        ("raise ValueError", 2),
    ],
)
def test_a_crash_among_many_small_targets(tmp_path: Path, crash: str, tries: int) -> None:
    pipeline = Pipeline(tmp_path, SHARED.replace("CRASH", crash))
    ran = pipeline.run("--retryCount", "1", "--maxLost", "3")
    assert "failed: 1\n" in ran.out, ran.err
    counted = pipeline.counted()
    assert counted.pop("777") == tries, ran.err
    assert counted == {str(i): 1 for i in range(1000) if i != 777}
    assert list(failures(ran.err)) == ["NoOp"]


def test_output_of_others_in_the_same_worker_does_not_count(tmp_path: Path) -> None:
    """Each prints less than it may. What a bundle's log holds of all of them is more."""
    pipeline = Pipeline(
        tmp_path,
        """
        import time
        class Setup(Target):
            def run(self):
                for i in range(40):
                    self.addChildTarget(Prints(i))
        class Prints(Target):
            def __init__(self, i):
                Target.__init__(self)
                self.i = i
            def run(self):
                print("x" * 1000)
                if self.i in (10, 20):
                    time.sleep(0.4)  # so long that the master looks meanwhile
        """,
    )
    ran = pipeline.run("--keepLogs", "--maxOutput", "5000", "--maxThreads", "1", "--grace", "0.1")
    assert "failed: 0\n" in ran.out, ran.err[:3000]


# -- what a target leaves behind in its worker ----------------------------------------------------------------------

VANDALS = '''
import logging, resource, threading

def state():
    """What a target finds."""
    signals = [(int(n), str(signal.getsignal(n))) for n in sorted(signal.valid_signals())]
    root = logging.getLogger()
    umask = os.umask(0)
    os.umask(umask)
    return {
        "directory": os.getcwd(),
        "variables": sorted(os.environ.items()),
        "umask": umask,
        "handlers of signals": signals,
        "blocked signals": sorted(signal.pthread_sigmask(signal.SIG_BLOCK, [])),
        "timers": [signal.getitimer(n) for n in (signal.ITIMER_REAL, signal.ITIMER_VIRTUAL, signal.ITIMER_PROF)],
        "limits": [resource.getrlimit(n) for n in (resource.RLIMIT_CORE, resource.RLIMIT_NOFILE, resource.RLIMIT_AS)],
        "search path": list(sys.path),
        "streams": [(type(s).__name__, s.fileno(), s.closed) for s in (sys.stdin, sys.stdout, sys.stderr)],
        "files": [os.readlink("/proc/self/fd/%d" % number) for number in range(3)],
        "logging": (root.level, len(root.handlers), logging.root.manager.disable),
        "threads": threading.active_count(),
    }

def leave_daemon():
    """Start a process that has left its parent and its session; return when it runs."""
    read, write = os.pipe()
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            note(os.getpid(), "daemons")
            os.write(write, b".")
            signal.pause()
        os._exit(0)
    os.read(read, 1)

class Vandal(Target):
    def run(self):
        before = state()
        self.setFollowOnTarget(Look(type(self).__name__, os.getpid(), before))
        self.vandalise()

class Look(Target):
    def __init__(self, name, pid, before):
        Target.__init__(self)
        self.name, self.pid, self.before = name, pid, before
    def run(self):
        after = state()
        if os.getpid() != self.pid:
            # In a fresh worker the log is another file.
            self.before["files"][1:] = after["files"][1:]
        changed = [key for key in after if after[key] != self.before[key]]
        print("seen", flush=True)
        note((self.name, os.getpid() == self.pid, changed))

class Nothing(Vandal):
    def vandalise(self):
        pass

class Directory(Vandal):
    def vandalise(self):
        os.mkdir("away")
        os.chdir("away")
        os.rmdir(os.getcwd())

class Variables(Vandal):
    def vandalise(self):
        os.environ["HOME"] = "/nowhere"
        os.environ["NEW"] = "1"
        del os.environ["PATH"]

class Umask(Vandal):
    def vandalise(self):
        os.umask(0o777)

class Signals(Vandal):
    def vandalise(self):
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGALRM, signal.SIGWINCH, signal.SIGPROF):
            signal.signal(number, lambda *_: None)
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)

class Blocked(Vandal):
    def vandalise(self):
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM, signal.SIGUSR1])

class Timer(Vandal):
    def vandalise(self):
        signal.alarm(100)

class ProfileTimer(Vandal):
    def vandalise(self):
        signal.setitimer(signal.ITIMER_PROF, 1000)
        signal.setitimer(signal.ITIMER_VIRTUAL, 1000)

class Limits(Vandal):
    def vandalise(self):
        resource.setrlimit(resource.RLIMIT_NOFILE, (3, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
        resource.setrlimit(resource.RLIMIT_AS, (1 << 20, resource.getrlimit(resource.RLIMIT_AS)[1]))

class SearchPath(Vandal):
    def vandalise(self):
        sys.path.insert(0, "/nowhere")
        sys.path = ["/elsewhere"]

class Streams(Vandal):
    def vandalise(self):
        sys.stdout = open(os.devnull, "w")
        sys.stderr.close()
        os.dup2(os.open(os.devnull, os.O_RDWR), 1)

class Logging(Vandal):
    def vandalise(self):
        logging.basicConfig(level=logging.DEBUG, force=True, handlers=[logging.NullHandler(), logging.NullHandler()])
        logging.disable(logging.CRITICAL)

class Descriptors(Vandal):
    def vandalise(self):
        os.closerange(0, 1000)

class Forks(Vandal):
    def vandalise(self):
        if os.fork() == 0:
            note("in the fork")

class Thread(Vandal):
    def vandalise(self):
        threading.Thread(target=threading.Event().wait, name="left-behind").start()

class Process(Vandal):
    def vandalise(self):
        leave_daemon()

class Setup(Target):
    def run(self):
        for case in Vandal.__subclasses__():
            self.addChildTarget(case())
'''

VANDAL_NAMES = [
    "Nothing", "Directory", "Variables", "Umask", "Signals", "Blocked", "Timer", "ProfileTimer", "Limits", "SearchPath",
    "Streams", "Logging", "Descriptors", "Forks", "Thread", "Process",
]  # fmt: skip


@pytest.fixture(scope="module")
def vandals(tmp_path_factory: pytest.TempPathFactory) -> tuple[Pipeline, Ran]:
    pipeline = Pipeline(tmp_path_factory.mktemp("vandals"), VANDALS)
    return pipeline, pipeline.run("--defaultMemory=10M")


@pytest.mark.parametrize("name", VANDAL_NAMES)
def test_the_next_target_in_the_same_worker_finds_everything_as_it_was(
    vandals: tuple[Pipeline, Ran], name: str
) -> None:
    pipeline, ran = vandals
    lines = [line for line in pipeline.notes() if line.startswith(f"({name!r}")]
    same_process = name != "Thread"
    assert lines == [str((name, same_process, []))], ran.err


def test_what_vandals_leave_behind_is_told(vandals: tuple[Pipeline, Ran]) -> None:
    pipeline, ran = vandals
    assert "failed: 0\n" in ran.out, ran.err
    assert "left the thread left-behind running" in ran.err
    assert re.search(r"left python\S* running when it ended; killed", ran.err)
    assert [pid for pid in pipeline.notes("daemons") if psutil.pid_exists(int(pid))] == []
    assert pipeline.counted()["in the fork"] == 1
    assert pipeline.leftovers() == []


# -- code that is not there ----------------------------------------------------------------------------------------


def test_a_module_that_is_missing_where_targets_run(tmp_path: Path) -> None:
    """It is only found by the target that adds the children. Pausing charges nobody, and mending it is enough."""
    pipeline = Pipeline(
        tmp_path,
        """
        class Setup(Target):
            def run(self):
                sys.path.insert(0, os.path.join(HERE, "hidden"))
                from helper_of_this_test import Helped
                for i in range(200):
                    self.addChildTarget(Helped(i))
                self.setFollowOnFn(note, ("follow-on",))
        """,
    )
    pipeline.write(
        "hidden/helper_of_this_test.py",
        """
        from jobtree import Target
        class Helped(Target):
            def __init__(self, i):
                Target.__init__(self)
                self.i = i
            def run(self):
                with open("helped", "a") as file:
                    file.write("%d\\n" % self.i)
        """,
    )
    ran = pipeline.run()
    assert ran.status == 3, ran.err
    assert "No module named 'helper_of_this_test'" in ran.err
    assert "Search path:" in ran.err
    assert str(tmp_path) in ran.err
    assert "pip install" in ran.err
    assert "no target has lost a try by it" in ran.err
    assert "Continue with: jobTreeRun" in ran.err
    assert failures(ran.err) == {}
    pipeline.run(env={"PYTHONPATH": f"{Path(__file__).parents[2]}:{tmp_path / 'hidden'}"}).succeeded()
    assert pipeline.counted("helped") == {str(i): 1 for i in range(200)}
    assert pipeline.counted() == {"follow-on": 1}


def test_a_class_that_is_removed_from_the_script_before_a_restart(tmp_path: Path) -> None:
    setup = """
        class Setup(Target):
            def run(self):
                note("setup")
                self.addChildTarget(Stays())
                self.addChildTarget(Goes())
    """
    classes = """
        class Stays(Target):
            def run(self):
                note("stays")
        class Goes(Stays):
            def run(self):
                raise ValueError("broken")
    """
    pipeline = Pipeline(tmp_path)
    pipeline.edit(setup + classes)
    assert pipeline.run().status == 1
    pipeline.edit(setup + classes[: classes.index("class Goes")])
    ran = pipeline.run()
    assert ran.status == 1
    (report,) = failures(ran.err).values()
    assert "pipeline.Goes is gone from" in report
    assert "the code has changed since this target was stored" in report
    pipeline.edit(setup + classes.replace('raise ValueError("broken")', 'note("mended")'))
    pipeline.run().succeeded()
    assert pipeline.counted() == {"setup": 1, "stays": 1, "mended": 1}


# -- odd texts ---------------------------------------------------------------------------------------------------


def test_texts_that_are_no_unicode_everywhere(tmp_path: Path) -> None:
    """Names of files may be any bytes; Python shows those as lone surrogates, and they get into everything."""
    pipeline = Pipeline(
        tmp_path,
        """
        class Setup(Target):
            def run(self):
                odd = os.fsdecode(b"caf\\xe9")
                self.logToMaster("message " + odd)
                print("printed")
                sys.stdout.buffer.write(b"raw \\xff\\xfe")
                self.addChildCommand("true " + odd)
                self.addChildCommand("./" + odd + " --option")
                self.addChildTargetFn(child, (odd,))
        def child(target, odd):
            open(os.path.join(target.getGlobalTempDir(), odd), "w").close()
            open(os.path.join(target.getLocalTempDir(), odd), "w").close()
            print(odd)
            raise ValueError(odd)
        """,
    )
    ran = pipeline.run("--logFile", str(tmp_path / "log"))
    assert "failed: 2\n" in ran.out, ran.err
    assert "message caf\\udce9" in ran.err
    assert "ValueError: caf\\udce9" in ran.err
    # And once more: the tree that has seen them is read again.
    again = pipeline.run()
    assert "failed: 2\n" in again.out, again.err


def test_texts_of_a_class_of_their_own(tmp_path: Path) -> None:
    pipeline = Pipeline(
        tmp_path,
        """
        class Text(str):
            pass
        class Odd(Exception):
            def __str__(self):
                return Text("an odd text")
        class Setup(Target):
            def run(self):
                note("try")
                self.logToMaster(Odd())
                raise Odd()
        """,
    )
    ran = pipeline.run()
    assert pipeline.counted() == {"try": 1}, ran.err
    assert ": an odd text" in ran.err
    assert "Odd: an odd text" in failures(ran.err)["Setup"]


def test_signals_of_a_shell_are_a_targets_own_matter(tmp_path: Path) -> None:
    """A target that sends its own group a SIGTERM is a loss, and not the end of the run."""
    pipeline = Pipeline(
        tmp_path,
        """
        class Setup(Target):
            def run(self):
                note("try")
                if len(open(os.path.join(HERE, "notes")).readlines()) < 3:
                    os.killpg(0, signal.SIGTERM)
        """,
    )
    ran = pipeline.run().succeeded()
    assert pipeline.counted() == {"try": 3}
    assert ran.err.count(signal.SIGTERM.name) == 2


def test_hundreds_that_fail_alike_are_told_as_a_few_and_a_number(tmp_path: Path) -> None:
    """And what fails in another way is told in full, though it comes last."""
    pipeline = Pipeline(
        tmp_path,
        """
        class Read(Target):
            def __init__(self, n):
                Target.__init__(self)
                self.n = n
            def run(self):
                print("reading", self.n)
                open("/none/%d.txt" % self.n)
        class Alone(Target):
            def run(self):
                raise ValueError("it comes last")
        class Wait(Target):
            def run(self):
                self.setFollowOnTarget(Alone())
        class Setup(Target):
            def run(self):
                for n in range(400):
                    self.addChildTarget(Read(n))
                self.addChildTarget(Wait())
        """,
    )
    log = tmp_path / "log"
    ran = pipeline.run("--retryCount", "1", "--logFile", str(log))

    assert "failed: 401\n" in ran.out
    assert ran.err.count("(pipeline.Read) failed and is given up") == 3
    assert ran.err.count("(pipeline.Read) failed, attempt 1, and is tried again") == 3
    assert "it comes last" in failures(ran.err)["Alone"]
    assert len(ran.err.splitlines()) < 80
    every = ["jobTreeStatus", "--failed", "--most", "401", str(pipeline.tree)]
    assert re.search(
        rf"^and 397 more failed alike: pipeline.Read: .*; {' '.join(every)} shows them$", ran.err, re.M
    )
    assert pipeline.program(*every).out.count("(pipeline.Read) failed and is given up") == 400
    assert log.read_text().count("(pipeline.Read) failed and is given up") == 400
    assert log.read_text().count("(pipeline.Read) failed, attempt 1, and is tried again") == 400
