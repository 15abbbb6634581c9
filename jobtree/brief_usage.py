"""The usage of a script's argparse parser, without most of our options.

argparse shows the usage before every error. With all of our options it has sixty lines, and what is wrong is out of
sight. --help tells of all of them below.
"""

from __future__ import annotations

import argparse
from collections.abc import Collection
from typing import Any


def shorten_usage(parser: argparse.ArgumentParser, left_out: Collection[str]) -> None:
    """Have a parser leave options out of its usage. What makes its help is otherwise as it was."""
    formatter: Any = parser.formatter_class
    if not isinstance(formatter, type) or hasattr(formatter, "of_jobtree"):
        return

    def add_usage(self: Any, usage: Any, actions: Any, *rest: Any, **named: Any) -> None:
        shown = [action for action in actions if not set(left_out).intersection(action.option_strings)]
        formatter.add_usage(self, usage, shown, *rest, **named)  # type: ignore[attr-defined]

    shorter: Any = type("Formatter", (formatter,), {"add_usage": add_usage, "of_jobtree": True})
    parser.formatter_class = shorter
