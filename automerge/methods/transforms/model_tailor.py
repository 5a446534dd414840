"""Model Tailor: a small patch of the fine-tuned weights, compensated for all that is not kept."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from automerge.methods.base import Knob, Operands, Statistics, Values, indicator
from automerge.methods.shared.importance import known, largest
from automerge.methods.transforms.base import Scalars, Transform

if TYPE_CHECKING:
    from torch import Tensor

NEEDED = "input_gram"
DAMPING = 0.01
"""Share of the diagonal's mean added to a Gram matrix's diagonal, as in SparseGPT."""
BLOCK = 128
"""Columns among which weights compete for the patch."""
DENSITY = Knob("density", "source", "float", 0.1, 1.0, (0.0, 1.0), (0.05, 0.5))
"""The share of the fine-tuned weights that is kept."""
SALIENCE = Knob("salience", "recipe", "float", 0.8, None, (0.0, 1.0))
"""The share of the change in a weight's score; the rest is sensitivity."""


def coefficients(
    values: Values, statistics: Statistics, weights: Sequence[float], factors: Sequence[float]
) -> Scalars:
    """Return the factor, the density and the salience, per source."""
    salience = values.number["salience"]
    pairs = zip(factors, values.each["density"], strict=True)
    return tuple((factor, density, salience) for factor, density in pairs)


def kernel(operands: Operands, scalars: Scalars) -> tuple[Tensor, ...]:
    """Return patches times a factor: task vectors that are 0 but for a share of elements.

    Matrices without Gram matrices of their inputs, and other tensors, keep their largest changes.
    """
    vectors = operands.task_vectors
    grams = known(operands, NEEDED)
    if operands.anchor.ndim == 2 and grams:
        triples = zip(vectors, grams, scalars, strict=True)
        patches = [
            patch(operands.anchor, vector, gram, density, salience)
            for vector, gram, (_, density, salience) in triples
        ]
    else:
        pairs = zip(vectors, scalars, strict=True)
        patches = [vector * largest(vector.abs(), density) for vector, (_, density, _) in pairs]
    return tuple(p * factor for p, (factor, *_) in zip(patches, scalars, strict=True))


def patch(base: Tensor, vector: Tensor, gram: Tensor, density: float, salience: float) -> Tensor:
    """Return the compensated patch of a linear layer (Zhu et al. 2024, sec. 4, and their code).

    Columns are taken from left to right. In each, weights outside the patch return to the base, and
    those to the right of them make up for it as in Optimal Brain Surgeon: they move by
    −e M⁻¹₀ⱼ / M⁻¹₀₀, e being what the weight had above the base and M the Gram matrix of its column
    and those to the right. The patch is chosen block by block: the largest sums of z-scores within
    a row of |τ| (salience) and of w² / M⁻¹₀₀ (sensitivity). Computed in float64.
    """
    import torch

    if density >= 1:
        return vector
    upper = _factor(gram.double())
    diagonal = upper.diag()
    moved = vector.double().clone()  # from the base, by fine-tuning and compensation
    patches = []
    for start in range(0, moved.shape[1], BLOCK):
        stop = min(start + BLOCK, moved.shape[1])
        here = slice(start, stop)
        block = moved[:, here]
        sensitivity = ((base[:, here].double() + block) / diagonal[here]).square()
        score = _scaled(vector[:, here].double().abs()) * salience
        chosen = largest(score + _scaled(sensitivity) * (1 - salience), density)
        errors = block * 0
        for i in range(stop - start):
            errors[:, i] = block[:, i] * (1 - chosen[:, i]) / diagonal[start + i]
            block[:, i + 1 :] -= errors[:, i, None] * upper[start + i, start + i + 1 : stop]
        patches.append(block * chosen)
        moved[:, stop:] -= errors @ upper[here, stop:]
    return torch.cat(patches, dim=1).to(vector.dtype)


def _factor(gram: Tensor) -> Tensor:
    """Return the upper triangular U with Uᵀ U the inverse of the damped matrix; NaN if it has none.

    Row i of U is that of the inverse of the matrix of inputs i, i + 1, … over the square root of
    its first element. U⁻¹ is the Cholesky factor when inputs are taken from the last to the first.
    """
    import torch

    symmetric = (gram + gram.mT) / 2  # products in float32 are so up to rounding
    damped = symmetric + (DAMPING * gram.diag().mean()).expand(len(gram)).diag()
    lower, info = torch.linalg.cholesky_ex(damped.flip(0, 1))
    if info.item():
        return gram * math.nan
    identity = torch.eye(len(gram), dtype=gram.dtype, device=gram.device)
    factor: Tensor = torch.linalg.solve_triangular(lower.flip(0, 1), identity, upper=True)
    return factor


def _scaled(values: Tensor) -> Tensor:
    """Return z-scores within each row, by the sample's deviation; 0 where all values are equal."""
    centred = values - values.mean(dim=1, keepdim=True)
    spread = (centred.square().sum(dim=1, keepdim=True) / max(values.shape[1] - 1, 1)).sqrt()
    return centred / (spread + (1 - indicator(spread)))


MODEL_TAILOR = Transform(
    name="model_tailor",
    paper="Zhu et al. 2024, Model Tailor, arXiv:2402.12048",
    knobs=(DENSITY, SALIENCE),
    coefficients=coefficients,
    kernel=kernel,
    needs=(NEEDED,),
)
