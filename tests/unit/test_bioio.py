"""The small functions that old pipelines import."""

from __future__ import annotations

import argparse
import doctest
import io
import logging
import optparse
import os
import pathlib
import stat
import sys
import xml.etree.ElementTree
from collections.abc import Iterator
from typing import Any

import pytest

from jobtree import bioio, sequences


@pytest.fixture
def _restored_logging() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield
    bioio.setLoggingFromOptions(argparse.Namespace())
    root.handlers[:] = handlers
    root.setLevel(level)
    logging.getLogger("jobtree").setLevel(logging.NOTSET)


# -- logging -----------------------------------------------------------------------------------------------


def test_the_logger_is_the_root_logger() -> None:
    assert bioio.logger is logging.getLogger()


@pytest.mark.usefixtures("_restored_logging")
def test_logging_from_options_of_either_parser(tmp_path: pathlib.Path) -> None:
    log = str(tmp_path / "a.log")
    parser = argparse.ArgumentParser()
    bioio.addLoggingOptions(parser)
    bioio.setLoggingFromOptions(parser.parse_args(["--logInfo", "--logFile", log]))
    assert bioio.getLogLevelString() == "INFO"
    bioio.logger.info("hello")
    bioio.logger.debug("no")
    assert pathlib.Path(log).read_text() == "hello\n"
    options = bioio.getBasicOptionParser().parse_args(["--logLevel", "debug"])[0]
    bioio.setLoggingFromOptions(options)
    assert bioio.getLogLevelString() == "DEBUG"
    assert options.tempDirRoot == os.getcwd()
    bioio.setLogLevel("critical")
    assert bioio.getLogLevelString() == "CRITICAL"
    with pytest.raises(ValueError, match="LOUD"):
        bioio.setLogLevel("loud")


@pytest.mark.usefixtures("_restored_logging")
def test_a_basic_parser_and_its_options(monkeypatch: pytest.MonkeyPatch) -> None:
    own = optparse.OptionParser()
    parser = bioio.getBasicOptionParser(parser=own)
    assert parser is own
    monkeypatch.setattr(sys, "argv", ["script", "--logInfo", "more"])
    options, arguments = bioio.parseBasicOptions(parser)
    assert (options.logInfo, arguments, bioio.getLogLevelString()) == (True, ["more"], "INFO")


def test_a_file_is_logged_line_by_line(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "a.log"
    path.write_bytes(b"one\n\ntwo \xff")
    lines: list[str] = []
    bioio.logFile(str(path), lines.append)
    assert lines == [f"Reporting file: {path}", "a.log:\tone", "a.log:\t", "a.log:\ttwo \ufffd"]


# -- commands ----------------------------------------------------------------------------------------------


def test_system_runs_a_command(tmp_path: pathlib.Path) -> None:
    assert bioio.system(f"echo hello > {tmp_path}/a && cat {tmp_path}/a > {tmp_path}/b") == 0
    assert (tmp_path / "b").read_text() == "hello\n"


@pytest.mark.parametrize(("command", "status"), [("exit 3", 3), ("kill -9 $$", -9)])
def test_a_command_that_fails_is_a_runtime_error(command: str, status: int) -> None:
    with pytest.raises(RuntimeError) as caught:
        bioio.system(command)
    assert str(caught.value) == f"Command: {command} exited with non-zero status {status}"
    with pytest.raises(RuntimeError, match=f"exited with non-zero status {status}$"):
        bioio.popenCatch(command)


def test_popen_catch_returns_text() -> None:
    assert bioio.popenCatch("printf 'a\\nb\\n'") == "a\nb\n"
    assert bioio.popenCatch("cat", stdinString="grün\n") == "grün\n"
    with pytest.raises(RuntimeError, match="with stdin string 'in' exited with non-zero status 1"):
        bioio.popenCatch("false", "in")


def test_name_value() -> None:
    assert bioio.nameValue("size", 4) == "--size 4"
    assert bioio.nameValue("size", None) == ""
    assert bioio.nameValue("fast", True, bool) == "--fast"
    assert bioio.nameValue("fast", False, bool) == ""
    assert bioio.nameValue("name", "a b", quotes=True) == "--name 'a b'"
    assert bioio.nameValue("part", 0.9, int) == "--part 0"


# -- files -------------------------------------------------------------------------------------------------


def test_paths(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    assert bioio.absSymPath("link/../link/a") == os.path.join(os.getcwd(), "link", "a")
    assert os.path.isdir(os.path.join(bioio.workflowRootPath(), "jobtree"))


def test_temporary_files_and_directories(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    for root in (None, str(tmp_path / "deep" / "er")):
        directory = bioio.getTempDirectory(root)
        assert os.path.isdir(directory)
        files = {bioio.getTempFile(".txt", rootDir=directory) for _ in range(20)}
        assert len(files) == 20
        assert all(path.endswith(".txt") and os.path.getsize(path) == 0 for path in files)
    assert os.path.dirname(bioio.getTempFile()) == str(tmp_path)


def test_temporary_names_that_are_taken_are_not_reused(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = iter(["one", "one", "two", "two", "three"])
    monkeypatch.setattr(bioio, "_temporary_name", lambda: next(names))
    made = [bioio.getTempFile(rootDir=str(tmp_path)), bioio.getTempDirectory(str(tmp_path))]
    made.append(bioio.getTempFile(rootDir=str(tmp_path)))
    assert [os.path.basename(path) for path in made] == ["one", "two", "three"]


def test_the_umask_decides_who_may_read_temporary_files_of_a_pipeline(tmp_path: pathlib.Path) -> None:
    before = os.umask(0o027)
    try:
        file = bioio.getTempFile(rootDir=str(tmp_path))
        directory = bioio.getTempDirectory(str(tmp_path))
    finally:
        os.umask(before)
    assert stat.S_IMODE(os.stat(file).st_mode) == 0o640
    assert stat.S_IMODE(os.stat(directory).st_mode) == 0o750


def test_random_strings() -> None:
    text = bioio.getRandomAlphaNumericString(30)
    assert len(text) == 30
    assert text.isalnum()
    assert len(bioio.getRandomAlphaNumericString()) == 10


def test_files_one_after_the_other(tmp_path: pathlib.Path) -> None:
    parts = []
    for number in range(30):
        parts.append(str(tmp_path / f"part {number}"))
        pathlib.Path(parts[-1]).write_text(f"{number}\n")
    whole = tmp_path / "whole"
    bioio.catFiles(parts, str(whole))
    assert whole.read_text().split() == [str(number) for number in range(30)]
    bioio.catFiles([], str(whole))
    assert whole.read_text() == ""


def test_is_newer(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    times = {"old": 1.0, "new": 2.0}
    monkeypatch.setattr(os.path, "getctime", times.__getitem__)
    assert bioio.isNewer("new", "old")
    assert not bioio.isNewer("old", "new")
    assert not bioio.isNewer("old", "old")
    monkeypatch.undo()
    with pytest.raises(FileNotFoundError):
        bioio.isNewer(str(tmp_path / "none"), str(tmp_path))


def test_pretty_xml() -> None:
    element = xml.etree.ElementTree.Element("a")
    xml.etree.ElementTree.SubElement(element, "b", {"c": "1"})
    assert bioio.prettyXml(element).splitlines()[1:] == ["<a>", '  <b c="1"/>', "</a>"]


# -- the tree of temporary files -----------------------------------------------------------------------------


def test_a_tree_of_temporary_files_fills_up_evenly(tmp_path: pathlib.Path) -> None:
    tree = bioio.TempFileTree(str(tmp_path / "t"), filesPerDir=2, levels=3)
    files = [tree.getTempFile(".x") for _ in range(7)] + [tree.getTempDirectory()]
    assert sorted(tree.listFiles()) == sorted(files)
    assert max(len(names) for _, *names in ((d, *s, *f) for d, s, f in os.walk(tree.rootDir))) == 2
    with pytest.raises(RuntimeError, match="no room"):
        tree.getTempFile()


def test_a_tree_of_temporary_files_that_exists_is_taken_over(tmp_path: pathlib.Path) -> None:
    first = bioio.TempFileTree(str(tmp_path), filesPerDir=2, levels=2)
    early = [first.getTempFile() for _ in range(3)]
    second = bioio.TempFileTree(str(tmp_path), filesPerDir=2, levels=2)
    assert sorted(second.listFiles()) == sorted(early)
    assert second.getTempFile() not in early
    with pytest.raises(RuntimeError, match="no room"):
        second.getTempFile()


def test_removing_temporary_files(tmp_path: pathlib.Path) -> None:
    tree = bioio.TempFileTree(str(tmp_path / "t"), filesPerDir=2, levels=2)
    file, directory, other = tree.getTempFile(), tree.getTempDirectory(), tree.getTempFile()
    pathlib.Path(directory, "inside").write_text("x")
    tree.destroyTempFile(file)
    tree.destroyTempDir(directory)
    assert tree.listFiles() == [other]
    assert os.listdir(tree.rootDir) == [os.path.basename(os.path.dirname(other))]
    assert (tree.tempFilesCreated, tree.tempFilesDestroyed) == (3, 2)
    (tmp_path / "tx").write_text("outside")
    for outside in (tmp_path / "tx", tmp_path / "t"):
        with pytest.raises(ValueError, match="is not in the temporary file tree"):
            tree.destroyTempFile(str(outside))
    tree.destroyTempFiles()
    assert not os.path.exists(tree.rootDir)


def test_a_tree_of_temporary_files_needs_room() -> None:
    with pytest.raises(ValueError, match="1 or more"):
        bioio.TempFileTree("x", filesPerDir=0)


# -- sequences ---------------------------------------------------------------------------------------------

_FASTA = "#comment\n>first one\nACgt\nN-\n\n>second\n#no\nA C\tG\r\n>empty\n>last\nT"
_READ = [("first one", "ACgtN-"), ("second", "ACG"), ("empty", ""), ("last", "T")]


def test_fasta_from_a_path_a_path_object_and_a_handle(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "a.fa"
    path.write_bytes(_FASTA.encode())
    assert list(bioio.fastaRead(str(path))) == _READ
    assert list(bioio.fastaRead(path)) == _READ
    handle = io.StringIO(_FASTA)
    assert list(bioio.fastaRead(handle)) == _READ
    assert not handle.closed
    assert bioio.fastaReadHeaders(path) == [name for name, _ in _READ]
    assert list(bioio.fastaRead(io.StringIO(""))) == []


def test_a_reader_that_is_dropped_closes_its_file(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "a.fa"
    path.write_text(_FASTA)
    reader = bioio.fastaRead(str(path))
    next(reader)
    reader.close()  # type: ignore[attr-defined]
    with pytest.raises(StopIteration):
        next(reader)


def test_fasta_is_written_in_lines(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "a.fa"
    bioio.fastaWrite(str(path), "one", "A" * 250)
    bioio.fastaWrite(str(path), "two", "", mode="a")
    assert [len(line) for line in path.read_text().split("\n")] == [4, 100, 100, 50, 4, 0]
    handle = io.StringIO()
    bioio.fastaWrite(handle, "three", "ac")
    bioio.fastaWrite(handle, "four", "-*")
    assert handle.getvalue() == ">three\nac\n>four\n-*\n"


def test_what_is_no_sequence() -> None:
    with pytest.raises(RuntimeError, match="'x'.*'!', '1'"):
        list(bioio.fastaRead(io.StringIO(">x\nA1\nC!\n")))
    with pytest.raises(RuntimeError, match="1"):
        bioio.fastaWrite(io.StringIO(), "x", "A1")
    with pytest.raises(RuntimeError, match="1"):
        bioio.fastqWrite(io.StringIO(), "x", "A1", None)


def test_fastq_there_and_back(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "a.fq"
    bioio.fastqWrite(str(path), "one two", "ACG", [33, 64, 126])
    bioio.fastqWrite(str(path), "three", "", [], mode="a")
    assert path.read_text() == "@one two\nACG\n+\n!@~\n@three\n\n+\n\n"
    assert list(bioio.fastqRead(str(path))) == [("one two", "ACG", [33, 64, 126]), ("three", "", [])]


def test_fastq_with_unknown_qualities(caplog: pytest.LogCaptureFixture) -> None:
    handle = io.StringIO()
    bioio.fastqWrite(handle, "a", "ACG", None)
    bioio.fastqWrite(handle, "b", "ACG", "*")
    assert handle.getvalue() == "@a\nACG\n+\n*\n@b\nACG\n+\n*\n"
    handle.seek(0)
    assert list(bioio.fastqRead(handle)) == [("a", "ACG", None), ("b", "ACG", None)]
    assert "a has 3 residues and 1 qualities" in caplog.text


@pytest.mark.parametrize("text", ["@a\nACG\nACG\n", "@a\nACG\n", "@a\nA\n+\n \n", "@a\nA1\n+\nAA\n"])
def test_what_is_no_fastq(text: str) -> None:
    with pytest.raises(RuntimeError, match="'a'"):
        list(bioio.fastqRead(io.StringIO(text)))


@pytest.mark.parametrize("qualities", [[33], [33, 32], [33, 127], "AA"])
def test_qualities_that_do_not_fit(qualities: Any) -> None:
    with pytest.raises(RuntimeError, match="qualit"):
        bioio.fastqWrite(io.StringIO(), "a", "AC", qualities)


def test_reverse_complement() -> None:
    assert bioio.reverseComplement("AACGTn-acgt") == "acgt-nACGTT"
    assert bioio.reverseComplement("") == ""
    assert [bioio.reverseComplementChar(c) for c in "ACGTacgtN"] == list("TGCAtgcaN")


_LINE = "cigar: target 20 10 - query 5 17 + 42.5"


@pytest.mark.parametrize(
    ("operations", "with_scores"), [(" M 8 D 4 I 2", False), (" X 8 0.5 Y 4 0 Z 2 0.25", True)]
)
def test_cigars(operations: str, with_scores: bool, tmp_path: pathlib.Path) -> None:
    alignment = bioio.cigarReadFromString(_LINE + operations + "\n")
    assert alignment is not None
    assert (alignment.contig1, alignment.start1, alignment.end1, alignment.strand1) == ("query", 5, 17, True)
    assert (alignment.contig2, alignment.start2, alignment.end2, alignment.strand2) == (
        "target",
        20,
        10,
        False,
    )
    assert alignment.score == 42.5
    assert [(operation.type, operation.length) for operation in alignment.operationList] == [
        (bioio.PairwiseAlignment.PAIRWISE_MATCH, 8),
        (bioio.PairwiseAlignment.PAIRWISE_INDEL_X, 4),
        (bioio.PairwiseAlignment.PAIRWISE_INDEL_Y, 2),
    ]
    path = tmp_path / "a.cigar"
    with open(path, "w") as handle:
        handle.write("a line of another kind\n")
        bioio.cigarWrite(handle, alignment, withProbs=with_scores)
        bioio.cigarWrite(handle, alignment, withProbs=with_scores)
    assert list(bioio.cigarRead(str(path))) == [alignment, alignment]
    assert list(bioio.cigarRead(io.StringIO(path.read_text()))) == [alignment, alignment]


def test_alignments_are_compared_by_value() -> None:
    line = "cigar: t 0 2 + q 0 2 + {} X 2 {}"
    alignment = bioio.cigarReadFromString(line.format(1, 0.5))
    assert alignment == bioio.cigarReadFromString(line.format(1.0001, 0.50001))
    assert alignment != bioio.cigarReadFromString(line.format(2, 0.5))
    assert alignment != bioio.cigarReadFromString(line.format(1, 0.6))
    assert alignment != "cigar"
    assert bioio.AlignmentOperation(0, 1, 0.0) != "M 1"


def test_an_alignment_without_operations_and_no_alignment_at_all() -> None:
    empty = bioio.cigarReadFromString("cigar: a b 3 3 + c 7 7 + 0")
    assert empty is not None
    assert (empty.contig2, empty.operationList) == ("a b", [])
    assert bioio.cigarReadFromString("vulgar: a 0 1 + b 0 1 + 0 M 1") is None


@pytest.mark.parametrize("operations", ["M 9 D 4 I 2", "M 8", "Q 8", "M", "X 8 1", "M eight"])
def test_cigars_that_make_no_sense(operations: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011  # each says something else
        bioio.cigarReadFromString(f"{_LINE} {operations}")


def test_segments_that_make_no_sense() -> None:
    with pytest.raises(ValueError, match="from 5 to 3 on the [+] strand"):
        bioio.PairwiseAlignment("a", 5, 3, True, "b", 0, 2, True, 0, [bioio.AlignmentOperation(0, 2, 0)])


def test_the_examples_in_the_documentation() -> None:
    assert doctest.testmod(bioio).failed == 0
    assert doctest.testmod(sequences).failed == 0


def test_everything_that_is_exported_exists() -> None:
    assert [name for name in bioio.__all__ if not hasattr(bioio, name)] == []
