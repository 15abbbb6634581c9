"""Frames: how a bundle's file and its outcome file are laid out.

Both files are sequences of *frames*, written front to back by exactly one process and read by another while they
still grow. What that asks for:

  - A reader must know a whole frame from one that is still being written or was torn by a crash. So each frame is
    ``length (4 bytes, little endian) | CRC-32 of the body (4) | body``. A tail that is too short or whose CRC does
    not match is "not there yet"; only when the writer is known to be dead is it damage, and then it costs one run of
    the targets concerned, never more. Zeroed blocks, which file systems leave behind after a power cut, cannot pass:
    a length of zero is not a frame.
  - The reader must not run code that the writer chose. The body is a pickle of plain values (numbers, text, bytes,
    tuples, lists, dicts, None) and is read by an unpickler that refuses every global; targets and returned values
    stay inside as bytes that only a worker opens.
  - It must be cheap: a no-op target costs about 2 us on each side. JSON cannot carry bytes; a schema compiler would be
    one more dependency for a format that one version of this library writes and the same version reads. The two
    frames that every target has, *started* and the outcome of one that leaves nothing behind, are numbers only, and
    packed as such (a third of the time of a pickle): a letter, then the numbers, then the token and the value of one
    that leaves nothing but a value without promises in it. A pickle begins with no letter.

The bundle's file starts with one more byte before its frames, the *control byte*: 0, 1 when the master recalls what
has not been started, or 2 when it cancels the bundle (only a supervisor looks for that). It is there from the
beginning because a name that does not exist yet may be cached as absent by a network file system, while one byte, read
after a fresh open, is seen.

The first frame of a bundle is a ``BundleHeader``, each of the rest holds many ``BundleJob``; an outcome file holds
tuples whose first item is one of the letters below. The version in the header must be ours: bundles do not outlive an
upgrade, they are simply made again.
"""

from __future__ import annotations

import io
import pickle
import struct
import zlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple, Optional

VERSION = 5

HEADER = struct.Struct("<II")
MAX_BODY = 1 << 31
"""A longer body (2 GiB) is a sign of damage, not data: children of a large fan-out are split into chunks."""

_PICKLE = b"\x80"
"""The first byte of every pickle of protocol 2 or later."""

STARTED = "s"
SUCCEEDED = "d"
FAILED = "f"
CHILDREN = "c"
SERVICES = "S"
"""Children; children that are services. They count only if the outcome follows."""
SERVES = "u"
WELL = "l"
"""A service is up, with its address; it was found well."""
GLOBAL_DIR = "g"
VALUE_FILE = "v"
MESSAGE = "m"
PROGRESS = "p"
CANNOT_IMPORT = "x"
GAVE_BACK = "r"
WARNING = "w"
RECALLED = "a"
END = "e"
"""These two are the supervisor's: the recall has reached the worker, and how the bundle ended (jobtree.heartbeat)."""

JOBS = "j"
"""In the bundle's file: a list of jobs."""

_STARTED = struct.Struct("<BQIQd")
"""A letter, id, attempt, where its output begins, and when: seconds since 1970 on the clock of the worker's machine."""
_LEFT_NOTHING = struct.Struct("<BQIddQ?")
"""A letter, id, attempt, and the measures, of a target that has succeeded and left no child or follow-on."""
_JOBS_AT_ONCE = 1000
_BYTES_AT_ONCE = 1 << 20

_S, _D = ord(STARTED), ord(SUCCEEDED)
_NOTHING = (0, None, None)

LAST_WORDS = "jobtree worker: "
"""How the line begins with which a worker says, in its log, why it can write no frames any more."""

RECALL = b"\x01"
NO_RECALL = b"\x00"
CANCEL = b"\x02"

OVERTIME = 2
"""On a cluster a worker begins no more jobs of its bundle after so many times --jobTime; they are given back."""


class BundleHeader(NamedTuple):
    """What a worker must know of its bundle. Sizes in bytes, times in seconds, paths absolute."""

    version: int
    run: str
    bundle: int
    jobs: int
    memory: int
    cpu: float
    job_time: float
    max_log_file_size: int
    keep_logs: bool
    durable: bool
    isolate: bool
    global_dirs: bool
    log_level: Optional[str]
    default_memory: int
    default_cpu: float
    supervision: Optional[tuple[Any, ...]] = None
    """``Supervision``, as a plain tuple; None on the master's own machine."""
    countable: str = ""


class Supervision(NamedTuple):
    """What the supervisor of a bundle must know, where workers outlive the master. Seconds.

    library, python: versions that must be the same there. time_limit: after which the batch system ends the bundle; 0:
    none.
    """

    lease: float
    grace: float
    library: str
    python: str
    time_limit: float


class BundleJob(NamedTuple):
    """One job of a bundle. memory, cpu: what it may use, with the defaults applied.

    values: the kept promises that its payload mentions, as bytes or the name of a file.
    """

    id: int
    attempt: int
    step: int
    memory: int
    cpu: float
    time: float
    payload: bytes
    values: Mapping[bytes, Any]


class Packed(NamedTuple):
    """A target as it is stored: its class's name, what it asks for (None: not said), its pickle, its promises."""

    name: str
    memory: Optional[int]
    cpu: Optional[float]
    time: Optional[float]
    payload: bytes
    mentions: tuple[bytes, ...]
    countable: str = ""


class Measures(NamedTuple):
    """What one attempt used: seconds of wall clock and CPU, peak memory in bytes (exact=False: of the bundle)."""

    wall: float
    cpu: float
    memory: int
    exact: bool


class Failure(NamedTuple):
    """Why an attempt failed. kind is one word; output is the tail of what the target printed."""

    kind: str
    message: str
    traceback: str
    output: str
    log_start: int
    log_end: int


class Damaged(Exception):
    """A frame that should be whole is not."""


class _PlainPickler(pickle.Pickler):
    def reducer_override(self, obj: Any) -> Any:
        # Asked for whatever is not exactly a number, text, bytes, tuple, list, dict, set, truth value or None.
        raise TypeError(f"a frame asks for {type(obj).__qualname__}; frames hold plain values only")


class _PlainUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        raise Damaged(f"a frame asks for {module}.{name}; frames hold plain values only")


def encode(body: tuple[Any, ...]) -> bytes:
    """One frame. body: plain values. Raises TypeError for what a reader would refuse (a named tuple inside, a
    subclass of str): callers unwrap those."""
    data = _packed(body) or _pickled(body)
    if len(data) > MAX_BODY:
        raise TypeError(f"a frame of {len(data)} bytes is larger than a reader takes ({MAX_BODY})")
    return HEADER.pack(len(data), zlib.crc32(data)) + data


def _packed(body: tuple[Any, ...]) -> Optional[bytes]:
    """The body of a frame of numbers only; None for any other."""
    try:
        if body[0] == STARTED:
            return _STARTED.pack(_S, *body[1:])
        if body[0] == SUCCEEDED and body[4:7] == _NOTHING:
            numbers = _LEFT_NOTHING.pack(_D, body[1], body[2], *body[3])
            return numbers if body[7] is None else _with_value(numbers, *body[7])
    except struct.error:  # a number that does not fit
        pass
    return None


def _with_value(
    numbers: bytes, token: bytes, value: Optional[bytes], file: Optional[str], mentions: tuple[bytes, ...]
) -> Optional[bytes]:
    if value is None or file is not None or mentions or len(token) > 255:
        return None
    return b"%b%c%b%b" % (numbers, len(token), token, value)


def _pickled(body: tuple[Any, ...]) -> bytes:
    buffer = io.BytesIO()
    try:
        _PlainPickler(buffer, 4).dump(body if type(body) is tuple else tuple(body))
    except TypeError as error:
        raise TypeError(f"{error}: {body!r:.200}") from None
    return buffer.getvalue()


def _unpacked(body: bytes, offset: int) -> tuple[Any, ...]:
    try:
        if body[:1] == b"s":
            _, id, attempt, log_start, moment = _STARTED.unpack(body)
            return STARTED, id, attempt, log_start, moment
        if body[:1] == b"d":
            _, id, attempt, wall, cpu, memory, exact = _LEFT_NOTHING.unpack_from(body)
            kept = _value_in(body)
            return SUCCEEDED, id, attempt, (wall, cpu, memory, exact), 0, None, None, kept
    except struct.error:
        pass
    raise Damaged(f"a frame at byte {offset} has a right checksum and cannot be read")


def _value_in(body: bytes) -> Optional[tuple[bytes, bytes, None, tuple[()]]]:
    """What ``_with_value`` has put behind the numbers; None if there is nothing."""
    begin = _LEFT_NOTHING.size + 1
    if len(body) < begin:
        return None
    end = begin + body[begin - 1]
    if end > len(body):
        raise struct.error("a token that is cut off")
    return body[begin:end], body[end:], None, ()


class Frame(NamedTuple):
    """A whole frame: where it starts and ends, and its body."""

    start: int
    end: int
    body: Any


def decode(data: bytes, offset: int = 0, origin: int = 0) -> list[Frame]:
    """The whole frames of data from offset on. Raises Damaged for one that is whole and not a frame of ours.

    origin: where in its file data begins; the frames' starts and ends count from the beginning of the file.
    """
    found = []
    end = len(data)
    header = HEADER.size
    header_of, crc_of = HEADER.unpack_from, zlib.crc32
    while offset + header <= end:
        length, crc = header_of(data, offset)
        start = offset + header
        stop = start + length
        if not 0 < length <= MAX_BODY or stop > end:
            break
        body = data[start:stop]
        if crc_of(body) != crc:
            break
        try:
            found.append(Frame(origin + offset, origin + stop, _load(body, offset)))
        except Damaged:
            if found:
                break  # those before it are good; whoever goes on reading meets it first thing
            raise
        offset = stop
    return found


def _load(body: bytes, offset: int) -> Any:
    if body[:1] != _PICKLE:
        return _unpacked(body, offset)
    try:
        return _PlainUnpickler(io.BytesIO(body)).load()
    except (
        pickle.UnpicklingError, EOFError, ValueError, IndexError, KeyError, AttributeError, TypeError, MemoryError,
        OverflowError,
    ):  # fmt: skip
        raise Damaged(f"a frame at byte {offset} has a right checksum and cannot be read") from None


def encode_bundle(header: BundleHeader, jobs: Iterable[BundleJob]) -> Iterator[bytes]:
    """The frames of a bundle's file. Many jobs go into one, which takes a quarter of the time of a frame for each."""
    yield encode(header)
    chunk: list[tuple[Any, ...]] = []
    size = 0
    for job in jobs:
        chunk.append(tuple(job))
        size += len(job.payload) + sum(map(len, job.values.values()))
        if len(chunk) == _JOBS_AT_ONCE or size >= _BYTES_AT_ONCE:
            yield encode((JOBS, chunk))
            chunk, size = [], 0
    if chunk:
        yield encode((JOBS, chunk))


def decode_bundle(data: bytes) -> Optional[tuple[BundleHeader, list[BundleJob]]]:
    """What ``encode_bundle`` has written after the control byte; None if it is of another version or not whole."""
    found = decode(data, 1)
    if not found or found[0].body[0] != VERSION:
        return None
    header = BundleHeader(*found[0].body)
    jobs = [BundleJob(*job) for frame in found[1:] for job in frame.body[1]]
    return (header, jobs) if len(jobs) == header.jobs else None


def frames_of(file: io.BufferedIOBase, offset: int, end: int) -> Iterator[Any]:
    """The frames of an open file between two offsets, one in memory at a time; Damaged if one is not whole."""
    file.seek(offset)
    while offset < end:
        head = file.read(HEADER.size)
        if len(head) < HEADER.size:
            raise Damaged(f"the file ends at byte {offset}, inside a frame")
        length, crc = HEADER.unpack(head)
        body = file.read(length) if 0 < length <= MAX_BODY else b""
        if len(body) != length or zlib.crc32(body) != crc:
            raise Damaged(f"the frame at byte {offset} is not whole")
        yield _load(body, offset)
        offset += HEADER.size + length
