"""What a search measures before, and between, its sampler's first proposals.

Fixed recipes, and rules that choose one by what was measured so far. A rule keeps the law of
samplers: what it says is a function of what was told, so a resumed search goes on as it would have.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TypeAlias

import numpy as np

from automerge.arrays import Floats
from automerge.recipe import Profile, Recipe, RecipeSource, single, uniform_average
from automerge.study.usual import sum_of_task_vectors, usual_weight

TEMPERATURE = 0.5
"""Of the softmax of losses, in ranges of the parents' losses: the worst parent's weight is e⁻² of
the best one's."""
LINE_STEPS = 4
"""Weights a line search tries at most."""
LONGER, SHORTEST = 1.4, 0.02
"""What the largest weight is multiplied by while it is the best; the least that is tried."""
FEW_SOURCES, EARLY_SOUPS = 6, 3
"""With more sources than this, a pool, so many steps of the greedy soup come before all others."""

Losses: TypeAlias = Mapping[str, tuple[float, ...] | None]
"""Recipe's id → its losses, one per goal; None where its measurement failed. Recipes that are being
measured are not there."""
Rule: TypeAlias = Callable[[Losses], Recipe | None]
"""What to measure next; None while that is not known, and once there is nothing left."""


@dataclass(frozen=True)
class Opening:
    """Named recipes and rules, in order.

    Attributes:
        steps: those that fit into the budget; a rule with several steps has as many entries.
    """

    steps: tuple[tuple[str, Recipe | Rule], ...] = ()

    def next(self, names: set[str], asked: set[str], losses: Losses) -> tuple[str, Recipe] | None:
        """Return the next step's name and recipe; None where there is none, or none yet.

        A rule that has to wait lets the steps after it go first.

        Args:
            names: of all trials so far.
            asked: ids of the recipes of all trials so far.
            losses: of those that were told.
        """
        for name, step in self.steps:
            if name in names:
                continue
            recipe = step if isinstance(step, Recipe) else step(losses)
            if recipe is not None and (isinstance(step, Recipe) or recipe.id not in asked):
                return name, recipe
        return None


NOTHING = Opening()


def opening(
    usual: Sequence[tuple[str, Recipe]],
    sources: Sequence[str],
    base: str,
    n_goals: int,
    limit: int,
) -> Opening:
    """Return the first `limit` steps: usual merges, and rules on what the parents scored.

    Args:
        usual: names and recipes, the most promising first.
        sources: their names.
        base: its name.
        n_goals: how many losses each trial has.
        limit: how many recipes may be measured.
    """
    steps = list(_steps(usual, sources, base, n_goals))[:limit]
    return Opening(tuple((f"start-{name}", step) for name, step in steps))


def _steps(
    usual: Sequence[tuple[str, Recipe]], sources: Sequence[str], base: str, n_goals: int
) -> Iterator[tuple[str, Recipe | Rule]]:
    fixed = list(usual)
    soups: list[tuple[str, Recipe | Rule]] = [
        (f"soup-{size}", partial(greedy_soup, sources, base)) for size in range(2, len(sources))
    ]
    early = EARLY_SOUPS if len(sources) > FEW_SOURCES else 0
    yield from soups[:early]
    yield from fixed[:1]
    if fixed and fixed[0][0] == "sum":
        for step in range(1, LINE_STEPS):
            yield f"sum-{step}", partial(line_search, sources, base)
    yield "cocktail", partial(cocktail, sources, base, None)
    yield from fixed[1:3]
    yield from soups[early:]
    if n_goals > 1:
        for goal in range(n_goals):
            yield f"cocktail-{goal + 1}", partial(cocktail, sources, base, goal)
    yield from fixed[3:]


def cocktail(sources: Sequence[str], base: str, goal: int | None, losses: Losses) -> Recipe | None:
    """Return the average of base and sources with weights softmax(−loss / T).

    LM-Cocktail (Xiao et al. 2024, https://aclanthology.org/2024.findings-acl.145). Losses are in
    ranges of the parents', as goals have different units.

    Args:
        sources: their names.
        base: its name.
        goal: whose loss counts; None for the mean of all.
        losses: None is returned until those of all parents are known.
    """
    names = (base, *sources)
    heights = _heights([single(name).id for name in names], _parents(sources, base), losses)
    if heights is None:
        return None
    own = heights.mean(axis=1) if goal is None else heights[:, goal]
    weights = np.exp(-(own - own.min()) / TEMPERATURE)
    weights /= weights.sum()
    return Recipe(
        "linear",
        tuple(
            RecipeSource(name, {"weight": Profile.of(weight)})
            for name, weight in zip(names, weights.tolist(), strict=True)
        ),
    )


def greedy_soup(sources: Sequence[str], base: str, losses: Losses) -> Recipe | None:
    """Return the next average to measure for the greedy soup.

    Sources enter from best to worst, and stay unless the average gets worse (Wortsman et al. 2022,
    arXiv:2203.05482, recipe 1). The loss is the mean of all, in ranges of the parents'.

    Args:
        sources: their names.
        base: its name.
        losses: None is returned until those of all parents, and of the last average, are known.
    """
    parents = _parents(sources, base)
    heights = _heights([single(name).id for name in sources], parents, losses)
    if heights is None:
        return None
    ranked = np.argsort(heights.mean(axis=1), kind="stable").tolist()
    soup, best = ranked[:1], float(heights.mean(axis=1)[ranked[0]])
    for i in ranked[1:]:
        tried = sorted([*soup, i])
        average = uniform_average([sources[j] for j in tried])
        if average.id not in losses:
            return average
        height = _heights([average.id], parents, losses)
        if height is not None and float(height.mean()) <= best:
            soup, best = tried, float(height.mean())
    return None


def line_search(sources: Sequence[str], base: str, losses: Losses) -> Recipe | None:
    """Return the next sum of task vectors on the way to the best weight for all of them.

    One coefficient is what task arithmetic tunes (Ilharco et al. 2023, arXiv:2212.04089, section
    2.2). Weights grow while the largest is the best, and shrink while none is better than the base.
    Between weights that were measured it is up to the sampler. The base has weight 0, and the
    uniform average is the sum with 1 / number of sources. The loss is the mean of all, in ranges of
    the parents'.

    Args:
        sources: their names.
        base: its name.
        losses: None is returned until those of all parents, of the uniform average and of the last
            sum are known.
    """
    parents = _parents(sources, base)
    known = {0.0: single(base).id, 1 / len(sources): uniform_average(sources).id}
    weight: float | None = usual_weight(len(sources))
    while weight is not None:
        if weight not in known:
            known[weight] = sum_of_task_vectors(sources, base, weight).id
        weights = sorted(known)
        missing = [w for w in weights if known[w] not in losses]
        if missing:
            found = missing == [weight] and weight != 1 / len(sources)
            return sum_of_task_vectors(sources, base, weight) if found else None
        heights = _heights([known[w] for w in weights], parents, losses)
        if heights is None:
            return None
        weight = _next_weight(np.array(weights), heights.mean(axis=1))
    return None


def _next_weight(weights: Floats, heights: Floats) -> float | None:
    """Return where a line search goes on; None where the best weight has neighbours.

    Args:
        weights: ascending, at least two, the first 0.
        heights: the losses there.
    """
    best = int(heights.argmin())
    if best == len(weights) - 1:
        return round(float(LONGER * weights[best]), 3)
    halved = round(float(weights[1] / 2), 3)
    return halved if best == 0 and halved > SHORTEST else None


def _parents(sources: Sequence[str], base: str) -> list[str]:
    """Return the ids of the recipes of base and sources."""
    return [single(name).id for name in (base, *sources)]


def _heights(ids: Sequence[str], parents: Sequence[str], losses: Losses) -> Floats | None:
    """Return losses above the best parent's in ranges of the parents', (ids, goals).

    None where a parent has none yet. What failed is infinitely bad.
    """
    known = [losses.get(parent) for parent in parents]
    if any(own is None for own in known):
        return None
    rows = np.array([own for own in known if own is not None], dtype=np.float64)
    low, spread = rows.min(axis=0), np.ptp(rows, axis=0)
    worst = (math.inf,) * rows.shape[1]
    given = np.array([losses.get(id) or worst for id in ids], dtype=np.float64)
    return np.asarray((given - low) / np.where(spread > 0, spread, 1.0))
