"""The parts of examples/sort.py that need no pipeline: cutting at line ends, sorting a piece, merging."""

import tempfile
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from examples.sort import find_cut, merge, sort_piece, written_whole

# Few different bytes make many equal lines and many empty ones. \x00, \t and \r sort before the newline or look like
# one, \xff is no UTF-8, and lines of up to 300 bytes are longer than most pieces.
line = st.one_of(
    st.lists(st.sampled_from([b"a", b"b", b"\x00", b"\t", b"\r", b"\xff"]), max_size=3).map(b"".join),
    st.integers(0, 300).map(lambda length: b"x" * length),
)
contents = st.builds(
    lambda lines, last: b"".join(one + b"\n" for one in lines) + last, st.lists(line, max_size=30), line
)


def lines_of(content: bytes) -> list[bytes]:
    """The lines without their newlines; a last line counts with or without one."""
    return content[: -1 if content.endswith(b"\n") else None].split(b"\n") if content else []


def cut_up(path: str, start: int, end: int, max_bytes: int) -> list[tuple[int, int]]:
    """The pieces that the targets of the example would sort."""
    middle = find_cut(path, start, end) if end - start > max_bytes else end
    if middle == end:
        return [(start, end)]
    return cut_up(path, start, middle, max_bytes) + cut_up(path, middle, end, max_bytes)


@given(content=contents, max_bytes=st.integers(1, 100))
@example(content=b"", max_bytes=1)
@example(content=b"short\n" + b"x" * 200, max_bytes=10)
@example(content=b"a\n\na", max_bytes=1)
def test_pieces_cover_the_file_and_end_where_lines_end(content: bytes, max_bytes: int) -> None:
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory, "file")
        path.write_bytes(content)

        pieces = [content[start:end] for start, end in cut_up(str(path), 0, len(content), max_bytes)]

    assert b"".join(pieces) == content
    assert all(piece.endswith(b"\n") for piece in pieces[:-1])
    for piece in pieces:
        assert len(piece) <= max_bytes or len(lines_of(piece)) == 1, (
            "only a single line may be longer than a piece"
        )


@given(content=contents, max_bytes=st.integers(1, 100))
@example(content=b"b\nb\x00\nb\n", max_bytes=2)
def test_sorting_the_pieces_and_merging_them_sorts_the_file(content: bytes, max_bytes: int) -> None:
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory, "file")
        path.write_bytes(content)
        pieces = []
        for start, end in cut_up(str(path), 0, len(content), max_bytes):
            pieces.append(f"{path}-{start}")
            sort_piece(str(path), start, end, pieces[-1])
        result = Path(directory, "result")

        merge(pieces, str(result))

        assert result.read_bytes() == b"".join(one + b"\n" for one in sorted(lines_of(content)))
        assert path.read_bytes() == content, "the input has been changed"


def test_a_file_is_not_seen_before_it_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "result"
    path.write_bytes(b"old")

    def fail_half_way() -> None:
        with written_whole(str(path)) as file:
            file.write(b"half of the ne")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail_half_way()
    assert path.read_bytes() == b"old"
    with written_whole(str(path)) as file:
        file.write(b"new")
        file.flush()
        assert path.read_bytes() == b"old"
    assert path.read_bytes() == b"new"
