"""The files of a bundle: written, read while they grow, recalled, claimed, removed, swept."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Optional

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobtree import bundles, frames, tempdirs
from jobtree.bundles import RunningBundle
from jobtree.frames import BundleHeader, BundleJob
from jobtree.paths import TreePaths, job_id
from jobtree.schema import ChildRow

BUNDLE = 17
SHAPES = {("mod.A", 0, None): 1, ("mod.A", 5, None): 2, ("mod.B", 0, 2.0): 3, ("mod.B", 5, 2.0): 4}


@pytest.fixture
def paths(tmp_path: Path) -> TreePaths:
    return TreePaths(str(tmp_path))


@pytest.fixture
def outcome(tmp_path: Path) -> Path:
    return tmp_path / "outcome"


def header(bundle: int = BUNDLE, count: int = 1) -> BundleHeader:
    return BundleHeader(
        frames.VERSION, "run", bundle, count, 1 << 20, 1.0, 60.0, 100, False, True, False, False, None, 1, 1.0
    )


def running(path: Path, offset: int = 0) -> RunningBundle:
    path.touch()
    return RunningBundle(BUNDLE, "run.17", 1, 3, str(path), offset, 0.0)


def shape_of(name: str, memory: int, cpu: Optional[float], countable: str) -> int:
    return SHAPES[name, memory, cpu]


def chunk(job: int, first_n: int, count: int, text: str = "child") -> bytes:
    """A frame with some of a job's children, of two classes and two sizes."""
    rows = [
        (n % 2, 5 * (n % 3 == 0), 0.5, f"{text} {n} of {job}".encode(), (b"token",) if n == first_n else ())
        for n in range(first_n, first_n + count)
    ]
    return frames.encode((frames.CHILDREN, job, 1, first_n, [("mod.A", None, ""), ("mod.B", 2.0, "")], rows))


def expected(job: int, first_n: int, count: int, text: str = "child") -> list[ChildRow]:
    found = []
    for n in range(first_n, first_n + count):
        memory = 5 * (n % 3 == 0)
        shape = SHAPES[("mod.B", memory, 2.0) if n % 2 else ("mod.A", memory, None)]
        mentions = (b"token",) if n == first_n else ()
        found.append(
            ChildRow(job_id(BUNDLE, n), shape, memory, 0.5, f"{text} {n} of {job}".encode(), mentions)
        )
    return found


def adopt(bundle: RunningBundle) -> Iterator[tuple[Any, list[ChildRow]]]:
    """Read as the master does: each outcome with the children that came before it."""
    for frame in bundle.read():
        if frame.body[0] == frames.CHILDREN:
            bundle.add_children(frame)
        elif frame.body[0] == frames.VALUE_FILE:
            bundle.add_value_file(frame)
        elif frame.body[0] == frames.FAILED:
            bundle.pending = None
            yield frame.body, []
        else:
            yield (
                frame.body,
                list(bundle.take_children(shape_of, shape_of)) if frame.body[0] == frames.SUCCEEDED else [],
            )


# -- reading ---------------------------------------------------------------------------------------------------


def test_file_is_read_while_it_grows_byte_by_byte(outcome: Path) -> None:
    bodies: list[tuple[Any, ...]] = [
        (frames.STARTED, 1, 1, 0, 0.5),
        (frames.SUCCEEDED, 1, 1, b"x" * 40),
        (frames.STARTED, 2, 1, 0, 0.6),
    ]
    data = b"".join(map(frames.encode, bodies))
    bundle = running(outcome)
    found = []

    with open(outcome, "ab", buffering=0) as file:
        for byte in data:
            file.write(bytes([byte]))
            for frame in bundle.read():
                assert frame.end == bundle.offset == outcome.stat().st_size
                found.append(frame.body)

    assert found == bodies
    assert not bundle.damage()


@given(
    cuts=st.lists(st.integers(0, 400), max_size=12),
    sizes=st.lists(st.integers(0, 90), min_size=1, max_size=6),
)
def test_frames_are_the_same_however_the_file_grows(cuts: list[int], sizes: list[int]) -> None:
    import tempfile

    data = b"".join(frames.encode((frames.MESSAGE, i, b"x" * size)) for i, size in enumerate(sizes))
    places = [*sorted({cut for cut in cuts if cut < len(data)}), len(data)]
    found = []
    with tempfile.NamedTemporaryFile(dir="/dev/shm" if os.path.isdir("/dev/shm") else None) as file:
        bundle = running(Path(file.name))
        for start, end in zip([0, *places], places):
            file.write(data[start:end])
            file.flush()
            found += list(bundle.read())

    assert [frame.body[1] for frame in found] == list(range(len(sizes)))
    assert [(f.start, f.end) for f in found] == [(f.start, f.end) for f in frames.decode(data)]


def test_frame_larger_than_a_piece_is_read(outcome: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bundles, "_PIECE", 64)
    bodies = [(frames.MESSAGE, n, b"x" * size) for n, size in enumerate([10, 5000, 10, 64, 40_000, 1])]
    bundle = running(outcome)
    outcome.write_bytes(b"".join(map(frames.encode, bodies)))

    assert [frame.body for frame in bundle.read()] == bodies
    assert bundle.offset == outcome.stat().st_size


def test_frame_on_the_border_of_a_piece_is_read(outcome: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = frames.encode((frames.MESSAGE, 1, b"x" * 40))
    for piece in range(len(first) - 9, len(first) + 9):
        monkeypatch.setattr(bundles, "_PIECE", piece)
        outcome.write_bytes(first * 3)

        assert len(list(running(outcome).read())) == 3, f"pieces of {piece}"


def test_reading_begins_at_the_offset_that_was_adopted(outcome: Path) -> None:
    first, second = frames.encode(("m", 1)), frames.encode(("m", 2))
    outcome.write_bytes(first + second)

    (frame,) = running(outcome, len(first)).read()

    assert (frame.body, frame.start, frame.end) == (("m", 2), len(first), len(first + second))


def test_tail_that_is_no_frame_is_torn(outcome: Path) -> None:
    bundle = running(outcome)
    outcome.write_bytes(frames.encode(("m", 1)) + b"\x10")

    assert len(list(bundle.read())) == 1
    assert "not whole" in bundle.damage()
    assert list(bundle.read()) == []


def test_file_that_is_gone_has_no_frames(outcome: Path) -> None:
    bundle = running(outcome)
    outcome.unlink()

    assert list(bundle.read()) == []
    assert not bundle.damage()


def test_frames_before_a_damaged_one_are_not_lost(outcome: Path) -> None:
    import pickle
    import zlib

    body = pickle.dumps(("m", OSError("not a plain value")))
    bundle = running(outcome)
    good = frames.encode((frames.SUCCEEDED, 1, 1))
    outcome.write_bytes(good + frames.HEADER.pack(len(body), zlib.crc32(body)) + body)
    found: list[Any] = []

    def read_all() -> None:
        found.extend(frame.body for frame in bundle.read())

    with pytest.raises(frames.Damaged):
        read_all()

    assert found == [(frames.SUCCEEDED, 1, 1)]
    assert bundle.offset == len(good)


# -- children --------------------------------------------------------------------------------------------------


def test_children_wait_for_their_outcome(outcome: Path) -> None:
    bundle = running(outcome)
    started = frames.encode((frames.STARTED, 1, 1, 0, 0.5))
    outcome.write_bytes(started + chunk(1, 1, 3) + chunk(1, 4, 2))

    assert [body for body, _ in adopt(bundle)] == [(frames.STARTED, 1, 1, 0, 0.5)]

    assert bundle.offset == outcome.stat().st_size
    assert bundle.safe_offset == len(started)
    assert bundle.pending is not None
    assert bundle.pending.total == 5
    assert sum(bundle.pending.counts.values()) == 5


def test_safe_offset_never_passes_children_without_an_outcome(outcome: Path) -> None:
    """At every moment a new master that starts there finds the children of every outcome that is still to come."""
    parts = [
        (frames.encode((frames.STARTED, 1, 1, 0, 0.0)), None),
        (chunk(1, 1, 2), None),
        (chunk(1, 3, 2), None),
        (frames.encode((frames.SUCCEEDED, 1, 1)), expected(1, 1, 2) + expected(1, 3, 2)),
        (frames.encode((frames.STARTED, 2, 1, 0, 0.0)), None),
        (chunk(2, 5, 3), None),
        (frames.encode((frames.FAILED, 2, 1)), []),
        (chunk(3, 8, 1), None),
        (frames.encode((frames.SUCCEEDED, 3, 1)), expected(3, 8, 1)),
    ]
    bundle = running(outcome)
    for end in range(len(parts) + 1):
        with open(outcome, "ab") as file:
            if end:
                file.write(parts[end - 1][0])
        seen = [rows for body, rows in adopt(bundle) if body[0] == frames.SUCCEEDED]
        assert seen == ([parts[end - 1][1]] if end and parts[end - 1][1] else [])
        assert bundle.safe_offset <= bundle.offset

        other = outcome.with_name(f"from {end}")
        other.write_bytes(b"".join(data for data, _ in parts))
        later = [
            rows for body, rows in adopt(running(other, bundle.safe_offset)) if body[0] == frames.SUCCEEDED
        ]
        assert later == [rows for _, rows in parts[end:] if rows]


def test_children_get_numbers_that_follow_from_bundle_and_place(outcome: Path) -> None:
    bundle = running(outcome)
    outcome.write_bytes(chunk(1, 1, 7) + chunk(1, 8, 4) + frames.encode((frames.SUCCEEDED, 1, 1)))

    ((_, rows),) = adopt(bundle)

    assert rows == expected(1, 1, 11, "child")[:7] + expected(1, 8, 4)
    assert [row.id for row in rows] == [BUNDLE << 31 | n for n in range(1, 12)]
    assert bundle.pending is None


def test_many_children_are_read_again_from_the_file_and_not_mixed_with_those_of_others(outcome: Path) -> None:
    bundle = running(outcome)
    parts = [chunk(1, 1, 2, "before"), frames.encode((frames.SUCCEEDED, 1, 1)), chunk(2, 3, 2, "failed")]
    parts.append(frames.encode((frames.FAILED, 2, 1)))
    parts += [chunk(3, 5 + 1000 * i, 1000) for i in range(9)]
    parts.append(frames.encode((frames.VALUE_FILE, "values/0/17-1")))
    parts.append(frames.encode((frames.SUCCEEDED, 3, 1)))
    parts += [chunk(4, 9005, 2, "after"), frames.encode((frames.SUCCEEDED, 4, 1))]
    outcome.write_bytes(b"".join(parts))

    found = {body[1]: rows for body, rows in adopt(bundle) if body[0] == frames.SUCCEEDED}

    assert found[1] == expected(1, 1, 2, "before")
    assert found[3] == [row for i in range(9) for row in expected(3, 5 + 1000 * i, 1000)]
    assert found[4] == expected(4, 9005, 2, "after")


def test_many_children_are_not_held_in_memory(outcome: Path) -> None:
    bundle = running(outcome)
    outcome.write_bytes(b"".join(chunk(3, 1 + 1000 * i, 1000) for i in range(5)))

    assert list(adopt(bundle)) == []

    assert bundle.pending is not None
    assert bundle.pending.rows is None
    assert bundle.pending.total == sum(bundle.pending.counts.values()) == 5000


def test_outcome_without_children_has_none(outcome: Path) -> None:
    bundle = running(outcome)

    assert list(bundle.take_children(shape_of, shape_of)) == []
    assert bundle.safe_offset == 0


def test_value_file_waits_for_its_outcome(outcome: Path) -> None:
    bundle = running(outcome)
    started = frames.encode((frames.STARTED, 1, 1, 0, 0.5))
    outcome.write_bytes(started + frames.encode((frames.VALUE_FILE, "values/0/17-1")))

    assert len(list(adopt(bundle))) == 1

    assert bundle.value_files == ["values/0/17-1"]
    assert bundle.safe_offset == len(started)


# -- files -----------------------------------------------------------------------------------------------------


def test_bundle_is_read_as_it_was_written(paths: TreePaths) -> None:
    jobs = [
        BundleJob(n, 1, 0, 5, 1.0, 0.5, b"payload", {b"token": b"value", b"other": "values/0/1-1"})
        for n in (1, 2)
    ]

    bundles.write_bundle(paths, header(count=2), jobs)

    data = Path(paths.bundle(BUNDLE)).read_bytes()
    assert data[:1] == frames.NO_RECALL
    assert frames.decode_bundle(data) == (header(count=2), jobs)
    assert Path(paths.outcome(BUNDLE)).read_bytes() == b""
    assert os.stat(paths.bundle(BUNDLE)).st_mode & 0o777 == 0o600


def test_recall_is_one_byte_and_nothing_else_changes(paths: TreePaths) -> None:
    bundles.write_bundle(paths, header(), [])
    before = Path(paths.bundle(BUNDLE)).read_bytes()

    bundles.recall(paths, BUNDLE)
    bundles.recall(paths, BUNDLE)

    assert Path(paths.bundle(BUNDLE)).read_bytes() == frames.RECALL + before[1:]


def test_recall_of_a_bundle_that_is_gone_makes_nothing(paths: TreePaths) -> None:
    bundles.recall(paths, BUNDLE)

    assert not os.path.exists(paths.bundle(BUNDLE))


def test_claim_is_left_to_who_has_it(paths: TreePaths) -> None:
    os.makedirs(os.path.dirname(paths.claim(BUNDLE)))
    Path(paths.claim(BUNDLE)).write_text("the worker")

    bundles.claim(paths, BUNDLE)
    bundles.claim(paths, BUNDLE + 1)

    assert Path(paths.claim(BUNDLE)).read_text() == "the worker"
    assert Path(paths.claim(BUNDLE + 1)).read_text() == "master\n"


@pytest.mark.parametrize("log", [True, False])
def test_removed_bundle_leaves_at_most_its_log(paths: TreePaths, log: bool) -> None:
    bundles.write_bundle(paths, header(), [])
    bundles.claim(paths, BUNDLE)
    os.makedirs(os.path.dirname(paths.log(BUNDLE)))
    Path(paths.log(BUNDLE)).touch()

    bundles.remove_bundle(paths, BUNDLE, log)
    bundles.remove_bundle(paths, BUNDLE, log)

    left = [name for _, _, names in os.walk(paths.root) for name in names]
    assert left == ([] if log else ["17.log"])


def test_sweep_removes_what_nobody_knows_and_directories_that_are_empty(paths: TreePaths) -> None:
    for number in (1, 2, 1001):
        bundles.write_bundle(paths, header(number), [])
        bundles.claim(paths, number)
    for relative in (
        "logs/0/1.log", "logs/0/2.log", "logs/0/3.log", "logs/launcher.log", "values/0/1-1", "bundles/0/2.123.new",
        "globalTempDirs/0/1.0/1/file",
    ):  # fmt: skip
        path = Path(paths.root, relative)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    # What was printed may still be wanted; 3's log is empty, and its master died before it could remove it.
    Path(paths.log(1)).write_text("why it failed")
    for relative in ("values/1", "logs/2/3"):
        Path(paths.root, relative).mkdir(parents=True)

    bundles.sweep(paths, {2})

    left = sorted(str(path.relative_to(paths.root)) for path in Path(paths.root).rglob("*") if path.is_file())
    assert left == [
        "bundles/0/2", "claims/0/2", "globalTempDirs/0/1.0/1/file", "logs/0/1.log", "logs/0/2.log",
        "logs/launcher.log", "outcomes/0/2", "values/0/1-1",
    ]  # fmt: skip
    folders = sorted(
        str(path.relative_to(paths.root)) for path in Path(paths.root).rglob("*") if path.is_dir()
    )
    assert [folder for folder in folders if not any(name.startswith(folder + "/") for name in left)] == []


def test_sweep_leaves_global_directories_that_are_empty_so_far(paths: TreePaths) -> None:
    os.makedirs(paths.global_dir(job_id(1, 1)))

    bundles.sweep(paths, set())

    assert os.path.isdir(paths.global_dir(job_id(1, 1)))


def test_directories_above_chains_that_a_power_cut_has_emptied_go_and_no_others(tmp_path: Path) -> None:
    top = tmp_path / "globalTempDirs"
    for name in ("0/17.0", "0/18.0/3", "1/1017.0"):
        (top / name).mkdir(parents=True)

    tempdirs.remove_empty_groups(str(top))

    # 18.0/3 is empty too, and a chain's: its children may be about to write there.
    assert sorted(str(path.relative_to(top)) for path in top.rglob("*")) == ["0", "0/18.0", "0/18.0/3"]
    tempdirs.remove_empty_groups(str(tmp_path / "not there"))


def test_sweep_of_a_tree_that_has_nothing_yet(paths: TreePaths) -> None:
    bundles.sweep(paths, set())


def test_new_master_waits_for_the_worker_that_holds_the_bundle(
    paths: TreePaths, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundles.write_bundle(paths, header(), [])
    told, tell = os.pipe()
    go, send = os.pipe()
    marker = os.path.join(paths.root, "worker is over")
    child = os.fork()
    if child == 0:
        fd = os.open(paths.outcome(BUNDLE), os.O_WRONLY)
        fcntl.flock(fd, fcntl.LOCK_SH)
        os.write(tell, b"x")
        os.read(go, 1)
        os.close(os.open(marker, os.O_CREAT | os.O_WRONLY))
        os._exit(0)
    os.read(told, 1)
    flock = fcntl.flock

    def wait(fd: int, how: int) -> None:
        if not how & fcntl.LOCK_NB:
            os.write(send, b"x")  # the worker ends once it is waited for, and not before
        flock(fd, how)

    monkeypatch.setattr(fcntl, "flock", wait)

    bundles.wait_for_worker(paths, BUNDLE)

    over = os.path.exists(marker)
    os.write(send, b"x")
    os.waitpid(child, 0)
    for fd in (told, tell, go, send):
        os.close(fd)
    assert over


def test_nobody_is_waited_for_where_there_is_no_outcome_file(paths: TreePaths) -> None:
    bundles.wait_for_worker(paths, BUNDLE)
