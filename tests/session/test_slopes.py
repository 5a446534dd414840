"""Whether a study follows slopes, and what is said of it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from automerge.config import load_config
from automerge.methods import METHODS
from automerge.objective import SIZES, Objective, model_property
from automerge.recipe import BASE
from automerge.session.groups import with_smooth_groups
from automerge.session.slopes import in_words, obstacle, wanted
from automerge.space import build_space
from automerge.testing.studies import plain_record
from tests.studies import toy_plan

INPUTS = replace(plain_record(toy_plan(20), ("a", "b"), 4).begun.inputs, smooth=("first", "second"))


def study(**settings):
    config = load_config(
        {
            "base": "org/base@1",
            "models": {"a": "org/a@1", "b": "org/b@1"},
            "tasks": ["arc_easy"],
            **settings,
        }
    )
    return config, build_space(config.space_settings(), BASE, ("a", "b"), 4, METHODS)


@pytest.mark.parametrize(
    ("settings", "smooth", "said"),
    [
        ({}, ("first", "second"), None),
        ({"search": {"layers": {"mixture": {}}}}, ("first", "second"), None),
        ({"slopes": "off"}, ("first", "second"), "switched off"),
        ({"search": {"layers": {"drop": 1}}}, ("first", "second"), "models of other depths"),
        ({"search": {"methods": ["ram"]}}, ("first", "second"), "no parameter"),
        ({}, ("first",), "no usable loss for second"),
    ],
)
def test_auto_follows_slopes_where_all_goals_have_them_or_it_is_said_why_not(
    settings, smooth, said
):
    config, space = study(**settings)
    inputs = replace(INPUTS, smooth=smooth)
    found = obstacle(config, space, inputs) or ""
    if said is None:
        assert not found
        assert in_words(config, space, inputs, "descent") == "follow first, second"
    else:
        assert said in found
        assert in_words(config, space, inputs, "gp") == f"none: {found}"


def test_sizes_need_no_loss_beside_goals_that_have_one():
    config, space = study(search="mixture")
    sizes = tuple(model_property(name) for name in SIZES)
    inputs = replace(INPUTS, objectives=(*INPUTS.objectives, *sizes))
    assert obstacle(config, space, inputs) is None
    assert in_words(config, space, inputs, "descent") == "follow first, second"
    found = obstacle(config, space, replace(inputs, objectives=sizes, smooth=()))
    assert found == "no usable loss for parameters, active_parameters"


def test_a_chosen_sampler_follows_what_it_can():
    config, space = study(sampler="descent")
    some = replace(INPUTS, smooth=("first",))
    expected = "follow first; objectives without a usable loss: second"
    assert in_words(config, space, some, "descent") == expected
    assert wanted(config, "descent")
    config, space = study(sampler="gp")
    assert in_words(config, space, some, "gp") is None
    assert not wanted(config, "gp")


def test_a_group_has_a_loss_where_all_of_its_members_have_one():
    group = Objective("g", "a, b", "worst", "none", "maximize", "min_of_means", members=("a", "b"))
    assert with_smooth_groups(["a", "b"], [group]) == ("a", "b", "g")
    assert with_smooth_groups(["a"], [group]) == ("a",)
    config, space = study()
    members = tuple(replace(o, goal=False) for o in INPUTS.objectives)
    known = replace(INPUTS, objectives=(*members, group), smooth=("a", "b", "g"))
    assert obstacle(config, space, known) is None
    assert in_words(config, space, known, "descent") == "follow g"
    assert "no usable loss for g" in obstacle(config, space, replace(known, smooth=("a",)))
