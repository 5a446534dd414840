"""The slope of a loss with respect to the knobs of one tensor's merge.

With G = ∂L/∂W of a merged tensor W(θ), the slope of a knob is ⟨G, ∂W/∂θ⟩. A method's first stage
is a function of a few numbers, so its derivative is a central difference of those numbers in double
precision. The second stage is linear in its operands where a run on symbols says so
(`combination`), and then a slope is one inner product per source; otherwise PyTorch differentiates
the eager kernel with respect to its scalars, with masks and elected signs as they are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from automerge.machine.processors import one_thread
from automerge.merging.backends.base import TensorMerge
from automerge.merging.backends.eager import evidence_of, uniforms_of
from automerge.merging.blocks import working_precision
from automerge.merging.combination import Combination, combination
from automerge.merging.plan import Step
from automerge.merging.workspace import Workspace
from automerge.methods import Coefficients, Method, Values

DIFFERENCE = 2.0**-17
"""Half the width of central differences: truncation and rounding both stay near 1e-10."""

BLOCK = 1 << 16
"""Elements contracted at once. Sums of blocks are added in double precision."""

CANCELS = 1e-6
"""The sum of derivatives of factors, relative to their size, below which it is rounding: what a
method adds of all its operands together is then constant."""


@dataclass(frozen=True)
class SmoothKnob:
    """One smooth knob of a tensor's merge: of the source at an index, or of the recipe (None)."""

    source: int | None
    knob: str


def smooth_knobs(method: Method, n_sources: int) -> tuple[SmoothKnob, ...]:
    """List the numbers of a merge that its result has derivatives with respect to."""
    own = [knob.name for knob in method.source_knobs if knob.smooth]
    shared = [knob.name for knob in method.recipe_knobs if knob.smooth]
    return (
        *(SmoothKnob(i, name) for i in range(n_sources) for name in own),
        *(SmoothKnob(None, name) for name in shared),
    )


class TensorSlopes:
    """Slopes with respect to the knobs of one tensor's merge, for any number of gradients.

    Args:
        step: How the tensor is made; it has a method.
        workspace: Gives the tensors and their statistics.
    """

    def __init__(self, step: Step, workspace: Workspace) -> None:
        if step.method is None:
            raise ValueError(f"{step.tensor!r} is copied: it has no knobs")
        self._step = step
        self._method = step.method
        self._workspace = workspace
        self.tensor = step.tensor
        self.knobs = smooth_knobs(step.method, len(step.sources))

    def contract(self, gradient: Tensor) -> list[float]:
        """Contract a gradient with the derivatives of the merged tensor, scaled as it is stored.

        Args:
            gradient: ∂L/∂W, of the tensor's shape, on any device.

        Returns:
            ∂L/∂knob per knob of `knobs`, in the loss's unit per unit of the knob.
        """
        found = self._contracted(gradient)
        fold = self._step.fold
        return found if fold is None else [fold.factor * slope for slope in found]

    def _contracted(self, gradient: Tensor) -> list[float]:
        if self._factors is None:
            return self._differentiated(gradient)
        sums = [_sum(row) for row in self._factors]
        along = self._along(gradient, any(sums))
        return [
            total * along[0] + sum(d * a for d, a in zip(row[1:], along[1:], strict=True))
            for total, row in zip(sums, self._factors, strict=True)
        ]

    @cached_property
    def _pairs(self) -> list[tuple[Coefficients, Coefficients, float]]:
        """Per knob the first stage's results on both sides of its value, and how far apart."""
        step = self._step
        statistics = self._workspace.statistics(step.base, step.sources)
        pairs = []
        for which in self.knobs:
            h = DIFFERENCE * max(1.0, abs(_value(step.values, which)))
            below, above = (
                self._method.coefficients(moved(step.values, which, by), statistics)
                for by in (-h, h)
            )
            pairs.append((below, above, 2 * h))
        return pairs

    @cached_property
    def _factors(self) -> list[list[float]] | None:
        """Per knob the derivative of each operand's factor; None where the method does more than
        add and scale."""
        anchored = self._step.base is not None
        symbols = [Combination({i: 1.0}) for i in range(len(self._step.origins))]
        base, sources = (symbols[0], symbols[1:]) if anchored else (None, symbols)
        rows = []
        for below, above, width in self._pairs:
            low = combination(self._method, below, base, sources)
            high = combination(self._method, above, base, sources)
            if low is None or high is None:
                return None
            ends = [
                (low.factors.get(i, 0.0), high.factors.get(i, 0.0)) for i in range(len(symbols))
            ]
            rows.append([(b - a) / width for a, b in ends])
        return rows

    def _along(self, gradient: Tensor, whole: bool) -> list[float]:
        """Return ⟨G, x₀⟩, 0 unless `whole`, and ⟨G, xᵢ − x₀⟩ of the operands x.

        Differences are taken before the products: those of the operands themselves nearly cancel.
        """
        first, *others = self._step.origins
        anchor = self._workspace.tensor(first)
        precision = torch.promote_types(gradient.dtype, torch.float32)
        flat = gradient.reshape(-1)
        found = [inner(flat, [anchor], None, precision)[0] if whole else 0.0]
        dense: dict[int, Tensor] = {}
        for place, origin in enumerate(others, start=1):
            update = self._workspace.update(origin)
            if update is not None and update.base.data_ptr() == anchor.data_ptr():
                matrix = gradient.to(precision)
                up, down = (factor.to(matrix) for factor in (update.up, update.down))
                found.append(update.scale * float(((up.T @ matrix) * down).double().sum()))
            else:
                dense[place] = self._workspace.tensor(origin)
                found.append(0.0)
        products = self._products(flat, [*dense.values()], anchor, precision)
        for place, product in zip(dense, products, strict=True):
            found[place] = product
        return found

    def _products(
        self, gradient: Tensor, xs: Sequence[Tensor], anchor: Tensor, precision: torch.dtype
    ) -> list[float]:
        code = self._workspace.compiled
        found = code.products(gradient, xs, anchor) if code and xs else None
        return inner(gradient, xs, anchor, precision) if found is None else found

    @cached_property
    def _rows(self) -> list[list[float]]:
        """Per knob the derivative of each scalar. Equal infinities are thresholds that stay."""
        return [
            [
                (b - a) / width if a != b else 0.0
                for a, b in zip(flat(below), flat(above), strict=True)
            ]
            for below, above, width in self._pairs
        ]

    def _differentiated(self, gradient: Tensor) -> list[float]:
        """Return slopes by PyTorch's derivatives of the eager kernel in its scalars."""
        merge = TensorMerge(self._step, self._method, self._workspace)
        moving = [any(column) for column in zip(*self._rows, strict=True)]
        precision = working_precision(merge.tensors)
        with one_thread(), torch.enable_grad():
            leaves = [
                torch.tensor(scalar, dtype=precision, requires_grad=moves)
                for scalar, moves in zip(flat(merge.scalars), moving, strict=True)
            ]
            through = _through_whole if self._method.extent == "tensor" else _through_blocks
            totals = through(merge, gradient.reshape(-1).to("cpu", precision), leaves)
        return [sum(d * t for d, t in zip(row, totals, strict=True)) for row in self._rows]


def moved(values: Values, which: SmoothKnob, by: float) -> Values:
    """Return values with one of them moved."""
    to = _value(values, which) + by
    if which.source is None:
        return replace(values, number={**values.number, which.knob: to})
    column = list(values.each[which.knob])
    column[which.source] = to
    return replace(values, each={**values.each, which.knob: tuple(column)})


def _value(values: Values, which: SmoothKnob) -> float:
    if which.source is None:
        return values.number[which.knob]
    return values.each[which.knob][which.source]


def _sum(derivatives: Sequence[float]) -> float:
    total, size = sum(derivatives), sum(map(abs, derivatives))
    return total if abs(total) > CANCELS * size else 0.0


def inner(
    gradient: Tensor, xs: Sequence[Tensor], less: Tensor | None, precision: torch.dtype
) -> list[float]:
    """Return ⟨G, x − less⟩ for each x, all of them flat, on the gradient's device."""
    totals = [0.0] * len(xs)
    for start in range(0, len(gradient) if xs else 0, BLOCK):
        block = slice(start, start + BLOCK)
        g = gradient[block].to(precision)
        anchor = None if less is None else less[block].to(g)
        room = torch.empty_like(g)
        for place, x in enumerate(xs):
            room.copy_(x[block])
            if anchor is not None:
                room.sub_(anchor)
            totals[place] += float(torch.dot(g, room))
    return totals


def flat(scalars: Coefficients) -> list[float]:
    """Return the numbers of a first stage, source by source, then those that all share."""
    return [*(value for one in scalars.each for value in one), *scalars.shared]


def _with_leaves(scalars: Coefficients, leaves: Sequence[Tensor]) -> Coefficients:
    """Return the scalars with a tensor for each number: kernels compute with either."""
    rest = iter(leaves)
    each = tuple(tuple(next(rest) for _ in one) for one in scalars.each)
    return Coefficients(each, tuple(rest), scalars.switches)  # type: ignore[arg-type]


def _through_blocks(merge: TensorMerge, gradient: Tensor, leaves: Sequence[Tensor]) -> list[float]:
    step, workspace = merge.step, merge.workspace
    scalars = _with_leaves(merge.scalars, leaves)
    totals = [0.0] * len(leaves)
    for start in range(0, len(gradient), BLOCK):
        stop = min(start + BLOCK, len(gradient))
        operands = replace(
            merge.operands([tensor[start:stop].to(gradient.dtype) for tensor in merge.tensors]),
            uniforms=[
                workspace.uniform(step.seed, source, start, stop)
                for source in (step.sources if merge.method.seeded else ())
            ],
            ranks=[ranks.cut(start, stop) for ranks in merge.ranks],
        )
        merged = merge.method.kernel(operands, scalars)
        found = _gradients(merged, gradient[start:stop], leaves)
        totals = [total + more for total, more in zip(totals, found, strict=True)]
    return totals


def _through_whole(merge: TensorMerge, gradient: Tensor, leaves: Sequence[Tensor]) -> list[float]:
    step, workspace, method = merge.step, merge.workspace, merge.method
    shaped = [tensor.to(gradient.dtype).reshape(step.info.shape) for tensor in merge.tensors]
    operands = merge.operands(shaped)
    with torch.no_grad():
        prepared = workspace.prepared(method, (step.base, *step.sources), operands)
    operands = replace(
        operands,
        prepared=prepared,
        uniforms=uniforms_of(merge),
        evidence=evidence_of(step, workspace),
    )
    merged = method.kernel(operands, _with_leaves(merge.scalars, leaves))
    return _gradients(merged, gradient.reshape(step.info.shape), leaves)


def _gradients(merged: Tensor, gradient: Tensor, leaves: Sequence[Tensor]) -> list[float]:
    moving = [leaf for leaf in leaves if leaf.requires_grad]
    if not (moving and merged.requires_grad):
        return [0.0] * len(leaves)
    found = iter(torch.autograd.grad(merged, moving, gradient, allow_unused=True))
    return [
        0.0 if not leaf.requires_grad or (g := next(found)) is None else float(g) for leaf in leaves
    ]
