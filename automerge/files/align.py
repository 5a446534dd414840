"""How a source is aligned with its base: `git_rebasin`, or `git_rebasin@DIGEST` of the result."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from automerge.errors import nearest

DIGITS = 32
ACTIVATION_MATCHING = "activation_matching"
"""The kind that needs text, on which both models are run."""
KINDS: Mapping[str, str] = MappingProxyType(
    {
        "git_rebasin": "heads, feed-forward units and the residual stream are permuted",
        "rotation_fusion": "the same, and queries, keys, values and outputs are rotated by head",
        ACTIVATION_MATCHING: "the same as git_rebasin, and values within heads; by what they do on "
        "text",
    }
)
"""What each kind of alignment does."""

_FORM = re.compile(rf"([A-Za-z0-9_]+)(?:@([0-9a-f]{{{DIGITS}}}))?", re.ASCII)


@dataclass(frozen=True)
class Align:
    """One of `KINDS`, and the digest of the alignment it must be; "" for the one computed here."""

    kind: str
    digest: str = ""

    @property
    def text(self) -> str:
        """The text that `parse` reads."""
        return f"{self.kind}@{self.digest}" if self.digest else self.kind

    @classmethod
    def parse(cls, text: str) -> Align:
        """Read `KIND` or `KIND@DIGEST`.

        Raises:
            ValueError: it is neither; the message is for the user.
        """
        match = _FORM.fullmatch(text)
        if match is None:
            known = ", ".join(KINDS)
            raise ValueError(
                f"expected {known}, or one of them with @ and {DIGITS} hexadecimal digits, "
                f"got {text!r}"
            )
        if match[1] not in KINDS:
            raise ValueError(f"unknown alignment {match[1]!r}{nearest(match[1], tuple(KINDS))}")
        return cls(match[1], match[2] or "")


def align_fault(text: object) -> str | None:
    """Return what is wrong with an alignment as it was written; None if nothing is."""
    if not isinstance(text, str):
        return f"expected one of {', '.join(KINDS)}, got {text!r}"
    try:
        Align.parse(text)
    except ValueError as error:
        return str(error)
    return None
