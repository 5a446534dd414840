"""Laws of slopes: a recipe's slope, pulled back, is that of its parameters."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from automerge.recipe import Coordinate, Profile, Recipe
from automerge.space import UNIFORM_SCALE, Space
from tests.space.test_space import SPACES

STEP = 0.05
"""Of a fraction: the map is linear, so a long step costs nothing and rounding counts for little."""
ROUNDING = 2e-4
"""Of a difference quotient: numbers from 1 to 10 with six digits (5e-6), fractions of a range of at
most 2 with six decimals (1e-6), at both ends of 2 · STEP."""


def numbers(recipe: Recipe) -> dict[Coordinate, float]:
    """The numbers of a recipe, read from its profiles."""
    return recipe.numbers


def at_fractions(space: Space, branch: int, fractions: np.ndarray) -> dict:
    return dict(space.at(np.append(fractions, space.codes[branch])))


@st.composite
def interiors(draw: st.DrawFn) -> tuple[str, int, np.ndarray]:
    """A space, a branch, and fractions of its roles that lead to no number near a bound."""
    name = draw(st.sampled_from(tuple(SPACES)))
    space = SPACES[name]
    branch = draw(st.integers(0, len(space.branches) - 1))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    fractions = rng.uniform(0.4, 0.6, len(space.roles))
    deviations = space.scales < UNIFORM_SCALE
    fractions[deviations] = 0.5 + 0.02 * (fractions[deviations] - 0.5)
    for role in space.roles:
        if role.startswith("layers."):
            fractions[space.columns[role]] = rng.random()  # layers are left out or repeated, or not
    return name, branch, fractions


@given(interiors(), st.integers(0, 2**32 - 1))
def test_slopes_pulled_back_are_differences_of_the_recipes_numbers(
    where: tuple[str, int, np.ndarray], seed: int
) -> None:
    name, branch, fractions = where
    space = SPACES[name]
    params = at_fractions(space, branch, fractions)
    here = space.recipe(params)
    rng = np.random.default_rng(seed)
    slopes = dict(
        zip(here.coordinates, rng.normal(size=len(here.coordinates)).tolist(), strict=True)
    )
    pulled = space.pull_back(params, slopes)
    for role in rng.permutation(space.roles)[:8]:
        column = space.columns[role]
        if not space.smooth[column]:
            assert role not in pulled
            continue
        ends = []
        for step in (-STEP, STEP):
            moved = fractions.copy()
            moved[column] += step
            ends.append(numbers(space.recipe(at_fractions(space, branch, moved))))
        change = sum(slopes[at] * (ends[1][at] - ends[0][at]) for at in slopes)
        size = sum(abs(slope) for slope in slopes.values())
        assert pulled.get(role, 0.0) == pytest.approx(change / (2 * STEP), abs=ROUNDING * size)


def test_parameters_of_numbers_without_slopes_are_left_out() -> None:
    space = SPACES["plain"]
    branch = next(i for i, branch in enumerate(space.branches) if branch.method == "ties")
    params = at_fractions(space, branch, np.full(len(space.roles), 0.5))
    recipe = space.recipe(params)
    weights = {at: 1.0 for at in recipe.coordinates if at.knob == "weight"}
    assert len(weights) < len(recipe.coordinates)
    pulled = space.pull_back(params, weights)
    roles = space.branches[branch].roles
    assert pulled.keys() == {role for role in roles if role.startswith("weight")}


def test_coordinates_name_every_number_once_in_the_order_of_the_recipe() -> None:
    plain = {
        "method": "ties",
        "base": "base",
        "sources": {
            "math": {"density": 0.5, "weight": {"mlp": [1, 2], "default": 3}},
            "code": {"weight": 1},
        },
        "parameters": {"lambda": 0.5, "normalize": True},
    }
    recipe = Recipe.from_plain(plain)
    assert recipe.coordinates == (
        Coordinate("math", "density", "default", 0),
        Coordinate("math", "weight", "mlp", 0),
        Coordinate("math", "weight", "mlp", 1),
        Coordinate("math", "weight", "default", 0),
        Coordinate("code", "weight", "default", 0),
        Coordinate(None, "lambda", "default", 0),
    )


def test_slices_have_the_numbers_that_they_state_after_those_of_the_recipe() -> None:
    plain = {
        "method": "linear",
        "sources": {"math": {"weight": 1}},
        "slices": [
            {"layers": {"math": [0, 2]}},
            {"layers": {"math": [1, 3]}, "sources": {"math": {"weight": {"mlp": [0.5, 0.25]}}}},
        ],
    }
    recipe = Recipe.from_plain(plain)
    assert numbers(recipe) == {
        Coordinate("math", "weight", "default", 0): 1.0,
        Coordinate("math", "weight", "mlp", 0, part=1): 0.5,
        Coordinate("math", "weight", "mlp", 1, part=1): 0.25,
    }


def test_a_space_says_the_scale_and_smoothness_of_every_role() -> None:
    for space in SPACES.values():
        assert space.scales.shape == space.smooth.shape == (len(space.roles),)
        assert (space.scales > 0).all()
    space = SPACES["fewer and more layers"]
    steps = {role for role in space.roles if role.startswith(("use[", "layers."))}
    assert {role for role, smooth in zip(space.roles, space.smooth, strict=True) if not smooth} == (
        steps
    )


def test_beyond_a_bound_only_slopes_that_lead_back_inside_count() -> None:
    space = SPACES["one number, components"]
    branch = next(i for i, b in enumerate(space.branches) if b.method == "task_arithmetic")
    fractions = np.full(len(space.roles), 0.5)
    fractions[space.columns["weight[math]"]] = 1.0
    fractions[space.columns["weight[math].mlp+default"]] = 0.7
    params = at_fractions(space, branch, fractions)
    weight = space.recipe(params).sources[0].knobs["weight"]
    low = {"attention": 0.8, "norm": 0.8}
    assert weight == Profile.of({**low, "mlp": 1.0, "default": 1.0})  # 1.2, were there no bound
    for slope, passed in ((-1.0, 0.0), (1.0, 1.0)):
        pulled = space.pull_back(params, {Coordinate("math", "weight", "mlp", 0): slope})
        assert pulled["weight[math]"] == pytest.approx(passed)
