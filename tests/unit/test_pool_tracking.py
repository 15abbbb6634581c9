"""What follows from what a hub says of a job, and from what it does not say."""

from __future__ import annotations

from batchsystems.abstract import Capacity, EndKind, Reason
from batchsystems.pool_hub import Given
from batchsystems.pool_tracking import Missing, Tracked

LARGEST = Capacity(4, 1000)


def tracked(cores: float = 1, memory: int = 0, gpus: int = 0) -> Tracked:
    job = Tracked(Given("r.1", f"0 {round(1000 * cores)} {memory} {gpus} r", "signed"))
    job.sent = True
    return job


def test_what_is_missing_is_submitted_again_once_and_then_lost() -> None:
    job = tracked()
    assert [job.is_missing(now, 10) for now in (0, 5, 10)] == [Missing.WAIT] * 3

    assert job.is_missing(11, 10) is Missing.AGAIN
    assert not job.sent
    job.sent = True
    assert [job.is_missing(now, 10) for now in (12, 22)] == [Missing.WAIT] * 2
    assert job.is_missing(23, 10) is Missing.OVER
    assert job.end_of_missing("r.1").kind is EndKind.LOST


def test_a_hub_that_has_shown_it_may_forget_it_again() -> None:
    job = tracked()
    job.is_missing(0, 10)
    assert job.is_missing(11, 10) is Missing.AGAIN
    job.sent = True
    job.is_there()
    job.is_missing(100, 10)

    assert job.is_missing(111, 10) is Missing.AGAIN


def test_time_without_a_hub_does_not_count() -> None:
    job = tracked()
    job.is_missing(0, 10)
    job.nobody_knows()

    assert job.is_missing(100, 10) is Missing.WAIT
    assert job.is_missing(111, 10) is Missing.AGAIN


def test_what_was_cancelled_or_issued_by_an_earlier_start_is_not_submitted_again() -> None:
    cancelled, listed = tracked(), Tracked(None)
    cancelled.cancelled = True
    for job in (cancelled, listed):
        job.is_missing(0, 10)
        assert job.is_missing(11, 10) is Missing.OVER

    assert cancelled.end_of_missing("r.1").reason is Reason.CANCELLED
    assert listed.end_of_missing("r.1").kind is EndKind.LOST


def test_what_fits_no_node_is_given_up_after_some_patience() -> None:
    for job, words in (
        (tracked(cores=5), "5 cores"),
        (tracked(memory=1001), "1001 bytes of memory"),
        (tracked(gpus=1), "1 gpus"),
    ):
        assert job.never_fits("r.1", 0, LARGEST, 60) is None
        assert job.never_fits("r.1", 59, LARGEST, 60) is None
        end = job.never_fits("r.1", 60, LARGEST, 60)
        assert end is not None
        assert end.reason is Reason.NEVER_FITS
        assert words in end.detail


def test_patience_begins_anew_when_a_larger_node_was_there() -> None:
    job = tracked(cores=5)
    job.never_fits("r.1", 0, LARGEST, 60)
    job.never_fits("r.1", 50, Capacity(8, 1000), 60)

    assert job.never_fits("r.1", 70, LARGEST, 60) is None
    assert tracked().never_fits("r.1", 1000, LARGEST, 0) is None
