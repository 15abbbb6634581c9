"""The reference that is made from the code leaves nothing out."""

from __future__ import annotations

import re
from pathlib import Path

import jobtree
from docs.generate import reference
from jobtree.options import OPTIONS, backend_options

CHECKOUT = Path(__file__).resolve().parents[2]
LIBRARY = [path for folder in ("jobtree", "batchsystems") for path in (CHECKOUT / folder).rglob("*.py")]


def test_every_variable_that_is_read_or_set_is_told_of() -> None:
    told = set(re.findall(r"`([A-Z_]+\*?)`", reference.variables()))
    code = "\n".join(path.read_text(encoding="utf-8") for path in LIBRARY)
    used = {*re.findall(r'environ(?:\.get\(|\[)"(\w+)"', code), *re.findall(r'"(JOBTREE_[A-Z]+)"', code)}

    assert used
    assert used <= told


def test_everything_that_can_be_imported_from_jobtree_is_told_of() -> None:
    page = (CHECKOUT / "docs/reference/api.md").read_text(encoding="utf-8") + reference.raised()
    names = {"open", *jobtree.__all__} - {"__version__"}

    assert {name for name in names if not re.search(rf"jobtree\.(errors\.)?{name}\b", page)} == set()


def test_every_option_is_told_of() -> None:
    told = set(re.findall(r"`(--\w+)`", reference.options()))

    assert told >= {option.flag for option in (*OPTIONS, *backend_options())}
