"""A mixture of experts: whose feed-forward parts a token may pass, and how it is routed to them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from automerge.errors import nearest

UNIFORM, RANDOM, HIDDEN = "uniform", "random", "hidden"
GATES = (UNIFORM, RANDOM, HIDDEN)
"""How gates are made: alike, so that a token passes all experts in equal shares; drawn by the
recipe's seed; or along the hidden states of the base on each expert's own text."""
EVIDENCE = "hidden_state"
"""The kind of evidence that gates of `HIDDEN` are made of, the expert's own."""
KEYS = ("experts", "per_token", "gates", "layers")
LEAST_EXPERTS = 2


@dataclass(frozen=True)
class Mixture:
    """What makes a merged model a mixture of experts.

    In `layers`, the half-open range [first, end) (None: all), each of `experts`, some models,
    keeps its own feed-forward part; in all other layers every expert is the merge. A token
    passes the `per_token` experts whose gates, vectors made as `gates` says, have the largest
    products with its hidden state.
    """

    experts: tuple[str, ...]
    per_token: int
    gates: str
    layers: tuple[int, int] | None = None

    def has(self, layer: int) -> bool:
        """Return whether the experts of a layer are their own models'."""
        return self.layers is None or self.layers[0] <= layer < self.layers[1]

    @property
    def in_words(self) -> str:
        """What a report says of it."""
        where = (
            "" if self.layers is None else f", in layers {self.layers[0]} to {self.layers[1] - 1}"
        )
        experts = ", ".join(self.experts)
        return f"mixture of {experts}; {self.per_token} per token, {self.gates} gates{where}"

    def renamed(self, names: Mapping[str, str]) -> Mixture:
        """Return the same of models with other names."""
        experts = tuple(names[name] for name in self.experts)
        return Mixture(experts, self.per_token, self.gates, self.layers)

    def plain(self) -> dict[str, object]:
        """Return it as in `Recipe.plain`."""
        plain: dict[str, object] = {
            "experts": list(self.experts),
            "per_token": self.per_token,
            "gates": self.gates,
        }
        return plain if self.layers is None else plain | {"layers": list(self.layers)}

    @classmethod
    def from_plain(cls, plain: Mapping[str, Any]) -> Mixture:
        """Invert `plain`."""
        layers = plain.get("layers")
        return cls(
            tuple(plain["experts"]),
            plain["per_token"],
            plain["gates"],
            None if layers is None else (layers[0], layers[1]),
        )

    def faults(self, known: Mapping[str, str]) -> Iterator[tuple[str, str]]:
        """Yield what is wrong with it, after the key that says so.

        Args:
            known: the digests of evidence of the kind `EVIDENCE`, by model.
        """
        count = len(self.experts)
        if count < LEAST_EXPERTS:
            yield "experts", f"a mixture has {LEAST_EXPERTS} experts or more; got {count}"
        elif not 1 <= self.per_token <= count:
            wanted = f"expected a number from 1 to {count}, that of the experts"
            yield "per_token", f"{wanted}; got {self.per_token}"
        elif self.gates == UNIFORM and self.per_token != count:
            wanted = f"expected all {count} experts per token, since uniform gates prefer none"
            yield "per_token", f"{wanted}; got {self.per_token}"
        if self.gates not in GATES:
            yield "gates", f"unknown gates {self.gates!r}{nearest(self.gates, GATES)}"
        if self.layers is not None and not 0 <= self.layers[0] < self.layers[1]:
            wanted = "the first layer, counted from 0, and the one past the last"
            yield "layers", f"expected {wanted}; got {list(self.layers)}"
        lacking = [name for name in self.experts if name not in known]
        if self.gates == HIDDEN and lacking:
            yield (
                "gates",
                f"hidden gates need evidence of the kind {EVIDENCE} from "
                f"{', '.join(dict.fromkeys(lacking))}: name its digest under `evidence` "
                "(`automerge gather` makes it)",
            )
