"""Lines of a limited width."""

from __future__ import annotations

import textwrap


def hanging(head: str, text: str, width: int, indent: str | None = None) -> list[str]:
    """Break a text into lines within a width; words that are longer stay whole.

    The first line begins with `head`, the others with `indent`, by default as many spaces.
    """
    return textwrap.wrap(
        text,
        width,
        initial_indent=head,
        subsequent_indent=" " * len(head) if indent is None else indent,
        break_long_words=False,
        break_on_hyphens=False,
    )
