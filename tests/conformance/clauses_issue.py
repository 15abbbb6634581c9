"""The clauses of the contract about issuing jobs and reporting their ends (2 to 10)."""

from __future__ import annotations

import os
import signal

from batchsystems.abstract import BatchSystemError, EndKind, NeverFits, Reason, Submission
from tests.conformance.scene import Contract, Input, Scene, Variable, raised

HOSTILE_ARGUMENTS = (
    "two words",
    "  blanks around  ",
    "single ' quote",
    'double " quote',
    "new\nline",
    "tab\tand\\backslash",
    "; touch hit",
    "$(touch hit)",
    "`touch hit`",
    "$HOME ${PATH}",
    "* ? [a-z] ~",
    "a|b&c>d<e",
    "%s %d",
    "-n",
    "--",
    "",
    "Zürich 東京 🌲",
)


class IssueContract(Contract):
    """Clauses 2 to 7."""

    def test_issue_returns_at_once(self) -> None:
        with self.scene() as scene:
            scene.issue(scene.job("waits", "await go"))
            scene.create("go")  # had `issue` waited for the job, nobody would ever have come here

            assert scene.end("waits").status == 0

    def test_hostile_arguments_arrive_intact(self) -> None:
        with self.scene() as scene:
            scene.issue(scene.job("args", "printf '%s\\0' \"$@\" > arguments", *HOSTILE_ARGUMENTS))

            assert scene.end("args").status == 0
            assert tuple(scene.read("arguments").split("\0")[:-1]) == HOSTILE_ARGUMENTS
            assert not scene.exists("hit")

    def test_environment_is_as_asked(self) -> None:
        with self.scene() as scene, Variable("CONFORMANCE_INHERITED", "yes"):
            asked = {"PATH": os.environ["PATH"], "ONLY": "this  $one 'é'"}
            scene.issue(
                scene.job("own", "env > own", env=asked),
                scene.job("inherited", "env > inherited"),
            )

            scene.ends("own", "inherited")
            assert "ONLY=this  $one 'é'\n" in scene.read("own")
            assert "CONFORMANCE_INHERITED" not in scene.read("own")
            assert "CONFORMANCE_INHERITED=yes\n" in scene.read("inherited")

    def test_working_directory_is_as_asked(self) -> None:
        with self.scene() as scene:
            here = f"{scene.run}.here"
            script = 'pwd -P > "$1"'
            command = ("/bin/sh", "-c", script, "sh", scene.path("here"))
            scene.issue(scene.job("asked", script, scene.path("asked")), Submission(here, command))

            scene.ends("asked", "here")
            assert scene.read("asked") == os.path.realpath(scene.folder) + "\n"
            assert scene.read("here") == os.path.realpath(os.getcwd()) + "\n"

    def test_output_and_error_are_appended_to_the_log(self) -> None:
        with self.scene() as scene:
            for name in ("first", "second"):
                scene.issue(scene.job(name, f"echo {name}; echo error >&2", log=scene.path("log")))
                scene.end(name)

            assert scene.read("log") == "first\nerror\nsecond\nerror\n"

    def test_standard_input_is_empty_and_nothing_else_of_the_caller_is_open(self) -> None:
        with self.scene() as scene, Input("for nobody else") as descriptors:
            scene.issue(scene.job("reads", "cat > input; ls /dev/fd > open"))

            assert scene.end("reads").status == 0
            assert scene.exists("input")
            assert scene.read("input") == ""
            assert descriptors.isdisjoint(map(int, scene.read("open").split()))

    def test_more_cores_than_there_are_is_refused_with_both_numbers(self) -> None:
        with self.scene() as scene:
            capacity = scene.batch.capacity()
            if capacity is None:
                return
            good = scene.job("good", ": > hit")
            large = scene.job("large", ": > hit", cpu=capacity.cpu + 1)

            refused = raised(NeverFits, lambda: scene.batch.issue([good, large, good]))

            assert f"{capacity.cpu + 1:g} cores" in str(refused)
            assert f"{capacity.cpu:g}" in str(refused)
            self.assert_nothing_was_started(scene, good)

    def test_more_memory_than_there_is_is_refused_with_both_numbers(self) -> None:
        with self.scene() as scene:
            capacity = scene.batch.capacity()
            if capacity is None:
                return
            good = scene.job("good", ": > hit")
            large = scene.job("large", ": > hit", memory=2 * capacity.memory)

            refused = raised(NeverFits, lambda: scene.batch.issue([good, large]))

            assert isinstance(refused, NeverFits)
            assert (refused.asked, refused.available) == (2 * capacity.memory, capacity.memory)
            assert "memory" in str(refused)
            self.assert_nothing_was_started(scene, good)

    def test_a_name_that_is_taken_is_refused(self) -> None:
        with self.scene() as scene:
            good, taken = scene.job("good", ": > hit"), scene.job("taken", "await go")
            scene.issue(taken)

            raised(BatchSystemError, lambda: scene.batch.issue([good, taken]))
            raised(BatchSystemError, lambda: scene.batch.issue([good, good]))

            assert scene.batch.list_issued(scene.run) == [taken.name]
            scene.create("go")
            scene.end("taken")
            assert not scene.exists("hit")

    def test_a_command_that_cannot_be_run_ends_with_127_or_126(self) -> None:
        with self.scene() as scene:
            scene.create("not-executable")
            names = ("missing", "denied")
            scene.issue(scene.job("good", "exit 0"))
            commands = ("/nonexistent/program", scene.path("not-executable"))
            scene.issue(*(Submission(f"{scene.run}.{n}", (c,)) for n, c in zip(names, commands)))

            missing, denied = scene.ends(*names)
            assert (missing.kind, missing.status) == (EndKind.FINISHED, 127)
            assert "/nonexistent/program" in missing.detail
            assert (denied.kind, denied.status) == (EndKind.FINISHED, 126)
            assert scene.end("good").status == 0

    def assert_nothing_was_started(self, scene: Scene, good: Submission) -> None:
        """The refused call left nothing: not in the list, not in the ends, and its names can be used."""
        assert scene.batch.list_issued(scene.run) == []
        assert scene.poll() == []
        assert not scene.exists("hit")
        scene.issue(good)
        assert scene.end("good").status == 0


class EndsContract(Contract):
    """Clauses 8 and 9."""

    def test_exit_statuses_are_reported_with_their_value(self) -> None:
        with self.scene() as scene:
            scene.issue(scene.job("zero", "exit 0"), scene.job("seven", "exit 7"))

            zero, seven = scene.ends("zero", "seven")
            assert (zero.kind, zero.status, zero.signal, zero.reason) == (EndKind.FINISHED, 0, None, None)
            assert (seven.kind, seven.status, seven.signal, seven.reason) == (EndKind.FINISHED, 7, None, None)

    def test_death_by_a_signal_is_reported_with_its_number(self) -> None:
        with self.scene() as scene:
            scene.issue(scene.job("kill", "kill -KILL $$"), scene.job("user", "kill -USR1 $$"))

            kill, user = scene.ends("kill", "user")
            assert (kill.kind, kill.signal, kill.reason) == (EndKind.KILLED, signal.SIGKILL, Reason.SIGNAL)
            assert (user.kind, user.signal, user.reason) == (EndKind.KILLED, signal.SIGUSR1, Reason.SIGNAL)

    # The figure of the name; a backend that only hands on to another one may make do with less.
    short_jobs = 1000

    def test_a_thousand_short_jobs_are_all_reported_once(self) -> None:
        with self.scene() as scene:
            names = [str(number) for number in range(self.short_jobs)]
            scene.issue(*(Submission(f"{scene.run}.{name}", ("true",)) for name in names))

            assert {end.status for end in scene.ends(*names)} == {0}
            assert scene.batch.list_issued(scene.run) == []
            assert scene.poll() == []
            assert len(scene.reported) == len(names)

    def test_nothing_is_reported_that_was_not_issued(self) -> None:
        with self.scene() as scene:
            assert scene.poll() == []
            assert scene.batch.list_issued(scene.run) == []
            assert scene.batch.running() == []

    def test_what_the_command_left_running_is_killed(self) -> None:
        with self.scene() as scene:
            scene.issue(scene.job("leaves", "(trap '' HUP TERM; await never) & tell left $!; exit 3"))

            assert scene.end("leaves").status == 3
            scene.until_gone("left")
