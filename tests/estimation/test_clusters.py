"""Clusters of items, against loops over pairs of items, and intervals that keep their level."""

from __future__ import annotations

import math

import numpy as np
import pytest

from automerge.estimation import interval, paired_difference
from automerge.estimation.clusters import clustered_standard_error
from automerge.objective import ItemScores, estimate, standard_error


def passages(seed: int, n_clusters: int = 40):
    """0/1 scores of questions on passages: those of one passage are mostly right together."""
    rng = np.random.default_rng(seed)
    sizes = rng.integers(1, 8, n_clusters)
    clusters = np.repeat(np.arange(n_clusters), sizes)
    ease = rng.uniform(size=n_clusters)
    return (rng.uniform(size=len(clusters)) < ease[clusters]).astype(float), clusters.tolist()


def test_the_standard_error_is_the_sum_over_pairs_of_one_cluster():
    values, clusters = passages(0)
    n, mean = len(values), values.mean()
    pairs = sum(
        (values[i] - mean) * (values[j] - mean)
        for i in range(n)
        for j in range(n)
        if clusters[i] == clusters[j]
    )
    groups = len(set(clusters))
    expected = math.sqrt(groups / (groups - 1) * pairs) / n
    assert clustered_standard_error(values, clusters) == pytest.approx(expected)


def test_clusters_of_one_item_give_the_plain_standard_error():
    values, _ = passages(1)
    single = list(range(len(values)))
    assert clustered_standard_error(values, single) == pytest.approx(standard_error(values))


def test_every_item_doubled_in_a_cluster_of_its_own_changes_nothing():
    values, _ = passages(2)
    items = list(range(len(values)))
    doubled = clustered_standard_error(np.repeat(values, 2), np.repeat(items, 2).tolist())
    assert doubled == pytest.approx(clustered_standard_error(values, items))


def test_values_without_a_cluster_each_are_refused():
    with pytest.raises(ValueError, match="3 values in 2 clusters"):
        clustered_standard_error(np.zeros(3), [0, 1])


def scored(values, clusters):
    items = tuple(("task", i) for i in range(len(values)))
    return ItemScores(items, tuple(map(float, values)), None, tuple(clusters))


def test_intervals_keep_their_level_where_those_that_ignore_clusters_do_not():
    clustered, ignored = [], []
    for seed in range(400):
        scores = scored(*passages(seed, 50))
        found = interval(scores, "mean", 0.90)
        clustered.append(found.low <= 0.5 <= found.high)
        plain = interval(ItemScores(scores.items, scores.values), "mean", 0.90)
        ignored.append(plain.low <= 0.5 <= plain.high)
    assert 0.86 <= np.mean(clustered) <= 0.94
    assert np.mean(ignored) < 0.80


def test_differences_keep_their_level_too():
    clustered = []
    for seed in range(400):
        rng = np.random.default_rng(seed)
        values, clusters = passages(seed, 50)
        flips = rng.uniform(size=50)[clusters] < 0.3  # a whole passage is easier for one of them
        other = np.where(flips, rng.uniform(size=50)[clusters] < 0.5, values)
        own = np.where(flips, rng.uniform(size=50)[clusters] < 0.5, values)
        found = paired_difference(scored(own, clusters), scored(other, clusters), "mean", 0.90)
        clustered.append(found.low <= 0 <= found.high)
    assert 0.86 <= np.mean(clustered) <= 0.95


def test_other_aggregations_and_equal_scores_have_intervals_too():
    values, clusters = passages(3)
    for aggregation in ("mean", "perplexity"):
        scores = scored(values, clusters)
        found = interval(scores, aggregation)
        assert found.low < estimate(scores, aggregation).value < found.high
    equal = interval(scored(np.ones(12), [0] * 6 + [1] * 6), "mean")
    assert equal.low < 1 == equal.high


def test_documents_that_stand_alone_are_no_clusters():
    scores = ItemScores((("a", 0), ("a", 2), ("b", 1)), (1.0, 0.0, 1.0))
    assert scores.clustered({"a": [5, 6, 7], "b": [8, 9]}) == scores
    assert scores.clustered({"a": [5, 6, 5], "b": [8, 9]}).clusters == (5, 5, 9)
    assert scores.clustered({"a": [5, 6, 5]}) == scores
    assert scores.clustered({"a": [5, 6, 5], "b": [8, 5]}).rows([0, 2]).clusters == (5, 5)
