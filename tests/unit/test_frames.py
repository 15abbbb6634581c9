"""The layout of bundle and outcome files: whole frames are read, all else is never taken for one."""

from __future__ import annotations

import io
import os
import pickle
import struct
import zlib
from collections.abc import Iterable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobtree import frames
from jobtree.frames import HEADER, MAX_BODY, BundleHeader, BundleJob, Damaged, Measures, Packed

PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary(),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.lists(inner, max_size=3).map(tuple)
        | st.dictionaries(st.text() | st.binary() | st.integers(), inner, max_size=3)
    ),
    max_leaves=5,
)
BODIES = st.lists(PLAIN, min_size=1, max_size=6).map(tuple)


def written(bodies: Iterable[Any]) -> bytes:
    return b"".join(map(frames.encode, bodies))


def bodies_of(data: bytes, offset: int = 0) -> list[Any]:
    return [frame.body for frame in frames.decode(data, offset)]


def framed(body: bytes) -> bytes:
    """A frame with a right checksum around any bytes."""
    return HEADER.pack(len(body), zlib.crc32(body)) + body


@given(bodies=st.lists(BODIES, max_size=5))
def test_what_was_written_is_what_is_read(bodies: list[tuple[Any, ...]]) -> None:
    data = written(bodies)

    found = frames.decode(data)

    assert [frame.body for frame in found] == bodies
    ends = [frame.end for frame in found]
    assert [frame.start for frame in found] == [0, *ends[:-1]][: len(ends)]
    assert not ends or ends[-1] == len(data)


@given(bodies=st.lists(BODIES, max_size=3), before=st.binary(max_size=9))
def test_reading_starts_where_it_is_told_to(bodies: list[tuple[Any, ...]], before: bytes) -> None:
    assert bodies_of(before + written(bodies), len(before)) == bodies


def test_body_that_is_a_named_tuple_is_read_as_a_plain_one() -> None:
    job = BundleJob(1, 2, 3, 4, 1.0, 5.0, b"payload", {b"token": "file"})
    packed = Packed("name", None, 1.0, None, b"pickle", (b"token",))

    assert bodies_of(written([job, ("d", tuple(packed)), packed])) == [
        tuple(job),
        ("d", tuple(packed)),
        tuple(packed),
    ]


class Loud(str):
    """A text of a class of its own, as some libraries return from str()."""

    def __str__(self) -> str:
        return self


@pytest.mark.parametrize(
    "body",
    [
        (frames.MESSAGE, 1, 1, Loud("text")),
        (frames.FAILED, 1, 1, (1.0, 0.5, 1, True), ("exception", Loud("text"), "", "", 0, 0)),
        (frames.FAILED, 1, 1, Measures(1.0, 0.5, 1, True)),
    ],
    ids=["message", "failure", "named tuple"],
)
def test_what_can_be_written_can_be_read(body: tuple[Any, ...]) -> None:
    """A frame that its reader refuses would hide everything after it, so the writer must refuse it first."""
    try:
        data = frames.encode(body)
    except (TypeError, ValueError, pickle.PicklingError):
        return
    assert len(bodies_of(data + frames.encode(("next",)))) == 2


def test_file_that_is_cut_anywhere_yields_the_whole_frames_before_the_cut() -> None:
    bodies: list[tuple[Any, ...]] = [
        ("s", 1, 1, 0.5),
        ("c", 1, 1, [(0, 1, 2.0, b"x" * 70)]),
        ("d", 1),
        ("e" * 300,),
    ]
    data = written(bodies)
    ends = [frame.end for frame in frames.decode(data)]

    for cut in range(len(data) + 1):
        whole = sum(end <= cut for end in ends)
        assert bodies_of(data[:cut]) == bodies[:whole], f"cut at {cut}"


def test_flipped_bits_never_yield_a_wrong_frame() -> None:
    bodies: list[tuple[Any, ...]] = [("s", 1, 1, 0.5), ("d", 1, 1, b"payload", {b"k": None}), ("r", 1, 1)]
    data = written(bodies)
    ends = [0, *(frame.end for frame in frames.decode(data))]

    for place in range(len(data)):
        hit = sum(end <= place for end in ends) - 1
        for bit in range(8):
            damaged = bytearray(data)
            damaged[place] ^= 1 << bit
            assert bodies_of(bytes(damaged)) == bodies[:hit], f"bit {bit} of byte {place}"


@pytest.mark.parametrize("length", [1, 7, 8, 9, 4096])
def test_zeros_are_no_frame(length: int) -> None:
    data = written([("s", 1)])

    assert bodies_of(bytes(length)) == []
    assert bodies_of(data + bytes(length) + data) == [("s", 1)]


@pytest.mark.parametrize("length", [0, MAX_BODY + 1, 0xFFFFFFFF])
def test_impossible_lengths_are_no_frame(length: int) -> None:
    assert frames.decode(HEADER.pack(length, 0) + b"x" * 100) == []


def test_length_beyond_the_end_is_waited_for() -> None:
    assert frames.decode(HEADER.pack(MAX_BODY, 0) + b"x" * 100) == []


@given(noise=st.binary(max_size=200))
def test_noise_is_no_frame(noise: bytes) -> None:
    assert frames.decode(noise) == []


@given(bodies=st.lists(BODIES, min_size=1, max_size=3), noise=st.binary(min_size=1, max_size=50))
def test_noise_after_frames_hides_none_of_them(bodies: list[tuple[Any, ...]], noise: bytes) -> None:
    assert bodies_of(written(bodies) + noise) == bodies


class RunsCommand:
    """What somebody would write who wants the reader to run something."""

    def __reduce__(self) -> Any:
        return os.system, ("exit 3",)


@pytest.mark.parametrize(
    "value",
    [
        RunsCommand(),
        os.system,
        OSError("x"),
        {1, 2}.__class__,
        Measures(1.0, 1.0, 1, True),
        bytearray(b"x"),
        1j,
    ],
    ids=lambda value: type(value).__name__,
)
@pytest.mark.parametrize("protocol", range(5))
def test_no_global_is_ever_looked_up(value: object, protocol: int) -> None:
    with pytest.raises(Damaged):
        frames.decode(framed(pickle.dumps(("s", value), protocol)))


@given(body=st.binary(min_size=1, max_size=60))
def test_wrong_content_with_a_right_checksum_is_damage(body: bytes) -> None:
    try:
        frames.decode(framed(body))
    except Damaged:
        pass


@pytest.mark.parametrize(
    "body",
    [
        b"\x80\x04r\xff\xff\xff\xff.",
        b"\x80\x04\x8e" + struct.pack("<Q", 1 << 62) + b".",
        b"\x80\x04\x8a\x7f" + b"\x01" * 20,
        b"(" * 1000,
        b"}}}.",
    ],
    ids=["memo at 4 billion", "bytes of 4 EiB", "short long", "marks", "several values"],
)
def test_pickles_that_ask_for_too_much_are_damage(body: bytes) -> None:
    try:
        frames.decode(framed(body))
    except Damaged:
        pass


def test_frames_of_reads_between_two_offsets() -> None:
    bodies: list[tuple[Any, ...]] = [("a",), ("b", 1), ("c", b"x" * 1000), ("d",)]
    data = written(bodies)
    starts = [frame.start for frame in frames.decode(data)]

    assert list(frames.frames_of(io.BytesIO(data), 0, len(data))) == bodies
    assert list(frames.frames_of(io.BytesIO(data), starts[1], starts[3])) == bodies[1:3]
    assert list(frames.frames_of(io.BytesIO(data), starts[1], starts[1])) == []


def test_frames_of_a_file_that_is_not_whole_is_damage() -> None:
    data = written([("a",), ("b", b"x" * 50)])
    start = frames.decode(data)[1].start
    flipped = bytearray(data)
    flipped[-3] ^= 4

    for broken in (data[:-1], data[: start + 3], bytes(flipped), data[:start] + bytes(len(data) - start)):
        with pytest.raises(Damaged):
            list(frames.frames_of(io.BytesIO(broken), 0, len(data)))


LEFT_NOTHING = (0, None, None, None)


@given(
    st.integers(-2, 2**65),
    st.integers(-2, 2**33),
    st.integers(-2, 2**65),
    st.floats(allow_nan=False),
    st.booleans(),
)
def test_numbers_that_every_target_has_are_read_as_written(
    id: int, attempt: int, size: int, seconds: float, exact: bool
) -> None:
    """Packed as numbers where they fit, as a pickle where not."""
    started = (frames.STARTED, id, attempt, size, seconds)
    succeeded = (frames.SUCCEEDED, id, attempt, (seconds, seconds, size, exact), *LEFT_NOTHING)
    data = frames.encode(started) + frames.encode(succeeded)

    assert [frame.body for frame in frames.decode(data)] == [started, succeeded]


def test_an_outcome_that_leaves_something_is_read_as_written() -> None:
    bodies = [
        (frames.SUCCEEDED, 1, 1, (0.1, 0.1, 5, True), *left)
        for left in [(1, None, None, None), (0, ("C", 1, 1.0, 0.5, b"p", ()), None, None), (0, None, 0, None),
                     (0, None, None, (b"t", b"v", None, ())), (0, None, None, (b"", b"", None, ())),
                     (0, None, None, (b"t" * 255, b"v", None, ())), (0, None, None, (b"t" * 256, b"v", None, ())),
                     (0, None, None, (b"t", b"v", None, (b"u",))), (0, None, None, (b"t", None, "file", ())),
                     (0, None, 0, (b"t", b"v", None, ()))]
    ]  # fmt: skip
    data = b"".join(map(frames.encode, bodies))

    assert [frame.body for frame in frames.decode(data)] == bodies


@pytest.mark.parametrize(
    "body", [b"s", b"d", b"s" * 28, b"s" * 30, b"d" * 37, b"d" * 39, b"d" * 138, b"q", b"r"]
)
def test_numbers_of_another_size_or_kind_are_damage(body: bytes) -> None:
    with pytest.raises(Damaged):
        frames.decode(HEADER.pack(len(body), zlib.crc32(body)) + body)


def test_offsets_count_from_the_beginning_of_the_file() -> None:
    first, second = frames.encode((frames.STARTED, 1, 1, 0, 0.0)), frames.encode(("w", 1, 1, "text"))

    found = frames.decode(second, 0, len(first))

    assert [(frame.start, frame.end) for frame in found] == [(len(first), len(first) + len(second))]


def _bundle(sizes: list[int], values: int = 0) -> tuple[BundleHeader, list[BundleJob]]:
    header = BundleHeader(
        frames.VERSION, "run", 1, len(sizes), 5, 1.0, 2.0, 3, False, True, False, False, None, 6, 1.0
    )
    jobs = [
        BundleJob(n, 1, 0, 5, 1.0, 0.0, b"p" * size, {b"token": b"v" * values} if values else {})
        for n, size in enumerate(sizes)
    ]
    return header, jobs


@pytest.mark.parametrize(
    ("sizes", "values", "frames_of_jobs"),
    [([], 0, 0), ([1], 0, 1), ([1] * 2500, 0, 3), ([400_000] * 4, 0, 2), ([1] * 4, 1 << 20, 4)],
)
def test_bundle_is_read_as_written_and_no_frame_of_it_grows_too_large(
    sizes: list[int], values: int, frames_of_jobs: int
) -> None:
    written = list(frames.encode_bundle(*_bundle(sizes, values)))

    assert len(written) == 1 + frames_of_jobs
    assert frames.decode_bundle(frames.NO_RECALL + b"".join(written)) == _bundle(sizes, values)


def test_bundle_that_is_not_whole_or_of_another_version_is_none() -> None:
    header, jobs = _bundle([5] * 2001)
    data = frames.NO_RECALL + b"".join(frames.encode_bundle(header, jobs))
    other = header._replace(version=frames.VERSION - 1)

    assert frames.decode_bundle(data[:-1]) is None
    assert frames.decode_bundle(data[:30]) is None
    assert frames.decode_bundle(b"") is None
    assert frames.decode_bundle(frames.NO_RECALL + b"".join(frames.encode_bundle(other, jobs))) is None
