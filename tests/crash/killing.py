"""Runs the sort example again and again, killing master and workers at random moments, and looks at what is left.

    python tests/crash/killing.py --runs 50 --seed 7

Each run sorts a file of random lines, is killed 1 to 20 times with SIGKILL (the master, a worker, the launcher, or all
at once), started again until it ends by itself, and compared with Python's own sort. Afterwards nothing may be left: no
process of the run, no temporary directory, no bundle, claim or outcome file. The moments are drawn from the seed, in
units of progress (jobs done, files seen) as well as of time, so that fast and slow machines both are hit everywhere.
"""

from __future__ import annotations

import argparse
import glob
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Optional

import psutil

CHECKOUT = Path(__file__).resolve().parents[2]
SORT = CHECKOUT / "examples" / "sort.py"


LONGEST_WAIT = 0.8
"""Seconds to the next kill at most: a start takes some 0.3, so that some kills hit the start itself."""


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


def start(source: Path, output: Path, tree: Path, max_bytes: int, log: Path) -> subprocess.Popen[bytes]:
    """Start, or continue, the sort."""
    command = [sys.executable, str(SORT), "--fileToSort", str(source), "--output", str(output)]
    command += ["--N", str(max_bytes), "--jobTree", str(tree), "--maxThreads", "2", "--retryCount", "1"]
    with log.open("ab") as file:
        return subprocess.Popen(
            command, stdout=file, stderr=file, env={**os.environ, "PYTHONPATH": str(CHECKOUT)}
        )


def token_of(tree: Path) -> Optional[str]:
    """The run's token, if the tree exists already."""
    try:
        token: str = json.loads((tree / "config.json").read_text())["run"]
    except (FileNotFoundError, ValueError):
        return None
    return token


def kill_something(master: subprocess.Popen[bytes], tree: Path, chance: random.Random) -> str:
    """Kill the master, one of its processes, or all of them."""
    token = token_of(tree)
    below = processes_of(token) if token else []
    chance.shuffle(below)
    what = chance.choice(("master", "one below", "all"))
    victims = {"master": [], "one below": below[:1], "all": below}[what]
    if what != "one below":
        master.kill()
    for process in victims:
        try:
            process.kill()
        except psutil.Error:
            continue
    return what


def leftovers(tree: Path, token: str) -> list[str]:
    """What should not be there any more."""
    found = [f"process {process.pid}" for process in processes_of(token)]
    found += glob.glob(os.path.join(tempfile.gettempdir(), f"jobtree-{token}-*"))
    for name in ("bundles", "claims", "outcomes", "globalTempDirs", "requests", "values"):
        found += [str(path) for path in (tree / name).rglob("*") if not path.is_dir()]
    found += [str(path) for path in (tree / "globalTempDirs").rglob("*")]
    return found


def one_run(directory: Path, chance: random.Random, lines: int) -> int:
    """One sort, killed and continued until it ends. Returns how often it was killed; WrongEnd if anything is wrong."""
    source, output, tree, log = (directory / name for name in ("lines", "sorted", "tree", "log"))
    make_input(source, chance, lines)
    max_bytes = max(100, source.stat().st_size // chance.choice((4, 16, 64)))
    kills_left = chance.randint(1, 20)
    kills = 0
    while True:
        master = start(source, output, tree, max_bytes, log)
        try:
            # A moment drawn at random is the point here; nothing is expected to have happened by then.
            master.wait(timeout=chance.uniform(0.0, LONGEST_WAIT) if kills < kills_left else 300)
        except subprocess.TimeoutExpired:
            if kills >= kills_left:
                raise WrongEnd(f"it does not end; see {log}") from None
            what = kill_something(master, tree, chance)
            kills += 1
            if what == "one below":
                try:
                    master.wait(timeout=chance.uniform(0.0, LONGEST_WAIT))
                except subprocess.TimeoutExpired:
                    master.kill()
                    kills += 1
            master.wait()
        if master.returncode == 0:
            if kills == 0:
                # It was over before it was hit: once more, from the beginning.
                shutil.rmtree(tree)
                output.unlink()
                continue
            break
        if master.returncode != -signal.SIGKILL:
            raise WrongEnd(f"exit status {master.returncode}; see {log}")
    token = token_of(tree)
    assert token is not None
    if output.read_bytes() != expected(source):
        raise WrongEnd(f"{output} is not what it should be")
    left = leftovers(tree, token)
    if left:
        raise WrongEnd(f"left behind: {left}")
    return kills


def main() -> int:
    """Run it; exit status 1 at the first wrong end, with its seed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=int, default=50)
    parser.add_argument("--seed", type=int, default=int(time.time()))
    parser.add_argument("--lines", type=int, default=60_000)
    options = parser.parse_args()
    kills = 0
    for number in range(options.runs):
        seed = options.seed + number
        with tempfile.TemporaryDirectory(prefix="jobtree-killing-") as name:
            try:
                kills += one_run(Path(name), random.Random(seed), options.lines)
            except WrongEnd as error:
                print(f"seed {seed}: {error}")
                log = Path(name) / "log"
                print(log.read_text(errors="replace")[-3000:])
                return 1
        print(f"run {number + 1} of {options.runs}, seed {seed}: right; {kills} kills so far", flush=True)
    print(
        f"{options.runs} runs, {kills} kills, seeds {options.seed} to {options.seed + options.runs - 1}: all right"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
