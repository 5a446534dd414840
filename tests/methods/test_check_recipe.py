"""Recipes that cannot be merged say why."""

from __future__ import annotations

import pytest

from automerge.methods import METHODS, check_recipe
from automerge.recipe import Profile, Recipe, RecipeSource, single, uniform_average


def made(method="ties", sources=None, base="b", **knobs) -> Recipe:
    sources = sources or {"x": {}, "y": {}}
    return Recipe(
        method,
        tuple(
            RecipeSource(n, {k: Profile.of(v) for k, v in s.items()}) for n, s in sources.items()
        ),
        base=base,
        knobs={k: v if isinstance(v, bool | str) else Profile.of(v) for k, v in knobs.items()},
    )


@pytest.mark.parametrize(
    ("recipe", "problem"),
    [
        (made("tise"), "did you mean 'ties'"),
        (made(base=None), "base"),
        (made("slerp", {"x": {}}), "exactly 2"),
        (made("slerp", {"x": {}, "y": {}, "z": {}}), "exactly 2"),
        (made(sources={"x": {"denstiy": 0.5}, "y": {}}), "x: ties has no 'denstiy'; did you mean"),
        (made(sources={"x": {"density": [0.5, 1.5]}, "y": {}}), "x: density must lie in [0, 1]"),
        (made(weight=0.5), "'weight' is a per-source knob"),
        (made(sources={"x": {"lambda": 1.0}, "y": {}}), "'lambda' is a knob of the whole recipe"),
        (made(normalize=0.5), "normalize is true or false; got 0.5"),
        (made(normalize="yes"), "normalize is true or false; got 'yes'"),
        (made(**{"lambda": True}), "lambda is a number; got True"),
        (made(sources={"b": {}, "y": {}}), "is the base and a source"),
        (Recipe("linear", (RecipeSource("x", {}),) * 2), "listed twice"),
        (Recipe("linear", (RecipeSource("x", {}),), dtype="bf16"), "unknown dtype 'bf16'"),
        (Recipe("linear", ()), "at least 1"),
    ],
)
def test_a_problem_is_named(recipe, problem):
    problems = check_recipe(recipe, METHODS)
    assert len(problems) == 1
    assert problem in problems[0]


def test_all_problems_are_listed_at_once():
    assert len(check_recipe(made("ties", {"x": {"weigth": 1, "density": 7}}, None), METHODS)) == 3


@pytest.mark.parametrize("recipe", [single("x"), uniform_average(["x", "y"]), made()])
def test_sound_recipes_have_no_problems(recipe):
    assert check_recipe(recipe, METHODS) == []
