"""Layers that are left out or run twice are made as the recipe without slices makes them."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from automerge.errors import ConfigError
from automerge.methods import METHODS
from automerge.recipe import Place, Profile, Recipe, Slice, uniform_average
from automerge.space import build_space
from automerge.space.structure import Structure
from automerge.testing.spaces import plain_settings

N = 8
COUNTS, SHARES = st.floats(-3.499, 2.499), st.floats(0, 1)
STRUCTURE = Structure(N, drop=3, repeat=2)
RECIPE = Recipe.from_plain(
    {
        "method": "ties",
        "base": "base",
        "sources": {
            "maths": {"weight": {"mlp": [0.1, 0.9, 0.3], "default": 0.5}, "density": 0.4},
            "code": {"weight": [0.0, 1.0]},
        },
        "parameters": {"lambda": [1.0, 2.0], "normalize": True},
        "seed": 3,
    }
)


def params(count: float, start: float) -> dict[str, float]:
    return {"layers.count": count, "layers.start": start}


@given(COUNTS, SHARES)
def test_runs_are_of_the_base_with_as_many_layers_as_counted(count: float, start: float) -> None:
    spans = STRUCTURE.spans(params(count, start))
    order = [layer for span in spans for layer in range(*span)]
    assert len(order) == N + round(count)
    assert set(order) <= set(range(N))
    assert sum(b != a + 1 for a, b in pairwise(order)) <= 1


@pytest.mark.parametrize(
    ("count", "start", "spans"),
    [
        (-2, 0.0, [(2, 8)]),
        (-2, 1.0, [(0, 6)]),
        (-2, 0.5, [(0, 3), (5, 8)]),
        (2, 0.0, [(0, 2), (0, 8)]),
        (2, 1.0, [(0, 8), (6, 8)]),
        (0.4, 0.3, [(0, 8)]),
    ],
)
def test_where_they_are(count: float, start: float, spans: list[tuple[int, int]]) -> None:
    assert STRUCTURE.spans(params(count, start)) == spans


@given(COUNTS, SHARES)
def test_every_layer_has_the_values_it_has_in_the_whole_model(count: float, start: float) -> None:
    made = STRUCTURE.recipe(RECIPE, params(count, start))
    if not made.slices:
        assert made == RECIPE
        return
    for piece, part in zip(made.slices, made.parts, strict=True):
        first, stop = piece.layers["base"]
        assert set(piece.layers.values()) == {(first, stop)}
        for layer in range(first, stop):
            here = (layer - first) / max(stop - first - 1, 1)
            for component in ("mlp", "attention"):
                inside = Place("x", component, here, layer)
                whole = Place("x", component, layer / (N - 1), layer)
                for own, source in zip(part.sources, RECIPE.sources, strict=True):
                    for knob, profile in source.knobs.items():
                        assert own.knobs[knob].at(inside) == pytest.approx(
                            profile.at(whole), rel=1e-5
                        )
                factor, wanted = part.knobs["lambda"], RECIPE.knobs["lambda"]
                assert isinstance(factor, Profile)
                assert isinstance(wanted, Profile)
                assert factor.at(inside) == pytest.approx(wanted.at(whole), rel=1e-5)
        assert part.knobs["normalize"] is True
    assert Recipe.from_plain(made.plain()) == made


@given(COUNTS, SHARES)
def test_layers_are_read_back(count: float, start: float) -> None:
    average = uniform_average(["maths", "code"])
    made = STRUCTURE.recipe(average, params(count, start))
    found = STRUCTURE.read(made)
    assert found is not None
    plain, layers = found
    assert plain == average
    assert STRUCTURE.recipe(plain, layers) == made


def test_layers_that_the_structure_does_not_make_are_not_read() -> None:
    average = uniform_average(["maths", "code"])
    deep = Structure(N, drop=0, repeat=5).recipe(average, params(5, 0.5))
    assert STRUCTURE.read(deep) is None
    assert STRUCTURE.read(STRUCTURE.recipe(RECIPE, params(2, 0.5))) is None
    pair = ({"maths": (0, 8), "code": (0, 8)}, {"maths": (5, 6), "code": (6, 7)})
    mixed = Recipe("linear", average.sources, slices=tuple(map(Slice, pair)))
    assert STRUCTURE.read(mixed) is None


def test_a_search_begins_with_the_usual_deeper_and_shallower_models_and_learns_from_them() -> None:
    """The middle run twice (SOLAR), and all but the last of the top left out (Gromov et al.)."""
    settings = plain_settings("linear", drop=3, repeat=4)
    space = build_space(settings, "base", ("maths", "code"), N, METHODS)
    starts = dict(space.starts)
    spans = {
        name: [next(iter(piece.layers.values())) for piece in recipe.slices]
        for name, recipe in starts.items()
    }
    assert spans == {"deeper": [(0, 6), (2, 8)], "shallower": [(0, 4), (7, 8)]}
    for recipe in starts.values():
        found = space.params(recipe)
        assert found is not None
        assert space.recipe(found).slices[0].layers == recipe.slices[0].layers


def test_a_structure_is_asked_for_whatever_the_method() -> None:
    settings = plain_settings("linear", "ties", drop=2)
    space = build_space(settings, "base", ("maths",), N, METHODS)
    assert all(branch.roles[-2:] == ("layers.count", "layers.start") for branch in space.branches)
    (count, start) = (p for p in space.parameters if p.name.startswith("layers."))
    assert (count.at_fraction(0.0), count.at_fraction(1.0)) == (-2.499, 0.499)
    assert start.at_fraction(0.5) == 0.5


@pytest.mark.parametrize(
    ("settings", "message"), [({"drop": N}, "at least 1 of 8"), ({"repeat": N + 1}, "all 8 layers")]
)
def test_more_than_there_is_is_refused(settings: dict[str, int], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build_space(plain_settings("linear", **settings), "base", ("maths",), N, METHODS)
