"""Racing for groups of tasks: how often it is wrong, whom it drops, and when it ends."""

from __future__ import annotations

import math

import numpy as np
import pytest

from automerge.estimation.differences import paired_difference
from automerge.estimation.sequential import (
    evidence_of_all,
    evidence_of_largest,
    evidence_of_mean,
    log_evidence,
)
from automerge.groups import with_groups
from automerge.objective import Aggregation, ItemScores, Objective
from automerge.study.racing import race
from tests.study.test_racing import naive_evidence

LEVEL = math.log(1 / 0.05)
A = Objective("a", "one", "acc", "none", "maximize", goal=False)
B = Objective("b", "two", "acc", "none", "maximize", goal=False)


def group(kind: Aggregation, relative: bool = False) -> Objective:
    return Objective(
        "g", "a, b", kind, "none", "maximize", kind, members=("a", "b"), relative=relative
    )


def drawn(rates: list[tuple[float, int]], n: int, seed: int) -> list[np.ndarray]:
    """Losses of `n` contests on each task, of a rate and a number of items."""
    rng = np.random.default_rng(seed)
    return [(rng.random((n, size)) < rate).astype(float) for rate, size in rates]


def test_the_kth_items_of_all_tasks_are_one_bet_on_their_mean() -> None:
    one, two = (own - 0.5 for own in drawn([(0.7, 30), (0.4, 50)], 4, 0))
    expected = [naive_evidence(list((a + b[:30]) / 2)) for a, b in zip(one, two, strict=True)]
    np.testing.assert_allclose(evidence_of_mean([one, two]), expected)


def test_the_largest_is_judged_task_against_task_by_the_union_of_hypotheses() -> None:
    worse, better = (drawn([(0.9, 40), (0.3, 60), (0.5, 20)], 3, seed) for seed in (1, 2))
    found = evidence_of_largest(worse, better)
    for contest in range(3):
        least = math.inf
        for one in better:
            most = -math.inf
            for other in worse:
                n = min(len(one[contest]), len(other[contest]))
                against = naive_evidence(list(other[contest][:n] - one[contest][:n]))
                most = max(most, against - math.log(3))
            least = min(least, most)
        assert found[contest] == pytest.approx(max(least, 0.0))


def test_wrong_rejections_of_groups_are_rarer_than_the_level() -> None:
    """At the edges of the hypotheses, 3000 contests each, looked at after every item; the bound of
    0.05 is Ville's, and an estimate of it errs by 0.004."""
    equal_means = drawn([(0.8, 250), (0.4, 250)], 3000, 3), drawn([(0.4, 250), (0.8, 250)], 3000, 4)
    equal = [(0.6, 250), (0.6, 250)], [(0.6, 250), (0.2, 250)], [(0.3, 250), (0.6, 250)]
    for worse, better in (
        equal_means,
        *(
            (drawn(a, 3000, 5), drawn(b, 3000, 6))
            for a, b in [
                (equal[0], equal[0]),
                (equal[1], equal[1]),
                (equal[1], equal[2]),
                (equal[0], equal[1]),
            ]
        ),
    ):
        assert np.mean(evidence_of_largest(worse, better) >= LEVEL) < 0.05
    differences = [a - b for a, b in zip(*equal_means, strict=True)]
    assert np.mean(evidence_of_mean(differences) >= LEVEL) < 0.05
    assert np.mean(evidence_of_all(differences) >= LEVEL) < 0.05
    # A task alone would have said otherwise, and so would the plain sum of all evidence.
    assert np.mean(log_evidence(differences[0]) >= LEVEL) > 0.9


def test_what_is_truly_worse_is_found_out() -> None:
    """Also where another task decides: 0.6 of the second against 0.3, with 0.4 on the first."""
    worse, better = drawn([(0.2, 250), (0.6, 250)], 500, 7), drawn([(0.4, 250), (0.3, 250)], 500, 8)
    assert np.mean(evidence_of_largest(worse, better) >= LEVEL) > 0.9
    differences = [a - b for a, b in zip(worse, better, strict=True)]
    assert np.mean(evidence_of_all(differences) >= LEVEL) < 0.05
    clear = [a - b for a, b in zip(worse, drawn([(0.2, 250), (0.3, 250)], 500, 9), strict=True)]
    assert np.mean(evidence_of_mean(clear) >= LEVEL) > 0.9


def table(rights: dict[int, tuple[float, float]], n: int = 200) -> dict[int, dict[str, ItemScores]]:
    """Scores of models that answer shares of each task rightly, with those of an expert."""

    def right(share: float, task: str) -> ItemScores:
        # Rights are spread over the task, since a race looks at items one after the other.
        order = np.random.default_rng(0).permutation(n) < share * n
        return ItemScores(tuple((task, i) for i in range(n)), tuple(order.astype(float).tolist()))

    return {
        number: {"a": right(a, "one"), "b": right(b, "two")} for number, (a, b) in rights.items()
    }


EQUAL = table({1: (1.0, 1.0), 2: (1.0, 1.0)}, 64)


def judged(
    objective: Objective, rights: dict[int, tuple[float, float]], resolution: float = 0.0
) -> tuple[frozenset[int], bool]:
    scores = table(rights)
    experts = table({0: (0.9, 0.6)})[0]
    scores = {n: dict(with_groups([A, B, objective], own, experts)) for n, own in scores.items()}
    found = race(
        [A, B, objective],
        scores,
        list(rights),
        rivals=set(rights),
        pairs=6,
        seed=0,
        resolution=resolution,
    )
    return found.dropped, found.decided


def test_a_merge_with_a_worse_mean_or_a_worse_worst_task_is_dropped() -> None:
    rights = {1: (0.9, 0.3), 2: (0.6, 0.6), 3: (0.9, 0.9)}
    assert judged(group("min_of_means"), {1: (0.9, 0.3), 2: (0.6, 0.6)})[0] == {1}
    assert judged(group("mean_of_means"), {1: (0.9, 0.3), 2: (0.6, 0.6)})[0] == set()
    assert judged(group("mean_of_means"), rights)[0] == {1, 2}


@pytest.mark.parametrize("kind", ["mean_of_means", "min_of_means"])
def test_in_a_relative_group_only_what_is_worse_at_every_task_is_dropped(kind: Aggregation) -> None:
    relative = group(kind, relative=True)
    assert judged(relative, {1: (0.9, 0.3), 2: (0.6, 0.6), 3: (0.6, 0.2)})[0] == {3}
    assert judged(relative, {1: (0.5, 0.2), 2: (0.9, 0.6)})[0] == {1}


@pytest.mark.parametrize("relative", [False, True])
@pytest.mark.parametrize("kind", ["mean_of_means", "min_of_means"])
def test_a_race_of_groups_ends_once_differences_are_known(
    kind: Aggregation, relative: bool
) -> None:
    rng = np.random.default_rng(1)
    objective, scores = group(kind, relative), table({0: (0.9, 0.9)}, 400)
    for number in (1, 2):
        scores[number] = {
            name: ItemScores(own.items, tuple((rng.random(400) < level).astype(float).tolist()))
            for (name, own), level in zip(scores[0].items(), (0.6, 0.4), strict=True)
        }
    experts = scores.pop(0)
    scores = {n: dict(with_groups([A, B, objective], own, experts)) for n, own in scores.items()}
    between = paired_difference(scores[1]["g"], scores[2]["g"], kind)
    half = 1.959964 * between.stderr

    def ended(resolution: float) -> bool:
        every = [1, 2]
        found = race(
            [A, B, objective],
            scores,
            every,
            rivals=every,
            pairs=2,
            seed=0,
            resolution=resolution,
        )
        return found.decided

    assert not ended(0.999 * half)
    assert ended(1.001 * half)


@pytest.mark.parametrize("kind", ["mean_of_means", "min_of_means"])
def test_models_that_score_alike_are_not_known_to_be_alike(kind: Aggregation) -> None:
    objective = group(kind)
    found = {n: {**own, **with_groups([A, B, objective], own, {})} for n, own in EQUAL.items()}
    same = paired_difference(found[1]["g"], found[2]["g"], kind)
    half = (same.high - same.low) / 2
    assert half > 0.02
    for factor, decided in ((0.99, False), (1.01, True)):
        ended = race(
            [A, B, objective],
            found,
            [1, 2],
            rivals=[1, 2],
            pairs=2,
            seed=0,
            resolution=factor * half,
        )
        assert ended.decided == decided


def test_a_group_without_all_of_its_tasks_is_measured_to_the_end() -> None:
    objective, scores = group("mean_of_means"), table({1: (0.9, 0.9), 2: (0.1, 0.1)})
    alone = {n: {**own, "g": own["a"]} for n, own in scores.items()}
    found = race([A, B, objective], alone, [1, 2], rivals=[1, 2], pairs=2, seed=0, resolution=1.0)
    assert (found.dropped, found.decided) == (frozenset(), False)
