"""Where the time of a target that does nothing goes, in microseconds: the machine's floors, and what master and workers
spend on it, by kind of work.

    python benchmarks/where_time_goes.py [--number 100000] [--json FILE]

Five measurements.

1. *Floors*: what the machine takes for a fork, a sync, a row and so on, without jobtree (floors.py).
2. *A run* of fan_out.py's pipeline, to learn what a target costs in wall clock, and how much CPU the master and all the
   processes below it use for it.
3. *Profiles* of the master, in such a run, and of a worker, in this process, on a bundle made for the purpose. They are
   taken by a timer of CPU time that interrupts the code at every tick of the kernel to look which function it is in.
   Unlike a profiler that hooks every call, this does not make functions that call many others look dearer than they
   are. Each look counts for the CPU time that has passed since the one before, so waiting counts for nothing, and a
   long call into C, which cannot be interrupted, gets its due. It is a POSIX timer, because a worker switches those of
   setitimer(2) off after each target, and so this runs on Linux only. (Signals from another process would not do: on
   a virtual machine they come in when a system call ends, which makes those look dear.)

4. *A bundle by itself*: what the launcher and a worker use for a bundle of one target, whatever is in it.
5. *After other work*: what a worker uses beside its targets, if these compute for a millisecond each. Its code is not
   in the processor's caches any more then.

What a line holds is defined by the two tables below: the innermost function that is named there counts.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import resource
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import Any, Callable, Optional

sys.path[0] = str(Path(__file__).resolve().parents[1])

from benchmarks import computing, fan_out, floors, machine, witness  # noqa: E402
from benchmarks.running import WrongResult, on_terminate  # noqa: E402
from jobtree import Stack, Target  # noqa: E402
from jobtree.paths import TreePaths, job_id  # noqa: E402

CORES = 2
INTERRUPTION = signal.SIGURG
"""Ignored by whoever does not ask for it, and used by nothing here."""
_libc = ctypes.CDLL(None, use_errno=True)


class _Event(ctypes.Structure):
    """What a timer does when it expires (struct sigevent): send a signal."""

    _fields_ = (
        ("value", ctypes.c_void_p),
        ("signal", ctypes.c_int),
        ("notify", ctypes.c_int),
        ("rest", ctypes.c_char * 48),
    )


def _start_timer(every: float) -> ctypes.c_void_p:
    """Interrupt this process whenever it has used so many seconds of CPU (in fact, at most at each tick)."""
    timer = ctypes.c_void_p()
    event = _Event(signal=INTERRUPTION, notify=0)
    nanoseconds = int(every * 1e9)
    spec = (ctypes.c_long * 4)(0, nanoseconds, 0, nanoseconds)
    if _libc.timer_create(time.CLOCK_PROCESS_CPUTIME_ID, ctypes.byref(event), ctypes.byref(timer)) or (
        _libc.timer_settime(timer, 0, spec, None)
    ):
        raise OSError(ctypes.get_errno(), "timer_create")
    return timer


MASTER = {
    "rows of new jobs, and their children's frames": ["store._insert_children", "bundles._child_rows"],
    "reading and decoding frames": ["bundles.read", "frames.decode"],
    "the state machine, and frames to events": ["adoption._frame", "tree.*", "adoption.*"],
    "writing changed rows: issued, done, counts": ["store.write", "values.*"],
    "reading ready rows": ["store.ready", "packing._choose"],
    "making bundles: packing, files": ["bundles.write_bundle", "packing.*"],
    "begin, commit and checkpoint": ["store.begin", "store.commit"],
    "the batch system, the launcher's news, waiting": ["starter.*", "single_machine.*"],
    "removing files of bundles": ["bundles.remove_bundle", "bundles.sweep", "removals.*"],
}
"""Stages of the master: module.function, or module.* for all that the module has and is not named elsewhere."""

WORKER = {
    "opening the bundle and its log": ["workplace.open_workplace", "workplace.*"],
    "unpickling the target": ["attempt._load", "attempt._readers", "serialization.*"],
    "the target's own run(), with its mark": ["fan_out.run", "witness.*"],
    "putting everything back (isolation)": ["isolation.*", "processtree.*", "attempt._clean_up"],
    "a fresh seed": ["randomness.*"],
    "measuring time, CPU and memory": ["usage.*"],
    "making frames": ["workplace.write", "frames.encode"],
    "checking that its descriptors are still its own": ["workplace.fd"],
    "writing frames": ["workplace.flush", "files.write_all"],
    "looking for a recall": ["workplace.is_recalled"],
    "children, follow-on, value: none to write": [
        "attempt._succeed",
        "attempt._write_children",
        "attempt._keep",
    ],
    "output: its begin and end in the log": ["attempt._close_output", "workplace.log_size"],
    "the attempt itself": ["attempt.*", "target.*"],
    "the loop over targets": ["worker.*"],
}
"""Stages of a worker, likewise."""


ROW = "insert a row with a small target and delete it later"
WRITE = "append 200 bytes to a file (write)"
DUMPS = "pickle a small target"
LOADS = "unpickle a small target"
QUESTIONS = "ask the system what a target may have changed (19 calls)"
FLOORS_OF_A_TARGET = {ROW: 1, WRITE: 1, DUMPS: 1, LOADS: 1, QUESTIONS: 1}
"""How often a target that does nothing needs each, however it is built: its two frames leave in one write."""
FLOORS_OF_A_VALUE = {ROW: 2, DUMPS: 1, LOADS: 1}
"""How often it needs each beside that if its value is promised: the value is kept, and so is who may ask for it."""


class Sampler:
    """Where this process spends its CPU time, by stage; with ``with``."""

    def __init__(self, stages: Mapping[str, list[str]]) -> None:
        self._stages = {name: stage for stage, names in stages.items() for name in names}
        self.seconds: dict[str, float] = dict.fromkeys(stages, 0.0)
        self.elsewhere: dict[str, float] = {}
        self._last = 0.0

    def __enter__(self) -> Sampler:
        self._last = time.process_time()
        signal.signal(INTERRUPTION, self._look)
        self._timer = _start_timer(0.001)
        return self

    def __exit__(self, *_: object) -> None:
        _libc.timer_delete(self._timer)
        signal.signal(INTERRUPTION, signal.SIG_IGN)

    def _look(self, _: int, frame: Optional[FrameType]) -> None:
        now = time.process_time()
        passed, self._last = now - self._last, now
        first = ""
        while frame is not None:
            module = os.path.splitext(os.path.basename(frame.f_code.co_filename))[0]
            name = frame.f_code.co_name
            first = first or f"{module}.{name}"
            stage = self._stage(module, name)
            if stage is not None:
                self.seconds[stage] += passed
                break
            frame = frame.f_back
        else:
            self.elsewhere[first] = self.elsewhere.get(first, 0.0) + passed
        self._last = time.process_time()

    def _stage(self, module: str, name: str) -> Optional[str]:
        return self._stages.get(f"{module}.{name}") or self._stages.get(f"{module}.*")

    def result(self) -> dict[str, float]:
        """Seconds by stage; what was in none of them is told as "elsewhere"."""
        return {**self.seconds, "elsewhere": sum(self.elsewhere.values())}


# -- the parts that run in processes of their own --------------------------------------------------------------


def profile_master(number: int) -> dict[str, Any]:
    """Run the pipeline in this process, with the sampler or without; working directory: that of the run."""
    from jobtree import store

    commits = []
    commit = store.Store.commit

    def timed(self: store.Store) -> None:
        began = time.perf_counter()
        commit(self)
        commits.append(time.perf_counter() - began)

    store.Store.commit = timed  # type: ignore[method-assign]
    options = Stack.getDefaultOptions()
    options.jobTree = "tree"
    options.maxThreads = CORES
    began, used = time.perf_counter(), time.process_time()
    with Sampler(MASTER) as sampler:
        failed = Stack(fan_out.Root(number)).startJobTree(options)
    wall, cpu = time.perf_counter() - began, time.process_time() - used
    below = resource.getrusage(resource.RUSAGE_CHILDREN)
    if failed:
        raise WrongResult(f"{failed} jobs failed")
    return {
        "wall": wall, "cpu": cpu, "below": below.ru_utime + below.ru_stime, "stages": sampler.result(),
        "elsewhere": sampler.elsewhere, "commits": len(commits), "commit_wall": sum(commits),
    }  # fmt: skip


def profile_worker(number: int) -> dict[str, Any]:
    """Be the worker of one bundle with so many targets, in the working directory."""
    from jobtree.worker import run_bundle

    paths = _make_tree()
    _make_bundle(paths, 1, range(number))
    said = os.dup(1)
    used = time.process_time()
    with Sampler(WORKER) as sampler:
        status = run_bundle(paths.root, 1, os.getcwd())
    cpu = time.process_time() - used
    os.dup2(said, 1)  # the worker has turned standard output over to its targets
    sys.stdout = os.fdopen(said, "w")
    if status:
        raise WrongResult(f"the worker ended with {status}")
    return {"cpu": cpu, "stages": sampler.result(), "elsewhere": sampler.elsewhere}


def profile_bundle(number: int) -> dict[str, Any]:
    """Be the launcher of so many bundles of one target each, one after the other; medians of what each takes."""
    from jobtree import launcher
    from jobtree.worker import run_bundle

    paths = _make_tree()
    launcher.prepare_to_fork(paths.root)
    forks, workers, faults = [], [], []
    for bundle in range(1, number + 1):
        _make_bundle(paths, bundle, [bundle - 1])
        began = time.process_time()
        pid = os.fork()
        if not pid:
            try:
                os._exit(run_bundle(paths.root, bundle, os.getcwd()))
            finally:
                os._exit(70)
        forks.append(time.process_time() - began)
        _, status, used = os.wait4(pid, 0)
        if status:
            raise WrongResult(f"the worker of bundle {bundle} ended with {status}")
        workers.append(used.ru_utime + used.ru_stime)
        faults.append(used.ru_minflt)
    return {
        "fork": statistics.median(forks),
        "worker": statistics.median(workers),
        "faults": statistics.median(faults),
    }


def measure_after_work(number: int) -> dict[str, Any]:
    """Be the worker of one bundle whose targets compute, and then that of one whose targets do nothing."""
    from jobtree.worker import run_bundle

    paths = _make_tree()
    said = os.dup(1)
    seconds = []
    kinds: tuple[Callable[[int], Target], ...] = (computing.Compute, fan_out.Nothing)
    for bundle, kind in enumerate(kinds, start=1):
        _make_bundle(paths, bundle, range((bundle - 1) * number // 2, bundle * number // 2), kind)
        used = time.process_time()
        status = run_bundle(paths.root, bundle, os.getcwd())
        seconds.append(time.process_time() - used)
        if status:
            raise WrongResult(f"the worker ended with {status}")
    os.dup2(said, 1)
    sys.stdout = os.fdopen(said, "w")
    own = sum(numbers[2] for numbers in witness.read(os.getcwd()).numbers)
    return {"computing": (seconds[0] - own) / (number // 2), "nothing": seconds[1] / (number // 2)}


def _make_tree() -> TreePaths:
    from jobtree import treedir

    paths = TreePaths(os.path.abspath("tree"))
    treedir.make_root(paths)
    treedir.make_directories(paths)
    return paths


def _make_bundle(
    paths: TreePaths, bundle: int, numbers: Sequence[int], kind: Callable[[int], Target] = fan_out.Nothing
) -> None:
    """Write a bundle with the targets of these numbers."""
    from jobtree import bundles, frames, serialization

    memory = 1 << 31
    header = frames.BundleHeader(
        version=frames.VERSION, run="where-time-goes", bundle=bundle, jobs=len(numbers), memory=memory, cpu=1.0,
        job_time=3600.0, max_log_file_size=50_120, keep_logs=False, durable=True, isolate=False, global_dirs=False,
        log_level=None, default_memory=memory, default_cpu=1.0,
    )  # fmt: skip
    payloads = (serialization.pack(kind(i)).payload for i in numbers)
    jobs = [
        frames.BundleJob(
            id=job_id(0, i + 1), attempt=1, step=0, memory=memory, cpu=1.0, time=0.0, payload=payload, values={}
        )
        for i, payload in enumerate(payloads)
    ]  # fmt: skip
    bundles.write_bundle(paths, header, jobs)


PARTS = {
    "master": profile_master,
    "worker": profile_worker,
    "bundle": profile_bundle,
    "after": measure_after_work,
}


# -- putting it together ---------------------------------------------------------------------------------------


def part(name: str, number: int, directory: str) -> dict[str, Any]:
    """Run one of these in a fresh process and directory, and check that every target has run once."""
    place = tempfile.mkdtemp(dir=directory)
    witness.make(place, number, width=3 if name == "after" else 0)
    command = [sys.executable, os.path.abspath(__file__), "--part", name, "--number", str(number)]
    environment = machine.environment()
    answer = subprocess.run(command, cwd=place, env=environment, capture_output=True, text=True)
    if answer.returncode:
        raise WrongResult(f"{name}: {answer.stderr[-3000:]}")
    complaint = witness.read(place).complaint()
    if complaint is not None:
        raise WrongResult(f"{name}: {complaint}")
    shutil.rmtree(place)
    found: dict[str, Any] = json.loads(answer.stdout.splitlines()[-1])
    return found


def measure_floors(directory: str, times: int) -> dict[str, float]:
    """Microseconds, by what was done."""
    seconds = {
        "fork, exit and wait for a process of this size": floors.fork(times),
        "append 1 KB to a file and fdatasync": floors.sync_of_append(directory, 1024, times),
        "commit one changed row in SQLite (WAL, synchronous=FULL)": floors.commit(directory, times),
        ROW: floors.row(directory, max(2, times // 10)),
        "make a small file and remove it": floors.small_file(directory, times),
        WRITE: floors.write(directory, 200, times),
        DUMPS: floors.dumps(times),
        LOADS: floors.loads(times),
        QUESTIONS: floors.questions(times),
        "a task that does nothing by multiprocessing.Pool(2), one at a time: wall clock": floors.pool(
            times * 20
        ),
    }
    return {name: value * 1e6 for name, value in seconds.items()}


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="Where the time of a target that does nothing goes.")
    parser.add_argument("--number", type=int, default=100_000, help="how many targets")
    parser.add_argument("--json", metavar="FILE", help="write the results there, too")
    parser.add_argument("--directory", default=os.environ.get("TMPDIR") or "/var/tmp", help="where to run")
    parser.add_argument("--part", choices=list(PARTS), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.part is not None:
        print("\n" + json.dumps(PARTS[options.part](options.number)), flush=True)
        return 0
    on_terminate()
    machine.use_cores(CORES)
    directory = tempfile.mkdtemp(prefix="jobtree-bench-", dir=options.directory)
    try:
        about = machine.describe(directory, CORES)
        for warning in machine.warnings(directory):
            print(f"WARNING: {warning}\n")
        result = {
            "machine": about,
            "number": options.number,
            "floors": measure_floors(directory, 200 if options.number >= 10_000 else 10),
            "run": part("master", options.number, directory),
            "worker": part("worker", options.number, directory),
            "bundle": part("bundle", min(100, options.number), directory),
            "after": part("after", min(4000, options.number), directory),
        }
    finally:
        shutil.rmtree(directory, ignore_errors=True)
    print("\n\n".join(tables(result).values()))
    if options.json is not None:
        Path(options.json).write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    return 0


def tables(result: dict[str, Any]) -> dict[str, str]:
    """Tables for a page of documentation, by name."""
    about, number, run, worker = result["machine"], result["number"], result["run"], result["worker"]
    each = 1e6 / number
    idle = CORES * run["wall"] - run["cpu"] - run["below"]
    commits, seconds = run["commits"], run["commit_wall"]
    whole = {
        "wall clock": run["wall"],
        "CPU of the master": run["cpu"],
        "CPU of launcher and workers": run["below"],
        "neither: waiting for the disk or for each other, other programs": idle,
        f"of the wall clock, {commits} commits of {seconds / commits * 1e3:.1f} ms each": seconds,
    }
    return {
        "where-machine": f"Measured on {about['date']}: {about['processor']}; {about['system']}, "
        f"{about['file system']}, {about['Python']}, SQLite {about['SQLite']}; jobtree {about['jobtree']}; load before "
        f"it began: {about['load before']}.",
        "floors": _rows("what the machine takes for", result["floors"]),
        "whole": _rows(
            f"a target that does nothing, in a run of {number:,}", {k: v * each for k, v in whole.items()}
        ),
        "master": _stages("the master, for each target", run["stages"], run["cpu"] * each),
        "worker": _stages("a worker, for each target", worker["stages"], worker["cpu"] * each),
        "bundle": _bundle(result.get("bundle")),
        "after": _after(result.get("after")),
    }


def _bundle(found: Optional[dict[str, float]]) -> str:
    if found is None:
        return "Not measured yet."
    return (
        f"A bundle of one target takes {found['fork'] * 1e3:.1f} ms of CPU in the launcher, which forks its worker, "
        f"and {found['worker'] * 1e3:.1f} ms in the worker, with {found['faults']:.0f} page faults: what it touches of "
        "the launcher's memory it must first copy."
    )


def _after(found: Optional[dict[str, float]]) -> str:
    if found is None:
        return "Not measured yet."
    return (
        f"A worker, alone on the machine, takes {found['nothing'] * 1e6:.1f} us for a target that does nothing, and "
        f"{found['computing'] * 1e6:.1f} us beside the target's own for one that computes for a millisecond: after "
        "that, our code is not in the processor's caches any more."
    )


def _rows(title: str, microseconds: Mapping[str, float]) -> str:
    rows = [f"| {name} | {value:.1f} |" for name, value in microseconds.items()]
    return "\n".join([f"| {title} | us |", "| --- | ---: |", *rows])


def _stages(title: str, stages: dict[str, float], total: float) -> str:
    """Shares of a measured total, so that the interruptions, which cost something themselves, are not counted."""
    seen = sum(stages.values()) or 1.0
    rows = [
        f"| {name} | {total * seconds / seen:.1f} | {100 * seconds / seen:.0f} % |"
        for name, seconds in sorted(stages.items(), key=lambda item: -item[1])
    ]
    return "\n".join(
        [f"| {title} | us | share |", "| --- | ---: | ---: |", *rows, f"| all | {total:.1f} | 100 % |"]
    )


if __name__ == "__main__":
    sys.exit(main())
