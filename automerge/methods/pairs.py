"""Methods that are a transform and what adds its results: one declaration each."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from automerge.methods.base import (
    Coefficients,
    Knob,
    Method,
    Operands,
    Statistics,
    Values,
    normalize,
    scaling,
    weight,
    whole_model,
)
from automerge.methods.shared.election import ballot, elected
from automerge.methods.shared.scaled import summands
from automerge.methods.shared.sums import added
from automerge.methods.transforms import (
    BREADCRUMBS,
    CONSENSUS,
    DARE,
    DELLA,
    MODEL_TAILOR,
    STA,
    STAR,
    TRIM,
    Transform,
)

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Combination:
    """What merges task vectors that were transformed and weighted.

    `coefficients` puts each source's weight before its other scalars; `kernel` gets the weighted
    vectors and returns the merged tensor.
    """

    coefficients: Callable[[Values, Iterable[tuple[float, ...]]], Coefficients]
    kernel: Callable[[Operands, Sequence[Tensor], Coefficients], Tensor]


def _summed(operands: Operands, weighted: Sequence[Tensor], scalars: Coefficients) -> Tensor:
    return operands.anchor + added(weighted)


def _averaged(operands: Operands, weighted: Sequence[Tensor], scalars: Coefficients) -> Tensor:
    return operands.anchor + added(weighted) / len(weighted)


SUM = Combination(summands, _summed)
"""Base + λ Σ wᵢ δᵢ, divided by Σ wᵢ where a switch says so (task arithmetic)."""
MEAN = Combination(summands, _averaged)
"""Base + λ Σ wᵢ δᵢ / n."""
ELECTION = Combination(ballot, elected)
"""Base + λ Σ wᵢ δᵢ (/ Σ wᵢ) over the elements δᵢ that agree with the elected sign (TIES)."""


def paired(
    name: str, transform: Transform, combination: Combination, paper: str, *knobs: Knob
) -> Method:
    """Declare the method that transforms task vectors and combines them, in one kernel."""

    def coefficients(values: Values, statistics: Statistics) -> Coefficients:
        plain = combination.coefficients(values, [()] * len(values.each["weight"]))
        weights = [w for (w,) in plain.each]
        own = transform.coefficients(values, statistics, weights, weights)
        return combination.coefficients(values, own)

    def kernel(operands: Operands, scalars: Coefficients) -> Tensor:
        own = tuple(tuple(rest) for _, *rest in scalars.each)
        return combination.kernel(operands, transform.kernel(operands, own), scalars)

    return Method(
        name=name,
        paper=paper,
        knobs=knobs,
        coefficients=coefficients,
        kernel=kernel,
        anchored=True,
        seeded=transform.seeded,
        statistics=transform.statistics,
        extent="tensor" if transform.prepare or transform.needs else "element",
        prepare=transform.prepare,
        needs=transform.needs,
    )


TIES_PAPER = "Yadav et al. 2023, arXiv:2306.01708"

TIES = paired(
    "ties",
    TRIM,
    ELECTION,
    TRIM.paper,
    *(weight(), *TRIM.knobs, scaling((0.5, 2.0)), normalize(True), whole_model(False)),
)
DARE_LINEAR = paired(
    "dare_linear", DARE, SUM, DARE.paper, weight(), *DARE.knobs, scaling(), normalize(False)
)
DARE_TIES = paired(
    "dare_ties",
    DARE,
    ELECTION,
    f"Yu et al. 2024, arXiv:2311.03099, with {TIES_PAPER}",
    *(weight(), *DARE.knobs, scaling(), normalize(False)),
)
DELLA_TIES = paired(
    "della", DELLA, ELECTION, DELLA.paper, weight(), *DELLA.knobs, scaling(), normalize(True)
)
DELLA_LINEAR = paired(
    "della_linear",
    DELLA,
    SUM,
    f"{DELLA.paper}, without the election of signs",
    *(weight(), *DELLA.knobs, scaling(), normalize(False)),
)
BREADCRUMBS_LINEAR = paired(
    "breadcrumbs",
    BREADCRUMBS,
    SUM,
    BREADCRUMBS.paper,
    *(weight(), *BREADCRUMBS.knobs, scaling(), normalize(False)),
)
BREADCRUMBS_TIES = paired(
    "breadcrumbs_ties",
    BREADCRUMBS,
    ELECTION,
    f"Davari & Belilovsky 2024, arXiv:2312.06795, with {TIES_PAPER}",
    *(weight(), *BREADCRUMBS.knobs, scaling(), normalize(False)),
)
CONSENSUS_LINEAR = paired(
    "consensus", CONSENSUS, SUM, CONSENSUS.paper, weight(), *CONSENSUS.knobs, scaling()
)
STAR_MEAN = paired("star", STAR, MEAN, STAR.paper, weight(), *STAR.knobs, scaling((0.5, 2.0)))
STA_LINEAR = paired("sta", STA, SUM, STA.paper, weight(), *STA.knobs, scaling())
MODEL_TAILOR_LINEAR = paired(
    "model_tailor",
    MODEL_TAILOR,
    SUM,
    MODEL_TAILOR.paper,
    *(weight(), *MODEL_TAILOR.knobs, scaling()),
)
