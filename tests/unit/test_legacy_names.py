"""The import names of the original, in all the forms that pipelines use."""

from __future__ import annotations

import importlib
import importlib.util
import os
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import jobtree.bioio
import jobtree.legacy
from jobtree.errors import UsageError

CHECKOUT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def old() -> Any:
    """The module jobTree. Its import changes the whole process, which is put back."""
    before = jobtree.legacy._ignored
    yield importlib.import_module("jobTree")
    jobtree.legacy._ignored = before


def in_a_fresh_process(code: str, directory: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(CHECKOUT)}
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        cwd=directory,
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
    )


FORMS = [
    "from jobTree.scriptTree.target import Target",
    "from jobTree.scriptTree.target import Target as T; T.makeTargetFn",
    "import jobTree.scriptTree.target; jobTree.scriptTree.target.Target",
    "import jobTree.scriptTree.target as t; t.Target",
    "from jobTree.scriptTree import target; target.Target",
    "from jobTree import scriptTree; scriptTree.target.Target",
    "import jobTree; jobTree.scriptTree.target.Target",
    "from jobTree.scriptTree.target import *; Target",
    "import jobTree.scriptTree.stack",
    "from jobTree.src.bioio import *; system, logger, fastaRead, TempFileTree",
    "from jobTree.src.bioio import system, logger, setLoggingFromOptions, fastaRead, fastqRead",
    "from jobTree.src.bioio import reverseComplement, getTempFile, getLogLevelString, prettyXml, fastaWrite",
    "from jobTree.src.bioio import cigarReadFromString, PairwiseAlignment, cigarRead, isNewer",
    "from jobTree.src.bioio import getRandomAlphaNumericString, popenCatch, getBasicOptionParser, absSymPath",
    "from jobTree.src.bioio import addLoggingOptions, fastqWrite, reverseComplementChar, workflowRootPath",
    "from jobTree.src.bioio import getTempDirectory, TempFileTree, setLogLevel, nameValue, catFiles",
    "import jobTree.src.bioio; jobTree.src.bioio.system('exit 0')",
    "from jobTree.src.common import runJobTreeStatusAndFailIfNotComplete, runJobTreeStats",
    "from jobTree.src.master import getJobFileDirName, getConfigFileName",
    "from jobTree.src.jobTreeStatus import parseJobFiles",
    "from jobTree.src.jobTreeRun import runJobTree",
    "from jobTree.src.jobTree import runJobTree",
]


def test_every_form_of_import_in_an_empty_directory(tmp_path: Path) -> None:
    # One process for all: each form must also work after the others. Those after it start afresh.
    code = "import sys\nfor form in sys.stdin.read().splitlines():\n    exec(form, {})\n"
    ran = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        input="\n".join(FORMS),
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(CHECKOUT)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, "", "")


@pytest.mark.parametrize("form", [FORMS[0], FORMS[2], FORMS[7], FORMS[9]])
def test_a_form_of_import_comes_first(form: str, tmp_path: Path) -> None:
    ran = in_a_fresh_process(form, tmp_path)
    assert (ran.returncode, ran.stderr) == (0, "")


@pytest.mark.parametrize("module", ["jobTree.scriptTree.target", "jobTree.scriptTree.stack"])
def test_target_and_stack_are_in_both_modules(old: Any, module: str) -> None:
    assert importlib.import_module(module).Target is jobtree.target.Target
    assert importlib.import_module(module).__all__ == ["Stack", "Target"]
    assert importlib.import_module(module).Stack is importlib.import_module("jobtree.stack").Stack


def test_a_directory_named_jobtree_in_the_way_does_no_harm(tmp_path: Path) -> None:
    """Pipelines leave their job tree in ./jobTree, and start again from there."""
    (tmp_path / "jobTree").mkdir()
    assert in_a_fresh_process("from jobTree.scriptTree.target import Target", tmp_path).returncode == 0


def test_bioio_has_everything_under_its_old_name(old: Any) -> None:
    names = importlib.import_module("jobTree.src.bioio")
    assert names.__all__ == jobtree.bioio.__all__
    for name in names.__all__:
        assert getattr(names, name) is getattr(jobtree.bioio, name)
    assert dir(names) == sorted(names.__all__)


def test_old_modules_can_be_found_and_looked_at(old: Any) -> None:
    for name in ("jobTree", "jobTree.scriptTree", "jobTree.scriptTree.target", "jobTree.src.bioio"):
        assert importlib.util.find_spec(name) is not None
        module = sys.modules[name]
        assert not hasattr(module, "__warningregistry__") or name == "jobTree"
        assert module.__doc__


def test_what_is_gone_says_so(old: Any) -> None:
    with pytest.raises(ModuleNotFoundError, match="No module named 'jobTree.batchSystems'"):
        importlib.import_module("jobTree.batchSystems")
    with pytest.raises(
        AttributeError, match="jobTree.src.common has no 'parasolIsInstalled'.*runJobTreeStats"
    ):
        importlib.import_module("jobTree.src.common").parasolIsInstalled  # noqa: B018


def test_targets_and_functions_are_pickled_by_reference(old: Any) -> None:
    assert pickle.loads(pickle.dumps(old.scriptTree.target.Target)) is jobtree.target.Target
    assert pickle.loads(pickle.dumps(old.src.bioio.system)) is jobtree.bioio.system
    assert pickle.loads(pickle.dumps(old.src.common.runJobTreeStats)) is old.runJobTreeStats
    assert b"jobTree" not in pickle.dumps(old.scriptTree.target.Target)


def test_importing_the_old_names_brings_the_old_behaviour_and_the_new_ones_do_not(tmp_path: Path) -> None:
    code = """
import jobtree.legacy
print(jobtree.legacy._ignored)
import jobTree.scriptTree.target
print(jobtree.legacy._ignored)
"""
    assert in_a_fresh_process(code, tmp_path).stdout.split() == ["False", "True"]


def test_the_old_names_do_not_load_what_only_the_master_needs(tmp_path: Path) -> None:
    code = """
import sys
from jobTree.scriptTree.target import Target
print([name for name in ("sqlite3", "jobtree.bioio", "xml.dom", "optparse") if name in sys.modules])
"""
    assert in_a_fresh_process(code, tmp_path).stdout.strip() == "[]"


# -- jobTree.src.common and its like -------------------------------------------------------------------------


def test_the_configuration_of_a_job_tree(old: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert old.src.master.getConfigFileName("tree") == str(tmp_path / "tree" / "config.json")


def test_files_of_jobs_are_gone_and_the_error_says_what_to_use(old: Any) -> None:
    with pytest.raises(UsageError, match="getJobFileDirName.*jobTreeStatus.*--failIfNotComplete.*--json"):
        old.src.master.getJobFileDirName("tree")
    # Some pipelines start all over on RuntimeError, which would hide this one.
    with pytest.raises(UsageError, match="parseJobFiles.*--json") as caught:
        old.src.jobTreeStatus.parseJobFiles("tree", set(), {}, {}, set())
    assert not isinstance(caught.value, RuntimeError)


@pytest.fixture
def calls(old: Any, monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, ...]]:
    found: list[tuple[str, ...]] = []

    def call(arguments: list[str], env: dict[str, str]) -> int:
        assert arguments[:2] == [sys.executable, "-c"]
        assert env["PYTHONPATH"].split(os.pathsep)[0] == str(CHECKOUT)
        compile(arguments[2], "program", "exec")
        found.append((arguments[2].split("from ")[1].split()[0], *arguments[3:]))
        return 0 if "good" in arguments else 1

    monkeypatch.setattr(subprocess, "call", call)
    return found


def test_commands_as_functions(old: Any, calls: list[tuple[str, ...]]) -> None:
    old.src.common.runJobTreeStatusAndFailIfNotComplete("good")
    old.src.common.runJobTreeStats("good", "out.xml")
    old.src.jobTreeRun.runJobTree(
        "a 'b'", "good", retryCount=3, batchSystem="single_machine", rescueJobFrequency=9
    )
    assert calls == [
        ("jobtree.cli.status", "--jobTree", "good", "--failIfNotComplete", "--verbose"),
        ("jobtree.cli.stats", "--jobTree", "good", "--outputFile", "out.xml"),
        (
            *("jobtree.cli.run", "--command", "a 'b'", "--jobTree", "good", "--logLevel", "DEBUG"),
            *("--retryCount", "3", "--batchSystem", "singleMachine", "--rescueJobsFrequency", "9"),
        ),
    ]


@pytest.mark.usefixtures("calls")
def test_a_command_that_fails_is_a_runtime_error(old: Any) -> None:
    with pytest.raises(RuntimeError, match="Command: jobTreeStatus --jobTree bad.*non-zero status 1"):
        old.src.common.runJobTreeStatusAndFailIfNotComplete("bad")
