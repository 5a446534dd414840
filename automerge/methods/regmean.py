"""RegMean: linear layers whose outputs are closest to the sources' own, in closed form."""

from __future__ import annotations

from typing import TYPE_CHECKING

from automerge.methods.base import Coefficients, Knob, Method, Operands, Statistics, Values, weight
from automerge.methods.shared.importance import known
from automerge.methods.shared.sums import weighted_sum

if TYPE_CHECKING:
    from torch import Tensor

NEEDED = "input_gram"
RIDGE = 1e-6
"""Share of the diagonal's mean added to the diagonal: it decides for inputs that were always 0."""
OFF_DIAGONAL = Knob(
    "off_diagonal", "recipe", "float", 0.9, 1.0, (0.0, 1.0), (0.0, 1.0), smooth=True
)
"""The factor on off-diagonal elements, α in the paper (0.9 there for T5-base)."""


def coefficients(values: Values, statistics: Statistics) -> Coefficients:
    """Return the weights and the off-diagonal factor."""
    del statistics
    shares = tuple((w,) for w in values.each["weight"])
    return Coefficients(each=shares, shared=(values.number["off_diagonal"],))


def kernel(operands: Operands, scalars: Coefficients) -> Tensor:
    """Return W = (Σ wᵢ Wᵢ G̃ᵢ)(Σ wᵢ G̃ᵢ)⁻¹ (Jin et al. 2023, eq. 2, sec. 3.3; W is (out, in)).

    G̃ = α G + (1 − α) diag(G). Tensors without a Gram matrix, and other kinds of layers, are
    averaged with the weights. Solved in float64.
    """
    grams = known(operands, NEEDED)
    shares = [share for (share,) in scalars.each]
    first = operands.sources[0]
    if first.ndim != 2 or not grams:
        return weighted_sum(operands.sources, scalars.each) / sum(shares)
    (alpha,) = scalars.shared
    total = first.new_zeros((first.shape[1],) * 2).double()
    moment = first.double() * 0
    for share, gram, source in zip(shares, grams, operands.sources, strict=True):
        diagonal = gram.double().diag()
        scaled = alpha * gram.double() + (1 - alpha) * diagonal.diag()
        scaled += (RIDGE * diagonal.mean()).expand(len(diagonal)).diag()
        total += share * scaled
        moment += share * (source.double() @ scaled)
    return _solved(total, moment).to(first.dtype)


def _solved(total: Tensor, moment: Tensor) -> Tensor:
    """Return moment · total⁻¹ for a symmetric total; NaN where that is singular."""
    import torch

    solved, info = torch.linalg.solve_ex(total, moment.T)
    return solved.T if info.item() == 0 else moment * torch.nan


REGMEAN = Method(
    name="regmean",
    paper="Jin et al. 2023, Dataless knowledge fusion, arXiv:2212.09849",
    knobs=(weight(), OFF_DIAGONAL),
    coefficients=coefficients,
    kernel=kernel,
    anchored=False,
    extent="tensor",
    needs=(NEEDED,),
)
