"""Noise in a search space: small a priori, of either sign, and no model by itself."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from automerge.errors import ConfigError
from automerge.methods import METHODS
from automerge.recipe import Recipe, uniform_average
from automerge.samplers.random import draw
from automerge.space import Space, SpaceSettings, build_space
from automerge.study.usual import usual_merges
from automerge.testing.spaces import plain_settings

SOURCES = ("maths", "code", "noise")
METHODS_SEARCHED = ("linear", "slerp", "task_arithmetic", "ties")
SETTINGS = replace(
    plain_settings(*METHODS_SEARCHED),
    bounds={"weight": (-0.5, 1.5)},
    noise=("noise",),
    leave_out=True,
)


def built(settings: SpaceSettings = SETTINGS) -> Space:
    return build_space(settings, "base", SOURCES, 6, METHODS)


def recipes(n: int) -> list[Recipe]:
    rng = np.random.default_rng(0)
    return [built().recipe(draw(built(), rng)) for _ in range(n)]


def test_only_sums_of_task_vectors_have_it_and_they_always_do() -> None:
    for recipe in recipes(200):
        has = "noise" in (source.name for source in recipe.sources)
        assert has == (recipe.method in ("task_arithmetic", "ties")), recipe.plain()


def test_its_weights_have_both_signs_and_the_prior_of_deviations() -> None:
    common = [p for p in built().parameters if p.name == "ties.weight[noise]"]
    [parameter] = common
    assert (parameter.low, parameter.high, parameter.scale) == (-1.5, 1.5, SETTINGS.deviation)
    weights = [
        knot
        for recipe in recipes(200)
        for source in recipe.sources
        if source.name == "noise"
        for _, knots in source.knobs["weight"].parts
        for knot in knots
    ]
    # Common value and deviations are independent: √2 · deviation of a range of 3.
    expected = 2**0.5 * SETTINGS.deviation * 3
    assert 0.8 < float(np.std(weights)) / expected < 1.2
    assert abs(float(np.mean(weights))) < expected / 3


def test_the_usual_merges_and_the_average_are_in_the_space_without_it() -> None:
    space = built()
    assert space.trained == ("maths", "code")
    usual = dict(usual_merges(space.trained, "base", METHODS_SEARCHED, 0))
    for recipe in (usual["sum"], usual["ties"], uniform_average(space.trained)):
        params = space.params(recipe)
        assert params is not None
        rebuilt = {s.name: s.knobs["weight"] for s in space.recipe(params).sources}
        noise = rebuilt.pop("noise", None)
        assert noise is None or {k for _, knots in noise.parts for k in knots} == {0.0}
        assert set(rebuilt) == {"maths", "code"}


def test_a_weight_for_all_sources_is_not_that_of_noise() -> None:
    roles = built(replace(SETTINGS, shared=("weight",))).roles
    assert "weight" in roles
    assert "weight[noise]" in roles
    assert "weight[maths]" not in roles


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"methods": ("linear", "slerp"), "bounds": {}}, "no chosen method merges noise"),
        ({"fixed": {"weight": 1.0}, "bounds": {}}, "noise needs weights that are searched"),
    ],
)
def test_spaces_in_which_it_means_nothing_are_refused(changes: dict, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        built(replace(SETTINGS, **changes))
