"""What candidates have in common, learned from which items they are good at.

Probabilistic matrix factorisation (Salakhutdinov and Mnih 2007), by alternating ridge regressions:
a candidate's value on an item is the item's intercept, plus the product of a few factors of the
candidate and the item's loadings on them, plus noise. No position in a search space is needed.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from automerge.arrays import Floats, Indices
from automerge.estimation.narrow import narrowed

FACTORS = 6
"""Factors per candidate."""
PRIOR_INTERCEPT, PRIOR_LOADING = 2.0, 4.0
"""How many candidates' values an item's mean, and zero loadings, are worth a priori."""
PRIOR_NOISE = 8.0
"""How many values an objective's usual noise is worth in the noise of an item."""
MIN_NOISE = 1e-4
"""Smallest noise of an item, as a fraction of the variance of its objective's values: candidates
that agreed so far may still differ."""
FIRST_FIT, NEXT_FIT, LAST_FIT = 8, 1.5, 400
"""Everything is refitted at FIRST_FIT candidates, then each time their number has grown by a factor
of NEXT_FIT, up to LAST_FIT; in between, each candidate is fitted and the items are updated."""
FIRST_SWEEPS, SWEEPS = 12, 3
"""Alternations of a first fit, which begins from nothing, and of later ones."""


class Prediction(NamedTuple):
    """A candidate's values on all items, (columns,), with the variance of each around it."""

    values: Floats
    variances: Floats


class _Row(NamedTuple):
    """What a candidate gave, kept narrow: there may be tens of thousands."""

    columns: NDArray[Any]
    values: NDArray[Any]


class Factors:
    """Learns from candidates' values, and predicts each on the items it did not see."""

    def __init__(self, groups: Indices) -> None:
        """Begin with no candidate.

        Args:
            groups: (columns,), the number of each item's objective; each objective has its own
                unit and usual noise.
        """
        n = len(groups)
        self._groups = groups
        self._column_type = np.min_scalar_type(n)
        self._n_groups = int(groups.max(initial=-1)) + 1
        self._centres, self._scales = np.zeros(n), np.ones(n)
        self._rows: list[_Row] = []
        self._factors = np.zeros((0, FACTORS))
        self._prior = np.diag([PRIOR_INTERCEPT, *[PRIOR_LOADING] * FACTORS])
        self._inverses = np.repeat(np.linalg.inv(self._prior)[None], n, axis=0)
        self._items = np.zeros((n, 1 + FACTORS))
        self._squares, self._counts = np.zeros(n), np.zeros(n)
        self._noise = np.ones(n)
        self._next_fit = FIRST_FIT

    @property
    def ready(self) -> bool:
        """Whether there were enough candidates to learn from."""
        return len(self._rows) >= FIRST_FIT

    def add(self, columns: Indices, values: Floats) -> None:
        """Enter a candidate: its values on some items, both of shape (seen,)."""
        row = _Row(columns.astype(self._column_type), narrowed(values.astype(np.float32)))
        self._rows.append(row)
        n = len(self._rows)
        factors = self._own(row, self._items[columns])[0] if n > FIRST_FIT else np.zeros(FACTORS)
        self._factors = np.vstack([self._factors, factors])
        if self._next_fit <= n <= LAST_FIT:
            self._fit(from_nothing=n == FIRST_FIT)
            self._next_fit = int(n * NEXT_FIT)
        elif n > FIRST_FIT:
            self._update(row, factors)

    def settle(self) -> None:
        """Learn from all candidates again, from nothing, as if they had come in any other order.

        If there are too many for that, or too few to learn from, nothing changes.
        """
        if FIRST_FIT <= len(self._rows) <= LAST_FIT:
            self._fit(from_nothing=True)

    def _fit(self, *, from_nothing: bool) -> None:
        self._standardise()
        if from_nothing:
            self._factors = self._principal_components()
        for _ in range(FIRST_SWEEPS if from_nothing else SWEEPS):
            self._learn_items()
            found = [self._own(row, self._items[row.columns])[0] for row in self._rows]
            self._factors = _whitened(np.array(found))
        self._learn_items()

    def predict(self, candidate: int) -> Prediction:
        """Predict a candidate's values on all items.

        No value is predicted with the help of itself: items are used as they were learned from the
        other candidates, and on an item the candidate saw, its factors are those of all its other
        items. So predictions of seen and unseen items have the same kind of error.
        """
        row = self._rows[candidate]
        columns = row.columns
        whole = np.append(1.0, self._factors[candidate])
        gains = self._inverses[columns] @ whole
        leverages = gains @ whole
        off = self._standard(row) - self._items[columns] @ whole
        # Ridge regression without one of its rows: β − G⁻¹a e / (1 − aᵀG⁻¹a)
        items = self._items.copy()
        items[columns] -= gains * (off / (1 - leverages))[:, None]
        factors, others = self._own(row, items[columns])
        whole = np.append(1.0, factors)
        values = items @ whole
        values[columns] = self._standard(row) - others
        spread = 1 + ((self._inverses @ whole) @ whole)
        return Prediction(
            values * self._scales + self._centres, self._noise * spread * self._scales**2
        )

    def _standard(self, row: _Row) -> Floats:
        """Return a candidate's values in units of their objectives' standard deviations."""
        centred = row.values - self._centres[row.columns]
        return np.asarray(centred / self._scales[row.columns])

    def _standardise(self) -> None:
        columns = np.concatenate([row.columns for row in self._rows])
        values = np.concatenate([row.values for row in self._rows])
        groups = self._groups[columns]
        counts = np.maximum(np.bincount(groups, minlength=self._n_groups), 1)
        means = np.bincount(groups, values, self._n_groups) / counts
        squares = np.bincount(groups, (values - means[groups]) ** 2, self._n_groups)
        scales = np.sqrt(squares / counts)
        self._centres = means[self._groups]
        self._scales = np.where(scales > 0, scales, 1.0)[self._groups]

    def _principal_components(self) -> Floats:
        """Return where to begin: the candidates' principal components, missing values 0."""
        table = np.zeros((len(self._rows), len(self._groups)))
        for line, row in zip(table, self._rows, strict=True):
            line[row.columns] = self._standard(row)
        seen = sum(np.bincount(row.columns, minlength=len(self._groups)) for row in self._rows)
        means = table.sum(axis=0) / (seen + PRIOR_INTERCEPT)
        for line, row in zip(table, self._rows, strict=True):
            line[row.columns] -= means[row.columns]
        vectors = np.linalg.svd(table, full_matrices=False)[0][:, :FACTORS]
        missing = FACTORS - vectors.shape[1]
        return np.pad(vectors * np.sqrt(len(table)), ((0, 0), (0, missing)))

    def _whole(self) -> Iterator[tuple[_Row, Floats]]:
        """Yield each candidate's values and its factors, with 1 for the intercept before them."""
        for row, factors in zip(self._rows, self._factors, strict=True):
            yield row, np.append(1.0, factors)

    def _learn_items(self) -> None:
        """Regress each item's values on the candidates' factors."""
        n = len(self._groups)
        matrices, moments = np.repeat(self._prior[None], n, axis=0), np.zeros((n, 1 + FACTORS))
        for row, whole in self._whole():
            matrices[row.columns] += np.outer(whole, whole)
            moments[row.columns] += self._standard(row)[:, None] * whole
        self._inverses = np.linalg.inv(matrices)
        self._items = (self._inverses @ moments[:, :, None])[:, :, 0]
        self._squares, self._counts = np.zeros(n), np.zeros(n)
        for row, whole in self._whole():
            columns = row.columns
            off = self._standard(row) - self._items[columns] @ whole
            leverages = (self._inverses[columns] @ whole) @ whole
            # A residual times that without the row itself: about the noise's variance
            self._squares[columns] += off**2 / (1 - leverages)
            self._counts[columns] += 1
        self._renew_noise()

    def _renew_noise(self) -> None:
        groups = self._groups
        squares = np.bincount(groups, self._squares, self._n_groups)
        counts = np.bincount(groups, self._counts, self._n_groups)
        usual = (squares / np.maximum(counts, 1))[groups]
        noise = (self._squares + PRIOR_NOISE * usual) / (self._counts + PRIOR_NOISE)
        self._noise = np.maximum(noise, MIN_NOISE)

    def _update(self, row: _Row, factors: Floats) -> None:
        """Learn from one more candidate, by recursive least squares."""
        columns = row.columns
        whole = np.append(1.0, factors)
        gains = self._inverses[columns] @ whole
        growth = 1 + gains @ whole
        off = self._standard(row) - self._items[columns] @ whole
        self._items[columns] += gains * (off / growth)[:, None]
        self._inverses[columns] -= gains[:, :, None] * (gains / growth[:, None])[:, None, :]
        self._squares[columns] += off**2 / growth
        self._counts[columns] += 1
        self._renew_noise()

    def _own(self, row: _Row, items: Floats) -> tuple[Floats, Floats]:
        """Regress a candidate's values on the items' loadings.

        Args:
            row: its values.
            items: intercepts and loadings of the items it saw, (seen, 1 + factors).

        Returns:
            Its factors, and how far each value is from what the others' factors predict.
        """
        loadings, rest = items[:, 1:], self._standard(row) - items[:, 0]
        weighted = loadings / self._noise[row.columns, None]
        inverse = np.linalg.inv(weighted.T @ loadings + np.eye(FACTORS))
        factors = inverse @ (weighted.T @ rest)
        leverages = ((weighted @ inverse) * loadings).sum(axis=1)
        return factors, (rest - loadings @ factors) / (1 - leverages)


def _whitened(factors: Floats) -> Floats:
    """Return the same factors mixed so that they are uncorrelated, of unit mean square."""
    values, vectors = np.linalg.eigh(factors.T @ factors / len(factors))
    return np.asarray(factors @ (vectors / np.sqrt(np.maximum(values, 1e-3))))
