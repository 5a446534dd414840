"""Matrices as products of small rank: as they are, or the nearest of a wanted rank.

The nearest matrix of rank r in the Frobenius norm keeps the r largest singular values (Eckart &
Young 1936, doi:10.1007/BF02288367); its squared error is the sum of the other squares.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Fit:
    """A product up · down, (m, r) · (r, n) in float32, in place of an (m, n) matrix.

    `square` is the matrix's squared Frobenius norm, `error` that of what the product lacks.
    """

    up: Tensor
    down: Tensor
    square: float
    error: float

    @property
    def rank(self) -> int:
        return int(self.down.shape[0])

    def filled(self, least: int) -> Fit:
        """Return the same product with a rank of `least` or more: factors of 0 are added."""
        more = max(least - self.rank, 0)
        up = torch.nn.functional.pad(self.up, (0, more))
        down = torch.nn.functional.pad(self.down, (0, 0, 0, more))
        return Fit(up, down, self.square, self.error)


def product_fit(up: Tensor, down: Tensor, rank: int | None = None) -> Fit:
    """Return up · down, as it is if its rank allows, else the nearest of rank `rank`.

    The matrix itself is never computed. Without `rank`, the only limit is that of its shape.
    """
    up, down = up.double(), down.double()
    square = float(((up.T @ up) * (down @ down.T)).sum())
    most = min(up.shape[0], down.shape[1], rank or down.shape[0])
    if down.shape[0] <= most:
        return Fit(up.float(), down.float(), square, 0.0)
    left, upper = torch.linalg.qr(up)
    right, lower = torch.linalg.qr(down.T)
    inner, values, outer = torch.linalg.svd(upper @ lower.T)
    roots = values[:most].sqrt()
    kept_up = (left @ inner[:, :most]) * roots
    kept_down = roots[:, None] * (outer[:most] @ right.T)
    return Fit(kept_up.float(), kept_down.float(), square, float(values[most:].square().sum()))


def matrix_fit(matrix: Tensor, rank: int) -> Fit:
    """Return the nearest matrix of rank `rank`, from the eigenvectors of the smaller Gram matrix.

    Singular values below 1e-8 of the largest are left out: they are rounding.
    """
    wide = matrix.double()
    turned = wide.shape[0] > wide.shape[1]
    rows = wide.T if turned else wide
    values, vectors = torch.linalg.eigh(rows @ rows.T)
    values, vectors = values.flip(0)[:rank], vectors.flip(1)[:, :rank]
    kept = values > 1e-16 * values[:1]
    values, vectors = values[kept], vectors[:, kept]
    roots = values.sqrt().sqrt()
    up, down = vectors * roots, (vectors.T @ rows) / roots[:, None]
    square = float(rows.square().sum())
    error = max(square - float((vectors.T @ rows).square().sum()), 0.0)
    if turned:
        up, down = down.T, up.T
    return Fit(up.float(), down.float(), square, error)
