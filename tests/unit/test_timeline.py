"""On which line each span is drawn: no two at once, and no more lines than run at once."""

from __future__ import annotations

import sqlite3

from hypothesis import given
from hypothesis import strategies as st

from jobtree import timeline
from jobtree.schema import SCHEMA
from jobtree.timeline import Span

SPANS = st.lists(
    st.builds(
        lambda host, begin, length: Span(host, "some.Class", float(begin), float(begin + length), False),
        st.sampled_from("ab"), st.integers(0, 20), st.integers(1, 9),
    ),
    max_size=30,
)  # fmt: skip


@given(SPANS)
def test_spans_on_one_line_do_not_overlap_and_lines_are_few(spans: list[Span]) -> None:
    placed = timeline.place(spans)

    assert sorted(span._replace(slot=0) for span in placed) == sorted(spans)
    for host in "ab":
        here = [span for span in placed if span.host == host]
        at_once = [sum(span.begin <= moment < span.end for span in here) for moment in range(30)]
        assert len({span.slot for span in here}) == max(at_once)
        for slot in {span.slot for span in here}:
            line = [span for span in here if span.slot == slot]
            assert all(one.end <= other.begin for one, other in zip(line, line[1:]))


def database() -> sqlite3.Connection:
    connection = sqlite3.connect(":memory:")
    connection.executescript(SCHEMA)
    connection.execute(
        "INSERT INTO shapes (id, name, memory, cpu, countable) VALUES (1, 'some.Class', 0, 0, '')"
    )
    connection.executemany(
        "INSERT INTO workers VALUES (?, 'one', 'slurm', 1, 0.0, ?, ?, 3, 0, 1.0, 0.5, 1)",
        [(n, n, n + n) for n in range(1, 6)],
    )
    return connection


def test_the_longest_workers_are_taken_where_no_targets_were_recorded() -> None:
    connection = database()
    connection.execute("INSERT INTO meta VALUES ('every_worker', 4)")

    found = timeline.read(connection, most=2)

    connection.close()
    assert (found.of, found.every, found.longest) == ("workers", 4, True)
    assert [(span.begin, span.end) for span in found.spans] == [(4.0, 8.0), (5.0, 10.0)]


def test_targets_are_taken_where_they_were_recorded() -> None:
    connection = database()
    connection.executemany(
        "INSERT INTO targets VALUES (?, 1, 0, 0, 0, 1, 2, 5.0, 1.5, 1.0, 1, ?)", [(1, None), (2, "exception")]
    )

    found = timeline.read(connection)

    connection.close()
    assert (found.of, found.every, found.longest) == ("targets", 1, False)
    assert [(span.host, span.end, span.failed, span.slot) for span in found.spans] == [
        ("one", 6.5, False, 0), ("one", 6.5, True, 1),
    ]  # fmt: skip
