"""Search scores of all candidates, each estimated with the help of those like it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from automerge.arrays import Floats, Indices
from automerge.estimation.neighbours import control_variates, nearest, predictions
from automerge.objective import Estimate, ItemScores, Objective, estimate, perplexity

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
        self._plain: list[Mapping[str, Estimate]] = []
        self._tables = {o.name: Table(pool[o.name]) for o in objectives if o.aggregation in MEANS}

    def add(self, position: Floats | None, scores: Mapping[str, ItemScores]) -> int:
        """Enter a candidate; its number counts from 0."""
        self._positions.append(np.array([np.nan]) if position is None else position)
        self._plain.append({o.name: estimate(scores[o.name], o.aggregation) for o in self._ratios})
        for name, table in self._tables.items():
            table.add(scores[name])
        return len(self._plain) - 1

    def estimates(self, candidate: int) -> dict[str, Estimate]:
        """One estimate an objective, by its name, from all that was entered so far."""
        distances = self._distances(candidate)
        donors = nearest(distances)
        found = {}
        for objective in self._objectives:
            table = self._tables.get(objective.name)
            if table is None:
                found[objective.name] = self._plain[candidate][objective.name]
                continue
            mean = table.estimate(candidate, donors, distances[donors])
            if objective.aggregation == "perplexity":
                value = perplexity(mean.value)
                mean = Estimate(value, value * mean.stderr, mean.n)
            found[objective.name] = mean
        return found

    def _distances(self, candidate: int) -> Floats:
        """To every candidate; infinite to itself and where a position lacks."""
        positions = self._positions.filled
        apart = positions - positions[candidate]
        away = np.sqrt(np.square(apart, out=apart).sum(axis=1))  # half of what np.linalg.norm takes
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
            larger = np.empty((max(64, 2 * len(self._matrix)), width))  # no memory until written
            larger[: self._count] = np.nan
            larger[: self._count, : self._matrix.shape[1]] = self.filled
            self._matrix = larger
        self._matrix[self._count] = np.nan
        self._matrix[self._count, : len(row)] = row
        self._count += 1


class Row(NamedTuple):
    """What one candidate scored: the items' columns, ascending, and the finite values."""

    columns: NDArray[Any]
    values: NDArray[Any]


class Table:
    """One objective's scores: a row a candidate, a column an item.

    Rows are kept sparse and narrow: there may be tens of thousands, each of few of the items.
    """

    def __init__(self, items: Sequence[Item]) -> None:
        self._columns = {item: i for i, item in enumerate(items)}
        self._column_type = np.min_scalar_type(len(items))
        self._rows: list[Row] = []
        self._sums = np.zeros(len(items))
        self._counts = np.zeros(len(items))

    def add(self, scores: ItemScores) -> None:
        """Enter the next candidate's scores."""
        row = np.full(len(self._columns), np.nan)
        row[[self._columns[item] for item in scores.items]] = scores.values
        seen = np.flatnonzero(np.isfinite(row))
        self._sums[seen] += row[seen]
        self._counts[seen] += 1
        self._rows.append(Row(seen.astype(self._column_type), narrowed(row[seen])))

    def estimate(self, candidate: int, donors: Indices, distances: Floats) -> Estimate:
        """The candidate's mean over all items, with the help of donors so far away from it."""
        rows = self._dense([candidate, *donors])
        item_means = self._item_means(candidate)
        predicted = predictions(rows[1:], distances, item_means)
        return control_variates(rows[0], np.stack([predicted, item_means]))

    def _dense(self, candidates: Sequence[int]) -> Floats:
        """Rows of all items, NaN where a candidate did not see one: (candidates, items)."""
        columns, values = zip(*(self._rows[candidate] for candidate in candidates), strict=True)
        at = np.repeat(np.arange(len(candidates)), list(map(len, columns)))
        dense = np.full((len(candidates), len(self._columns)), np.nan)
        dense[at, np.concatenate(columns)] = np.concatenate(values)
        return dense

    def _item_means(self, candidate: int) -> Floats:
        """Each item's mean over the other candidates, shrunk to the mean over all."""
        columns, values = self._rows[candidate]
        sums, counts = self._sums.copy(), self._counts.copy()
        sums[columns] -= values
        counts[columns] -= 1
        overall = float(sums.sum() / max(counts.sum(), 1.0))
        return np.asarray((sums + overall) / (counts + 1.0))


def narrowed(values: Floats) -> NDArray[Any]:
    """The same values in the narrowest float type that holds every one of them exactly."""
    for kind in (np.float16, np.float32):
        with np.errstate(over="ignore"):
            narrow = values.astype(kind)
        if (narrow == values).all():
            return narrow
    return values
