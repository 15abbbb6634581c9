"""What is installed, what works without installing, and that the documents point to things that exist."""

import hashlib
import os
import re
import shutil
import subprocess
import sys
import zipfile
from configparser import ConfigParser
from email.parser import Parser
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).resolve().parents[2]
COMMANDS = [
    "jobTreeKill", "jobTreeMonitor", "jobTreeNode", "jobTreePool", "jobTreeRun", "jobTreeStats", "jobTreeStatus",
]  # fmt: skip


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    """The wheel, built from a copy: building leaves files behind, and those of an old build would get in."""
    directory = tmp_path_factory.mktemp("wheel")
    source = directory / "source"
    source.mkdir()
    for name in ("setup.cfg", "pyproject.toml", "README.md", "LICENSE", "jobTree.py"):
        shutil.copy(CHECKOUT / name, source)
    for name in ("jobtree", "batchsystems", "tests", "examples"):
        shutil.copytree(CHECKOUT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    # No isolation: that would fetch setuptools from the network again.
    build = "import setuptools.build_meta as backend; backend.build_wheel('..')"
    subprocess.run([sys.executable, "-c", build], cwd=source, check=True, capture_output=True)
    (built,) = directory.glob("*.whl")
    return zipfile.ZipFile(built)


def test_wheel_holds_the_library_and_nothing_else(wheel: zipfile.ZipFile) -> None:
    expected = {"jobTree.py"}
    for top in ("jobtree", "batchsystems"):
        for path in (CHECKOUT / top).rglob("*"):
            served = path.is_file() and "static" in path.parts
            if path.suffix == ".py" or path.name == "py.typed" or served:
                expected.add(path.relative_to(CHECKOUT).as_posix())

    found = {name for name in wheel.namelist() if ".dist-info/" not in name}

    assert found == expected


def test_wheel_names_its_commands_requirements_and_license(wheel: zipfile.ZipFile) -> None:
    info = {name.partition(".dist-info/")[2]: name for name in wheel.namelist() if ".dist-info/" in name}
    metadata = Parser().parsestr(wheel.read(info["METADATA"]).decode())
    entry_points = ConfigParser()
    entry_points.optionxform = str  # type: ignore[assignment,method-assign]  # keep the capitals of the names
    entry_points.read_string(wheel.read(info["entry_points.txt"]).decode())

    required = [line for line in metadata.get_all("Requires-Dist", []) if "extra ==" not in line]
    assert sorted(re.split(r"[^\w-]", line)[0] for line in required) == [
        "cloudpickle",
        "filelock",
        "psutil",
        "rich",
    ]
    assert metadata["Requires-Python"] == ">=3.9"
    assert metadata["License"] == "MIT"
    assert sorted(entry_points["console_scripts"]) == COMMANDS
    assert any(name.endswith("LICENSE") for name in info)


@pytest.fixture(scope="module")
def bare_checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A second checkout, which is not the one that is installed in this environment."""
    directory = tmp_path_factory.mktemp("elsewhere") / "check out"
    for name in ("bin", "jobtree", "batchsystems"):
        shutil.copytree(CHECKOUT / name, directory / name, ignore=shutil.ignore_patterns("__pycache__"))
    return directory


@pytest.mark.parametrize("command", COMMANDS)
def test_command_runs_from_a_checkout_that_is_not_installed(
    command: str, bare_checkout: Path, tmp_path: Path
) -> None:
    script = bare_checkout / "bin" / command
    # Runs the script as the command line would, and then tells where it has found the library.
    program = """if True:
        import runpy, sys
        try:
            runpy.run_path(sys.argv[0], run_name="__main__")
        except SystemExit as end:
            assert not end.code, end.code
        print("from", sys.modules["jobtree"].__file__)
    """
    arguments = ["-c", "import sys; sys.argv.pop(0)\n" + program, str(script), "--help"]

    run = subprocess.run([sys.executable, *arguments], cwd=tmp_path, capture_output=True, text=True)

    assert (run.returncode, run.stderr) == (0, "")
    assert run.stdout.startswith(f"usage: {command} ")
    assert run.stdout.endswith(f"from {bare_checkout / 'jobtree' / '__init__.py'}\n")
    assert os.access(script, os.X_OK)
    assert list(tmp_path.iterdir()) == [], "asking for help has left something behind"


@pytest.mark.parametrize("program", ["jobTreeRun", "script"])
def test_what_is_missing_is_told_where_nothing_is_installed(
    program: str, bare_checkout: Path, tmp_path: Path
) -> None:
    script = bare_checkout / "bin" / program
    if program == "script":
        script = tmp_path / "script.py"
        script.write_text(
            f"import sys\nsys.path.insert(0, {str(bare_checkout)!r})\nfrom jobtree import Stack, Target\n"
            "options = Stack.getDefaultOptions()\noptions.jobTree = 'tree'\n"
            "Stack(Target()).startJobTree(options)\n"
        )

    # Isolated, and without what is installed: the language and its own library are there, and nothing else.
    run = subprocess.run(
        [sys.executable, "-I", "-S", str(script), "--command", "true", "--jobTree", "tree"],
        cwd=tmp_path, capture_output=True, text=True,
    )  # fmt: skip

    said = run.stderr.splitlines()
    assert run.returncode == 2
    assert re.match(
        r"(jobTreeRun|jobtree): (psutil|filelock|cloudpickle) is missing, which jobtree needs: ", said[0]
    )
    assert said[1:] == [f"{sys.executable} -m pip install cloudpickle filelock psutil rich"]


def test_another_import_that_fails_is_shown_as_it_is(bare_checkout: Path, tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "import argparse\nfrom jobtree import Stack\n"
        "Stack.addJobTreeOptions(argparse.ArgumentParser())\nimport psutil.there_is_none\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(bare_checkout)}

    run = subprocess.run([sys.executable, str(script)], env=environment, capture_output=True, text=True)

    assert run.returncode == 1
    assert run.stderr.endswith("ModuleNotFoundError: No module named 'psutil.there_is_none'\n")


def test_the_chart_library_is_as_its_authors_made_it() -> None:
    folder = CHECKOUT / "jobtree" / "monitor" / "static" / "uplot"
    digests = re.findall(
        r"^    ([0-9a-f]{64})  (\S+)$", (folder / "README.md").read_text(encoding="utf-8"), re.M
    )

    found = {(hashlib.sha256(path.read_bytes()).hexdigest(), path.name) for path in folder.iterdir()}

    assert set(digests) == {(digest, name) for digest, name in found if name != "README.md"}
    assert {name for _, name in digests} >= {"LICENSE", "uPlot.esm.js"}


def test_readme_is_short() -> None:
    assert len((CHECKOUT / "README.md").read_text(encoding="utf-8").splitlines()) <= 150
