"""A real Grid Engine whose session dies, whose answers are lost, and that ends jobs by itself: what becomes of them."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from batchsystems.abstract import BatchSystemError, EndKind, NeverFits, Reason, Resources, Setup, Submission
from batchsystems.drmaa import Drmaa
from batchsystems.grid_engine import GridEngine
from tests.conformance.scene import SERVER_SECONDS, Scene, raised
from tests.servers.daemons import ServerError, wait_until
from tests.servers.grid_engine import GridEngineServer

pytestmark = [
    pytest.mark.slow, pytest.mark.servers, pytest.mark.xdist_group("grid_engine"), pytest.mark.timeout(600)
]  # fmt: skip


@pytest.fixture
def scene(grid_engine_server: GridEngineServer, tmp_path: Path) -> Iterator[Scene]:
    with new_scene(tmp_path) as made:
        yield made


def new_scene(directory: Path, patience: float = 3.0, **options: object) -> Scene:
    given = {"drmaaInterval": 0.1, **options}
    return Scene(GridEngine(str(directory), given, patience), None, SERVER_SECONDS)


def session(scene: Scene) -> psutil.Process:
    """The process that has loaded the library, with its session open."""
    assert isinstance(scene.batch, GridEngine)
    scene.batch.check()
    assert scene.batch._link._process is not None
    return psutil.Process(scene.batch._link._process.pid)


def submissions(server: GridEngineServer, scene: Scene, tasks: int) -> set[str]:
    """The arrays of a run, as the accounts have them, once they have so many tasks."""
    found: list[str] = []

    def told() -> bool:
        with contextlib.suppress(ServerError):  # there is none yet
            lines = server.run("qacct", "-j", f"run-{scene.run}.*").splitlines()
            found[:] = [line.split()[1] for line in lines if line.startswith("jobname")]
        return len(found) >= tasks

    wait_until(told, f"{tasks} tasks in the accounts")
    assert len(found) == tasks
    return set(found)


# -- submissions -------------------------------------------------------------------------------------------------


def test_what_is_ready_together_is_one_array(grid_engine_server: GridEngineServer, scene: Scene) -> None:
    names = [str(number) for number in (3, 5, 6, 9)]
    scene.issue(*(scene.job(name, "exit 0") for name in names), scene.job("odd.name", "exit 0"))

    scene.ends(*names, "odd.name")

    assert len(submissions(grid_engine_server, scene, 5)) == 1


def test_a_submission_whose_answer_is_lost_is_found_by_name(
    grid_engine_server: GridEngineServer, scene: Scene
) -> None:
    child = session(scene)
    scene.issue(scene.job("7", "echo >> ran"), scene.job("8", "await go"))
    wait_until(lambda: "run-" in grid_engine_server.run("qstat", "-r"), "the array in the queue")
    assert isinstance(scene.batch, GridEngine)
    os.read(scene.batch._link.fileno(), 1 << 20)  # nobody has heard the answer, and nobody will
    child.kill()

    assert scene.end("7").status == 0
    scene.create("go")
    assert scene.end("8").status == 0
    assert scene.read("ran") == "\n"
    assert len(submissions(grid_engine_server, scene, 2)) == 1


def test_a_submission_whose_answer_is_lost_is_found_in_the_accounts(
    grid_engine_server: GridEngineServer, scene: Scene
) -> None:
    """It is over before anybody asks the queue."""
    child = session(scene)
    scene.issue(scene.job("7", "echo >> ran; exit 3"))
    wait_until(lambda: scene.exists("ran") and not grid_engine_server.run("qstat"), "its end")
    assert isinstance(scene.batch, GridEngine)
    os.read(scene.batch._link.fileno(), 1 << 20)
    child.kill()

    assert scene.end("7").status == 3
    assert len(submissions(grid_engine_server, scene, 1)) == 1


def test_a_submission_that_nobody_knows_is_made_again(
    grid_engine_server: GridEngineServer, scene: Scene
) -> None:
    child = session(scene)
    child.suspend()  # it does not hear what it is told
    scene.issue(scene.job("7", "echo >> ran"))
    child.kill()

    assert scene.end("7").status == 0
    assert scene.read("ran") == "\n"
    assert len(submissions(grid_engine_server, scene, 1)) == 1


def test_ends_are_heard_of_when_the_session_has_died(
    grid_engine_server: GridEngineServer, scene: Scene
) -> None:
    scene.issue(
        *(scene.job(str(number), f": > started{number}; await go; exit {number}") for number in (3, 4))
    )
    scene.until_file("started3", "started4")
    session(scene).kill()
    scene.create("go")

    assert [end.status for end in scene.ends("3", "4")] == [3, 4]


def test_a_second_instance_hears_of_what_ended_while_there_was_none(
    grid_engine_server: GridEngineServer, tmp_path: Path
) -> None:
    with new_scene(tmp_path) as first:
        first.issue(
            first.job("5", ": > started; await go; exit 5"), first.job("6", ": > began; await later; exit 6")
        )
        first.until_file("started", "began")
        first.batch.close()
        with new_scene(tmp_path) as second:
            second.run, folder, second.folder = first.run, second.folder, first.folder
            assert second.batch.list_issued(second.run) == [f"{first.run}.5", f"{first.run}.6"]
            second.adopt("5", "6")
            second.create("go")
            assert second.end("5").status == 5
            second.batch.close()
            first.create("later")
            second.folder = folder
        wait_until(lambda: not grid_engine_server.run("qstat"), "the end of the other")
        with new_scene(tmp_path) as third:
            # Nobody has it any more: whoever waits for it has read its end elsewhere.
            assert third.batch.list_issued(first.run) == []


def test_a_number_that_is_given_out_again_is_another_job(
    grid_engine_server: GridEngineServer, scene: Scene
) -> None:
    """Of a job by that number the accounts tell two stories; of a job by its name they tell one."""
    server = grid_engine_server
    numbers = Path(server.path("qmaster", "jobseqnum"))
    server.daemons.kill("qmaster")
    # A qmaster that is new has not written it yet, and begins with 1 again if it is not there.
    before = numbers.read_text() if numbers.exists() else None
    server.start()
    scene.issue(scene.job("first", "exit 1"))
    assert scene.end("first").status == 1
    wait_until(lambda: not server.run("qstat"), "an empty queue")
    server.daemons.kill("qmaster")
    if before is None:
        numbers.unlink()
    else:
        numbers.write_text(before)
    server.start()

    scene.issue(scene.job("second", 'echo "$JOB_ID" > number; kill -9 $PPID; await never'))
    end = scene.end("second")

    wait_until(lambda: scene.read("number"), "the number of the second")
    told = server.run("qacct", "-j", scene.read("number").strip())
    assert f"run-{scene.run}.first." in told, "it is the first one's number"
    assert (end.kind, end.reason, end.signal) == (EndKind.KILLED, Reason.SIGNAL, 9)


def test_ends_that_are_held_back_are_heard_of_from_the_node(
    grid_engine_server: GridEngineServer, scene: Scene
) -> None:
    """Whose qmaster was started again: that is told half a minute later at best, and ten minutes later at worst."""
    server = grid_engine_server
    scene.issue(scene.job("works", ": > started; await go; exit 9"))
    scene.until_file("started")
    server.daemons.kill("qmaster")
    server.start_master()
    try:
        scene.create("go")

        assert scene.end("works").status == 9
        assert server.run("qstat"), "it has not heard of it"
    finally:
        server.daemons.stop("execd")
        server.start_execution()
        server.forget_jobs()


def test_a_daemon_of_a_node_that_is_killed_changes_nothing(
    grid_engine_server: GridEngineServer, scene: Scene
) -> None:
    """The job goes on; its own node tells of its end, long before Grid Engine hears of it."""
    scene.issue(scene.job("works", ": > started; await go; exit 9"))
    scene.until_file("started")
    grid_engine_server.daemons.kill("execd")
    try:
        scene.create("go")
        assert scene.end("works").status == 9
    finally:
        grid_engine_server.start_execution()


# -- ends --------------------------------------------------------------------------------------------------------


def test_a_time_limit_is_told_apart(grid_engine_server: GridEngineServer, tmp_path: Path) -> None:
    with new_scene(tmp_path, patience=60.0, drmaaNativeSpec="-l h_rt=2") as scene:
        scene.issue(scene.job("long", "tell pid $$; await never"))

        end = scene.end("long")

        assert (end.kind, end.reason) == (EndKind.KILLED, Reason.TIME), end
        assert "failed 37" in end.detail
        assert end.host == "localhost"
        scene.until_gone("pid")


def test_memory_of_all_processes_together_is_told_apart(
    grid_engine_server: GridEngineServer, tmp_path: Path
) -> None:
    eats = "import time; held = bytearray(200 << 20); time.sleep(600)"
    script = f'for n in 1 2 3 4; do "{sys.executable}" -I -S -c "{eats}" & done; wait'
    with new_scene(tmp_path, patience=60.0) as scene:
        scene.issue(scene.job("large", script, memory=64 << 20))

        end = scene.end("large")

        assert (end.kind, end.reason) == (EndKind.KILLED, Reason.MEMORY), end


def test_a_start_that_went_wrong_is_lost_with_the_reason(
    grid_engine_server: GridEngineServer, tmp_path: Path
) -> None:
    with new_scene(tmp_path, patience=60.0) as scene:
        (tmp_path / "output").rename(tmp_path / "elsewhere")
        scene.issue(scene.job("7", ": > hit"))

        end = scene.end("7")

        assert end.kind is EndKind.LOST
        assert "failed 26" in end.detail
        assert not scene.exists("hit")


def test_what_somebody_else_deletes_is_not_its_own_fault(
    grid_engine_server: GridEngineServer, scene: Scene
) -> None:
    scene.issue(scene.job("running", ": > started; await go"))
    scene.until_file("started")
    scene.issue(*(scene.job(f"fills{number}", "await go", cpu=7) for number in range(2)))
    wait_until(lambda: " qw " in grid_engine_server.run("qstat"), "one that waits")
    grid_engine_server.run("qdel", "-u", "root")

    ends = scene.ends("running", "fills0", "fills1")

    assert {(end.kind, end.reason) for end in ends} <= {(EndKind.KILLED, Reason.SIGNAL), (EndKind.LOST, None)}


def test_what_is_held_for_ever_is_reported_and_removed(
    grid_engine_server: GridEngineServer, tmp_path: Path
) -> None:
    with new_scene(tmp_path, patience=1.0) as scene:
        scene.issue(scene.job("all", ": > started; await go", cpu=8))
        scene.until_file("started")
        scene.issue(scene.job("held", ": > hit"))
        scene.until(lambda: "qw" in scene.batch.why_waiting(f"{scene.run}.held"), "its place in the queue")
        grid_engine_server.run("qhold", f"run-{scene.run}.*")

        end = scene.end("held")

        assert (end.kind, end.reason) == (EndKind.KILLED, Reason.NEVER_FITS)
        assert "hqw" in end.detail
        scene.create("go")
        scene.end("all")
        assert not scene.exists("hit")


# -- options -----------------------------------------------------------------------------------------------------


def test_what_is_not_there_is_refused_at_the_start(
    grid_engine_server: GridEngineServer, tmp_path: Path
) -> None:
    for option, value, words in (
        ("drmaaMemory", "nothing", "has no resource 'nothing'.*--drmaaMemory"),
        ("drmaaPe", "nothing", "no parallel environment 'nothing'; it has: smp"),
        ("drmaaLibrary", "/nowhere", "there is no such file"),
        ("drmaaNativeSpec", "-N mine", "-N is given by jobtree itself"),
    ):
        with pytest.raises(BatchSystemError, match=words):
            GridEngine.create(Setup("run", str(tmp_path), {option: value}))


def test_a_queue_that_is_not_there_fails_with_the_words_of_grid_engine(
    grid_engine_server: GridEngineServer, tmp_path: Path
) -> None:
    with new_scene(tmp_path, drmaaNativeSpec="-q nosuch.q") as scene:
        scene.issue(scene.job("7", "exit 0"))

        end = scene.end("7")

        assert (end.kind, end.reason) == (EndKind.KILLED, Reason.NEVER_FITS)
        assert 'unknown queue "nosuch.q"' in end.detail


def test_drmaa_is_grid_engine_where_that_is_here(
    grid_engine_server: GridEngineServer, tmp_path: Path
) -> None:
    made = Drmaa.create(Setup("run", str(tmp_path), {}))
    made.close()
    assert isinstance(made, GridEngine)


def test_limits_of_the_site_mean_fewer_at_a_time(grid_engine_server: GridEngineServer, scene: Scene) -> None:
    """On the tasks of an array, and on the arrays that a user has."""
    names = [str(number) for number in range(10)]
    with site_settings(grid_engine_server, {"max_aj_tasks": "3"}):
        scene.issue(*(scene.job(name, "exit 0") for name in names))
        assert {end.status for end in scene.ends(*names)} == {0}
    names = [f"other{number}" for number in range(4)]
    with site_settings(grid_engine_server, {"max_u_jobs": "1"}):
        scene.issue(*(scene.job(name, "exit 0", memory=n << 26) for n, name in enumerate(names, 1)))
        assert {end.status for end in scene.ends(*names)} == {0}


@contextlib.contextmanager
def site_settings(server: GridEngineServer, settings: dict[str, str]) -> Iterator[None]:
    """Inside this the global configuration has other values."""
    usual = server.run("qconf", "-sconf")
    changed = [
        f"{name} {settings[name]}" if name in settings else line
        for line in usual.splitlines()
        for name in line.split()[:1]
    ]
    set_configuration(server, "\n".join(changed))
    try:
        yield
    finally:
        set_configuration(server, usual)


def set_configuration(server: GridEngineServer, text: str) -> None:
    # It is known by the name of its file.
    file = Path(server.path("conf", "global"))
    file.write_text(f"{text}\n")
    server.run("qconf", "-Mconf", str(file))


def test_a_job_of_several_cores_stays_on_one_machine_and_has_its_memory_once(
    grid_engine_server: GridEngineServer, scene: Scene
) -> None:
    script = 'echo "$NSLOTS" > slots'
    submission = scene.job("wide", script, cpu=3, memory=300 << 20)
    scene.issue(submission)

    assert scene.end("wide").status == 0
    assert scene.read("slots") == "3\n"
    raised(NeverFits, lambda: scene.issue(Submission(f"{scene.run}.x", ("true",), Resources(9))))
