"""Spaces in which each group of tensors chooses its own method."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from automerge.errors import ConfigError
from automerge.methods import METHODS
from automerge.recipe import DEFAULT, Profile, Recipe, RecipeSource, uniform_average
from automerge.space import build_space
from automerge.testing.spaces import plain_settings
from tests.space.test_space import GROUPS, SPACES

SPACE = SPACES["groups"]


def summed(weight: object = 0.4, **knobs: object) -> Recipe:
    return Recipe(
        "task_arithmetic",
        tuple(RecipeSource(n, {"weight": Profile.of(weight)}) for n in ("a", "b", "c")),
        "base",
        knobs,
    )


def test_every_group_chooses_its_method_and_only_that_ones_knobs_are_active() -> None:
    assert len(SPACE.methods) == 8
    seen = set()
    for branch in SPACE.branches:
        recipe = SPACE.recipe(SPACE.from_vector(branch, np.zeros(len(SPACE.roles))))
        chosen = recipe.by_selector
        assert list(chosen) == ["attention", "depth<0.4", DEFAULT]
        seen.add(tuple(chosen.values()))
        for selector, method in chosen.items():
            searched = {k.name for k in METHODS[method].source_knobs if k.search is not None}
            own = {
                role.partition("/")[2].partition("[")[0]
                for role in branch.roles
                if role.startswith(f"{selector}/") and "[" in role
            }
            assert own == searched, (selector, method)
    assert seen == {
        (one, two, three)
        for one in ("linear", "ties")
        for two in ("dare_ties", "task_arithmetic")
        for three in ("task_arithmetic", "ties")
    }


def test_groups_share_no_coordinate_and_the_methods_of_a_group_do() -> None:
    by_group = [{r for r in SPACE.roles if r.startswith(f"{s}/")} for s in GROUPS.by_group]
    shared = set(SPACE.roles) - set.union(*by_group)
    assert shared == {"use[a]", "use[b]", "use[c]"}
    assert sum(map(len, by_group)) + len(shared) == len(SPACE.roles)
    weights = [p for p in SPACE.parameters if getattr(p, "role", "") == "attention/weight[a]"]
    assert {p.name for p in weights} == {"attention/linear.weight[a]", "attention/ties.weight[a]"}


def test_a_zone_of_depth_has_one_value() -> None:
    assert not any(".depth" in role for role in SPACE.roles if role.startswith("depth<0.4"))
    assert "attention/weight[a].depth1" in SPACE.roles


def test_a_recipe_with_one_method_lies_where_every_group_has_that() -> None:
    narrow = build_space(
        plain_settings(
            "task_arithmetic", "ties", by_group={"mlp": ("task_arithmetic", "ties"),
                                                 DEFAULT: ("task_arithmetic",)}
        ),
        "base", ("a", "b", "c"), 6, METHODS,
    )  # fmt: skip
    for made in (summed(), summed({"mlp": 0.2, DEFAULT: [0.1, 0.4]})):
        params = narrow.params(made)
        assert params is not None
        again = narrow.recipe(params)
        assert again.by_selector == {"mlp": "task_arithmetic", DEFAULT: "task_arithmetic"}
        assert narrow.params(again) == params
    assert narrow.params(uniform_average(("a", "b", "c"))) is not None
    assert narrow.params(replace(summed(), method="ties")) is None
    # Values for components that are no group are not those of a group.
    assert narrow.params(summed({"norm": 0.2, DEFAULT: 0.4})) is None


def test_a_knob_that_one_group_searches_does_not_reach_another() -> None:
    """The λ of TIES is searched by default, that of task arithmetic is not."""
    searched = {
        name
        for name in METHODS
        for knob in METHODS[name].knobs
        if knob.name == "lambda" and knob.search is not None
    }
    with_lambda = next(name for name in ("ties", "dare_ties", "breadcrumbs") if name in searched)
    without = next(
        name
        for name in ("task_arithmetic", "dare_linear", "sce")
        if name not in searched and any(k.name == "lambda" for k in METHODS[name].knobs)
    )
    space = build_space(
        plain_settings(
            with_lambda, without, by_group={"attention": (without,), DEFAULT: (with_lambda,)}
        ),
        "base",
        ("a", "b"),
        4,
        METHODS,
    )
    made = space.recipe(space.at(np.append(np.full(len(space.roles), 0.9), space.codes[0])))
    assert dict(made.knobs["lambda"].parts)["attention"] == (1.0,)
    assert dict(made.knobs["lambda"].parts)[DEFAULT] != (1.0,)


def test_methods_take_turns_with_those_that_differ_in_one_group() -> None:
    first = SPACE.methods[SPACE.turns[0]].parts
    assert len(SPACE.turns) == 4
    for name in SPACE.turns[1:]:
        assert len(set(SPACE.methods[name].parts) - set(first)) == 1
    assert SPACES["plain"].turns == tuple(SPACES["plain"].methods)


def test_the_nearer_two_combinations_the_more_groups_they_share() -> None:
    codes = {SPACE.methods[b.method].parts: SPACE.codes[i] for i, b in enumerate(SPACE.branches)}
    for one, left in codes.items():
        for other, right in codes.items():
            assert np.abs(left - right).sum() == 2 * len(set(one) - set(other))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"by_group": {"mlp": ("slerp",), DEFAULT: ("slerp",)}, "methods": ("slerp",)}, "at most"),
        ({"by_group": {DEFAULT: ("ties",), "mlp": ("linear",)}}, "last group 'default'"),
        ({"drop": 1}, "zones of depth"),
        (
            {"by_group": {s: tuple(GROUPS.methods) for s in ("attention", "mlp", "norm", DEFAULT)}},
            "256 combinations",
        ),
    ],
)
def test_unfit_groups_are_refused(changes: dict, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        build_space(replace(GROUPS, **changes), "base", ("a", "b", "c"), 6, METHODS)
