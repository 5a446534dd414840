"""Numbers of experts as searched structures."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from automerge.config import load_config
from automerge.errors import ConfigError
from automerge.expert_groups import BY, ExpertGroups
from automerge.methods import METHODS, check_recipe
from automerge.recipe import Recipe, single, uniform_average
from automerge.samplers.random import draw
from automerge.space import Space, build_space
from automerge.space.experts import Experts, ExpertSettings
from automerge.testing.spaces import plain_settings

SOURCES = ("maths", "code")
DIGESTS = {name: f"{i:032x}" for i, name in enumerate(("base", *SOURCES))}
EXPERTS = Experts((2, 4, 6), BY, SOURCES, DIGESTS)
AVERAGE = uniform_average(SOURCES)


@pytest.mark.parametrize(
    ("count", "by", "groups"),
    [
        (0, 0, ExpertGroups(2, "outputs")),
        (1.4, 0.6, ExpertGroups(4, "routing")),
        (2.499, -0.4, ExpertGroups(6, "outputs")),
        (3, 1, None),
    ],
)
def test_parameters_stand_for_numbers_of_experts(count, by, groups):
    made = EXPERTS.recipe(AVERAGE, {"layers.experts": count, "layers.experts_by": by})
    assert made.experts == groups
    if groups is None:
        assert made == AVERAGE
    else:
        assert made.evidence == {"routing": {name: DIGESTS[name] for name in SOURCES}}


@given(st.floats(-0.499, 3.499), st.floats(-0.499, 1.499))
def test_every_draw_can_be_made_and_is_read_back(count, by):
    made = EXPERTS.recipe(AVERAGE, {"layers.experts": count, "layers.experts_by": by})
    assert check_recipe(made, METHODS) == []
    found = EXPERTS.read(made)
    assert found is not None
    plain, back = found
    assert plain == AVERAGE
    assert EXPERTS.recipe(plain, back) == made


@pytest.mark.parametrize(
    "groups", [ExpertGroups(3, "outputs"), ExpertGroups(2, "outputs", 1), ExpertGroups(2, "other")]
)
def test_numbers_that_it_does_not_make_are_not_read(groups):
    evidence = {"routing": {name: DIGESTS[name] for name in SOURCES}}
    made = Recipe(AVERAGE.method, AVERAGE.sources, evidence=evidence, experts=groups)
    assert EXPERTS.read(made) is None


def space(experts: ExpertSettings, **changes: object) -> Space:
    changes = {"evidence": {"routing": DIGESTS}, **changes}
    settings = plain_settings("linear", "slerp", experts=experts, **changes)
    return build_space(settings, "base", SOURCES, 6, METHODS)


def test_a_search_begins_with_each_number_and_learns_from_them():
    searched = space(ExpertSettings((2, 4), ("routing",)))
    starts = dict(searched.starts)
    assert {name: recipe.experts for name, recipe in starts.items()} == {
        "4-experts": ExpertGroups(4, "routing"),
        "2-experts": ExpertGroups(2, "routing"),
    }
    for recipe in (*starts.values(), AVERAGE, single("code")):
        found = searched.params(recipe)
        assert found is not None
        assert searched.recipe(found).experts == recipe.experts


def test_draws_have_every_number_of_every_kind():
    searched = space(ExpertSettings((2, 4), BY))
    generator = np.random.default_rng(0)
    drawn = [searched.recipe(draw(searched, generator)) for _ in range(200)]
    wanted = {ExpertGroups(count, by) for count in (2, 4) for by in BY} | {None}
    assert {recipe.experts for recipe in drawn} == wanted
    assert all(check_recipe(recipe, METHODS) == [] for recipe in drawn)
    assert any(source.name == "base" for recipe in drawn for source in recipe.sources)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"drop": 1}, "experts are merged in the base's layers; remove experts, or all else"),
        ({"evidence": {}}, "experts are grouped by each source's text: set `evidence"),
    ],
)
def test_what_cannot_be_searched_is_refused(changes, message):
    with pytest.raises(ConfigError, match=message):
        space(ExpertSettings((2,), BY), **changes)


def study(tmp_path, experts: dict, **changes: object) -> dict[str, object]:
    for name in ("base", *SOURCES):
        (tmp_path / name).mkdir(exist_ok=True)
    (tmp_path / "text.txt").write_text("text")
    return {
        "base": str(tmp_path / "base"),
        "models": {name: str(tmp_path / name) for name in SOURCES},
        "tasks": ["gsm8k"],
        "search": {"methods": ["linear"], "layers": {"experts": experts}},
        "evidence": {"text": str(tmp_path / "text.txt")},
        **changes,
    }


def test_a_study_says_which_numbers_and_kinds(tmp_path):
    config = load_config(study(tmp_path, {"count": [4, 2]}))
    assert config.space_settings().experts == ExpertSettings((2, 4), BY)
    assert config.kinds_of_evidence == ("routing",)
    config = load_config(study(tmp_path, {"count": [2], "by": ["routing"]}))
    assert config.space_settings().experts == ExpertSettings((2,), ("routing",))


def texts(tmp_path) -> dict[str, object]:
    return {"text": {name: str(tmp_path / "text.txt") for name in SOURCES}}


@pytest.mark.parametrize(
    ("experts", "changes", "message"),
    [
        ({}, {}, "count"),
        ({"count": [0]}, {}, "count"),
        ({"count": [2, 2]}, {}, "number of experts '2' is listed twice"),
        ({"count": [2], "by": ["output"]}, {}, "unknown grouping 'output'; did you mean 'outputs'"),
        ({"count": [2]}, {"evidence": None}, "one text for all sources: set `evidence"),
        ({"count": [2]}, {"evidence": texts}, "one text for all sources: set `evidence"),
        ({"count": [2]}, {"properties": ["distance_to_base"]}, "needs models with the base's"),
        ({"count": [2]}, {"export": "adapter"}, "an adapter keeps its base's layers"),
    ],
)
def test_a_study_of_what_cannot_be_is_refused(experts, changes, message, tmp_path):
    given_ = study(tmp_path, experts)
    changes = {k: v(tmp_path) if callable(v) else v for k, v in changes.items()}
    with pytest.raises(ConfigError, match=message):
        load_config({k: v for k, v in {**given_, **changes}.items() if v is not None})
