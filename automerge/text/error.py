"""Errors in one line."""

from __future__ import annotations


def first_line(error: BaseException) -> str:
    """Return the first line of an error's text, or its kind if it has no text."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def cause(error: BaseException) -> str:
    """Return an error's kind and the first line of its text."""
    return f"{type(error).__name__}: {str(error).strip()}".strip().splitlines()[0]
