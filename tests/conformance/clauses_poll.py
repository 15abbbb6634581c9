"""The clauses of the contract about polling and about limits (11 to 19), and 33."""

from __future__ import annotations

import signal
import threading
import time

from tests.conformance.scene import DEADLINE_SECONDS, Contract


class PollContract(Contract):
    """Clauses 11 to 14."""

    def test_poll_returns_nothing_when_nothing_happens_in_time(self) -> None:
        with self.scene() as scene:
            scene.issue(scene.job("waits", "await go"))

            assert scene.poll(0.0) == []
            assert scene.poll(0.01) == []
            scene.create("go")
            scene.end("waits")

    def test_poll_returns_as_soon_as_something_ends(self) -> None:
        with self.scene() as scene:
            scene.issue(scene.job("short", "exit 0"))
            start = time.monotonic()

            ends = scene.poll(2 * DEADLINE_SECONDS)

            assert [end.name for end in ends] == [f"{scene.run}.short"]
            assert time.monotonic() - start < DEADLINE_SECONDS, "it slept through the end"

    def test_what_happens_between_calls_is_not_lost(self) -> None:
        with self.scene() as scene:
            names = ["a", "b", "c", "d"]
            scene.lifeline("line")
            scene.issue(
                *(scene.job(name, 'exec 9> line; : > "$1"; await go', name, cpu=0.1) for name in names)
            )
            scene.until_file(*names)
            scene.create("go")
            scene.until_released("line")

            assert {end.status for end in scene.ends(*names)} == {0}

    def test_wake_from_another_thread_makes_poll_return(self) -> None:
        with self.scene() as scene:
            scene.issue(scene.job("waits", "await go"))
            woken = threading.Timer(0.02, scene.batch.wake)
            start = time.monotonic()

            woken.start()
            ends = scene.poll(2 * DEADLINE_SECONDS)

            woken.join()
            assert ends == []
            assert time.monotonic() - start < DEADLINE_SECONDS, "it slept through the call"
            scene.create("go")
            scene.end("waits")

    def test_wake_before_poll_makes_it_return(self) -> None:
        with self.scene() as scene:
            start = time.monotonic()
            for _ in range(100_000):  # more than a pipe holds: it must not block either
                scene.batch.wake()

            assert scene.poll(2 * DEADLINE_SECONDS) == []
            assert time.monotonic() - start < DEADLINE_SECONDS, "it slept through the call"

    def test_wake_from_a_signal_handler_makes_poll_return(self) -> None:
        if threading.current_thread() is not threading.main_thread():
            return  # only the main thread may set handlers
        with self.scene() as scene:
            before = signal.signal(signal.SIGALRM, lambda *_: scene.batch.wake())
            try:
                signal.setitimer(signal.ITIMER_REAL, 0.02)
                start = time.monotonic()
                assert scene.poll(2 * DEADLINE_SECONDS) == []
                assert time.monotonic() - start < DEADLINE_SECONDS, "it slept through the signal"
            finally:
                signal.signal(signal.SIGALRM, before)

    def test_wake_loses_no_end(self) -> None:
        with self.scene() as scene:
            for number in range(20):
                scene.issue(scene.job(str(number), "exit 0"))
                scene.batch.wake()
                scene.poll(1.0)

            assert len(scene.ends(*map(str, range(20)))) == 20


class LimitsContract(Contract):
    """Clauses 15 to 19."""

    def test_never_more_cores_in_use_than_there_are(self) -> None:
        with self.scene() as scene:
            capacity = scene.batch.capacity()
            if capacity is None:
                return
            cores = max(1, int(capacity.cpu) // 3)  # whole ones, since some schedulers deal in nothing less
            most = int(capacity.cpu) // cores
            names = [str(number) for number in range(3 * most)]
            script = "echo +1 >> overlap; await go; echo -1 >> overlap"
            scene.issue(*(scene.job(name, script, cpu=cores) for name in names))

            scene.until(lambda: scene.read("overlap").count("+1") >= most, "a full machine")
            # A scheduler that others run may tell a little later.
            scene.until(lambda: len(scene.batch.running()) == most, "news of a full machine")
            assert len(scene.batch.list_issued(scene.run)) == len(names)
            scene.create("go")
            scene.ends(*names)

            steps = [int(line) for line in scene.read("overlap").split()]
            assert max(sum(steps[:count]) for count in range(len(steps) + 1)) == most

    def test_never_more_memory_promised_than_there_is(self) -> None:
        with self.scene() as scene:
            capacity = scene.batch.capacity()
            if capacity is None:
                return
            half = capacity.memory // 2 + 1  # two of these do not fit
            scene.issue(*(scene.job(name, "await go", cpu=0.1, memory=half) for name in ("a", "b")))

            scene.until(lambda: len(scene.batch.running()) == 1, "one of two running")
            scene.poll(0.01)
            assert len(scene.batch.running()) == 1
            scene.create("go")
            scene.ends("a", "b")

    def test_a_small_job_is_not_held_up_by_a_large_one(self) -> None:
        with self.scene() as scene:
            capacity = scene.batch.capacity()
            if capacity is None:
                return
            # First of all: some give room to large jobs before small ones.
            scene.issue(scene.job("holds", "await go", time=600))
            scene.until(lambda: scene.batch.running() != [], "the first job running")
            # One after the other: for one that keeps room for the large job, the small one must be short enough.
            scene.issue(scene.job("large", "exit 0", cpu=capacity.cpu, time=600))
            scene.issue(scene.job("small", "exit 0", time=60))

            assert scene.end("small").status == 0
            issued = scene.batch.list_issued(scene.run)
            assert f"{scene.run}.large" in issued, (capacity, issued, scene.reported, scene.poll())
            scene.create("go")
            scene.ends("holds", "large")

    def test_a_large_job_is_not_starved_by_small_ones(self) -> None:
        with self.scene() as scene:
            capacity = scene.batch.capacity()
            if capacity is None:
                return
            large = scene.job("large", "exit 0", cpu=capacity.cpu)
            crowd = 2 * int(capacity.cpu)
            scene.issue(*(scene.job(f"small{number}", "await never") for number in range(crowd)))
            scene.issue(large)

            # One at a time makes room while the others go on: the machine is never empty by chance.
            for number in range(1000):
                scene.issue(scene.job(f"small{crowd + number}", "await never"))
                scene.cancel(f"small{number}")
                scene.end(f"small{number}")
                if large.name not in scene.batch.list_issued(scene.run):
                    break

            assert scene.end("large").status == 0
            assert number < 999, "it was starved"

    def test_fractions_of_a_core_and_none_at_all(self) -> None:
        with self.scene() as scene:
            names = ["none", "tenth", "third"]
            scene.issue(*(scene.job(name, "exit 0", cpu=cpu) for name, cpu in zip(names, (0, 0.1, 1 / 3))))

            assert {end.status for end in scene.ends(*names)} == {0}

    def test_nobody_says_why_a_job_waits_that_is_not_there(self) -> None:
        with self.scene() as scene:
            assert scene.batch.why_waiting(f"{scene.run}.unknown") == ""
            scene.issue(scene.job("short", "exit 0"))
            assert isinstance(scene.batch.why_waiting(f"{scene.run}.short"), str)
            scene.end("short")
            assert scene.batch.why_waiting(f"{scene.run}.short") == ""

    def test_there_is_room_for_more_exactly_while_slots_may_stand_idle(self) -> None:
        with self.scene() as scene:
            assert scene.batch.queue_room() > 0
            names: list[str] = []
            while scene.batch.queue_room() > 0:
                names.append(str(len(names)))
                scene.issue(scene.job(names[-1], "await go"))
                assert len(names) <= 100_000, "there is always room"

            scene.create("go")
            scene.ends(*names)
            assert scene.batch.queue_room() > 0
