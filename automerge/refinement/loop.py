"""The loop: steps of Adam over a recipe's numbers, of which the best recipe is kept."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from automerge.recipe import Coordinate, Recipe
from automerge.refinement.adam import Adam
from automerge.refinement.numbers import Number, with_values

CHECKS = 5
"""How often a recipe is measured on the text that chooses, while steps are made."""


class Objective(Protocol):
    """What is minimised."""

    def slopes(self, recipe: Recipe) -> tuple[float, Mapping[Coordinate, float]]:
        """Return the loss on the next batch, and its slopes; those that are left out are 0."""
        ...

    def check(self, recipe: Recipe) -> float:
        """Return the loss on text that no step sees. A merge that is broken has no finite loss."""
        ...


@dataclass(frozen=True)
class Steps:
    """How many steps, and how far a number goes in the first one, as a share of its unit.

    The rate falls linearly to 0 at the end.
    """

    count: int = 40
    rate: float = 0.03


@dataclass(frozen=True)
class Progress:
    """After a step: its loss on its batch, and the least so far on the text that chooses."""

    step: int
    steps: int
    loss: float
    best: float


@dataclass(frozen=True)
class Best:
    """The best recipe, the step that it came from (0: none was better than the start), its loss on
    the text that chooses, the start's, and how many steps were made.

    `diverged` says that the steps ended where the loss was no longer finite.
    """

    recipe: Recipe
    step: int
    loss: float
    start: float
    steps: int
    diverged: bool = False


def refine(
    start: Recipe,
    numbers: Sequence[Number],
    objective: Objective,
    steps: Steps,
    observe: Callable[[Progress], None] = lambda _: None,
    keep: Callable[[Recipe], None] = lambda _: None,
    stopped: Callable[[], bool] = lambda: False,
) -> Best:
    """Follow a loss downhill from a recipe.

    Args:
        start: has the numbers, at their values.
        numbers: what is moved, within its bounds.
        objective: what is minimised.
        steps: how many, and how long.
        observe: told after each step.
        keep: told each recipe that is better than all before.
        stopped: asked before each step whether to end here.
    """
    first = objective.check(start)
    best = Best(start, 0, first, first, 0)
    if not math.isfinite(first):
        return Best(start, 0, first, first, 0, diverged=True)
    coordinates = [number.coordinate for number in numbers]
    low, high, units = (
        np.array([getattr(number, name) for number in numbers]) for name in ("low", "high", "unit")
    )
    values = np.array([number.value for number in numbers])
    recipe, state, done, diverged = start, Adam.start(len(numbers)), 0, False
    every = max(1, steps.count // CHECKS)
    while done < steps.count and not stopped():
        loss, slopes = objective.slopes(recipe)
        gradient = units * np.array([slopes.get(at, 0.0) for at in coordinates])
        if not (math.isfinite(loss) and np.isfinite(gradient).all()):
            diverged = True
            break
        state, move = state.step(gradient, steps.rate * (1 - done / steps.count))
        values = np.clip(values + units * move, low, high)
        recipe = with_values(start, dict(zip(coordinates, values.tolist(), strict=True)))
        done += 1
        if done % every == 0 or done == steps.count:
            best = _better(best, recipe, done, objective, keep)
        observe(Progress(done, steps.count, loss, best.loss))
    else:
        if done % every and done < steps.count:
            best = _better(best, recipe, done, objective, keep)
    return Best(best.recipe, best.step, best.loss, first, done, diverged)


def _better(
    best: Best, recipe: Recipe, step: int, objective: Objective, keep: Callable[[Recipe], None]
) -> Best:
    loss = objective.check(recipe)
    if not loss < best.loss:
        return best
    keep(recipe)
    return Best(recipe, step, loss, best.start, step)
