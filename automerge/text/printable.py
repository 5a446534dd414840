"""Untrusted text made harmless to look at."""

from __future__ import annotations

import re

_OBEYED = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f"  # controls except tab and newline; below, directions
    "\u061c\u180e\u200b\u200e\u200f\u2028\u2029\u202a-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb"
    "\ud800-\udfff"  # lone surrogates, which cannot be encoded
    "\U000e0000-\U000e0fff]"  # tags, which are invisible
)


def printable(text: str, instead: str = "\ufffd") -> str:
    """Replace control characters, which terminals obey, and those that change text direction."""
    return "".join(c if c.isprintable() or c == "\n" else instead for c in text)


def one_line(text: str, most: int = 100) -> str:
    """Return the beginning of a text as one printable line of at most `most` characters."""
    return " ".join(printable(text[: 4 * most], " ").split())[:most]


def inert(text: str) -> str:
    r"""Write every character that readers obey as `\uXXXX`, which inside JSON means the same.

    These are controls except tab and newline, marks that change text direction, zero-width
    characters that are not joiners, and lone surrogates.
    """
    return _OBEYED.sub(_escape, text)


def _escape(found: re.Match[str]) -> str:
    units = found.group().encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{units[i]:02x}{units[i + 1]:02x}" for i in range(0, len(units), 2))
