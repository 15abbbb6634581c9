"""Style as a test: sizes, names and doors that a formatter and a type checker do not watch over.

When one of these fails, the code is to be changed, not the number. The lists of exceptions are short, and each entry
says why it is there.
"""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).resolve().parents[2]
MOST_LINES_OF_A_FILE = 500
MOST_LINES_OF_A_FUNCTION = 75

LIBRARY = sorted(path for top in ("jobtree", "batchsystems") for path in (CHECKOUT / top).rglob("*.py"))
TESTS = sorted((CHECKOUT / "tests").rglob("*.py"))
EXAMPLES = sorted((CHECKOUT / "examples").rglob("*.py"))
EVERYTHING = [*LIBRARY, *TESTS, *EXAMPLES, *sorted(CHECKOUT.glob("*.py"))]

# What makes a file last through a power cut is easy to get nearly right, so it is done in one place.
DURABLE_CALLS = {"os.fsync", "os.fdatasync", "os.replace", "os.rename"}
MAY_MAKE_DURABLE = {
    "jobtree/files.py": "the one place",
    "batchsystems/parasol_files.py": "renames so that nobody reads half a file; nothing there need survive",
    "batchsystems/parasol_job.py": "the same on the node, where nothing of ours is imported",
    "batchsystems/ssh_agent.py": "the same on a host: what is written there need not survive a restart of it",
}

# A test that sleeps hopes that something has happened by then. What has to look again and again goes through one
# function, which gives up after a generous time and says what it has been waiting for.
SLEEPS = {"time.sleep", "sleep"}
MAY_SLEEP: dict[str, str] = {
    "tests/fakes/parasol/hub.py": "waits for a process that it has just started, inside of the daemon",
    "tests/fakes/slurm/client.py": "plays commands that are slow",
    "tests/servers/daemons.py": "wait_until, the same for servers",
    "tests/system/pipelines.py": "wait_until looks again and again for a condition of which nobody tells",
}

# A name that fits everything says nothing; a function without a home lacks a noun.
VAGUE_NAMES = {"utils", "util", "common", "misc", "helpers", "helper", "tools"}


def name_of(path: Path) -> str:
    return path.relative_to(CHECKOUT).as_posix()


def calls(path: Path) -> Iterator[tuple[int, str]]:
    """Every call of a plain or dotted name, with its line."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call) and isinstance(node.func, (ast.Name, ast.Attribute)):
            yield node.lineno, ast.unparse(node.func)


@pytest.mark.parametrize("path", LIBRARY, ids=name_of)
def test_file_holds_one_idea(path: Path) -> None:
    length = len(path.read_text(encoding="utf-8").splitlines())

    assert length <= MOST_LINES_OF_A_FILE


@pytest.mark.parametrize("path", LIBRARY, ids=name_of)
def test_functions_fit_on_a_screen(path: Path) -> None:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    functions = [node for node in ast.walk(tree) if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))]

    lengths = {f"{f.name} (line {f.lineno})": (f.end_lineno or f.lineno) - f.lineno + 1 for f in functions}

    assert {name: lines for name, lines in lengths.items() if lines > MOST_LINES_OF_A_FUNCTION} == {}


@pytest.mark.parametrize("path", EVERYTHING, ids=name_of)
def test_module_says_what_it_is(path: Path) -> None:
    content = path.read_text(encoding="utf-8")

    assert not content.strip() or ast.get_docstring(ast.parse(content)), "no docstring"


def test_modules_have_names_that_say_something() -> None:
    vague = [name_of(path) for path in EVERYTHING if VAGUE_NAMES & {path.stem, path.parent.name}]

    assert vague == []


@pytest.mark.parametrize("path", [*LIBRARY, *TESTS], ids=name_of)
def test_exceptions_are_named_or_the_reason_is_given(path: Path) -> None:
    """A handler for everything hides our own mistakes, unless it raises again or says why on its line."""
    content = path.read_text(encoding="utf-8")
    lines = content.splitlines()

    unexplained = [
        handler.lineno
        for handler in ast.walk(ast.parse(content))
        if isinstance(handler, ast.ExceptHandler)
        and (handler.type is None or re.search(r"\b(Base)?Exception\b", ast.unparse(handler.type)))
        and ast.unparse(handler.body[-1]) != "raise"
        and not re.search(r"#.*\w+ \w+", lines[handler.lineno - 1])
    ]

    assert unexplained == []


@pytest.mark.parametrize("path", LIBRARY, ids=name_of)
def test_files_are_made_durable_in_one_place(path: Path) -> None:
    found = [(line, call) for line, call in calls(path) if call in DURABLE_CALLS]

    assert found == [] or name_of(path) in MAY_MAKE_DURABLE


@pytest.mark.parametrize("path", TESTS, ids=name_of)
def test_tests_wait_for_something_instead_of_sleeping(path: Path) -> None:
    sleeps = [line for line, call in calls(path) if call in SLEEPS]

    assert sleeps == [] or name_of(path) in MAY_SLEEP


def test_every_exception_is_still_needed() -> None:
    durable = {name_of(path) for path in LIBRARY if any(call in DURABLE_CALLS for _, call in calls(path))}
    sleeping = {name_of(path) for path in TESTS if any(call in SLEEPS for _, call in calls(path))}

    assert set(MAY_MAKE_DURABLE) <= durable
    assert set(MAY_SLEEP) <= sleeping
