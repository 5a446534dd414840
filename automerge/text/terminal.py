"""Output that any terminal, pipe or log can take: the one place where text becomes bytes.

What an encoding lacks is written in ASCII, what a terminal would obey is shown, and secrets are
hidden, whoever prints.
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
"""The name of our way with characters that an encoding lacks."""

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
    """Give a text as it will look in an encoding, for what counts its columns."""
    return text.encode(encoding, ERRORS).decode(encoding)


def bear_any_encoding() -> None:
    """Let standard output and error write every text, whatever the locale says."""
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(errors=ERRORS)


def harmless(text: str) -> str:
    """Hide secrets, and show what a terminal would obey."""
    return inert(redact(text))


class Plain(Console):
    """A console whose styles alone are obeyed: texts are shown as they are, without secrets."""

    def render(
        self, renderable: RenderableType, options: ConsoleOptions | None = None
    ) -> Iterable[Segment]:
        """Render with harmless texts."""
        if isinstance(renderable, str):
            renderable = redact(renderable)
        for segment in super().render(renderable, options):
            if segment.control:
                yield segment
            else:
                yield Segment(harmless(segment.text), segment.style)
