"""The contract of a backend, which computes a merged tensor, and what it is given.

Every backend gives the bits of the eager kernel: Python numbers in double precision, elements in
float32 (float64 for float64 models), one operation after the other as the kernel writes them,
nothing contracted or reordered, and one rounding to the dtype that is stored. So the result does
not depend on which backend computed it, and an export has the bits that were scored. Only `LowRank`
sums differently, since it never multiplies its operands out; which tensors it merges depends only
on the recipe and the models, so searches and exports still agree.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol, TypeAlias

from torch import Tensor

from automerge.merging.plan import Step
from automerge.merging.ranks import Ranks
from automerge.merging.workspace import Workspace
from automerge.methods import Coefficients, Method, Operands
from automerge.methods.shared.uniform import Keys

Finite: TypeAlias = bool | Tensor
"""Whether all elements of a result are finite. On a GPU this is a number in its memory, not 0 if
they are: reading it waits for the device, which is done once for all tensors of a model."""


@dataclass(frozen=True)
class TensorMerge:
    """One tensor to be merged by a method. What backends need is computed when first asked for.

    Args:
        step: Which tensors it is merged from, with the knobs' values and the seed.
        method: The step's method.
        workspace: Gives the tensors, their statistics and ranks, and what else is computed once.
    """

    step: Step
    method: Method
    workspace: Workspace

    @cached_property
    def scalars(self) -> Coefficients:
        """Return the result of the method's first stage."""
        statistics = self.workspace.statistics(self.step.base, self.step.sources)
        return self.method.coefficients(self.step.values, statistics)

    @cached_property
    def tensors(self) -> list[Tensor]:
        """Return base and sources on the host, whole and flat, in their stored dtypes."""
        return [self.workspace.tensor(origin) for origin in self.step.origins]

    @property
    def columns(self) -> int:
        """Elements per row, within which elements are ranked."""
        return self.step.info.shape[-1] if self.step.info.shape else 1

    @property
    def is_ranked(self) -> bool:
        """Whether the method asks for ranks."""
        return "ranks" in self.method.statistics

    @cached_property
    def ranks(self) -> list[Ranks]:
        """Return each source's ranks on the host, for a method that asks for them."""
        sources = self.step.sources if self.is_ranked else ()
        return [self.workspace.ranks(self.step.base, s, self.columns) for s in sources]

    @property
    def mask_keys(self) -> list[Keys]:
        """The keys of a seeded method's random numbers, a pair per source; empty for others."""
        sources = self.step.sources if self.method.seeded else ()
        return [self.workspace.mask_keys(self.step.seed, source) for source in sources]

    def operands(self, tensors: Sequence[Tensor]) -> Operands:
        """Split tensors into base and sources; they come in that order."""
        if self.step.base is None:
            return Operands(None, tensors)
        return Operands(tensors[0], tensors[1:])


class Backend(Protocol):
    """One way to compute a merged tensor."""

    def run(self, target: Tensor, merge: TensorMerge) -> Finite | None:
        """Write a merged tensor, if this backend can.

        Args:
            target: Flat and contiguous, of the dtype that the result is rounded to.
            merge: What to compute.

        Returns:
            Whether the result is finite; None if this backend cannot compute it. In that case, and
            if the result is not finite, the target's content is meaningless.
        """


def run_first(backends: Sequence[Backend], target: Tensor, merge: TensorMerge) -> Finite:
    """Write a merged tensor by the first backend that can; return whether it is finite."""
    for backend in backends:
        finite = backend.run(target, merge)
        if finite is not None:
            return finite
    raise NotImplementedError(f"no backend merges {merge.step.tensor!r} by {merge.method.name}")


CHECKED = 1 << 17
"""Elements checked at once: they stay in a core's cache."""


def is_finite(tensor: Tensor) -> bool:
    """Return whether no element of a flat tensor is NaN or infinite.

    0 · x is 0 for finite x and NaN for all others, and a sum passes NaN on: much faster on CPUs
    than isfinite().
    """
    starts = range(0, tensor.numel(), CHECKED)
    return all(bool((tensor[i : i + CHECKED] * 0).sum() == 0) for i in starts)
