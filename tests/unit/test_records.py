"""What the store keeps of what was used: bounded, read as written, and damage is told."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from jobtree import records, statistics
from jobtree.errors import DamagedTree
from jobtree.frames import Measures
from jobtree.records import TargetRow, WorkerRow
from jobtree.store import Store
from tests.unit.test_snapshot import Built


@pytest.fixture
def built(tmp_path: Path) -> Iterator[Built]:
    made = Built(tmp_path / "tree")
    yield made
    made.store.close()


def worker(bundle: int, host: str = "one", seconds: float = 2.0) -> tuple[WorkerRow, float, int]:
    """A worker that was submitted at 100 and began at 101."""
    row = WorkerRow(bundle, host, "slurm", 1, 100.0, 101.0, 101.0 + seconds, 3, 1, seconds / 2)
    return row, seconds / 4, 1000 * bundle


def seen(built: Built) -> statistics.Statistics:
    with sqlite3.connect(built.paths.database) as connection:
        found = statistics.made_of(statistics.rows(connection))
    connection.close()
    return found


def numbers_of_workers(built: Built) -> list[int]:
    with sqlite3.connect(built.paths.database) as connection:
        found = [row[0] for row in connection.execute("SELECT bundle FROM workers ORDER BY bundle")]
    connection.close()
    return found


def again(built: Built) -> None:
    """The next master opens the store."""
    built.store.commit()
    built.store.close()
    built.store = Store(built.paths.database)
    built.store.raise_generation()
    built.store.begin()


def test_targets_of_one_class_count_together_and_by_what_they_asked_for(built: Built) -> None:
    for memory, wall in ((1 << 30, 1.0), (1 << 31, 3.0), (1 << 31, 5.0)):
        shape = built.store.shape("some.Child", memory, 2.0)
        built.store.stats[shape].add(Measures(wall, 1.0, memory // 2, True))
        again_written = [shape]
        built.store.write_stats(again_written)
        again(built)

    (kind,) = seen(built).classes
    assert (kind.name, kind.measured.count, kind.measured.time.total) == ("some.Child", 3, 9.0)
    assert [(r.memory, r.cpu, r.measured.count) for r in kind.requests] == [
        (1 << 30, 2.0, 1),
        (1 << 31, 2.0, 2),
    ]
    assert kind.measured.memory.most == 1 << 30


def test_a_host_sums_up_its_workers(built: Built) -> None:
    built.store.write_stats([], workers=[worker(1), worker(2, "two")])
    again(built)
    built.store.write_stats([], workers=[worker(3, seconds=6.0)])
    built.store.commit()

    one, two = seen(built).hosts
    assert (one.name, one.backend, one.measured.count, two.measured.count) == ("one", "slurm", 2, 1)
    assert (one.targets, one.failures, one.busy, one.queued, one.queued_max) == (6, 2, 4.0, 2.0, 1.0)
    assert (one.first, one.last, one.measured.clock.total) == (101.0, 107.0, 2.0)
    built.store.begin()


def test_workers_are_thinned_out_evenly_and_what_they_used_is_kept(
    built: Built, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(records, "MOST_WORKERS", 10)
    for first in range(1, 100, 7):
        built.store.write_stats([], workers=[worker(n) for n in range(first, min(first + 7, 100))])
        again(built)

    assert numbers_of_workers(built) == list(range(16, 100, 16))
    assert seen(built).workers.count == 99


def test_all_workers_are_kept_where_records_of_targets_name_them(
    built: Built, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(records, "MOST_WORKERS", 3)
    target = TargetRow(1, 1, 0, 0, 0, 1, 1, 101.0, 1.0, 0.5, 100, None)
    built.store.write_stats([], [target], [worker(1)])
    again(built)
    built.store.write_stats([], workers=[worker(n) for n in range(2, 9)])
    built.store.commit()

    assert numbers_of_workers(built) == list(range(1, 9))
    built.store.begin()


def test_names_that_are_no_utf8_are_stored(built: Built) -> None:
    built.store.write_stats([], workers=[worker(1, "b\udcffd")])
    built.store.commit()

    assert [host.name for host in seen(built).hosts] == ["b\\udcffd"]
    built.store.begin()


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"time": 1}', "null", '{"time": [1, 2]}'])
def test_a_record_that_makes_no_sense_is_damage(built: Built, text: str) -> None:
    built.commit()
    built.store._connection.execute("UPDATE usage SET measured = ?", (text,))
    built.store.commit()

    with pytest.raises(DamagedTree, match="makes no sense"):
        Store(built.paths.database)
    built.store.begin()
