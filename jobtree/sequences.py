"""FASTA, FASTQ and cigar files, for the pipelines that get them from ``jobTree.src.bioio``.

Readers are generators and take a path or an open text file; a file that they opened
is closed when they end or are dropped. Writers take a path, which they replace (or
extend with ``mode="a"``), or an open text file.
"""

# ruff: noqa: N802, N803  # what pipelines call keeps the names that they call it by

from __future__ import annotations

import contextlib
import logging
import math
import os
import re
import string
from collections.abc import Iterator, Sequence
from typing import Final, Optional, TextIO, Union

FileOrPath = Union[str, "os.PathLike[str]", TextIO]

_LINE_LENGTH: Final = 100
_RESIDUES: Final = frozenset(string.ascii_letters + "-")
# What other programs' FASTA files hold besides letters: "*" for a stop, "." for a gap.
_READABLE: Final = _RESIDUES | frozenset("*.")
_COMPLEMENTS: Final = str.maketrans("ACGTacgt", "TGCAtgca")


@contextlib.contextmanager
def _opened(file: FileOrPath, mode: str = "r") -> Iterator[TextIO]:
    if isinstance(file, (str, os.PathLike)):
        with open(file, mode) as handle:
            yield handle  # type: ignore[misc]  # every mode that is used here is a text mode
    else:
        yield file


def _check_residues(sequence: str, allowed: frozenset[str], name: str) -> None:
    wrong = sorted(set(sequence) - allowed)
    if wrong:
        raise RuntimeError(f"the sequence {name!r} holds characters that are none of a sequence: {wrong}")


# -- FASTA -----------------------------------------------------------------------------------------------


def fastaRead(fileHandleOrFile: FileOrPath) -> Iterator[tuple[str, str]]:
    """The (name, sequence) pairs of a FASTA file, one after the other.

    The name is the whole line after ">". Lines that begin with "#" and all blanks are
    left out. RuntimeError for characters that cannot be in a sequence.
    """
    with _opened(fileHandleOrFile) as handle:
        name: Optional[str] = None
        parts: list[str] = []
        for line in handle:
            if line.startswith(">"):
                if name is not None:
                    yield _whole_sequence(name, parts)
                name, parts = line[1:].rstrip("\r\n"), []
            elif name is not None and not line.startswith("#"):
                parts.append("".join(line.split()))
        if name is not None:
            yield _whole_sequence(name, parts)


def _whole_sequence(name: str, parts: list[str]) -> tuple[str, str]:
    sequence = "".join(parts)
    _check_residues(sequence, _READABLE, name)
    return name, sequence


def fastaReadHeaders(fasta: FileOrPath) -> list[str]:
    """The names of all sequences of a FASTA file."""
    with _opened(fasta) as handle:
        return [line[1:].rstrip("\r\n") for line in handle if line.startswith(">")]


def fastaWrite(fileHandleOrFile: FileOrPath, name: str, seq: str, mode: str = "w") -> None:
    """Write one sequence in FASTA, in lines of 100; RuntimeError for characters that cannot be in one."""
    _check_residues(seq, _READABLE, name)
    with _opened(fileHandleOrFile, mode) as handle:
        handle.write(f">{name}\n")
        for start in range(0, len(seq), _LINE_LENGTH):
            handle.write(seq[start : start + _LINE_LENGTH] + "\n")


# -- FASTQ -----------------------------------------------------------------------------------------------


def fastqRead(fileHandleOrFile: FileOrPath) -> Iterator[tuple[str, str, Optional[list[int]]]]:
    """The (name, sequence, qualities) of a FASTQ file with one line per sequence.

    Qualities are character codes from 33 to 126, or None (with a critical log message)
    if there are not as many as residues. RuntimeError if the file is not like that.
    """
    with _opened(fileHandleOrFile) as handle:
        for header in handle:
            if not header.startswith("@"):
                continue
            name = header[1:].rstrip("\r\n")
            sequence = handle.readline().rstrip("\r\n")
            plus = handle.readline()
            if not plus.startswith("+"):
                raise RuntimeError(f"the third line of {name!r} should begin with '+' and is {plus!r}")
            codes: Optional[list[int]] = [ord(letter) for letter in handle.readline().rstrip("\r\n")]
            _check_residues(sequence, _RESIDUES, name)
            if codes is not None and len(codes) != len(sequence):
                logging.getLogger().critical(
                    "%s has %d residues and %d qualities, so its qualities are left out",
                    name,
                    len(sequence),
                    len(codes),
                )
                codes = None
            _check_qualities(codes or [], name)
            yield name, sequence, codes


def fastqWrite(
    fileHandleOrFile: FileOrPath,
    name: str,
    seq: str,
    qualValues: Union[Sequence[int], str, None],
    mode: str = "w",
) -> None:
    """Write one sequence in FASTQ; qualValues are character codes, or None or "*" for unknown.

    RuntimeError for characters that cannot be in a sequence, and for qualities that do not fit.
    """
    _check_residues(seq, _RESIDUES, name)
    qualities = "*"
    if qualValues is not None and not isinstance(qualValues, str):
        if len(qualValues) != len(seq):
            raise RuntimeError(f"{name!r} has {len(seq)} residues and {len(qualValues)} qualities")
        _check_qualities(qualValues, name)
        qualities = "".join(map(chr, qualValues))
    elif qualValues not in (None, "*"):
        raise RuntimeError(f"qualities are numbers or '*', and {qualValues!r} was given for {name!r}")
    with _opened(fileHandleOrFile, mode) as handle:
        handle.write(f"@{name}\n{seq}\n+\n{qualities}\n")


def _check_qualities(codes: Sequence[int], name: str) -> None:
    for code in codes:
        if not 33 <= code <= 126:
            raise RuntimeError(f"{name!r} has the quality {code}, and 33 to 126 is possible")


# -- complements -----------------------------------------------------------------------------------------


def reverseComplement(seq: str) -> str:
    """The other strand, in its own direction; letters other than ACGT and acgt stay as they are.

    >>> reverseComplement("AACn")
    'nGTT'
    """
    return seq[::-1].translate(_COMPLEMENTS)


def reverseComplementChar(c: str) -> str:
    """The base that pairs with this one."""
    return c.translate(_COMPLEMENTS)


# -- cigars ----------------------------------------------------------------------------------------------


class AlignmentOperation:
    """A stretch of an alignment: its type (see `PairwiseAlignment`), length and score."""

    def __init__(self, opType: int, length: int, score: float) -> None:
        self.type = opType
        self.length = length
        self.score = score

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, AlignmentOperation):
            return NotImplemented
        return (
            self.type == other.type
            and self.length == other.length
            and math.isclose(self.score, other.score, abs_tol=0.0001)
        )

    # Equal within a tolerance: no hash can agree with that, so there is none (Python takes it away with __eq__).

    def __repr__(self) -> str:
        return f"AlignmentOperation({self.type}, {self.length}, {self.score})"


class PairwiseAlignment:
    """An alignment of two segments; a segment on the minus strand has start >= end.

    Raises ValueError if the operations do not add up to the lengths of the segments.
    """

    PAIRWISE_MATCH = 0
    PAIRWISE_INDEL_Y = 1  # only the second sequence has it
    PAIRWISE_INDEL_X = 2  # only the first sequence has it
    PAIRWISE_PLUS = "+"
    PAIRWISE_MINUS = "-"

    def __init__(
        self,
        contig1: str,
        start1: int,
        end1: int,
        strand1: bool,
        contig2: str,
        start2: int,
        end2: int,
        strand2: bool,
        score: float,
        operationList: list[AlignmentOperation],
    ) -> None:
        self.contig1 = contig1
        self.start1 = start1
        self.end1 = end1
        self.strand1 = strand1
        self.contig2 = contig2
        self.start2 = start2
        self.end2 = end2
        self.strand2 = strand2
        self.score = score
        self.operationList = operationList
        _check_segment(contig1, start1, end1, strand1, operationList, self.PAIRWISE_INDEL_Y)
        _check_segment(contig2, start2, end2, strand2, operationList, self.PAIRWISE_INDEL_X)

    def sameCoordinates(self, pairwiseAlignment: PairwiseAlignment) -> bool:
        """Whether both align the same segments with the same score."""
        return self._segments() == pairwiseAlignment._segments() and math.isclose(
            self.score, pairwiseAlignment.score, abs_tol=0.001
        )

    def _segments(self) -> tuple[object, ...]:
        first = (self.contig1, self.start1, self.end1, self.strand1)
        return (*first, self.contig2, self.start2, self.end2, self.strand2)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, PairwiseAlignment):
            return NotImplemented
        return self.sameCoordinates(other) and self.operationList == other.operationList

    # Equal within a tolerance: no hash can agree with that, so there is none (Python takes it away with __eq__).


def _check_segment(
    contig: str, start: int, end: int, strand: bool, operations: list[AlignmentOperation], not_in_it: int
) -> None:
    if min(start, end) < 0 or (start > end if strand else end > start):
        raise ValueError(f"{contig} cannot be aligned from {start} to {end} on the {'+-'[not strand]} strand")
    covered = sum(operation.length for operation in operations if operation.type != not_in_it)
    if covered != abs(end - start):
        raise ValueError(f"{contig} is aligned from {start} to {end}, but the operations cover {covered}")


_CIGAR = re.compile(
    r"cigar:\s+(?P<contig2>.+)\s+(?P<start2>[0-9]+)\s+(?P<end2>[0-9]+)\s+(?P<strand2>[-+])"
    r"\s+(?P<contig1>.+)\s+(?P<start1>[0-9]+)\s+(?P<end1>[0-9]+)\s+(?P<strand1>[-+])"
    r"\s+(?P<score>\S+)(?P<operations>(?:\s+\S+)*)\s*"
)
_MATCH, _ONLY_1, _ONLY_2 = (
    PairwiseAlignment.PAIRWISE_MATCH,
    PairwiseAlignment.PAIRWISE_INDEL_X,
    PairwiseAlignment.PAIRWISE_INDEL_Y,
)
_PLAIN_LETTERS: Final = {_MATCH: "M", _ONLY_1: "D", _ONLY_2: "I"}
_SCORED_LETTERS: Final = {_MATCH: "X", _ONLY_1: "Y", _ONLY_2: "Z"}
_TYPES: Final = {
    letter: kind for letters in (_PLAIN_LETTERS, _SCORED_LETTERS) for kind, letter in letters.items()
}


def cigarReadFromString(line: str) -> Optional[PairwiseAlignment]:
    """The alignment of a line "cigar: ...", or None if the line is none.

    The line names the second sequence first. Operations are "M 12", "D 3", "I 3", or with a
    score "X 12 0.5", "Y 3 0.5", "Z 3 0.5". ValueError if they make no sense.
    """
    found = _CIGAR.fullmatch(line.strip())
    if found is None:
        return None
    words = found["operations"].split()
    operations: list[AlignmentOperation] = []
    while words:
        letter = words[0]
        taken = 3 if letter in _SCORED_LETTERS.values() else 2
        if letter not in _TYPES or len(words) < taken:
            raise ValueError(f"{' '.join(words[:taken])!r} is no operation of a cigar: {line.strip()}")
        score = float(words[2]) if taken == 3 else 0.0
        operations.append(AlignmentOperation(_TYPES[letter], int(words[1]), score))
        del words[:taken]
    return PairwiseAlignment(
        found["contig1"],
        int(found["start1"]),
        int(found["end1"]),
        found["strand1"] == "+",
        found["contig2"],
        int(found["start2"]),
        int(found["end2"]),
        found["strand2"] == "+",
        float(found["score"]),
        operations,
    )


def cigarRead(fileHandleOrFile: FileOrPath) -> Iterator[PairwiseAlignment]:
    """The alignments of a file of cigar lines; other lines are left out."""
    with _opened(fileHandleOrFile) as handle:
        for line in handle:
            alignment = cigarReadFromString(line)
            if alignment is not None:
                yield alignment


def cigarWrite(fileHandle: TextIO, pairwiseAlignment: PairwiseAlignment, withProbs: bool = True) -> None:
    """Write an alignment as a cigar line, second sequence first; withProbs adds the operations' scores."""
    alignment = pairwiseAlignment
    line = [
        f"cigar: {alignment.contig2} {alignment.start2} {alignment.end2} {'+-'[not alignment.strand2]}",
        f"{alignment.contig1} {alignment.start1} {alignment.end1} {'+-'[not alignment.strand1]}",
        f"{alignment.score:f}",
    ]
    for operation in alignment.operationList:
        if withProbs:
            line.append(f"{_SCORED_LETTERS[operation.type]} {operation.length} {operation.score:f}")
        else:
            line.append(f"{_PLAIN_LETTERS[operation.type]} {operation.length}")
    fileHandle.write(" ".join(line) + "\n")
