"""Runs a short pipeline under strace, and has the kernel kill it at, or refuse, one system call after another.

    python tests/crash/faults.py --all                    every point of master and workers; it takes hours
    python tests/crash/faults.py --points 50 --seed 7     a sample
    python tests/crash/faults.py --point master:pwrite64:17:kill

An undisturbed run is looked at first: how often the master (all of its threads, nothing that it starts) and each of
its workers makes each of the calls that change a disk. A point is one of these calls, and what happens to it there:

    kill                    SIGKILL instead of the call
    EIO, ENOSPC, EDQUOT     the call fails with it, once
    EIO+, ENOSPC+, EDQUOT+  the call fails with it, and every later call of that kind

Points of a worker are written worker.3 for the third worker that was started. Which targets it runs is not the same
in every run, so a few points are not reached; that is counted, and none of them counts as proven.

After each the pipeline is started again, undisturbed, until it ends by itself. Then the results must be those of the
undisturbed run, and nothing may be left behind. What must hold in the disturbed run is in ``check_master`` and
``check_worker``.

How the worker alone gets under strace: in the launcher, the pipeline's own script puts a wrapper in the place of
``sys.executable``, and ``--startMethod spawn`` has each worker started by that. ``strace -D`` is a child of what it
traces, so that the worker's parent is still the launcher.
"""

from __future__ import annotations

import argparse
import os
import random
import re
import shlex
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple, Optional

CHECKOUT = Path(__file__).resolve().parents[2]
if str(CHECKOUT) not in sys.path:
    sys.path.insert(0, str(CHECKOUT))

from tests.crash.killing import leftovers, token_of  # noqa: E402  # found only now when run as a program

CALLS = (
    "fsync", "fdatasync", "syncfs", "rename", "unlink", "unlinkat", "rmdir", "mkdir", "write", "pwrite64", "ftruncate"
)  # fmt: skip
"""The system calls by which something on a disk changes (mmap aside: SQLite's index of its log, made again if lost)."""

ERRORS = ("EIO", "ENOSPC", "EDQUOT")
FAULTS = ("kill", *ERRORS, *(f"{error}+" for error in ERRORS))

TEXTS = {
    "EIO": "Input/output error",
    "ENOSPC": "No space left on device",
    "EDQUOT": "Disk quota exceeded",
}

DEADLINE_SECONDS = 120.0

PIPELINE = '''
"""Children, follow-ons, a chain that stays in one worker, a failure, promises, large values, temporary directories."""

import argparse
import os
import sys

from jobtree import Stack, Target

HERE = os.path.dirname(os.path.abspath(__file__))

if __name__ != "__main__" and os.path.exists(os.path.join(HERE, "python-of-workers")):
    sys.executable = os.path.join(HERE, "python-of-workers")


def note(name):
    with open(os.path.join(HERE, "ran"), "a") as file:
        file.write(name + "\\n")


class Root(Target):
    def run(self):
        note("root")
        folder = self.getGlobalTempDir()
        squares = [self.addChildTarget(Square(n, folder)).rv() for n in range(5)]
        large = self.addChildFn(make_large).rv()
        chain = self.addChildTarget(Chain(2)).rv()
        once = self.addChildTarget(FailsOnce()).rv()
        end = self.setFollowOnTarget(End(squares, large, chain, once, folder))
        return end.rv()


class Square(Target):
    def __init__(self, n, folder):
        Target.__init__(self)
        self.n = n
        self.folder = folder

    def run(self):
        note("square %d" % self.n)
        with open(os.path.join(self.getLocalTempDir(), "scratch"), "w") as file:
            file.write("x" * 1000)
        with open(os.path.join(self.folder, "square-%d" % self.n), "w") as file:
            file.write(str(self.n * self.n))
        print("printed by", self.n)
        self.logToMaster("square of %d" % self.n)
        return self.n * self.n


def make_large():
    note("large")
    return "large" * 250_000


class Chain(Target):
    def __init__(self, more):
        Target.__init__(self)
        self.more = more

    def run(self):
        note("chain %d" % self.more)
        with open(os.path.join(self.getGlobalTempDir(), "link-%d" % self.more), "w") as file:
            file.write("link")
        if self.more:
            return self.setFollowOnTarget(Chain(self.more - 1)).rv()
        return sorted(os.listdir(self.getGlobalTempDir()))


class FailsOnce(Target):
    def run(self):
        note("once")
        try:
            os.mkdir(os.path.join(HERE, "tried"))
        except FileExistsError:
            return "at the second try"
        raise RuntimeError("the first time it fails")


class End(Target):
    def __init__(self, squares, large, chain, once, folder):
        Target.__init__(self)
        self.given = (squares, large, chain, once)
        self.folder = folder

    def run(self):
        note("end")
        squares, large, chain, once = self.given
        found = sorted(os.listdir(self.folder))
        read = [int(open(os.path.join(self.folder, name)).read()) for name in found]
        return squares, read, len(large), chain, once


def main():
    parser = argparse.ArgumentParser()
    Stack.addJobTreeOptions(parser)
    stack = Stack(Root())
    failed = stack.startJobTree(parser.parse_args())
    with open(os.path.join(HERE, "result"), "w") as file:
        file.write(repr(stack.result() if not failed else "%d failed" % failed))
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
'''

RESULT = repr(
    ([0, 1, 4, 9, 16], [0, 1, 4, 9, 16], 1_250_000, ["link-0", "link-1", "link-2"], "at the second try")
)


class WrongEnd(AssertionError):
    """A run ended wrongly, or left something behind."""


class Point(NamedTuple):
    """Where something happens, and what. worker: None, or which of the workers, from 1; number: of the call, from 1."""

    worker: Optional[int]
    call: str
    number: int
    fault: str

    def __str__(self) -> str:
        role = "master" if self.worker is None else f"worker.{self.worker}"
        return f"{role}:{self.call}:{self.number}:{self.fault}"

    @staticmethod
    def read(text: str) -> Point:
        """A point as it is printed. Raises ValueError."""
        role, call, number, fault = text.split(":")
        name, _, worker = role.partition(".")
        if name not in ("master", "worker") or call not in CALLS or fault not in FAULTS:
            raise ValueError(f"{text!r} is no point; expected like master:pwrite64:17:kill")
        return Point(int(worker) if name == "worker" else None, call, int(number), fault)

    def inject(self) -> str:
        """What strace is told."""
        what = "signal=KILL" if self.fault == "kill" else f"error={self.fault.rstrip('+')}"
        when = f"{self.number}+" if self.fault.endswith("+") else str(self.number)
        return f"inject={self.call}:{what}:when={when}"


class Ran(NamedTuple):
    """How a run of the pipeline ended, and what it said."""

    status: int
    err: str


class Scene:
    """A directory with the pipeline, which is run here again and again."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.tree = directory / "tree"
        directory.mkdir(exist_ok=True)
        (directory / "pipeline.py").write_text(PIPELINE)

    def run(self, before: Sequence[str] = (), more: Sequence[str] = ()) -> Ran:
        """Run it to its end. before: a command to put before it; more: arguments to put behind."""
        command = [*before, sys.executable, str(self.directory / "pipeline.py"), "--jobTree", str(self.tree)]
        command += ["--maxThreads", "2", "--retryCount", "2", *more]
        ended = subprocess.run(
            command, cwd=self.directory, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": str(CHECKOUT), "PYTHONDONTWRITEBYTECODE": "1"}, text=True,
            errors="replace", timeout=DEADLINE_SECONDS, check=False,
        )  # fmt: skip
        return Ran(ended.returncode, ended.stderr)

    def run_master_traced(self, log: Path, *injections: str) -> Ran:
        """Run it with its master, and nothing that this starts, under strace."""
        return self.run(["strace", "-ff", "-b", "execve", *_what(*injections), "-o", str(log)])

    def run_workers_traced(self, log: Path, worker: Optional[int] = None, *injections: str) -> Ran:
        """Run it with each worker, or that one only, under strace; their logs get their numbers behind the name."""
        wrapper = self.directory / "python-of-workers"
        chosen = "true" if worker is None else f"test $n = {worker}"
        # Stopping the worker only where it matters makes it start four times as fast, but loses injected signals.
        fast = [] if any("signal=" in injection for injection in injections) else ["--seccomp-bpf"]
        strace = shlex.join(["strace", "-D", "-ff", *fast, *_what(*injections)])
        prefix, python = shlex.quote(str(log)), shlex.quote(sys.executable)
        wrapper.write_text(
            f"""#!/bin/sh
            n=1
            while ! mkdir {prefix}.$n.taken; do n=$((n + 1)); done
            if {chosen}; then exec {strace} -o {prefix}.$n {python} "$@"; fi
            exec {python} "$@"
            """
        )
        wrapper.chmod(wrapper.stat().st_mode | stat.S_IXUSR)
        try:
            return self.run(more=["--startMethod", "spawn", "--maxThreads", "1"])
        finally:
            wrapper.unlink()

    def check_end(self) -> None:
        """Start it until it ends by itself; then everything must be as after the undisturbed run. Raises WrongEnd."""
        ran = self.run()
        if ran.status != 0:
            raise WrongEnd(f"started again it ended with {ran.status}: {ran.err}")
        result = (self.directory / "result").read_text()
        if result != RESULT:
            raise WrongEnd(f"the result is {result}")
        ran_often = Counter((self.directory / "ran").read_text().splitlines())
        if any(times > 2 + (name == "once") for name, times in ran_often.items()):
            raise WrongEnd(f"what was done was not kept: {ran_often}")
        token = token_of(self.tree)
        assert token is not None
        left = leftovers(self.tree, token)
        if left:
            raise WrongEnd(f"left behind: {left}")


def _what(*injections: str) -> list[str]:
    words = ["-y", "-e", f"trace={','.join(CALLS)}"]
    for injection in injections:
        words += ["-e", injection]
    return words


def logs_of(log: Path) -> list[Path]:
    """The files that strace wrote for this one: one for each thread."""
    return [path for path in log.parent.glob(f"{log.name}.*") if re.fullmatch(r"\d+", path.suffix[1:])]


def count_calls(log: Path) -> Counter[str]:
    """How often each call was made, by the thread that made it most often (strace counts by thread)."""
    most: Counter[str] = Counter()
    for path in logs_of(log):
        most |= Counter(re.findall(r"^(\w+)\(", path.read_text(errors="replace"), re.MULTILINE))
    return most


def survey(directory: Path) -> dict[Optional[int], Counter[str]]:
    """How often the master (None) and each worker (from 1) make each call in an undisturbed run."""
    found: dict[Optional[int], Counter[str]] = {}
    scene = Scene(directory / "survey-master")
    log = scene.directory / "trace"
    ran = scene.run_master_traced(log)
    if ran.status != 0:
        raise WrongEnd(f"the undisturbed run ended with {ran.status}: {ran.err}")
    found[None] = count_calls(log)
    scene.check_end()
    scene = Scene(directory / "survey-workers")
    log = scene.directory / "trace"
    ran = scene.run_workers_traced(log)
    if ran.status != 0:
        raise WrongEnd(f"the undisturbed run ended with {ran.status}: {ran.err}")
    for taken in scene.directory.glob("trace.*.taken"):
        number = int(taken.suffixes[0][1:])
        found[number] = count_calls(scene.directory / f"trace.{number}")
    scene.check_end()
    return found


def all_points(found: dict[Optional[int], Counter[str]], faults: Sequence[str] = FAULTS) -> list[Point]:
    """Every point of a survey."""
    return [
        Point(worker, call, number, fault)
        for worker, counted in sorted(found.items(), key=lambda item: item[0] or 0)
        for call in CALLS
        for number in range(1, counted[call] + 1)
        for fault in faults
    ]


def hit(log: Path) -> Optional[str]:
    """What strace did to the traced process: the line of the call that failed, "killed", or None if nothing."""
    killed = None
    for path in logs_of(log):
        for line in path.read_text(errors="replace").splitlines():
            if line.endswith("(INJECTED)"):
                return line
            if line.endswith("= ?"):  # the call never came back
                killed = f"killed at {line}"
    return killed


def prove(directory: Path, point: Point) -> Optional[str]:
    """Have it happen, and look at what became of the run and of the next one.

    Returns what was hit, None if the point was not reached. Raises WrongEnd.
    """
    scene = Scene(directory)
    log = directory / "trace"
    if point.worker is None:
        ran = scene.run_master_traced(log, point.inject())
    else:
        ran = scene.run_workers_traced(log, point.worker, point.inject())
        log = directory / f"trace.{point.worker}"
    what = hit(log)
    if what is not None:
        (check_master if point.worker is None else check_worker)(scene, point, ran, what)
    scene.check_end()
    return what


def check_master(scene: Scene, point: Point, ran: Ran, what: str) -> None:
    """What must hold of a run whose master was hit: it stops with exit status 5, and says which file, and what to do.

    It may also go on when nothing is lost by that: see ``_is_harmless``.
    """
    if _has_traceback(ran) and not _is_scripts_own(scene, what):
        raise WrongEnd(f"{what}\na traceback was shown: {ran.err}")
    if point.fault == "kill":
        if ran.status != -signal.SIGKILL:
            raise WrongEnd(f"killed, it ended with {ran.status}: {ran.err}")
    elif _is_scripts_own(scene, what):
        return
    elif re.search(r"^write\([12]<", what):
        # Python ends with 120 when standard error could not be flushed; with 1 when the script's own file is refused.
        if ran.status not in (0, 5, 120, *([1] if point.fault.endswith("+") else [])):
            raise WrongEnd(f"{what}\nit ended with {ran.status}: {ran.err}")
    elif ran.status == 0 and _is_harmless(what):
        return
    elif ran.status != 5:
        raise WrongEnd(f"{what}\nit ended with {ran.status}: {ran.err}")
    elif point.call == "write" and point.fault.endswith("+"):
        return  # it could not say anything
    elif "start the same command again" not in ran.err or not _names_a_file(scene, ran):
        raise WrongEnd(f"{what}\nit did not say which file, and what to do: {ran.err}")


def _is_harmless(what: str) -> bool:
    """Whether a master may go on after this call failed: nothing that counts was asked for."""
    return (
        # What cannot be removed is told, and noted to be tried again; what SQLite leaves is empty, or overwritten.
        re.search(r"^(rmdir|unlinkat)\(|\.sqlite-(wal|shm|journal)\"", what) is not None
        # Where temporary files are looked for, several places are tried.
        or re.search(r'^(write\(\d+<|unlink\(")/tmp/[^/]+[">]', what) is not None
        # It is there already.
        or what.startswith("mkdir(")
        # SQLite ignores that; what matters of the directory, jobtree syncs itself.
        or re.search(r"^fdatasync\(\d+<[^>]*/tree>\)", what) is not None
    )


def _is_scripts_own(scene: Scene, what: str) -> bool:
    return f"<{scene.directory / 'result'}>" in what


def _names_a_file(scene: Scene, ran: Ran) -> bool:
    return str(scene.directory) in ran.err or f"{tempfile.gettempdir()}: " in ran.err


def _has_traceback(ran: Ran) -> bool:
    return any(words in ran.err for words in ("Traceback", "Exception ignored", "Logging error"))


def check_worker(scene: Scene, point: Point, ran: Ran, what: str) -> None:
    """What must hold of a run one of whose workers was hit: it ends right, and tells which file could not be written.

    Unless it was a file of the target's own: then that is the target's failure, and its error is told.
    """
    if _has_traceback(ran):
        raise WrongEnd(f"{what}\na traceback was shown: {ran.err}")
    if ran.status != 0:
        raise WrongEnd(f"{what}\nit ended with {ran.status}: {ran.err}")
    ours = re.search(rf"<({re.escape(str(scene.tree))}/(?:outcomes|values)/[^>]*)>", what)
    if ours and point.fault != "kill" and ours.group(1) not in ran.err:
        raise WrongEnd(f"{what}\nit did not name the file: {ran.err}")


def main() -> int:
    """Run it; exit status 1 if anything ended wrongly."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--all", action="store_true", help="every point")
    parser.add_argument("--points", type=int, default=50, help="how many points to draw; default: 50")
    parser.add_argument(
        "--seed", type=int, default=int(time.time()), help="of the drawing; default: the time"
    )
    parser.add_argument(
        "--point", action="append", default=[], help="this one, as it was printed; may be repeated"
    )
    parser.add_argument("--only", default="", help="a regular expression for the points' names")
    parser.add_argument("--parallel", type=int, default=os.cpu_count(), help="how many at one time")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="jobtree-faults-") as name:
        top = Path(name)
        if options.point:
            points = [Point.read(text) for text in options.point]
        else:
            found = survey(top)
            for role, counted in sorted(found.items(), key=lambda item: item[0] or 0):
                print("master:" if role is None else f"worker.{role}:", dict(sorted(counted.items())))
            points = [p for p in all_points(found) if re.search(options.only, str(p))]
            if not options.all:
                print(f"{options.points} of {len(points)} points, seed {options.seed}")
                points = random.Random(options.seed).sample(points, min(options.points, len(points)))
        return run_points(top, points, options.parallel)


def run_points(top: Path, points: Sequence[Point], parallel: int) -> int:
    """Prove these; the exit status."""
    wrong = []
    reached = 0

    def one(numbered: tuple[int, Point]) -> tuple[Point, Optional[str], Optional[str]]:
        directory = top / str(numbered[0])
        try:
            return numbered[1], prove(directory, numbered[1]), None
        except (WrongEnd, subprocess.TimeoutExpired) as error:
            return numbered[1], "", str(error)
        finally:
            shutil.rmtree(directory, ignore_errors=True)

    with ThreadPoolExecutor(parallel) as pool:
        for done, (point, what, error) in enumerate(pool.map(one, enumerate(points)), 1):
            reached += what is not None
            if error is not None:
                wrong.append(point)
                print(f"WRONG {point}: {error}", flush=True)
            if done % 25 == 0 or done == len(points):
                print(f"{done} of {len(points)} points, {reached} reached, {len(wrong)} wrong", flush=True)
    for point in wrong:
        print(f"again with: python tests/crash/faults.py --point {point}")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
