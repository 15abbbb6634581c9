"""Wrong clocks, no room, strange names, two of everything: the real program where nothing is as it should be.

What needs root (mounts, another host name) runs in namespaces of its own, and asks for ``unshare`` and ``mount``.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Optional

import pytest

from tests.requirements import missing, require
from tests.system.legacy_script import CHECKOUT, Ran
from tests.system.pipelines import DEADLINE_SECONDS, Pipeline, variables, wait_until
from tests.system.waiting import PAUSE, Bench

pytestmark = pytest.mark.slow

#: What is loaded before the C library, and steps the clock on the wall by what a file says. (libfaketime would also
#: change how long processes sleep by a clock that does not step.)
STEPPED_CLOCK = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static long step(void) {
    char text[32] = "";
    int fd = open(getenv("CLOCK_STEP_FILE"), O_RDONLY | O_CLOEXEC);
    if (fd < 0) return 0;
    if (read(fd, text, sizeof text - 1) < 0) text[0] = 0;
    close(fd);
    return atol(text);
}
int clock_gettime(clockid_t clock, struct timespec *now) {
    static int (*real)(clockid_t, struct timespec *);
    if (!real) real = dlsym(RTLD_NEXT, "clock_gettime");
    int result = real(clock, now);
    if (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE) now->tv_sec += step();
    return result;
}
int gettimeofday(struct timeval *now, void *zone) {
    struct timespec precise;
    int result = clock_gettime(CLOCK_REALTIME, &precise);
    now->tv_sec = precise.tv_sec;
    now->tv_usec = precise.tv_nsec / 1000;
    return result;
}
time_t time(time_t *where) {
    struct timespec precise;
    clock_gettime(CLOCK_REALTIME, &precise);
    if (where) *where = precise.tv_sec;
    return precise.tv_sec;
}
"""

HOUR = 3600

CHILDREN = """
class Setup(Target):
    def run(self):
        note("setup")
        numbers = [self.addChildTarget(Child(i)).rv() for i in range(8)]
        end = self.setFollowOnTarget(End(numbers))
        return end.rv()
class Child(Target):
    def __init__(self, i):
        Target.__init__(self)
        self.i = i
    def run(self):
        note("child %d" % self.i)
        self.setFollowOnTarget(After())
        with open(os.path.join(self.getGlobalTempDir(), "left"), "w") as file:
            file.write("x")
        return self.i
class After(Target):
    def run(self):
        assert os.listdir(self.getGlobalTempDir()) == ["left"]
class End(Target):
    def __init__(self, numbers):
        Target.__init__(self)
        self.numbers = numbers
    def run(self):
        return sum(self.numbers)
"""
RESULT = "result: 28\n"

GATED = (
    PAUSE
    + """
class Setup(Target):
    def run(self):
        for i in range(4):
            self.addChildTarget(Child(i))
class Child(Target):
    def __init__(self, i):
        Target.__init__(self)
        self.i = i
    def run(self):
        import time
        note("%d begins at %d" % (self.i, time.time()))
        pause()
        note("%d ends at %d" % (self.i, time.time()))
"""
)


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    """A directory with a gate."""
    with Bench(tmp_path) as bench:
        yield bench


# -- clocks ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("steps", [(HOUR, -HOUR), (-HOUR, HOUR)], ids=["forth and back", "back and forth"])
def test_the_clock_of_the_machine_steps_by_an_hour(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, steps: tuple[int, int]
) -> None:
    compiler = require("cc")
    (tmp_path / "clock.c").write_text(STEPPED_CLOCK)
    library = tmp_path / "clock.so"
    subprocess.run([compiler, "-shared", "-fPIC", "-o", library, tmp_path / "clock.c", "-ldl"], check=True)
    stamp = tmp_path / "step"
    stamp.write_text("0")
    monkeypatch.setenv("LD_PRELOAD", str(library))
    monkeypatch.setenv("CLOCK_STEP_FILE", str(stamp))
    pipeline = Pipeline(tmp_path, GATED)

    # Limits that an hour would cross, were it believed.
    run = bench.start(
        "pipeline.py", "--jobTree", "tree", "--maxJobDuration", "600", "--maxThreads", "2", "--copyEvery", "1"
    )
    for step in steps:
        bench.gate.arrival()
        stamp.write_text(str(step))
        # The master looks around several times under the other clock.
        wait_until(lambda: pipeline.program("jobTreeStatus", "tree").status == 0, "the tree can be looked at")
        bench.gate.let_through(1)
    bench.gate.let_through(4)

    ended = run.ended()
    assert ended.status == 0, ended.err
    assert "failed" not in ended.err.replace("failed: 0", "")
    notes = pipeline.notes()
    assert len(notes) == 8
    moments = [int(line.split()[-1]) for line in notes]
    assert max(moments) - min(moments) > HOUR - 600, "the clock has not stepped, so this proves nothing"
    assert pipeline.leftovers() == []


def test_a_master_that_does_not_answer_is_killed_though_the_clock_has_stepped(
    bench: Bench, tmp_path: Path
) -> None:
    """When it started, in seconds since 1970, changes with the clock; that it holds the lock does not."""

    pipeline = Pipeline(tmp_path, GATED)
    run = bench.start("pipeline.py", "--jobTree", "tree")
    bench.gate.arrival()
    run.send(signal.SIGSTOP)
    owner = tmp_path / "tree" / "lock.json"
    content = json.loads(owner.read_text())
    del content["crc32"]
    owner.write_text(json.dumps({**content, "started": content["started"] - HOUR}))

    killer = bench.start("jobTreeKill", "tree", "--timeout", "0.1")
    wait_until(lambda: "SIGTERM" in (tmp_path / "out.1").read_text(), "it is asked in vain")
    run.send(signal.SIGCONT)

    assert killer.ended().status == 0
    assert run.ended().status != 0
    assert pipeline.leftovers() == []


# -- no room ---------------------------------------------------------------------------------------------------


class Namespace:
    """A shell with mounts and a host name of its own: what it runs sees them, and they go with it."""

    def __init__(self, directory: Path) -> None:
        require("unshare")
        require("mount")
        if os.geteuid() != 0:
            missing("mounting a small file system needs root")
        self._directory = directory

    def run(self, script: str, env: Optional[Mapping[str, Optional[str]]] = None) -> Ran:
        """Run a script of the shell to its end. In it, $PY and $BIN are Python and the commands."""
        text = f"set -u; PY={shlex.quote(sys.executable)}; BIN={shlex.quote(str(CHECKOUT / 'bin'))}\n{script}"
        ended = subprocess.run(
            ["unshare", "--mount", "--uts", "--propagation", "private", "bash", "-c", text],
            cwd=self._directory, env=variables(env), capture_output=True, text=True, errors="backslashreplace",
            stdin=subprocess.DEVNULL, timeout=2 * DEADLINE_SECONDS,
        )  # fmt: skip
        return Ran(ended.returncode, ended.stdout, ended.stderr)


@pytest.fixture
def namespace(tmp_path: Path) -> Namespace:
    """One whose scripts run in the directory of the test."""
    return Namespace(tmp_path)


def test_a_full_tmp_stops_only_who_needs_it(namespace: Namespace, tmp_path: Path) -> None:
    pipeline = Pipeline(tmp_path, CHILDREN)
    (tmp_path / "small").mkdir()

    ran = namespace.run(
        "mount -t tmpfs -o size=64k none small; cat /dev/zero > small/full; $PY pipeline.py --jobTree tree",
        {"TMPDIR": str(tmp_path / "small")},
    )

    assert ran.status == 0, ran.err
    assert RESULT in ran.out
    assert pipeline.leftovers() == []


def test_a_target_that_needs_a_full_tmp_says_so_and_goes_on_when_there_is_room(
    namespace: Namespace, tmp_path: Path
) -> None:
    pipeline = Pipeline(
        tmp_path,
        """
        class Setup(Target):
            def run(self):
                with open(os.path.join(self.getLocalTempDir(), "scratch"), "w") as file:
                    file.write("x" * 10000)
                return "there was room"
        """,
    )
    (tmp_path / "small").mkdir()

    ran = namespace.run(
        "mount -t tmpfs -o size=64k,nr_inodes=5 none small; touch small/1 small/2 small/3 small/4\\n"
        "$PY pipeline.py --jobTree tree; echo first: $?\\n"
        "rm small/*; $PY pipeline.py --jobTree tree; echo second: $?; ls small".replace("\\n", "\n"),
        {"TMPDIR": str(tmp_path / "small")},
    )

    assert "first: 1\n" in ran.out
    assert "No space left on device" in ran.err
    assert str(tmp_path / "small") in ran.err
    assert "result: 'there was room'\nsecond: 0\n" in ran.out
    assert ran.out.endswith("second: 0\n"), "something was left there"
    assert "tempdirs.py" not in ran.err, "a traceback of ours"
    assert pipeline.leftovers() == []


@pytest.mark.parametrize("options", ["size=100M,nr_inodes=32", "size=255k"], ids=["inodes", "bytes"])
def test_no_room_for_the_job_tree_is_said_and_the_run_goes_on_when_there_is(
    namespace: Namespace, tmp_path: Path, options: str
) -> None:
    """However often it runs into that: with each start there is a little more."""
    Pipeline(tmp_path, CHILDREN)
    (tmp_path / "small").mkdir()
    more = (
        "mount -o remount,nr_inodes=$((32 + 5 * i)) small"
        if "inodes" in options
        else "mount -o remount,size=$((255 + 40 * i))k small"
    )

    ran = namespace.run(
        f"""
        mount -t tmpfs -o {options} none small
        for i in $(seq 1 40); do
            $PY pipeline.py --jobTree small/tree --maxThreads 2 --retryCount 3 --copyEvery 0 --minFree 0; status=$?
            echo "start $i: $status"
            [ $status != 0 ] || break
            {more}
        done
        $PY $BIN/jobTreeStatus --check small/tree; echo "check: $?"
        """
    )

    starts = [line for line in ran.out.splitlines() if line.startswith("start ")]
    assert "start 1: 5" in starts, "there was room at once, so this proves nothing"
    assert starts[-1].endswith(": 0"), f"{starts}\n{ran.err[-3000:]}"
    assert {line.split()[-1] for line in starts[:-1]} <= {"5", "1"}
    assert re.search(r"Free some space there|Look at the space left on that file system", ran.err)
    assert RESULT in ran.out
    assert "Traceback" not in ran.err
    assert "check: 0" in ran.out


def test_a_job_tree_that_is_read_only_can_be_looked_at_and_says_why_it_does_not_run(
    namespace: Namespace, bench: Bench, tmp_path: Path
) -> None:
    Pipeline(tmp_path, GATED)
    run = bench.start("pipeline.py", "--jobTree", "tree", "--maxThreads", "1")
    bench.gate.arrival()
    run.send(signal.SIGKILL)
    run.ended()
    assert (tmp_path / "tree" / "tree.sqlite-wal").stat().st_size > 0

    # Without the index of the log, as a machine finds it that was not the one that ran it.
    ran = namespace.run(
        """
        rm tree/tree.sqlite-shm
        mount --bind tree tree && mount -o remount,ro,bind tree || exit 99
        $PY $BIN/jobTreeStatus tree; echo "status: $?"
        $PY $BIN/jobTreeStatus --check tree; echo "check: $?"
        $PY $BIN/jobTreeStats tree; echo "stats: $?"
        $PY $BIN/jobTreeKill tree; echo "kill: $?"
        $PY $BIN/jobTreeRun --jobTree tree; echo "run: $?"
        $PY pipeline.py --jobTree tree; echo "script: $?"
        """
    )

    assert "interrupted: its master died" in ran.out
    assert "status: 0\n" in ran.out
    assert "nothing is wrong\ncheck: 0\n" in ran.out
    assert "stats: 0\n" in ran.out
    assert "run: 5\n" in ran.out
    assert "script: 5\n" in ran.out
    assert ran.err.count("The file system is mounted read-only; make it writable") >= 2
    assert "Traceback" not in ran.err


# -- names -----------------------------------------------------------------------------------------------------

NAMES = {
    "spaces and quotes": b'a tree\'s "own" name',
    "a newline": b"two\nlines",
    "other letters": "\u00e4\u00f6\u00fc \u6728 \U0001f333".encode(),
    "no letters of UTF-8": b"caf\xe9 \xff\xfe",
    "what a shell would take": b"$(touch hit) `touch hit` ; touch hit & * ? [x] {a,b} %s %d",
    "like an option": b"-n",
    "what a database would take": b"?mode=memory#x%00",
}


@pytest.mark.parametrize("name", NAMES)
def test_a_job_tree_may_have_any_name(tmp_path: Path, name: str) -> None:
    raw = NAMES[name]
    pipeline = Pipeline(tmp_path, CHILDREN)
    pipeline.tree = tmp_path / os.fsdecode(raw) / "tree"
    pipeline.tree.parent.mkdir()
    pipeline.edit(CHILDREN.replace("return sum(self.numbers)", "raise ValueError('not yet')"))
    first = pipeline.run("--copyEvery", "0.1")
    assert first.status == 1, first.err
    pipeline.edit(CHILDREN)

    for command in (
        ["jobTreeStatus", "--verbose"],
        ["jobTreeStatus", "--check"],
        ["jobTreeStats"],
        ["jobTreeKill"],
    ):
        ran = pipeline.program(command[0], *command[1:], "--jobTree", str(pipeline.tree))
        assert ran.status == 0, (command, ran)
    back = pipeline.program("jobTreeRun", "--jobTree", str(pipeline.tree))

    assert back.status == 0, back.err
    assert RESULT in pipeline.run().out
    assert "Traceback" not in back.err
    assert pipeline.leftovers() == []
    assert sorted(os.listdir(tmp_path)) == sorted(
        [os.fsdecode(raw), "notes", "pipeline.py", *caches(tmp_path)]
    )


def caches(directory: Path) -> list[str]:
    """What Python may have made."""
    return ["__pycache__"] if (directory / "__pycache__").exists() else []


def test_the_host_may_have_another_name_at_each_start(
    namespace: Namespace, bench: Bench, tmp_path: Path
) -> None:
    pipeline = Pipeline(
        tmp_path, CHILDREN.replace("return sum", "import socket; note(socket.gethostname()); return sum")
    )

    ran = namespace.run(
        """
        hostname first
        $PY pipeline.py --jobTree tree & master=$!
        until [ -s notes ]; do sleep 0.01; done
        kill -9 $master; wait $master
        hostname second.example.org
        $PY pipeline.py --jobTree tree; echo "second: $?"
        """
    )

    assert "second: 0\n" in ran.out, ran.err
    assert RESULT in ran.out
    assert pipeline.notes()[-1] in ("first", "second.example.org")
    assert pipeline.leftovers() == []


def test_a_master_that_does_not_answer_is_killed_though_its_host_is_called_otherwise_now(
    namespace: Namespace, tmp_path: Path
) -> None:
    Pipeline(
        tmp_path,
        """
        class Setup(Target):
            def run(self):
                note("begins")
                signal.pause()
        """,
    )

    ran = namespace.run(
        """
        hostname first
        $PY pipeline.py --jobTree tree & master=$!
        until [ -s notes ]; do sleep 0.01; done
        kill -STOP $master
        hostname second
        $PY $BIN/jobTreeKill tree --timeout 0.1 > told & killer=$!
        until [ -s told ]; do sleep 0.01; done
        kill -CONT $master
        wait $killer; echo "kill: $?"
        cat told
        """
    )

    assert "kill: 0\n" in ran.out, ran.out + ran.err
    assert "Give this command there" not in ran.out
