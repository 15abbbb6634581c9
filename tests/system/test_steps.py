"""Files of steps, run by jobTreeRun."""

from __future__ import annotations

from pathlib import Path

from tests.system.pipelines import Pipeline

STEPS = """
steps:
  words:
    command: printf 'b\\na\\nc\\na\\n' > words.txt && echo made >> made
    outputs: [words.txt]
  sorted:
    command: sort words.txt
    inputs: [words.txt]
    outputs: [out/sorted.txt]
    log: out/sorted.txt
  unique:
    command: sort -u words.txt > unique.txt
    inputs: [words.txt]
    outputs: [unique.txt]
  compare:
    call: comparing:compare
    with: {one: out/sorted.txt, other: unique.txt}
    needs: [sorted, unique]
    log: compared.txt
"""

COMPARING = """
def compare(one, other):
    print(sum(1 for _ in open(one)) - sum(1 for _ in open(other)))
"""


def steps_in(tmp_path: Path, text: str = STEPS) -> Pipeline:
    pipeline = Pipeline(tmp_path)
    (tmp_path / "steps.yaml").write_text(text)
    (tmp_path / "comparing.py").write_text(COMPARING)
    return pipeline


def test_steps_run_in_the_order_of_their_needs(tmp_path: Path) -> None:
    pipeline = steps_in(tmp_path)

    pipeline.program("jobTreeRun", "tree", "--steps", "steps.yaml").succeeded()

    assert (tmp_path / "out" / "sorted.txt").read_text() == "a\na\nb\nc\n"
    assert (tmp_path / "compared.txt").read_text() == "1\n"
    assert pipeline.notes("made") == ["made"]


def test_a_step_that_fails_is_run_again_by_the_same_command_and_no_other(tmp_path: Path) -> None:
    pipeline = steps_in(tmp_path)
    (tmp_path / "comparing.py").write_text(COMPARING.replace("print", "raise ValueError"))

    failed = pipeline.program("jobTreeRun", "tree", "--steps", "steps.yaml")
    (tmp_path / "comparing.py").write_text(COMPARING)
    again = pipeline.program("jobTreeRun", "tree", "--steps", "steps.yaml")

    assert failed.status == 1
    assert "ValueError" in failed.err
    again.succeeded()
    assert (tmp_path / "compared.txt").read_text() == "1\n"
    assert pipeline.notes("made") == ["made"]


def test_an_output_that_was_not_written_fails_its_step(tmp_path: Path) -> None:
    pipeline = steps_in(
        tmp_path, "steps:\n  a: {command: 'true', outputs: [never]}\n  b: {command: x, inputs: never}\n"
    )

    ran = pipeline.program("jobTreeRun", "tree", "--steps", "steps.yaml")

    assert ran.status == 1
    assert "step 'a' has ended well and 'never' is not in" in ran.err


def test_an_input_that_is_not_there_fails_its_step(tmp_path: Path) -> None:
    pipeline = steps_in(tmp_path, "steps:\n  a: {command: 'true', inputs: [given]}\n")

    ran = pipeline.program("jobTreeRun", "tree", "--steps", "steps.yaml")

    assert ran.status == 1
    assert "step 'a' needs 'given' in" in ran.err


def test_a_mistake_in_the_file_is_misuse_and_makes_nothing(tmp_path: Path) -> None:
    pipeline = steps_in(tmp_path, "steps:\n  a:\n    comand: x\n")

    ran = pipeline.program("jobTreeRun", "tree", "--steps", "steps.yaml")

    assert ran.status == 2
    assert "steps.yaml, line 3: step 'a' has the unknown key 'comand'; did you mean 'command'?" in ran.err
    assert not (tmp_path / "tree").exists()


def test_a_run_begins_with_one_thing(tmp_path: Path) -> None:
    ran = steps_in(tmp_path).program("jobTreeRun", "tree", "--steps", "steps.yaml", "--command", "true")

    assert ran.status == 2
    assert "--command and --steps are given" in ran.err
