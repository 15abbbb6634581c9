"""Runs pipelines again and again, killing master, launcher and workers at random moments, and looks at what is left.

    python tests/crash/killing.py --kills 1000                    what `make soak` does
    python tests/crash/killing.py --run tree --seed 17            one run, as a failure says it
    python tests/crash/killing.py --run sort --seed 3 --lines 60000

A run is the sort example on a file of random lines, or a random tree (random_tree.py). It is done once undisturbed, to
see how long that takes, and then again from the beginning: killed with SIGKILL (the master, its launcher, a worker, or
all at once), started again, killed again, until it ends by itself or has been killed often enough. Then its result
must be the right one, and nothing may be left: no process of the run, no temporary directory, no bundle, claim or
outcome file. How long the pipeline is left alone is drawn from the seed, in shares of what it takes undisturbed: some
kills hit the start itself, the others are spread over all of the work, so that fast and slow machines, and large and
small runs, are hit everywhere. What the processes were doing at that moment no seed can repeat.
"""

from __future__ import annotations

import argparse
import contextlib
import glob
import json
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import NamedTuple, Optional

import psutil

CHECKOUT = Path(__file__).resolve().parents[2]
if str(CHECKOUT) not in sys.path:
    sys.path.insert(0, str(CHECKOUT))

from tests.crash import random_tree  # noqa: E402  # found only now when run as a program

SORT = CHECKOUT / "examples" / "sort.py"
LINES = 40_000
DEADLINE_SECONDS = 600.0
KINDS = ("sort", "tree")


class WrongEnd(AssertionError):
    """A run ended wrongly, or left something behind."""


def make_input(path: Path, chance: random.Random, lines: int) -> None:
    """A file of random lines, some of them equal, some empty, the last one perhaps without its newline."""
    text = [b"%x" % chance.getrandbits(chance.choice((4, 16, 64, 400))) for _ in range(lines)]
    text[:: max(1, lines // 50)] = [b""] * len(text[:: max(1, lines // 50)])
    path.write_bytes(b"\n".join(text) + chance.choice((b"", b"\n")))


def expected(path: Path) -> bytes:
    """What the sorted file must be."""
    content = path.read_bytes()
    lines = content.split(b"\n")
    if lines and not lines[-1]:
        lines.pop()
    return b"".join(line + b"\n" for line in sorted(lines))


def processes_of(token: str) -> list[psutil.Process]:
    """The processes that carry the mark of a run."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get("JOBTREE_RUN") == token:
                found.append(process)
        except (psutil.Error, OSError):
            continue
    return found


def token_of(tree: Path) -> Optional[str]:
    """The run's token, if the tree exists already."""
    try:
        token: str = json.loads((tree / "config.json").read_text())["run"]
    except (FileNotFoundError, ValueError):
        return None
    return token


def leftovers(tree: Path, token: str) -> list[str]:
    """What should not be there any more."""
    found = [f"process {process.pid}" for process in processes_of(token)]
    found += glob.glob(os.path.join(tempfile.gettempdir(), f"jobtree-{token}-*"))
    for name in ("bundles", "claims", "outcomes", "globalTempDirs", "requests", "values"):
        found += [str(path) for path in (tree / name).rglob("*") if not path.is_dir()]
    found += [str(path) for path in (tree / "globalTempDirs").rglob("*")]
    return found


class Work:
    """A pipeline in a directory of its own, with a result that is known."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.tree = directory / "tree"
        self.log = directory / "log"
        self.result = directory / "result"

    def command(self) -> list[str]:
        """The script and its arguments."""
        raise NotImplementedError

    def check(self) -> None:
        """Raise WrongEnd unless the result is right."""
        raise NotImplementedError

    def start(self) -> subprocess.Popen[bytes]:
        """Start it, or continue it."""
        # Killed workers are losses, and more of them than anybody would have are no reason to give a job up.
        command = [sys.executable, *self.command(), "--jobTree", str(self.tree)]
        command += ["--maxThreads", "2", "--retryCount", "1", "--maxLost", "1000", "--stats"]
        with self.log.open("ab") as file:
            return subprocess.Popen(
                command, stdout=file, stderr=file, env={**os.environ, "PYTHONPATH": str(CHECKOUT)}
            )

    def check_all(self) -> None:
        """Raise WrongEnd unless the result is right and nothing is left behind."""
        token = token_of(self.tree)
        assert token is not None
        self.check()
        recorded, succeeded = self.targets_recorded()
        if recorded != succeeded:
            raise WrongEnd(f"{recorded} targets that succeeded are recorded, and {succeeded} are counted")
        left = leftovers(self.tree, token)
        if left:
            raise WrongEnd(f"left behind: {left}")

    def begin_anew(self) -> None:
        """Remove what there is of it."""
        shutil.rmtree(self.tree)
        self.result.unlink()
        for path in self.directory.glob("failed-*"):
            path.rmdir()

    def jobs_done(self) -> int:
        """How many jobs the tree says are done."""
        return self._number("SELECT sum(done) FROM shapes")

    def targets_recorded(self) -> tuple[int, int]:
        """How many targets have a record of their own that they succeeded, and how many are counted."""
        return (
            self._number("SELECT count(*) FROM targets WHERE failed IS NULL"),
            self._number("SELECT sum(succeeded) FROM shapes"),
        )

    def _number(self, query: str) -> int:
        connection = sqlite3.connect(f"file:{self.tree / 'tree.sqlite'}?mode=ro", uri=True)
        try:
            number: int = connection.execute(query).fetchone()[0]
            return number
        finally:
            connection.close()


class Sort(Work):
    """The sort example."""

    def __init__(self, directory: Path, chance: random.Random, lines: int) -> None:
        super().__init__(directory)
        self.source = directory / "lines"
        make_input(self.source, chance, lines)
        self.max_bytes = max(100, self.source.stat().st_size // chance.choice((16, 64, 256)))

    def command(self) -> list[str]:
        """The script and its arguments."""
        named = ["--fileToSort", str(self.source), "--output", str(self.result), "--N", str(self.max_bytes)]
        return [str(SORT), *named]

    def check(self) -> None:
        """Raise WrongEnd unless it is sorted."""
        if self.result.read_bytes() != expected(self.source):
            raise WrongEnd(f"{self.result} is not what it should be")


class Tree(Work):
    """A random tree."""

    def __init__(self, directory: Path, seed: int) -> None:
        super().__init__(directory)
        self.seed = seed

    def command(self) -> list[str]:
        """The script and its arguments."""
        script = str(CHECKOUT / "tests" / "crash" / "random_tree.py")
        return [script, "--seed", str(self.seed), "--result", str(self.result)]

    def check(self) -> None:
        """Raise WrongEnd unless every target has counted, exactly once."""
        found = (self.result.read_text(), self.jobs_done())
        wanted = random_tree.expected(self.seed)
        if found != wanted:
            raise WrongEnd(f"the result, and the number of jobs done, are {found} and should be {wanted}")


class Pace(NamedTuple):
    """Seconds that a start takes until it works, and that all of the work takes undisturbed."""

    start: float
    work: float

    def draw(self, chance: random.Random, kills: int) -> float:
        """How long to leave a run alone that is to be killed about so often before its end."""
        if chance.random() < 0.25:
            return chance.uniform(0.0, self.start)
        return self.start + chance.uniform(0.0, 2.0 * self.work / kills)


def undisturbed(work: Work) -> Pace:
    """Run it to its end, look at the result, and remove it; how long it took."""
    took = []
    for _ in range(2):  # the second time it is complete already, and takes only what a start takes
        began = time.monotonic()
        status = work.start().wait(DEADLINE_SECONDS)
        took.append(time.monotonic() - began)
        if status != 0:
            raise WrongEnd(f"undisturbed it ended with {status}; see {work.log}")
    work.check_all()
    work.begin_anew()
    return Pace(took[1], max(0.05, took[0] - took[1]))


def children(pid: int) -> list[int]:
    """The children of a process; none if it is gone."""
    try:
        with open(f"/proc/{pid}/task/{pid}/children", encoding="ascii") as file:
            return [int(child) for child in file.read().split()]
    except FileNotFoundError:
        pass  # no such process, or no such system
    try:
        return [process.pid for process in psutil.Process(pid).children()]
    except psutil.Error:
        return []


def kill_something(master: subprocess.Popen[bytes], chance: random.Random) -> str:
    """Kill the master, its launcher, a worker, or all of them. Returns which: nothing, if it ended before.

    A worker lives for some milliseconds: who is to kill one waits until there is one.
    """
    what = chance.choice(("master", "launcher", "worker", "all"))
    victims: list[int] = []
    while master.poll() is None:
        launchers = children(master.pid)
        workers = [worker for launcher in launchers for worker in children(launcher)]
        victims = {"master": [master.pid], "launcher": launchers, "worker": workers[:1]}.get(
            what, [master.pid, *launchers, *workers]
        )
        if victims:
            break
        with contextlib.suppress(subprocess.TimeoutExpired):
            master.wait(0.001)
    else:
        return "nothing"
    for victim in victims:
        try:
            os.kill(victim, signal.SIGKILL)
        except ProcessLookupError:
            continue
    return what


def one_run(work: Work, chance: random.Random, pace: Pace, most: int) -> Counter[str]:
    """Kill and continue until it has ended by itself, or was killed ``most`` times and left alone then.

    Returns what was killed how often; raises WrongEnd if anything is wrong.
    """
    kills: Counter[str] = Counter()
    while True:
        master = work.start()
        while master.poll() is None:
            left_alone = sum(kills.values()) >= most
            try:
                # A moment drawn at random is the point here; nothing is expected to have happened by then.
                master.wait(DEADLINE_SECONDS if left_alone else pace.draw(chance, most))
            except subprocess.TimeoutExpired:
                if left_alone:
                    master.kill()
                    raise WrongEnd(f"it does not end; see {work.log}") from None
                what = kill_something(master, chance)
                kills[what] += what != "nothing"
                if what in ("master", "all"):
                    master.wait()
        if master.returncode == 0:
            work.check_all()
            return kills
        if master.returncode != -signal.SIGKILL:
            raise WrongEnd(f"exit status {master.returncode}; see {work.log}")


def run(
    kind: str, seed: int, directory: Path, lines: int = LINES, most: Optional[int] = None
) -> Counter[str]:
    """One run of a kind with everything drawn from the seed. Returns the kills; raises WrongEnd."""
    chance = random.Random(f"{kind} {seed}")
    work: Work = Sort(directory, chance, lines) if kind == "sort" else Tree(directory, seed)
    pace = undisturbed(work)
    if most is None:
        most = chance.randint(10, 40)
    kills = one_run(work, chance, pace, most)
    for _ in range(4):
        if sum(kills.values()) >= most // 3:
            break
        # It took longer undisturbed than it does now: on a busy machine, or one that had not read the files yet.
        work.begin_anew()
        pace = pace._replace(work=pace.work / 2)
        kills += one_run(work, chance, pace, most)
    return kills


def main() -> int:
    """Run it; exit status 1 at the first wrong end, with its seed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=1000, help="stop after so many; default: 1000")
    parser.add_argument("--run", choices=KINDS, help="one run of this kind")
    parser.add_argument(
        "--seed", type=int, default=int(time.time()), help="of the first run; default: the time"
    )
    parser.add_argument("--lines", type=int, default=LINES, help=f"to be sorted; default: {LINES}")
    options = parser.parse_args()
    print(f"seed {options.seed}", flush=True)
    kills: Counter[str] = Counter()
    runs: Counter[str] = Counter()
    began = time.monotonic()
    while not runs or (options.run is None and sum(kills.values()) < options.kills):
        seed = options.seed + sum(runs.values())
        kind = options.run or KINDS[sum(runs.values()) % len(KINDS)]
        directory = Path(tempfile.mkdtemp(prefix="jobtree-killing-"))
        try:
            kills += run(kind, seed, directory, options.lines)
        except (WrongEnd, OSError, sqlite3.Error) as error:
            print(f"WRONG: {type(error).__name__}: {error}")
            print((directory / "log").read_text(errors="replace")[-3000:])
            print(f"everything is left in {directory}; again with:")
            again = f"--run {kind} --seed {seed} --lines {options.lines}"
            print(f"    python tests/crash/killing.py {again}")
            return 1
        shutil.rmtree(directory)
        runs[kind] += 1
        told = ", ".join(f"{number} {what}" for what, number in sorted(kills.items()) if number)
        print(
            f"{sum(kills.values())} kills ({told}) in {runs['sort']} sorts and {runs['tree']} trees, all right; "
            f"{time.monotonic() - began:.0f} s",
            flush=True,
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
