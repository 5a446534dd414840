"""Search scores of all candidates, each estimated with the help of similar ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from automerge.arrays import Floats, Indices
from automerge.estimation.narrow import narrowed
from automerge.estimation.neighbours import SMALLEST, control_variates, nearest, predictions
from automerge.estimation.predictor import Predictor
from automerge.objective import (
    Aggregation,
    Estimate,
    ItemScores,
    Objective,
    estimate,
    item_weights,
    transformed,
)

_Item = tuple[str, int]

_RATIOS = ("ratio", "weighted_perplexity", "bits_per_byte")
"""Functions of Σ values / Σ weights, whose weights are numbers of words or bytes."""


class Scoreboard:
    """Candidates' item scores on one pool, and estimates of their values on all of it."""

    def __init__(
        self, objectives: Sequence[Objective], pool: Mapping[str, Sequence[_Item]]
    ) -> None:
        """Begin with no candidate; `pool` are the items of each objective, by its name."""
        self._objectives = objectives
        self._exact = [o for o in objectives if o.is_exact]
        self._positions = _Rows()
        self._properties: list[Mapping[str, Estimate]] = []
        self._tables = {
            o.name: _Table(pool[o.name], o.aggregation) for o in objectives if not o.is_exact
        }
        self._predictor = Predictor({name: pool[name] for name in self._tables})

    def add(
        self,
        position: Floats | None,
        scores: Mapping[str, ItemScores],
        margins: Mapping[str, ItemScores] | None = None,
        *,
        is_parent: bool = False,
    ) -> int:
        """Enter a candidate and return its number, from 0.

        Args:
            position: (d,), in a space where near means similar; None if it has no position.
            scores: on some items of the pool, by objective name.
            margins: of some of these items, by objective name.
            is_parent: whether it is the base or a source.
        """
        self._positions.append(np.array([np.nan]) if position is None else position)
        self._properties.append(
            {o.name: estimate(scores[o.name], o.aggregation) for o in self._exact}
        )
        rates = {name: table.add(scores[name]) for name, table in self._tables.items()}
        if rates:
            self._predictor.add(rates, margins or {}, is_parent)
        return len(self._properties) - 1

    @property
    def temperatures(self) -> dict[tuple[str, str], float]:
        """The temperature of margins, by objective and leaf task, where there are any."""
        return self._predictor.temperatures

    def settle(self) -> None:
        """Learn what predicts items again, from all candidates, in whichever order they came."""
        self._predictor.settle()

    def estimates(self, candidate: int) -> dict[str, Estimate]:
        """Return one estimate per objective, by its name, from all candidates entered so far."""
        distances = self._distances(candidate)
        donors = nearest(distances)
        guesses = self._predictor.predictions(candidate)
        estimates = {}
        for objective in self._objectives:
            table = self._tables.get(objective.name)
            if table is None:
                estimates[objective.name] = self._properties[candidate][objective.name]
                continue
            guess = guesses.get(objective.name)
            mean = table.estimate(candidate, donors, distances[donors], guess)
            estimates[objective.name] = transformed(mean, objective.aggregation)
        return estimates

    def _distances(self, candidate: int) -> Floats:
        """Return distances to all candidates; infinite to itself and without a position."""
        positions = self._positions.filled
        apart = positions - positions[candidate]
        away = np.sqrt(np.square(apart, out=apart).sum(axis=1))  # half of what np.linalg.norm takes
        away[~np.isfinite(away)] = np.inf
        away[candidate] = np.inf
        return np.asarray(away)


class _Rows:
    """A matrix that grows by rows; its first row that is not all NaN decides its width."""

    def __init__(self) -> None:
        self._matrix = np.full((0, 1), np.nan)
        self._count = 0

    @property
    def filled(self) -> Floats:
        """Return the rows so far, (rows, columns): a view."""
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


class _Row(NamedTuple):
    """What one candidate scored: the items' columns, ascending, and the finite values."""

    columns: NDArray[Any]
    values: NDArray[Any]


class _Table:
    """One objective's scores: a row per candidate, a column per item.

    A mean weights all items alike, a mean of means so that all tasks count equally, and a ratio by
    words or bytes: there a score is the item's own ratio, as Σ y / Σ w is the mean of the y / w
    with weights w. An item that no candidate has seen is taken to have the mean weight.

    Rows are kept sparse and narrow: there may be tens of thousands, each with few of the items.
    """

    def __init__(self, items: Sequence[_Item], aggregation: Aggregation) -> None:
        """Begin with no candidate."""
        self._columns = {item: i for i, item in enumerate(items)}
        self._weights = item_weights(items) if aggregation == "mean_of_means" else None
        self._amounts = np.full(len(items), np.nan) if aggregation in _RATIOS else None
        """Words or bytes of each item; NaN where not known."""
        self._column_type = np.min_scalar_type(len(items))
        self._rows: list[_Row] = []
        self._sums = np.zeros(len(items))
        self._squares = np.zeros(len(items))
        self._counts = np.zeros(len(items))

    def add(self, scores: ItemScores) -> ItemScores:
        """Enter the next candidate's scores; return them, of a ratio each divided by its weight."""
        if self._amounts is not None:
            scores = self._rates(scores)
        row = np.full(len(self._columns), np.nan)
        row[[self._columns[item] for item in scores.items]] = scores.values
        seen = np.flatnonzero(np.isfinite(row))
        self._sums[seen] += row[seen]
        self._squares[seen] += row[seen] ** 2
        self._counts[seen] += 1
        self._rows.append(_Row(seen.astype(self._column_type), narrowed(row[seen])))
        return scores

    def _rates(self, scores: ItemScores) -> ItemScores:
        """Divide scores by their weights, which are noted; what weighs nothing is left out."""
        assert self._amounts is not None
        weights = scores.weights or (1.0,) * len(scores.items)
        kept = [row for row, weight in enumerate(weights) if weight > 0]
        items = tuple(scores.items[row] for row in kept)
        amounts = np.array([weights[row] for row in kept])
        self._amounts[[self._columns[item] for item in items]] = amounts
        if not (known := np.isfinite(self._amounts)).any():
            return ItemScores((), ())
        amounts_or_mean = np.where(known, self._amounts, self._amounts[known].mean())
        self._weights = amounts_or_mean / amounts_or_mean.mean()
        values = np.array([scores.values[row] for row in kept]) / amounts
        return ItemScores(items, tuple(values.tolist()))

    def estimate(
        self, candidate: int, donors: Indices, distances: Floats, guess: Floats | None
    ) -> Estimate:
        """Estimate the candidate's mean over all items from its scores, the donors' and a guess.

        Where items have weights, a weighted score is an item's weight times its score, and the
        weights are one more predictor: a draw may contain more or fewer of the heavy items.
        """
        rows = self._dense([candidate, *donors])
        item_means, usual = self._item_means(candidate)
        predicted = predictions(rows[1:], distances, item_means)
        guesses = np.stack([predicted, item_means, *([] if guess is None else [guess])])
        if self._weights is None:
            return control_variates(rows[0], guesses, usual)
        weighted = np.stack([*(self._weights * guesses), self._weights])
        return control_variates(self._weights * rows[0], weighted, usual)

    def _dense(self, candidates: Sequence[int]) -> Floats:
        """Return rows of all items, NaN where a candidate did not see one: (candidates, items)."""
        columns, values = zip(*(self._rows[candidate] for candidate in candidates), strict=True)
        at = np.repeat(np.arange(len(candidates)), list(map(len, columns)))
        dense = np.full((len(candidates), len(self._columns)), np.nan)
        dense[at, np.concatenate(columns)] = np.concatenate(values)
        return dense

    def _item_means(self, candidate: int) -> tuple[Floats, float | None]:
        """Return what the other candidates say of each item, and how much they differ.

        Returns:
            Their mean on each item, shrunk to that of all: (items,). The variance of an item's
            weighted score among them; None where no two saw the same item.
        """
        columns, values = self._rows[candidate]
        sums, squares, counts = self._sums.copy(), self._squares.copy(), self._counts.copy()
        sums[columns] -= values
        squares[columns] -= np.square(values, dtype=np.float64)
        counts[columns] -= 1
        overall = float(sums.sum() / max(counts.sum(), 1.0))
        several = counts > 1
        if not several.any():
            return np.asarray((sums + overall) / (counts + 1.0)), None
        means = sums[several] / counts[several]
        within = np.maximum(squares[several] - sums[several] * means, 0.0)
        degrees = float((counts[several] - 1).sum())
        # One candidate tells all of an item where items differ far more than candidates do.
        noise, spread = float(within.sum()) / degrees, float(means.var())
        worth = min(noise / spread, 1.0) if spread else 1.0
        shrunk = (sums + worth * overall) / np.maximum(counts + worth, SMALLEST)
        shrunk = np.where(counts > 0, shrunk, overall)
        weights = 1.0 if self._weights is None else self._weights[several]
        return np.asarray(shrunk), float((weights**2 * within).sum()) / degrees
