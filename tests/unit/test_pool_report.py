"""What is told of a pool while its nodes come and go."""

from __future__ import annotations

import json

import pytest

from batchsystems.pool_report import Report


def test_a_node_that_leaves_between_two_questions_is_not_told_of(monkeypatch: pytest.MonkeyPatch) -> None:
    about = json.dumps({"place": "node1", "timeout": 60, "started": 0.0, "pid": 1})
    known = {"nodes": {"node1-1": about}, "size": {"node1-1": "1000 1 0 node1"}}
    report = object.__new__(Report)
    monkeypatch.setattr(report, "_spaces", lambda: [("ada", "space:")])
    monkeypatch.setattr(report, "_hash", lambda name: known.get(name[len("space:") :], {}))

    assert report.nodes() == []
