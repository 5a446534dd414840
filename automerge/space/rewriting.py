"""Averages written as sums of task vectors, for spaces that have no averages."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from automerge.recipe import Profile, Recipe, RecipeSource

_AVERAGE, _SUM = "linear", "task_arithmetic"


def as_sums(recipe: Recipe, base: str) -> Iterator[Recipe]:
    """Yield sums of task vectors that give the same weights as an average, up to rounding.

    Σ w_i θ_i / Σ w_i = θ_0 + Σ (w_i / Σ w) (θ_i − θ_0), so the base's own weight only counts in the
    total. The first sum has these weights; the second is normalised, and has λ for the part of the
    total that is not the base's.

    Args:
        recipe: what to rewrite; nothing is yielded for all but averages whose weights are alike in
            the whole model.
        base: the name of θ_0.
    """
    weights = {source.name: _number(source.knobs.get("weight")) for source in recipe.sources}
    total = sum(weight or 0.0 for weight in weights.values())
    if (
        recipe.all_methods != (_AVERAGE,)
        or recipe.slices
        or not recipe.knobs.get("normalize", True)
        or any(len(source.knobs) > 1 for source in recipe.sources)
        or None in weights.values()
        or not total
    ):
        return
    shares = {name: (weight or 0.0) / total for name, weight in weights.items() if name != base}
    sources = tuple(RecipeSource(name, {"weight": Profile.of(w)}) for name, w in shares.items())
    plain = Recipe(_SUM, sources, base, dtype=recipe.dtype, vocabulary=recipe.vocabulary)
    yield plain
    if part := sum(shares.values()):
        relative = tuple(
            RecipeSource(name, {"weight": Profile.of(w / part)}) for name, w in shares.items()
        )
        yield replace(
            plain, sources=relative, knobs={"lambda": Profile.of(part), "normalize": True}
        )


def _number(weight: Profile | None) -> float | None:
    """Return a weight that is one number for all tensors; None for others."""
    plain = None if weight is None else weight.plain()
    return float(plain) if isinstance(plain, float | int) else None
