"""The guard of a node: it kills what it was told of when its lease is over, or the node is dead, and nothing else."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest

from batchsystems import pool_guard
from batchsystems.abstract import Submission
from batchsystems.pool_hub import elapsed
from batchsystems.pool_jobs import GuardedStarter, measure
from batchsystems.processes import ProcessEnd
from tests.system.pipelines import wait_until


@pytest.fixture
def sleeper() -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(["sleep", "1000"], start_new_session=True)
    yield process
    process.kill()
    process.wait()


def guard(lease: float) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-I", "-S", pool_guard.__file__, str(lease)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, bufsize=0)


def tell(process: subprocess.Popen[bytes], *lines: str) -> None:
    assert process.stdin is not None
    process.stdin.write("".join(f"{line}\n" for line in lines).encode())


def end(process: subprocess.Popen[bytes]) -> None:
    assert process.stdin is not None
    process.stdin.close()
    process.wait()


def test_a_lease_that_has_run_out_kills(sleeper: subprocess.Popen[bytes]) -> None:
    watching = guard(0.1)
    tell(watching, f"begun {elapsed()}", f"+ {sleeper.pid}")

    assert sleeper.wait(60) == -signal.SIGKILL
    end(watching)


def test_the_end_of_the_node_kills(sleeper: subprocess.Popen[bytes]) -> None:
    watching = guard(1000)
    tell(watching, f"begun {elapsed()}", f"+ {sleeper.pid}")
    end(watching)

    assert sleeper.wait(60) == -signal.SIGKILL


def test_what_has_ended_before_is_left_alone(sleeper: subprocess.Popen[bytes]) -> None:
    watching = guard(1000)
    tell(watching, f"begun {elapsed()}", f"+ {sleeper.pid}", f"- {sleeper.pid}")
    end(watching)

    assert sleeper.poll() is None


def test_a_guard_that_was_killed_is_started_again_and_knows_all() -> None:
    starter = GuardedStarter(0.5)
    starter.answered(elapsed() + 1000)
    starter.start("first", Submission("r.1", ("sleep", "1000")))
    assert set(measure(starter.groups())["jobs"]) == {"first"}
    starter._guard.kill()
    starter._guard.wait()
    starter.answered(elapsed() - 1)  # another one, which is told of a lease that is over

    ends: list[ProcessEnd] = []

    def has_ended() -> bool:
        ends.extend(starter.ended())
        return bool(ends)

    wait_until(has_ended, "the end")
    assert [(one.name, one.wait_status) for one in ends] == [("first", signal.SIGKILL)]
    starter.close()
