"""Texts from outside, made safe to show: what a target printed must not move the cursor of whoever reads it.

Names of files, hosts and classes are such texts too, and so is every line of a log.
"""

from __future__ import annotations


def shown(text: str) -> str:
    """The text with everything escaped that is not printable, but newlines and tabs."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c in "\n\t" else c.encode("unicode_escape").decode() for c in text)


def storable(text: str) -> str:
    """The text as SQLite takes it: file names may hold bytes that are no UTF-8, which Python keeps as surrogates."""
    return text.encode("utf-8", "backslashreplace").decode()


def one_line(text: str) -> str:
    """The same in one line."""
    return shown(text).replace("\n", "\\n").replace("\t", "\\t")
