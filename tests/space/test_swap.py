"""Layers that two sources swap: weights of whole models, 0 where a source has no layer."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from automerge.errors import ConfigError
from automerge.methods import METHODS, check_recipe
from automerge.recipe import Coordinate, Place, Profile, Recipe, RecipeSource, single
from automerge.space import build_space
from automerge.space.swap import Swap
from automerge.testing.spaces import plain_settings

N = 8
SWAP = Swap(N, ("language", "maths"))
BOTH = Recipe(
    "linear", tuple(RecipeSource(name, {"weight": Profile.of(1.0)}) for name in SWAP.sources)
)
VARYING = Recipe(
    "task_arithmetic",
    (
        RecipeSource("language", {"weight": Profile.of({"mlp": [0.2, 1.0, 0.6], "default": 0.5})}),
        RecipeSource("maths", {"weight": Profile.of([1.5, 0.5])}),
    ),
    "base",
)
LAYERS = st.tuples(
    st.floats(-0.499, 1.499), st.floats(-0.499, 3.499), st.floats(-0.499, 3.499)
).map(lambda numbers: params(*numbers))


def params(outer: float, bottom: float, top: float) -> dict[str, float]:
    return {"layers.outer": outer, "layers.bottom": bottom, "layers.top": top}


def weights(recipe: Recipe, component: str = "attention") -> Mapping[str, list[float]]:
    places = [Place("x", component, layer / (N - 1), layer) for layer in range(N)]
    return {s.name: [s.knobs["weight"].at(place) for place in places] for s in recipe.sources}


@pytest.mark.parametrize(
    ("given", "language", "maths"),
    [
        (params(0, 2, 1), "11100011", "00111110"),
        (params(1, 2, 1), "00111110", "11100011"),
        (params(0, 0, 0), "00000000", "11111111"),
        (params(0, 0, 3), "00001111", "11111000"),
        (params(0, 3, 3), "11111111", "00011000"),
    ],
)
def test_the_two_have_the_layers_of_the_paper_and_share_those_where_they_meet(
    given, language, maths
):
    assert weights(SWAP.recipe(BOTH, given)) == {
        "language": [float(share) for share in language],
        "maths": [float(share) for share in maths],
    }


@given(LAYERS)
def test_every_layer_has_a_source_whose_weights_are_those_it_had(layers):
    made = SWAP.recipe(VARYING, layers)
    assert check_recipe(made, METHODS) == []
    for component in ("mlp", "attention"):
        before, after = weights(VARYING, component), weights(made, component)
        for name, shares in SWAP.shares(layers).items():
            for layer, share in enumerate(shares):
                wanted = before[name][layer] if share else 0.0
                assert after[name][layer] == pytest.approx(wanted, rel=1e-5)
    assert all(map(any, zip(*SWAP.shares(layers).values(), strict=True)))
    assert Recipe.from_plain(made.plain()) == made


@given(LAYERS)
def test_a_swap_is_read_back(layers):
    made = SWAP.recipe(BOTH, layers)
    found = SWAP.read(made)
    assert found is not None
    plain, read = found
    assert SWAP.recipe(plain, read).id == made.id


def test_other_recipes_are_not_read():
    assert SWAP.read(BOTH) is None  # all layers shared: an average
    assert SWAP.read(VARYING) is None
    assert SWAP.read(single("other")) is None


@given(LAYERS, st.integers(0, 2))
def test_slopes_are_pulled_back_by_the_chain_rule(layers, knot):
    """A number of the plain recipe moves the weights of the layers that its source has."""
    step = 0.5
    slopes = {
        Coordinate(name, "weight", selector, i): (7 * i + len(selector)) % 5 - 2.0
        for name, selectors in (("language", ("mlp", "default")), ("maths", ("default",)))
        for selector in selectors
        for i in range(N)
    }
    at = Coordinate("language", "weight", "mlp", knot)
    knots = [0.2, 1.0, 0.6]
    knots[knot] += step
    moved = Profile.of({"mlp": knots, "default": 0.5})
    sources = (RecipeSource("language", {"weight": moved}), VARYING.sources[1])
    before = SWAP.recipe(VARYING, layers).numbers
    after = SWAP.recipe(Recipe("task_arithmetic", sources, "base"), layers).numbers
    expected = sum(slopes[c] * (after[c] - before[c]) for c in slopes) / step
    pulled = SWAP.pull_back(VARYING, layers, slopes)
    assert pulled.get(at, 0.0) == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("method", ["linear", "task_arithmetic"])
def test_a_search_begins_with_swaps_and_learns_from_them(method):
    settings = plain_settings("linear", fixed={"weight": 1.0}, swap=True)
    if method == "task_arithmetic":
        settings = plain_settings(method, swap=True)
    space = build_space(settings, "base", SWAP.sources, N, METHODS)
    [(one, first), (other, second)] = space.starts
    assert (one, other) == ("swap-1", "swap-2")
    assert weights(first)["language"][0] == weights(second)["maths"][0] == 1
    assert weights(first)["maths"][N // 2] == weights(second)["language"][N // 2] == 1
    if method == "linear":
        for recipe in (first, second, single("maths")):
            found = space.params(recipe)
            assert found is not None
            assert weights(space.recipe(found)).items() >= weights(recipe).items()


@pytest.mark.parametrize(
    ("methods", "sources", "changes", "message"),
    [
        (["linear"], ("a",), {}, "between two fine-tunes; got a"),
        (["linear"], ("a", "b", "c"), {}, "between two fine-tunes; got a, b, c"),
        (["slerp"], ("a", "b"), {}, "by weights, which slerp lacks"),
        (["linear"], ("a", "b"), {"drop": 2}, "remove drop and repeat, or swap"),
    ],
)
def test_what_cannot_be_swapped_is_refused(methods, sources, changes, message):
    settings = plain_settings(*methods, swap=True, **changes)
    with pytest.raises(ConfigError, match=message):
        build_space(settings, "base", sources, N, METHODS)
