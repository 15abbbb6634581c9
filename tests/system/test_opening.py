"""``jobtree.open``: a run from Python, from a notebook, and from what is no file at all."""

from __future__ import annotations

import json
import os
import re
import signal
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import nbformat
import pytest

from jobtree import opening
from jobtree.errors import UsageError
from tests.system.legacy_script import CHECKOUT
from tests.system.pipelines import Pipeline, wait_until
from tests.system.waiting import PAUSE, Bench

DEFINITIONS = """
import os
import jobtree

FACTOR = 10

class Sum(jobtree.Target):
    def __init__(self, numbers):
        jobtree.Target.__init__(self, memory="100M")
        self.numbers = numbers

    def run(self):
        parts = [self.addChildTarget(Times(number)).rv() for number in self.numbers]
        return self.setFollowOnFn(add, args=(parts,)).rv()

class Times(jobtree.Target):
    def __init__(self, number):
        jobtree.Target.__init__(self, memory="100M")
        self.number = number

    def run(self):
        with open("notes", "a") as notes:
            notes.write("%s\\n" % self.number)
        work(self.number)
        return Part(self.number, self.number * FACTOR)

class Part:
    def __init__(self, number, product):
        self.number = number
        self.product = product

def work(number):
    pass

def add(parts):
    return Part([part.number for part in parts], sum(part.product for part in parts))
"""

RUN = """
with jobtree.open("tree", maxThreads=1) as tree:
    found = tree.run(Sum([1, 2, 3]))
(found.number, found.product, isinstance(found, Part))
"""

EXECUTE = """
import sys
import nbclient, nbformat

class Client(nbclient.NotebookClient):
    def process_message(self, message, cell, index):
        if message["msg_type"] in ("display_data", "update_display_data"):
            with open("shown", "a") as shown:
                print(message["content"]["data"]["text/plain"], file=shown)
        return super().process_message(message, cell, index)

notebook = nbformat.read(sys.argv[1], as_version=4)
try:
    Client(notebook, timeout=300).execute()
finally:
    nbformat.write(notebook, "executed.ipynb")
"""


class Notebook:
    """A notebook in a directory, executed by nbclient with a kernel of its own."""

    def __init__(self, bench: Bench, *cells: str) -> None:
        self.bench = bench
        bench.write("execute.py", EXECUTE)
        self.edit(*cells)

    def edit(self, *cells: str) -> None:
        """Change its cells."""
        cells = ("import os; open('kernel', 'w').write(str(os.getpid()))", *cells)
        notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])  # type: ignore[no-untyped-call]
        nbformat.write(notebook, str(self.bench.directory / "notebook.ipynb"))  # type: ignore[no-untyped-call]

    def execute(self) -> list[Any]:
        """Execute it; the outputs of the last cell."""
        ran = self.bench.run("execute.py", "notebook.ipynb")
        assert ran.status == 0, ran.err
        return self.outputs()

    def outputs(self) -> list[Any]:
        """The outputs of its last cell when it was executed last."""
        cells = json.loads((self.bench.directory / "executed.ipynb").read_text())["cells"]
        return list(cells[-1]["outputs"])


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    with Bench(tmp_path) as made:
        yield made


def value(outputs: list[Any]) -> Any:
    """What the last line of a cell came to."""
    (result,) = [output for output in outputs if output["output_type"] == "execute_result"]
    return eval("".join(result["data"]["text/plain"]))


# -- from a script ---------------------------------------------------------------------------------------------

SCRIPT = DEFINITIONS + (
    """
if __name__ == "__main__":
    import sys
    with jobtree.open("tree", **eval(sys.argv[1])) as tree:
        found = tree.run(Sum([1, 2, 3])) if len(sys.argv) < 3 else eval(sys.argv[2])
    print(found.product)
"""
)


def test_result_of_a_script(bench: Bench) -> None:
    bench.write("script.py", SCRIPT)

    first = bench.run("script.py", "{}").succeeded()
    second = bench.run("script.py", "{}").succeeded()
    without_target = bench.run("script.py", "{}", "tree.run()").succeeded()

    assert (first.out, second.out, without_target.out) == ("60\n", "60\n", "60\n")
    assert bench.lines("notes") == ["1", "2", "3"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ("dict(retrycount=2)", "there is no option retrycount; did you mean retryCount?"),
        ("dict(xyzzy=2)", "there is no option xyzzy. jobTreeRun --help"),
        ("dict(retryCount='many')", "option --retryCount: "),
        ("dict(jobTree='elsewhere')", "jobTree"),
    ],
)
def test_option_that_makes_no_sense(bench: Bench, options: str, words: str) -> None:
    bench.write("script.py", SCRIPT)

    ran = bench.run("script.py", options)

    ran.failed("UsageError", words)
    assert not (bench.directory / "tree").exists()


def test_a_directory_that_cannot_have_that_name() -> None:
    with pytest.raises(UsageError, match="is no name of a directory"):
        opening.open("a\0b")


def test_directory_of_another_target_is_refused(bench: Bench) -> None:
    bench.write("script.py", SCRIPT)
    bench.run("script.py", "{}").succeeded()
    before = (bench.directory / "tree" / "environment.json").read_bytes()

    bench.run("script.py", "{}", "tree.run(Sum([1, 2]))").failed("was made for other arguments of script.Sum")
    bench.run("script.py", "{}", "tree.run(Times(1))").failed(
        "was made for script.Sum and is given script.Times"
    )

    assert (bench.directory / "tree" / "environment.json").read_bytes() == before


def test_script_that_opens_a_tree_without_the_guard_is_told(bench: Bench) -> None:
    bench.write("script.py", DEFINITIONS, RUN)

    bench.run("script.py").failed('if __name__ == "__main__":')


def test_failure_says_what_failed_and_how_to_look(bench: Bench) -> None:
    bench.write("script.py", SCRIPT.replace("    pass\n", "    assert number != 2, 'two is one too many'\n"))

    ran = bench.run("script.py", "{}")

    ran.failed("jobtree.errors.RunFailed: 1 job failed, 1 waiting for that", "jobTreeStatus --failed ")
    assert "script.Times): AssertionError: two is one too many" in ran.err
    bench.write("script.py", SCRIPT)
    assert bench.run("script.py", "{}").succeeded().out == "60\n"
    assert bench.lines("notes") == ["1", "2", "2", "3"]


# -- where __main__ is no file -----------------------------------------------------------------------------------


def test_code_of_the_command_line(tmp_path: Path) -> None:
    pipeline = Pipeline(tmp_path)

    ran = pipeline.run_command(
        [sys.executable, "-c", DEFINITIONS + RUN + "print(found.product, type(found) is Part)"]
    )

    assert ran.succeeded().out == "60 True\n"


def test_code_from_standard_input_that_is_corrected_goes_on_with_the_new_code(tmp_path: Path) -> None:
    pipeline = Pipeline(tmp_path)
    wrong = DEFINITIONS.replace("    pass\n", "    assert number != 2\n")
    pipeline.run_command([sys.executable, "-"], text=wrong + RUN).failed("RunFailed")

    ran = pipeline.run_command(
        [sys.executable, "-"], text=DEFINITIONS + RUN + "print(found.product, type(found) is Part)"
    )

    assert ran.succeeded().out == "60 True\n"
    assert pipeline.counted() == {"1": 1, "2": 2, "3": 1}


def test_what_has_no_stored_form_is_named(tmp_path: Path) -> None:
    pipeline = Pipeline(tmp_path)
    code = (
        DEFINITIONS.replace("    pass\n", "    LOCK.acquire()\n")
        + "import threading\nLOCK = threading.Lock()\n"
    )

    ran = pipeline.run_command([sys.executable, "-c", code + RUN])

    ran.failed(
        "CannotPickle",
        "what Sum needs of the notebook cannot be stored",
        "cannot pickle '_thread.lock' object",
    )


def test_what_it_leads_to_is_all_that_is_kept(tmp_path: Path) -> None:
    pipeline = Pipeline(tmp_path)
    other = "import threading\nlock = threading.Lock()\ndef unrelated():\n    return lock\n"

    pipeline.run_command([sys.executable, "-c", DEFINITIONS + other + RUN]).succeeded()


def test_tree_can_be_continued_without_the_code_and_after_it_was_moved(tmp_path: Path) -> None:
    pipeline = Pipeline(tmp_path)
    wrong = DEFINITIONS.replace("    pass\n", "    assert os.path.exists('right')\n")
    pipeline.run_command([sys.executable, "-"], text=wrong + RUN).failed("RunFailed")
    (tmp_path / "right").touch()
    (tmp_path / "tree").rename(tmp_path / "moved")

    pipeline.program("jobTreeRun", "--jobTree", str(tmp_path / "moved")).succeeded()


def test_definitions_that_are_damaged_are_not_used(tmp_path: Path) -> None:
    pipeline = Pipeline(tmp_path)
    wrong = DEFINITIONS.replace("    pass\n", "    assert os.path.exists('right')\n")
    pipeline.run_command([sys.executable, "-"], text=wrong + RUN).failed("RunFailed")
    path = tmp_path / "tree" / "definitions.pickle"
    damaged = bytearray(path.read_bytes())
    damaged[len(damaged) // 2] ^= 1
    path.write_bytes(damaged)

    ran = pipeline.program("jobTreeRun", "--jobTree", str(tmp_path / "tree"))

    ran.failed("what the notebook defined is damaged")
    pipeline.run_command([sys.executable, "-"], text=DEFINITIONS + RUN).succeeded()


# -- notebooks ---------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_notebook(bench: Bench) -> None:
    notebook = Notebook(bench, DEFINITIONS, RUN)

    assert value(notebook.execute()) == ([1, 2, 3], 60, True)
    # The same again, with another kernel: nothing is run, and the result is of the class that this kernel has defined.
    assert value(notebook.execute()) == ([1, 2, 3], 60, True)
    assert bench.lines("notes") == ["1", "2", "3"]


def told(sent: Path, words: str) -> bool:
    return sent.exists() and words in sent.read_text()


@pytest.mark.slow
def test_a_notebook_shows_how_far_the_run_is(bench: Bench) -> None:
    """Each line as it was sent to the page, while targets wait too; what is left in the cell is the last one."""
    bench.write("pausing.py", PAUSE)
    target = """
import jobtree
from pausing import pause

class Waits(jobtree.Target):
    def run(self):
        self.addChildFn(pause)
        pause()
"""
    notebook = Notebook(bench, target, "with jobtree.open('tree') as tree:\n    tree.run(Waits())")
    execution = bench.start("execute.py", "notebook.ipynb")
    sent = bench.directory / "shown"
    for waiting in (0, 1):
        bench.gate.arrival()
        wait_until(partial(told, sent, f"0 done, 1 running, {waiting} waiting"), "a line of this moment")
        bench.gate.let_through(1)
    execution.ended().succeeded()

    (shown,) = [output for output in notebook.outputs() if output["output_type"] == "display_data"]
    last = "".join(shown["data"]["text/plain"])
    assert last.startswith("2 done, 0 running, 0 waiting, 0 failed")
    assert sent.read_text().splitlines()[-1] == last


@pytest.mark.slow
def test_cells_that_the_documents_show(bench: Bench) -> None:
    page = (CHECKOUT / "docs/howto/notebook.md").read_text(encoding="utf-8")

    cells = re.findall(r"^```python\n(.*?)^```$", page, re.DOTALL | re.MULTILINE)

    assert value(Notebook(bench, *cells).execute()) == sum(number**2 for number in range(100))


@pytest.mark.slow
def test_kernel_that_is_killed_half_way(bench: Bench) -> None:
    waits = DEFINITIONS.replace("    pass\n", "    if number == 2: pause()\n")
    notebook = Notebook(bench, PAUSE, waits, RUN)
    running = bench.start("execute.py", "notebook.ipynb")
    bench.gate.arrival()  # 1 is done or was not begun, and 2 is going on
    os.kill(int((bench.directory / "kernel").read_text()), signal.SIGKILL)
    ended = running.ended()
    assert "DeadKernelError" in ended.err
    before = bench.lines("notes")
    assert "2" in before

    notebook.edit(PAUSE, DEFINITIONS, RUN)
    outputs = notebook.execute()

    assert value(outputs) == ([1, 2, 3], 60, True)
    assert any("Continuing job tree" in "".join(output.get("text", [])) for output in outputs)
    assert sorted(bench.lines("notes")) == ["1", "2", "2", "3"]


@pytest.mark.slow
def test_error_in_a_notebook_says_what_failed(bench: Bench) -> None:
    wrong = DEFINITIONS.replace("    pass\n", "    assert number != 2, 'two is one too many'\n")
    notebook = Notebook(bench, wrong, RUN)

    ran = bench.run("execute.py", "notebook.ipynb")

    assert ran.status != 0
    (error,) = [output for output in notebook.outputs() if output["output_type"] == "error"]
    assert error["ename"] == "RunFailed"
    assert "two is one too many" in error["evalue"]
    notebook.edit(DEFINITIONS, RUN)
    assert value(notebook.execute()) == ([1, 2, 3], 60, True)
    assert bench.lines("notes") == ["1", "2", "2", "3"]
