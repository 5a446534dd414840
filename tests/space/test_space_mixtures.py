"""Mixtures of experts as searched structures."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from automerge.config import load_config
from automerge.errors import ConfigError
from automerge.methods import METHODS, check_recipe
from automerge.mixture import GATES, Mixture
from automerge.recipe import Recipe, single, uniform_average
from automerge.samplers.random import draw
from automerge.space import Space, build_space
from automerge.space.mixtures import OFF, Mixtures, MixtureSettings
from automerge.testing.spaces import plain_settings

N = 6
SOURCES = ("maths", "code", "chat")
DIGESTS = {name: f"{i:032x}" for i, name in enumerate(SOURCES)}
MIXTURES = Mixtures(N, SOURCES, GATES, 3, True, DIGESTS)
AVERAGE = uniform_average(SOURCES)


def params(
    experts: tuple[float, float, float],
    per_token: float = 1,
    gates: float = 1,
    bottom: float = 0,
    top: float = 0,
) -> dict[str, float]:
    on = {f"layers.expert[{n}]": value for n, value in zip(SOURCES, experts, strict=True)}
    counts = {"per_token": per_token, "gates": gates, "bottom": bottom, "top": top}
    return on | {f"layers.{key}": float(value) for key, value in counts.items()}


@pytest.mark.parametrize(
    ("given", "mixture"),
    [
        (params((1, 1, 1), 2, 1), Mixture(SOURCES, 2, "random")),
        (params((1, 0, 1), 3, 2), Mixture(("maths", "chat"), 2, "hidden")),
        (params((0.3, 0.2, 0.25), 1, 1, 2, 1), Mixture(("maths", "chat"), 1, "random", (2, 5))),
        (params((1, 1, 1), 1, 0), Mixture(SOURCES, 3, "uniform")),
        (params((1, 1, 1), 3.4, 2.4, 2.4, 1.6), Mixture(SOURCES, 3, "hidden", (2, 4))),
        (params((1, 0, 0), 3, 2, 1, 1), None),
        (params((0, 0, 0)), None),
    ],
)
def test_parameters_stand_for_mixtures(given, mixture):
    made = MIXTURES.recipe(AVERAGE, given)
    assert made.mixture == mixture
    if mixture is None:
        assert made == AVERAGE


NUMBERS = st.builds(
    params,
    st.tuples(*[st.floats(0, 1)] * 3),
    st.floats(0.501, 3.499),
    st.floats(-0.499, 2.499),
    st.floats(-0.499, 2.499),
    st.floats(-0.499, 2.499),
)


@given(NUMBERS)
def test_every_draw_is_a_mixture_that_can_be_made_and_is_read_back(given):
    made = MIXTURES.recipe(AVERAGE, given)
    assert check_recipe(made, METHODS) == []
    found = MIXTURES.read(made)
    assert found is not None
    plain, back = found
    assert plain == AVERAGE
    assert MIXTURES.recipe(plain, back) == made
    if made.mixture is not None and made.mixture.layers is not None:
        assert 0 <= made.mixture.layers[0] < made.mixture.layers[1] <= N
    if made.mixture is not None and made.mixture.gates == "hidden":
        assert made.evidence["hidden_state"] == {n: DIGESTS[n] for n in made.mixture.experts}


@pytest.mark.parametrize(
    "mixture",
    [
        Mixture(("maths", "base"), 1, "random"),
        Mixture(("maths", "maths"), 1, "random"),
        Mixture(("code", "maths"), 1, "random"),
        Mixture(SOURCES, 1, "random", (0, 1)),
    ],
)
def test_mixtures_that_it_does_not_make_are_not_read(mixture):
    recipe = Recipe(AVERAGE.method, AVERAGE.sources, mixture=mixture)
    assert MIXTURES.read(recipe) is None


def space(mixture: MixtureSettings, **changes: object) -> Space:
    settings = plain_settings(
        "linear",
        "task_arithmetic",
        mixture=mixture,
        evidence={"hidden_state": DIGESTS},
        **changes,
    )
    return build_space(settings, "base", SOURCES, N, METHODS)


def test_a_search_begins_with_known_mixtures_and_learns_from_them():
    searched = space(MixtureSettings(GATES))
    starts = dict(searched.starts)
    assert {name: recipe.mixture for name, recipe in starts.items()} == {
        "all-experts": Mixture(SOURCES, 3, "uniform"),
        "top-1": Mixture(SOURCES, 1, "hidden"),
        "top-2": Mixture(SOURCES, 2, "hidden"),
    }
    for recipe in (*starts.values(), AVERAGE, single("code")):
        found = searched.params(recipe)
        assert found is not None
        assert searched.recipe(found).mixture == recipe.mixture


def test_most_draws_are_mixtures_of_all_kinds():
    searched = space(MixtureSettings(GATES))
    generator = np.random.default_rng(0)
    drawn = [searched.recipe(draw(searched, generator)).mixture for _ in range(400)]
    dense = sum(mixture is None for mixture in drawn) / len(drawn)
    # Fewer than two of three: 3 · ¾ · ¼² + ¼³, within four standard errors.
    wanted = 3 * (1 - OFF) * OFF**2 + OFF**3
    assert abs(dense - wanted) < 4 * (wanted * (1 - wanted) / 400) ** 0.5
    found = [mixture for mixture in drawn if mixture is not None]
    assert {mixture.gates for mixture in found} == set(GATES)
    assert {len(mixture.experts) for mixture in found} == {2, 3}
    assert {mixture.per_token for mixture in found} == {1, 2, 3}
    assert {mixture.layers for mixture in found} >= {None, (2, 4), (1, 6), (0, 5)}


def test_what_is_fixed_has_no_dimension():
    assert len(MIXTURES.parameters) == 3 + 4
    one = Mixtures(N, SOURCES, ("random",), 1, False)
    assert [p.name for p in one.parameters] == [f"layers.expert[{name}]" for name in SOURCES]
    made = one.recipe(AVERAGE, {p.name: 1.0 for p in one.parameters})
    assert made.mixture == Mixture(SOURCES, 1, "random")


@pytest.mark.parametrize(
    ("mixture", "changes", "message"),
    [
        (MixtureSettings(GATES), {"drop": 1}, "has the base's layers; remove all else of layers"),
        (MixtureSettings(GATES, 4), {}, "a token passes at most all 3 experts; got 4"),
        (MixtureSettings(GATES), {"noise": ("code", "chat")}, "2 experts or more; got maths"),
    ],
)
def test_what_cannot_be_searched_is_refused(mixture, changes, message):
    with pytest.raises(ConfigError, match=message):
        space(mixture, **changes)


def study(tmp_path, mixture: dict, **changes: object) -> dict[str, object]:
    for name in ("base", *SOURCES):
        (tmp_path / name).mkdir(exist_ok=True)
    return {
        "base": str(tmp_path / "base"),
        "models": {name: str(tmp_path / name) for name in SOURCES},
        "tasks": ["gsm8k"],
        "search": {"methods": ["linear"], "layers": {"mixture": mixture}},
        **changes,
    }


def test_gates_are_hidden_where_there_is_text(tmp_path):
    (tmp_path / "text.txt").write_text("text")
    evidence = {"text": str(tmp_path / "text.txt")}
    for more, wanted in (({}, "random"), ({"evidence": evidence}, "hidden")):
        config = load_config(study(tmp_path, {}, **more))
        assert config.hidden_gates == (wanted == "hidden")
        assert config.space_settings().mixture == MixtureSettings(("uniform", wanted))


@pytest.mark.parametrize(
    ("mixture", "changes", "message"),
    [
        ({"gates": ["hiden"]}, {}, "unknown gates 'hiden'; did you mean 'hidden'"),
        ({"gates": ["hidden"]}, {}, "hidden gates need evidence: set `evidence: {text: FILE}`"),
        ({"gates": ["random", "random"]}, {}, "kind of gates 'random' is listed twice"),
        ({"per_token": 0}, {}, "per_token"),
        ({}, {"properties": ["distance_to_base"]}, "distance_to_base needs models with the base"),
        ({}, {"export": "adapter"}, "an adapter keeps its base's layers"),
        ({}, {"evaluation": {"generator": "vllm"}}, "vLLM cannot be handed a mixture"),
    ],
)
def test_a_study_of_what_cannot_be_is_refused(mixture, changes, message, tmp_path):
    with pytest.raises(ConfigError, match=message):
        load_config(study(tmp_path, mixture, **changes))
