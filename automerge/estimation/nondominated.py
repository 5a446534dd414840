"""How surely a model belongs to the front, given the items it was measured on."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from automerge.arrays import Floats
from automerge.estimation.bootstrap import blocks, resample_counts

ROUNDING = 1e-12
"""Sums whose relative difference is at most this are equal."""


def nondominated_probability(
    losses: Sequence[Floats], groups: Sequence[int], *, draws: int = 2000, seed: int = 0
) -> Floats:
    """Return how often no other model dominates when items are resampled: shape (models,).

    A bootstrap over items (Efron and Tibshirani 1993, chapter 6): each draw resamples the items
    once, for all models at the same time, as they share their difficulty; objectives of the same
    group, which have the same items in the same order, share the resample too. Models that are
    equal on all items do not dominate each other.

    Args:
        losses: (models, items) per objective, to be minimised in mean; a ratio or an exponential is
            passed linearised, item by item.
        groups: the group of each objective, by number.
        draws: how many resamples.
        seed: of the resamples.

    Raises:
        ValueError: the arrays do not belong together.
    """
    n_models = _check(losses, groups)
    largest = max(n_models**2, *(matrix.shape[1] for matrix in losses))
    rng = np.random.default_rng(seed)
    total = np.zeros(n_models)
    for size in blocks(draws, largest):
        worse_in_all = np.ones((size, n_models, n_models), dtype=bool)
        worse_in_any = np.zeros_like(worse_in_all)
        weights: dict[int, Floats] = {}
        for matrix, group in zip(losses, groups, strict=True):
            if group not in weights:
                weights[group] = resample_counts(rng, size, matrix.shape[1])
            sums = weights[group] @ matrix.T
            tolerance = ROUNDING * float(np.abs(sums).max(initial=0.0))
            excess = sums[:, :, None] - sums[:, None, :]  # of the first model over the second
            worse_in_all &= excess >= -tolerance
            worse_in_any |= excess > tolerance
        total += np.count_nonzero(~np.any(worse_in_all & worse_in_any, axis=2), axis=0)
    return total / draws


def _check(losses: Sequence[Floats], groups: Sequence[int]) -> int:
    """Return the number of models; raise ValueError where the arrays do not belong together."""
    if not losses or len(losses) != len(groups):
        raise ValueError(f"{len(losses)} loss matrices for {len(groups)} groups; give one each")
    n_items: dict[int, int] = {}
    for matrix, group in zip(losses, groups, strict=True):
        if matrix.ndim != 2 or len(matrix) != len(losses[0]) or not matrix.shape[1]:
            raise ValueError(
                f"losses of shape {matrix.shape}; each must be (models, items), with "
                f"{len(losses[0])} models and at least one item"
            )
        if n_items.setdefault(group, matrix.shape[1]) != matrix.shape[1]:
            raise ValueError(
                f"objectives of group {group} have {n_items[group]} and {matrix.shape[1]} items; "
                "a group shares its items"
            )
    return len(losses[0])
