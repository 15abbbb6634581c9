"""What documents show is what happens."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from tests.system import documents
from tests.system.legacy_script import CHECKOUT

PAGES = sorted(
    page
    for page in (CHECKOUT / "docs").rglob("*.md")
    if list(documents.steps(page.read_text(encoding="utf-8")))
)
MUST_RUN = (
    "tutorial/index.md", "howto/steps.md", "howto/pass-data.md", "howto/debug.md", "howto/crashes.md",
    "howto/move-tree.md", "migrate/original.md", "migrate/toil.md", "migrate/snakemake.md",
)  # fmt: skip


@pytest.mark.slow
@pytest.mark.timeout(400)
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(CHECKOUT / "docs").as_posix())
def test_page_shows_what_happens(page: Path, tmp_path: Path) -> None:
    assert documents.check(page, tmp_path) > 0


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_readme_shows_what_happens(tmp_path: Path) -> None:
    for name in ("asyncio", "email", "json"):
        (tmp_path / name).symlink_to(Path(os.__file__).with_name(name))
    readme = tmp_path / "README.md"
    readme.write_text((CHECKOUT / "README.md").read_text(encoding="utf-8").replace("[...]", "..."))

    assert documents.check(readme, tmp_path, as_compared=documents.without_numbers) == 2


@pytest.mark.slow
def test_a_benchmark_by_hand(tmp_path: Path) -> None:
    """On a hundredth of the targets."""
    (tmp_path / "jobtree").symlink_to(CHECKOUT)
    here = {"/var/tmp": str(tmp_path), "100000": "1000"}

    assert documents.check(CHECKOUT / "benchmarks" / "README.md", tmp_path, here=here) == 4


def test_what_the_readme_shows_of_a_kill_is_what_the_page_shows() -> None:
    readme = (CHECKOUT / "README.md").read_text(encoding="utf-8")
    page = (CHECKOUT / "docs/examples/sort.md").read_text(encoding="utf-8")
    (shown,) = re.findall(r"^```\n(\$ python examples/sort.*?)^```$", readme, re.DOTALL | re.MULTILINE)
    (whole,) = re.findall(r"^```\n(\$ python examples/sort.*?)^```$", page, re.DOTALL | re.MULTILINE)

    pattern = ".*".join(re.escape(part) for part in shown.split("[...]\n"))

    assert re.match(pattern, whole, re.DOTALL), (
        "make pages has changed it: copy it from docs/examples/sort.md"
    )


def test_pages_that_are_to_be_tried_are_run() -> None:
    assert {page.relative_to(CHECKOUT / "docs").as_posix() for page in PAGES} >= set(MUST_RUN)


def test_every_page_is_in_both_lists() -> None:
    """The one for the built pages, and the one for who reads them in the repository."""
    docs = CHECKOUT / "docs"
    pages = {page.relative_to(docs).with_suffix("").as_posix() for page in docs.rglob("*.md")}
    pages -= {"README", "index"}
    index = (docs / "index.md").read_text(encoding="utf-8")
    readme = (docs / "README.md").read_text(encoding="utf-8")

    listed = {
        line for block in re.findall(r"```\{toctree\}\n(.*?)```", index, re.DOTALL) for line in block.split()
    }
    assert pages <= listed
    assert pages == {link.removesuffix(".md") for link in re.findall(r"\]\(([^)]+\.md)\)", readme)}


def test_a_difference_is_found(tmp_path: Path) -> None:
    """The test of the test."""
    page = tmp_path / "page.md"
    page.write_text("```python\n# a.py\nprint(1)\n```\n```console\n$ python a.py\n1\n$ pwd\n/home/ada\n```\n")
    assert documents.check(page, tmp_path) == 3

    page.write_text("```console\n$ echo one; echo two\none\n...\n$ echo three\nfour\n```\n")
    with pytest.raises(AssertionError, match=r"echo three\n--- shown\nfour\n--- came\nthree"):
        documents.check(page, tmp_path)
