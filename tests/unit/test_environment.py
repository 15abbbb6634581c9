"""What a start looks like from outside: which variables are handed on, and how the script is imported elsewhere."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobtree import environment
from jobtree.environment import Environment, MainModule
from jobtree.errors import CannotImport

CHECKOUT = Path(__file__).resolve().parents[2]
GIVEN = {
    "PATH": "/bin", "HOME": "/home/me", "MY_SETTING": "caf\udce9", "SLURMLIKE": "1", "TMPDIR": "/scratch/7",
    "HOSTNAME": "login", "SSH_CLIENT": "x", "SLURM_JOB_ID": "7", "SBATCH_ACCOUNT": "a", "SGE_ROOT": "/sge",
    "PBS_JOBID": "7", "LSB_JOBID": "7", "CUDA_VISIBLE_DEVICES": "0", "JOBTREE_RUN": "abc", "NSLOTS": "4",
    "_": "/usr/bin/python",
}  # fmt: skip


def test_what_belongs_to_the_machine_or_to_the_masters_job_is_not_handed_on() -> None:
    kept = environment.variables(GIVEN, (), ())

    assert sorted(kept) == ["HOME", "MY_SETTING", "PATH", "SLURMLIKE"]
    assert kept["MY_SETTING"] == "caf\udce9"


def test_allowed_and_denied_variables_are_as_the_user_says_and_denied_wins() -> None:
    kept = environment.variables(GIVEN, ["SLURM_*", "TMPDIR", "MY_*"], ["HOME", "MY_*"])

    assert sorted(kept) == ["PATH", "SLURMLIKE", "SLURM_JOB_ID", "TMPDIR"]


@given(
    given=st.dictionaries(st.sampled_from(sorted(GIVEN)), st.text(max_size=3)),
    allow=st.lists(st.sampled_from(["*", "SLURM_*", "H*", "_"])), deny=st.lists(st.sampled_from(["*", "P*", "M*"])),
)  # fmt: skip
def test_variables_are_never_changed_only_left_out(
    given: dict[str, str], allow: list[str], deny: list[str]
) -> None:
    kept = environment.variables(given, allow, deny)

    assert kept.items() <= given.items()
    assert environment.variables(given, ["*"], ()) == given
    assert "*" not in deny or not kept


def test_worker_has_what_was_recorded_what_is_its_machines_and_the_mark_of_the_run() -> None:
    own = {"TMPDIR": "/local", "HOSTNAME": "node7", "PATH": "/other", "PRIVATE": "1", "JOBTREE_RUN": "old"}

    found = environment.for_worker({"PATH": "/bin", "HOME": "/home/me"}, own, "abc")

    assert found == {
        "TMPDIR": "/local", "HOSTNAME": "node7", "PATH": "/bin", "HOME": "/home/me", "JOBTREE_RUN": "abc",
    }  # fmt: skip


def test_worker_that_a_scheduler_started_keeps_what_is_said_of_its_own_job() -> None:
    own = {"SLURM_JOB_ID": "8", "CUDA_VISIBLE_DEVICES": "3", "TMPDIR": "/local", "PATH": "/other"}

    assert environment.for_worker({"PATH": "/bin"}, own, "abc", own_job=True) == {
        **own, "PATH": "/bin", "JOBTREE_RUN": "abc",
    }  # fmt: skip
    assert environment.for_worker({"SLURM_JOB_ID": "7"}, own, "abc", own_job=True)["SLURM_JOB_ID"] == "7"


@pytest.mark.parametrize(("cpu", "threads"), [(0.0, "1"), (0.5, "1"), (1.0, "1"), (2.7, "2"), (64.0, "64")])
def test_threads_of_numerical_libraries_follow_the_cores(cpu: float, threads: str) -> None:
    found = environment.thread_variables({"MKL_NUM_THREADS": "7"}, cpu)

    assert found["OMP_NUM_THREADS"] == threads
    assert "MKL_NUM_THREADS" not in found


@pytest.mark.parametrize("main", [None, MainModule("script", "/a/script.py")])
def test_environment_comes_back_from_json(main: MainModule) -> None:
    recorded = Environment({"A": "caf\udce9"}, "/dir", ["/a", "/b"], main, ["numpy"])

    assert Environment.from_json(json.loads(json.dumps(recorded.to_json()))) == recorded


def test_search_path_is_recorded_in_full(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", ["", "relative", "/absolute"])

    recorded = environment.of_this_process()

    assert recorded.path == [str(tmp_path), str(tmp_path / "relative"), "/absolute"]
    assert recorded.directory == str(tmp_path)


# -- the script ------------------------------------------------------------------------------------------------

SCRIPT = """
import sys
from jobtree import environment
class Something: pass
if __name__ == "__main__":
    print(list(environment.main_module() or []))
"""


def main_of(tmp_path: Path, *command: str) -> list[str]:
    """What a script, started so, is to be imported as; then it is imported, in another process."""
    environ = {"PYTHONPATH": f"{CHECKOUT}:{tmp_path / 'lib'}", "PATH": os.environ["PATH"]}
    shown = subprocess.run(
        [sys.executable, *command], cwd=tmp_path, env=environ, capture_output=True, text=True, check=False
    )
    assert shown.returncode == 0, shown.stderr
    main: list[str] = eval(shown.stdout)
    importing = (
        "import sys; from jobtree.environment import *; sys.path.insert(0, sys.argv[3]);"
        "module = import_main(MainModule(*sys.argv[1:3])); print(module.Something.__module__)"
    )
    folder = os.path.dirname(main[1]) if "-m" not in command else str(tmp_path)
    found = subprocess.run(
        [sys.executable, "-c", importing, *main, folder],
        env=environ,
        capture_output=True,
        text=True,
        check=False,
    )
    assert found.stdout.strip() == main[0], found.stderr
    return main


@pytest.mark.parametrize(
    ("name", "module"),
    [
        ("script.py", "script"),
        ("my-script.py", "jobtree_main_my_script"),
        ("script", "jobtree_main_script"),
        ("1st.step.py", "jobtree_main_1st_step"),
    ],
)
def test_script_is_imported_under_its_own_name_where_that_leads_to_it(
    tmp_path: Path, name: str, module: str
) -> None:
    (tmp_path / name).write_text(SCRIPT)

    assert main_of(tmp_path, name) == [module, str(tmp_path / name)]


def test_module_that_was_started_by_its_name_keeps_it(tmp_path: Path) -> None:
    (tmp_path / "package").mkdir()
    (tmp_path / "package" / "__init__.py").touch()
    (tmp_path / "package" / "step.py").write_text(SCRIPT)

    assert main_of(tmp_path, "-m", "package.step")[0] == "package.step"


@pytest.mark.parametrize("command", ["pipeline", "pipeline/__main__.py"])
def test_directory_that_was_started_is_imported_under_another_name_than_main(
    tmp_path: Path, command: str
) -> None:
    (tmp_path / "pipeline").mkdir()
    (tmp_path / "pipeline" / "__main__.py").write_text(SCRIPT)

    assert main_of(tmp_path, command)[0] != "__main__"


def test_interpreter_without_a_script_has_no_main_module() -> None:
    shown = subprocess.run(
        [sys.executable, "-c", "from jobtree import environment; print(environment.main_module())"],
        env={"PYTHONPATH": str(CHECKOUT)}, capture_output=True, text=True, check=True,
    )  # fmt: skip

    assert shown.stdout.strip() == "None"


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("x = 1\nraise RuntimeError('half-way')", "RuntimeError: half-way (line 2)"),
        ("import sys\n\nsys.exit('used wrongly')", "SystemExit: used wrongly (line 3)"),
        ("import no_such_module_anywhere", "No module named 'no_such_module_anywhere' (line 1)"),
        ("def f(:", "SyntaxError"),
    ],
)
@pytest.mark.parametrize("name", ["a_script_that_fails", "jobtree_main_a_script_that_fails"])
def test_script_that_cannot_be_imported_says_why_and_leaves_no_half_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str, message: str, name: str
) -> None:
    path = tmp_path / "a_script_that_fails.py"
    path.write_text(source)
    monkeypatch.syspath_prepend(str(tmp_path))

    with pytest.raises(CannotImport) as caught:
        environment.import_main(MainModule(name, str(path)))

    assert message in str(caught.value)
    assert str(path) in str(caught.value)
    assert name not in sys.modules
