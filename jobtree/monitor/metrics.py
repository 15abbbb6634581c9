"""What Prometheus reads at /metrics: as of the last look, so that asking often costs a run nothing."""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Sequence

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from jobtree import snapshot
from jobtree.contents import Contents, shortened
from jobtree.monitor.overview import MOST_CLASSES
from jobtree.monitor.trees import WatchedTree
from jobtree.monitor.watching import Watch

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_MOST_NAME = 200


def text(watch: Watch) -> bytes:
    """All metrics, in Prometheus's text format."""
    registry = CollectorRegistry()
    registry.register(_Trees(watch))
    return generate_latest(registry)


class _Trees(Collector):
    def __init__(self, watch: Watch) -> None:
        self._watch = watch

    def collect(self) -> Iterator[Metric]:
        trees = self._watch.trees
        yield self._up(trees)
        seen = [tree for tree in trees if tree.seen is not None]
        yield from _of_trees(seen)
        yield from _of_classes(seen)

    def _up(self, trees: Sequence[WatchedTree]) -> Metric:
        up = GaugeMetricFamily(
            "jobtree_up", "Whether the tree could be read at the last look.", labels=["tree"]
        )
        for tree in trees:
            known = tree.seen is not None and tree.number not in self._watch.troubles
            up.add_metric([_label(tree.paths.root)], known)
        return up


def _of_trees(trees: Sequence[WatchedTree]) -> Iterator[Metric]:
    running = GaugeMetricFamily("jobtree_master_running", "Whether a master runs the tree.", labels=["tree"])
    jobs = GaugeMetricFamily("jobtree_jobs", "Jobs by state.", labels=["tree", "state"])
    busy = GaugeMetricFamily("jobtree_slots_busy", "Targets that are running.", labels=["tree"])
    slots = GaugeMetricFamily("jobtree_slots", "Targets that may run at once, if known.", labels=["tree"])
    looked = GaugeMetricFamily("jobtree_last_look_seconds", "When the tree was last read.", labels=["tree"])
    for tree in trees:
        seen, root = tree.seen, _label(tree.paths.root)
        assert seen is not None
        running.add_metric([root], seen.snapshot.state == snapshot.RUNNING)
        for state, number in seen.snapshot.counts._asdict().items():
            jobs.add_metric([root, state], number)
        if seen.running is not None:
            busy.add_metric([root], len(seen.running))
        if seen.slots is not None:
            slots.add_metric([root], seen.slots)
        looked.add_metric([root], seen.time)
    return iter((running, jobs, busy, slots, looked))


def _of_classes(trees: Sequence[WatchedTree]) -> Iterator[Metric]:
    labels = ["tree", "class"]
    succeeded = CounterMetricFamily(
        "jobtree_targets_succeeded", "Targets that have succeeded.", labels=labels
    )
    failures = CounterMetricFamily("jobtree_targets_failures", "Attempts that have failed.", labels=labels)
    wall = CounterMetricFamily("jobtree_targets_wall_seconds", "Time of those that succeeded.", labels=labels)
    cpu = CounterMetricFamily(
        "jobtree_targets_cpu_seconds", "CPU time of those that succeeded.", labels=labels
    )
    memory = GaugeMetricFamily(
        "jobtree_targets_memory_max_bytes", "Most memory of one of them.", labels=labels
    )
    for tree in trees:
        assert tree.seen is not None
        for kind in shortened(Contents(None, tree.seen.snapshot.classes), MOST_CLASSES, 0).classes:
            names = [_label(tree.paths.root), _label(kind.name)]
            succeeded.add_metric(names, kind.succeeded)
            failures.add_metric(names, kind.failures)
            wall.add_metric(names, kind.wall)
            cpu.add_metric(names, kind.cpu_time)
            memory.add_metric(names, kind.memory_max)
    return iter((succeeded, failures, wall, cpu, memory))


def _label(name: str) -> str:
    """A name that may hold anything, as a label may have it; of two long ones that begin alike, the ends tell."""
    text = name.encode("utf-8", "backslashreplace").decode()
    if len(text) <= _MOST_NAME:
        return text
    return f"{text[:_MOST_NAME]}~{zlib.crc32(text.encode()):08x}"
