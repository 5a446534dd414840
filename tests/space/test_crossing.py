"""Two sources that change places at a layer: M2N2's crossover, by numbers per layer."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from automerge.errors import ConfigError
from automerge.methods import METHODS, check_recipe
from automerge.recipe import Coordinate, Place, Profile, Recipe, RecipeSource, single
from automerge.space import build_space
from automerge.space.crossing import Crossing
from automerge.testing.spaces import plain_settings

N = 6
CROSSING = Crossing(N, ("maths", "code"))
PLACES = [Place("x", "attention", layer / (N - 1), layer) for layer in range(N)]
SPLITS = st.floats(0.501, N + 0.499)


def params(below: float) -> dict[str, float]:
    return {"layers.split": below}


def slerp(*t: float) -> Recipe:
    pair = tuple(RecipeSource(name, {}) for name in CROSSING.sources)
    return Recipe("slerp", pair, None, {"t": Profile.of(list(t))})


def ties(maths: object, code: object) -> Recipe:
    given = {"maths": maths, "code": code}
    each = (
        RecipeSource(name, {"weight": Profile.of(own), "density": Profile.of(density)})
        for (name, own), density in zip(given.items(), (0.2, 0.9), strict=True)
    )
    return Recipe("ties", tuple(each), "base", {"lambda": Profile.of(0.7)})


VARYING = ties({"mlp": [0.2, 1.0, 0.6], "default": 0.5}, {"mlp": [1.5, 0.5], "default": 0.25})


def numbers(recipe: Recipe, knob: str) -> Mapping[str | None, list[float]]:
    if knob in recipe.knobs:
        return {None: [recipe.knobs[knob].at(place) for place in PLACES]}
    return {s.name: [s.knobs[knob].at(place) for place in PLACES] for s in recipe.sources}


def test_the_ratio_is_the_opposite_above_the_point():
    made = CROSSING.recipe(slerp(0.25), params(4))
    assert numbers(made, "t") == {None: [0.25] * 4 + [0.75] * 2}
    assert CROSSING.recipe(slerp(0.25), params(6)) == slerp(0.25)


def test_sources_have_each_others_numbers_above_the_point():
    made = CROSSING.recipe(ties(0.3, 0.8), params(1))
    assert numbers(made, "weight") == {"maths": [0.3] + [0.8] * 5, "code": [0.8] + [0.3] * 5}
    assert numbers(made, "density") == {"maths": [0.2] + [0.9] * 5, "code": [0.9] + [0.2] * 5}
    assert made.knobs == ties(0.3, 0.8).knobs
    assert check_recipe(made, METHODS) == []


@given(SPLITS)
def test_crossing_twice_is_not_crossing(below):
    for recipe, knobs in ((slerp(0.1, 0.9, 0.4), ("t",)), (VARYING, ("weight", "density"))):
        made = CROSSING.recipe(recipe, params(below))
        again = CROSSING.recipe(made, params(below))
        for knob in knobs:
            for name, values in numbers(recipe, knob).items():
                assert numbers(again, knob)[name] == pytest.approx(values, rel=1e-5)


@given(SPLITS, st.sampled_from([slerp(0.25), ties(0.3, 0.8)]))
def test_a_crossing_is_read_back(below, recipe):
    made = CROSSING.recipe(recipe, params(below))
    found = CROSSING.read(made)
    assert found is not None
    plain, read = found
    assert round(read["layers.split"]) == round(below)
    assert CROSSING.recipe(plain, read).id == made.id


@given(SPLITS, st.sampled_from([("maths", "weight"), ("code", "weight"), (None, "t")]))
def test_slopes_are_pulled_back_by_the_chain_rule(below, which):
    """A number of the plain recipe moves numbers of both sources, or both ratios."""
    source, knob = which
    step, knots = 0.25, [0.2, 0.5, 0.6]

    def recipe(values: list[float]) -> Recipe:
        if source is None:
            return slerp(*values)
        other = {"maths": [0.3, 0.4], "code": [0.3, 0.4], source: values}
        return ties(other["maths"], other["code"])

    moved = [knots[0], knots[1] + step, knots[2]]
    before = CROSSING.recipe(recipe(knots), params(below)).numbers
    after = CROSSING.recipe(recipe(moved), params(below)).numbers
    slopes = {c: (7 * c.knot + len(c.source or "")) % 5 - 2.0 for c in before}
    expected = sum(slopes[c] * (after[c] - before[c]) for c in slopes) / step
    pulled = CROSSING.pull_back(recipe(knots), params(below), slopes)
    at = Coordinate(source, knob, "default", 1)
    assert pulled.get(at, 0.0) == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("method", ["slerp", "task_arithmetic"])
def test_a_search_begins_with_halves_and_learns_from_those_it_can_express(method):
    settings = plain_settings(method, crossing=True)
    space = build_space(settings, "base", CROSSING.sources, N, METHODS)
    [(one, first), (other, second)] = space.starts
    assert (one, other) == ("halves-1", "halves-2")
    assert numbers(first, "weight") == {
        "maths": [1.0] * 3 + [0.0] * 3,
        "code": [0.0] * 3 + [1.0] * 3,
    }
    assert numbers(second, "weight")["code"] == [1.0] * 3 + [0.0] * 3
    if method == "task_arithmetic":
        for recipe in (first, second, single("maths")):
            found = space.params(recipe)
            assert found is not None
            made = numbers(space.recipe(found), "weight")
            assert made.items() >= numbers(recipe, "weight").items()


@pytest.mark.parametrize(
    ("methods", "sources", "changes", "message"),
    [
        (["slerp"], ("a",), {}, "two fine-tunes cross over at a layer; got a"),
        (["slerp"], ("a", "b", "c"), {}, "two fine-tunes cross over at a layer; got a, b, c"),
        (["model_stock"], ("a", "b"), {}, "model_stock has no weights that two sources exchange"),
        (["nearswap"], ("a", "b"), {}, "nearswap has no weights that two sources exchange"),
        (["slerp"], ("a", "b"), {"swap": True}, "remove drop, repeat and swap, or it"),
        (["slerp"], ("a", "b"), {"rounds": 2}, "remove rounds, or the others"),
    ],
)
def test_what_cannot_cross_over_is_refused(methods, sources, changes, message):
    settings = plain_settings(*methods, crossing=True, **changes)
    with pytest.raises(ConfigError, match=message):
        build_space(settings, "base", sources, N, METHODS)
