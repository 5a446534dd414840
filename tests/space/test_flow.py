"""Paths through the layers of several models: which are run, in what order, and how scaled."""

from __future__ import annotations

import math
from collections.abc import Mapping
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from automerge.errors import ConfigError
from automerge.methods import METHODS, check_recipe
from automerge.recipe import Coordinate, Profile, Recipe, RecipeSource, single, uniform_average
from automerge.samplers.random import draw
from automerge.space import build_space
from automerge.space.flow import Flow
from automerge.space.network import N_HIDDEN
from automerge.testing.spaces import plain_settings

N = 6
SOURCES = ("a", "b")
DIRECT = Flow(N, SOURCES, rounds=2, scale=1.0, longest=9, network=False)
SCALED = Flow(N, SOURCES, rounds=2, scale=2.0, longest=9, network=False)
SMALL = Flow(N, SOURCES, rounds=3, scale=2.0, longest=9, network=True)
WHOLE = uniform_average(SOURCES)
VARYING = Recipe(
    "task_arithmetic",
    (
        RecipeSource("a", {"weight": Profile.of({"mlp": [0.2, 1.0, 0.6], "default": 0.5})}),
        RecipeSource("b", {"weight": Profile.of([1.5, 0.5])}),
    ),
    "base",
)


def params(flow: Flow, seed: int) -> Mapping[str, float]:
    generator = np.random.default_rng(seed)
    return {p.name: p.at_fraction(generator.random()) for p in flow.parameters}


def middle(flow: Flow, main: int = 0) -> dict[str, float]:
    found = {p.name: p.at_fraction(0.5) for p in flow.parameters}
    return {**found, "layers.main": float(main)}


def order(recipe: Recipe) -> list[str]:
    """A recipe's layers, such as a0 or b3."""
    if not recipe.slices:
        return [f"{recipe.sources[0].name}{layer}" for layer in range(N)]
    return [
        f"{next(n for n in piece.layers if n != 'base')}{layer}"
        for piece in recipe.slices
        for layer in range(*next(iter(piece.layers.values())))
    ]


SEEDS = st.integers(0, 2**32 - 1)


@pytest.mark.parametrize("flow", [DIRECT, SCALED, SMALL])
@given(seed=SEEDS)
def test_every_draw_is_a_path_that_can_be_merged(flow, seed):
    drawn = params(flow, seed)
    path = flow.path(drawn)
    assert 0 < len(path) <= flow.longest
    assert all(
        (x.round, x.source, x.layer) < (y.round, y.source, y.layer) for x, y in pairwise(path)
    )
    made = flow.recipe(WHOLE, drawn)
    assert check_recipe(made, METHODS) == []
    assert order(made) == [f"{SOURCES[spot.source]}{spot.layer}" for spot in path]
    assert Recipe.from_plain(made.plain()) == made


@pytest.mark.parametrize("flow", [DIRECT, SCALED, SMALL])
@pytest.mark.parametrize("main", [0, 1])
def test_in_the_middle_of_all_ranges_the_path_is_a_source(flow, main):
    assert flow.recipe(WHOLE, middle(flow, main)).id == single(SOURCES[main]).id


def test_indicators_leave_out_and_add_layers_in_the_order_of_the_layout():
    flipped = {
        "layers.run[a].1.1": 0.0,  # left out
        "layers.run[b].4.1": 1.0,
        "layers.run[a].4.2": 1.0,
        "layers.run[a].5.2": 1.0,
    }
    made = DIRECT.recipe(WHOLE, {**middle(DIRECT), **flipped})
    assert order(made) == ["a0", "a2", "a3", "a4", "a5", "b4", "a4", "a5"]
    assert [dict(piece.layers) for piece in made.slices] == [
        {"a": (0, 1)}, {"a": (2, 6)}, {"b": (4, 5)}, {"a": (4, 6)},
    ]  # fmt: skip


def test_what_is_too_long_loses_what_was_added_last_and_an_empty_path_is_the_source():
    added = {f"layers.run[b].{layer}.1": 1.0 for layer in range(N)}
    made = DIRECT.recipe(WHOLE, {**middle(DIRECT), **added})
    assert order(made) == [*(f"a{i}" for i in range(N)), "b0", "b1", "b2"]
    none = {f"layers.run[a].{layer}.1": 0.0 for layer in range(N)}
    assert DIRECT.recipe(WHOLE, {**middle(DIRECT), **none}).id == single("a").id


def test_draws_change_four_places_on_average():
    changes = []
    for seed in range(400):
        drawn = params(DIRECT, seed)
        main = round(drawn["layers.main"])
        run = {
            (spot.round, spot.source, spot.layer)
            for spot, p in DIRECT._indicators.items()
            if DIRECT._is_run(spot, main, drawn)
        }
        changes.append(len(run ^ {(0, main, layer) for layer in range(N)}))
    # binomial: 24 places of probability 1/6, so the mean of 400 has a deviation of 0.09
    assert np.mean(changes) == pytest.approx(4, abs=0.4)


@given(SEEDS)
def test_paths_without_scales_are_read_back(seed):
    made = DIRECT.recipe(WHOLE, params(DIRECT, seed))
    found = DIRECT.read(made)
    assert found is not None
    plain, read = found
    assert DIRECT.recipe(plain, read).id == made.id


def test_what_is_no_path_is_not_read():
    assert DIRECT.read(WHOLE) is None
    assert DIRECT.read(single("base")) is None
    made = SCALED.recipe(WHOLE, {**params(SCALED, 3)})
    assert any(piece.input_scale != 1 for piece in made.slices)
    assert SCALED.read(made) is None


@given(SEEDS)
def test_scales_are_the_networks_at_joints_and_nowhere_else(seed):
    """The formula, with NumPy: four hidden units, of both layers and the place."""
    drawn = params(SMALL, seed)
    weights = np.array(
        [
            [drawn[f"layers.scale.{unit}"], *(drawn[f"layers.scale.{unit}.{i}"] for i in range(4))]
            for unit in range(N_HIDDEN)
        ]
    )
    path = SMALL.path(drawn)
    joints = [
        (left, entered)
        for left, entered in pairwise(path)
        if (entered.source, entered.layer) != (left.source, left.layer + 1)
    ]
    wanted = [1.0]
    for left, entered in joints:
        i, j = (N * spot.source + spot.layer for spot in (left, entered))
        t = 2 * N * entered.round + j
        inputs = np.array([i / 11, j / 11, t / 35]) * 2 - 1
        hidden = np.tanh(weights[:, 1:4] @ inputs + weights[:, 4])
        wanted.append(2.0 ** np.tanh(weights[:, 0] @ hidden))
    made = SMALL.recipe(WHOLE, drawn)
    found = [piece.input_scale for piece in made.slices] or [1.0]
    assert found == pytest.approx(wanted, rel=1e-5)


def test_networks_do_not_grow_with_the_models():
    deep = Flow(80, SOURCES, rounds=3, scale=2.0, longest=120, network=True)
    assert len(deep.parameters) == len(SMALL.parameters) == 1 + 4 * (4 + 2) + 4 * (3 + 2)


def test_few_places_are_searched_one_by_one_and_many_by_a_network():
    settings = plain_settings("linear", fixed={"weight": 1.0}, rounds=2)
    for n_layers, network in ((16, False), (17, True)):
        space = build_space(settings, "base", SOURCES, n_layers, METHODS)
        assert isinstance(space.structure, Flow)
        assert space.structure.network == network
        assert space.structure.longest == n_layers + 8


STARTS = {
    "start": ["a0", "a1", "a2", "a3", "a4", "a5"],
    "upscaled": ["a0", "a1", "a2", "a3", "a1", "a2", "a3", "a4", "a5"],
    "spliced": ["a0", "a1", "a2", "b3", "b4", "b5"],
    "swapped-1": ["a0", "b1", "b2", "b3", "b4", "a5"],
    "swapped-2": ["b0", "a1", "a2", "a3", "a4", "b5"],
}


def test_a_search_begins_with_structures_of_papers_and_learns_from_them():
    settings = plain_settings("linear", fixed={"weight": 1.0}, rounds=2)
    space = build_space(settings, "base", SOURCES, N, METHODS)
    starts = {"start": single("a"), **dict(space.starts)}
    assert {name: order(recipe) for name, recipe in starts.items()} == STARTS
    for recipe in starts.values():
        found = space.params(recipe)
        assert found is not None
        assert order(space.recipe(found)) == order(recipe)


def test_an_average_is_not_taken_for_the_path_of_its_sources():
    """A path's layer has its source's own weight, which is no share of a sum."""
    settings = plain_settings("task_arithmetic", bounds={"weight": (0.0, 1.0)}, rounds=2)
    space = build_space(settings, "base", SOURCES, N, METHODS)
    made = space.recipe(draw(space, np.random.default_rng(0)))
    assert made.base == "base"
    assert all("base" in piece.layers for piece in made.slices)
    assert space.params(single("a")) is None
    assert space.params(WHOLE) is None


@given(SEEDS, st.integers(0, 2))
def test_slopes_are_pulled_back_by_the_chain_rule(seed, knot):
    drawn, step = params(DIRECT, seed), 0.5
    before = DIRECT.recipe(VARYING, drawn).numbers
    slopes = {at: float(i % 5 - 2) for i, at in enumerate(before)}
    knots = [0.2, 1.0, 0.6]
    knots[knot] += step
    moved = Profile.of({"mlp": knots, "default": 0.5})
    sources = (RecipeSource("a", {"weight": moved}), VARYING.sources[1])
    after = DIRECT.recipe(Recipe("task_arithmetic", sources, "base"), drawn).numbers
    slices = DIRECT.recipe(VARYING, drawn).slices
    stated = {at for at in before if at.part is not None or not slices}
    pulled = DIRECT.pull_back(VARYING, drawn, {at: slopes[at] for at in stated})
    expected = sum(slopes[at] * (after[at] - before[at]) for at in stated) / step
    at = Coordinate("a", "weight", "mlp", knot)
    assert pulled.get(at, 0.0) == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize(
    ("methods", "changes", "message"),
    [
        (["slerp"], {"rounds": 2}, "one source of several, which slerp does not take"),
        (["passthrough"], {"rounds": 2}, "one source of several, which passthrough does not"),
        (["linear"], {"rounds": 2, "drop": 2}, "remove rounds, or the others"),
        (["linear"], {"rounds": 2, "longest": 5}, "the whole of a model, 6 layers; got 5"),
        (["linear"], {"scale": 1.5}, "are those of a path; add rounds"),
        (["linear"], {"rounds": 500, "network": False}, "6000 places.*use network: true"),
        (["task_arithmetic"], {"rounds": 2, "noise": ("b",)}, r"through noise \(b\)"),
    ],
)
def test_what_is_no_path_is_refused(methods, changes, message):
    settings = plain_settings(*methods, **changes)
    with pytest.raises(ConfigError, match=message):
        build_space(settings, "base", SOURCES, N, METHODS)


def test_a_scale_is_never_zero_or_negative():
    extreme = {p.name: p.high for p in SMALL.parameters}
    for piece in SMALL.recipe(WHOLE, extreme).slices:
        assert 0.5 <= piece.input_scale <= 2
        assert math.isfinite(piece.input_scale)
