"""Fewer experts: which experts of a mixture's layers are merged into one."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from automerge.errors import nearest

OUTPUTS, ROUTING = "outputs", "routing"
BY = (OUTPUTS, ROUTING)
"""What makes experts alike: near mean outputs, clustered (HC-SMoE), or router logits that go
together with those of an expert that is used much (M-SMoE)."""
EVIDENCE = "routing"
"""The kind of evidence that experts are grouped by, of each source."""
KEYS = ("count", "by", "per_token")


@dataclass(frozen=True)
class ExpertGroups:
    """How the experts of a merged mixture are made fewer.

    In each layer they form `count` groups, by what `by` says, and each group becomes one expert:
    the average by how often the router chooses its members. A token passes `per_token` of them;
    None for as many as before, or all where there are fewer.
    """

    count: int
    by: str
    per_token: int | None = None

    @property
    def in_words(self) -> str:
        """What a report says of it."""
        each = "" if self.per_token is None else f", {self.per_token} per token"
        return f"experts merged into {self.count} per layer, grouped by {self.by}{each}"

    def plain(self) -> dict[str, object]:
        """Return it as in `Recipe.plain`."""
        plain: dict[str, object] = {"count": self.count, "by": self.by}
        return plain if self.per_token is None else plain | {"per_token": self.per_token}

    @classmethod
    def from_plain(cls, plain: Mapping[str, Any]) -> ExpertGroups:
        """Invert `plain`."""
        return cls(plain["count"], plain["by"], plain.get("per_token"))

    def faults(self, sources: Sequence[str], known: Collection[str]) -> Iterator[tuple[str, str]]:
        """Yield what is wrong with it, after the key that says so.

        Args:
            sources: the names of the models that are merged.
            known: those of which there is evidence of the kind `EVIDENCE`.
        """
        if self.count < 1:
            yield "count", f"expected a number of experts from 1; got {self.count}"
        elif self.per_token is not None and not 1 <= self.per_token <= self.count:
            wanted = f"expected a number from 1 to {self.count}, that of the experts that are left"
            yield "per_token", f"{wanted}; got {self.per_token}"
        if self.by not in BY:
            yield "by", f"expected {' or '.join(BY)}, got {self.by!r}{nearest(self.by, BY)}"
        if lacking := [name for name in sources if name not in known]:
            yield (
                "by",
                f"experts are grouped by evidence of the kind {EVIDENCE}, which "
                f"{', '.join(lacking)} lack{'s' if len(lacking) == 1 else ''}: name its digest "
                f"under `evidence` (`automerge gather --kind {EVIDENCE}` makes it)",
            )
