"""The fake keeps the contract: all of it when it runs its commands, and the part about issuing and ends when a test
says what happens."""

from __future__ import annotations

import subprocess

from batchsystems.abstract import AbstractBatchSystem, End, EndKind, Reason, Submission
from tests.conformance.batch_system import BatchSystemContract
from tests.conformance.clauses_issue import EndsContract, IssueContract
from tests.conformance.scene import raised
from tests.fakes.fake_batch_system import FakeBatchSystem


class TestFakeThatRunsItsCommands(BatchSystemContract):
    short_jobs = 100

    def make(self) -> AbstractBatchSystem:
        return FakeBatchSystem(cpu=3, memory=1 << 30, run_commands=True)


class TestFakeWhoseScriptRunsOneCommandWhenIdle(IssueContract, EndsContract):
    short_jobs = 100

    def make(self) -> AbstractBatchSystem:
        fake = FakeBatchSystem(cpu=3, memory=1 << 30)
        fake.on_idle = lambda: run_oldest(fake)
        return fake

    def test_what_the_command_left_running_is_killed(self) -> None:
        """Not for this script: it waits for one process, and has no groups."""


def run_oldest(fake: FakeBatchSystem) -> None:
    """Run the oldest job to its end, here and now, and tell the fake how it ended."""
    for submission in fake.active()[:1]:
        log = subprocess.DEVNULL if submission.log is None else open(submission.log, "ab")  # noqa: SIM115
        try:
            status = subprocess.call(
                submission.command,
                cwd=submission.cwd,
                env=submission.env,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        except OSError as error:
            missing = isinstance(error, FileNotFoundError)
            fake.finish(submission.name, 127 if missing else 126, detail=str(error))
        else:
            if status < 0:
                fake.kill(submission.name, Reason.SIGNAL, -status)
            else:
                fake.finish(submission.name, status)
        finally:
            if not isinstance(log, int):
                log.close()


def test_jobs_end_when_the_test_says_so() -> None:
    fake = FakeBatchSystem()
    fake.issue([Submission(f"run.{name}", ("true",)) for name in "abc"])
    assert fake.poll(10.0) == []

    fake.finish("run.b", 3, peak_memory=5, cpu_seconds=0.5)
    fake.lose("run.a", "node gone")
    fake.kill("run.c", Reason.MEMORY)

    assert fake.poll(10.0) == [
        End("run.b", EndKind.FINISHED, 3, peak_memory=5, cpu_seconds=0.5),
        End("run.a", EndKind.LOST, detail="node gone"),
        End("run.c", EndKind.KILLED, signal=9, reason=Reason.MEMORY),
    ]
    assert fake.active() == []
    raised(KeyError, lambda: fake.finish("run.b"))


def test_everything_that_was_asked_is_recorded() -> None:
    fake = FakeBatchSystem(room=5)
    first, second, third = (Submission(f"run.{name}", ("true",)) for name in "abc")

    fake.issue([first])
    fake.issue([second, third])
    fake.cancel(["run.b", "run.z"], grace=2.0)
    fake.poll(0.5)
    fake.wake()

    assert (fake.issued, fake.calls) == ([first, second, third], [1, 2])
    assert fake.cancelled == [("run.b", 2.0), ("run.z", 2.0)]
    assert (fake.timeouts, fake.wakes, fake.queue_room()) == ([0.5], 1, 3)
    assert fake.submission("run.b") is second


def test_a_cancelled_job_can_take_its_time() -> None:
    fake = FakeBatchSystem(obeys_cancel=False)
    fake.issue([Submission("run.a", ("true",))])

    fake.cancel(["run.a"])
    assert fake.poll(0.0) == []

    fake.kill("run.a", Reason.CANCELLED)
    assert [end.reason for end in fake.poll(0.0)] == [Reason.CANCELLED]


def test_the_successor_has_the_jobs_that_outlive_the_master() -> None:
    jobs = [Submission("run.a", ("true",)), Submission("run.b", ("true",))]
    lasting, passing = FakeBatchSystem(outlives=True), FakeBatchSystem()
    for fake in (lasting, passing):
        fake.issue(jobs)
        fake.finish("run.a")

    heir = lasting.successor()

    assert lasting.closed
    assert heir.list_issued("run") == ["run.b"]
    assert [end.name for end in heir.poll(0.0)] == ["run.a"]
    assert passing.successor().list_issued("run") == []
