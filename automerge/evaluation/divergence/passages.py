"""Cut text into passages, the items of a divergence."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

PASSAGE = 600
"""Characters of a passage, about: some 150 tokens of English."""
MAX_PASSAGES = 4000
"""Passages of a longer text are left out, evenly over its length."""


def passages(documents: Sequence[str]) -> list[str]:
    """Cut documents into passages of at most `PASSAGE` characters, at line ends or spaces if any.

    Nothing between two passages is lost but white space; at most `MAX_PASSAGES` are returned.
    """
    found = [passage for document in documents for passage in _cut(document)]
    if len(found) <= MAX_PASSAGES:
        return found
    return [found[i * len(found) // MAX_PASSAGES] for i in range(MAX_PASSAGES)]


def _cut(text: str) -> Iterator[str]:
    start = 0
    while start < len(text):
        stop = start + PASSAGE
        if stop < len(text):
            ends = (text.rfind(mark, start, stop) + 1 for mark in ("\n", " "))
            # A line's end, unless the passage would be short; a space; or within a word.
            stop = next((end for end in ends if end > start + PASSAGE // 2), stop)
        passage = text[start:stop].strip()
        if passage:
            yield passage
        start = stop
