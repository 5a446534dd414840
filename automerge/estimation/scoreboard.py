"""Search scores of all candidates, each estimated with the help of those like it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from automerge.estimation.neighbours import control_variates, nearest, predictions
from automerge.objective import Estimate, ItemScores, Objective, estimate

Floats = NDArray[np.float64]
Item = tuple[str, int]

MEANS = ("mean", "perplexity")
"""Aggregations that are functions of a plain mean; ratios are estimated from own items only."""


class Scoreboard:
    """Candidates' item scores on one pool, and estimates of their values on all of it.

    `pool` names the items of each objective. Candidates are told with a position in some space, in
    which near means alike; None for one that has none.
    """

    def __init__(self, objectives: Sequence[Objective], pool: Mapping[str, Sequence[Item]]) -> None:
        self._objectives = objectives
        self._ratios = [o for o in objectives if o.aggregation not in MEANS]
        self._positions = Rows()
        self._scores: list[Mapping[str, ItemScores]] = []
        self._tables = {o.name: Table(pool[o.name]) for o in objectives if o.aggregation in MEANS}

    def add(self, position: Floats | None, scores: Mapping[str, ItemScores]) -> int:
        """Enter a candidate; its number counts from 0."""
        self._positions.append(np.array([np.nan]) if position is None else position)
        self._scores.append({o.name: scores[o.name] for o in self._ratios})
        for name, table in self._tables.items():
            table.add(scores[name])
        return len(self._scores) - 1

    def estimates(self, candidate: int) -> dict[str, Estimate]:
        """One estimate an objective, by its name, from all that was entered so far."""
        distances = self._distances(candidate)
        found = {}
        for objective in self._objectives:
            table = self._tables.get(objective.name)
            if table is None:
                own = self._scores[candidate][objective.name]
                found[objective.name] = estimate(own, objective.aggregation)
                continue
            mean = table.estimate(candidate, distances)
            if objective.aggregation == "perplexity":
                value = math.exp(-mean.value)
                mean = Estimate(value, value * mean.stderr, mean.n)
            found[objective.name] = mean
        return found

    def _distances(self, candidate: int) -> Floats:
        """To every candidate; infinite to itself and where a position lacks."""
        positions = self._positions.filled
        away = np.linalg.norm(positions - positions[candidate], axis=1)
        away[~np.isfinite(away)] = np.inf
        away[candidate] = np.inf
        return np.asarray(away)


class Rows:
    """A matrix that grows by rows; its first row that is not all NaN decides its width."""

    def __init__(self) -> None:
        self._matrix = np.full((0, 1), np.nan)
        self._count = 0

    @property
    def filled(self) -> Floats:
        """The rows so far, (rows, columns): a view."""
        return self._matrix[: self._count]

    def append(self, row: Floats) -> None:
        """Add a row; [NaN] stands for a row of NaN."""
        width = max(len(row), self._matrix.shape[1])
        if self._count == len(self._matrix) or width > self._matrix.shape[1]:
            larger = np.full((max(64, 2 * len(self._matrix)), width), np.nan)
            larger[: self._count, : self._matrix.shape[1]] = self.filled
            self._matrix = larger
        self._matrix[self._count, : len(row)] = row
        self._count += 1


class Table:
    """One objective's scores: a row a candidate, a column an item, NaN where it was not seen."""

    def __init__(self, items: Sequence[Item]) -> None:
        self._columns = {item: i for i, item in enumerate(items)}
        self._rows = Rows()
        self._sums = np.zeros(len(items))
        self._counts = np.zeros(len(items))

    def add(self, scores: ItemScores) -> None:
        """Enter the next candidate's scores."""
        row = np.full(len(self._columns), np.nan)
        row[[self._columns[item] for item in scores.items]] = scores.values
        seen = np.isfinite(row)
        self._sums[seen] += row[seen]
        self._counts[seen] += 1
        self._rows.append(row)

    def estimate(self, candidate: int, distances: Floats) -> Estimate:
        """The candidate's mean over all items."""
        rows = self._rows.filled
        row = rows[candidate]
        donors = nearest(distances)
        item_means = self._item_means(row)
        predicted = predictions(rows[donors], distances[donors], item_means)
        return control_variates(row, np.stack([predicted, item_means]))

    def _item_means(self, row: Floats) -> Floats:
        """Each item's mean over the other candidates, shrunk to the mean over all."""
        seen = np.isfinite(row)
        sums, counts = self._sums.copy(), self._counts.copy()
        sums[seen] -= row[seen]
        counts[seen] -= 1
        overall = float(sums.sum() / max(counts.sum(), 1.0))
        return np.asarray((sums + overall) / (counts + 1.0))
