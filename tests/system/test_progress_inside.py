"""A target that tells how far it is, and one that says nothing any more, as those see it who ask."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.system.monitoring import serving
from tests.system.pipelines import wait_until
from tests.system.waiting import PAUSE, Bench

SCRIPT = """
import argparse, sys, threading
from jobtree import Stack, Target

class Align(Target):
    def run(self):
        self.reportProgress(None, "reading the index")
        self.reportProgress(0.25, "aligning\\n\\x1b[31m chr3")
        pause()
        thread = threading.Thread(target=self.in_a_thread)
        thread.start()
        thread.join()
        pause()
        for n in range(100000):
            self.reportProgress(n / 100000, "step %d" % n)
        self.reportProgress(55)
        self.reportProgress(56)

    def in_a_thread(self):
        self.reportProgress(0.5, "sorting")

if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    Stack.addJobTreeOptions(parser)
    sys.exit(1 if Stack(Align()).startJobTree(parser.parse_args()) else 0)
"""


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    with Bench(tmp_path) as made:
        made.write("script.py", PAUSE + SCRIPT)
        yield made


def running(bench: Bench) -> dict[str, Any]:
    """The one running target, as jobTreeStatus tells programs."""
    found = json.loads(bench.run("jobTreeStatus", "tree", "--json", "--running").out)
    return dict(found[0]) if found else {}


def test_progress_and_silence_are_shown_while_it_runs(bench: Bench) -> None:
    started = bench.start("script.py", "--jobTree", "tree", "--hungAfter", "0.5", "--logInfo")
    bench.gate.arrival()
    wait_until(lambda: running(bench).get("words") == "aligning \x1b[31m chr3", "it has been heard")
    assert running(bench)["fraction"] == 0.25
    wait_until(lambda: bool(running(bench)["hung"]), "it has been silent for too long")
    assert running(bench)["silent"] > 0.5

    line = bench.run("jobTreeStatus", "tree", "--running").out
    assert re.search(r"; 25 %, aligning \\x1b\[31m chr3; hung: silent for .+\n$", line)
    why = bench.run("jobTreeStatus", "tree", "--why", "0-1").out
    assert "It has told how far it is: 25 %, aligning \\x1b[31m chr3." in why
    assert "longer than --hungAfter: it may hang. To end it: jobTreeRun --killJob." in why

    with serving(bench.directory / "home", bench.directory / "tree") as monitor:
        (told,) = monitor.told("/1/running")
        assert (told["fraction"], told["words"], told["hung"]) == (0.25, "aligning \x1b[31m chr3", True)

    bench.gate.let_through(1)
    bench.gate.arrival()
    wait_until(lambda: running(bench).get("words") == "sorting", "it has been heard from a thread")
    bench.gate.let_through(1)
    ran = started.ended()
    assert ran.status == 0
    assert ran.err.count("nothing was heard of job 0-1 (script.Align)") >= 1
    assert "job 0-1 (script.Align) is heard of again" in ran.err
    assert ran.err.count("and a fraction from 0 to 1 is expected") == 1
    assert "given 55, and" in ran.err


def test_a_debugged_target_tells_it_here(bench: Bench) -> None:
    bench.write(
        "fails.py",
        """
        import argparse, sys
        from jobtree import Stack, Target

        class Fails(Target):
            def run(self):
                self.reportProgress(0.5, "half")
                self.reportProgress("half")

        if __name__ == "__main__":
            parser = argparse.ArgumentParser()
            Stack.addJobTreeOptions(parser)
            sys.exit(1 if Stack(Fails()).startJobTree(parser.parse_args()) else 0)
        """,
    )
    wrong = "reportProgress() was given 'half', and a number from 0 to 1 is expected, or None."
    ran = bench.run("fails.py", "--jobTree", "tree")
    assert ran.status == 1
    assert wrong in ran.err
    ran = bench.run("jobTreeRun", "--jobTree", "tree", "--debug", "0-1")
    assert ran.status == 1
    assert "jobtree: job 0-1: 50 %, half" in ran.err
    assert wrong in ran.err
