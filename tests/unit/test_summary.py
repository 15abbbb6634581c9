"""What is told at the end of a run."""

from __future__ import annotations

from pathlib import Path

from jobtree import summary
from jobtree.frames import Measures
from jobtree.paths import TreePaths
from jobtree.store import Store
from jobtree.tree import Tree

MIB = 1 << 20
PAGE = Path(__file__).parents[2] / "docs" / "howto" / "see-and-steer.md"


def store_of(tmp_path: Path, *classes: tuple[str, int, float, int, int]) -> Store:
    """A store that has measured these: class, targets, seconds of each, memory in MiB, failures."""
    store = Store(str(tmp_path / "tree.sqlite"), new=True)
    store.raise_generation()
    store.begin()
    for name, number, wall, memory, failures in classes:
        for asked in (0, 1 << 30):
            stats = store.stats[store.shape(name, asked, None)]
            stats.failures = failures if asked else 0
            for _ in range(number // 2):
                stats.add(Measures(wall, wall, memory * MIB, True))
    store.write_stats(store.stats)
    store.commit()
    return store


def test_targets_by_class(tmp_path: Path) -> None:
    store = store_of(
        tmp_path,
        ("pipeline.align", 12_000, 3.0, 700, 7),
        ("pipeline.merge", 2, 0.25, 40, 0),
        ("never", 0, 0.0, 0, 0),
    )
    tree = Tree()
    tree.counts[2] = [0, 0, 0, 2, 0]

    assert summary.lines(store, tree) == [
        "   targets  retries      time      mean      memory  class",
        "     12000        5    10h 0m     3.00s   700.0 MiB  pipeline.align",
        "         2        0     0.50s     0.25s    40.0 MiB  pipeline.merge",
        "     12002        5    10h 0m     3.00s   700.0 MiB  all",
    ]
    store.close()


def test_the_table_in_the_documents_is_what_is_printed(tmp_path: Path) -> None:
    store = store_of(tmp_path, ("pipeline.align", 5200, 2.91, 812, 2), ("pipeline.merge", 32, 2.0, 102, 0))

    assert "\n".join(summary.lines(store, Tree())) in PAGE.read_text("utf-8")
    store.close()


def test_of_many_classes_the_rest_is_one(tmp_path: Path) -> None:
    names = [f"class {n:04}\n" for n in range(3000)]
    store = store_of(tmp_path, *((name, 2, 1.0, 1, 0) for name in names))

    lines = summary.lines(store, Tree())

    assert len(lines) == 13
    assert lines[1].endswith("  class 0000\\n")
    assert lines[-2] == "      5980        0    1h 39m     1.00s     1.0 MiB  (2990 other classes)"
    store.close()


def test_nothing_has_run(tmp_path: Path) -> None:
    store = store_of(tmp_path, ("never", 0, 0.0, 0, 0))

    assert summary.lines(store, Tree()) == []
    store.close()


def test_where_the_logs_are(tmp_path: Path) -> None:
    paths = TreePaths(str(tmp_path))

    assert summary.about_logs(paths, True) == "No target has printed anything."
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs" / "launcher.log").write_text("no target has printed this")
    assert summary.about_logs(paths, False).endswith("is not kept (--keepLogs keeps it).")
    (tmp_path / "logs" / "0").mkdir()
    assert summary.about_logs(paths, False) == f"What targets that failed have printed is in {tmp_path}/logs"
    assert summary.about_logs(paths, True) == f"What targets have printed is in {tmp_path}/logs"
