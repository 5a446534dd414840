"""The loop on a bowl whose minimum is known."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import pytest

from automerge.methods import METHODS
from automerge.recipe import Coordinate, Profile, Recipe, RecipeSource
from automerge.refinement import Best, Number, Progress, Steps, explicit, numbers, refine

START = Recipe("linear", tuple(RecipeSource(n, {"weight": Profile.of(0.5)}) for n in "abc"))
LINEAR = METHODS["linear"]
NUMBERS = numbers(explicit(START, LINEAR), LINEAR)
STEPS = Steps(60, 0.05)


def weights(recipe: Recipe) -> list[float]:
    return [number.value for number in numbers(recipe, LINEAR)]


@dataclass
class Bowl:
    """Σ (w − aim)² at the recipe's weights."""

    aims: tuple[float, ...]
    seen: list[Recipe] = field(default_factory=list)
    breaks: int | None = None

    def check(self, recipe: Recipe) -> float:
        return math.fsum((w - a) ** 2 for w, a in zip(weights(recipe), self.aims, strict=True))

    def slopes(self, recipe: Recipe) -> tuple[float, Mapping[Coordinate, float]]:
        self.seen.append(recipe)
        if self.breaks == len(self.seen):
            return math.inf, {}
        slopes = {
            number.coordinate: 2 * (number.value - aim)
            for number, aim in zip(numbers(recipe, LINEAR), self.aims, strict=True)
        }
        return self.check(recipe), slopes


def run(bowl: Bowl, steps: Steps = STEPS, some: tuple[Number, ...] = NUMBERS) -> Best:
    return refine(START, some, bowl, steps)


def test_it_goes_to_the_minimum_and_the_same_calls_give_the_same_recipe() -> None:
    found = run(Bowl((0.9, 0.0, 0.4)))
    assert weights(found.recipe) == pytest.approx([0.9, 0.0, 0.4], abs=0.02)
    assert found.start == pytest.approx(0.42)
    assert found == run(Bowl((0.9, 0.0, 0.4)))


def test_numbers_stay_within_their_bounds_and_only_those_given_move() -> None:
    found = run(Bowl((90.0, 0.0, 0.4)), Steps(3, 100.0), NUMBERS[:1])
    assert weights(found.recipe) == [10.0, 0.5, 0.5]


def test_a_start_that_is_best_is_kept() -> None:
    kept: list[Recipe] = []
    found = refine(START, NUMBERS, Bowl((0.5, 0.5, 0.5)), Steps(5), keep=kept.append)
    assert (found.recipe, found.step, found.loss) == (START, 0, 0.0)
    assert not kept


def test_each_better_recipe_is_kept_and_each_step_is_told() -> None:
    kept: list[Recipe] = []
    told: list[Progress] = []
    bowl = Bowl((0.9, 0.0, 0.4))
    found = refine(START, NUMBERS, bowl, Steps(20, 0.05), told.append, kept.append)
    losses = [bowl.check(recipe) for recipe in kept]
    assert losses == sorted(losses, reverse=True)
    assert kept[-1] == found.recipe
    assert [progress.step for progress in told] == list(range(1, 21))
    assert told[-1].best == found.loss


def test_it_ends_where_it_is_stopped_with_the_best_so_far() -> None:
    bowl = Bowl((0.9, 0.0, 0.4))
    found = refine(START, NUMBERS, bowl, Steps(100, 0.05), stopped=lambda: len(bowl.seen) == 7)
    assert (found.steps, found.step) == (7, 7)
    assert bowl.check(found.recipe) < found.start


def test_a_loss_that_is_not_finite_ends_it_with_the_best_before() -> None:
    found = run(Bowl((0.9, 0.0, 0.4), breaks=30))
    assert found.diverged
    assert found.steps == 29
    assert 0 < found.step <= 29
    broken = run(Bowl((math.nan, 0.0, 0.4)))
    assert (broken.diverged, broken.steps, broken.recipe) == (True, 0, START)
