"""Laws of a search's opening: usual merges that can be made, and rules on what was measured."""

from __future__ import annotations

import math
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from automerge.methods import METHODS, check_recipe
from automerge.recipe import Recipe, single, uniform_average
from automerge.space import Knots, build_space
from automerge.study.opening import (
    FEW_SOURCES,
    TEMPERATURE,
    Opening,
    cocktail,
    greedy_soup,
    line_search,
    opening,
)
from automerge.study.usual import sum_of_task_vectors, usual_merges
from automerge.testing.spaces import plain_settings

SOURCES = ("a", "b", "c", "d")
PARENTS = ("base", *SOURCES)


def told(**losses: float | None) -> dict[str, tuple[float, ...] | None]:
    return {single(n).id: None if loss is None else (loss,) for n, loss in losses.items()}


def weights(recipe: Recipe) -> dict[str, object]:
    return {source.name: source.knobs["weight"].plain() for source in recipe.sources}


@pytest.mark.parametrize("sources", [("a",), ("a", "b"), SOURCES])
def test_usual_merges_can_be_made_and_have_names_of_their_own(sources: tuple[str, ...]) -> None:
    merges = list(usual_merges(sources, "base", tuple(METHODS.own), 3))
    names = [name for name, _ in merges]
    assert len(set(names)) == len(names)
    for _, recipe in merges:
        assert check_recipe(recipe, METHODS) == []


def test_usual_merges_are_those_of_searched_methods_and_lie_in_their_space() -> None:
    methods = ("task_arithmetic", "ties", "dare_ties")
    found = dict(usual_merges(SOURCES, "base", methods, 3))
    assert set(found) == {"sum", "metagpt", "ties", "model-stock", "dare-ties"}
    assert dict(usual_merges(SOURCES, "base", ("slerp",), 3)) == {}
    settings = plain_settings(*methods, depth=Knots(3), seed=3)
    space = build_space(settings, "base", SOURCES, 6, METHODS)
    inside = {name for name, recipe in found.items() if space.params(recipe) is not None}
    assert inside == set(found) - {"metagpt", "model-stock"}


def test_a_cocktail_weighs_models_by_a_softmax_of_their_losses() -> None:
    losses = told(base=3.0, a=1.0, b=2.0, c=3.0, d=3.0)
    found = cocktail(SOURCES, "base", None, losses)
    assert found is not None
    expected = np.exp(-np.array([1.0, 0.0, 0.5, 1.0, 1.0]) / TEMPERATURE)
    assert list(weights(found)) == list(PARENTS)
    np.testing.assert_allclose(list(weights(found).values()), expected / expected.sum(), atol=1e-6)


def test_a_cocktail_of_one_goal_follows_that_goal_alone() -> None:
    losses = {single(n).id: (float(i), -float(i)) for i, n in enumerate(PARENTS)}
    first, second = (cocktail(SOURCES, "base", goal, losses) for goal in (0, 1))
    assert first is not None
    assert second is not None
    assert list(weights(first).values()) == list(weights(second).values())[::-1]


@pytest.mark.parametrize(
    "rule",
    [lambda x: cocktail(SOURCES, "base", None, x), lambda x: greedy_soup(SOURCES, "base", x)],
)
def test_rules_wait_until_every_parent_is_measured(rule) -> None:
    losses = told(base=3.0, a=1.0, b=2.0, c=3.0, d=4.0)
    assert rule(losses) is not None
    for parent in losses:
        assert rule({k: v for k, v in losses.items() if k != parent}) is None


def wortsman(values: dict[frozenset[str], float]) -> frozenset[str]:
    """The greedy soup as the paper's recipe 1 says it."""
    ranked = sorted(SOURCES, key=lambda s: (values[frozenset([s])], SOURCES.index(s)))
    ingredients: list[str] = []
    for model in ranked:
        tried = [*ingredients, model]
        if not ingredients or values[frozenset(tried)] <= values[frozenset(ingredients)]:
            ingredients = tried
    return frozenset(ingredients)


@given(st.integers(0, 2**32 - 1), st.booleans())
def test_the_greedy_soup_measures_what_the_papers_recipe_does(seed: int, failing: bool) -> None:
    rng = np.random.default_rng(seed)
    sets = [frozenset(s) for n in range(1, 5) for s in combinations(SOURCES, n)]
    values = {s: float(v) for s, v in zip(sets, rng.normal(size=len(sets)), strict=True)}
    if failing:
        values[sets[5 + seed % 9]] = math.inf
    losses = told(base=0.0, **{s: values[frozenset([s])] for s in SOURCES})
    measured = []
    while (recipe := greedy_soup(SOURCES, "base", losses)) is not None:
        names = frozenset(source.name for source in recipe.sources)
        assert recipe == uniform_average([s for s in SOURCES if s in names])
        value = values[names]
        losses[recipe.id] = (value,) if math.isfinite(value) else None
        measured.append(names)
    assert len(measured) == len(SOURCES) - 1
    kept = min((s for s in [frozenset([s]) for s in SOURCES] + measured), key=lambda s: values[s])
    assert wortsman(values) == kept


def searched_line(loss, steps: int) -> dict[float, float]:
    """The weights a line search measures, with their losses."""
    losses = told(base=loss(0.0), **dict.fromkeys(SOURCES, 2.0))
    losses[uniform_average(SOURCES).id] = (loss(1 / len(SOURCES)),)
    found: dict[float, float] = {}
    while len(found) < steps and (recipe := line_search(SOURCES, "base", losses)) is not None:
        (weight,) = {float(w) for w in weights(recipe).values()}
        assert recipe == sum_of_task_vectors(SOURCES, "base", weight)
        assert weight not in found
        found[weight] = loss(weight)
        losses[recipe.id] = (found[weight],) if math.isfinite(found[weight]) else None
    return found


@pytest.mark.parametrize("best", [0.02, 0.05, 0.12, 0.25, 0.4, 0.65, 0.9, 1.3])
def test_a_line_search_ends_with_the_best_weight_between_two_measured(best: float) -> None:
    found = searched_line(lambda w: (w - best) ** 2, 20)
    tried = sorted([0.0, *found, 1 / len(SOURCES)])
    least = min(tried, key=lambda w: (w - best) ** 2)
    if least > 0:
        assert tried[-1] > best
        above = min(w for w in tried if w > least)
        assert above <= 2.1 * least
    assert len(found) < 8


def test_a_line_search_needs_one_sum_where_the_average_is_best() -> None:
    assert list(searched_line(lambda w: (w - 0.25) ** 2, 20)) == [0.4]


def test_a_line_search_goes_on_while_larger_is_better_and_no_further() -> None:
    assert list(searched_line(lambda w: (w - 0.6) ** 2, 20)) == [0.4, 0.56, 0.784]
    assert list(searched_line(lambda w: math.inf if w > 0.5 else 1 - w, 20)) == [0.4, 0.56]


def test_a_line_search_waits_for_what_is_being_measured() -> None:
    losses = told(base=1.0, **dict.fromkeys(SOURCES, 2.0))
    assert line_search(SOURCES, "base", losses) is None
    losses[uniform_average(SOURCES).id] = (0.9,)
    first = line_search(SOURCES, "base", losses)
    assert first is not None
    assert line_search(SOURCES, "base", losses) == first
    losses[first.id] = (0.8,)
    assert line_search(SOURCES, "base", losses) != first


def test_an_opening_gives_each_step_once_and_no_more_than_its_limit() -> None:
    usual = list(usual_merges(SOURCES, "base", ("task_arithmetic", "ties"), 0))
    for limit in (0, 1, 3, 100):
        whole = opening(usual, SOURCES, "base", 2, limit)
        names: set[str] = set()
        asked = {single(n).id for n in PARENTS}
        losses = {single(n).id: (float(i), -float(i)) for i, n in enumerate(PARENTS)}
        while (step := whole.next(names, asked, losses)) is not None:
            name, recipe = step
            assert name not in names
            assert name.startswith("start-")
            names.add(name)
            asked.add(recipe.id)
            losses[recipe.id] = (0.0, 0.0)
        assert len(names) <= limit
        assert limit < 100 or len(names) == len(usual) + 3 + 2


def test_a_rule_that_waits_lets_later_steps_go_first() -> None:
    usual = list(usual_merges(SOURCES, "base", ("task_arithmetic",), 0))
    whole = opening(usual, SOURCES, "base", 1, 6)
    names = ["sum", "sum-1", "sum-2", "sum-3", "cocktail", "metagpt"]
    assert [name for name, _ in whole.steps] == [f"start-{name}" for name in names]
    step = whole.next({"start-sum"}, set(), {})
    assert step is not None
    assert step[0] == "start-metagpt"
    losses = told(base=3.0, a=1.0, b=2.0, c=3.0, d=4.0)
    step = whole.next({"start-sum", "start-metagpt"}, set(), losses)
    assert step is not None
    assert step[0] == "start-cocktail"
    assert Opening().next(set(), set(), losses) is None


@pytest.mark.parametrize("more", [0, 1])
def test_in_a_pool_the_greedy_soup_comes_first(more: int) -> None:
    sources = tuple(f"adapter-{number}" for number in range(FEW_SOURCES + more))
    usual = list(usual_merges(sources, "base", ("task_arithmetic",), 0))
    names = [name for name, _ in opening(usual, sources, "base", 1, 100).steps]
    first = ["start-soup-2", "start-soup-3", "start-soup-4", "start-sum"]
    assert names[:4] == (
        first if more else ["start-sum", "start-sum-1", "start-sum-2", "start-sum-3"]
    )
    assert len(set(names)) == len(names)
