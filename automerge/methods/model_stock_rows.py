"""Model Stock for each row separately."""

from __future__ import annotations

from itertools import combinations
from typing import TYPE_CHECKING

from automerge.methods.base import Coefficients, Method, Operands, Statistics, Values, scaling
from automerge.methods.shared.sums import added

if TYPE_CHECKING:
    from torch import Tensor


def coefficients(values: Values, statistics: Statistics) -> Coefficients:
    """Return λ / n per source."""
    factor = values.number["lambda"] / statistics.count
    return Coefficients(each=((factor,),) * statistics.count)


def prepare(operands: Operands) -> tuple[Tensor, ...]:
    """Return Model Stock's t per row (last dimension); 0 where the mean cosine is not above 0."""
    import torch

    rows = [v.reshape(1) if v.dim() == 0 else v for v in operands.task_vectors]
    vectors = [row.double() for row in rows]
    lengths = [vector.norm(dim=-1, keepdim=True) for vector in vectors]
    cosines = []
    for (a, length_a), (b, length_b) in combinations(zip(vectors, lengths, strict=True), 2):
        product = length_a * length_b
        inner = (a * b).sum(dim=-1, keepdim=True)
        cosines.append(torch.where(product == 0, 0.0, inner / product).clamp(-1, 1))
    cosine = (added(cosines) / len(cosines)).clamp(min=0)
    n = len(vectors)
    ratio = n * cosine / (1 + (n - 1) * cosine)
    return (ratio.to(rows[0].dtype),)


def kernel(operands: Operands, scalars: Coefficients) -> Tensor:
    """Return base + λ t Σ δᵢ / n."""
    (ratio,), ((factor,), *_) = operands.prepared, scalars.each
    return operands.anchor + (added(operands.task_vectors) * factor) * ratio


MODEL_STOCK_ROWS = Method(
    name="model_stock_rows",
    paper="Jang et al. 2024, Model Stock, arXiv:2403.19522; filter-wise as in mergekit",
    knobs=(scaling(),),
    coefficients=coefficients,
    kernel=kernel,
    anchored=True,
    min_sources=2,
    extent="tensor",
    prepare=prepare,
)
