"""The copy that the master makes of its database, going back to it, and what else is got back of a damaged tree."""

from __future__ import annotations

import contextlib
import json
import os
import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Callable

import pytest

from jobtree import copies, database, files, restoring, run, serialization, treedir
from jobtree.copies import Copier
from jobtree.database import Unsound
from jobtree.errors import DamagedFile, DamagedTree, NotAJobTree, TargetError, UsageError
from jobtree.options import Settings
from jobtree.paths import JOB_BITS, TreePaths
from jobtree.store import Store
from tests.fakes.fake_clock import FakeClock
from tests.fakes.master_scene import RUN, Died, Scene, check_rows, query_rows
from tests.fakes.scripted_worker import Value, target
from tests.system.pipelines import wait_until

DEADLINE_SECONDS = 60


@pytest.fixture
def scene(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Scene:
    """A tree of one root target."""
    scene = Scene(tmp_path / "tree", FakeClock(monkeypatch))
    scene.make()
    return scene


def damage(paths: TreePaths) -> None:
    """Zero what SQLite needs to find anything."""
    with open(paths.database, "r+b") as file:
        file.seek(4096)
        file.write(bytes(3 * 4096))
    for suffix in ("-wal", "-shm"):
        Path(paths.database + suffix).unlink(missing_ok=True)


def go_back(paths: TreePaths, ended: Any = None) -> treedir.Config:
    """What ``jobTreeRun --restoreCopy`` does before it goes on."""
    config = treedir.read_config(paths)
    assert config is not None
    return restoring.go_back(paths, config, ended or (lambda _: None))


# -- making one ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("exclusive", [False, True], ids=["local", "as on a network file system"])
def test_a_copy_is_one_committed_state_while_the_master_goes_on(scene: Scene, exclusive: bool) -> None:
    store = Store(scene.paths.database, exclusive=exclusive)
    try:
        store.raise_generation()
        done = threading.Event()
        failed: list[Exception] = []

        def work() -> None:
            try:
                copies.make(scene.paths, store.only_connection)
            except Exception as error:  # told by the assertion below
                failed.append(error)
            done.set()

        thread = threading.Thread(target=work)
        thread.start()
        rounds = 0
        while not done.is_set() or rounds < 3:
            rounds += 1
            store.begin()
            # What one transaction writes must be there whole or not at all.
            store.set("first", rounds)
            store.set("filler", "x" * 300_000)
            store.set("last", rounds)
            store.commit()
        thread.join()
        assert not failed
    finally:
        store.close()

    meta = database.read_meta(database.connect(scene.paths.copy, immutable=True))
    assert meta.get("first") == meta.get("last")
    assert os.stat(scene.paths.copy).st_mode & 0o777 == 0o600
    assert [name for name in os.listdir(scene.paths.root) if name.startswith("copy")] == ["copy.sqlite"]


def test_the_copier_copies_when_something_was_committed_and_not_else(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = 0
    make = copies.make

    def counted(*arguments: Any) -> None:
        nonlocal made
        make(*arguments)
        made += 1

    monkeypatch.setattr(copies, "make", counted)
    waits: list[float] = []
    wait = threading.Event.wait

    def watched(event: threading.Event, timeout: float | None = None) -> bool:
        if timeout == 0.001:
            waits.append(timeout)
        return wait(event, timeout)

    monkeypatch.setattr(threading.Event, "wait", watched)
    store = Store(scene.paths.database)
    try:
        with Copier(scene.paths, store, 0.001, pytest.fail):
            wait_until(lambda: len(waits) > 3, "the copier looks several times")
            assert made == 0
            store.raise_generation()
            store.begin()
            store.commit()
            wait_until(lambda: made == 1, "a copy is made")
            seen = len(waits)
            wait_until(lambda: len(waits) > seen + 3, "the copier looks several times")
            assert made == 1
    finally:
        store.close()


def test_the_cost_of_copies_is_bounded(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[float] = []
    monkeypatch.setattr(copies, "make", lambda *_: scene.clock.advance(2.5))

    class Ending:
        def wait(self, seconds: float) -> bool:
            waits.append(seconds)
            store.commits += 1
            return len(waits) > 3

        def set(self) -> None:
            pass

        def is_set(self) -> bool:
            return False

    store = Store(scene.paths.database)
    try:
        copier = Copier(scene.paths, store, 60, pytest.fail)
        copier._ending = Ending()  # type: ignore[assignment]
        copier._work()
    finally:
        store.close()

    assert waits == [60, 250, 250, 250]


@pytest.mark.parametrize("every", [0, 3600])
def test_no_copy_is_made_where_none_is_due(scene: Scene, every: float) -> None:
    store = Store(scene.paths.database)
    try:
        with Copier(scene.paths, store, every, pytest.fail):
            store.raise_generation()
    finally:
        store.close()

    assert not os.path.exists(scene.paths.copy)


def test_a_copy_that_cannot_be_made_is_said_once_and_stops_nothing(
    scene: Scene, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(copies, "_ROOM", 1 << 60)
    tried = 0
    check = copies._check_room

    def counted(paths: TreePaths) -> None:
        nonlocal tried
        tried += 1
        check(paths)

    monkeypatch.setattr(copies, "_check_room", counted)
    store = Store(scene.paths.database)
    try:
        with Copier(scene.paths, store, 0.001, pytest.fail):
            store.raise_generation()
            store.begin()
            store.commit()
            wait_until(lambda: tried > 3, "it is tried again")
    finally:
        store.close()

    assert sum("could not be copied" in record.getMessage() for record in caplog.records) == 1
    assert not os.path.exists(scene.paths.copy + ".new")


def test_damage_that_a_copy_meets_ends_the_run(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    def unsound(*_: object) -> None:
        raise Unsound("row 3 missing from index ready")

    monkeypatch.setattr(copies, "make", unsound)
    stopped: list[str] = []
    store = Store(scene.paths.database)
    try:
        with Copier(scene.paths, store, 0.001, stopped.append):
            store.begin() if store.raise_generation() else None
            store.commit()
            wait_until(lambda: stopped, "the run is told to stop")
    finally:
        store.close()

    assert "row 3 missing from index ready" in stopped[0]
    assert not os.path.exists(scene.paths.synced)


# -- going back ------------------------------------------------------------------------------------------------


def copied_in_the_middle(scene: Scene) -> None:
    """The tree is copied while the root waits for its children; then it runs to its end."""

    def script() -> Iterator[None]:
        worker = scene.worker(1)
        worker.start()
        worker.global_dir()
        kept = Value(b"value", b"large", (), in_file=True)
        worker.succeed([target("Child")] * 3, target("Last", b"last", (b"value",)), kept)
        scene.finish(worker)
        yield
        copies.make(scene.paths)
        yield from scene.play_rest()

    scene.play(script())
    assert scene.master.tree.complete


def test_the_damage_is_told_with_what_going_back_would_cost(scene: Scene) -> None:
    copied_in_the_middle(scene)
    damage(scene.paths)

    text = copies.explain(scene.paths, "It is damaged.")

    assert "with 0 jobs done and 4 not" in text
    assert f"jobTreeRun --restoreCopy --jobTree {scene.paths.root}" in text
    assert "1 chains cannot go on" in text
    assert f"its global temporary directory {scene.paths.global_dir(1)} is gone" in text


def test_a_chain_whose_directory_is_gone_fails_with_that_reason_and_fails_again_when_it_is_tried_again(
    scene: Scene, caplog: pytest.LogCaptureFixture
) -> None:
    copied_in_the_middle(scene)
    damage(scene.paths)

    config = go_back(scene.paths)

    assert config.run != RUN
    assert treedir.read_config(scene.paths) == config
    check_rows(scene.paths)
    assert query_rows(scene.paths, "SELECT id, state, pending FROM jobs") == [(1, 3, 0)]
    kind, message = query_rows(scene.paths, "SELECT kind, message FROM failures")[0]
    assert kind == "restored"
    assert "globalTempDirs" in message
    (payload,) = query_rows(scene.paths, "SELECT payload FROM jobs")[0]
    with pytest.raises(TargetError, match="is gone"):
        serialization.unpack(payload, {}).run()
    assert "cannot go on" in caplog.text
    assert os.path.exists(scene.paths.database + ".damaged")


def test_what_can_go_on_does_and_nothing_of_what_was_forgotten_is_met(scene: Scene) -> None:
    def until_copied() -> Iterator[None]:
        yield from scene.grow([target("Child")] * 3, target("Last"))
        copies.make(scene.paths)
        # Made after the copy, and left: what lies there must not be taken for that of later jobs.
        worker = scene.worker(2)
        worker.start()
        worker.global_dir()
        worker.succeed([target("Grandchild")] * 2, target("Next"))
        scene.finish(worker)
        yield
        raise Died

    scene.play_until_death(until_copied())
    damage(scene.paths)
    ended: list[str] = []

    go_back(scene.paths, ended.append)

    assert ended == [RUN]
    check_rows(scene.paths)
    assert query_rows(scene.paths, "SELECT state, count(*) FROM jobs GROUP BY state") == [(0, 3), (2, 1)]
    assert query_rows(scene.paths, "SELECT count(*) FROM bundles") == [(0,)]
    (following,) = query_rows(scene.paths, "SELECT value FROM meta WHERE key = 'next_bundle'")[0]
    assert following > 1_000_000

    def rest() -> Iterator[None]:
        assert min(map(int, (name.rpartition(".")[2] for name in scene.batch.running()))) >= following
        yield from scene.play_rest()

    scene.play(rest())
    assert scene.master.tree.totals == [0, 0, 0, 0, 4]
    assert scene.left_behind() == []


def test_a_value_whose_file_is_gone_fails_who_was_promised_it(scene: Scene) -> None:
    def script() -> Iterator[None]:
        worker = scene.worker(1)
        worker.start()
        inner = Value(b"inner", b"large", (), in_file=True)
        worker.succeed([target("Child")] * 2, target("Last", b"last", (b"inner",)), inner)
        scene.finish(worker)
        yield
        copies.make(scene.paths)
        yield from scene.play_rest()

    scene.play(script())
    damage(scene.paths)

    go_back(scene.paths)

    check_rows(scene.paths)
    assert query_rows(scene.paths, "SELECT id, state FROM jobs") == [(1, 3)]
    assert "value that it was promised" in query_rows(scene.paths, "SELECT message FROM failures")[0][0]


def test_a_sound_database_is_not_gone_back_from(scene: Scene) -> None:
    copied_in_the_middle(scene)
    before = query_rows(scene.paths, "SELECT * FROM shapes")

    with pytest.raises(UsageError, match="is sound"):
        go_back(scene.paths)

    assert query_rows(scene.paths, "SELECT * FROM shapes") == before


@pytest.mark.parametrize("state", ["gone", "damaged"])
def test_without_a_sound_copy_nothing_is_changed(scene: Scene, state: str) -> None:
    copied_in_the_middle(scene)
    damage(scene.paths)
    if state == "gone":
        os.unlink(scene.paths.copy)
    else:
        os.truncate(scene.paths.copy, 5000)
    content = Path(scene.paths.database).read_bytes()

    with pytest.raises(DamagedTree, match="nothing to go back to"):
        go_back(scene.paths)

    assert Path(scene.paths.database).read_bytes() == content
    assert "start the script anew" in copies.explain(scene.paths, "It is damaged.")


def test_going_back_can_be_killed_anywhere_and_done_again(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    copied_in_the_middle(scene)
    damage(scene.paths)
    whole = {name: (Path(scene.paths.root) / name).read_bytes() for name in ("tree.sqlite", "config.json")}

    class Killed(BaseException):
        pass

    count = stop_at = 0

    def counted(module: Any, name: str) -> None:
        original = getattr(module, name)

        def call(*arguments: Any, **more: Any) -> Any:
            nonlocal count
            count += 1
            if count == stop_at:
                raise Killed
            return original(*arguments, **more)

        monkeypatch.setattr(module, name, call)

    for name in ("remove", "rename", "install", "replace_durably", "fsync_directory"):
        counted(files, name)
    killed = 0
    for stop_at in range(1, 60):
        for name, content in whole.items():
            (Path(scene.paths.root) / name).write_bytes(content)
        count = 0
        try:
            go_back(scene.paths)
            continue
        except Killed:
            killed += 1
        # Either it has happened whole, or it can be asked for again.
        stop_at = 0
        with contextlib.suppress(UsageError):  # it is sound again
            go_back(scene.paths)
        config = restoring.config_of(scene.paths)
        assert config is not None
        assert restoring.agree(scene.paths, config).run != RUN
        assert query_rows(scene.paths, "SELECT id, state FROM jobs") == [(1, 3)]
        check_rows(scene.paths)
    assert killed > 10


# -- the configuration -----------------------------------------------------------------------------------------


def started(scene: Scene) -> treedir.Config:
    """The tree has been started once."""
    config = treedir.read_config(scene.paths)
    assert config is not None
    store = Store(scene.paths.database)
    try:
        run._load(store, Settings(job_tree=scene.paths.root), config)
    finally:
        store.close()
    return config


DAMAGES: dict[str, Callable[[Path], object]] = {
    "gone": os.unlink,
    "empty": lambda path: os.truncate(path, 0),
    "cut": lambda path: os.truncate(path, 40),
    "one short": lambda path: os.truncate(path, os.path.getsize(path) - 3),
    "zeroed": lambda path: path.write_bytes(bytes(path.stat().st_size)),
    "binary": lambda path: path.write_bytes(b"\xff\xfe" + path.read_bytes()),
    "of another kind": lambda path: path.write_text("[]"),
    "another token": lambda path: path.write_text(path.read_text().replace(f': "{RUN}"', ': "other"')),
    "a name changed": lambda path: path.write_text(path.read_text().replace('"run"', '"ruo"', 1)),
    "a number changed": lambda path: path.write_text(path.read_text().replace('"format": ', '"format": 1')),
}


@pytest.mark.parametrize("how", DAMAGES)
def test_a_damaged_configuration_is_written_again_from_the_database(
    scene: Scene, how: str, caplog: pytest.LogCaptureFixture
) -> None:
    config = started(scene)
    DAMAGES[how](Path(scene.paths.config))

    assert restoring.is_there(scene.paths)
    found = restoring.config_of(scene.paths)
    assert found is not None
    assert restoring.agree(scene.paths, found) == config
    assert treedir.read_config(scene.paths) == config
    assert "is written again from" in caplog.text


def test_a_configuration_is_not_believed_where_others_can_write(scene: Scene) -> None:
    started(scene)
    os.unlink(scene.paths.config)
    os.chmod(scene.paths.root, 0o777)

    with pytest.raises(NotAJobTree, match="can be written by others"):
        restoring.config_of(scene.paths)

    assert not os.path.exists(scene.paths.config)


def test_a_tree_whose_making_was_interrupted_is_made_again(scene: Scene) -> None:
    os.unlink(scene.paths.config)

    assert not restoring.is_there(scene.paths)
    assert restoring.config_of(scene.paths) is None


def test_a_configuration_that_nothing_remembers_is_refused_with_what_to_do(scene: Scene) -> None:
    os.truncate(scene.paths.config, 10)

    with pytest.raises(DamagedFile, match="start the script anew"):
        restoring.config_of(scene.paths)


def test_numbers_of_bundles_are_seen_wherever_one_has_left_something(scene: Scene) -> None:
    paths = scene.paths
    for path in (paths.bundle(17), paths.log(2900), paths.absolute(paths.value(41, 3)), paths.claim(5)):
        os.makedirs(os.path.dirname(path), exist_ok=True)
        Path(path).touch()
    os.makedirs(paths.global_dir(77_000 << JOB_BITS | 5))

    assert set(paths.numbers_used()) == {5, 17, 41, 2900, 77_000}
    assert json.loads(Path(paths.config).read_text())["run"] == RUN


def test_a_copy_of_the_wrong_kind_is_not_looked_at_twice(scene: Scene) -> None:
    sqlite3.connect(scene.paths.copy).execute("CREATE TABLE meta (key, value)").connection.close()

    with pytest.raises(Unsound):
        copies.look(scene.paths)
