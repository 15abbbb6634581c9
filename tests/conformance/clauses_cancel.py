"""The clauses of the contract about cancelling, listing, the master's death and closing (20 to 25)."""

from __future__ import annotations

import inspect
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading

import psutil

from batchsystems.abstract import BatchSystemError, EndKind, Reason
from tests.conformance.scene import AWAIT, TELL, Contract, Scene, is_alive, raised

# A master in a process of its own: makes the backend, issues one job, and polls until it is killed.
MASTER = """
import importlib.util, json, sys
file, class_name, paths, name, folder, script = json.loads(sys.argv[1])
sys.path[:0] = paths
spec = importlib.util.spec_from_file_location("backend_under_test", file)
module = importlib.util.module_from_spec(spec)
sys.modules["backend_under_test"] = module
spec.loader.exec_module(module)
from batchsystems.abstract import Submission
batch = getattr(module, class_name)().make()
batch.issue([Submission(name, ("/bin/sh", "-c", script), cwd=folder)])
while True:
    batch.poll(1.0)
"""


class CancelContract(Contract):
    """Clauses 20 to 22."""

    def test_a_queued_job_is_removed(self) -> None:
        with self.scene() as scene:
            capacity = scene.batch.capacity()
            if capacity is None:
                return
            scene.issue(scene.job("holds", "await go", cpu=capacity.cpu))
            scene.until(lambda: scene.batch.running() != [], "a full machine")
            scene.issue(scene.job("queued", ": > hit", cpu=capacity.cpu))

            scene.cancel("queued")

            end = scene.end("queued")
            assert (end.kind, end.reason) == (EndKind.KILLED, Reason.CANCELLED)
            assert scene.batch.list_issued(scene.run) == [f"{scene.run}.holds"]
            scene.create("go")
            assert scene.end("holds").status == 0
            assert not scene.exists("hit")

    def test_all_processes_of_a_running_job_are_killed(self) -> None:
        with self.scene() as scene:
            start_family(scene)

            scene.cancel("family")

            end = scene.end("family")
            assert (end.kind, end.reason, end.status) == (EndKind.KILLED, Reason.CANCELLED, None)
            scene.until_gone("parent", "child", "grandchild")

    def test_a_reported_job_stays_as_it_ended(self) -> None:
        with self.scene() as scene:
            scene.issue(scene.job("told", "exit 0"))
            scene.end("told")

            scene.cancel("told")

            assert scene.poll(0.01) == []

    def test_an_ended_job_that_was_not_reported_is_reported_once(self) -> None:
        with self.scene() as scene:
            scene.lifeline("line")
            scene.issue(scene.job("untold", "exec 9> line; : > started; await go; exit 7"))
            scene.until_file("started")
            scene.create("go")
            scene.until_released("line")

            scene.cancel("untold")

            end = scene.end("untold")
            assert (end.status, end.reason) == (7, None) or end.reason is Reason.CANCELLED
            assert scene.poll(0.01) == []

    def test_unknown_names_are_ignored(self) -> None:
        with self.scene() as scene:
            scene.issue(scene.job("waits", "await go"))

            scene.cancel("unknown", "wait", "waits-not")
            scene.batch.cancel(["", "no such name", "x.y.z"])
            scene.batch.cancel([])

            assert scene.poll() == []
            scene.create("go")
            assert scene.end("waits").status == 0

    def test_twice_is_the_same_as_once(self) -> None:
        with self.scene() as scene:
            capacity = scene.batch.capacity()
            start_family(scene)
            scene.issue(scene.job("other", "await go", cpu=capacity.cpu if capacity else 1.0))

            scene.cancel("family", "other", "family")
            scene.cancel("family", "other")

            ends = scene.ends("family", "other")
            assert {end.reason for end in ends} == {Reason.CANCELLED}
            scene.cancel("family", "other")
            assert scene.poll() == []

    def test_a_cancelled_job_that_exits_by_itself_is_still_cancelled(self) -> None:
        with self.scene() as scene:
            scene.issue(scene.job("polite", "trap ': > seen; exit 0' TERM; : > started; await go; : > late"))
            scene.until_file("started")

            scene.cancel("polite", grace=1000.0)

            end = scene.end("polite")
            assert (end.kind, end.reason) == (EndKind.KILLED, Reason.CANCELLED)
            assert scene.exists("seen"), "SIGTERM did not come first"
            assert not scene.exists("late")

    def test_who_ignores_sigterm_is_killed_after_the_grace(self) -> None:
        with self.scene() as scene:
            scene.issue(scene.job("stubborn", "trap '' TERM; tell pid $$; await go"))
            scene.until_file("pid")

            scene.cancel("stubborn", grace=0.05)

            end = scene.end("stubborn")
            assert (end.kind, end.reason) == (EndKind.KILLED, Reason.CANCELLED)
            scene.until_gone("pid")

    def test_a_second_call_can_shorten_the_grace(self) -> None:
        with self.scene() as scene:
            scene.issue(scene.job("stubborn", "trap '' TERM; : > started; await go"))
            scene.until_file("started")

            scene.cancel("stubborn", grace=1000.0)
            scene.cancel("stubborn", grace=2000.0)
            scene.cancel("stubborn")

            assert scene.end("stubborn").reason is Reason.CANCELLED

    def test_what_a_cancelled_job_held_is_free_again(self) -> None:
        with self.scene() as scene:
            capacity = scene.batch.capacity()
            if capacity is None:
                return
            scene.issue(
                scene.job("all", "await go", cpu=capacity.cpu),
                scene.job("next", "exit 0", cpu=capacity.cpu),
            )

            scene.cancel("all")

            assert scene.end("next").status == 0


class ListContract(Contract):
    """Clauses 23 and 24."""

    def test_list_issued_gives_the_jobs_of_one_run(self) -> None:
        with self.scene() as scene, self.scene() as namesake:
            namesake.run, other = scene.run + "0", scene.run + "-x"
            scene.issue(scene.job("a", "await go"), scene.job("b", "await go"))
            mine = [f"{scene.run}.a", f"{scene.run}.b"]
            foreign = namesake.job("a", f'await "{scene.path("go")}"')
            scene.issue(foreign)

            assert sorted(scene.batch.list_issued(scene.run)) == mine
            assert scene.batch.list_issued(namesake.run) == [foreign.name]
            assert scene.batch.list_issued(other) == []
            assert scene.batch.list_issued(scene.run[:-1]) == []
            assert set(scene.batch.running()) <= {*mine, foreign.name}

            scene.create("go")
            scene.ends("a", "b")
            assert scene.batch.list_issued(scene.run) == []
            scene.until(lambda: scene.batch.list_issued(namesake.run) == [], "the other run's end")

    def test_jobs_outlive_a_killed_master_if_declared_and_only_then(self) -> None:
        with self.scene() as scene:
            name = f"{scene.run}.orphan"
            script = AWAIT + TELL + "tell pid $$; await go; : > late"
            master = self.start_master(name, scene.folder, script)
            scene.until_file("pid")
            master.send_signal(signal.SIGKILL)
            master.communicate()

            if scene.batch.outlives_master:
                assert scene.batch.list_issued(scene.run) == [name]
                scene.create("go")
                scene.adopt("orphan")
                assert scene.end("orphan").status == 0
            else:
                scene.until_gone("pid")
                assert scene.batch.list_issued(scene.run) == []
                assert not scene.exists("late")

    def start_master(self, name: str, folder: str, script: str) -> subprocess.Popen[bytes]:
        """A process that makes the same batch system, issues one job, and polls."""
        kind = type(self)
        paths = [os.path.abspath(path) for path in sys.path]
        arguments = json.dumps([inspect.getfile(kind), kind.__name__, paths, name, folder, script])
        return subprocess.Popen([sys.executable, "-c", MASTER, arguments])


class CloseContract(Contract):
    """Clause 25."""

    def test_close_ends_what_runs_unless_it_outlives_the_master(self) -> None:
        with self.scene() as scene:
            start_family(scene)

            scene.batch.close()

            if scene.batch.outlives_master:
                assert all(is_alive(int(scene.read(name))) for name in ("parent", "child", "grandchild"))
                heir = self.make()
                heir.cancel([f"{scene.run}.family"])
                heir.close()
            scene.until_released("family")

    def test_close_leaves_nothing_behind(self) -> None:
        with self.scene() as outer:  # its folder shows what is left of temporary files
            usual, tempfile.tempdir = tempfile.gettempdir(), outer.folder
            try:
                before = what_this_process_has()
                scene = self.scene()
                scene.issue(scene.job("long", "await go"), scene.job("short", "exit 0"))
                scene.issue(scene.job("queued", "await go"), scene.job("missing", "exit 0"))
                scene.poll(0.01)
                with scene:
                    scene.cancel("long")

                assert what_this_process_has() == before
                assert os.listdir(outer.folder) == []
            finally:
                tempfile.tempdir = usual

    def test_close_twice_is_fine_and_nothing_else_works_after_it(self) -> None:
        with self.scene() as scene:
            batch = scene.batch

            batch.close()
            batch.close()

            batch.wake()
            raised(BatchSystemError, lambda: batch.issue([scene.job("late", "exit 0")]))
            raised(BatchSystemError, lambda: batch.poll(0.0))
            raised(BatchSystemError, lambda: batch.cancel(["a.b"]))
            raised(BatchSystemError, lambda: batch.list_issued("a"))
            raised(BatchSystemError, batch.running)
            raised(BatchSystemError, batch.queue_room)


def start_family(scene: Scene) -> None:
    """A job of three generations, which ignore SIGTERM, hold the lifeline "family" and tell their process ids."""
    scene.lifeline("family")
    scene.issue(
        scene.job(
            "family",
            "trap '' TERM; exec 9> family; tell parent $$; (await go & tell grandchild $!; wait) & tell child $!; wait",
        )
    )
    scene.until_file("parent", "child", "grandchild")


def what_this_process_has() -> tuple[list[str], set[str], set[int]]:
    """Open descriptors, names of threads, and children."""
    descriptors = sorted(os.listdir("/dev/fd"))
    threads = {thread.name for thread in threading.enumerate()}
    return descriptors, threads, {child.pid for child in psutil.Process().children()}
