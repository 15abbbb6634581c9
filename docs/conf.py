"""How Sphinx builds the documents: `make docs`. Reference pages take their contents from the code, as it is built."""

from __future__ import annotations

import re
import sys
from pathlib import Path

from pygments.lexers.python import PythonLexer  # type: ignore[import-untyped]
from sphinx.application import Sphinx

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from docs.generate import drawings
from jobtree.version import VERSION

project = "jobtree"
copyright = "jobtree developers, MIT License"
version = release = VERSION

extensions = [
    "docs.generate.directive",
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.graphviz",
    "sphinx_copybutton",
]
root_doc = "index"
exclude_patterns = ["README.md", "generate"]
nitpicky = True
nitpick_ignore_regex = [
    ("py:.*", r".*")
]  # types in signatures are Python's own and ours; not all have a page

# Headings get an anchor that links can name, as on the pages of repositories.
myst_heading_anchors = 3
myst_enable_extensions = ["colon_fence"]

default_role = "code"
smartquotes = False  # it would make one dash of the two of an option
add_module_names = False
autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
autodoc_preserve_defaults = True

highlight_language = "text"
copybutton_prompt_text = "$ "
copybutton_only_copy_prompt_lines = True

graphviz_output_format = "svg"
graphviz_dot_args = drawings.STYLE


def setup(app: Sphinx) -> None:
    """What is ours in it; called by Sphinx."""
    app.connect("autodoc-process-docstring", arguments_as_list)
    app.add_lexer("snakemake", PythonLexer)  # Pygments has none; its rules look well as Python


def arguments_as_list(
    app: Sphinx, what: str, name: str, obj: object, options: object, lines: list[str]
) -> None:
    """A docstring tells of arguments in lines that begin with their names; in a page these are a list."""
    inside = False
    for number, line in enumerate(lines):
        named = re.match(r"([a-z_]+): (?=\w)", line)
        if named:
            lines[number] = f"* `{named[1]}`: {line[named.end() :]}"
            inside = True
        elif inside and line.strip():
            lines[number] = f"  {line}"
        else:
            inside = False


html_theme = "furo"
html_title = f"jobtree {VERSION}"
html_theme_options = {"navigation_with_keys": True}
html_static_path = ["_static"]
html_css_files = ["tables.css"]
html_copy_source = False
html_show_sourcelink = False
