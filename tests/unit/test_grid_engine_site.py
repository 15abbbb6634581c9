"""What is asked of a Grid Engine at the start, where it falls silent in the middle of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Optional

import pytest

from batchsystems.commands import Answer
from batchsystems.grid_engine import read_site
from batchsystems.grid_engine_commands import Site

QUEUES = "<job_info><Queue-List><name>all.q@one</name><slots_total>8</slots_total></Queue-List></job_info>"
SAID = {
    ("qconf", "-sc"): "h_vmem h_vmem MEMORY <= YES YES 1G 0",
    ("qconf", "-spl"): "smp",
    ("qconf", "-sp"): "pe_name smp\nallocation_rule $pe_slots",
    ("qstat", "-f"): QUEUES,
    ("qconf", "-se"): "hostname one\ncomplex_values h_vmem=4G,slots=8",
}
AWAY = "error: commlib error: got select error (Connection refused)"


def site_without(silent: Optional[tuple[str, str]], answer: Answer) -> Site:
    """What is found where everything is answered but this one question."""

    def ask(arguments: Sequence[str]) -> Answer:
        question = (arguments[0], arguments[1])
        return answer if question == silent else Answer(0, SAID[question], "")

    return read_site(ask, "h_vmem", None)


def test_everything_that_was_asked_is_known() -> None:
    site = site_without(None, Answer(0, "", ""))

    assert site.known
    assert site.pe == "smp"
    assert [(node.name, node.cpus, node.memory) for node in site.nodes] == [("one", 8, 4 << 30)]


@pytest.mark.parametrize("answer", [Answer(1, "", AWAY), Answer(None, "", "")], ids=["away", "no answer"])
@pytest.mark.parametrize("question", SAID, ids=" ".join)
def test_silence_is_not_the_answer_that_there_is_nothing(question: tuple[str, str], answer: Answer) -> None:
    site = site_without(question, answer)

    assert not site.known, "so it is asked again"
    assert site.nodes == ()


def test_no_parallel_environment_is_an_answer() -> None:
    site = site_without(("qconf", "-spl"), Answer(1, "", "no parallel environment defined"))

    assert site.known
    assert site.pe is None
