"""Merging by translated kernels: one algorithm, for the host's threads and for GPUs."""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Protocol, TypeAlias

import torch
from torch import Tensor

from automerge.merging.backends.base import Finite, TensorMerge
from automerge.merging.backends.loops import Signature, constants
from automerge.merging.backends.native import (
    Each,
    is_readable,
    readable,
    stored_kind,
    stored_kinds,
)
from automerge.merging.ranks import NARROW, Ranks
from automerge.methods import Method


@dataclass(frozen=True)
class Piece:
    """The arguments of a translated kernel for some elements of a tensor.

    `inputs`, `ranks` and `output` are flat, contiguous, of the kernel's dtypes and of equal length;
    `numbers` and `keys` are those of `loops.constants`; `start` is the number of the first element
    within the tensor.
    """

    inputs: Sequence[Tensor]
    ranks: Sequence[Tensor]
    output: Tensor
    numbers: Sequence[float]
    keys: Sequence[int]
    start: int


Kernel: TypeAlias = Callable[[Piece], Finite]
"""Writes the output and returns whether it is finite."""
KernelKey: TypeAlias = tuple[object, Signature]
"""A method's kernel, and the signature it was translated for."""


class Machine(Protocol):
    """Where translated kernels run."""

    each: Each

    def operands(self, merge: TensorMerge) -> tuple[Sequence[Tensor], Sequence[Ranks]] | None:
        """Return base and sources, flat, and ranks, where kernels can read them; None elsewhere."""

    def kernel(self, method: Method, signature: Signature) -> Kernel | None:
        """Translate and compile, once; return None if that fails."""

    def is_writable(self, target: Tensor) -> bool:
        """Return whether kernels may write where a contiguous tensor of a known dtype lies."""

    def spans(self, count: int, at_once: bool) -> Sequence[tuple[int, int]]:
        """Cut a tensor into pieces [start, stop); `at_once` if none of them has to be copied."""

    def accepted(
        self, key: KernelKey, target: Tensor, merge: TensorMerge, finite: Finite
    ) -> Finite | None:
        """Accept a kernel's result or reject it."""


def run_translated(machine: Machine, target: Tensor, merge: TensorMerge) -> Finite | None:
    """Run an elementwise method's translated kernel; see `Backend.run`.

    Kernels read and write float32 and bfloat16 directly; other dtypes are converted piece by piece.
    Ranks have 16 bits, and single columns have no ranks from 0 to 1.
    """
    method = merge.method
    if method.extent != "element" or (merge.is_ranked and not 1 < merge.columns <= NARROW):
        return None
    placed = machine.operands(merge)
    if placed is None:
        return None
    tensors, ranks = placed
    kinds, kind = stored_kinds(tensors), stored_kind(target.dtype)
    signature = Signature.of(method, merge.scalars, kinds, kind)
    kernel = machine.kernel(method, signature)
    if kernel is None:
        return None
    is_direct = target.dtype == kind and machine.is_writable(target)
    at_once = is_direct and all(map(is_readable, tensors, kinds))
    numbers, keys = constants(merge.scalars, ranks, merge.mask_keys)

    def work(span: tuple[int, int]) -> Finite:
        start, stop = span
        part = target[start:stop]
        output = part if is_direct else torch.empty(len(part), dtype=kind, device=target.device)
        inputs = readable(tensors, kinds, start, stop)
        integers = [each.integers[start:stop] for each in ranks]
        finite = kernel(Piece(inputs, integers, output, numbers, keys, start))
        if is_direct:
            return finite
        part.copy_(output)
        return finite & torch.isfinite(part).all()  # a finite number may be rounded to infinity

    results = list(machine.each(work, machine.spans(len(target), at_once)))
    finite = reduce(operator.and_, results[1:], results[0]) if results else True
    return machine.accepted((method.kernel, signature), target, merge, finite)
