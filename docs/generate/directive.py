"""The directive `generated`: what a function here makes of the code stands in a page.

```{generated} options
```

The name is that of a function of `reference` or `drawings`, which returns Markdown.

Pages also link to files of the repository that are no pages: examples, benchmarks. As the built pages do not know where
the repository is, they bring those files along; folders are only named.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from docutils import nodes  # type: ignore[import-untyped,unused-ignore]
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

from docs.generate import drawings, reference

_PAGES = Path(__file__).resolve().parents[1]
_LINK = re.compile(r"\[([^\]]+)\]\(((?:\.\./)+[^)\s#]*)\)")
_MAKERS = {maker.__name__: maker for maker in (*reference.MAKERS, *drawings.MAKERS)}


class Generated(SphinxDirective):  # type: ignore[misc,unused-ignore]
    """Replaced by what the function of that name returns."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        """The nodes of the Markdown."""
        text = _MAKERS[self.arguments[0]]()
        found: list[nodes.Node] = self.parse_text_to_nodes(text, allow_section_headings=True)
        return found


def bring_files_along(app: Sphinx, page: str, source: list[str]) -> None:
    """Replace links to what is not below docs/, before the page is read."""
    folder = (_PAGES / page).parent

    def replaced(link: re.Match[str]) -> str:
        target = (folder / link[2]).resolve()
        if _PAGES in target.parents:
            return link[0]
        return f"{{download}}`{link[1].strip('`')} <{link[2]}>`" if target.is_file() else link[1]

    source[0] = _LINK.sub(replaced, source[0])


def setup(app: Sphinx) -> dict[str, Any]:
    """Make the directive known; called by Sphinx."""
    app.add_directive("generated", Generated)
    app.connect("source-read", bring_files_along)
    return {"parallel_read_safe": True}
