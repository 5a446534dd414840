"""Laws of the search space: encode inverts decode, everything proposed can be merged."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from automerge.errors import ConfigError
from automerge.methods import METHODS, check_recipe
from automerge.recipe import (
    COMPONENTS,
    Place,
    Profile,
    Recipe,
    RecipeSource,
    single,
    uniform_average,
)
from automerge.space import (
    MAX_DIMENSION,
    BooleanParameter,
    CategoricalParameter,
    FloatParameter,
    Groups,
    Knots,
    Parameter,
    PerLayer,
    Space,
    SpaceSettings,
    build_space,
)
from automerge.testing.spaces import plain_settings
from tests.methods.dataless import DATALESS

SOURCES = ("math", "code", "org/chat-1.5", "law")
N_LAYERS = 5
PLAIN = plain_settings(*DATALESS)
SETTINGS = {
    "plain": PLAIN,
    "one number": dataclasses.replace(PLAIN, depth=Knots(1)),
    "one number, components": dataclasses.replace(
        PLAIN, components=(("attention", "norm"), ("mlp", "default")), depth=Knots(1)
    ),
    "layer groups, components": dataclasses.replace(
        PLAIN, components=(("attention", "norm"), ("mlp",), ("default",)), depth=Groups(2)
    ),
    "a value a layer, patterns": dataclasses.replace(
        PLAIN, components=(("*q_proj*",), ("default",)), depth=PerLayer()
    ),
    "everything": dataclasses.replace(
        PLAIN,
        bounds={"weight": (-0.5, 1.5), "lambda": (0.5, 2.0), "t": (0.2, 0.7)},
        fixed={"density": 0.3},
        switches=("normalize",),
        varying=("weight",),
        leave_out=True,
        seed=7,
        dtype="bfloat16",
    ),
    "shared": dataclasses.replace(PLAIN, shared=("density", "weight"), leave_out=True),
    "noise": dataclasses.replace(PLAIN, leave_out=True, shared=("weight",), noise=("law",)),
    "fewer and more layers": dataclasses.replace(PLAIN, leave_out=True, drop=2, repeat=3),
    "calibrated": dataclasses.replace(
        PLAIN,
        calibrate=True,
        leave_out=True,
        drop=1,
        evidence={"activations": {n: n[0] * 32 for n in ("base", *SOURCES)}},
    ),
}


def built(name: str, sources: tuple[str, ...] = SOURCES, n_layers: int = N_LAYERS) -> Space:
    return build_space(SETTINGS[name], "base", sources, n_layers, METHODS)


SPACES = {name: built(name) for name in SETTINGS}
GROUPS = plain_settings(
    "linear",
    "ties",
    "dare_ties",
    "task_arithmetic",
    by_group={
        "attention": ("linear", "ties"),
        "depth<0.4": ("dare_ties", "task_arithmetic"),
        "default": ("task_arithmetic", "ties"),
    },
    depth=Knots(2),
    bounds={"lambda": (0.5, 1.5)},
    switches=("normalize",),
    leave_out=True,
    seed=3,
)
SPACES["groups"] = build_space(GROUPS, "base", ("a", "b", "c"), 6, METHODS)
SHARES = st.floats(0, 1) | st.sampled_from([0.0, 0.5, 1.0])


@st.composite
def proposals(draw: st.DrawFn, names: tuple[str, ...] = tuple(SPACES)) -> tuple[Space, dict]:
    """A space and parameters in it, bounds included."""
    space = SPACES[draw(st.sampled_from(names))]

    def choose(parameter: Parameter) -> float | int | bool | str:
        if isinstance(parameter, CategoricalParameter):
            return draw(st.sampled_from(parameter.choices))
        return parameter.at_fraction(draw(SHARES))

    return space, space.walk(choose)


def alike(one: object, other: object) -> bool:
    """Whether two plain recipes are the same but for rounding to six digits."""
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(alike(one[key], other[key]) for key in one)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(alike, one, other))
    if isinstance(one, float) and isinstance(other, float):
        return abs(one - other) <= 2e-5
    return one == other


@given(proposals())
def test_reading_a_recipe_back_gives_its_parameters(proposal: tuple[Space, dict]) -> None:
    space, params = proposal
    read = space.params(space.recipe(params))
    if read is None:  # Layers that are run twice or left out, each with its own values.
        assert space.recipe(params).slices
        return
    assert alike(space.recipe(read).plain(), space.recipe(params).plain())
    # Values of a knob shared with models that are left out cannot be read back otherwise.
    assert read.keys() == params.keys()


@given(proposals())
def test_every_proposed_recipe_can_be_merged(proposal: tuple[Space, dict]) -> None:
    space, params = proposal
    recipe = space.recipe(params)
    assert check_recipe(recipe, METHODS) == []
    assert Recipe.from_plain(recipe.plain()) == recipe


@given(proposals())
def test_decoding_an_encoded_vector_gives_the_same_parameters(
    proposal: tuple[Space, dict],
) -> None:
    space, params = proposal
    vector = space.to_vector(params)
    assert vector.shape == (len(space.roles),)
    assert np.isfinite(vector).all()
    assert space.from_vector(space.branch(params), vector) == params


@given(proposals())
def test_a_position_leads_back_to_its_parameters(proposal: tuple[Space, dict]) -> None:
    space, params = proposal
    position = space.position(params)
    assert space.at(position) == params
    np.testing.assert_array_equal(space.settled(position[None])[0], position)


@given(st.sampled_from(list(SPACES)), st.integers(0, 2**32 - 1))
def test_positions_settle_where_their_parameters_lie(name: str, seed: int) -> None:
    space, rng = SPACES[name], np.random.default_rng(seed)
    shares = rng.uniform(-0.2, 1.2, (20, len(space.roles)))
    points = np.hstack([shares, rng.choice(space.codes, 20)])
    theirs = [space.position(space.at(point)) for point in points]
    np.testing.assert_allclose(space.settled(points), theirs, atol=2e-5)


@given(
    st.sampled_from(list(SPACES)),
    st.data(),
)
def test_every_finite_vector_gives_valid_parameters_of_its_branch(name: str, data) -> None:
    space = SPACES[name]
    branch = data.draw(st.sampled_from(space.branches))
    vector = data.draw(
        hnp.arrays(np.float64, len(space.roles), elements=st.floats(-1e6, 1e6, width=64))
    )
    params = space.from_vector(branch, vector)
    assert space.active(params) == params
    assert space.branch(params) == branch


@pytest.mark.parametrize("low", [-1.0, 0.0, 0.1])
def test_the_map_onto_bounds_is_smooth_monotone_and_unfolded(low: float) -> None:
    parameter = FloatParameter("m.w", "w", low, 1.0)
    values = [parameter.decode(z) for z in np.linspace(-6, 6, 4001)]
    steps = np.diff(values)
    assert (steps >= 0).all()
    assert np.abs(np.diff(steps)).max() < 1e-4
    assert (values[0], values[-1]) == (low, 1.0)
    assert parameter.decode(0.0) == pytest.approx((1 + low) / 2)
    slope = (parameter.decode(1e-3) - parameter.decode(-1e-3)) / 2e-3
    assert slope == pytest.approx(1 - low, rel=1e-2)


def test_methods_share_the_coordinates_of_a_role() -> None:
    space = SPACES["plain"]
    ties, arithmetic = (
        next(b for b in space.branches if b.method == m) for m in ("ties", "task_arithmetic")
    )
    vector = np.random.default_rng(0).normal(size=len(space.roles))
    weights = [
        [source.knobs["weight"] for source in space.recipe(space.from_vector(b, vector)).sources]
        for b in (ties, arithmetic)
    ]
    assert weights[0] == weights[1]


def test_slerp_chooses_two_of_base_and_sources_in_their_order() -> None:
    space = SPACES["plain"]
    pairs = [branch.models for branch in space.branches if branch.method == "slerp"]
    assert len(pairs) == 10
    assert pairs[0] == ("base", "math")
    assert {"base", *SOURCES} == {model for pair in pairs for model in pair}


def test_the_default_space_of_four_sources_is_moderate() -> None:
    space = SPACES["plain"]
    assert max(branch.dimension for branch in space.branches) <= 25
    assert "ties" in space.describe()
    assert "10 sets of models" in space.describe()


def test_layer_groups_give_every_layer_of_a_group_one_value() -> None:
    space = SPACES["layer groups, components"]
    branch = next(b for b in space.branches if b.method == "task_arithmetic")
    vector = np.random.default_rng(1).normal(size=len(space.roles))
    recipe = space.recipe(space.from_vector(branch, vector))
    profile = recipe.sources[0].knobs["weight"]
    for component in COMPONENTS:
        values = [
            profile.at(Place("t", component, layer / (N_LAYERS - 1))) for layer in range(N_LAYERS)
        ]
        assert len(set(values[:3])) == len(set(values[3:])) == 1
        assert values[0] != values[-1]


def test_leaving_out_stops_at_the_least_number_of_sources() -> None:
    space = SPACES["everything"]
    params = space.walk(
        lambda p: (
            False
            if isinstance(p, BooleanParameter)
            else "ties"
            if isinstance(p, CategoricalParameter)
            else p.at_fraction(0.3)
        )
    )
    recipe = space.recipe(params)
    assert [source.name for source in recipe.sources] == [SOURCES[-1]]
    assert not any("math" in name and "weight" in name for name in params)


@pytest.mark.parametrize("name", ["plain", "shared", "layer groups, components"])
def test_uniform_average_has_parameters_however_values_vary(name: str) -> None:
    space = SPACES[name]
    params = space.params(uniform_average(SOURCES))
    assert params is not None
    weights = {k: v for k, v in params.items() if ".weight" in k}
    assert weights == {k: float(k.endswith(("]", ".weight"))) for k in weights}


@pytest.mark.parametrize("name", ["plain", "layer groups, components"])
def test_a_single_source_is_the_others_at_weight_zero(name: str) -> None:
    space = SPACES[name]
    params = space.params(single("code"))
    assert params is not None
    for source in space.recipe(params).sources:
        assert {source.knobs["weight"].at(Place("t", c, 0.3)) for c in COMPONENTS} == {
            float(source.name == "code")
        }


SUMS = build_space(plain_settings("ties", "task_arithmetic"), "base", SOURCES, N_LAYERS, METHODS)


@pytest.mark.parametrize(
    ("average", "expected"),
    [
        (single("base"), {}),
        (single("law"), {"law": 1.0}),
        (uniform_average(SOURCES), dict.fromkeys(SOURCES, 0.25)),
        (uniform_average(("base", "code", "law")), {"code": 1 / 3, "law": 1 / 3}),
    ],
)
def test_averages_lie_in_a_space_of_sums(average: Recipe, expected: dict[str, float]) -> None:
    params = SUMS.params(average)
    assert params is not None
    recipe = SUMS.recipe(params)
    assert recipe.method == "task_arithmetic"
    for source in recipe.sources:
        weight = source.knobs["weight"].at(Place("t", "mlp", 0.3))
        assert weight == pytest.approx(expected.get(source.name, 0.0), abs=2e-6)


def test_averages_lie_in_a_space_of_normalised_sums_with_the_bases_part_in_lambda() -> None:
    settings = plain_settings(
        "task_arithmetic", fixed={"normalize": True}, bounds={"lambda": (0.3, 3.0)}
    )
    space = build_space(settings, "base", SOURCES, N_LAYERS, METHODS)
    thirds = (("base", 1.0), ("math", 1.5), ("law", 0.5))
    sources = tuple(RecipeSource(n, {"weight": Profile.of(w)}) for n, w in thirds)
    params = space.params(Recipe("linear", sources))
    assert params is not None
    recipe = space.recipe(params)
    assert recipe.knobs["normalize"] is True
    assert recipe.knobs["lambda"] == Profile.of(2 / 3)
    shares = {s.name: s.knobs["weight"].at(Place("t", "mlp", 0.3)) for s in recipe.sources}
    assert shares == pytest.approx({"math": 0.75, "code": 0, "org/chat-1.5": 0, "law": 0.25})
    assert space.params(single("base")) is None


def test_averages_that_are_no_sum_with_these_weights_are_not_read_as_one() -> None:
    halves = tuple(RecipeSource(n, {"weight": Profile.of(0.5)}) for n in SOURCES)
    bent = (*halves[1:], RecipeSource(SOURCES[0], {"weight": Profile.of([0.0, 1.0])}))
    assert SUMS.params(Recipe("linear", halves, knobs={"normalize": False})) is None
    assert SUMS.params(Recipe("linear", bent)) is None
    assert SUMS.params(Recipe("slerp", halves[:2], base="base")) is None


def test_recipes_outside_the_space_have_no_parameters() -> None:
    space = build_space(plain_settings("linear", "slerp"), "base", SOURCES, N_LAYERS, METHODS)

    def linear(**weights: object) -> Recipe:
        return Recipe(
            "linear",
            tuple(RecipeSource(n, {"weight": Profile.of(w)}) for n, w in weights.items()),
        )

    assert space.params(linear(math=[0.1, 0.5, 0.9], code=0.2)) is not None
    assert space.params(single("base")) is None
    assert space.params(linear(math=1.5)) is None
    assert space.params(linear(math={"mlp": 0.5, "default": 0.2})) is None
    assert space.params(linear(math=[0.0, 1.0, 0.0, 1.0])) is None
    assert space.params(linear(math={"*q_proj*": 0.5, "default": 0.5})) is None
    assert space.params(dataclasses.replace(linear(math=1), knobs={"normalize": False})) is None
    assert space.params(dataclasses.replace(linear(math=1), method="unknown")) is None
    assert space.params(dataclasses.replace(linear(math=1), dtype="float32")) is None


def test_fixed_values_and_seeds_are_stated_in_recipes_that_use_them() -> None:
    space = SPACES["everything"]
    by_method = {
        branch.method: space.recipe(space.from_vector(branch, np.ones(len(space.roles))))
        for branch in space.branches
    }
    assert by_method["ties"].sources[0].knobs["density"] == Profile.of(0.3)
    assert by_method["dare_ties"].seed == 7
    assert by_method["linear"].seed == 0
    assert "density" not in by_method["linear"].sources[0].knobs
    assert all(recipe.dtype == "bfloat16" for recipe in by_method.values())


def test_a_missing_or_unfit_parameter_is_named() -> None:
    space = SPACES["plain"]
    params = dict(space.from_vector(space.branches[0], np.zeros(len(space.roles))))
    name = next(k for k in params if ".weight" in k)
    for unfit in (2.0, math.nan, True, "much"):
        with pytest.raises(ValueError, match="weight"):
            space.recipe({**params, name: unfit})
    with pytest.raises(ValueError, match="method is one of"):
        space.recipe({**params, "method": "tie"})
    del params[name]
    with pytest.raises(ValueError, match="lack"):
        space.recipe(params)


def faults(
    settings: SpaceSettings,
    base: str = "base",
    sources: tuple[str, ...] = SOURCES,
    n_layers: int = N_LAYERS,
) -> str:
    with pytest.raises(ConfigError) as caught:
        build_space(settings, base, sources, n_layers, METHODS)
    return str(caught.value)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"methods": ()}, "no method"),
        ({"methods": ("tie",)}, "did you mean 'ties'"),
        ({"depth": Knots(0)}, "at least 1"),
        ({"components": (("attention",),)}, "add a group 'default'"),
        ({"components": (("mlp",), ("mlp", "default"))}, "component 'mlp' is listed twice"),
        ({"components": ((), ("default",))}, "empty"),
        ({"components": (("attn",), ("default",))}, "unknown component 'attn'"),
        ({"bounds": {"wieght": (0, 1)}}, "did you mean 'weight'"),
        ({"bounds": {"weight": (1, 0)}}, "the lower bound must be below"),
        ({"bounds": {"weight": (0, math.inf)}}, "a weight lies in [-10, 10], got [0, Infinity]"),
        ({"bounds": {"weight": (1, 1)}}, "the lower bound must be below"),
        ({"bounds": {"density": (0, 1.5)}}, "a density lies in [0, 1]"),
        ({"bounds": {"normalize": (0, 1)}}, "expected true, false or [false, true]"),
        ({"switches": ("weight",)}, "expected bounds [low, high] or one number, got [false, true]"),
        ({"fixed": {"density": 2.0}}, "a density lies in [0, 1], got 2.0"),
        ({"fixed": {"normalize": 1.0}}, "expected true, false or [false, true]"),
        ({"fixed": {"weight": True}}, "expected bounds [low, high] or one number"),
        ({"fixed": {"weight": 1.0}, "bounds": {"weight": (0, 1)}}, "fixed and searched"),
    ],
)
def test_unfit_settings_are_refused_with_what_to_do(change: dict, said: str) -> None:
    assert said in faults(dataclasses.replace(PLAIN, **change))


def test_unfit_models_are_refused() -> None:
    assert "no source" in faults(PLAIN, sources=())
    assert "listed 2 times" in faults(PLAIN, sources=("a", "b", "a"))
    assert "is the base and a source" in faults(PLAIN, sources=("a", "base"))
    assert "at least 1 layer" in faults(PLAIN, n_layers=0)


def test_all_faults_come_at_once() -> None:
    found = faults(dataclasses.replace(PLAIN, methods=("tie",), depth=Knots(0)), sources=())
    assert len(found.splitlines()) == 3


def test_absurd_spaces_are_refused_with_numbers_before_they_are_built() -> None:
    many = tuple(f"s{i}" for i in range(20))
    huge = dataclasses.replace(PLAIN, methods=("ties",), depth=PerLayer())
    assert f"more than {MAX_DIMENSION}" in faults(huge, sources=many, n_layers=10**6)
    crowd = tuple(f"s{i}" for i in range(10**4))
    assert "sets of 2 models" in faults(
        dataclasses.replace(PLAIN, methods=("slerp",)), sources=crowd
    )


def test_a_model_of_one_layer_has_one_value_over_depth() -> None:
    settings = plain_settings("linear", "ties", depth=PerLayer())
    space = build_space(settings, "base", ("a",), 1, METHODS)
    params = space.from_vector(space.branches[0], np.zeros(len(space.roles)))
    assert space.params(space.recipe(params)) == params


def test_more_knots_or_groups_than_layers_are_one_a_layer():
    for depth in (Knots(9), Groups(9)):
        space = build_space(plain_settings("linear", depth=depth), "base", SOURCES, 3, METHODS)
        layers = plain_settings("linear", depth=PerLayer())
        exact = build_space(layers, "base", SOURCES, 3, METHODS)
        assert space.parameters == exact.parameters
