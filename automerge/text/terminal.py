"""Output that any terminal, pipe or log can take: the one place where text becomes bytes.

Whoever prints, characters that an encoding lacks are written in ASCII, control characters are
shown rather than obeyed, and secrets are hidden.
"""

from __future__ import annotations

import codecs
import sys
from collections.abc import Iterable

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment

from automerge.text.printable import inert
from automerge.text.redaction import redact

ERRORS = "automerge.ascii"
"""The name of our error handler for characters that an encoding lacks."""

_ASCII = {
    "−": "-", "–": "-", "—": "-", "±": "+-", "≥": ">=", "≤": "<=", "≈": "~", "×": "x", "·": "-",
    "…": "...", "→": "->", "←": "<-", "Δ": "diff", "½": "1/2", "\u00a0": " ", "‘": "'", "’": "'",
    "“": '"', "”": '"', "•": "*", "│": "|", "┃": "|", "─": "-", "━": "-",
}  # fmt: skip


def _replace(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    lacking = error.object[error.start : error.end]
    return "".join(_ASCII.get(character, "?") for character in lacking), error.end


codecs.register_error(ERRORS, _replace)


def in_encoding(text: str, encoding: str) -> str:
    """Return a text as it will look in an encoding, so that its columns can be counted."""
    return text.encode(encoding, ERRORS).decode(encoding)


def bear_any_encoding() -> None:
    """Make standard output and error accept every text, whatever the locale."""
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(errors=ERRORS)


def somebody_is_there() -> bool:
    """Return whether both standard input and output are a terminal."""
    return sys.stdin.isatty() and sys.stdout.isatty()


def harmless(text: str) -> str:
    """Hide secrets, and show control characters instead of letting a terminal obey them."""
    return inert(redact(text))


class Plain(Console):
    """A console that obeys nothing but its styles: texts are shown literally, without secrets."""

    def render(
        self, renderable: RenderableType, options: ConsoleOptions | None = None
    ) -> Iterable[Segment]:
        """Render with all text made harmless."""
        if isinstance(renderable, str):
            renderable = redact(renderable)
        for segment in super().render(renderable, options):
            if segment.control:
                yield segment
            else:
                yield Segment(harmless(segment.text), segment.style)
