"""A systemd unit that continues a tree: its text, what systemd itself makes of it, and a line for a crontab."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from jobtree import after_reboot
from jobtree.cli import run as command
from tests.requirements import require
from tests.system.legacy_script import CHECKOUT
from tests.system.pipelines import Pipeline

TARGETS = """
class Setup(Target):
    def run(self):
        if os.path.exists("broken"):
            raise ValueError("no good")
        note(os.environ["PATH"], "path")
"""

HOSTILE = [
    "plain",
    "with blank",
    " blanks ",
    "per%cent %h %% 100%",
    "$HOME ${HOME} $$ $",
    "quo\"te's",
    "back\\slash\\n\\",
    "new\nline\ttab\r\x01",
    "; # = : @ - + ! | & > <",
    "grün 日本",
    b"not \xff utf-8 \xc3".decode("utf-8", "surrogateescape"),
    "~",
]
"""Names of directories as nobody would make them, which some program has."""


@pytest.fixture
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The directory of a tree with a failed job; services go into this test's own configuration."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    (tmp_path / "broken").touch()
    assert Pipeline(tmp_path, TARGETS).run().status == 1
    return tmp_path


def units(directory: Path) -> list[str]:
    top = directory / "config" / "systemd" / "user"
    return sorted(str(path.relative_to(top)) for path in top.rglob("*.service"))


def verify(unit: Path, runtime: Path) -> subprocess.CompletedProcess[bytes]:
    """What systemd has to say of a unit. It needs no systemd that runs, but a directory as logins have one."""
    runtime.mkdir(exist_ok=True)
    environment = {
        **os.environ,
        "XDG_RUNTIME_DIR": str(runtime),
        "LC_ALL": "C.UTF-8",
        "SYSTEMD_LOG_TARGET": "console",
    }
    program = require("systemd-analyze")
    return subprocess.run(
        [program, "--user", "--man=no", "verify", str(unit)], env=environment, capture_output=True, timeout=60
    )


def test_it_is_written_verified_and_taken_away(directory: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pipeline = Pipeline(directory)
    name = f"jobtree-{pipeline.token()}.service"

    assert command.main([str(pipeline.tree), "--installService"]) == 0
    assert command.main([str(pipeline.tree), "--installService"]) == 0  # twice is once

    said = capsys.readouterr().out
    path = directory / "config" / "systemd" / "user" / name
    assert units(directory) == [f"default.target.wants/{name}", name]
    assert path.samefile(directory / "config" / "systemd" / "user" / "default.target.wants" / name)
    assert f"Written: {path}\n" in said
    assert "systemctl --user daemon-reload" in said
    assert "@reboot PATH=" in said
    found = verify(path, directory / "runtime")
    assert (found.returncode, found.stderr.decode()) == (0, "")
    assert command.main([str(pipeline.tree), "--removeService"]) == 0
    assert units(directory) == []
    assert command.main([str(pipeline.tree), "--removeService"]) == 0
    assert "nothing was to be removed" in capsys.readouterr().out


def test_what_it_says(monkeypatch: pytest.MonkeyPatch) -> None:
    text = after_reboot.unit(
        "/data/100% tree", ["/usr/bin/python3", "/opt/jobTreeRun", "--jobTree", "/data/100% tree"],
        ["/data/100% tree", "/home/me"], {"PATH": "/usr/bin:/bin"}, 70.0,
    )  # fmt: skip

    assert (
        text
        == """\
# Written by jobTreeRun --installService; taken away by jobTreeRun --removeService.
[Unit]
Description=jobtree /data/100%% tree
RequiresMountsFor="/data/100%% tree"
RequiresMountsFor="/home/me"

[Service]
ExecStart="/usr/bin/python3" "/opt/jobTreeRun" "--jobTree" "/data/100%% tree"
Environment="PATH=/usr/bin:/bin"
Restart=on-failure
RestartPreventExitStatus=1 2 3 4 129 130 143
RestartSec=60
# Only the master is told to stop; it ends its workers, and what it leaves is killed after that.
KillMode=mixed
TimeoutStopSec=70
# A target that needs too much memory is the run's affair.
OOMPolicy=continue

[Install]
WantedBy=default.target
"""
    )


def test_its_command_and_the_crontab_line_continue_the_tree(
    directory: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pipeline = Pipeline(directory)
    assert command.main([str(pipeline.tree), "--installService"]) == 0
    (line,) = re.findall(r"@reboot (.*)", capsys.readouterr().out)
    nearly_nothing = {"HOME": str(directory), "PATH": "/usr/bin:/bin"}
    text = (directory / "config" / "systemd" / "user" / units(directory)[1]).read_text()
    (start,) = re.findall(r"ExecStart=(.*)", text)

    again = subprocess.run(shlex.split(start), env=nearly_nothing, cwd="/", capture_output=True, timeout=60)
    (directory / "broken").unlink()
    done = subprocess.run(["sh", "-c", line], env=nearly_nothing, cwd="/", capture_output=True, timeout=60)

    assert again.returncode == 1, again.stderr
    assert done.returncode == 0, done.stderr
    assert pipeline.notes("path") == [os.environ["PATH"]]  # a service has next to nothing by itself


def test_a_complete_tree_needs_none(directory: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (directory / "broken").unlink()
    assert Pipeline(directory).run().status == 0

    assert command.main([str(directory / "tree"), "--installService"]) == 2
    assert "is complete: there is nothing to continue" in capsys.readouterr().err
    assert units(directory) == []


@pytest.mark.parametrize("name", HOSTILE)
def test_systemd_reads_the_path_to_be_mounted_as_it_is(tmp_path: Path, name: str) -> None:
    """It shows a path that it will not have, after it has taken its own rules from it."""
    text = after_reboot.unit("/tree", ["/bin/true"], [f"/a/../{name}/b"], {}, 70)
    unit = tmp_path / "a.service"
    unit.write_text(text)

    said = verify(unit, tmp_path / "runtime").stderr

    expected = f"/a/../{name}/b" if name.isprintable() else "/a/.."
    assert f"RequiresMountsFor= path is not normalized, ignoring: {expected}\n".encode() in said


@pytest.mark.parametrize("name", HOSTILE)
def test_systemd_finds_a_program_of_any_name(tmp_path: Path, name: str) -> None:
    program = tmp_path / name / "python3"
    program.parent.mkdir(exist_ok=True)
    shutil.copyfile("/bin/true", program)
    program.chmod(0o755)
    unit = tmp_path / "a.service"
    tree = str(tmp_path / name / "tree")
    variables = after_reboot.variables_of({"PATH": name})
    unit.write_text(after_reboot.unit(tree, [str(program), "--jobTree", tree], [tree], variables, 70))

    found = verify(unit, tmp_path / "runtime")

    assert (found.returncode, found.stderr) == (0, b"")
    program.unlink()
    if "/bin/sh" not in unit.read_text():
        assert (
            b"is not executable" in verify(unit, tmp_path / "runtime").stderr
        )  # so it was this one that it found


@pytest.mark.parametrize("name", HOSTILE)
def test_a_crontab_line_holds_any_name_or_says_that_it_cannot(tmp_path: Path, name: str) -> None:
    line = after_reboot.crontab_line(
        [sys.executable, "-c", "import os, sys; print(os.fsencode(sys.argv[1]))", name], {}
    )
    if line is None:
        assert not name.isprintable() or "\\%" in name
        return
    assert re.fullmatch(r"@reboot ([^%\n]|\\%)*", line)
    ran = subprocess.run(
        ["sh", "-c", line[8:].replace("\\%", "%")], capture_output=True, text=True, timeout=60
    )

    assert ran.stdout == f"{os.fsencode(name)!r}\n"


def test_the_program_is_found(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    installed = directory / "bin" / "jobTreeRun"
    installed.parent.mkdir()
    installed.touch()
    for started, program in ((installed, installed), (Path("pytest"), CHECKOUT / "bin" / "jobTreeRun")):
        monkeypatch.setattr(sys, "argv", [str(started)])
        assert command.main([str(directory / "tree"), "--installService"]) == 0
        text = (directory / "config" / "systemd" / "user" / units(directory)[1]).read_text()
        assert f'ExecStart="{sys.executable}" "{program}" "--jobTree" "{directory}/tree"\n' in text
