"""The master is stopped before and after every durable effect that it has, and started again, in one process.

The undisturbed run is counted first: every commit, every file made, changed or removed, every bundle issued or
cancelled is two points. Then, for each point, the run is begun anew, the world stops there, everything that was in
memory is dropped, and ``execute`` is called again, as by a user. The tree must end as if nothing had happened.

By default a sample is drawn, whose seed is printed. JOBTREE_TEST_CRASH=all takes every point; JOBTREE_TEST_CRASH=SEED
draws another sample.
"""

from __future__ import annotations

import logging
import os
import random
import shutil
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Callable, NamedTuple, Optional

import pytest

from jobtree import bundles, files, processtree, run, tempdirs
from jobtree.master import Master
from jobtree.options import Settings
from jobtree.paths import TreePaths
from jobtree.removals import Remover
from jobtree.store import Store
from jobtree.telling import Teller
from tests.fakes.fake_batch_system import FakeBatchSystem
from tests.fakes.fake_clock import FakeClock
from tests.fakes.master_scene import check_rows, left_behind, make_tree, query_rows
from tests.fakes.scripted_pipeline import Pipeline

WHICH = os.environ.get("JOBTREE_TEST_CRASH", "1")
SAMPLE = 100
FAN_OUT = 60


class Stopped(BaseException):
    """The world stops here."""


class Effects:
    """Counts what the master does that lasts, and stops the world at one of these points."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.names: list[str] = []
        self.stop_at: Optional[int] = None
        self.on_recall: Optional[Callable[[], None]] = None
        for owner, name in (
            (Store, "begin"), (Store, "commit"), (Store, "raise_generation"),
            (files, "write_new"), (files, "replace_durably"), (files, "remove"), (files, "write_byte"),
            (files, "make_once"), (files, "make_durable"), (tempdirs, "remove_global"),
            (FakeBatchSystem, "issue"), (FakeBatchSystem, "cancel"), (Teller, "tell"),
        ):  # fmt: skip
            self._wrap(monkeypatch, owner, name)

    def begin(self, stop_at: Optional[int] = None) -> None:
        """Count from nothing again, and stop at this point."""
        self.names = []
        self.stop_at = stop_at

    def _wrap(self, monkeypatch: pytest.MonkeyPatch, owner: Any, name: str) -> None:
        original = getattr(owner, name)

        def counted(*arguments: Any, **more: Any) -> Any:
            self._point(f"before {name}")
            if name == "write_byte" and self.on_recall is not None:
                self.on_recall()
            result = original(*arguments, **more)
            self._point(f"after {name}")
            return result

        monkeypatch.setattr(owner, name, counted)

    def _point(self, name: str) -> None:
        self.names.append(name)
        if self.stop_at is not None and len(self.names) >= self.stop_at:
            raise Stopped(name)


def remove_at_once(remover: Remover, removals: Iterable[tuple[int, str]]) -> None:
    """Takes the place of ``Remover.add``: removes in the master's own thread, so that every run is the same."""
    for row, path in removals:
        assert remover._remove(remover._paths.absolute(path)) is None
        remover._done.put(row)


class Ending(NamedTuple):
    """All that must be the same however often the world was stopped."""

    counts: list[Any]
    jobs: list[Any]
    values: list[Any]
    mentions: list[Any]
    other_rows: list[Any]
    files: list[str]
    succeeded: frozenset[str]


class World:
    """One tree and all that happens to it."""

    def __init__(self, folder: Path, effects: Effects, clock: FakeClock, fan_out: int) -> None:
        self.paths = TreePaths(str(folder))
        self.settings = Settings(job_tree=str(folder), retry_count=3, max_lost=4)
        self.effects = effects
        self.clock = clock
        self.pipeline = Pipeline(self.paths, fan_out)
        self.batch: FakeBatchSystem
        self.master: Master
        effects.begin()
        effects.on_recall = self.pipeline.step
        make_tree(self.paths, self.pipeline.packed("root"))

    def start(self, stop_at: Optional[int] = None) -> None:
        """What a user does: start it, whatever state it is in. Raises Stopped at that point."""
        self.new_batch_system()
        self.effects.begin(stop_at)
        run.execute(self.settings, None)

    def new_batch_system(self) -> FakeBatchSystem:
        """The jobs of the last master are dead with it."""
        self.batch = FakeBatchSystem(cpu=3, room=5)
        self.batch.on_idle = self._idle
        self.pipeline.new_master(self.batch)
        return self.batch

    def _idle(self) -> None:
        self.master.tree.check_invariants()
        turn = len(self.batch.timeouts)
        assert turn < 5000, f"this does not end: {self.master.tree.totals}"
        if turn % 50 == 1:
            check_rows(self.paths)
        self.clock.advance(self.batch.timeouts[-1])
        self.pipeline.step(idle=True)

    def crash(self, chance: random.Random) -> None:
        """The master is gone; its workers take up to three steps more before they are too."""
        self.batch.closed = False
        for _ in range(chance.randint(0, 3)):
            self.pipeline.step()
        self.pipeline.die(chance)

    def ending(self) -> Ending:
        """How things stand."""

        def rows(query: str) -> list[Any]:
            return query_rows(self.paths, query)

        check_rows(self.paths)
        return Ending(
            rows(
                "SELECT name, sum(done), sum(succeeded), sum(ready + issued + blocked + failed) FROM shapes "
                "GROUP BY name ORDER BY name"
            ),
            rows("SELECT payload, state FROM jobs ORDER BY payload"),
            rows("SELECT token, value, file IS NULL FROM promised ORDER BY token"),
            rows("SELECT token FROM mentions ORDER BY token"),
            rows("SELECT 'removal', path FROM removals UNION ALL SELECT 'bundle', name FROM bundles "
                 "UNION ALL SELECT 'failure', job FROM failures"),
            sorted(os.path.dirname(path) for path in left_behind(self.paths)),
            frozenset(self.pipeline.succeeded),
        )  # fmt: skip


class Told(logging.Handler):
    """Collects the messages of targets."""

    def __init__(self) -> None:
        super().__init__()
        self.texts: Counter[str] = Counter()

    def emit(self, record: logging.LogRecord) -> None:
        text = record.getMessage()
        if "Got message from job" in text:
            self.texts[text.rpartition(" : ")[2]] += 1


@pytest.fixture
def told() -> Iterator[Told]:
    """What the user has read of targets' messages."""
    handler = Told()
    logger = logging.getLogger("jobtree")
    logger.addHandler(handler)
    yield handler
    logger.removeHandler(handler)


@pytest.fixture
def make_world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, told: Told) -> Iterator[Callable[..., World]]:
    """Makes worlds, one after the other, in memory where this machine has a place for that."""
    folder = Path("/dev/shm", tmp_path.name + str(os.getpid())) if os.path.isdir("/dev/shm") else tmp_path
    clock = FakeClock(monkeypatch)
    effects = Effects(monkeypatch)
    worlds: list[World] = []

    def make(fan_out: int = FAN_OUT, rows_in_memory: int = FAN_OUT // 3) -> World:
        shutil.rmtree(folder, ignore_errors=True)
        told.texts.clear()
        monkeypatch.setattr(bundles, "_ROWS_IN_MEMORY", rows_in_memory)
        worlds[:] = [World(folder, effects, clock, fan_out)]
        return worlds[0]

    class Watched(Master):
        def __init__(self, *arguments: Any) -> None:
            super().__init__(*arguments)
            worlds[0].master = self

    monkeypatch.setattr(run, "Master", Watched)
    monkeypatch.setattr(run, "_batch_system", lambda *_, **__: worlds[0].new_batch_system())
    monkeypatch.setattr(Remover, "add", remove_at_once)
    monkeypatch.setattr(processtree, "kill_strays", lambda _: None)
    yield make
    shutil.rmtree(folder, ignore_errors=True)


def sample(points: int, most: int) -> tuple[list[int], str]:
    """Which points to try, and how to get the same ones again."""
    if WHICH == "all":
        return list(range(1, points + 1)), "all"
    chosen = set(random.Random(int(WHICH)).sample(range(1, points + 1), min(points, most)))
    # The last ones always: a tree that is complete and was not tidied up is easily forgotten by the next start.
    return sorted(chosen | set(range(points - 20, points + 1))), f"seed {WHICH}"


def undisturbed(world: World, told: Told) -> tuple[Ending, list[str]]:
    """The run as it should be: how it ends, and its points."""
    world.start()
    points = world.effects.names
    ending = world.ending()
    assert ending.succeeded == frozenset(world.pipeline.plans)
    assert sum(row[2] for row in ending.counts) == len(world.pipeline.plans)
    assert ending.jobs == ending.other_rows == []
    assert [row[0] for row in ending.values] == [b"report", b"result"]
    assert ending.files == ["values/0"]
    assert told.texts == Counter(world.pipeline.told)
    return ending, points


def compare(world: World, told: Told, expected: Ending) -> None:
    """The tree has ended as it should, and nobody was told anything twice."""
    ending = world.ending()
    for name, found, wanted in zip(Ending._fields, ending, expected):
        assert found == wanted, f"{name} are {found}, should be {wanted}"
    assert max(told.texts.values()) == 1, f"told twice: {told.texts}"
    assert set(told.texts) <= world.pipeline.told


def stop_and_go_on(world: World, told: Told, expected: Ending, *points: int) -> None:
    """Stop the first start at the first point, the second at the second, and so on; then let it end, and compare."""
    for number in points:
        chance = random.Random(number)
        try:
            world.start(stop_at=number)
        except Stopped:
            world.crash(chance)
        else:
            break  # this start had fewer points
    world.start()
    compare(world, told, expected)


def test_the_scenario_has_all_that_can_go_wrong(make_world: Callable[..., World], told: Told) -> None:
    """Recalls, failures, deaths, files read again: a scenario that avoids them proves nothing."""
    world = make_world()
    _, points = undisturbed(world, told)

    assert world.pipeline.runs["s"] > world.pipeline.plans["s"].dies, (
        "a service has died and was started again"
    )
    assert {name.split()[1] for name in points} >= {
        "begin", "commit", "raise_generation", "write_new", "replace_durably", "remove", "write_byte", "make_durable",
        "remove_global", "issue", "cancel", "tell",
    }  # fmt: skip


def report(capsys: pytest.CaptureFixture[str], text: str, wrong: list[str]) -> None:
    """Say how many were tried, and fail if some were wrong."""
    with capsys.disabled():
        print(f"\n{text}, {len(wrong)} wrong")
    assert not wrong, "\n".join(line.partition("\n")[0] for line in wrong[:20])


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_a_run_that_is_stopped_anywhere_ends_as_if_nothing_had_happened(
    make_world: Callable[..., World], told: Told, capsys: pytest.CaptureFixture[str]
) -> None:
    expected, points = undisturbed(make_world(), told)
    chosen, how = sample(len(points), SAMPLE)
    wrong = []

    for number in chosen:
        try:
            stop_and_go_on(make_world(), told, expected, number)
        except Exception as error:  # all points are tried before we complain
            wrong.append(
                f"point {number}, {points[number - 1]} ({how}): {type(error).__name__}: {error}"[:700]
            )

    report(capsys, f"{len(points)} crash points, {len(chosen)} tried ({how})", wrong)


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_a_run_that_is_stopped_again_while_it_recovers_ends_as_if_nothing_had_happened(
    make_world: Callable[..., World], told: Told, capsys: pytest.CaptureFixture[str]
) -> None:
    expected, points = undisturbed(make_world(), told)
    chosen, how = sample(len(points), SAMPLE // 4)
    wrong = []

    for number in chosen:
        chance = random.Random(-number)
        # The first effects of a start are its recovery; a third death may hit anything.
        more = chance.randint(1, 40), chance.randint(1, 200)
        try:
            stop_and_go_on(make_world(), told, expected, number, *more)
        except Exception as error:  # all points are tried before we complain
            wrong.append(f"points {number}, {more} ({how}): {type(error).__name__}: {error}"[:700])

    report(capsys, f"{len(chosen)} times stopped three times ({how})", wrong)


@pytest.mark.slow
def test_thousands_of_children_that_are_read_again_from_the_file_count_once(
    make_world: Callable[..., World], told: Told, capsys: pytest.CaptureFixture[str]
) -> None:
    """More children than the master holds in memory, and a death around the turn that adopts them."""
    fan_out = 4500
    rows_in_memory = bundles._ROWS_IN_MEMORY
    assert rows_in_memory < fan_out
    world = make_world(fan_out, rows_in_memory)
    before: list[int] = []
    insert = Store._insert_children

    def watched(store: Store, parent: int, source: Iterable[Any]) -> None:
        rows = list(source)
        if len(rows) == fan_out:
            before.append(len(world.effects.names))
        insert(store, parent, rows)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Store, "_insert_children", watched)
        expected, _ = undisturbed(world, told)
    chosen = [before[0] + step for step in (0, 1, 2)]
    wrong = []

    for number in chosen:
        try:
            stop_and_go_on(make_world(fan_out, rows_in_memory), told, expected, number)
        except Exception as error:  # all points are tried before we complain
            wrong.append(f"point {number}: {type(error).__name__}: {error}"[:700])

    report(capsys, f"{len(chosen)} points around the adoption of {fan_out} children", wrong)
