"""Element-wise kernels compiled to one pass over memory."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import FunctionType
from typing import Any, TypeAlias, cast

import torch
from torch import Tensor

from automerge.checkpoints import Checkpoint
from automerge.methods import Coefficients, Method, Operands
from automerge.methods.uniform import Keys, spread

WORTHWHILE = 100_000_000
"""Elements of a model from which compiling, some seconds a method and number of sources, pays."""

Compiled: TypeAlias = Callable[..., Tensor]


def compiler() -> bool:
    """Whether PyTorch can compile for the CPU here: it needs a C++ compiler."""
    names = [os.environ.get("CXX", ""), "g++", "c++", "clang++"]
    return any(name and shutil.which(name) for name in names)


@dataclass(frozen=True)
class Shape:
    """What a compiled kernel is special to; sizes and numbers are its arguments."""

    kernel: object
    anchored: bool
    seeded: bool
    widths: tuple[int, ...]
    n_shared: int
    switches: tuple[bool, ...]
    ranked: bool


class FusedKernels:
    """Kernels compiled at their first use, and kept; PyTorch keeps the code on disk as well.

    The result has the bits of the eager kernel: the same operations in the same precision, no
    products and sums contracted.
    """

    def __init__(self) -> None:
        self._compiled: dict[Shape, Compiled] = {}

    def fill(
        self,
        merged: Tensor,
        method: Method,
        tensors: Sequence[Tensor],
        scalars: Coefficients,
        keys: Sequence[Keys],
        ranks: Sequence[Tensor],
    ) -> bool:
        """Run a method's kernel over whole flat tensors; whether the result is finite."""
        shape = Shape(
            method.kernel,
            method.anchored,
            method.seeded,
            tuple(map(len, scalars.each)),
            len(scalars.shared),
            scalars.switches,
            bool(ranks),
        )
        if shape not in self._compiled:
            self._compiled[shape] = torch.compile(program(method, shape), dynamic=True)
        numbers = [number for each in scalars.each for number in each]
        device = merged.device
        check = self._compiled[shape](
            merged,
            list(tensors),
            torch.tensor([*numbers, *scalars.shared], dtype=torch.float32, device=device),
            torch.tensor([k for pair in keys for k in pair], dtype=torch.int32, device=device),
            list(ranks),
        )
        return bool(check)


def fused_kernels(checkpoints: Mapping[str, Checkpoint]) -> FusedKernels | None:
    """Fused kernels where they pay: for large models, on a machine that can compile."""
    sizes = [
        sum(info.n_elements for info in checkpoint.tensors.values())
        for checkpoint in checkpoints.values()
    ]
    return FusedKernels() if max(sizes, default=0) >= WORTHWHILE and compiler() else None


def program(method: Method, shape: Shape) -> Callable[..., Any]:
    """One pass: read, compute in float32, round, write, and see whether all was finite."""

    def run(
        merged: Tensor, tensors: list[Tensor], numbers: Tensor, keys: Tensor, ranks: list[Tensor]
    ) -> Tensor:
        each, at = [], 0
        for width in shape.widths:
            each.append(tuple(numbers[at + j] for j in range(width)))
            at += width
        shared = tuple(numbers[at + j] for j in range(shape.n_shared))
        work = [tensor.float() for tensor in tensors]
        uniforms = []
        if shape.seeded:
            index = torch.arange(merged.shape[0], dtype=torch.int32, device=merged.device)
            n_sources = len(shape.widths)
            uniforms = [spread(index, keys[2 * i], keys[2 * i + 1]) for i in range(n_sources)]
        base, sources = (work[0], work[1:]) if shape.anchored else (None, work)
        operands = Operands(base, sources, uniforms, ranks)
        # Tensors of one number stand for numbers: kernels never branch on them.
        scalars = Coefficients(cast(Any, tuple(each)), cast(Any, shared), shape.switches)
        rounded = method.kernel(operands, scalars).to(merged.dtype)
        merged.copy_(rounded)
        # Compiled maxima lose a NaN that the eager kernel carries on, so inputs are checked too;
        # and x · 0 is folded to 0.
        return torch.isfinite(sum(work, rounded.float())).all()

    # Code of its own: PyTorch counts recompilations by code object, and gives up after eight.
    code = run.__code__.replace(co_name=f"merge_{method.name}")
    return FunctionType(code, run.__globals__, code.co_name, None, run.__closure__)
