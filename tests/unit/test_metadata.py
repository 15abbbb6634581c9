"""What is said about the project in several places is the same in all of them."""

from __future__ import annotations

import configparser
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from jobtree import report
from jobtree.version import VERSION

CHECKOUT = Path(__file__).resolve().parents[2]
FOR_DEVELOPERS = {"test", "lint", "release"}


@pytest.fixture(scope="module")
def metadata() -> configparser.ConfigParser:
    found = configparser.ConfigParser(interpolation=None)
    found.read(CHECKOUT / "setup.cfg", encoding="utf-8")
    return found


@pytest.fixture(scope="module")
def recipe() -> Any:
    return yaml.safe_load((CHECKOUT / "recipe" / "recipe.yaml").read_text(encoding="utf-8"))


def entries(text: str) -> list[str]:
    return sorted(re.sub(r"\s", "", line) for line in text.strip().splitlines() if not line.startswith("#"))


def test_all_is_the_union_of_what_users_may_want(metadata: configparser.ConfigParser) -> None:
    extras = dict(metadata["options.extras_require"])
    everything = entries(extras.pop("all"))

    wanted = {line for name, text in extras.items() if name not in FOR_DEVELOPERS for line in entries(text)}

    assert everything == sorted(wanted)


def test_every_extra_is_told_of(metadata: configparser.ConfigParser) -> None:
    page = (CHECKOUT / "docs" / "howto" / "install.md").read_text(encoding="utf-8")

    told = set(re.findall(r"^\| `(\w+)` \|", page, re.MULTILINE))
    assert told == set(metadata["options.extras_require"]) - FOR_DEVELOPERS


def test_what_developers_need_is_pinned(metadata: configparser.ConfigParser) -> None:
    for name in FOR_DEVELOPERS:
        assert all("==" in line for line in entries(metadata["options.extras_require"][name]))


def test_recipe_needs_what_an_installation_needs(metadata: configparser.ConfigParser, recipe: Any) -> None:
    python = f"python{metadata['options']['python_requires']}"
    needed = {python, *entries(metadata["options"]["install_requires"])}

    assert {re.sub(r"\s", "", line) for line in recipe["requirements"]["run"]} == needed
    assert python in {re.sub(r"\s", "", line) for line in recipe["requirements"]["host"]}


def test_what_is_told_to_be_missing_is_what_an_installation_brings(
    metadata: configparser.ConfigParser,
) -> None:
    brought = entries(metadata["options"]["install_requires"])

    assert sorted(report.REQUIRED) == [re.split(r"[^\w-]", line)[0] for line in brought]


def test_recipe_has_the_commands(metadata: configparser.ConfigParser, recipe: Any) -> None:
    commands = entries(metadata["options.entry_points"]["console_scripts"])

    assert sorted(re.sub(r"\s", "", line) for line in recipe["build"]["python"]["entry_points"]) == commands


def test_recipe_says_what_the_package_says(metadata: configparser.ConfigParser, recipe: Any) -> None:
    assert recipe["package"]["name"] == metadata["metadata"]["name"]
    assert recipe["about"]["summary"] == metadata["metadata"]["description"]
    assert recipe["about"]["license"] == metadata["metadata"]["license"]


def test_the_version_is_the_same_everywhere(recipe: Any) -> None:
    citation = yaml.safe_load((CHECKOUT / "CITATION.cff").read_text(encoding="utf-8"))

    assert recipe["context"]["version"] == VERSION
    assert citation["version"] == VERSION


def test_contributing_is_one_page() -> None:
    assert len((CHECKOUT / "CONTRIBUTING.md").read_text(encoding="utf-8").splitlines()) <= 66
