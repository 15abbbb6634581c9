"""The pages for those who come from elsewhere: both sides do the same, and what they name of jobtree is there.

What they name of the others is looked up by `make migrate-check`, which installs these.
"""

from __future__ import annotations

import inspect

import pytest

from batchsystems import registry
from jobtree import Service, Stack, Target, steps
from tests.system import migration
from tests.unit import test_document_commands as commands

#: Where users have names and values of their own, words of Python, and what is of the shell.
EXAMPLES = {
    "class", "def", "self", "a", "b", "c", "f", "x", "job", "options", "target", "stack", "text", "service", "store",
    "Align", "licence", "TMPDIR", "rm",
}  # fmt: skip


@pytest.mark.parametrize("name", ["toil", "snakemake"])
def test_what_is_named_of_jobtree_is_there(name: str) -> None:
    text = (migration.PAGES / f"{name}.md").read_text(encoding="utf-8")
    known = {*steps.KEYS, *registry.built_names()}
    for cls in (Target, Stack, Service):
        known |= {cls.__name__, *dir(cls)}
    for function in (Target.__init__, Target.addChildFn):
        known.update(inspect.signature(function).parameters)
    for command in commands.COMMANDS:
        known.add(f"jobTree{command}")
        for action in commands.every_action(commands.parser_of(f"jobTree{command}")):
            known.update(action.option_strings)
    same = "\n".join(line for line in text.splitlines() if line.endswith("| the same |"))
    named = {*migration.named(text, 1), *migration.named(same, 0)}

    assert len(named) > 15
    assert named - known - EXAMPLES == set()


@pytest.mark.parametrize("name", ["toil", "snakemake"])
def test_both_sides_show_the_same_result(name: str) -> None:
    text = (migration.PAGES / f"{name}.md").read_text(encoding="utf-8")

    assert f"console on {name}\n" in text
    assert len(migration.results(text)) == 1
