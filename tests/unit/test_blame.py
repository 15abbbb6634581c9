"""Whose fault a worker's death is: the rules of the module."""

from __future__ import annotations

import signal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchsystems.abstract import End, EndKind, Reason
from jobtree.adoption import judgement_of_limit
from jobtree.blame import EX_IOERR, Judgement, Verdict, judge

NAME = "run.1"


def killed_by(number: int) -> End:
    return End(NAME, EndKind.KILLED, reason=Reason.SIGNAL, signal=number)


OWN: dict[str, End] = {
    "exit 1": End(NAME, EndKind.FINISHED, status=1),
    "exit 0": End(NAME, EndKind.FINISHED, status=0),
    "memory": End(NAME, EndKind.KILLED, reason=Reason.MEMORY),
    "time": End(NAME, EndKind.KILLED, reason=Reason.TIME),
    **{
        name: killed_by(getattr(signal, name))
        for name in ("SIGSEGV", "SIGABRT", "SIGBUS", "SIGFPE", "SIGILL", "SIGXCPU", "SIGXFSZ", "SIGALRM")
    },
}
NOT_OWN: dict[str, End] = {
    "lost": End(NAME, EndKind.LOST),
    "disk full": End(NAME, EndKind.FINISHED, status=EX_IOERR),
    "preempted": End(NAME, EndKind.KILLED, reason=Reason.PREEMPTED),
    "node": End(NAME, EndKind.KILLED, reason=Reason.NODE),
    **{
        name: killed_by(getattr(signal, name))
        for name in ("SIGKILL", "SIGTERM", "SIGINT", "SIGHUP", "SIGUSR1")
    },
    "unknown signal": killed_by(200),
}


@pytest.mark.parametrize("death", OWN)
def test_first_target_of_a_worker_answers_for_its_own_deeds(death: str) -> None:
    assert judge(OWN[death], 0).verdict is Verdict.CHARGE


@pytest.mark.parametrize("death", OWN)
@pytest.mark.parametrize("before", [1, 50])
def test_target_that_came_after_others_runs_again_alone(death: str, before: int) -> None:
    judgement = judge(OWN[death], before)

    assert judgement.verdict is Verdict.ALONE
    assert f"after {before} other target" in judgement.message


@pytest.mark.parametrize("death", NOT_OWN)
@pytest.mark.parametrize("before", [0, 1])
def test_what_came_from_outside_is_a_loss(death: str, before: int) -> None:
    assert judge(NOT_OWN[death], before).verdict is Verdict.LOSS


@pytest.mark.parametrize("death", [*OWN, *NOT_OWN])
def test_limit_that_we_enforced_is_the_verdict_whatever_the_end_looks_like(death: str) -> None:
    limit = judgement_of_limit("time", "ran longer than --maxJobDuration")

    assert judge({**OWN, **NOT_OWN}[death], 7, limit) == Judgement(Verdict.CHARGE, "time", limit.message)


@given(
    status=st.integers(0, 255), number=st.integers(1, 64), before=st.integers(0, 3), detail=st.text(max_size=5),
    kind=st.sampled_from([EndKind.FINISHED, EndKind.KILLED, EndKind.LOST]),
    reason=st.none() | st.sampled_from(list(Reason)),
)  # fmt: skip
def test_every_end_has_a_verdict_and_a_sentence(
    status: int, number: int, before: int, detail: str, kind: EndKind, reason: Reason
) -> None:
    try:
        if kind is EndKind.FINISHED:
            end = End(NAME, kind, status=status, detail=detail)
        elif kind is EndKind.KILLED:
            end = End(
                NAME, kind, reason=reason, signal=number if reason is Reason.SIGNAL else None, detail=detail
            )
        else:
            end = End(NAME, kind, detail=detail)
    except ValueError:
        return  # no such end can be reported

    judgement = judge(end, before)

    assert judgement.kind
    assert detail in judgement.message
    assert (judgement.verdict is Verdict.ALONE) <= (before > 0)
    assert (judgement.verdict is Verdict.CHARGE) <= (before == 0)


def test_message_names_signal_and_status() -> None:
    assert "SIGSEGV" in judge(killed_by(signal.SIGSEGV), 0).message
    assert "SIGKILL" in judge(killed_by(signal.SIGKILL), 0).message
    assert "status 7" in judge(End(NAME, EndKind.FINISHED, status=7), 0).message
