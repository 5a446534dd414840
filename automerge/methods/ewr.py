"""Elastic weight removal: task vectors count where their models are sure, by Fisher information."""

from __future__ import annotations

from typing import TYPE_CHECKING

from automerge.methods.base import (
    Coefficients,
    Knob,
    Method,
    Operands,
    Statistics,
    Values,
    scaling,
    weight,
)
from automerge.methods.shared.importance import floored, known, weighted_average
from automerge.methods.shared.sums import added

if TYPE_CHECKING:
    from torch import Tensor

OWN, BASE = "squared_gradient", "base_squared_gradient"
FLOOR = Knob("floor", "recipe", "float", 1e-6, None, (0.0, 1.0))
"""The least Fisher information, as a share of a tensor's mean."""


def coefficients(values: Values, statistics: Statistics) -> Coefficients:
    """Return the signs of the weights and their magnitudes, and λ and the floor."""
    del statistics
    each = tuple((-1.0 if w < 0 else 1.0, abs(w)) for w in values.each["weight"])
    return Coefficients(each, shared=(values.number["lambda"], values.number["floor"]))


def kernel(operands: Operands, scalars: Coefficients) -> Tensor:
    """Return θ₀ + λ Σ wᵢ Fᵢ τᵢ / (F₀ + Σ |wᵢ| Fᵢ), F being diagonals of the Fisher information.

    This is the average of θ₀ and all θ₀ ± τᵢ weighted by F, − for weights below 0. Daheim et al.
    2023 (sec. 3) divide F₀ θ₀ by the same sum, so that even a source that is equal to the base
    shrinks it. λ is ours. F₀ is averaged over the sources' texts. Elements that nobody is sure of,
    and tensors without evidence, are averaged with equal F.
    """
    scale, floor = scalars.shared
    base, vectors = operands.anchor, operands.task_vectors
    turned = [base + vector * sign for vector, (sign, _) in zip(vectors, scalars.each, strict=True)]
    sizes = [size for _, size in scalars.each]
    own, prior = known(operands, OWN), known(operands, BASE)
    if own and prior:
        information = [added(prior) / len(prior), *own]
    else:
        information = [base * 0 + 1 for _ in (base, *turned)]
    shares = [1.0, *sizes]
    weights = [floored(f, floor) * w for f, w in zip(information, shares, strict=True)]
    merged = weighted_average([base, *turned], weights, shares)
    return base + (merged - base) * scale


EWR = Method(
    name="ewr",
    paper="Daheim et al. 2023, Elastic weight removal for faithful and abstractive dialogue "
    "generation, arXiv:2303.17574",
    knobs=(weight((-1.0, 1.0)), scaling(), FLOOR),
    coefficients=coefficients,
    kernel=kernel,
    anchored=True,
    extent="tensor",
    needs=(OWN, BASE),
)
