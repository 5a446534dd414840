"""Racing on select items: whom it drops, when it ends, and how often it is wrong."""

from __future__ import annotations

import math
from collections.abc import Container

import numpy as np
import pytest

from automerge.estimation.sequential import log_evidence
from automerge.objective import MODEL_ITEM, ItemScores, Objective, model_property
from automerge.study.racing import FIRST_BLOCK, Race, blocks, in_order, race
from automerge.trial import count_items

A = Objective("a", "one", "acc", "none", "maximize")
B = Objective("b", "two", "acc", "none", "minimize")
MEMBERS = {"a": ("one",), "b": ("two",)}


def naive_evidence(differences: list[float]) -> float:
    wealth, best, past = 1.0, 1.0, []
    for d in differences:
        stake = sum(past) / (sum(x * x for x in past) + 2)
        wealth *= 1 + min(max(stake, 0.0), 0.5) * d
        best = max(best, wealth)
        past.append(d)
    return math.log(best)


def test_evidence_is_that_of_a_bettor_who_sees_one_difference_after_the_other() -> None:
    rng = np.random.default_rng(0)
    differences = rng.choice([-1.0, 0.0, 1.0, 0.3], size=(5, 60))
    expected = [naive_evidence(list(row)) for row in differences]
    np.testing.assert_allclose(log_evidence(differences), expected)


def test_evidence_against_the_truth_is_rarely_large_however_long_one_looks() -> None:
    """Ville's inequality: wealth of 20 is reached with probability at most 1/20."""
    rng = np.random.default_rng(1)
    null = rng.choice([-1.0, 0.0, 1.0], p=[0.1, 0.8, 0.1], size=(4000, 800))
    assert np.mean(log_evidence(null) >= math.log(20)) < 0.05
    better = rng.choice([-1.0, 0.0, 1.0], p=[0.05, 0.8, 0.15], size=(500, 800))
    assert np.mean(log_evidence(better) >= math.log(20)) > 0.95


def test_blocks_hold_every_item_once_and_double() -> None:
    pool = {"one": tuple(range(500)), "two": tuple(range(100)), "free": ()}
    cut = blocks(pool, MEMBERS, seed=3)
    for task, docs in pool.items():
        assert sorted(d for block in cut for d in block.get(task, ())) == list(docs)
    sizes = [len(block.get("one", ())) for block in cut]
    assert sizes == [FIRST_BLOCK, 2 * FIRST_BLOCK, 500 - 3 * FIRST_BLOCK]
    assert [len(block.get("two", ())) for block in cut] == [100, 0, 0]
    assert cut == blocks(pool, MEMBERS, seed=3) != blocks(pool, MEMBERS, seed=4)


def test_an_item_of_two_objectives_comes_when_the_first_needs_it() -> None:
    pool = {"one": tuple(range(100)), "two": tuple(range(300))}
    cut = blocks(pool, {"a": ("one",), "both": ("one", "two")}, seed=0)
    assert len(cut[0]["one"]) >= FIRST_BLOCK
    assert sum(map(count_items, cut)) == 400


def scores(table: dict[int, tuple[list[float], list[float]]]) -> dict[int, dict[str, ItemScores]]:
    """Scores by model, of objectives a and b."""
    return {
        number: {
            name: ItemScores(tuple((task, i) for i in range(len(values))), tuple(values))
            for name, task, values in (("a", "one", of_a), ("b", "two", of_b))
        }
        for number, (of_a, of_b) in table.items()
    }


def judge(
    table: dict[int, tuple[list[float], list[float]]],
    *,
    resolution: float = 0.0,
    rivals: Container[int] = range(3),
) -> Race:
    found = scores(table)
    return race((A, B), found, [1, 2], rivals=rivals, pairs=6, seed=0, resolution=resolution)


GOOD, BAD = [1.0] * 150 + [0.0] * 50, [1.0] * 50 + [0.0] * 150


def test_a_candidate_worse_on_every_objective_is_dropped_and_a_parent_never() -> None:
    # b is minimised: few ones are good.
    found = judge({0: (BAD, GOOD), 1: (GOOD, BAD), 2: (BAD, GOOD)})
    assert found.dropped == {2}


def test_what_misses_a_constraint_drops_nobody() -> None:
    table = {0: (BAD, GOOD), 1: (GOOD, BAD), 2: (BAD, GOOD)}
    assert not judge(table, rivals={0, 2}).dropped


def test_one_better_objective_keeps_a_candidate() -> None:
    found = judge({0: (BAD, GOOD), 1: (GOOD, GOOD), 2: (BAD, BAD)})
    assert not found.dropped


@pytest.mark.parametrize(("distance", "dropped"), [(0.1, set()), (0.9, {2}), (0.5, {2})])
def test_a_smaller_distance_keeps_a_candidate_that_is_worse_on_all_tasks(
    distance: float, dropped: set[int]
) -> None:
    near = model_property("distance_to_base")
    table = scores({0: (BAD, GOOD), 1: (GOOD, BAD), 2: (BAD, GOOD)})
    for number, value in ((0, 0.0), (1, 0.5), (2, distance)):
        table[number][near.name] = ItemScores((MODEL_ITEM,), (value,))
    found = race((A, B, near), table, [1, 2], rivals=range(3), pairs=6, seed=0, resolution=0.0)
    assert found.dropped == dropped


def test_it_is_decided_when_paired_differences_are_known_to_the_resolution() -> None:
    rng = np.random.default_rng(0)
    base = rng.random(1000) < 0.6
    flipped = base ^ (rng.random(1000) < 0.1)
    table = {n: (list(row * 1.0), list(row * 1.0)) for n, row in enumerate([base, base, flipped])}
    sd = float(np.std(base * 1.0 - flipped, ddof=1))
    half_width = 1.959964 * sd / math.sqrt(1000)
    assert not judge(table, resolution=half_width * 0.99).decided
    assert judge(table, resolution=half_width * 1.01).decided


def test_scores_that_are_all_equal_decide_nothing_by_themselves() -> None:
    table = {n: ([1.0] * 64, [0.0] * 64) for n in range(3)}
    assert not judge(table, resolution=0.05).decided
    assert judge(table, resolution=0.06).decided  # 1.96² / (64 + 1.96²) = 0.0566


def test_unbounded_scores_are_measured_to_the_end() -> None:
    found = judge({0: ([-2.0] * 200, BAD), 1: (GOOD, BAD), 2: (BAD, GOOD)}, resolution=1.0)
    assert found == Race(frozenset(), decided=False)


@pytest.mark.slow
def test_a_candidate_that_nothing_dominates_is_rarely_dropped() -> None:
    """Twelve equal models on 600 items, looked at four times: no drop in 95 of 100 contests."""
    rng = np.random.default_rng(2)
    objectives, wrong = (A,), 0
    for _ in range(40):
        truth = rng.random(600)
        table = {n: {"a": own(rng.random(600) < truth)} for n in range(12)}
        for n in (64, 192, 448, 600):
            seen = {k: {"a": head(v["a"], n)} for k, v in table.items()}
            every = range(12)
            if race(
                objectives, seen, every, rivals=every, pairs=132, seed=0, resolution=0.0
            ).dropped:
                wrong += 1
                break
    assert wrong <= 4


def own(values: np.ndarray) -> ItemScores:
    return ItemScores(tuple(("one", i) for i in range(len(values))), tuple(values * 1.0))


def head(found: ItemScores, n: int) -> ItemScores:
    order = in_order(found.items, 0)[:n]
    at = dict(zip(found.items, found.values, strict=True))
    return ItemScores(tuple(order), tuple(at[item] for item in order))


@pytest.mark.parametrize("seed", [0, 1])
def test_the_order_of_items_follows_from_the_seed_alone(seed: int) -> None:
    items = [("one", i) for i in range(50)]
    assert in_order(items, seed) == in_order(reversed(items), seed)
