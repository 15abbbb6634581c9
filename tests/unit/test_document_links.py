"""Links in the documents lead somewhere: to a file that is there, and to a heading that is in it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).resolve().parents[2]
DOCUMENTS = sorted(
    [*CHECKOUT.glob("*.md"), *(CHECKOUT / "benchmarks").glob("*.md"), *(CHECKOUT / "docs").rglob("*.md")]
)

_CODE = re.compile(r"^```.*?^```$|`[^`\n]*`", re.DOTALL | re.MULTILINE)
_LINK = re.compile(r"\]\(([^)\s]+)\)")


def anchors(text: str) -> set[str]:
    """The names that headings get, by the rule that both a repository's pages and the built ones go by."""
    headings = re.findall(
        r"^#+ +(.*)$", re.sub(r"^```.*?^```$", "", text, flags=re.DOTALL | re.MULTILINE), re.M
    )
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def broken(document: Path, text: str) -> list[str]:
    """The links of a document that lead nowhere."""
    found = []
    for link in _LINK.findall(_CODE.sub("", text)):
        if re.match(r"https?://", link):
            continue
        name, _, anchor = link.partition("#")
        target = (document.parent / name).resolve() if name else document
        if (
            not target.exists()
            or CHECKOUT not in [target, *target.parents]
            or anchor
            and target.parent.name != "reference"
            and anchor not in anchors(target.read_text("utf-8"))
        ):
            found.append(link)
    return found


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.relative_to(CHECKOUT).as_posix())
def test_links_lead_somewhere(document: Path) -> None:
    assert broken(document, document.read_text(encoding="utf-8")) == []


def test_a_link_that_leads_nowhere_is_found() -> None:
    """The test of the test."""
    text = "# One heading: `it`\n[a](README.md#nothing) [b](gone.md) [c](#one-heading-it) `[d](no-link)`\n"

    assert broken(CHECKOUT / "LICENSE", text) == ["README.md#nothing", "gone.md", "#one-heading-it"]
