"""What `make demo` shows: a pipeline whose master is killed half-way and started again finishes as if nothing happened.

Sorts the source text of Python's standard library with examples/sort.py, kills the master (kill -9) when half of the
jobs are done, starts the same command again, and compares the result with that of sort(1). The exit status is 0 only
if all of that was seen.
"""

import argparse
import filecmp
import json
import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

CHECKOUT = Path(__file__).resolve().parents[1]
PIECES = 128
# Cutting in two makes one job for each piece and one for each cut; one more sets it all up.
JOBS = 2 * PIECES


def main() -> int:
    """Run the demonstration; the exit status."""
    parser = argparse.ArgumentParser(
        description="Sort a large file, kill the master half-way, start it again."
    )
    parser.add_argument("--keep", action="store_true", help="do not remove the files and the job tree")
    keep = parser.parse_args().keep
    parent = CHECKOUT / "demo-run"
    parent.mkdir(exist_ok=True)
    directory = Path(tempfile.mkdtemp(prefix="sort-", dir=parent))
    try:
        demonstrate(directory)
    finally:
        if keep:
            print(f"Everything is still in {directory}")
        else:
            shutil.rmtree(directory)
            with suppress(OSError):  # another demonstration may be under way beside this one
                parent.rmdir()
    return 0


def demonstrate(directory: Path) -> None:
    """The five steps. Ends the program with a message when one of them does not go as it should."""
    text, result, tree = directory / "text", directory / "sorted", directory / "jobTree"
    files, lines = gather(text)
    size = text.stat().st_size
    print(f"1. {lines:,} lines, {size / 1e6:.1f} MB, from the {files:,} files of Python's standard library")

    # A quarter more than a piece will have, as cuts are made where lines end and never quite in the middle.
    max_bytes = size * 5 // (4 * PIECES)
    command = [sys.executable, "examples/sort.py", "--fileToSort", text, "--output", result]
    command += ["--N", max_bytes, "--jobTree", tree]
    arguments = [os.path.relpath(word, CHECKOUT) if isinstance(word, Path) else str(word) for word in command]
    print("2. python " + " ".join(arguments[1:]))
    started = time.monotonic()
    with start(arguments, directory) as master:
        follow(master, tree, until=JOBS // 2)
        if master.poll() is not None:
            give_up(
                directory, f"the run ended with exit status {master.returncode} before it could be killed"
            )
        master.kill()
    killed = time.monotonic()
    done = done_in(read_status(tree))
    if not JOBS // 2 <= done < JOBS:
        give_up(directory, f"{done} of {JOBS} jobs are done, which is not half-way")
    print(
        f"3. kill -9 {master.pid}: the master is dead after {killed - started:.1f} s, with {done} jobs done"
    )
    print(indented(run("jobTreeStatus", tree)))

    print("4. The same command again")
    with start(arguments, directory) as master:
        follow(master, tree)
    finished = time.monotonic()
    if master.returncode:
        give_up(directory, f"the second run ended with exit status {master.returncode}")
    status = read_status(tree)
    jobs = done_in(status)
    if status.get("state") != "complete" or jobs < JOBS:
        give_up(directory, f"the second run ended well, but jobTreeStatus says {status}")
    print(
        f"   complete after another {finished - killed:.1f} s: {jobs} jobs done, {jobs - done} of them in this run"
    )

    expected = directory / "expected"
    subprocess.run(["sort", "-o", expected, text], env={**os.environ, "LC_ALL": "C"}, check=True)
    if not filecmp.cmp(result, expected, shallow=False):
        give_up(directory, "the result differs from that of LC_ALL=C sort")
    print("5. The result is identical to that of LC_ALL=C sort, byte by byte")


def gather(path: Path) -> tuple[int, int]:
    """Write all of the standard library's source text into one file. Returns the numbers of files and of lines."""
    library = Path(sysconfig.get_path("stdlib"))
    files = lines = 0
    with open(path, "wb") as output:
        for source in sorted(library.rglob("*.py")):
            if not {"site-packages", "dist-packages"} & set(source.parts):
                content = source.read_bytes()
                output.write(content)
                files += 1
                lines += content.count(b"\n")
    return files, lines


def start(arguments: list[str], directory: Path) -> "subprocess.Popen[bytes]":
    """Start a run, whose own messages go to a file: this program's lines are enough to follow it."""
    with open(directory / "log", "ab") as log:
        return subprocess.Popen(arguments, cwd=CHECKOUT, stdout=log, stderr=log)


def follow(master: "subprocess.Popen[bytes]", tree: Path, until: int = JOBS + 1) -> None:
    """Show how far the run is, until so many jobs are done or it has ended."""
    done = 0
    while master.poll() is None and done < until:
        status = read_status(tree)
        done = done_in(status)
        if sys.stdout.isatty():
            known = ", ".join(f"{number} {state}" for state, number in status.get("counts", {}).items())
            print(f"\r   {known:<70}\r", end="", flush=True)
        with suppress(subprocess.TimeoutExpired):
            master.wait(timeout=0.1)
    if sys.stdout.isatty():
        print("\r" + " " * 73 + "\r", end="", flush=True)


def read_status(tree: Path) -> dict[str, Any]:
    """What jobTreeStatus says about the tree, or nothing as long as there is no tree."""
    answer = run("jobTreeStatus", tree, "--json")
    try:
        status: dict[str, Any] = json.loads(answer)
    except ValueError:
        return {}
    return status


def done_in(status: dict[str, Any]) -> int:
    """How many jobs are done, according to what jobTreeStatus has said."""
    done: int = status.get("counts", {}).get("done", 0)
    return done


def run(command: str, *arguments: object) -> str:
    """The output of one of the commands in bin/."""
    words = [sys.executable, str(CHECKOUT / "bin" / command), *map(str, arguments)]
    return subprocess.run(words, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True).stdout


def indented(text: str) -> str:
    """The text as a quotation."""
    return "".join(f"   | {line}\n" for line in text.splitlines()).rstrip("\n")


def give_up(directory: Path, problem: str) -> None:
    """End the program with what went wrong and the end of the run's log."""
    log = (directory / "log").read_text(errors="replace").splitlines()[-30:]
    sys.exit(f"FAILED: {problem}. The end of the run's log:\n" + indented("\n".join(log)))


if __name__ == "__main__":
    sys.exit(main())
