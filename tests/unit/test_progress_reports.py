"""What is made of a target's reports of its progress, and how many of them are written down."""

from __future__ import annotations

import math
from fractions import Fraction

import pytest

from jobtree.errors import TargetError
from jobtree.progress_reports import LONGEST, ProgressReports, Report, report_of

HOUR = 3600.0


@pytest.mark.parametrize(
    ("fraction", "kept"), [(0, 0.0), (1, 1.0), (0.25, 0.25), (True, 1.0), (Fraction(1, 2), 0.5), (None, None)]
)
def test_what_makes_sense_is_kept(fraction: object, kept: object) -> None:
    assert report_of(fraction, "words") == (Report(kept, "words"), "")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("fraction", "kept"), [(55, 1.0), (1.0000001, 1.0), (-0.5, 0.0), (math.inf, 1.0), (math.nan, None)]
)
def test_what_is_no_fraction_is_cut_and_that_is_said(fraction: float, kept: object) -> None:
    report, wrong = report_of(fraction, "")
    assert report.fraction == kept
    assert wrong == f"reportProgress() was given {fraction:g}, and a fraction from 0 to 1 is expected"


@pytest.mark.parametrize("fraction", ["0.5", b"1", [1], object(), 10**400, 1j])
def test_what_is_no_number_is_an_error(fraction: object) -> None:
    with pytest.raises(TargetError, match=r"^reportProgress\(\) was given .*, and a number from 0 to 1 is"):
        report_of(fraction, "")


def test_words_are_one_line_that_is_not_too_long() -> None:
    (report, _) = report_of(0.5, "  aligning\n\tchr3\r\n ")
    assert report.words == "aligning chr3"
    (report, _) = report_of(0.5, "x" * (10 * LONGEST))
    assert report.words == "x" * (LONGEST - 3) + "..."


def test_in_words() -> None:
    assert Report(0.999, "nearly").in_words() == "99 %, nearly"
    assert Report(1.0, "").in_words() == "100 %"
    assert Report(None, "who knows").in_words() == "who knows"
    assert Report(None, "").in_words() == ""


def test_each_of_a_few_is_written_down() -> None:
    reports = ProgressReports(7.0)
    assert all(reports.is_due(7.0) for _ in range(100))
    assert not reports.is_due(7.9)
    assert reports.is_due(8.0)


def test_a_loop_that_reports_all_the_time_writes_little() -> None:
    """A hundred reports a second, for three hours."""
    reports = ProgressReports(0.0)
    written = [n / 100 for n in range(int(3 * HOUR) * 100) if reports.is_due(n / 100)]
    gaps = [after - before for before, after in zip(written, written[1:])]
    assert max(gaps) < 10.02
    assert 2 * HOUR / 10 < len(written) < 2500


def test_who_reports_seldom_is_never_left_out() -> None:
    reports = ProgressReports(0.0)
    assert all(reports.is_due(11.0 * n) for n in range(1, 5000))
