"""The merges that papers begin with, at the values they use, as recipes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from automerge.recipe import Profile, Recipe, RecipeSource, Value

USUAL_WEIGHT = 0.4
"""Of each task vector in a sum. The optimum is 0.3 to 0.5 for eight tasks (Ilharco et al. 2023,
arXiv:2212.04089), and larger for fewer."""
MAX_TOTAL_WEIGHT = 3.0
"""Of all task vectors together, about the paper's for eight: many more would break the model."""
TIES_DENSITY = 0.2
"""Share of elements kept (Yadav et al. 2023, arXiv:2306.01708, with λ = 1)."""
DARE_DENSITY = 0.8
"""Share of elements kept where models are merged (Yu et al. 2024, arXiv:2311.03099)."""


def usual_weight(n_sources: int) -> float:
    """Return the weight of each task vector that a sum of so many begins with."""
    return min(USUAL_WEIGHT, MAX_TOTAL_WEIGHT / n_sources)


def sum_of_task_vectors(sources: Sequence[str], base: str, weight: float) -> Recipe:
    """Return task arithmetic with one weight for all."""
    return _anchored("task_arithmetic", sources, base, {"weight": weight})


def metagpt(sources: Sequence[str], base: str) -> Recipe:
    """Return the sum with weights in proportion to the task vectors' squared norms.

    Zhou et al. 2024, arXiv:2406.11385.
    """
    return _anchored("metagpt", sources, base, {"weight": 1.0})


def model_stock(sources: Sequence[str], base: str) -> Recipe:
    """Return the average, drawn to the base by the angle between task vectors.

    Jang et al. 2024, arXiv:2403.19522.
    """
    return _anchored("model_stock", sources, base, {})


def ties(sources: Sequence[str], base: str) -> Recipe:
    """Return TIES at the paper's values."""
    knobs = {"weight": 1.0, "density": TIES_DENSITY}
    return _anchored("ties", sources, base, knobs, {"normalize": True})


def dare(method: str, sources: Sequence[str], base: str, seed: int) -> Recipe:
    """Return the average of task vectors with random elements dropped, at the paper's density."""
    knobs = {"weight": 1 / len(sources), "density": DARE_DENSITY}
    return replace(_anchored(method, sources, base, knobs), seed=seed)


def usual_merges(
    sources: Sequence[str],
    base: str,
    methods: Sequence[str],
    seed: int,
    layered: Sequence[tuple[str, Recipe]] = (),
) -> Iterator[tuple[str, Recipe]]:
    """Yield names and recipes, the most promising first.

    Those of methods that are not searched are left out, but for MetaGPT and Model Stock, which are
    weights for task arithmetic; so are those that need more sources.

    Args:
        sources: their names.
        base: its name.
        methods: those that are searched.
        seed: decides random masks.
        layered: names and recipes that a search of layers begins with.
    """
    sums = "task_arithmetic" in methods
    if sums:
        yield "sum", sum_of_task_vectors(sources, base, usual_weight(len(sources)))
    yield from layered
    if sums or "metagpt" in methods:
        yield "metagpt", metagpt(sources, base)
    if "ties" in methods:
        yield "ties", ties(sources, base)
    if len(sources) > 1 and (sums or "model_stock" in methods):
        yield "model-stock", model_stock(sources, base)
    for method in ("dare_linear", "dare_ties"):
        if method in methods:
            yield method.replace("_", "-"), dare(method, sources, base, seed)


def _anchored(
    method: str,
    sources: Sequence[str],
    base: str,
    each: Mapping[str, float],
    knobs: Mapping[str, Profile | Value] | None = None,
) -> Recipe:
    """Return a recipe in which all sources have the same knobs."""
    own = {knob: Profile.of(value) for knob, value in each.items()}
    return Recipe(method, tuple(RecipeSource(name, own) for name in sources), base, knobs or {})
