"""The pages of examples: what makes them, and that all was made."""

from __future__ import annotations

import importlib.util
import re
import sys
from pathlib import Path
from types import ModuleType

import pytest

from tests.servers import redis

CHECKOUT = Path(__file__).resolve().parents[2]
PAGES = sorted((CHECKOUT / "docs" / "examples").glob("*.md"))


@pytest.fixture
def make() -> ModuleType:
    spec = importlib.util.spec_from_file_location("make", CHECKOUT / "docs" / "examples" / "make.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_commands_are_run_again(make: ModuleType, tmp_path: Path) -> None:
    before = "text\n<!-- run -->\n```\n$ echo one\nold\n$ pwd >&2\n```\n<!-- end of run -->\n```\n$ echo two\n```\n"

    assert make.made_again(before, tmp_path) == before.replace("old\n", "one\n").replace(
        "pwd >&2\n", "pwd >&2\n/home/ada\n"
    )


def test_a_command_that_fails_ends_it(make: ModuleType, tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="exit status 3"):
        make.printed("sh -c 'exit 3'", tmp_path, None)


def test_a_command_that_ends_before_it_is_killed_ends_it(make: ModuleType, tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="exit status 0"):
        make.printed(f"{sys.executable} -c pass --jobTree nowhere", tmp_path, 1)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_page_is_made(page: Path, make: ModuleType) -> None:
    text = page.read_text(encoding="utf-8")

    if page.stem in make.PICTURES:
        assert page.with_suffix(".png").read_bytes().startswith(b"\x89PNG")
        assert f"({page.stem}.png)" in text
    assert f"../../examples/{page.stem}.py" in text
    assert "Complete: " in text, "its commands have not been run: make pages"


@pytest.mark.slow
@pytest.mark.timeout(400)
@pytest.mark.parametrize("name", ["commands", "crawl", "service", "sort"])
def test_commands_of_a_page_run(name: str, make: ModuleType, tmp_path: Path) -> None:
    """All but the kill; the examples on larger data have tests of their own."""
    if name == "service":
        redis.require_installed()
    text = (CHECKOUT / "docs" / "examples" / f"{name}.md").read_text(encoding="utf-8")
    text = re.sub(r"run: kill the first after \d+ jobs", "run", text).replace("seq 2000000", "seq 20000")

    again = make.made_again(text, tmp_path)

    for picture in (picture for key, picture in make.PICTURES.items() if key == name):
        assert (tmp_path / picture).read_bytes().startswith(b"\x89PNG")
    if name == "commands":
        assert that_is_the_same(again) == that_is_the_same(text)


def that_is_the_same(text: str) -> list[str]:
    """The lines that do not tell of time and memory."""
    return [line for line in text.splitlines() if not re.search(r" MiB |has taken| targets  retries ", line)]
