"""Averages written as sums of task vectors, for spaces that have no averages."""

from __future__ import annotations

from automerge.recipe import Profile, Recipe, RecipeSource

_AVERAGE, _SUM = "linear", "task_arithmetic"


def as_sum(recipe: Recipe, base: str) -> Recipe | None:
    """Return the sum of task vectors that gives the same weights as an average, up to rounding.

    Σ w_i θ_i / Σ w_i = θ_0 + Σ (w_i / Σ w) (θ_i − θ_0), so the base's own weight only counts in the
    total.

    Args:
        recipe: what to rewrite; None is returned for all but averages whose weights are alike in
            the whole model.
        base: the name of θ_0.
    """
    weights = {source.name: _number(source.knobs.get("weight")) for source in recipe.sources}
    total = sum(weight or 0.0 for weight in weights.values())
    if (
        recipe.method != _AVERAGE
        or recipe.slices
        or not recipe.knobs.get("normalize", True)
        or any(len(source.knobs) > 1 for source in recipe.sources)
        or None in weights.values()
        or not total
    ):
        return None
    shares = {name: (weight or 0.0) / total for name, weight in weights.items() if name != base}
    sources = tuple(RecipeSource(name, {"weight": Profile.of(w)}) for name, w in shares.items())
    return Recipe(_SUM, sources, base, dtype=recipe.dtype, vocabulary=recipe.vocabulary)


def _number(weight: Profile | None) -> float | None:
    """Return a weight that is one number for all tensors; None for others."""
    plain = None if weight is None else weight.plain()
    return float(plain) if isinstance(plain, float | int) else None
