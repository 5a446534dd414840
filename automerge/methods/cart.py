"""Low-rank task vectors, centred on the average of the sources."""

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
from automerge.methods.shared.matrices import directions, is_matrix, projected
from automerge.methods.shared.scaled import scaled_weights
from automerge.methods.shared.sums import added, weighted_sum

if TYPE_CHECKING:
    from torch import Tensor


def coefficients(values: Values, statistics: Statistics) -> Coefficients:
    """Return λ times the weights, the rank, and whether it is full."""
    rank = values.number["rank"]
    return Coefficients(
        each=tuple((w,) for w in scaled_weights(values)),
        shared=(rank,),
        switches=(rank >= 1,),
    )


def prepare(operands: Operands) -> tuple[Tensor, ...]:
    """Return the singular vectors of each source − average, on a matrix's shorter side."""
    if not is_matrix(operands.sources[0]):
        return ()
    centre = added(operands.sources) / len(operands.sources)
    return tuple(directions(source - centre)[0] for source in operands.sources)


def kernel(operands: Operands, scalars: Coefficients) -> Tensor:
    """Return x̄ + Σ λ wᵢ SVDₖ(xᵢ − x̄), x̄ the average of the sources, k a share of full rank.

    No base is needed. At full rank this is linear, and computed so: a source of weight 1 among
    sources of weight 0 is returned unchanged. Below full rank, vectors are averaged; the authors'
    code also averages embeddings, as it truncates only attention and MLPs. A recipe costs a few
    thin matrix products per tensor, and the first one an SVD per source in addition.
    """
    sources = operands.sources
    (rank,), (full,) = scalars.shared, scalars.switches
    centre = added(sources) / len(sources)
    if full:
        rest = 1 - sum(w for (w,) in scalars.each)
        return centre * rest + weighted_sum(sources, scalars.each)
    if not is_matrix(centre):
        return centre
    kept = max(1, int(rank * min(centre.shape[-2:]))) if rank > 0 else 0
    return centre + weighted_sum(
        [
            projected(source - centre, basis[..., :kept])
            for source, basis in zip(sources, operands.prepared, strict=True)
        ],
        scalars.each,
    )


CART = Method(
    name="cart",
    paper="Choi et al. 2024, Revisiting weight averaging for model merging, arXiv:2412.12153",
    knobs=(
        weight((0.0, 2.0)),
        Knob("rank", "recipe", "float", 0.08, 1.0, (0.0, 1.0), (0.04, 0.32)),
        scaling(),
    ),
    coefficients=coefficients,
    kernel=kernel,
    anchored=False,
    compares=True,
    extent="tensor",
    prepare=prepare,
)
