"""Silence of nodes, and recovery of a hub, on our own clock."""

from __future__ import annotations

from batchsystems import pool_watch
from batchsystems.pool_watch import Verdict, Watch

TIMEOUTS = {"a": 60.0, "b": 60.0}


def test_a_node_is_silent_when_its_beat_was_the_same_for_longer_than_its_timeout() -> None:
    watch = Watch(5)
    for second in range(0, 61, 5):
        assert watch.look(second, {"a": "1", "b": str(second)}, TIMEOUTS, None) == Verdict([], None)

    assert watch.look(65, {"a": "1", "b": "65"}, TIMEOUTS, None).silent == [("a", "1")]


def test_a_beat_begins_anew() -> None:
    watch = Watch(5)
    for second in range(0, 56, 5):
        watch.look(second, {"a": "1"}, TIMEOUTS, None)

    for second in range(60, 121, 5):
        assert watch.look(second, {"a": "2"}, TIMEOUTS, None).silent == []


def test_time_in_which_nobody_watched_does_not_count() -> None:
    """The hub was down, or we were: the others may have been heard meanwhile, or not have been able to."""
    watch = Watch(5)
    for hour in range(5):
        assert watch.look(3600 * hour, {"a": "1"}, TIMEOUTS, None).silent == []
    watch.pause()
    for second in range(20000, 20061, 5):
        assert watch.look(second, {"a": "1"}, TIMEOUTS, None).silent == []


def test_after_a_restart_every_node_has_its_time() -> None:
    watch = Watch(5)
    looks = [watch.look(second, {"a": str(second)}, TIMEOUTS, "boot").recovered for second in range(0, 71, 5)]

    assert looks == [None] * 13 + ["boot"] * 2
    assert watch.look(75, {"a": "75"}, TIMEOUTS, "another").recovered is None


def test_a_node_and_its_guard_act_before_anybody_else_may() -> None:
    assert pool_watch.LEASE < pool_watch.GUARD < 1
    assert pool_watch.period(120) == 5
    assert pool_watch.period(3) == 0.5
