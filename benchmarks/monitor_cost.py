"""What a run costs that is watched in a browser: `python -m benchmarks.monitor_cost [--number 100000] [--rounds 5]`.

One target with many children that do nothing, once by itself and once with jobTreeMonitor beside it, in turns. The
monitor is up, and a client has asked for all that the page asks for and hears of every look, before the children are
made; the clock runs from then until the run's process has ended. The client is not a browser, which would be on
another machine; with --browser it is Debian's Chromium, on the same cores.

It prints the medians, and the throughput with the monitor as a share of that without: at least 95 % is asked for. On a
machine that others use, seconds say little; so the CPU time is printed beside them, of the run's processes, and of the
monitor after the gate was opened.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import psutil

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks import machine
from benchmarks.gated_fan_out import GATE
from benchmarks.running import CHECKOUT, Bench, Running, on_terminate

ASKED = 95.0
_HOST = "127.0.0.1"


class Watched(NamedTuple):
    """A run that was watched, or not: seconds from the gate to its end; CPU seconds of its processes and of the
    monitor; looks: how many events were heard."""

    seconds: float
    cpu: float
    monitor: float
    looks: int


class Page:
    """A client that does what the page does: asks for the tree, its history, its first level, and hears of it."""

    def __init__(self, address: str, monitor: psutil.Process) -> None:
        self.looks = 0
        self._monitor = monitor
        self._port, _, self._token = address.removeprefix(f"http://{_HOST}:").partition("/?token=")
        for path in ("/api/v1/trees/1", "/api/v1/trees/1/history", "/api/v1/trees/1/jobs"):
            self._answer(path).read()
        self._stream = self._answer("/api/v1/events?tree=1")
        self._thread = threading.Thread(target=self._hear, daemon=True)
        self._thread.start()
        self._cpu = self._cpu_so_far()

    def _cpu_so_far(self) -> float:
        times = self._monitor.cpu_times()
        return float(times.user + times.system)

    def cpu(self) -> float:
        """CPU seconds that the monitor has used since the page was open."""
        return self._cpu_so_far() - self._cpu

    def _answer(self, path: str) -> http.client.HTTPResponse:
        connection = http.client.HTTPConnection(_HOST, int(self._port), timeout=60)
        connection.request("GET", path, headers={"authorization": f"Bearer {self._token}"})
        answer = connection.getresponse()
        if answer.status != 200:
            raise RuntimeError(f"{path}: {answer.status} {answer.read()!r}")
        return answer

    def _hear(self) -> None:
        for line in self._stream:
            if line == b"event: tree\n":
                self.looks += 1

    def close(self) -> None:
        """When the monitor has ended."""
        self._thread.join()
        self._stream.close()


@contextlib.contextmanager
def monitoring(tree: Path, home: Path, browser: bool) -> Iterator[Page]:
    """A monitor of the tree, with the page open."""
    command = [sys.executable, str(CHECKOUT / "bin" / "jobTreeMonitor"), str(tree)]
    environment = {**machine.environment(), "XDG_STATE_HOME": str(home)}
    with contextlib.ExitStack() as stack:
        process = stack.enter_context(
            subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
        )
        stack.callback(process.terminate)
        assert process.stdout is not None
        address = process.stdout.readline().strip()
        if browser:
            from tests.servers import chromium

            driver = stack.enter_context(chromium.start(home / "profile"))
            driver.get(address)
        page = Page(address, psutil.Process(process.pid))
        yield page
        process.terminate()
        page.close()


def watched(bench: Bench, number: int, monitor: bool, browser: bool) -> Watched:
    """One checked run."""
    with bench.start("gated_fan_out.py", "--number", str(number), cells=number) as running:
        os.mkfifo(running.directory / GATE)
        while not (running.tree / "config.json").exists():
            time.sleep(0.01)
            if running.process.poll() is not None:
                running.wrong("it has ended before it began")
        home = running.directory / "home"
        home.mkdir()
        if not monitor:
            return Watched(*_passed(running), _checked(running, number), 0)
        with monitoring(running.tree, home, browser) as page:
            seconds, cpu = _passed(running)
            used = page.cpu()
            _checked(running, number)
        return Watched(seconds, cpu, used, page.looks)


def _passed(running: Running) -> tuple[float, float]:
    """Open the gate and wait for the end; the seconds from then, and the CPU seconds of all processes of the run."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    with open(running.directory / GATE, "wb"):
        running.began = time.monotonic()
    seconds = running.ended()
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return seconds, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def _checked(running: Running, number: int) -> float:
    """Nothing; WrongResult unless everything is as it should be."""
    running.checked(done=number + 1)
    return 0.0


def main() -> int:
    """Measure and print; exit status 1 if less than what is asked for was reached at full size."""
    on_terminate()
    parser = argparse.ArgumentParser(description="What a run costs that is watched in a browser.")
    parser.add_argument("--number", type=int, default=100_000, help="how many targets")
    parser.add_argument("--rounds", type=int, default=5, help="so many runs of each kind")
    parser.add_argument("--browser", action="store_true", help="have a real browser open, on the same cores")
    parser.add_argument("--directory", help="where the runs take place; default: a temporary directory")
    arguments = parser.parse_args()
    alone, beside = [], []
    with tempfile.TemporaryDirectory(dir=arguments.directory) as place:
        bench = Bench(place, arguments.number / 100_000, 2)
        for _ in range(arguments.rounds):
            alone.append(watched(bench, arguments.number, False, False))
            beside.append(watched(bench, arguments.number, True, arguments.browser))
    without, with_it = (statistics.median(run.seconds for run in runs) for runs in (alone, beside))
    share = 100 * without / with_it
    print(f"{arguments.number:,} targets that do nothing, medians of {arguments.rounds} runs each, in turns:")
    for what, runs, seconds in (
        ("without the monitor", alone, without),
        ("with the page open", beside, with_it),
    ):
        cpu = statistics.median(run.cpu for run in runs)
        rate = arguments.number / seconds
        print(f"  {what:20} {seconds:7.2f} s {rate:9,.0f} targets/s {cpu:7.2f} s of CPU")
    used = statistics.median(run.monitor for run in beside)
    print(f"  the monitor used {used:.2f} s of CPU; {sum(run.looks for run in beside)} looks were heard of")
    print(f"  {share:.1f} % of the throughput (asked: {ASKED:g} % at least)")
    return 0 if share >= ASKED or arguments.number < 100_000 else 1


if __name__ == "__main__":
    sys.exit(main())
