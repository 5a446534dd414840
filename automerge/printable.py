"""Strangers' text made harmless to look at."""

from __future__ import annotations


def printable(text: str, instead: str = "\ufffd") -> str:
    """Text without control characters, which terminals obey, or those that turn its direction."""
    return "".join(c if c.isprintable() or c == "\n" else instead for c in text)


def one_line(text: str, most: int = 100) -> str:
    """The first words of a text, in one printable line."""
    return " ".join(printable(text[: 4 * most], " ").split())[:most]
