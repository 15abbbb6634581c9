"""The clauses about a scheduler that others run (26 to 32), for batch systems whose jobs outlive the master.

How its scheduler is made to misbehave, each backend's test says: it subclasses `SchedulerContract` beside
`BatchSystemContract` and writes the context managers.
"""

from __future__ import annotations

import time
from contextlib import AbstractContextManager

from batchsystems.abstract import BatchSystemError, EndKind, Reason, Setup
from tests.conformance.scene import Contract, raised

_AT_ONCE_SECONDS = 20.0
"""What clause 27 calls some seconds."""


class SchedulerContract(Contract):
    """Clauses 26 to 32."""

    def down(self) -> AbstractContextManager[None]:
        """While this lasts the scheduler cannot be asked; its jobs go on."""
        raise NotImplementedError

    def forgetful(self) -> AbstractContextManager[None]:
        """While this lasts the scheduler acknowledges submissions and loses them."""
        raise NotImplementedError

    def refusing(self) -> AbstractContextManager[None]:
        """While this lasts the scheduler says of each submission that it will never start it."""
        raise NotImplementedError

    def setup(self) -> Setup:
        """What `create` gets."""
        return Setup("conformance", self.scratch_parent or "/tmp", {})

    def test_a_scheduler_that_is_down_ends_nothing_and_loses_nothing(self) -> None:
        with self.scene() as scene:
            scene.issue(scene.job("running", ": > started; await go"))
            scene.until_file("started")

            with self.down():
                begin = time.monotonic()
                scene.issue(scene.job("submitted", "exit 3"))
                scene.cancel("nobody")
                assert scene.poll(0.2) == []
                assert time.monotonic() - begin < _AT_ONCE_SECONDS
                raised(BatchSystemError, lambda: scene.batch.list_issued(scene.run))
                assert scene.batch.queue_room() == 0
                scene.create("go")

            running, submitted = scene.ends("running", "submitted")
            assert (running.status, submitted.status) == (0, 3)

    def test_what_was_cancelled_while_the_scheduler_was_down_is_cancelled_later(self) -> None:
        with self.scene() as scene:
            scene.issue(scene.job("running", ": > started; await go; : > late"))
            scene.until_file("started")

            with self.down():
                scene.cancel("running")
                scene.poll(0.1)

            assert scene.end("running").reason is Reason.CANCELLED
            assert not scene.exists("late")

    def test_a_submission_that_was_lost_is_reported_as_lost(self) -> None:
        with self.scene() as scene:
            with self.forgetful():
                scene.issue(scene.job("lost", "exit 0"))
                end = scene.end("lost")

            assert end.kind is EndKind.LOST
            assert scene.batch.list_issued(scene.run) == []

    def test_what_will_never_start_is_reported_and_removed(self) -> None:
        with self.scene() as scene:
            with self.refusing():
                scene.issue(scene.job("never", ": > hit"))
                end = scene.end("never")

            assert (end.kind, end.reason) == (EndKind.KILLED, Reason.NEVER_FITS)
            assert end.detail
            deadline = time.monotonic() + scene.seconds
            while scene.batch.list_issued(scene.run):
                assert time.monotonic() < deadline
                scene.poll(0.1)
            assert not scene.exists("hit")

    def test_machines_to_avoid_are_taken_by_any_name(self) -> None:
        with self.scene() as scene:
            scene.batch.avoid({"no-such-machine", "another.example.org"})
            scene.batch.avoid(())
            scene.issue(scene.job("runs", "exit 0"))

            assert scene.end("runs").status == 0

    def test_a_job_that_its_user_knows_to_be_over_is_reported_once_at_most(self) -> None:
        with self.scene() as scene:
            scene.issue(scene.job("over", ": > hit"), scene.job("other", "await go"))
            scene.until_file("hit")

            scene.batch.forget([f"{scene.run}.over", "never.heard", ""])

            scene.create("go")
            assert scene.end("other").status == 0
            # Of the end of the one that nobody asks about its scheduler may hear a little later.
            scene.until(lambda: scene.batch.list_issued(scene.run) == [], "a scheduler without jobs")

    def test_it_is_made_from_its_options(self) -> None:
        with self.make() as usual:
            kind = type(usual)
        options = {option.name: option.default for option in kind.OPTIONS}
        made = kind.create(
            Setup(self.setup().run, self.setup().directory, {**options, **self.setup().options})
        )
        try:
            assert isinstance(made, kind)
            for option in kind.OPTIONS:
                assert option.flag.startswith("--")
                assert option.help.endswith(".")
                if option.default is not None and option.metavar:
                    assert option.convert(option.convert(option.default)) == option.convert(option.default)
        finally:
            made.close()
