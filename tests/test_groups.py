"""Groups: objectives that are the mean, or the worst, of several others."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest

from automerge.estimation import interval, paired_difference
from automerge.estimation.intervals import influence
from automerge.groups import best_sources, with_groups
from automerge.objective import (
    Estimate,
    ItemScores,
    Objective,
    estimate,
    of_members,
    standard_error,
)

A = Objective("a", "a", "acc", "none", "maximize", goal=False)
B = Objective("b", "b", "acc", "none", "maximize", goal=False)


def group(kind, relative=False):
    aggregation = "mean_of_means" if kind == "mean" else "min_of_means"
    return Objective(
        "g", "a, b", kind, "none", "maximize", aggregation, members=("a", "b"), relative=relative
    )


def scores(seed, level_a=0.7, level_b=0.5, n_a=40, n_b=25):
    rng = np.random.default_rng(seed)
    own = {}
    for name, level, n in (("a", level_a, n_a), ("b", level_b, n_b)):
        items = tuple((name, doc) for doc in range(n))
        own[name] = ItemScores(items, tuple((rng.random(n) < level).astype(float).tolist()))
    return own


def grouped(kind, own, relative=False, experts=None):
    objective = group(kind, relative)
    return with_groups([A, B, objective], own, experts or {})["g"], objective.aggregation


def mean(own, name):
    return float(np.mean(own[name].values))


def jackknife(own, kind, experts):
    """Tukey's jackknife of a group's value, an item with its expert's score at a time: the delta
    method to first order, without its formula."""

    def value(left_out):
        parts = []
        for name in ("a", "b"):
            keep = [i for i in range(len(own[name].values)) if (name, i) != left_out]
            up = np.mean([own[name].values[i] for i in keep])
            parts.append(up / np.mean([experts[name].values[i] for i in keep]))
        return np.mean(parts) if kind == "mean" else np.min(parts)

    variance = 0.0
    for name in ("a", "b"):
        n = len(own[name].values)
        values = np.array([value((name, i)) for i in range(n)])
        variance += (n - 1) / n * np.sum((values - values.mean()) ** 2)
    return value(None), np.sqrt(variance)


@pytest.mark.parametrize("kind", ["mean", "worst"])
def test_values_are_the_mean_and_the_minimum_of_the_tasks_means(kind):
    own = scores(0)
    found = estimate(*grouped(kind, own))
    means = mean(own, "a"), mean(own, "b")
    errors = [standard_error(np.array(own[name].values)) for name in "ab"]
    if kind == "mean":
        assert found.value == pytest.approx(sum(means) / 2)
        assert found.stderr == pytest.approx(np.hypot(*errors) / 2)
    else:
        assert found.value == min(means) == means[1]
        assert found.stderr == pytest.approx(errors[1])


@pytest.mark.parametrize("kind", ["mean", "worst"])
def test_a_relative_groups_error_is_the_jackknifes_of_the_ratios(kind):
    own = scores(1, n_a=400, n_b=300)
    experts = scores(2, 0.9, 0.8, 400, 300)
    found, aggregation = grouped(kind, own, True, experts)
    value, stderr = jackknife(own, kind, experts)
    got = estimate(found, aggregation)
    assert got.value == pytest.approx(value)
    assert got.stderr == pytest.approx(stderr, rel=0.01)  # they differ by O(1/n)
    assert standard_error(influence(found, aggregation)) == pytest.approx(got.stderr)


@pytest.mark.parametrize("kind", ["mean", "worst"])
def test_where_the_expert_answered_other_items_its_mean_is_taken_as_known(kind):
    own = scores(3)
    others = {
        name: ItemScores(tuple((name, 1000 + doc) for doc in range(50)), (1.0,) * 40 + (0.0,) * 10)
        for name in "ab"
    }
    found = estimate(*grouped(kind, own, True, others))
    plain = estimate(*grouped(kind, own))
    assert found.value == pytest.approx(plain.value / 0.8)
    assert found.stderr == pytest.approx(plain.stderr / 0.8)


@pytest.mark.parametrize("relative", [False, True])
@pytest.mark.parametrize("kind", ["mean", "worst"])
def test_estimates_of_members_give_what_their_items_give(kind, relative):
    own, units = scores(4), {"a": 0.9, "b": 0.6}
    others = {
        name: ItemScores(((name, 1000), (name, 1001)), (2 * unit, 0.0))
        for name, unit in units.items()
    }
    objective = group(kind, relative)
    alone = {name: estimate(own[name], "mean") for name in "ab"}
    found = of_members(objective, alone, units)
    items = estimate(*grouped(kind, own, relative, others))
    assert (found.value, found.stderr) == pytest.approx((items.value, items.stderr))
    lacking = {**alone, "b": Estimate(np.nan, np.nan, 0)}
    assert of_members(objective, lacking, units).n == 0


def test_an_expert_has_exactly_its_own_value_and_a_group_none_without_all_members():
    expert = scores(5)
    found, aggregation = grouped("mean", expert, True, expert)
    assert estimate(found, aggregation) == Estimate(1.0, 0.0, 65)
    alone = interval(found, aggregation)
    same = paired_difference(found, found, aggregation)
    assert alone.low < 1 < alone.high < 1.5
    assert same.low < 0 < same.high < 0.5
    unknown = {**scores(6), "b": ItemScores((), ())}
    assert not grouped("mean", unknown)[0].items
    never_right = {**expert, "a": ItemScores(expert["a"].items, (0.0,) * 40)}
    assert not grouped("mean", expert, True, never_right)[0].items


@pytest.mark.parametrize("relative", [False, True])
@pytest.mark.parametrize("kind", ["mean", "worst"])
def test_intervals_and_paired_differences_cover_the_truth(kind, relative):
    """The levels differ enough that the same task decides throughout: 0.4 of 0.8, 0.7 of 0.9."""
    true = {"mean": (0.4 / 0.8 + 0.7 / 0.9) / 2 if relative else 0.55}
    true["worst"] = 0.5 if relative else 0.4
    shift = {"mean": (0.1 / 0.8 + 0.1 / 0.9) / 2 if relative else 0.1}
    shift["worst"] = 0.125 if relative else 0.1
    covered = differing = 0
    for seed in range(100):
        low = scores(3 * seed, 0.4, 0.7, 120, 80)
        high = scores(3 * seed + 1, 0.5, 0.8, 120, 80)
        experts = scores(3 * seed + 2, 0.8, 0.9, 120, 80)
        own, aggregation = grouped(kind, low, relative, experts)
        better, _ = grouped(kind, high, relative, experts)
        alone = interval(own, aggregation)
        covered += alone.low <= true[kind] <= alone.high
        between = paired_difference(better, own, aggregation)
        differing += between.low <= shift[kind] <= between.high
    # 95 % less three standard errors of 100 trials
    assert min(covered, differing) >= 0.885 * 100


def test_the_best_source_is_chosen_for_each_member_of_a_relative_group():
    sources = [scores(7, 0.9, 0.2), scores(8, 0.2, 0.9)]
    assert best_sources([A, B, group("worst", True)], sources) == {"a": 0, "b": 1}
    assert best_sources([A, B, group("worst")], sources) == {}
    minimised = [
        Objective(o.name, o.task, o.metric, "none", "minimize", goal=False) for o in (A, B)
    ]
    assert best_sources([*minimised, group("mean", True)], sources) == {"a": 1, "b": 0}


def test_the_worst_of_minimised_tasks_is_the_highest_mean():
    own = scores(9)
    worst = Objective("g", "a, b", "worst", "none", "minimize", "max_of_means", members=("a", "b"))
    found = with_groups([A, B, worst], own, {})["g"]
    assert estimate(found, "max_of_means").value == max(mean(own, "a"), mean(own, "b"))
    alone = {name: estimate(own[name], "mean") for name in "ab"}
    assert of_members(worst, alone, {}).value == max(mean(own, "a"), mean(own, "b"))


def test_the_task_that_decides_does_not_depend_on_the_order_of_items():
    own, _ = grouped("worst", scores(10))
    order = np.random.default_rng(0).permutation(len(own.items)).tolist()
    again = own.rows(order)
    found, expected = estimate(again, "min_of_means"), estimate(own, "min_of_means")
    assert (found.value, found.stderr) == pytest.approx((expected.value, expected.stderr))
    for (name_a, x), (name_b, y) in combinations(
        zip(own.items, influence(own, "min_of_means"), strict=True), 2
    ):
        if "a" in (name_a[0], name_b[0]):
            assert (x == 0) or (y == 0) or name_a[0] == name_b[0]
